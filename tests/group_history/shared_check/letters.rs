//! Dead letters, and what became of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::fates::Fates;
use super::{End, Event, Redrive};
use crate::produce::Stored;
use crate::world::Place;

/// A dead letter by the record that it came from.
pub struct Letter {
    pub is_exhausted: bool,
    pub state: String,
}

/// The redrives of a history.
pub struct Redrives<'e> {
    /// When each was sent; dry runs are not among them.
    sent: Vec<(u64, &'e Redrive)>,
    /// The dead letters by origin: where each lies, and its reason.
    letters: BTreeMap<Place, (&'e Place, &'e str)>,
}

impl<'e> Redrives<'e> {
    pub fn of(events: &'e [(u64, Event)], end: &'e End) -> Self {
        let sent = events.iter().filter_map(|(at, event)| match event {
            Event::Redriving(redrive) if !redrive.dry_run => Some((*at, redrive)),
            _ => None,
        });
        let letters = end.dead.iter().filter_map(|(at, letter)| {
            let reason = header(letter, "dlq_reason")?;
            Some((origin(letter)?, (at, reason)))
        });
        Self {
            sent: sent.collect(),
            letters: letters.collect(),
        }
    }

    /// When somebody first asked for this record's dead letter to be given back.
    pub fn began(&self, place: &Place) -> Option<u64> {
        self.first(place, false)
    }

    fn first(&self, place: &Place, discard: bool) -> Option<u64> {
        let (letter, reason) = self.letters.get(place)?;
        let mut sent = self.sent.iter();
        let first = sent.find(|(_, redrive)| redrive.discard == discard && redrive.means(letter, reason));
        first.map(|(at, _)| *at)
    }
}

impl Redrive {
    fn means(&self, letter: &Place, reason: &str) -> bool {
        self.topic.as_ref().is_none_or(|topic| *topic == letter.topic)
            && self
                .reason
                .as_ref()
                .is_none_or(|prefix| reason.starts_with(&**prefix))
            && self
                .offsets
                .as_ref()
                .is_none_or(|offsets| offsets.contains(&(letter.partition, letter.offset)))
    }
}

pub fn header<'a>(letter: &'a Stored, name: &str) -> Option<&'a str> {
    letter.headers.get(name).and_then(Value::as_str)
}

fn header_number(letter: &Stored, name: &str) -> Option<u64> {
    header(letter, name).and_then(|text| text.parse().ok())
}

/// The place that a dead letter names.
pub fn origin(letter: &Stored) -> Option<Place> {
    let lane = (
        header(letter, "dlq_topic")?.to_owned(),
        header_number(letter, "dlq_partition")? as u32,
    );
    let place = Place::in_lane(&lane, header_number(letter, "dlq_offset")?);
    Some(place.in_round(header_number(letter, "dlq_redriven").unwrap_or(0)))
}

/// The dead letters by origin. Each must be there once, with true headers, and in one state.
pub fn dead_letters(end: &End, fates: &Fates, wrong: &mut Vec<String>) -> BTreeMap<Place, Letter> {
    let mut states: BTreeMap<&Place, &str> = BTreeMap::new();
    for (at, state) in &end.states {
        if let Some(other) = states.insert(at, state) {
            wrong.push(format!("the dead letter at {at:?} is {state} and {other}"));
        }
        if !end.dead.contains_key(at) {
            wrong.push(format!("there is no dead letter at {at:?}, which is {state}"));
        }
    }
    let mut dead = BTreeMap::new();
    for (at, letter) in &end.dead {
        let (Some(place), Some(deliveries), Some(reason)) = (
            origin(letter),
            header_number(letter, "dlq_deliveries"),
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
        let fate = fates.by_place.get(&place);
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
        let Some(state) = states.get(at) else {
            wrong.push(format!("the dead letter of {place:?} is in no list"));
            continue;
        };
        let state = (*state).to_owned();
        let letter = Letter { is_exhausted, state };
        if dead.insert(place.clone(), letter).is_some() {
            wrong.push(format!("{place:?} is twice in the dead letters"));
        }
    }
    dead
}

/// A dead letter is redriven or discarded only if somebody asked for it, and once; the answers count them.
pub fn redrives(
    events: &[(u64, Event)],
    redrives: &Redrives<'_>,
    dead: &BTreeMap<Place, Letter>,
    fates: &Fates,
    wrong: &mut Vec<String>,
) {
    for (place, letter) in dead {
        let discard = match &*letter.state {
            "redriven" => false,
            "discarded" => true,
            _ => continue,
        };
        let Some(began) = redrives.first(place, discard) else {
            wrong.push(format!("nobody asked for {place:?} to be {}", letter.state));
            continue;
        };
        let next = fates.by_place.get(&place.clone().in_round(place.round + 1));
        if let Some(early) = next.and_then(|fate| fate.given.iter().find(|given| given.at < began)) {
            wrong.push(format!(
                "{place:?} was given again before it was redriven: {early:?}"
            ));
        }
    }
    let mut asked = BTreeSet::new();
    let (mut redriven, mut discarded) = (0, 0);
    for (at, event) in events {
        match event {
            Event::Redriving(redrive) if !redrive.dry_run => drop(asked.insert(*at)),
            Event::Redriven {
                sent,
                redriven: some,
                discarded: others,
            } if asked.remove(sent) => {
                redriven += some;
                discarded += others;
            }
            _ => {}
        }
    }
    // What calls did whose answers were lost is not known.
    let all_answered = asked.is_empty();
    for (state, counted) in [("redriven", redriven), ("discarded", discarded)] {
        let found = dead.values().filter(|letter| letter.state == state).count() as u64;
        if counted > found || (all_answered && counted < found) {
            wrong.push(format!(
                "{found} dead letters are {state}, and answers counted {counted}"
            ));
        }
    }
}

/// Whether this record left the queue because nobody settled it.
pub fn is_exhausted(dead: &BTreeMap<Place, Letter>, place: &Place) -> bool {
    dead.get(place).is_some_and(|letter| letter.is_exhausted)
}
