//! What members of a shared group saw and did, and the checks of it. Pure: a history in, failures out.
//!
//! Events are ordered as in `ordered_check`. A record is *settled for certain* if a settle or a poll that acknowledges
//! its delivery was answered without it among the lost ones and those settled before. A leave names nothing: there the
//! answer must have come before the lease ended.
//!
//! - [`fates`]: what happened to each record;
//! - [`letters`]: dead letters, redrives and discards;
//! - [`times`]: delays and `deliver_at`;
//! - [`keys`]: queues by key.

pub mod fates;
pub mod keys;
pub mod letters;
pub mod times;

use std::collections::{BTreeMap, BTreeSet};

use self::fates::{Fate, Fates, fates};
use self::letters::{Letter, Redrives, dead_letters};
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
        /// Records of that acknowledgement for which it did not count: lost, or settled before.
        uncounted: BTreeSet<Place>,
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
    /// A redrive is about to be sent.
    Redriving(Redrive),
    /// The redrive that was sent at the time `sent` was answered.
    Redriven {
        sent: u64,
        redriven: u64,
        discarded: u64,
    },
    /// A member sends something whose answer it will not know, or leaves, or joins again.
    Unsure(String),
    /// A settle is about to be sent.
    Settling {
        who: Who,
        wall_ms: i64,
        accept: Vec<Place>,
        /// With the delay.
        release: Vec<(Place, u64)>,
        reject: Vec<(Place, String)>,
        extend: Vec<Place>,
    },
    /// The settle that was sent at the time `sent` was answered.
    Settled {
        who: Who,
        sent: u64,
        wall_ms: i64,
        /// The records for which it did not count: lost, or settled before.
        uncounted: BTreeSet<Place>,
    },
}

/// The dead letters that somebody wants to give back, or to discard.
#[derive(Clone, Debug, Default)]
pub struct Redrive {
    /// Of this topic of dead letters only.
    pub topic: Option<String>,
    /// Partitions and offsets in that topic.
    pub offsets: Option<BTreeSet<(u32, u64)>>,
    /// How the reason begins.
    pub reason: Option<String>,
    pub discard: bool,
    pub dry_run: bool,
}

/// How it ended.
#[derive(Clone, Debug, Default)]
pub struct End {
    pub end: check::End,
    pub group: String,
    pub max_deliveries: u64,
    /// Everything in the topics of dead letters.
    pub dead: BTreeMap<Place, Stored>,
    /// The lists of dead letters in each state.
    pub states: Vec<(Place, String)>,
    /// The queue is by key.
    pub is_by_key: bool,
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

/// Finds everything wrong with a history; `events` are in order.
pub fn check(events: &[(u64, Event)], end: &End) -> Verdict<Summary> {
    let mut wrong = Vec::new();
    check::end(end, &mut wrong);
    let redrives = Redrives::of(events, end);
    let fates = fates(events, end, &redrives, &mut wrong);
    let dead = dead_letters(end, &fates, &mut wrong);
    letters::redrives(events, &redrives, &dead, &fates, &mut wrong);
    let mut summary = Summary {
        records: end.stored.len(),
        dead: end.dead.len(),
        ..Summary::default()
    };
    let places = places(end, &dead);
    let given = fates.by_place.iter().filter(|(_, fate)| !fate.given.is_empty());
    for place in given
        .map(|(place, _)| place)
        .filter(|place| !places.contains(place))
    {
        let stored = end.stored.get(&place.first());
        wrong.push(if stored.is_some_and(|record| !end.is_wanted(record)) {
            format!("{place:?} does not match the filter and was given")
        } else {
            format!("{place:?} has no dead letter that was redriven")
        });
    }
    let none = Fate::default();
    for place in &places {
        let fate = fates.by_place.get(place).unwrap_or(&none);
        summary.delivered += fate.given.len();
        let is_dead = dead.contains_key(place);
        summary.exhausted += usize::from(letters::is_exhausted(&dead, place));
        if fate.tried.is_empty() && !is_dead {
            wrong.push(format!("{place:?} was neither accepted nor given up"));
        }
        settled_once(place, fate, is_dead, &mut wrong, &mut summary);
        never_two_at_once(place, fate, &fates, events, &mut wrong);
        only_the_holder_settles(place, fate, &fates, &mut wrong);
        if end.is_clean && fate.given.len() != 1 {
            wrong.push(format!("{place:?} was delivered {} times", fate.given.len()));
        }
    }
    times::never_early(&fates, end, &mut wrong);
    if end.is_by_key {
        keys::one_after_the_other(&fates, &dead, end, &mut wrong);
    }
    if wrong.is_empty() { Ok(summary) } else { Err(wrong) }
}

/// The records that the group is to be given: those that match its filter, and those that were redriven.
fn places(end: &End, dead: &BTreeMap<Place, Letter>) -> BTreeSet<Place> {
    let wanted = end.stored.iter().filter(|(_, record)| end.is_wanted(record));
    let again = dead.iter().filter(|(_, letter)| letter.state == "redriven");
    let again = again.map(|(place, _)| place.clone().in_round(place.round + 1));
    wanted.map(|(place, _)| place.clone()).chain(again).collect()
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
    for settled in fate.accepted.iter().chain(&fate.rejected) {
        let answered = settled.answered;
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
    fates: &Fates,
    events: &[(u64, Event)],
    wrong: &mut Vec<String>,
) {
    for (i, first) in fate.given.iter().enumerate() {
        let later = fate.given.iter().skip(i + 1);
        for second in later.filter(|second| second.sent > first.at) {
            if second.who.life != first.who.life
                || second.wall_ms + ROUNDING_MS >= first.lease_expires
                || fate.is_given_up(&first.who.member, first.at, second.at)
                || fates.is_unsure(&first.who.member, first.sent, second.at)
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

/// While one member has a lease for certain, no other member settles the record.
fn only_the_holder_settles(place: &Place, fate: &Fate, fates: &Fates, wrong: &mut Vec<String>) {
    for settled in fate.accepted.iter().chain(&fate.rejected) {
        let others = fate
            .given
            .iter()
            .filter(|given| given.who.member != settled.by.member);
        for holder in others.filter(|given| given.at < settled.sent) {
            let is_over = holder.who.life != settled.life
                || settled.wall_ms + ROUNDING_MS >= holder.lease_expires
                || fate.is_given_up(&holder.who.member, holder.at, settled.answered)
                || fates.is_unsure(&holder.who.member, holder.sent, settled.answered);
            if !is_over {
                wrong.push(format!(
                    "{place:?} was leased to {holder:?} and settled by another: {settled:?}"
                ));
            }
        }
    }
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
            uncounted: BTreeSet::new(),
            records: offsets.iter().map(leased).collect(),
            subscribed: ["orders".to_owned()].into(),
        }
    }

    fn settling(member: &str, accept: &[u64], reject: &[u64]) -> Event {
        let rejected = |offset: &u64| (spot(*offset), "no".to_owned());
        Event::Settling {
            who: who(member),
            wall_ms: 0,
            accept: accept.iter().map(|offset| spot(*offset)).collect(),
            release: Vec::new(),
            reject: reject.iter().map(rejected).collect(),
            extend: Vec::new(),
        }
    }

    fn settled(member: &str, step: u64) -> Event {
        Event::Settled {
            who: who(member),
            sent: 10 * step + 1,
            wall_ms: 9000,
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

    /// Where the dead letter of a record lies.
    fn grave(number: u64) -> Place {
        Place::in_lane(&("orders.dlq".to_owned(), 0), number)
    }

    /// A redrive of dead letters whose reason begins so.
    fn redrive(reason: &str) -> Redrive {
        Redrive {
            reason: Some(reason.to_owned()),
            ..Redrive::default()
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
            Event::Redriving(redrive("n")),
            Event::Redriven {
                sent: 91,
                redriven: 1,
                discarded: 0,
            },
            given("b", "p5", None, 1300, &[3]),
            settling("b", &[3], &[]),
            settled("b", 12),
        ];
        let end = End {
            end: end_of(&[0, 1, 2]),
            group: "workers".to_owned(),
            max_deliveries: 3,
            dead: [(grave(0), letter(2, 1, "no"))].into(),
            states: vec![(grave(0), "redriven".to_owned())],
            is_by_key: false,
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
        events.truncate(12);
        fails(run(events, &end), "neither accepted nor given up");
    }

    #[test]
    fn what_was_accepted_and_comes_again_is_seen() {
        let (mut events, end) = good();
        events.push(given("b", "p6", None, 9000, &[1]));
        fails(run(events.clone(), &end), "was settled at 81 and delivered again");
        events.extend([settling("b", &[1], &[]), settled("b", 15)]);
        fails(run(events, &end), "accepted more than once");
        let (mut events, end) = good();
        events.push(given("b", "p6", None, 9000, &[0]));
        fails(run(events, &end), "was settled at 31 and delivered again");
    }

    #[test]
    fn a_late_acknowledgement_counts_unless_the_answer_says_that_it_does_not() {
        let (mut events, end) = good();
        // After the lease, in another life of the server.
        let Event::Delivered { wall_ms, who, .. } = &mut events[3] else {
            panic!("{:?}", events[3]);
        };
        (*wall_ms, who.life) = (1190, 2);
        events.push(given("b", "p6", None, 9000, &[0]));
        fails(run(events.clone(), &end), "was settled at 31 and delivered again");
        let Event::Delivered { uncounted, .. } = &mut events[3] else {
            panic!("{:?}", events[3]);
        };
        uncounted.insert(place(0));
        run(events, &end).unwrap();
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
    fn a_record_that_is_settled_by_somebody_who_does_not_hold_it_is_seen() {
        let (mut events, end) = good();
        // `a` settles record 1 while it is leased to `b`, and the lease of `a` is over.
        events.insert(7, given("b", "p6", None, 1400, &[1]));
        for event in &mut events {
            match event {
                Event::Settled { sent, wall_ms, .. } if *sent == 71 => (*sent, *wall_ms) = (81, 1450),
                Event::Settled { sent, .. } | Event::Redriven { sent, .. } if *sent > 71 => *sent += 10,
                _ => {}
            }
        }
        fails(run(events.clone(), &end), "and settled by another");
        // Not if it may have left.
        events.insert(8, Event::Unsure("b".to_owned()));
        for event in &mut events {
            if let Event::Settled { sent, .. } | Event::Redriven { sent, .. } = event
                && *sent > 80
            {
                *sent += 10;
            }
        }
        let told = format!("{:?}", run(events, &end));
        assert!(!told.contains("settled by another"), "{told}");
    }

    #[test]
    fn dead_letters_are_right_and_there_once() {
        let (events, good) = good();
        let fails_with = |dead: &[Stored], with| {
            let dead = (0..).map(grave).zip(dead.iter().cloned());
            let mut end = End {
                dead: dead.collect(),
                ..good.clone()
            };
            end.states = end
                .dead
                .keys()
                .map(|at| (at.clone(), "redriven".to_owned()))
                .collect();
            fails(run(events.clone(), &end), with);
        };
        fails_with(
            &[letter(2, 1, "no"), letter(2, 1, "no")],
            "twice in the dead letters",
        );
        fails_with(&[letter(2, 1, "why not")], "nobody rejected");
        let exhausted = letter(2, 2, "delivered 2 times and not settled");
        fails_with(&[exhausted], "given up after 2 deliveries");
        let accepted = [letter(2, 1, "no"), letter(1, 1, "no")];
        fails_with(&accepted, "was accepted and is in the dead letters");
        let other = Stored {
            key: "other".to_owned(),
            ..letter(2, 1, "no")
        };
        fails_with(&[other], "the dead letter of");
        fails_with(&[], "is not in the dead letters");
    }

    #[test]
    fn what_was_redriven_without_a_dead_letter_is_seen() {
        let (mut events, mut end) = good();
        (end.dead, end.states) = Default::default();
        events.drain(3..6);
        fails(run(events, &end), "has no dead letter that was redriven");
    }

    #[test]
    fn a_dead_letter_in_the_wrong_state_is_seen() {
        let (events, good) = good();
        let states = |states: &[&str]| End {
            states: states
                .iter()
                .map(|state| (grave(0), (*state).to_owned()))
                .collect(),
            ..good.clone()
        };
        fails(
            run(events.clone(), &states(&["waiting"])),
            "has no dead letter that was redriven",
        );
        fails(run(events.clone(), &states(&["discarded"])), "nobody asked for");
        fails(
            run(events.clone(), &states(&["redriven", "waiting"])),
            "is waiting and redriven",
        );
        fails(run(events.clone(), &states(&[])), "is in no list");
        let mut end = good.clone();
        end.states.push((grave(7), "waiting".to_owned()));
        fails(run(events, &end), "there is no dead letter at");
    }

    #[test]
    fn a_redrive_of_what_nobody_asked_for_is_seen_and_so_are_wrong_counts() {
        let (events, end) = good();
        let with = |asked: Redrive| {
            let mut events = events.clone();
            events[9] = Event::Redriving(asked);
            run(events, &end)
        };
        fails(with(redrive("other")), "nobody asked for");
        let dry_run = Redrive {
            dry_run: true,
            ..redrive("no")
        };
        fails(with(dry_run), "nobody asked for");
        let discard = Redrive {
            discard: true,
            ..redrive("no")
        };
        fails(with(discard), "nobody asked for");
        let chosen = |offset| Redrive {
            topic: Some("orders.dlq".to_owned()),
            offsets: Some([(0, offset)].into()),
            ..Redrive::default()
        };
        fails(with(chosen(1)), "nobody asked for");
        with(chosen(0)).unwrap();
        let mut late = events.clone();
        late.swap(9, 11);
        fails(run(late, &end), "was given again before it was redriven");
        let mut twice = events.clone();
        twice[10] = Event::Redriven {
            sent: 91,
            redriven: 2,
            discarded: 0,
        };
        fails(run(twice, &end), "answers counted 2");
    }

    /// The release of record 1 by `b`, 500 ms from `wall_ms` on, after its delivery.
    fn with_a_release() -> (Vec<Event>, End) {
        let (mut events, end) = good();
        let release = Event::Settling {
            who: who("b"),
            wall_ms: 700,
            accept: Vec::new(),
            release: vec![(place(1), 500)],
            reject: Vec::new(),
            extend: Vec::new(),
        };
        events.splice(4..4, [release, settled("b", 4)]);
        let Event::Settled { sent, .. } = &mut events[7] else {
            panic!("{:?}", events[7]);
        };
        *sent = 61;
        for event in &mut events {
            match event {
                Event::Settled { sent, .. } | Event::Redriven { sent, .. } if *sent > 61 => *sent += 20,
                _ => {}
            }
        }
        (events, end)
    }

    #[test]
    fn a_released_record_that_is_lost_with_an_acknowledgement_is_seen() {
        let (mut events, end) = with_a_release();
        // `b` acknowledges the delivery of which it has released record 1, and nobody is given that again.
        events.drain(8..11);
        events[6] = Event::Acknowledging("p2".to_owned());
        events.truncate(8);
        fails(
            run(events, &end),
            "offset: 1, round: 0 } was neither accepted nor given up",
        );
    }

    #[test]
    fn a_record_that_is_given_before_its_delay_is_over_is_seen() {
        let (events, end) = with_a_release();
        run(events, &end).unwrap();
        let (mut events, end) = with_a_release();
        let Event::Settling { wall_ms, .. } = &mut events[4] else {
            panic!("{:?}", events[4]);
        };
        *wall_ms = 710;
        fails(
            run(events.clone(), &end),
            "was released until 1210 and given before",
        );
        // Somebody else may have released it anew.
        let other = Event::Settling {
            who: who("c"),
            wall_ms: 720,
            accept: Vec::new(),
            release: vec![(place(1), 0)],
            reject: Vec::new(),
            extend: Vec::new(),
        };
        events.insert(6, other);
        for event in &mut events {
            match event {
                Event::Settled { sent, .. } | Event::Redriven { sent, .. } if *sent > 60 => *sent += 10,
                _ => {}
            }
        }
        let told = format!("{:?}", run(events, &end));
        assert!(!told.contains("given before"), "{told}");
    }

    #[test]
    fn a_record_that_is_given_before_its_time_is_seen() {
        let with = |time: &str| {
            let (mut events, mut end) = good();
            let headers = json!({ "deliver_at": time });
            end.stored.get_mut(&place(0)).expect("it is there").headers = headers.clone();
            let Event::Delivered { records, .. } = &mut events[0] else {
                panic!("{:?}", events[0]);
            };
            records[0].record.headers = headers;
            run(events, &end)
        };
        with("1000").unwrap();
        fails(with("1010"), "is for Some(1010) and was given before");
    }

    #[test]
    fn a_key_out_of_its_order_is_seen() {
        let (mut events, mut end) = good();
        let end_with = |end: &mut End| end.is_by_key = true;
        end_with(&mut end);
        // All have one key: record 1 was given while 0 was with `a`.
        fails(run(events.clone(), &end), "was given before Place");
        events.swap(1, 3);
        fails(run(events.clone(), &end), "was given before Place");
        // `b` gives 1 up, so `a` gets it after 0; then 2.
        let (events, mut end) = in_order();
        end_with(&mut end);
        run(events, &end).unwrap();
        let (mut events, mut end) = in_order();
        end_with(&mut end);
        events.push(given("b", "p9", None, 1900, &[0]));
        fails(run(events, &end), "was given after");
        // Waiting for a time holds up nobody.
        let (mut events, mut end) = in_order();
        end_with(&mut end);
        events.rotate_left(2);
        let events: Vec<Event> = events.into_iter().collect();
        fails(run(events.clone(), &end), "was given before Place");
        end.stored.get_mut(&place(0)).expect("it is there").headers = json!({"deliver_at": "1"});
        let told = format!("{:?}", run(events, &end));
        assert!(!told.contains("was given before Place"), "{told}");
    }

    /// Records 0, 1 and 2, one after the other.
    fn in_order() -> (Vec<Event>, End) {
        let one = |poll: &str, ack, wall_ms, offset: u64| {
            let given = given("a", poll, ack, wall_ms, &[offset]);
            [given, Event::Acknowledging(poll.to_owned())]
        };
        let events = [
            one("p1", None, 1000, 0),
            one("p2", Some("p1"), 1050, 1),
            one("p3", Some("p2"), 1100, 2),
        ];
        let end = End {
            end: end_of(&[0, 1, 2]),
            ..End::default()
        };
        let end = End {
            max_deliveries: 3,
            ..end
        };
        (events.into_iter().flatten().collect(), end)
    }

    #[test]
    fn a_record_that_does_not_match_the_filter_is_seen() {
        let (events, mut end) = good();
        end.is_filtered = true;
        for record in end.stored.values_mut() {
            record.headers = json!({"type": "order.paid"});
        }
        let mut matching = events.clone();
        for event in &mut matching {
            if let Event::Delivered { records, .. } = event {
                for leased in records {
                    leased.record.headers = json!({"type": "order.paid"});
                }
            }
        }
        run(matching.clone(), &end).unwrap();
        end.stored.get_mut(&place(0)).expect("it is there").headers = json!({"type": "invoice"});
        fails(
            run(matching.clone(), &end),
            "does not match the filter and was given",
        );
        // What does not match need not be given.
        let mut end_without = end.clone();
        end_without.stored.insert(
            place(3),
            Stored {
                headers: json!({"type": "invoice"}),
                ..record(3)
            },
        );
        end_without.committed.insert(place(3).lane(), 4);
        end_without
            .stored
            .get_mut(&place(0))
            .expect("it is there")
            .headers = json!({"type": "order.paid"});
        run(matching, &end_without).unwrap();
    }
}
