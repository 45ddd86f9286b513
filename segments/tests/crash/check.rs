//! Compares a log with the model.

use std::collections::{BTreeMap, BTreeSet};

use quipu_segments::batch::{self, Batches};
use quipu_segments::{Error, Fetched, Log, Offset, Partition, ReadRequest, TopicId};

use super::model::{
    Existence, Fate, Model, Name, PartKey, PartModel, PartPlan, Rec, Request, RequestId, TopicModel,
    receipt_key, retains,
};

/// How the log came to be opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    Close,
    Kill,
    /// A kill after a sync had failed: pages whose writeback failed may be gone.
    KillAfterFailedSync,
    PowerCut,
}

/// The fetched records with their offsets; every batch is checked. A batch begins where the one before ends, the first one
/// at or before `next`.
pub(crate) fn records(fetched: &Fetched, next: Offset) -> Vec<(u64, Rec)> {
    let (mut found, mut end) = (Vec::new(), None);
    for run in &fetched.runs {
        for item in Batches::new(&run.bytes) {
            let (header, bytes) = item.expect("a run is made of whole batches");
            batch::verify(bytes).expect("what is read has been verified");
            let mut offset = header.base_offset;
            match end {
                None => assert!(
                    offset <= next && next < header.next_offset(),
                    "{next} is in no batch"
                ),
                Some(end) => assert_eq!(offset, end, "offsets between two batches"),
            }
            end = Some(header.next_offset());
            let plain = batch::inflate(bytes, batch::MAX_INFLATED_BYTES).expect("what was stored inflates");
            for record in batch::Records::new(&plain).expect("a batch that was stored can be read") {
                let record = record.expect("a record that was stored can be read");
                // The model knows which offsets have no record.
                assert!(record.offset >= offset, "offsets in a batch go up");
                offset = record.offset.plus(1);
                let header = record.headers.iter().next();
                let rec = Rec {
                    timestamp: record.timestamp.get(),
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                    header: header.map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec))),
                };
                found.push((record.offset.get(), rec));
            }
            assert!(
                offset <= header.next_offset(),
                "a batch ends where its header says"
            );
        }
    }
    assert_eq!(end, Some(fetched.next_offset), "where the next read begins");
    found
}

/// Everything from `from` to the end.
pub(crate) fn read_from(
    partition: &Partition,
    from: Offset,
    max_bytes: usize,
) -> Result<Vec<(u64, Rec)>, Error> {
    let mut found: Vec<(u64, Rec)> = Vec::new();
    let mut next = from;
    loop {
        let request = ReadRequest::new(next, max_bytes);
        let fetched = match partition.try_read(request) {
            Some(fetched) => fetched?,
            None => partition.read(request)?,
        };
        if fetched.runs.is_empty() {
            let id = partition.id();
            assert_eq!(next, fetched.end_offset, "a read ends before the end of {id}");
            assert_eq!(fetched.next_offset, next);
            return Ok(found);
        }
        let mut part = records(&fetched, next);
        part.retain(|(offset, _)| *offset >= next.get());
        assert!(fetched.next_offset > next && fetched.next_offset <= fetched.end_offset);
        next = fetched.next_offset;
        found.extend(part);
    }
}

fn check_positions(partition: &Partition, model: &PartModel) {
    let (id, positions) = (partition.id(), partition.positions());
    let (start, end) = (positions.log_start_offset, positions.end_offset);
    assert!(start <= end, "{id}: {positions:?}");
    assert!(end <= positions.written_offset, "{id}: {positions:?}");
    let readable = model.end;
    assert!(
        end.get() >= readable,
        "{id} ends at {end} and was durable or readable up to {readable}"
    );
    let (start, expected) = (start.get(), model.start..=model.start_at_most);
    assert!(
        expected.contains(&start),
        "the log start of {id} is {start}, expected {expected:?}"
    );
}

fn name_of(model: &Model, key: PartKey, offset: u64, record: &Rec) -> Name {
    let name = Name::of(record).unwrap_or_else(|| panic!("{key:?} holds {record:?} at {offset}"));
    let place = format!("record {name:?} at {offset} of {key:?}");
    let found = model.record(name);
    assert_eq!(found, Some(record), "{place} is not what was appended");
    let part = &model.requests[&name.request].parts[name.part as usize];
    let found = part.partition;
    assert_eq!(found, key, "{place} is in a partition that it was not sent to");
    assert!(
        !part.rows.lacks.contains(&name.index),
        "{place} is not in its batch"
    );
    name
}

/// For each part of each request that is not yet known to be durable: the base where it was found, and how many records.
type Sightings = BTreeMap<(RequestId, u32), (u64, u32)>;

/// Reads a partition from `from` on and compares it; returns what was found beyond the known end.
fn check_partition(
    model: &Model,
    partition: &Partition,
    key: PartKey,
    from: u64,
    max_bytes: usize,
) -> Result<Sightings, Error> {
    let known = model.topics[&key.0].partitions.get(&key.1);
    let known = known.cloned().unwrap_or_default();
    let mut seen = Sightings::new();
    let mut expected = known.records.range(from..);
    for (offset, record) in read_from(partition, Offset::new(from), max_bytes)? {
        let name = name_of(model, key, offset, &record);
        match known.records.get(&offset) {
            Some(same) => {
                assert_eq!(*same, name, "offset {offset} of {key:?} has changed");
                assert_eq!(
                    expected.next(),
                    Some((&offset, same)),
                    "a record of {key:?} is missing"
                );
            }
            None => {
                let is_known = model.requests[&name.request].fate == Fate::Durable;
                assert!(
                    !is_known,
                    "{name:?} is there twice, also at offset {offset} of {key:?}"
                );
                let base = offset - u64::from(name.index);
                let (first, count) = seen.entry((name.request, name.part)).or_insert((base, 0));
                let part = &model.requests[&name.request].parts[name.part as usize];
                let next = (*first, part.rows.numbers().nth(*count as usize));
                assert_eq!(
                    next,
                    (base, Some(name.index)),
                    "{name:?} is out of its order, or there twice"
                );
                *count += 1;
            }
        }
    }
    assert_eq!(expected.next(), None, "a record of {key:?} is missing");
    Ok(seen)
}

/// Reads every partition of a log that has not been restarted: records that are readable now must stay.
///
/// # Errors
/// The error of a read.
pub(crate) fn observe(
    log: &Log,
    model: &mut Model,
    max_bytes: usize,
    mut from: impl FnMut(u64, u64) -> u64,
) -> Result<(), Error> {
    let mut seen = Sightings::new();
    for topic in log.topics() {
        let id = topic.id();
        let Some(retention) = model.topics.get(&id).map(|known| known.retention) else {
            continue;
        };
        for partition in topic.partitions().iter() {
            let key = (id, partition.id().index);
            let positions = partition.positions();
            let (start, end) = (positions.log_start_offset.get(), positions.end_offset.get());
            let known = model.part_mut(key);
            if retention {
                known.start_at_most = known.start_at_most.max(start);
            }
            check_positions(partition, known);
            let from = from(start, end).clamp(start, known.end.max(start));
            seen.extend(check_partition(model, partition, key, from, max_bytes)?);
        }
    }
    settle_seen(model, &seen, |id| log.topic_by_id(id).is_none());
    Ok(())
}

/// Settles every request of which some records were found; then all of them must have been found.
fn settle_seen(model: &mut Model, seen: &Sightings, gone: impl Fn(TopicId) -> bool) {
    let mut ids: Vec<RequestId> = seen.keys().map(|(id, _)| *id).collect();
    ids.dedup();
    for id in ids {
        let request = &model.requests[&id];
        let bases = bases(id, request, seen);
        for (part, (base, plan)) in bases.iter().zip(&request.parts).enumerate() {
            let is_allowed = base.is_some() || gone(plan.partition.0);
            assert!(
                is_allowed,
                "part {part} of request {id} is missing, others are there"
            );
        }
        model.settle(id, &bases);
    }
}

/// Where each part of a request was found; a part that was found must be whole.
fn bases(id: RequestId, request: &Request, seen: &Sightings) -> Vec<Option<Offset>> {
    let parts = (0..).zip(&request.parts);
    let base = |(part, plan): (u32, &PartPlan)| {
        let (base, count) = *seen.get(&(id, part))?;
        assert_eq!(
            count as usize,
            plan.rows.numbers().count(),
            "part {part} of request {id} is there in part"
        );
        Some(Offset::new(base))
    };
    parts.map(base).collect()
}

/// Compares everything after a restart, and decides which of the open requests were stored.
///
/// # Errors
/// The error of a read.
pub(crate) fn after_restart(log: &Log, model: &mut Model, restart: Restart) -> Result<(), Error> {
    let health = log.health();
    assert!(
        health.damage.is_empty(),
        "a crash is not damage: {:?}",
        health.damage
    );
    let has_failed = health.log_failed.is_some() || !health.failed_partitions.is_empty();
    assert!(!has_failed, "a log that has just been opened: {health:?}");
    let deletions = model.topics.iter();
    let deletions = deletions.filter_map(|(id, topic)| Some((*id, topic.deletion?)));
    let deletions: Vec<(TopicId, RequestId)> = deletions.collect();
    resolve_topics(log, model);
    let mut seen = Sightings::new();
    let topics = log.topics();
    for topic in &topics {
        let id = topic.id();
        for partition in topic.partitions().iter() {
            let index = partition.id().index;
            let known = model.part_mut((id, index)).clone();
            check_positions(partition, &known);
            let positions = partition.positions();
            let start = positions.log_start_offset.get();
            seen.extend(check_partition(model, partition, (id, index), start, 1 << 20)?);
            let known = model.part_mut((id, index));
            (known.start, known.start_at_most) = (start, start);
        }
    }
    let there = |id: TopicId| topics.iter().any(|topic| topic.id() == id);
    for id in model.open_requests() {
        let request = &model.requests[&id];
        let marked = request.marker.as_ref();
        let marked = marked.map(|marker| log.state_get(marker).is_some());
        let parts = (0..).zip(&request.parts);
        let parts = parts.filter(|(_, part)| there(part.partition.0));
        let found = parts.map(|(part, _)| seen.contains_key(&(id, part)));
        let receipt = request
            .has_receipt
            .then(|| log.state_get(&receipt_key(id)).is_some());
        let found: Vec<bool> = found.chain(marked).chain(receipt).collect();
        let Some(&present) = found.first() else {
            // Nothing can show whether it was stored: all its topics are gone.
            model.refuse(id);
            continue;
        };
        let is_whole = found.iter().all(|found| *found == present);
        assert!(is_whole, "request {id} is there in part: {found:?}");
        if request.fate == Fate::Written && matches!(restart, Restart::Kill | Restart::Close) {
            assert!(
                present,
                "request {id} was answered as written, and a kill has taken it back"
            );
        }
        if present {
            let bases = bases(id, request, &seen);
            model.settle(id, &bases);
        } else {
            model.refuse(id);
        }
    }
    // Records of requests that were not open must not be here: answered as not stored, or durable at another place.
    for (id, part) in seen.keys() {
        let (base, _) = seen[&(*id, *part)];
        let request = &model.requests[id];
        let is_stored = request.fate == Fate::Durable;
        assert!(is_stored, "request {id} was answered as not stored, and is there");
        let plan = &request.parts[*part as usize];
        let (key, index) = (plan.partition, plan.rows.numbers().next().unwrap_or_default());
        let name = Name {
            request: *id,
            part: *part,
            index,
        };
        let records = &model.topics[&key.0].partitions[&key.1].records;
        let known = records.get(&(base + u64::from(index)));
        assert_eq!(known, Some(&name), "request {id} is there twice");
    }
    for topic in &topics {
        for partition in topic.partitions().iter() {
            let known = model.part_mut((topic.id(), partition.id().index)).end;
            let positions = partition.positions();
            let expected = known.max(positions.log_start_offset.get());
            assert_eq!(positions.end_offset.get(), expected);
        }
    }
    for (id, deletion) in deletions {
        let (gone, applied) = (!there(id), model.requests[&deletion].fate == Fate::Durable);
        assert_eq!(
            gone, applied,
            "the deletion of {id:?} and the state changes that belong to it"
        );
        model.topics.get_mut(&id).expect("it was deleted").deletion = None;
    }
    check_state(log, model);
    Ok(())
}

/// Compares the whole map, except for keys that requests with an unknown outcome change.
pub(crate) fn check_state(log: &Log, model: &mut Model) {
    for (key, value) in log.state_prefix(b"group/") {
        let number = u64::from_le_bytes(value[..].try_into().expect("a group commits a number"));
        let seen = model.committed.insert(key.to_vec(), number);
        assert!(
            seen <= Some(number),
            "{key:?} goes back from {seen:?} to {number}"
        );
    }
    for key in model.committed.keys() {
        assert!(log.state_get(key).is_some(), "what {key:?} has committed is gone");
    }
    let open = model.open_requests();
    let open = open.iter().flat_map(|id| &model.requests[id].state);
    let open: BTreeSet<&[u8]> = open.map(|(key, _)| &key[..]).collect();
    let found = log.state_prefix(b"").into_iter();
    let mut found: BTreeMap<Vec<u8>, Vec<u8>> =
        found.map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
    check_receipts(model, &mut found);
    let expected = model.state();
    for (key, value) in expected.iter().filter(|(key, _)| !open.contains(&key[..])) {
        let found = found.get(key);
        assert_eq!(found, Some(value), "state {:?}", String::from_utf8_lossy(key));
    }
    for key in found.keys().filter(|key| !open.contains(&key[..])) {
        let name = String::from_utf8_lossy(key);
        assert!(expected.contains_key(key), "state {name:?} should not be there");
    }
}

/// Each stored request that asked for it has a receipt with its offsets, and no other has one. Takes them out.
fn check_receipts(model: &Model, found: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    for (id, request) in model.requests.iter().filter(|(_, request)| request.has_receipt) {
        let receipt = found.remove(&receipt_key(*id));
        let is_stored = match request.fate {
            Fate::Durable => true,
            Fate::Absent => false,
            Fate::Unknown | Fate::Written => continue,
        };
        assert_eq!(receipt.is_some(), is_stored, "the receipt of request {id}");
        if let (Some(receipt), Some(bases)) = (receipt, &request.bases) {
            let bases = bases.iter().map(|base| base.get());
            let expected: Vec<u8> = std::iter::once(*id)
                .chain(bases)
                .flat_map(u64::to_be_bytes)
                .collect();
            assert_eq!(receipt, expected, "the receipt of request {id}");
        }
    }
}

/// Topics exist whole or not at all: those that were acknowledged must exist, and none that was not asked for.
fn resolve_topics(log: &Log, model: &mut Model) {
    let topics = log.topics();
    for topic in &topics {
        let id = topic.id();
        if !model.topics.contains_key(&id) {
            let asked = model.creating.iter().find(|(name, _)| name == topic.name());
            let asked = asked.unwrap_or_else(|| panic!("nobody made {} ({id:?})", topic.name()));
            let (name, spec) = asked.clone();
            let mut known = TopicModel::new(name.clone(), spec);
            let asked = model.creating.iter().filter(|(other, _)| *other == name);
            known.specs = asked.map(|(_, spec)| spec.clone()).collect();
            known.retention = known.specs.iter().any(retains);
            model.topics.insert(id, known);
            model.last_topic_id = model.last_topic_id.max(Some(id));
        }
        let known = model.topics.get_mut(&id).expect("it was just added");
        assert_eq!(known.name, topic.name());
        let name = &known.name;
        assert!(
            known.exists != Existence::No,
            "{name} ({id:?}) was deleted and is back"
        );
        known.exists = Existence::Yes;
        let spec = topic.spec();
        let specs = &known.specs;
        assert!(
            specs.contains(&spec),
            "{name} is {spec:?}, expected one of {specs:?}"
        );
        known.specs = vec![(*spec).clone()];
        assert_eq!(topic.partition_count(), spec.partitions);
        for index in 0..spec.partitions {
            known.partitions.entry(index).or_default();
        }
    }
    for (id, known) in &mut model.topics {
        if !topics.iter().any(|topic| topic.id() == *id) {
            let name = &known.name;
            assert!(
                known.exists != Existence::Yes,
                "the topic {name} ({id:?}) is lost"
            );
            known.exists = Existence::No;
        }
    }
    model.creating.clear();
}
