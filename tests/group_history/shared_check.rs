//! What members of a shared group saw and did, and the checks of it. Pure: a history in, failures out.
//!
//! Events are ordered as in `ordered_check`. A record is *settled for certain* if a settle was answered without it
//! among the lost ones, or if a poll of the same member in the same life of the server acknowledged its delivery and
//! was answered before the lease ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use crate::check::{self, Verdict};
use crate::produce::Stored;
use crate::world::Place;

/// The server and the test may round milliseconds differently.
const ROUNDING_MS: i64 = 3;

/// A record as a poll gave it.
#[derive(Clone, Debug)]
pub struct Leased {
    pub place: Place,
    pub record: Stored,
    pub deliveries: u64,
    pub lease_expires: i64,
}

/// An actor: a member in one of its lives, in one life of the server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Who {
    pub member: String,
    pub epoch: u64,
    pub life: u32,
}

#[derive(Clone, Debug)]
pub enum Event {
    Delivered {
        who: Who,
        /// When the poll was sent.
        sent: u64,
        /// The wall time when the answer had arrived.
        wall_ms: i64,
        poll_id: String,
        ack: Option<String>,
        records: Vec<Leased>,
        subscribed: BTreeSet<String>,
    },
    /// A poll or a leave that acknowledges is about to be sent.
    Acknowledging(String),
    /// A leave with this `ack` was answered.
    Left {
        who: Who,
        wall_ms: i64,
        ack: Option<String>,
    },
    /// From now on dead letters are redriven.
    Redriving,
    /// A member sends something whose answer it will not know, or leaves, or joins again.
    Unsure(String),
    /// A settle is about to be sent.
    Settling {
        who: Who,
        accept: Vec<Place>,
        release: Vec<Place>,
        reject: Vec<(Place, String)>,
    },
    /// The settle that was sent at the time `sent` was answered.
    Settled {
        who: Who,
        sent: u64,
        /// The records for which it did not count: lost, or settled before.
        uncounted: BTreeSet<Place>,
    },
}

/// How it ended.
#[derive(Clone, Debug, Default)]
pub struct End {
    pub end: check::End,
    pub group: String,
    pub max_deliveries: u64,
    /// Everything in the topics of dead letters.
    pub dead: Vec<Stored>,
    /// All dead letters were redriven.
    pub is_redriven: bool,
}

impl std::ops::Deref for End {
    type Target = check::End;

    fn deref(&self) -> &check::End {
        &self.end
    }
}

impl std::ops::DerefMut for End {
    fn deref_mut(&mut self) -> &mut check::End {
        &mut self.end
    }
}

/// For the report.
#[derive(Debug, Default)]
pub struct Summary {
    pub records: usize,
    pub delivered: usize,
    pub accepted_for_certain: usize,
    pub dead: usize,
    pub exhausted: usize,
}

#[derive(Clone, Debug)]
struct Given {
    who: Who,
    sent: u64,
    at: u64,
    wall_ms: i64,
    lease_expires: i64,
}

#[derive(Default)]
struct Fate {
    given: Vec<Given>,
    /// Certain accepts: when sent, when answered, and by whom.
    accepted: Vec<(u64, u64, Who)>,
    rejected: Vec<(u64, u64, String)>,
    /// When a member tried to accept it.
    tried: Vec<u64>,
    /// When a member gave it up or tried to, and its name.
    given_up: Vec<(u64, String)>,
    reasons: BTreeSet<String>,
}

impl Fate {
    /// Whether this member gave the record up between these events.
    fn is_given_up(&self, member: &str, after: u64, before: u64) -> bool {
        let mut given_up = self.given_up.iter();
        given_up.any(|(at, by)| by == member && *at > after && *at < before)
    }
}

/// Finds everything wrong with a history; `events` are in order.
pub fn check(events: &[(u64, Event)], end: &End) -> Verdict<Summary> {
    let mut wrong = Vec::new();
    check::end(end, &mut wrong);
    let (fates, unsure) = fates(events, end, &mut wrong);
    let dead = dead_letters(end, &fates, &mut wrong);
    let mut summary = Summary {
        records: end.stored.len(),
        dead: end.dead.len(),
        ..Summary::default()
    };
    let none = Fate::default();
    let again = dead.keys().filter(|_| end.is_redriven);
    let again = again.map(|place| place.clone().in_round(place.round + 1));
    let places: BTreeSet<Place> = end.stored.keys().cloned().chain(again).collect();
    for place in fates.keys().filter(|place| !places.contains(place)) {
        wrong.push(format!("{place:?} has no dead letter that was redriven"));
    }
    for place in &places {
        let fate = fates.get(place).unwrap_or(&none);
        summary.delivered += fate.given.len();
        let letter = dead.get(place);
        if let Some((_, true)) = letter {
            summary.exhausted += 1;
        }
        if fate.tried.is_empty() && letter.is_none() {
            wrong.push(format!("{place:?} was neither accepted nor given up"));
        }
        settled_once(place, fate, letter.is_some(), &mut wrong, &mut summary);
        never_two_at_once(place, fate, &unsure, events, &mut wrong);
        if end.is_clean && fate.given.len() != 1 {
            wrong.push(format!("{place:?} was delivered {} times", fate.given.len()));
        }
    }
    if wrong.is_empty() { Ok(summary) } else { Err(wrong) }
}

/// The fate of each record, and the times of the members' actions with an unknown end.
fn fates(
    events: &[(u64, Event)],
    end: &End,
    wrong: &mut Vec<String>,
) -> (BTreeMap<Place, Fate>, HashMap<String, Vec<u64>>) {
    let mut fates: BTreeMap<Place, Fate> = BTreeMap::new();
    let mut unsure: HashMap<String, Vec<u64>> = HashMap::new();
    let mut polls: HashMap<&str, (&Who, &Vec<Leased>)> = HashMap::new();
    let mut acks: HashMap<&str, u64> = HashMap::new();
    let mut settles: HashMap<u64, &Event> = HashMap::new();
    let dead: BTreeSet<Place> = end.dead.iter().filter_map(origin).collect();
    // Work that comes late may count for the record that was redriven meanwhile.
    let mut is_redriving = false;
    let is_late = |place: &Place, is_redriving: bool| is_redriving && dead.contains(place);
    for (at, event) in events {
        // An answered acknowledgement has settled the records whose lease had not ended.
        let acknowledged = match event {
            Event::Delivered {
                who, wall_ms, ack, ..
            }
            | Event::Left { who, wall_ms, ack } => ack.as_deref().map(|ack| (who, *wall_ms, ack)),
            _ => None,
        };
        if let Some((who, wall_ms, ack)) = acknowledged
            && let Some((given_to, records)) = polls.get(ack)
            && *given_to == who
        {
            let is_in_time = |leased: &&Leased| wall_ms + ROUNDING_MS < leased.lease_expires;
            let counts = |leased: &&Leased| !is_late(&leased.place, is_redriving);
            for leased in records.iter().filter(is_in_time).filter(counts) {
                let fate = fates.entry(leased.place.clone()).or_default();
                let sent = acks.get(ack).copied().unwrap_or(*at);
                // Only if this delivery is known, and the record was not settled in another way before.
                let delivered =
                    |given: &&Given| given.lease_expires == leased.lease_expires && given.who == *who;
                let Some(given) = fate.given.iter().rev().find(delivered) else {
                    continue;
                };
                let is_open = !fate.is_given_up(&who.member, given.at, u64::MAX)
                    && !fate.accepted.iter().any(|(_, _, by)| by == who)
                    && fate.rejected.is_empty();
                if is_open {
                    fate.accepted.push((sent, *at, who.clone()));
                }
            }
        }
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
                    fates.entry(place.clone()).or_default().given.push(Given {
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
                for leased in polls.flat_map(|(_, records)| records.iter()) {
                    tried(
                        &mut fates,
                        &leased.place,
                        *at,
                        is_late(&leased.place, is_redriving),
                    );
                }
            }
            Event::Redriving => is_redriving = true,
            Event::Left { who, .. } => unsure.entry(who.member.clone()).or_default().push(*at),
            Event::Unsure(member) => unsure.entry(member.clone()).or_default().push(*at),
            Event::Settling {
                who,
                accept,
                release,
                reject,
            } => {
                for place in accept {
                    tried(&mut fates, place, *at, is_late(place, is_redriving));
                }
                for place in release {
                    let fate = fates.entry(place.clone()).or_default();
                    fate.given_up.push((*at, who.member.clone()));
                }
                for (place, reason) in reject {
                    let fate = fates.entry(place.clone()).or_default();
                    fate.given_up.push((*at, who.member.clone()));
                    fate.reasons.insert(reason.clone());
                }
                settles.insert(*at, event);
            }
            Event::Settled { who, sent, uncounted } => {
                let Some(Event::Settling { accept, reject, .. }) = settles.get(sent) else {
                    wrong.push(format!("nothing was to be settled at {sent}"));
                    continue;
                };
                let counts = |place: &Place| !uncounted.contains(&place.first());
                let accept = accept.iter().filter(|place| counts(place));
                for place in accept.filter(|place| !is_late(place, is_redriving)) {
                    let fate = fates.entry(place.clone()).or_default();
                    fate.accepted.push((*sent, *at, who.clone()));
                }
                for (place, reason) in reject.iter().filter(|(place, _)| counts(place)) {
                    let fate = fates.entry(place.clone()).or_default();
                    fate.rejected.push((*sent, *at, reason.clone()));
                }
            }
        }
    }
    (fates, unsure)
}

/// Notes that a member tried to accept a record, if it comes late then perhaps the one that was redriven meanwhile.
fn tried(fates: &mut BTreeMap<Place, Fate>, place: &Place, at: u64, is_late: bool) {
    let next = is_late.then(|| place.clone().in_round(place.round + 1));
    for place in [place.clone()].into_iter().chain(next) {
        fates.entry(place).or_default().tried.push(at);
    }
}

/// The place that a dead letter names.
fn origin(letter: &Stored) -> Option<Place> {
    let number = |name: &str| header(letter, name).and_then(|text| text.parse::<u64>().ok());
    let lane = (
        header(letter, "dlq_topic")?.to_owned(),
        number("dlq_partition")? as u32,
    );
    let place = Place::in_lane(&lane, number("dlq_offset")?);
    Some(place.in_round(number("dlq_redriven").unwrap_or(0)))
}

/// A record that is settled for certain is settled once, in one way, and never delivered again.
fn settled_once(place: &Place, fate: &Fate, is_dead: bool, wrong: &mut Vec<String>, summary: &mut Summary) {
    summary.accepted_for_certain += usize::from(!fate.accepted.is_empty());
    let accepted = &fate.accepted;
    if accepted.len() > 1 {
        wrong.push(format!("{place:?} was accepted more than once: {accepted:?}"));
    }
    if !fate.accepted.is_empty() && is_dead {
        wrong.push(format!("{place:?} was accepted and is in the dead letters"));
    }
    if !fate.rejected.is_empty() && !is_dead {
        wrong.push(format!("{place:?} was rejected and is not in the dead letters"));
    }
    let settled = fate.accepted.iter().map(|(_, answered, _)| *answered);
    let settled = settled.chain(fate.rejected.iter().map(|(_, answered, _)| *answered));
    for answered in settled {
        if let Some(again) = fate.given.iter().find(|given| given.sent > answered) {
            let text = format!("{place:?} was settled at {answered} and delivered again: {again:?}");
            wrong.push(text);
        }
    }
}

/// While one member has a lease for certain, no other member is given the record.
fn never_two_at_once(
    place: &Place,
    fate: &Fate,
    unsure: &HashMap<String, Vec<u64>>,
    events: &[(u64, Event)],
    wrong: &mut Vec<String>,
) {
    for (i, first) in fate.given.iter().enumerate() {
        let later = fate.given.iter().skip(i + 1);
        for second in later.filter(|second| second.sent > first.at) {
            if second.who.life != first.who.life
                || second.wall_ms + ROUNDING_MS >= first.lease_expires
                || fate.is_given_up(&first.who.member, first.at, second.at)
                || unsure
                    .get(&first.who.member)
                    .is_some_and(|times| times.iter().any(|at| *at > first.sent && *at < second.at))
            {
                continue;
            }
            // Its session had certainly not ended if a later event has the same member in the same life.
            let is_alive = events.iter().any(|(at, event)| {
                *at > second.at
                    && match event {
                        Event::Delivered { who, .. }
                        | Event::Settled { who, .. }
                        | Event::Left { who, .. } => *who == first.who,
                        _ => false,
                    }
            });
            if is_alive {
                let text = format!("{place:?} was leased to two members: {first:?}, {second:?}");
                wrong.push(text);
            }
        }
    }
}

fn header<'a>(letter: &'a Stored, name: &str) -> Option<&'a str> {
    letter.headers.get(name).and_then(Value::as_str)
}

/// The dead letters by origin, and whether delivered too often. Each must be there once, with true headers.
fn dead_letters<'e>(
    end: &'e End,
    fates: &BTreeMap<Place, Fate>,
    wrong: &mut Vec<String>,
) -> BTreeMap<Place, (&'e Stored, bool)> {
    let mut dead = BTreeMap::new();
    for letter in &end.dead {
        let number = |name: &str| header(letter, name).and_then(|text| text.parse::<u64>().ok());
        let (Some(place), Some(deliveries), Some(reason)) = (
            origin(letter),
            number("dlq_deliveries"),
            header(letter, "dlq_reason"),
        ) else {
            wrong.push(format!("a dead letter does not say what it is: {letter:?}"));
            continue;
        };
        let origin = end.stored.get(&place.first());
        if origin.map(|record| (&record.key, &record.value)) != Some((&letter.key, &letter.value)) {
            let text = format!("the dead letter of {place:?} is {letter:?}, and that is {origin:?}");
            wrong.push(text);
        }
        if header(letter, "dlq_group") != Some(&end.group) {
            let text = format!("the dead letter of {place:?} is another group's: {letter:?}");
            wrong.push(text);
        }
        let fate = fates.get(&place);
        let was_rejected = fate.is_some_and(|fate| fate.reasons.contains(reason));
        let is_exhausted = !was_rejected && reason.starts_with("delivered");
        if !was_rejected && !is_exhausted {
            wrong.push(format!("nobody rejected {place:?} because of {reason:?}"));
        }
        if is_exhausted && deliveries != end.max_deliveries {
            wrong.push(format!("{place:?} was given up after {deliveries} deliveries"));
        }
        let seen = fate.map_or(0, |fate| fate.given.len() as u64);
        // Unread answers count as deliveries too, so there may be more deliveries than were seen.
        if deliveries == 0 || deliveries > end.max_deliveries || (was_rejected && seen == 0) {
            let text = format!("{place:?} was seen {seen} times and given up after {deliveries}");
            wrong.push(text);
        }
        if dead.insert(place.clone(), (letter, is_exhausted)).is_some() {
            wrong.push(format!("{place:?} is twice in the dead letters"));
        }
    }
    dead
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::made::{end_of, fails, place, record, timed};

    /// Number 3 is record 2, redriven.
    fn spot(number: u64) -> Place {
        match number {
            3 => place(2).in_round(1),
            _ => place(number),
        }
    }

    fn who(member: &str) -> Who {
        Who {
            member: member.to_owned(),
            epoch: 1,
            life: 1,
        }
    }

    fn given(member: &str, poll: &str, ack: Option<&str>, wall_ms: i64, offsets: &[u64]) -> Event {
        let leased = |offset: &u64| Leased {
            place: spot(*offset),
            record: record(spot(*offset).offset),
            deliveries: 1,
            lease_expires: wall_ms + 100,
        };
        Event::Delivered {
            who: who(member),
            sent: 0,
            wall_ms,
            poll_id: poll.to_owned(),
            ack: ack.map(str::to_owned),
            records: offsets.iter().map(leased).collect(),
            subscribed: ["orders".to_owned()].into(),
        }
    }

    fn settling(member: &str, accept: &[u64], reject: &[u64]) -> Event {
        let rejected = |offset: &u64| (spot(*offset), "no".to_owned());
        Event::Settling {
            who: who(member),
            accept: accept.iter().map(|offset| spot(*offset)).collect(),
            release: Vec::new(),
            reject: reject.iter().map(rejected).collect(),
        }
    }

    fn settled(member: &str, step: u64) -> Event {
        Event::Settled {
            who: who(member),
            sent: 10 * step + 1,
            uncounted: BTreeSet::new(),
        }
    }

    fn letter(offset: u64, deliveries: u64, reason: &str) -> Stored {
        Stored {
            headers: json!({"dlq_topic": "orders", "dlq_partition": "0", "dlq_offset": offset.to_string(),
                "dlq_group": "workers", "dlq_deliveries": deliveries.to_string(), "dlq_reason": reason}),
            ..record(offset)
        }
    }

    /// Record 0 is accepted by an `ack`, 1 by a settle after another member's lease; 2 is rejected, and redriven.
    fn good() -> (Vec<Event>, End) {
        let events = vec![
            given("a", "p1", None, 1000, &[0]),
            given("b", "p2", None, 1000, &[1]),
            Event::Acknowledging("p1".to_owned()),
            given("a", "p3", Some("p1"), 1050, &[2]),
            settling("a", &[], &[2]),
            settled("a", 4),
            given("a", "p4", None, 1200, &[1]),
            settling("a", &[1], &[]),
            settled("a", 7),
            given("b", "p5", None, 1300, &[3]),
            settling("b", &[3], &[]),
            settled("b", 10),
        ];
        let end = End {
            end: end_of(&[0, 1, 2]),
            group: "workers".to_owned(),
            max_deliveries: 3,
            dead: vec![letter(2, 1, "no")],
            is_redriven: true,
        };
        (events, end)
    }

    fn run(events: Vec<Event>, end: &End) -> Verdict<Summary> {
        let events = timed(events, |event| match event {
            Event::Delivered { sent, .. } => Some(sent),
            _ => None,
        });
        check(&events, end)
    }

    #[test]
    fn a_good_history_passes() {
        let (events, end) = good();
        let summary = run(events, &end).unwrap();
        let found = [summary.records, summary.accepted_for_certain, summary.dead];
        assert_eq!(found, [3, 3, 1]);
    }

    #[test]
    fn a_record_that_nobody_accepted_is_seen() {
        let (mut events, end) = good();
        events.truncate(10);
        fails(run(events, &end), "neither accepted nor given up");
    }

    #[test]
    fn what_was_accepted_and_comes_again_is_seen() {
        let (mut events, end) = good();
        events.push(given("b", "p6", None, 9000, &[1]));
        fails(run(events.clone(), &end), "was settled at 81 and delivered again");
        events.extend([settling("b", &[1], &[]), settled("b", 13)]);
        fails(run(events, &end), "accepted more than once");
        let (mut events, end) = good();
        events.push(given("b", "p6", None, 9000, &[0]));
        fails(run(events, &end), "was settled at 31 and delivered again");
    }

    #[test]
    fn a_record_with_two_members_at_once_is_seen() {
        let (mut events, end) = good();
        events[6] = given("a", "p4", None, 1060, &[1]);
        fails(run(events.clone(), &end), "leased to two members");
        events.insert(6, Event::Unsure("b".to_owned()));
        let shifted = format!("{:?}", run(events, &end));
        assert!(!shifted.contains("leased to two members"), "{shifted}");
    }

    #[test]
    fn dead_letters_are_right_and_there_once() {
        let (events, mut end) = good();
        let fails_with = |end: &End, with| fails(run(events.clone(), end), with);
        end.dead.push(letter(2, 1, "no"));
        fails_with(&end, "twice in the dead letters");
        end.dead = vec![letter(2, 1, "why not")];
        fails_with(&end, "nobody rejected");
        end.dead = vec![letter(2, 2, "delivered 2 times and not settled")];
        fails_with(&end, "given up after 2 deliveries");
        end.dead = vec![letter(2, 1, "no"), letter(1, 1, "no")];
        fails_with(&end, "was accepted and is in the dead letters");
        end.dead = vec![Stored {
            key: "other".to_owned(),
            ..letter(2, 1, "no")
        }];
        fails_with(&end, "the dead letter of");
        end.dead.clear();
        fails_with(&end, "is not in the dead letters");
    }

    #[test]
    fn what_was_redriven_without_a_dead_letter_is_seen() {
        let (mut events, mut end) = good();
        end.dead.clear();
        events.drain(3..6);
        fails(run(events, &end), "has no dead letter that was redriven");
    }
}
