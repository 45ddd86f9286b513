//! What members of an ordered group saw and did, and the checks of it. Pure: a history in, failures out.
//!
//! Events are ordered by a counter in the test's process. A request is noted before it is sent, an answer after it has
//! arrived, so that an event is noted before every event that it caused. A record counts as processed once its answer
//! had arrived and its member began to acknowledge it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::check::{self, End, Lane, Verdict};
use crate::produce::Stored;
use crate::world::Place;

/// The metadata of commits that must be refused.
pub const FORBIDDEN: &str = "forbidden";

/// An answer to a poll.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub member: String,
    /// The number of the server's life.
    pub life: u32,
    /// When the poll was sent.
    pub sent: u64,
    pub epoch: u64,
    pub poll_id: String,
    /// The `ack` of the poll.
    pub ack: Option<String>,
    /// Whether the member sent something since its last answer whose answer it does not know.
    pub is_unsure: bool,
    pub records: Vec<(Place, Stored)>,
    pub subscribed: BTreeSet<String>,
}

#[derive(Clone, Debug)]
pub enum Event {
    Delivered(Delivery),
    /// About to be sent.
    Acknowledged(String),
    /// A member is about to commit a part of its records by offset.
    Committed {
        poll_id: String,
        until: Vec<Place>,
    },
    /// An answer with the committed offsets.
    Watched {
        sent: u64,
        life: u32,
        offsets: BTreeMap<Lane, (u64, Option<String>)>,
    },
    /// A reset; if it was answered, at the time of this event.
    Reset {
        sent: u64,
        life: u32,
        topic: String,
        /// The new offsets, if it was answered.
        to: Option<BTreeMap<Lane, u64>>,
    },
}

/// For the report.
#[derive(Debug, Default)]
pub struct Summary {
    pub records: usize,
    pub deliveries: usize,
    pub delivered_records: usize,
    pub watched: usize,
    pub resets: usize,
}

/// Finds everything wrong with a history; `events` are in order.
pub fn check(events: &[(u64, Event)], end: &End) -> Verdict<Summary> {
    let mut wrong = Vec::new();
    let mut summary = Summary {
        records: end.stored.len(),
        ..Summary::default()
    };
    check::end(end, &mut wrong);
    let processed = processing(events, end, &mut wrong, &mut summary);
    for (place, record) in &end.stored {
        if !processed.contains_key(place) && end.is_wanted(record) {
            wrong.push(format!("{place:?} ({}) was never processed", record.id));
        }
    }
    first_in_order(&processed, &mut wrong);
    within_epochs(events, end, &mut wrong);
    lost_first(events, &mut wrong);
    watched(events, &mut wrong);
    resets(events, end, &mut wrong, &mut summary);
    if end.is_clean {
        exactly_once(events, &mut wrong);
    }
    if wrong.is_empty() { Ok(summary) } else { Err(wrong) }
}

/// When each record was first processed; checks that no committed offset passes an unprocessed record.
fn processing(
    events: &[(u64, Event)],
    end: &End,
    wrong: &mut Vec<String>,
    summary: &mut Summary,
) -> BTreeMap<Place, (u64, u64)> {
    let mut deliveries: HashMap<&str, (u64, &Delivery)> = HashMap::new();
    let mut processed: BTreeMap<Place, (u64, u64)> = BTreeMap::new();
    // The offset before which everything is known to be processed.
    let mut prefix: BTreeMap<Lane, u64> = BTreeMap::new();
    for (at, event) in events {
        match event {
            Event::Delivered(delivery) => {
                summary.deliveries += 1;
                summary.delivered_records += delivery.records.len();
                for (place, record) in &delivery.records {
                    if end.stored.get(place) != Some(record) {
                        let what = format!("{place:?} was delivered as {record:?} and is something else");
                        wrong.push(what);
                    }
                    if !delivery.subscribed.contains(&place.topic) {
                        wrong.push(format!("{} did not subscribe to {place:?}", delivery.member));
                    }
                    if !end.is_wanted(record) {
                        wrong.push(format!("{place:?} does not match the filter and was given"));
                    }
                }
                deliveries.insert(&delivery.poll_id, (*at, delivery));
            }
            Event::Acknowledged(poll_id) => {
                let Some((arrived, delivery)) = deliveries.get(&**poll_id) else {
                    wrong.push(format!("{poll_id} was acknowledged and never given"));
                    continue;
                };
                for (i, (place, _)) in delivery.records.iter().enumerate() {
                    first(&mut processed, place, (*arrived, i as u64));
                }
            }
            Event::Committed { poll_id, until } => {
                let Some((arrived, delivery)) = deliveries.get(&**poll_id) else {
                    continue;
                };
                for (i, (place, _)) in delivery.records.iter().enumerate() {
                    if until.iter().any(|until| place.is_before(until)) {
                        first(&mut processed, place, (*arrived, i as u64));
                    }
                }
            }
            Event::Watched { offsets, .. } => {
                summary.watched += 1;
                for (lane, (committed, metadata)) in offsets {
                    if metadata.as_deref() == Some(FORBIDDEN) {
                        wrong.push(format!("a forbidden commit of {lane:?} to {committed} counted"));
                    }
                    let prefix = prefix.entry(lane.clone()).or_default();
                    while *prefix < *committed {
                        let place = Place::in_lane(lane, *prefix);
                        let is_wanted = end.stored.get(&place).is_none_or(|record| end.is_wanted(record));
                        if is_wanted && !processed.contains_key(&place) {
                            wrong.push(format!(
                                "{lane:?} was committed to {committed} at {at}, before {place:?} was processed"
                            ));
                            break;
                        }
                        *prefix += 1;
                    }
                }
            }
            Event::Reset { .. } => {}
        }
    }
    processed
}

/// Notes a processing at its arrival: a late acknowledgement may come after another member was given the record.
fn first(processed: &mut BTreeMap<Place, (u64, u64)>, place: &Place, when: (u64, u64)) {
    let first = processed.entry(place.clone()).or_insert(when);
    *first = when.min(*first);
}

/// In each partition, and so for each key, records are first processed in the order of their offsets.
fn first_in_order(processed: &BTreeMap<Place, (u64, u64)>, wrong: &mut Vec<String>) {
    let mut before: Option<(&Place, (u64, u64))> = None;
    for (place, when) in processed {
        if let Some((earlier, then)) = before
            && earlier.lane() == place.lane()
            && then > *when
        {
            wrong.push(format!("{place:?} was processed before {earlier:?}"));
        }
        before = Some((place, *when));
    }
}

/// An answer has each partition's records without a hole; in an epoch, later ones than an acknowledged answer.
fn within_epochs(events: &[(u64, Event)], end: &End, wrong: &mut Vec<String>) {
    let mut last: HashMap<&str, &Delivery> = HashMap::new();
    for (at, event) in events {
        let Event::Delivered(delivery) = event else {
            continue;
        };
        let mut next: HashMap<Lane, u64> = HashMap::new();
        if let Some(before) = last.get(&*delivery.member)
            && (before.life, before.epoch) == (delivery.life, delivery.epoch)
            && delivery.ack.as_ref() == Some(&before.poll_id)
            && !delivery.is_unsure
        {
            for (place, _) in &before.records {
                next.insert(place.lane(), place.offset + 1);
            }
        }
        let mut is_first: BTreeSet<Lane> = BTreeSet::new();
        for (place, _) in &delivery.records {
            let expected = next.insert(place.lane(), place.offset + 1);
            let is_gap = if is_first.insert(place.lane()) {
                expected.is_some_and(|expected| place.offset < expected)
            } else {
                expected.is_none_or(|expected| {
                    let mut between =
                        (expected..place.offset).map(|offset| Place::in_lane(&place.lane(), offset));
                    // A group with a filter is not given what does not match.
                    place.offset < expected
                        || between
                            .any(|place| end.stored.get(&place).is_none_or(|record| end.is_wanted(record)))
                })
            };
            if is_gap {
                wrong.push(format!(
                    "{} was given {place:?} at {at} where {expected:?} was due, in epoch {}",
                    delivery.member, delivery.epoch
                ));
            }
        }
        last.insert(&delivery.member, delivery);
    }
}

/// If a poll does not acknowledge the last answer, then in the same epoch its answer begins with that answer's records,
/// except those that the member has committed by offset.
fn lost_first(events: &[(u64, Event)], wrong: &mut Vec<String>) {
    let mut last: HashMap<&str, &Delivery> = HashMap::new();
    let mut own: HashMap<&str, Vec<&Place>> = HashMap::new();
    for (at, event) in events {
        if let Event::Committed { poll_id, until } = event {
            own.entry(poll_id).or_default().extend(until);
        }
        let Event::Delivered(delivery) = event else {
            continue;
        };
        let before = last.insert(&delivery.member, delivery);
        let Some(before) = before.filter(|before| {
            (before.life, before.epoch) == (delivery.life, delivery.epoch)
                && delivery.ack.as_ref() != Some(&before.poll_id)
                && !delivery.is_unsure
        }) else {
            continue;
        };
        let is_open = |place: &&Place| {
            let mut until = own.get(&*before.poll_id).into_iter().flatten();
            !until.any(|until| place.is_before(until))
        };
        let lost = before.records.iter().map(|(place, _)| place).filter(is_open);
        let again = delivery.records.iter().map(|(place, _)| place);
        if let Some((lost, other)) = lost.zip(again).find(|(lost, again)| lost != again) {
            wrong.push(format!(
                "{} was given {other:?} at {at} before {lost:?}, whose answer was lost",
                delivery.member
            ));
        }
    }
}

/// Only resets move committed offsets back.
fn watched(events: &[(u64, Event)], wrong: &mut Vec<String>) {
    let seen: Vec<_> = events
        .iter()
        .filter_map(|(at, event)| match event {
            Event::Watched { sent, life, offsets } => Some((*at, *sent, *life, offsets)),
            _ => None,
        })
        .collect();
    // The span of time in which each reset may have taken effect.
    let resets: Vec<_> = events
        .iter()
        .filter_map(|(at, event)| match event {
            Event::Reset {
                sent,
                life,
                topic,
                to,
            } => {
                let end = match to {
                    Some(_) => Some(*at),
                    // It cannot take effect after the server's next life has begun.
                    None => seen.iter().find(|seen| seen.2 > *life).map(|seen| seen.0),
                };
                Some((*sent, end.unwrap_or(u64::MAX), topic, to))
            }
            _ => None,
        })
        .collect();
    for (before, now) in seen.iter().zip(seen.iter().skip(1)) {
        for (lane, (offset, _)) in before.3 {
            let offset_now = now.3.get(lane).map_or(0, |(offset, _)| *offset);
            if offset_now >= *offset {
                continue;
            }
            let is_reset = resets.iter().any(|(sent, end, topic, to)| {
                **topic == lane.0
                    && *sent < now.0
                    && *end >= before.1
                    && to
                        .as_ref()
                        .is_none_or(|to| to.get(lane).is_some_and(|to| *to <= offset_now))
            });
            if !is_reset {
                let at = now.0;
                let text = format!("{lane:?} went back from {offset} to {offset_now} at {at}");
                wrong.push(text);
            }
        }
    }
}

/// The records behind a reset's offsets are delivered again.
fn resets(events: &[(u64, Event)], end: &End, wrong: &mut Vec<String>, summary: &mut Summary) {
    let resets = events.iter().filter_map(|(_, event)| match event {
        Event::Reset {
            sent, to: Some(to), ..
        } => Some((*sent, to)),
        _ => None,
    });
    for (sent, to) in resets {
        summary.resets += 1;
        let mut again: BTreeSet<&Place> = BTreeSet::new();
        for (_, event) in events.iter().filter(|(at, _)| *at > sent) {
            if let Event::Delivered(delivery) = event {
                again.extend(delivery.records.iter().map(|(place, _)| place));
            }
        }
        for (place, _) in end.stored.iter().filter(|(_, record)| end.is_wanted(record)) {
            let Some(to) = to.get(&place.lane()) else {
                continue;
            };
            let is_due = *to <= place.offset && !again.contains(place);
            if is_due {
                let text = format!("{place:?} did not come again after the reset at {sent} to {to:?}");
                wrong.push(text);
                break;
            }
        }
    }
}

fn exactly_once(events: &[(u64, Event)], wrong: &mut Vec<String>) {
    let mut times: BTreeMap<&Place, u32> = BTreeMap::new();
    for (_, event) in events {
        if let Event::Delivered(delivery) = event {
            for (place, _) in &delivery.records {
                *times.entry(place).or_default() += 1;
            }
        }
    }
    for (place, times) in times.into_iter().filter(|(_, times)| *times != 1) {
        wrong.push(format!("{place:?} was delivered {times} times"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::made::{end_of, fails, lane, place, record, timed};

    fn delivered(
        member: &str,
        epoch: u64,
        poll: &str,
        ack: Option<&str>,
        offsets: std::ops::Range<u64>,
    ) -> Event {
        Event::Delivered(Delivery {
            member: member.to_owned(),
            life: 1,
            sent: 0,
            epoch,
            poll_id: poll.to_owned(),
            ack: ack.map(str::to_owned),
            is_unsure: false,
            records: offsets.map(|offset| (place(offset), record(offset))).collect(),
            subscribed: ["orders".to_owned()].into(),
        })
    }

    fn acknowledged(poll: &str) -> Event {
        Event::Acknowledged(poll.to_owned())
    }

    fn watched(offset: u64, metadata: Option<&str>) -> Event {
        Event::Watched {
            sent: 0,
            life: 1,
            offsets: [(lane(), (offset, metadata.map(str::to_owned)))].into(),
        }
    }

    /// Two members, a lost answer, six records.
    fn good() -> (Vec<Event>, End) {
        let events = vec![
            delivered("a", 1, "p1", None, 0..2),
            watched(0, None),
            acknowledged("p1"),
            delivered("a", 1, "p2", Some("p1"), 2..4),
            watched(2, None),
            delivered("b", 2, "p3", None, 2..4),
            acknowledged("p3"),
            delivered("b", 2, "p4", Some("p3"), 4..6),
            watched(4, None),
            acknowledged("p4"),
            watched(6, None),
        ];
        (events, end_of(&[0, 1, 2, 3, 4, 5]))
    }

    fn run(events: Vec<Event>, end: &End) -> Verdict<Summary> {
        let events = timed(events, |event| match event {
            Event::Watched { sent, .. } | Event::Delivered(Delivery { sent, .. }) => Some(sent),
            _ => None,
        });
        check(&events, end)
    }

    /// The records that an event delivers.
    fn records(event: &mut Event) -> &mut Vec<(Place, Stored)> {
        match event {
            Event::Delivered(delivery) => &mut delivery.records,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_good_history_passes() {
        let (events, end) = good();
        assert_eq!(run(events, &end).unwrap().records, 6);
    }

    #[test]
    fn a_record_that_nobody_processed_is_seen() {
        let (mut events, end) = good();
        records(&mut events[7]).pop();
        fails(run(events.clone(), &end), "never processed");
        fails(run(events, &end), "before Place");
    }

    #[test]
    fn an_answer_that_was_never_acknowledged_does_not_count() {
        let (mut events, end) = good();
        events.remove(9);
        fails(run(events, &end), "before Place");
    }

    #[test]
    fn a_commit_of_somebody_who_is_fenced_is_seen_by_what_it_passes_and_by_its_mark() {
        let (mut events, end) = good();
        events.insert(4, watched(6, None));
        fails(run(events, &end), "was committed to 6");
        let (mut events, end) = good();
        events[4] = watched(2, Some(FORBIDDEN));
        fails(run(events, &end), "a forbidden commit");
    }

    #[test]
    fn an_offset_that_goes_back_is_seen_unless_it_was_reset_and_a_reset_brings_all_again() {
        let (mut events, end) = good();
        events.insert(9, watched(1, None));
        fails(run(events.clone(), &end), "went back from 4 to 1");
        let reset = Event::Reset {
            sent: 82,
            life: 1,
            topic: lane().0,
            to: Some([(lane(), 1)].into()),
        };
        events.insert(9, reset);
        fails(run(events.clone(), &end), "did not come again");
        events.push(delivered("c", 3, "p5", None, 1..6));
        run(events, &end).unwrap();
        // Also one into the middle of an answer from before a restart.
        let (mut events, end) = good();
        let reset = Event::Reset {
            sent: 92,
            life: 2,
            topic: lane().0,
            to: Some([(lane(), 5)].into()),
        };
        events.insert(9, reset);
        fails(run(events, &end), "did not come again");
    }

    #[test]
    fn records_out_of_their_order_are_seen() {
        let (mut events, end) = good();
        events.swap(5, 7);
        events.swap(6, 9);
        fails(run(events, &end), "was processed before");
        let (mut events, end) = good();
        *records(&mut events[7]) = (3..6).map(|offset| (place(offset), record(offset))).collect();
        fails(run(events, &end), "in epoch 2");
        let (mut events, end) = good();
        records(&mut events[7]).swap(0, 1);
        fails(run(events, &end), "in epoch 2");
    }

    #[test]
    fn a_lost_answer_that_does_not_come_again_first_is_seen() {
        let (mut events, end) = good();
        events.insert(0, delivered("a", 1, "p0", None, 0..2));
        run(events.clone(), &end).unwrap();
        events[0] = delivered("a", 1, "p0", None, 2..4);
        fails(run(events, &end), "whose answer was lost");
    }

    #[test]
    fn a_record_that_came_twice_fails_a_clean_run_only() {
        let (events, mut end) = good();
        end.is_clean = true;
        fails(run(events, &end), "was delivered 2 times");
    }

    #[test]
    fn a_record_that_does_not_match_the_filter_is_seen() {
        let (events, mut end) = good();
        end.is_filtered = true;
        let (wanted, other) = (json!({"type": "order.paid"}), json!({"type": "order.paid.twice"}));
        let with = |type_of: &dyn Fn(u64) -> serde_json::Value, keep_all: bool| {
            let (mut events, mut end) = (events.clone(), end.clone());
            for (place, record) in &mut end.stored {
                record.headers = type_of(place.offset);
            }
            for event in &mut events {
                if let Event::Delivered(delivery) = event {
                    for (place, record) in &mut delivery.records {
                        record.headers = type_of(place.offset);
                    }
                    delivery
                        .records
                        .retain(|(place, _)| keep_all || place.offset != 3);
                }
            }
            run(events, &end)
        };
        let one_other = |offset: u64| {
            if offset == 3 {
                other.clone()
            } else {
                wanted.clone()
            }
        };
        with(&one_other, false).unwrap();
        fails(with(&one_other, true), "does not match the filter and was given");
        fails(with(&|_| wanted.clone(), false), "never processed");
    }

    #[test]
    fn what_remains_in_the_end_is_seen() {
        let (events, mut end) = good();
        end.committed.insert(lane(), 5);
        fails(run(events, &end), "in the end, of 6");
        let (events, mut end) = good();
        end.lag = 3;
        fails(run(events, &end), "the lag is 3");
        let (events, mut end) = good();
        end.stored.insert(place(0), record(7));
        fails(run(events, &end), "holds something else");
    }
}
