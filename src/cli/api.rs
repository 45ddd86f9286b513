//! The answers of the HTTP API that more than one command reads.
//!
//! Members that a command does not need are left out, so an answer may grow without breaking an older client.
//! Every request returns the [`Failure`] of its (last) answer.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::client::{Client, Failure, Route};
use super::deliver::PATIENCE;
use super::output::note;
use super::signal::Interrupt;

/// A topic as `GET /v1/topics/{topic}` describes it.
#[derive(Debug, Deserialize)]
pub(crate) struct Topic {
    pub(crate) name: String,
    /// Its identity: no other topic ever has it, not even a later topic of the same name.
    #[serde(default)]
    pub(crate) id: String,
    pub(crate) partition_count: u32,
    /// Each of them; lists of topics may leave them out.
    #[serde(default)]
    pub(crate) partitions: Vec<Partition>,
    #[serde(default)]
    pub(crate) config: Value,
}

/// A partition of a [`Topic`].
#[derive(Debug, Deserialize)]
pub(crate) struct Partition {
    pub(crate) partition: u32,
    /// The first offset that can be read.
    pub(crate) log_start_offset: u64,
    /// The offset after the last one that can be read.
    pub(crate) end_offset: u64,
    /// Bytes on disk; `None` if damage makes the size unknown.
    pub(crate) size_bytes: Option<u64>,
    pub(crate) segments: Option<u64>,
    pub(crate) first_timestamp: Option<i64>,
    pub(crate) last_timestamp: Option<i64>,
    /// The first offset of known damage.
    pub(crate) damaged_offset: Option<u64>,
}

impl Topic {
    /// Asks for one topic.
    /// Errors: [`Failure`]; the problem `unknown-topic` if no topic has that name.
    pub(crate) fn describe(client: &Client, name: &str) -> Result<Self, Failure> {
        client.get(&topic_route(name))
    }

    /// The same, but waits for a server that is overloaded or restarts. If the first connection fails, the address is
    /// more likely mistyped, so this does not wait.
    pub(crate) fn describe_patiently(
        client: &Client,
        name: &str,
        interrupt: &Interrupt,
    ) -> Result<Self, Failure> {
        patiently(interrupt, false, || Self::describe(client, name))
    }

    /// Its records between log start and end, counted by offsets.
    pub(crate) fn records(&self) -> u64 {
        let records = |p: &Partition| p.end_offset.saturating_sub(p.log_start_offset);
        self.partitions.iter().map(records).sum()
    }

    /// How long it remembers an `Idempotency-Key`; none if it does not say.
    pub(crate) fn dedupe_window(&self) -> Option<Duration> {
        let window = self.config.get("dedupe_window_ms")?.get("value")?.as_u64()?;
        Some(Duration::from_millis(window))
    }

    /// The partitions that were chosen, or all.
    /// Errors: The one that the topic does not have.
    pub(crate) fn choose(&self, chosen: &[u32]) -> anyhow::Result<Vec<&Partition>> {
        if let Some(missing) = chosen.iter().find(|number| **number >= self.partition_count) {
            let (name, last) = (&self.name, self.partition_count.saturating_sub(1));
            anyhow::bail!("topic {name} has no partition {missing}; its partitions are 0 to {last}");
        }
        let is_chosen = |p: &&Partition| chosen.is_empty() || chosen.contains(&p.partition);
        Ok(self.partitions.iter().filter(is_chosen).collect())
    }
}

/// Repeats `ask` until it has an answer or a permanent failure; waits [`PATIENCE`] in all. If the server has never
/// answered (`is_known` false) and the first connection fails, the address is more likely mistyped: this does not wait.
pub(crate) fn patiently<T>(
    interrupt: &Interrupt,
    is_known: bool,
    mut ask: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut waited = Duration::ZERO;
    loop {
        let failure = match ask() {
            Err(failure) if failure.passes() => failure,
            answer => return answer,
        };
        let is_not_there = !is_known && waited.is_zero() && matches!(failure, Failure::NotSent { .. });
        if is_not_there || waited >= PATIENCE {
            return Err(failure);
        }
        if waited.is_zero() {
            note(format_args!("{failure}; trying again"));
        }
        let wait = failure.retry_after().unwrap_or(Duration::from_millis(200));
        if interrupt.wait(wait).is_some() {
            return Err(failure);
        }
        waited += wait.max(Duration::from_millis(1));
    }
}

/// `/v1/topics/{name}`.
pub(crate) fn topic_route(name: &str) -> Route {
    Route::new(&["v1", "topics", name])
}

/// `/v1/topics/{topic}/partitions/{partition}` and the rest of the path.
pub(crate) fn partition_route(topic: &str, partition: u32, rest: &[&str]) -> Route {
    let partition = partition.to_string();
    Route::new(&[&["v1", "topics", topic, "partitions", &partition], rest].concat())
}

/// `/v1/topics/{topic}/records`, to append to.
pub(crate) fn append_route(topic: &str) -> Route {
    Route::new(&["v1", "topics", topic, "records"])
}

/// `/v1/topics/{name}/records`, of these partitions (all where there are none) and this key.
pub(crate) fn stream_route(name: &str, partitions: &[u32], key: Option<&str>) -> Route {
    let mut route = append_route(name);
    if !partitions.is_empty() {
        let partitions: Vec<String> = partitions.iter().map(u32::to_string).collect();
        route = route.with("partitions", partitions.join(","));
    }
    if let Some(key) = key {
        route = route.with("key", key);
    }
    route
}

/// `/v1/groups/{group}` and the rest of the path.
pub(crate) fn group_route(group: &str, rest: &[&str]) -> Route {
    Route::new(&[&["v1", "groups", group], rest].concat())
}

/// All items of a paged list, unchanged. A page that is not the last has `next`.
pub(crate) fn list(client: &Client, route: &Route, member: &str) -> Result<Vec<Value>, Failure> {
    let mut items = Vec::new();
    let mut page = route.clone();
    let mut after = None;
    loop {
        let mut answer: Value = client.get(&page)?;
        if let Some(Value::Array(page)) = answer.get_mut(member).map(Value::take) {
            items.extend(page);
        }
        let next = answer["next"].as_str().map(str::to_owned);
        match &next {
            Some(next) if Some(next) != after.as_ref() => page = route.clone().with("after", next),
            _ => return Ok(items),
        }
        after = next;
    }
}

/// Committed offsets of a group.
#[derive(Debug, Deserialize)]
pub(crate) struct Committed {
    pub(crate) offsets: Vec<CommittedOffset>,
}

/// One committed offset.
#[derive(Debug, Deserialize)]
pub(crate) struct CommittedOffset {
    pub(crate) topic: String,
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    /// What the one who committed it noted.
    pub(crate) metadata: Option<String>,
}

impl Committed {
    /// Asks for a group's offsets; a group that does not exist has none.
    pub(crate) fn of(client: &Client, group: &str) -> Result<Self, Failure> {
        match client.get(&group_route(group, &["offsets"])) {
            Err(failure) if failure.code() == Some("unknown-group") => Ok(Self { offsets: Vec::new() }),
            answer => answer,
        }
    }
}
