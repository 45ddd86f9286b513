//! The audit log: what was changed, by whom, and from where.
//!
//! An [`entry`] is a change of the state, so it is stored in the append of what it tells of, whatever that append is, on a
//! full disk too: a deletion needs no free space. [`Audit::run`] moves entries from the state into the internal topic
//! `__audit` within a second, each in an append that also removes it from the state. What no append stores (a topic that is
//! made or altered is a file) has its entry stored just before.
//!
//! ```text
//! key    'A' time_ms:u64 life:u32 connection:u64 number:u32 hash:u64       (numbers big-endian)
//! value  JSON, and so is the value of the record in __audit
//! ```
//!
//! A crash between the two leaves an entry in the state, and never twice. Entries are kept for ever; nobody can change them.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use xxhash_rust::xxh3::xxh3_64;

use crate::broker::blocking::{Blocking, Share};
use crate::broker::caller::Caller;
use crate::broker::engine::batch::{BatchBuilder, Batches, Records as BatchRecords};
use crate::broker::engine::{
    AppendRequest, Error, Log, Offset, Part, Partition, ReadRequest, Records, StateChange, StateEntry,
    TimestampMs, TopicSettings,
};
use crate::broker::refusal::Refusal;
use crate::broker::state_keys::AUDIT;

/// The internal topic.
const TOPIC: &str = "__audit";
/// How often entries are moved out of the state.
const INTERVAL: Duration = Duration::from_secs(1);
/// The most entries that one append moves.
const MOVED_AT_ONCE: usize = 1000;
/// Read at once when looking for a page.
const READ_BYTES: usize = 1 << 20;
const SEGMENT_BYTES: u64 = 8 << 20;

/// What somebody has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, in milliseconds since the Unix epoch.
    pub time: i64,
    /// Who had signed in; `None`: nobody had to.
    pub principal: Option<String>,
    /// The other end of the connection, or the client that a trusted proxy named.
    pub address: Option<String>,
    /// The request, as in the answer's `X-Request-Id` and in the server's log.
    pub request_id: String,
    /// What was done, as `topic.delete`.
    pub action: String,
    /// What it was done to: its path in the API, without `/v1/`.
    pub resource: String,
    /// What else an administrator wants to know, in words. Never a value of a record, and no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Entries, the newest first.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Entry>,
    /// Where older ones go on; `None`: there are none.
    pub next: Option<Offset>,
}

/// The change of the state that stores an entry: put it into the append of what it tells of. `detail` may be empty.
pub fn entry(
    log: &Log,
    caller: &Caller,
    action: &str,
    resource: &str,
    detail: impl Into<String>,
) -> StateChange {
    let (now, id, detail) = (log.now(), caller.request_id, detail.into());
    let mut key = vec![AUDIT];
    key.extend_from_slice(&now.get().max(0).to_be_bytes());
    key.extend_from_slice(&id.life.to_be_bytes());
    key.extend_from_slice(&id.connection.to_be_bytes());
    key.extend_from_slice(&id.number.to_be_bytes());
    // One request may do several things in one millisecond.
    key.extend_from_slice(&xxh3_64(format!("{action} {resource}").as_bytes()).to_be_bytes());
    let entry = Entry {
        time: now.get(),
        principal: caller.principal().map(|name| name.to_string()),
        address: caller.address.map(|address| address.to_string()),
        request_id: id.to_string(),
        action: action.to_owned(),
        resource: resource.to_owned(),
        detail: Some(detail).filter(|detail| !detail.is_empty()),
    };
    StateChange::set(key, serde_json::to_vec(&entry).unwrap_or_default())
}

/// Stores an entry in an append of its own, before a change that no append stores. Blocks.
///
/// # Errors
/// Those of an append: the change must not be made.
pub fn store(log: &Log, entry: StateChange) -> Result<(), Error> {
    log.append(AppendRequest::of_state(vec![entry]))?.wait().map(drop)
}

/// Reads the audit log, and moves what is in the state. Clones share it.
#[derive(Clone)]
pub struct Audit {
    log: Log,
    blocking: Blocking,
    /// Held while entries are moved, and while a page is read: else a reader could meet an entry twice, or not at all.
    moving: Arc<Mutex<()>>,
}

impl Audit {
    /// The audit log of `log`.
    pub fn new(log: Log, blocking: Blocking) -> Self {
        Self {
            log,
            blocking,
            moving: Arc::default(),
        }
    }

    /// Moves entries once a second, until `stopping` becomes true.
    pub async fn run(self, mut stopping: watch::Receiver<bool>) {
        let mut is_failing = false;
        loop {
            let result = self.move_all(&self.moving.lock().await).await;
            if let (Err(refusal), false) = (&result, is_failing) {
                let error = &refusal.detail;
                tracing::warn!(%error, "entries of the audit log stay in the state for now: they are safe, and moved later");
            }
            is_failing = result.is_err();
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                // An error means that the service is gone, which also ends this loop.
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        }
    }

    /// The newest entries, at most `limit`; of those before `before` in the topic, if it is given. The first page may be
    /// longer: entries that cannot be moved (the disk is full) are all in it.
    ///
    /// # Errors
    /// Those of reading the disk. Damaged entries are left out, and logged.
    pub async fn page(&self, limit: usize, before: Option<Offset>) -> Result<Page, Refusal> {
        let moving = self.moving.lock().await;
        let mut entries = Vec::new();
        if before.is_none() {
            // What fails here is tried again by `run`; the entries are in the state meanwhile.
            let _ = self.move_all(&moving).await;
            let pending = self.log.state_prefix(&[AUDIT]);
            entries.extend(pending.iter().rev().filter_map(|(_, value)| decode(value)));
        }
        let Some(partition) = self
            .log
            .internal_topic(TOPIC)
            .and_then(|topic| topic.partition(0))
        else {
            return Ok(Page { entries, next: None });
        };
        let wanted = limit.saturating_sub(entries.len());
        let read = move || newest(&partition, wanted, before);
        let (found, next) = self.blocking.attempt(Share::Read, read).await?;
        entries.extend(found);
        Ok(Page { entries, next })
    }

    /// Moves the entries that are in the state into the topic.
    async fn move_all(&self, _moving: &tokio::sync::MutexGuard<'_, ()>) -> Result<(), Refusal> {
        loop {
            let mut pending = self.log.state_prefix(&[AUDIT]);
            let is_last = pending.len() <= MOVED_AT_ONCE;
            pending.truncate(MOVED_AT_ONCE);
            if pending.is_empty() {
                return Ok(());
            }
            let log = self.log.clone();
            let prepare = move || {
                let settings = TopicSettings {
                    segment_bytes: SEGMENT_BYTES,
                    ..TopicSettings::default()
                };
                Ok::<_, Refusal>(log.prepare_topic(TOPIC, settings)?.partition(0))
            };
            let Some(partition) = self.blocking.attempt(Share::Change, prepare).await? else {
                return Err(Refusal::stopping());
            };
            self.log.append(moved(partition, &pending))?.await?;
            if is_last {
                return Ok(());
            }
        }
    }
}

/// The append that moves entries.
fn moved(partition: Arc<Partition>, pending: &[StateEntry]) -> AppendRequest {
    let mut records = BatchBuilder::new();
    for (key, value) in pending {
        let time = key.get(1..9).and_then(|time| time.try_into().ok());
        let time = TimestampMs(time.map_or(0, i64::from_be_bytes));
        records.push(time, None, Some(value), &[]);
    }
    let keys = pending.iter().map(|(key, _)| StateChange::remove(key.clone()));
    AppendRequest {
        parts: vec![Part::new(partition, Records::Loose(records)).json_lines(true)],
        state: keys.collect(),
        ..AppendRequest::default()
    }
}

fn decode(value: &[u8]) -> Option<Entry> {
    let entry = serde_json::from_slice(value);
    if entry.is_err() {
        tracing::error!("an entry of the audit log is not readable: it is left out");
    }
    entry.ok()
}

/// The newest `wanted` entries before an offset, the newest first, and where older ones go on. Blocks.
fn newest(
    partition: &Partition,
    wanted: usize,
    before: Option<Offset>,
) -> Result<(Vec<Entry>, Option<Offset>), Refusal> {
    let positions = partition.positions();
    let start = positions.log_start_offset;
    let end = before.map_or(positions.end_offset, |before| before.min(positions.end_offset));
    let from = Offset::new(end.get().saturating_sub(wanted as u64)).max(start);
    let mut entries = Vec::new();
    let mut at = from;
    while at < end {
        let fetched = match partition.read(ReadRequest::new(at, READ_BYTES).until(end)) {
            Err(Error::Damaged { damaged_until, .. }) => {
                tracing::error!(
                    offset = at.get(),
                    "entries of the audit log are damaged: they are left out"
                );
                at = damaged_until;
                continue;
            }
            other => other?,
        };
        for run in &fetched.runs {
            for batch in Batches::new(&run.bytes) {
                let records = batch.and_then(|(_, bytes)| BatchRecords::new(bytes));
                let Ok(records) = records else { continue };
                let records = records.map_while(Result::ok);
                let records = records.filter(|record| (at..end).contains(&record.offset));
                entries.extend(records.filter_map(|record| decode(record.value.unwrap_or_default())));
            }
        }
        at = fetched.next_offset;
    }
    entries.reverse();
    Ok((entries, (from > start).then_some(from)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::broker::Broker;
    use crate::broker::caller::{RequestId, Who};
    use crate::broker::engine::sim::{SimClock, SimDisk};
    use crate::broker::engine::{Options, TopicId};
    use crate::broker::limits::Limits;
    use crate::broker::rights::grant::{Grant, Principal};
    use crate::broker::rights::{Rule, Rules};

    const NOW: TimestampMs = TimestampMs(1_700_000_000_000);

    fn open(disk: &Arc<SimDisk>, clock: &Arc<SimClock>) -> Broker {
        let options = Options {
            journal_file_bytes: 1 << 20,
            max_request_bytes: 256 << 10,
            ..Options::default()
        };
        let log = Log::open_with(disk.clone(), clock.clone(), Path::new("/data"), options).unwrap();
        Broker::new(log, clock.clone(), Limits::default(), None)
    }

    fn caller(number: u32) -> Caller {
        Caller {
            address: Some(([192, 0, 2, 7], 4711).into()),
            request_id: RequestId {
                number,
                ..RequestId::default()
            },
            who: Who::SignedIn(Grant::new(
                &Principal::new("ops", Rules::new(vec![Rule::admin()]), Arc::default()),
                None,
            )),
            ..Caller::default()
        }
    }

    async fn actions(broker: &Broker) -> Vec<String> {
        let page = broker.audit.page(100, None).await.unwrap();
        let row = |entry: &Entry| format!("{} {}", entry.action, entry.resource);
        page.entries.iter().map(row).collect()
    }

    #[tokio::test]
    async fn a_deletion_on_a_full_disk_is_in_the_log_and_moved_when_there_is_space() {
        let (disk, clock) = (Arc::new(SimDisk::new(1)), Arc::new(SimClock::new(NOW)));
        let broker = open(&disk, &clock);
        broker.topics.create(&caller(1), "orders", None, &[]).unwrap();
        broker.topics.create(&caller(2), "other", None, &[]).unwrap();
        disk.set_capacity(Some(disk.used_bytes()));
        broker.topics.delete(&caller(3), "orders", None).unwrap();
        disk.set_capacity(Some(disk.used_bytes()));
        let expected = [
            "topic.delete topics/orders",
            "topic.create topics/other",
            "topic.create topics/orders",
        ];
        assert_eq!(actions(&broker).await, expected);
        assert!(
            !broker.log.state_prefix(&[AUDIT]).is_empty(),
            "there is no space to move it to"
        );
        // After a crash too, and then from the topic.
        let cut = Arc::new(disk.after_power_cut());
        cut.set_capacity(None);
        let broker = open(&cut, &clock);
        assert_eq!(actions(&broker).await, expected);
        assert!(broker.log.state_prefix(&[AUDIT]).is_empty());
        assert_eq!(broker.log.internal_topic(TOPIC).unwrap().id().0, 3);
        broker.log.close().unwrap();
        drop(broker);
        let broker = open(&cut, &clock);
        assert_eq!(actions(&broker).await, expected);
    }

    #[tokio::test]
    async fn pages_go_back_to_the_first_entry_over_damage_and_new_entries_disturb_none() {
        let (disk, clock) = (Arc::new(SimDisk::new(1)), Arc::new(SimClock::new(NOW)));
        let broker = open(&disk, &clock);
        for number in 0..250 {
            clock.advance(Duration::from_millis(1));
            let entry = entry(
                &broker.log,
                &caller(number),
                "topic.create",
                &format!("topics/t{number}"),
                "",
            );
            store(&broker.log, entry).unwrap();
        }
        let mut seen = Vec::new();
        let mut before = None;
        loop {
            let page = broker.audit.page(100, before).await.unwrap();
            seen.extend(page.entries.iter().map(|entry| entry.resource.clone()));
            store(
                &broker.log,
                entry(&broker.log, &caller(999), "group.delete", "groups/g", ""),
            )
            .unwrap();
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        let expected: Vec<String> = (0..250).rev().map(|number| format!("topics/t{number}")).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn an_entry_says_who_did_what_from_where_and_two_of_one_request_are_two() {
        let (disk, clock) = (Arc::new(SimDisk::new(1)), Arc::new(SimClock::new(NOW)));
        let broker = open(&disk, &clock);
        let made = |action: &str, resource: &str| entry(&broker.log, &caller(1), action, resource, "why");
        let first = made("topic.delete", "topics/a");
        assert_ne!(first.key, made("topic.delete", "topics/b").key);
        assert_ne!(first.key, made("topic.create", "topics/a").key);
        assert_eq!(first, made("topic.delete", "topics/a"));
        let found = decode(&first.value.unwrap()).unwrap();
        let expected = Entry {
            time: NOW.get(),
            principal: Some("ops".to_owned()),
            address: Some("192.0.2.7:4711".to_owned()),
            request_id: "00000000-0-1".to_owned(),
            action: "topic.delete".to_owned(),
            resource: "topics/a".to_owned(),
            detail: Some("why".to_owned()),
        };
        assert_eq!(found, expected);
        assert_eq!(crate::broker::state_keys::topic_of(&first.key), None::<TopicId>);
    }
}
