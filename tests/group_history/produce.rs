//! Producers, and the contents of the topics in the end.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::check::Lane;
use crate::support::Rng;
use crate::world::{Client, Place, World, lock, number};

const KEYS: u64 = 12;

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub key: String,
    pub id: String,
    /// As JSON; header names are in lower case, as they were sent.
    pub value: Value,
    pub headers: Value,
}

impl Stored {
    pub fn of(record: &Value) -> Self {
        Self {
            key: record["key"].as_str().expect("a key").to_owned(),
            id: record["value"]["id"].as_str().expect("an id").to_owned(),
            value: record["value"].clone(),
            headers: record["headers"].clone(),
        }
    }
}

/// Acknowledged records: their places and ids.
#[derive(Default)]
pub struct Produced {
    pub acknowledged: Mutex<BTreeMap<Place, String>>,
}

/// Appends `count` requests of a few records each. A request without an answer is replaced by a new one: the records of
/// the first may be there or not.
pub fn produce(
    world: &World,
    produced: &Produced,
    name: &str,
    topics: &[&str],
    mut count: u64,
    mut rng: Rng,
) {
    let mut client = world.client();
    let mut number = 0_u64;
    while count > 0 && !world.is_over() {
        let topic = topics[rng.below(topics.len() as u64) as usize];
        let ids = (0..=rng.below(6)).map(|i| format!("{name}-{number}-{i}"));
        let ids: Vec<String> = ids.collect();
        number += 1;
        let records: Vec<Value> = ids
            .iter()
            .map(|id| {
                let is_poison = rng.below(24) == 0;
                json!({"key": format!("k{}", rng.below(KEYS)), "value": {"id": id, "poison": is_poison},
                    "headers": {"from": name}})
            })
            .collect();
        let body = json!({ "records": records });
        let Some(answered) = client.call("POST", &format!("/v1/topics/{topic}/records"), &body) else {
            continue;
        };
        let answer = answered.answer;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let offsets = answer.json();
        let offsets = offsets["offsets"].as_array().expect("offsets");
        assert_eq!(offsets.len(), ids.len());
        let mut acknowledged = lock(&produced.acknowledged);
        for (place, id) in offsets.iter().zip(ids) {
            let place = Place::within(topic, place);
            let before = acknowledged.insert(place.clone(), id);
            assert_eq!(before, None, "{place:?} was given twice");
        }
        count -= 1;
    }
}

/// All records of a topic.
pub fn read_topic(client: &mut Client<'_>, topic: &str) -> BTreeMap<Place, Stored> {
    let mut all = BTreeMap::new();
    for ((_, partition), _) in ends(client, topic) {
        let path = format!("/v1/topics/{topic}/partitions/{partition}/records?max_records=10000");
        let mut offset = 0;
        loop {
            let page = client.get(&format!("{path}&offset={offset}"));
            let records = page["records"].as_array().expect("records").iter();
            all.extend(records.map(|record| (Place::within(topic, record), Stored::of(record))));
            let next = number(&page, "next_offset");
            if next == number(&page, "end_offset") {
                break;
            }
            assert!(next > offset, "no progress at {offset} of {topic}/{partition}");
            offset = next;
        }
    }
    all
}

/// The end of each partition of a topic.
pub fn ends(client: &mut Client<'_>, topic: &str) -> BTreeMap<Lane, u64> {
    let described = client.get(&format!("/v1/topics/{topic}"));
    let rows = described["partitions"].as_array().expect("partitions").iter();
    let lane = |row| (topic.to_owned(), number(row, "partition") as u32);
    rows.map(|row| (lane(row), number(row, "end_offset"))).collect()
}

/// The offset that a group has committed in each partition, with its metadata.
pub fn offsets(answer: &Value) -> BTreeMap<Lane, (u64, Option<String>)> {
    let row = |row: &Value| {
        let place = Place::of(row);
        (
            place.lane(),
            (place.offset, row["metadata"].as_str().map(str::to_owned)),
        )
    };
    answer["offsets"]
        .as_array()
        .expect("offsets")
        .iter()
        .map(row)
        .collect()
}

/// Waits until a group has committed everything in these topics, and has no lag.
pub fn until_drained(world: &World, group: &str, topics: &[&str]) {
    let mut client = world.client();
    let mut other = world.client();
    client.until(&format!("/v1/groups/{group}/offsets"), |answer| {
        if answer.status != 200 {
            return false;
        }
        let committed = offsets(&answer.json());
        let ends = topics.iter().flat_map(|topic| ends(&mut other, topic));
        let mut ends = ends.map(|(lane, end)| (committed.get(&lane).map_or(0, |row| row.0), end));
        ends.all(|(committed, end)| committed == end)
    });
    // A redriven record lowers no committed offset.
    client.until(&format!("/v1/groups/{group}/lag"), |answer| {
        answer.status == 200 && answer.json()["lag"] == 0
    });
}
