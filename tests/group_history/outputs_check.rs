//! What members acknowledged and produced in one call, and the checks of it. Pure: a history in, failures out.
//!
//! Each acknowledged record has one output. An output says which record it came of, and which call brought it: a
//! repeated call has a number of its own, so that it shows which of them was stored. Events are ordered as in
//! `ordered_check`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::check::{self, End as Ended, Lane, Verdict};
use crate::produce::Stored;
use crate::shared_check::letters::{header, origin};
use crate::world::Place;

/// How many of a member's calls are remembered.
const REMEMBERED: usize = 16;

#[derive(Clone, Debug)]
pub enum Event {
    /// An answer to a poll that was sent at the time `sent`.
    Given { sent: u64, places: Vec<Place> },
    /// A call with outputs is about to be sent.
    Calling {
        /// Its number.
        call: u64,
        member: String,
        /// What it acknowledges: a repeat has the same.
        identity: String,
        /// The records that its outputs came of, in their order.
        of: Vec<Place>,
    },
    /// It was answered: its outputs are there.
    Produced {
        call: u64,
        places: Vec<Place>,
        /// Whether an earlier call stored them; a refusal of a poll that had stored its outputs does not say it.
        is_replayed: Option<bool>,
    },
    /// It was refused: none of its outputs is there.
    Refused { call: u64 },
}

/// How it ended.
#[derive(Clone, Debug, Default)]
pub struct End {
    pub end: Ended,
    /// Everything in the topic of outputs.
    pub outputs: BTreeMap<Place, Stored>,
    /// Everything in the topics of dead letters, and the state of each.
    pub dead: BTreeMap<Place, Stored>,
    pub states: Vec<(Place, String)>,
    pub is_ordered: bool,
    /// A queue by key.
    pub is_by_key: bool,
}

/// For the report.
#[derive(Debug, Default)]
#[allow(dead_code, reason = "printed")]
pub struct Summary {
    pub records: usize,
    pub calls: usize,
    pub refused: usize,
    pub replayed: usize,
    pub in_doubt: usize,
    pub dead: usize,
}

/// An output as it is stored.
struct Output {
    of: Place,
    call: u64,
    is_reject: bool,
}

impl Output {
    fn of(record: &Stored) -> Option<Self> {
        let value = &record.value;
        Some(Self {
            of: Place::of(&value["of"]).in_round(value["round"].as_u64()?),
            call: value["call"].as_u64()?,
            is_reject: value["is_reject"].as_bool()?,
        })
    }
}

/// Finds everything wrong with a history; `events` are in order.
pub fn check(events: &[(u64, Event)], end: &End) -> Verdict<Summary> {
    let mut wrong = Vec::new();
    check::end(&end.end, &mut wrong);
    let mut summary = Summary {
        records: end.end.stored.len(),
        dead: end.dead.len(),
        ..Summary::default()
    };
    let mut outputs: BTreeMap<&Place, Output> = BTreeMap::new();
    for (place, record) in &end.outputs {
        let output = Output::of(record).expect("members wrote it");
        if end.end.stored.get(&output.of.first()).map(|input| &input.key) != Some(&record.key) {
            wrong.push(format!("the output at {place:?} is of no record: {record:?}"));
        }
        outputs.insert(place, output);
    }
    once(&outputs, end, &mut wrong);
    calls(events, &outputs, &mut wrong, &mut summary);
    remembered(events, end, &mut wrong);
    never_again(events, &mut wrong);
    if end.is_ordered || end.is_by_key {
        in_order(&outputs, end, &mut wrong);
    }
    if wrong.is_empty() { Ok(summary) } else { Err(wrong) }
}

/// Each record that the group wants has one output, and one more for each time that it was redriven, but none where nobody settled it.
fn once(outputs: &BTreeMap<&Place, Output>, end: &End, wrong: &mut Vec<String>) {
    let states: BTreeMap<&Place, &str> = end.states.iter().map(|(at, state)| (at, &**state)).collect();
    let (mut redriven, mut exhausted, mut rejected) = (Counts::new(), Counts::new(), Counts::new());
    for (at, letter) in &end.dead {
        let Some(place) = origin(letter).map(|place| place.first()) else {
            wrong.push(format!("a dead letter does not say what it is: {letter:?}"));
            continue;
        };
        let died = header(letter, "dlq_reason").is_some_and(|reason| reason.starts_with("delivered"));
        let which = if died { &mut exhausted } else { &mut rejected };
        *which.entry(place.clone()).or_default() += 1;
        if states.get(at) == Some(&"redriven") {
            *redriven.entry(place).or_default() += 1;
        }
    }
    let (mut found, mut refused) = (Counts::new(), Counts::new());
    for output in outputs.values() {
        *found.entry(output.of.first()).or_default() += 1;
        *refused.entry(output.of.first()).or_default() += i64::from(output.is_reject);
    }
    let count = |counts: &Counts, place: &Place| counts.get(place).copied().unwrap_or(0);
    for (place, record) in &end.end.stored {
        let first = i64::from(end.end.is_wanted(record));
        let expected = first + count(&redriven, place) - count(&exhausted, place);
        let found = count(&found, place);
        if found != expected {
            wrong.push(format!("{place:?} has {found} outputs instead of {expected}"));
        }
        let (expected, found) = (count(&rejected, place), count(&refused, place));
        if found != expected {
            wrong.push(format!(
                "{place:?} was rejected {expected} times, with {found} outputs"
            ));
        }
    }
}

type Counts = BTreeMap<Place, i64>;

/// A call's outputs are there as a whole or not at all, and as the answers say.
fn calls(
    events: &[(u64, Event)],
    outputs: &BTreeMap<&Place, Output>,
    wrong: &mut Vec<String>,
    summary: &mut Summary,
) {
    let mut called: BTreeMap<u64, (&str, &str, &Vec<Place>)> = BTreeMap::new();
    let mut answered: BTreeSet<u64> = BTreeSet::new();
    let mut stored: BTreeMap<u64, BTreeSet<&Place>> = BTreeMap::new();
    for output in outputs.values() {
        stored.entry(output.call).or_default().insert(&output.of);
    }
    for (at, event) in events {
        match event {
            Event::Given { .. } => {}
            Event::Calling {
                call,
                member,
                identity,
                of,
            } => {
                summary.calls += 1;
                called.insert(*call, (member, identity, of));
                let some = stored.get(call).map_or(0, BTreeSet::len);
                if some != 0 && some != of.len() {
                    wrong.push(format!(
                        "of call {call} at {at} are {some} outputs there, of {}",
                        of.len()
                    ));
                }
            }
            Event::Produced {
                call,
                places,
                is_replayed,
            } => {
                answered.insert(*call);
                summary.replayed += usize::from(*is_replayed == Some(true));
                let found: Option<Vec<&Output>> = places.iter().map(|place| outputs.get(place)).collect();
                let Some(found) = found.filter(|found| !found.is_empty()) else {
                    wrong.push(format!(
                        "call {call} was answered with places that hold no outputs: {places:?}"
                    ));
                    continue;
                };
                let first = found[0].call;
                let of: Vec<&Place> = found.iter().map(|output| &output.of).collect();
                let whole = called.get(&first).map(|(_, _, of)| of.iter().collect::<Vec<_>>());
                if found.iter().any(|output| output.call != first) || whole.as_ref() != Some(&of) {
                    wrong.push(format!(
                        "call {call} was answered with the places of other outputs: {places:?}"
                    ));
                    continue;
                }
                let who = |call: &u64| called.get(call).map(|(member, identity, _)| (*member, *identity));
                if who(&first) != who(call) {
                    wrong.push(format!(
                        "call {call} was answered with the outputs of call {first}"
                    ));
                }
                if *is_replayed == Some(first == *call) {
                    wrong.push(format!(
                        "call {call} has outputs of call {first}; replayed: {is_replayed:?}"
                    ));
                }
            }
            Event::Refused { call } => {
                answered.insert(*call);
                summary.refused += 1;
                if stored.contains_key(call) {
                    wrong.push(format!(
                        "call {call} was refused at {at} and its outputs are there"
                    ));
                }
            }
        }
    }
    for call in stored.keys().filter(|call| !called.contains_key(call)) {
        wrong.push(format!("nobody made call {call}, whose outputs are there"));
    }
    summary.in_doubt = called.keys().filter(|call| !answered.contains(call)).count();
}

/// A call that was answered and is repeated soon is answered in the same way. Not if one of its records was redriven: what
/// is given again is acknowledged anew.
fn remembered(events: &[(u64, Event)], end: &End, wrong: &mut Vec<String>) {
    let states = end.states.iter().filter(|(_, state)| state == "redriven");
    let redriven = states.filter_map(|(at, _)| Some(origin(end.dead.get(at)?)?.first()));
    let redriven: BTreeSet<Place> = redriven.collect();
    // Each member's identities, in the order in which they were first sent; and the first answer to each.
    let mut sent: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut answers: HashMap<(&str, &str), &Vec<Place>> = HashMap::new();
    let mut calls: HashMap<u64, (&str, &str)> = HashMap::new();
    // Repeats that must be answered with these places.
    let mut expected: HashMap<u64, &Vec<Place>> = HashMap::new();
    for (_, event) in events {
        match event {
            Event::Given { .. } => {}
            Event::Calling {
                call,
                member,
                identity,
                of,
            } => {
                calls.insert(*call, (member, identity));
                let sent = sent.entry(member).or_default();
                let before = sent.iter().position(|before| *before == &**identity);
                match (before, answers.get(&(&**member, &**identity))) {
                    (Some(before), Some(places))
                        if sent.len() - before <= REMEMBERED
                            && !of.iter().any(|place| redriven.contains(&place.first())) =>
                    {
                        expected.insert(*call, places);
                    }
                    (None, _) => sent.push(identity),
                    _ => {}
                }
            }
            Event::Produced { call, places, .. } => {
                if let Some(first) = expected.get(call).filter(|first| **first != places) {
                    wrong.push(format!(
                        "call {call} was answered with {places:?}, at first with {first:?}"
                    ));
                }
                if let Some(who) = calls.get(call) {
                    answers.entry(*who).or_insert(places);
                }
            }
            Event::Refused { call } => {
                if let (Some(first), Some(who)) = (expected.get(call), calls.get(call)) {
                    wrong.push(format!(
                        "call {call} of {who:?} is forgotten; at first it produced {first:?}"
                    ));
                }
            }
        }
    }
}

/// A record is not given again once its output is there for certain.
fn never_again(events: &[(u64, Event)], wrong: &mut Vec<String>) {
    let mut called: HashMap<u64, &Vec<Place>> = HashMap::new();
    let mut done: BTreeMap<&Place, u64> = BTreeMap::new();
    for (at, event) in events {
        match event {
            Event::Calling { call, of, .. } => drop(called.insert(*call, of)),
            Event::Produced { call, .. } => {
                for place in called.get(call).into_iter().flat_map(|of| of.iter()) {
                    done.entry(place).or_insert(*at);
                }
            }
            Event::Given { sent, places } => {
                for place in places {
                    if let Some(done) = done.get(place).filter(|done| *done < sent) {
                        wrong.push(format!("{place:?} was done at {done} and given again at {at}"));
                    }
                }
            }
            Event::Refused { .. } => {}
        }
    }
}

/// Of each partition, the outputs of a key are in the order of its records; in a queue by key, where records that were
/// redriven or that waited for their time come out of order.
fn in_order(outputs: &BTreeMap<&Place, Output>, end: &End, wrong: &mut Vec<String>) {
    let mut last: BTreeMap<(Lane, &str), &Place> = BTreeMap::new();
    let mut seen: BTreeSet<&Place> = BTreeSet::new();
    for (at, output) in outputs {
        let Some(input) = end.end.stored.get(&output.of) else {
            continue;
        };
        let is_apart = !seen.insert(&output.of) || header(input, "deliver_at").is_some();
        if end.is_by_key && is_apart {
            continue;
        }
        let before = last.insert((output.of.lane(), &input.key), &output.of);
        if let Some(before) = before.filter(|before| !before.is_before(&output.of)) {
            wrong.push(format!(
                "the output of {:?} at {at:?} comes after that of {before:?}",
                output.of
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::made::{end_of, fails, place, record};

    fn out(offset: u64) -> Place {
        Place::in_lane(&("outputs".to_owned(), 0), offset)
    }

    fn output(of: u64, call: u64) -> Stored {
        let mut value = place(of).json();
        value = json!({"id": format!("o{of}"), "of": value, "round": 0, "call": call, "is_reject": false});
        Stored { value, ..record(of) }
    }

    fn calling(call: u64, member: &str, identity: &str, of: &[u64]) -> Event {
        Event::Calling {
            call,
            member: member.to_owned(),
            identity: identity.to_owned(),
            of: of.iter().map(|offset| place(*offset)).collect(),
        }
    }

    fn produced(call: u64, places: &[u64], is_replayed: bool) -> Event {
        Event::Produced {
            call,
            places: places.iter().map(|offset| out(*offset)).collect(),
            is_replayed: Some(is_replayed),
        }
    }

    fn given(sent: u64, places: &[u64]) -> Event {
        let places = places.iter().map(|offset| place(*offset)).collect();
        Event::Given { sent, places }
    }

    /// Call 1 is answered and repeated as call 2; call 3 is lost, and stored; call 4 is refused.
    fn good() -> (Vec<Event>, End) {
        let events = vec![
            given(1, &[0, 1]),
            calling(1, "a", "p1", &[0, 1]),
            produced(1, &[0, 1], false),
            calling(2, "a", "p1", &[0, 1]),
            produced(2, &[0, 1], true),
            given(35, &[2]),
            calling(3, "a", "p2", &[2]),
            calling(4, "b", "p3", &[2]),
            Event::Refused { call: 4 },
        ];
        let outputs = [output(0, 1), output(1, 1), output(2, 3)];
        let end = End {
            end: end_of(&[0, 1, 2]),
            outputs: (0..).map(out).zip(outputs).collect(),
            is_ordered: true,
            ..End::default()
        };
        (events, end)
    }

    fn run(events: Vec<Event>, end: &End) -> Verdict<Summary> {
        let events: Vec<(u64, Event)> = (1..).step_by(10).zip(events).collect();
        check(&events, end)
    }

    #[test]
    fn a_good_history_passes() {
        let (events, end) = good();
        let summary = run(events, &end).unwrap();
        let found = [summary.calls, summary.replayed, summary.refused, summary.in_doubt];
        assert_eq!(found, [4, 1, 1, 1]);
    }

    #[test]
    fn an_output_that_is_missing_or_there_twice_is_seen() {
        let (events, mut end) = good();
        end.outputs.insert(out(3), output(2, 4));
        fails(run(events.clone(), &end), "has 2 outputs instead of 1");
        fails(
            run(events, &end),
            "call 4 was refused at 81 and its outputs are there",
        );
        let (events, mut end) = good();
        end.outputs.remove(&out(2));
        fails(run(events, &end), "has 0 outputs instead of 1");
    }

    #[test]
    fn an_output_of_no_record_is_seen() {
        let (events, mut end) = good();
        end.outputs.insert(out(3), output(7, 3));
        fails(run(events, &end), "is of no record");
    }

    #[test]
    fn half_a_call_is_seen() {
        let (events, mut end) = good();
        end.outputs.insert(out(1), output(1, 3));
        fails(run(events, &end), "of call 1 at 11 are 1 outputs there, of 2");
    }

    #[test]
    fn wrong_answers_are_seen() {
        let (mut events, end) = good();
        events[2] = produced(1, &[0, 1], true);
        fails(run(events, &end), "replayed: Some(true)");
        let (mut events, end) = good();
        events[4] = produced(2, &[0, 1], false);
        fails(run(events, &end), "replayed: Some(false)");
        let (mut events, end) = good();
        events[4] = produced(2, &[0, 2], true);
        fails(run(events.clone(), &end), "the places of other outputs");
        events[4] = produced(2, &[0, 9], true);
        fails(run(events, &end), "hold no outputs");
        let (mut events, end) = good();
        events[8] = produced(4, &[2], true);
        fails(
            run(events, &end),
            "call 4 was answered with the outputs of call 3",
        );
        let (mut events, end) = good();
        events.remove(6);
        fails(run(events, &end), "nobody made call 3");
    }

    #[test]
    fn a_call_that_is_forgotten_too_soon_is_seen() {
        let (mut events, end) = good();
        events[4] = Event::Refused { call: 2 };
        fails(run(events.clone(), &end), "is forgotten");
        // After sixteen others it may be.
        let others = (100..116).map(|call| calling(call, "a", &format!("q{call}"), &[2]));
        events.splice(3..3, others);
        run(events.clone(), &end).unwrap();
        events.remove(3);
        fails(run(events, &end), "is forgotten");
    }

    #[test]
    fn a_record_that_is_done_and_comes_again_is_seen() {
        let (mut events, end) = good();
        events.push(given(85, &[1]));
        fails(run(events, &end), "was done at 21 and given again");
    }

    #[test]
    fn outputs_out_of_order_are_seen_where_the_group_is_ordered() {
        let (mut events, mut end) = good();
        end.outputs = [output(1, 1), output(0, 1), output(2, 3)]
            .into_iter()
            .zip(0..)
            .map(|(output, at)| (out(at), output))
            .collect();
        for event in &mut events {
            if let Event::Calling { of, .. } = event
                && of.len() == 2
            {
                of.swap(0, 1);
            }
        }
        fails(run(events.clone(), &end), "comes after that of");
        end.is_ordered = false;
        run(events.clone(), &end).unwrap();
        end.is_by_key = true;
        fails(run(events.clone(), &end), "comes after that of");
        end.end.stored.get_mut(&place(1)).expect("it is there").headers = json!({"deliver_at": "1"});
        run(events, &end).unwrap();
    }

    #[test]
    fn an_output_of_what_the_group_does_not_want_is_seen() {
        let (events, mut end) = good();
        end.end.is_filtered = true;
        for record in end.end.stored.values_mut() {
            record.headers = json!({"type": "order.paid"});
        }
        run(events.clone(), &end).unwrap();
        end.end.stored.get_mut(&place(2)).expect("it is there").headers = json!({"type": "invoice"});
        fails(run(events.clone(), &end), "has 1 outputs instead of 0");
        end.outputs.remove(&out(2));
        run(events, &end).unwrap();
    }

    #[test]
    fn dead_letters_and_redrives_change_what_is_expected() {
        let letter = |offset: u64, reason: &str| Stored {
            headers: json!({"dlq_topic": "orders", "dlq_partition": "0", "dlq_offset": offset.to_string(),
                "dlq_reason": reason}),
            ..record(offset)
        };
        let grave = Place::in_lane(&("orders.dlq".to_owned(), 0), 0);
        let with = |letter: Stored, state: &str| {
            let (events, mut end) = good();
            end.is_ordered = false;
            end.dead = [(grave.clone(), letter)].into();
            end.states = vec![(grave.clone(), state.to_owned())];
            run(events, &end)
        };
        let died = "delivered 4 times and not settled";
        fails(with(letter(2, died), "waiting"), "has 1 outputs instead of 0");
        with(letter(2, died), "redriven").unwrap();
        fails(
            with(letter(2, "no"), "waiting"),
            "was rejected 1 times, with 0 outputs",
        );
        fails(with(letter(2, "no"), "redriven"), "has 1 outputs instead of 2");
    }
}
