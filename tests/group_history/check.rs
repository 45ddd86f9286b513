//! Checks of the end of any history.

use std::collections::BTreeMap;

use crate::produce::Stored;
use crate::world::Place;

/// A topic and a partition.
pub type Lane = (String, u32);

/// A summary for the report, or all that is wrong.
pub type Verdict<S> = Result<S, Vec<String>>;

/// How it ended.
#[derive(Clone, Debug, Default)]
pub struct End {
    pub stored: BTreeMap<Place, Stored>,
    pub committed: BTreeMap<Lane, u64>,
    /// Records whose append was acknowledged.
    pub acknowledged: BTreeMap<Place, String>,
    pub lag: u64,
    /// Nothing was lost, killed, released, rejected or reset.
    pub is_clean: bool,
    /// The group has the filter of these tests.
    pub is_filtered: bool,
}

impl End {
    /// Whether the group is to be given this record.
    pub fn is_wanted(&self, record: &Stored) -> bool {
        !self.is_filtered || crate::produce::is_wanted(record)
    }
}

/// All acknowledged records are there, and everything is committed.
pub fn end(end: &End, wrong: &mut Vec<String>) {
    for (place, id) in &end.acknowledged {
        if end.stored.get(place).map(|record| &record.id) != Some(id) {
            wrong.push(format!("{place:?} was given to {id} and holds something else"));
        }
    }
    let ends = end.stored.keys().map(|place| (place.lane(), place.offset + 1));
    for (lane, offset) in ends.collect::<BTreeMap<Lane, u64>>() {
        let committed = end.committed.get(&lane).copied().unwrap_or(0);
        if committed != offset {
            let text = format!("{lane:?} is committed to {committed} in the end, of {offset}");
            wrong.push(text);
        }
    }
    if end.lag != 0 {
        wrong.push(format!("the lag is {} in the end", end.lag));
    }
}

/// Histories for the tests of the checkers.
#[cfg(test)]
pub mod made {
    use serde_json::json;

    use super::*;

    pub fn place(offset: u64) -> Place {
        let topic = "orders".to_owned();
        Place {
            topic,
            partition: 0,
            offset,
            round: 0,
        }
    }

    pub fn lane() -> Lane {
        place(0).lane()
    }

    /// The record with the number `id`.
    pub fn record(id: u64) -> Stored {
        let id = format!("id-{id}");
        let value = json!({ "id": id });
        Stored {
            key: "k".to_owned(),
            value,
            headers: json!({}),
            id,
        }
    }

    /// The end of a history whose records have these ids, all of them acknowledged and committed.
    pub fn end_of(ids: &[u64]) -> End {
        let records = (0..).zip(ids).map(|(offset, id)| (place(offset), record(*id)));
        let stored: BTreeMap<Place, Stored> = records.collect();
        let rows = stored.iter();
        let acknowledged = rows.map(|(place, record)| (place.clone(), record.id.clone()));
        let committed = [(lane(), ids.len() as u64)].into();
        End {
            acknowledged: acknowledged.collect(),
            committed,
            stored,
            ..End::default()
        }
    }

    /// Events at 1, 11, 21, ...; `sent` returns the field that gets the time one before.
    pub fn timed<E>(events: Vec<E>, sent: impl Fn(&mut E) -> Option<&mut u64>) -> Vec<(u64, E)> {
        let timed = |(at, mut event)| {
            if let Some(sent) = sent(&mut event) {
                *sent = at - 1;
            }
            (at, event)
        };
        (1..).step_by(10).zip(events).map(timed).collect()
    }

    #[track_caller]
    pub fn fails<S: std::fmt::Debug>(verdict: Verdict<S>, with: &str) {
        let wrong = verdict.expect_err("the checker sees it");
        assert!(wrong.iter().any(|wrong| wrong.contains(with)), "{wrong:?}");
    }
}
