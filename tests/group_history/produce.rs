//! Producers, and what the topics hold in the end.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::support::Rng;
use crate::world::{Client, Place, World, lock};

const KEYS: u64 = 12;

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub key: String,
    pub id: String,
    /// As JSON, with the headers' names in lower case as they were sent.
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

/// Records whose append was answered: where they are, and which.
#[derive(Default)]
pub struct Produced {
    pub acknowledged: Mutex<BTreeMap<Place, String>>,
}

/// Appends `count` requests of a few records each. A request that is not answered is sent again as another one: the
/// records of the first may be there or not.
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
        let ids: Vec<String> = (0..=rng.below(6))
            .map(|i| format!("{name}-{number}-{i}"))
            .collect();
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
            let place = Place {
                topic: topic.to_owned(),
                partition: place["partition"].as_u64().expect("a partition") as u32,
                offset: place["offset"].as_u64().expect("an offset"),
            };
            let before = acknowledged.insert(place.clone(), id);
            assert_eq!(before, None, "{place:?} was given twice");
        }
        count -= 1;
    }
}

/// All that a topic holds.
pub fn read_topic(client: &mut Client<'_>, topic: &str) -> BTreeMap<Place, Stored> {
    let mut all = BTreeMap::new();
    for (partition, _) in ends(client, topic) {
        let mut offset = 0;
        loop {
            let path = format!(
                "/v1/topics/{topic}/partitions/{}/records?offset={offset}&max_records=10000",
                partition.1
            );
            let page = client
                .insist(200, "GET", &path, &Value::Null)
                .expect("the world goes on");
            for record in page["records"].as_array().expect("records") {
                let place = Place {
                    topic: topic.to_owned(),
                    partition: partition.1,
                    offset: record["offset"].as_u64().expect("an offset"),
                };
                all.insert(place, Stored::of(record));
            }
            let next = page["next_offset"].as_u64().expect("a position");
            if next == page["end_offset"].as_u64().expect("a position") {
                break;
            }
            assert!(next > offset, "no progress at {offset} of {partition:?}");
            offset = next;
        }
    }
    all
}

/// The end of each partition of a topic.
pub fn ends(client: &mut Client<'_>, topic: &str) -> BTreeMap<(String, u32), u64> {
    let described = client
        .insist(200, "GET", &format!("/v1/topics/{topic}"), &Value::Null)
        .expect("the world goes on");
    let rows = described["partitions"].as_array().expect("partitions");
    rows.iter()
        .map(|row| {
            let partition = row["partition"].as_u64().expect("a partition") as u32;
            (
                (topic.to_owned(), partition),
                row["end_offset"].as_u64().expect("a position"),
            )
        })
        .collect()
}

/// What a group has committed in each partition, with the metadata.
pub fn offsets(answer: &Value) -> BTreeMap<(String, u32), (u64, Option<String>)> {
    let rows = answer["offsets"].as_array().expect("offsets");
    rows.iter()
        .map(|row| {
            let place = Place::of(row);
            (
                place.lane(),
                (place.offset, row["metadata"].as_str().map(str::to_owned)),
            )
        })
        .collect()
}

/// Waits until a group has committed all that is in these topics, and has no lag.
pub fn until_drained(world: &World, group: &str, topics: &[&str]) {
    let mut client = world.client();
    let mut other = world.client();
    client.until(&format!("/v1/groups/{group}/offsets"), |answer| {
        if answer.status != 200 {
            return false;
        }
        let committed = offsets(&answer.json());
        topics.iter().all(|topic| {
            ends(&mut other, topic)
                .into_iter()
                .all(|(lane, end)| committed.get(&lane).map_or(0, |(offset, _)| *offset) == end)
        })
    });
}
