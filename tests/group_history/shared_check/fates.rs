//! What happened to each record, as far as the members know.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::letters::Redrives;
use super::{End, Event, Leased, ROUNDING_MS, Who};
use crate::world::Place;

#[derive(Clone, Debug)]
pub struct Given {
    pub who: Who,
    pub sent: u64,
    pub at: u64,
    pub wall_ms: i64,
    pub lease_expires: i64,
}

/// A settle or an acknowledgement that counted.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub sent: u64,
    pub answered: u64,
    pub by: Who,
    /// The life of the server that answered.
    pub life: u32,
    /// The wall time when the answer had arrived.
    pub wall_ms: i64,
}

#[derive(Default)]
pub struct Fate {
    pub given: Vec<Given>,
    /// Certain accepts.
    pub accepted: Vec<Settlement>,
    /// Certain rejects.
    pub rejected: Vec<Settlement>,
    /// When a member tried to accept it.
    pub tried: Vec<u64>,
    /// When a member gave it up or tried to, and its name.
    pub given_up: Vec<(u64, String)>,
    pub reasons: BTreeSet<String>,
    /// When a member tried to reject it.
    pub refused: Vec<u64>,
}

impl Fate {
    /// Whether this member gave the record up between these events.
    pub fn is_given_up(&self, member: &str, after: u64, before: u64) -> bool {
        let mut given_up = self.given_up.iter();
        given_up.any(|(at, by)| by == member && *at > after && *at < before)
    }

    /// Whether somebody may have settled it before this time.
    pub fn may_be_settled(&self, before: u64) -> bool {
        let mut tries = self.tried.iter().chain(&self.refused);
        tries.any(|at| *at < before)
    }
}

/// An attempt to settle a record in any way, or to lease it on.
pub struct Touch {
    pub sent: u64,
    pub answered: Option<u64>,
}

/// A release that counted.
pub struct Released {
    /// Without its round.
    pub place: Place,
    pub member: String,
    pub sent: u64,
    pub answered: u64,
    /// The wall time before which the record is not to be given.
    pub due_ms: i64,
}

#[derive(Default)]
pub struct Fates {
    pub by_place: BTreeMap<Place, Fate>,
    /// The times of the members' actions with an unknown end.
    pub unsure: HashMap<String, Vec<u64>>,
    /// By place without its round: a late attempt may count for a later round.
    pub touches: BTreeMap<Place, Vec<Touch>>,
    pub released: Vec<Released>,
}

impl Fates {
    /// Whether a member did something between these events whose end it does not know.
    pub fn is_unsure(&self, member: &str, after: u64, before: u64) -> bool {
        let mut times = self.unsure.get(member).into_iter().flatten();
        times.any(|at| *at > after && *at < before)
    }

    /// Whether a member has released a record for certain since it was given.
    fn has_released(&self, member: &str, leased: &Leased) -> bool {
        let fate = self.by_place.get(&leased.place);
        let given = fate.into_iter().flat_map(|fate| &fate.given);
        let mut given = given.filter(|given| given.lease_expires == leased.lease_expires);
        let Some(given) = given.next_back() else {
            return false;
        };
        let mut released = self.released.iter();
        released.any(|released| {
            released.place == leased.place.first() && released.member == member && released.sent > given.at
        })
    }

    fn of(&mut self, place: &Place) -> &mut Fate {
        self.by_place.entry(place.clone()).or_default()
    }

    fn touch(&mut self, place: &Place, sent: u64) {
        let touches = self.touches.entry(place.first()).or_default();
        touches.push(Touch { sent, answered: None });
    }

    /// Notes the answer to the attempt that was sent at that time.
    fn answer(&mut self, place: &Place, sent: u64, at: u64) {
        let touches = self.touches.entry(place.first()).or_default();
        for touch in touches.iter_mut().filter(|touch| touch.sent == sent) {
            touch.answered = Some(at);
        }
    }

    /// The rounds for which an attempt may count: if it comes late, perhaps the one after a redrive meanwhile.
    fn rounds(place: &Place, is_late: bool) -> impl Iterator<Item = Place> {
        let next = is_late.then(|| place.clone().in_round(place.round + 1));
        [place.clone()].into_iter().chain(next)
    }

    fn tried(&mut self, place: &Place, at: u64, is_late: bool) {
        self.touch(place, at);
        for place in Self::rounds(place, is_late) {
            self.of(&place).tried.push(at);
        }
    }

    fn given_up(&mut self, place: &Place, at: u64, member: &str, is_late: bool) {
        self.touch(place, at);
        for place in Self::rounds(place, is_late) {
            self.of(&place).given_up.push((at, member.to_owned()));
        }
    }
}

/// Reads the history; notes what is wrong with single answers.
pub fn fates(events: &[(u64, Event)], end: &End, redrives: &Redrives<'_>, wrong: &mut Vec<String>) -> Fates {
    let mut fates = Fates::default();
    let mut polls: HashMap<&str, (&Who, &Vec<Leased>)> = HashMap::new();
    let mut acks: HashMap<&str, u64> = HashMap::new();
    let mut settles: HashMap<u64, &Event> = HashMap::new();
    // Work that comes late may count for the record that was redriven meanwhile.
    let is_late = |place: &Place, at: u64| redrives.began(place).is_some_and(|began| began < at);
    for (at, event) in events {
        acknowledged(&mut fates, &polls, &acks, *at, event, &is_late);
        match event {
            Event::Delivered {
                who,
                sent,
                wall_ms,
                poll_id,
                records,
                subscribed,
                ..
            } => {
                for leased in records {
                    let place = &leased.place;
                    if end.stored.get(&place.first()) != Some(&leased.record) {
                        wrong.push(format!("{place:?} was delivered as {:?}", leased.record));
                    }
                    if !subscribed.contains(&place.topic) {
                        wrong.push(format!("{} did not subscribe to {place:?}", who.member));
                    }
                    if leased.deliveries < 1 || leased.deliveries > end.max_deliveries {
                        let times = leased.deliveries;
                        wrong.push(format!("{place:?} was delivered for the {times}. time"));
                    }
                    fates.of(place).given.push(Given {
                        who: who.clone(),
                        sent: *sent,
                        at: *at,
                        wall_ms: *wall_ms,
                        lease_expires: leased.lease_expires,
                    });
                }
                polls.insert(poll_id, (who, records));
            }
            Event::Acknowledging(poll_id) => {
                acks.insert(poll_id, *at);
                let polls = polls.get(&**poll_id).into_iter();
                for (who, records) in polls {
                    for leased in *records {
                        // What its member has released since it was given is not acknowledged.
                        if !fates.has_released(&who.member, leased) {
                            fates.tried(&leased.place, *at, is_late(&leased.place, *at));
                        }
                    }
                }
            }
            Event::Redriving(_) | Event::Redriven { .. } => {}
            Event::Left { who, .. } => fates.unsure.entry(who.member.clone()).or_default().push(*at),
            Event::Unsure(member) => fates.unsure.entry(member.clone()).or_default().push(*at),
            Event::Settling {
                who,
                accept,
                release,
                reject,
                extend,
                ..
            } => {
                for place in accept {
                    fates.tried(place, *at, is_late(place, *at));
                }
                for (place, _) in release {
                    fates.given_up(place, *at, &who.member, is_late(place, *at));
                }
                for (place, reason) in reject {
                    fates.given_up(place, *at, &who.member, is_late(place, *at));
                    for place in Fates::rounds(place, is_late(place, *at)) {
                        let fate = fates.of(&place);
                        fate.refused.push(*at);
                        fate.reasons.insert(reason.clone());
                    }
                }
                for place in extend {
                    fates.touch(place, *at);
                }
                settles.insert(*at, event);
            }
            Event::Settled {
                who,
                sent,
                wall_ms,
                uncounted,
            } => {
                let Some(settling) = settles.get(sent) else {
                    wrong.push(format!("nothing was to be settled at {sent}"));
                    continue;
                };
                let settlement = Settlement {
                    sent: *sent,
                    answered: *at,
                    by: who.clone(),
                    life: who.life,
                    wall_ms: *wall_ms,
                };
                settled(&mut fates, &settlement, settling, uncounted, &is_late);
            }
        }
    }
    fates
}

/// The members' answered settles.
fn settled(
    fates: &mut Fates,
    settlement: &Settlement,
    settling: &Event,
    uncounted: &BTreeSet<Place>,
    is_late: &impl Fn(&Place, u64) -> bool,
) {
    let Event::Settling {
        accept,
        release,
        reject,
        extend,
        wall_ms,
        ..
    } = settling
    else {
        return;
    };
    let (sent, at) = (settlement.sent, settlement.answered);
    let counts = |place: &Place| !uncounted.contains(&place.first());
    for place in accept {
        fates.answer(place, sent, at);
        if counts(place) && !is_late(place, at) {
            fates.of(place).accepted.push(settlement.clone());
        }
    }
    for (place, _) in reject {
        fates.answer(place, sent, at);
        if counts(place) && !is_late(place, at) {
            fates.of(place).rejected.push(settlement.clone());
        }
    }
    for (place, delay_ms) in release {
        fates.answer(place, sent, at);
        if counts(place) {
            fates.released.push(Released {
                place: place.first(),
                member: settlement.by.member.clone(),
                sent,
                answered: at,
                due_ms: wall_ms + *delay_ms as i64,
            });
        }
    }
    for place in extend {
        fates.answer(place, sent, at);
    }
}

/// An answered acknowledgement has settled the records that it does not name as lost or settled before.
fn acknowledged(
    fates: &mut Fates,
    polls: &HashMap<&str, (&Who, &Vec<Leased>)>,
    acks: &HashMap<&str, u64>,
    at: u64,
    event: &Event,
    is_late: &impl Fn(&Place, u64) -> bool,
) {
    // The answer to a leave names nothing: only leases that had not ended count for certain.
    let (who, ack, uncounted, answered_ms) = match event {
        Event::Delivered {
            who,
            ack: Some(ack),
            uncounted,
            wall_ms,
            ..
        } => (who, ack, Some(uncounted), *wall_ms),
        Event::Left {
            who,
            wall_ms,
            ack: Some(ack),
        } => (who, ack, None, *wall_ms),
        _ => return,
    };
    let Some((given_to, records)) = polls.get(&**ack) else {
        return;
    };
    let sent = acks.get(&**ack).copied().unwrap_or(at);
    for leased in records.iter() {
        let place = &leased.place;
        fates.answer(place, sent, at);
        let is_named = uncounted.is_some_and(|uncounted| uncounted.contains(&place.first()));
        let is_in_time =
            uncounted.is_some() || (*given_to == who && answered_ms + ROUNDING_MS < leased.lease_expires);
        if is_named || !is_in_time || is_late(place, at) {
            continue;
        }
        let fate = fates.of(place);
        // Only if this delivery is known, and the member did not settle the record in another way.
        let delivered =
            |given: &&Given| given.lease_expires == leased.lease_expires && given.who == **given_to;
        let Some(given) = fate.given.iter().rev().find(delivered) else {
            continue;
        };
        let is_open = !fate.is_given_up(&who.member, given.at, u64::MAX)
            && !fate.accepted.iter().any(|other| other.by.member == who.member)
            && fate.rejected.is_empty();
        if is_open {
            fate.accepted.push(Settlement {
                sent,
                answered: at,
                by: who.clone(),
                life: who.life,
                wall_ms: answered_ms,
            });
        }
    }
}
