//! What the log must hold: a plain list of records per partition, a plain map, and requests whose outcome is unknown.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use quipu_segments::batch::BatchBuilder;
use quipu_segments::sim::Rng;
use quipu_segments::{Ack, Offset, StateChange, TimestampMs, TopicId, TopicSpec};

/// The number of a request, in the order of queueing: if two change the same key, the later one wins.
pub(crate) type RequestId = u64;

const RECEIPTS: &[u8] = b"receipt/";
pub(crate) type PartKey = (TopicId, u32);

/// A record that names itself, so that every record that is found can be identified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rec {
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) header: Option<(Vec<u8>, Option<Vec<u8>>)>,
}

/// Which record of which request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) request: RequestId,
    pub(crate) part: u32,
    pub(crate) index: u32,
}

impl Name {
    fn encode(self) -> Vec<u8> {
        [
            &self.request.to_le_bytes()[..],
            &self.part.to_le_bytes(),
            &self.index.to_le_bytes(),
        ]
        .concat()
    }

    pub(crate) fn of(record: &Rec) -> Option<Self> {
        let bytes = record.key.as_ref().or(record.value.as_ref())?;
        Some(Self {
            request: u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?),
            part: u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?),
            index: u32::from_le_bytes(bytes.get(12..16)?.try_into().ok()?),
        })
    }
}

impl Rec {
    pub(crate) fn push_to(&self, builder: &mut BatchBuilder) {
        let headers = self.header.iter();
        let headers = headers.map(|(name, value)| (&name[..], value.as_deref()));
        let headers: Vec<(&[u8], Option<&[u8]>)> = headers.collect();
        let (key, value) = (self.key.as_deref(), self.value.as_deref());
        builder.push(TimestampMs(self.timestamp), key, value, &headers);
    }

    pub(crate) fn make(name: Name, timestamp: i64, len: usize, rng: &mut Rng) -> Self {
        let mut value = vec![0; len];
        let mut fill = rng.fork();
        for chunk in value.chunks_mut(8) {
            let word = fill.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        let header = rng
            .chance(1, 8)
            .then(|| (b"h".to_vec(), rng.chance(1, 2).then(|| b"of a record".to_vec())));
        match rng.below(4) {
            0 => {
                let named = [name.encode(), value].concat();
                Self {
                    timestamp,
                    key: None,
                    value: Some(named),
                    header,
                }
            }
            1 => Self {
                timestamp,
                key: Some(name.encode()),
                value: None,
                header,
            },
            _ => Self {
                timestamp,
                key: Some(name.encode()),
                value: Some(value),
                header,
            },
        }
    }
}

/// The records of one part of a request. Each lies as many offsets behind the part's first as its number says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    pub(crate) records: Vec<Rec>,
    /// The numbers of records that its batches lack: there are only their offsets.
    pub(crate) lacks: BTreeSet<u32>,
}

impl Rows {
    /// The numbers of the records that must be there.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u32> {
        (0..self.records.len() as u32).filter(|number| !self.lacks.contains(number))
    }

    /// How many offsets they take.
    pub(crate) fn offsets(&self) -> u64 {
        self.records.len() as u64
    }
}

#[derive(Clone, Debug)]
pub(crate) struct PartPlan {
    pub(crate) partition: PartKey,
    pub(crate) rows: Rows,
}

pub(crate) type Change = (Vec<u8>, Option<Vec<u8>>);

/// The same changes as the log takes them.
/// The key of a request's receipt.
pub(crate) fn receipt_key(id: RequestId) -> Vec<u8> {
    [RECEIPTS, &id.to_be_bytes()].concat()
}

pub(crate) fn state_changes(changes: &[Change]) -> Vec<StateChange> {
    let rows = changes.iter().cloned();
    rows.map(|(key, value)| StateChange { key, value }).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Not answered, or answered with an unknown outcome: there as a whole after a restart, or not at all.
    Unknown,
    /// Answered as written: there after a kill, perhaps not after a power cut.
    Written,
    /// Answered as durable, or seen by a reader: there for ever.
    Durable,
    /// Answered as not stored, or missing after a restart that was allowed to lose it: never there.
    Absent,
}

/// One of the requests that carry the same key. Each has its own records, which show which of the requests was stored;
/// its note is its [`RequestId`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyedTry {
    pub(crate) topic: Option<TopicId>,
    pub(crate) key: Vec<u8>,
    pub(crate) fingerprint: u8,
    pub(crate) expires: i64,
}

impl KeyedTry {
    fn has_key_of(&self, other: &Self) -> bool {
        (self.topic, &self.key) == (other.topic, &other.key)
    }
}

/// One of the requests that carry the same batch of a producer; each has its own records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchTry {
    pub(crate) producer: i64,
    pub(crate) epoch: i16,
    pub(crate) first: i32,
    pub(crate) last: i32,
}

/// What must happen to a producer's batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Append,
    /// Stored before, at this offset, if it is known.
    Repeated(Option<Offset>),
    OutOfOrder,
    Fenced,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) parts: Vec<PartPlan>,
    pub(crate) state: Vec<Change>,
    /// A key that only this request sets.
    pub(crate) marker: Option<Vec<u8>>,
    pub(crate) ack: Ack,
    pub(crate) fate: Fate,
    /// As answered, or as found after a restart.
    pub(crate) bases: Option<Vec<Offset>>,
    /// Its append notes where its records lie.
    pub(crate) has_receipt: bool,
    pub(crate) once: Option<KeyedTry>,
    pub(crate) batch: Option<BatchTry>,
    /// Answered with an unknown outcome, because the round's sync failed: if the same round has answered another
    /// request as written, this one was written, too.
    pub(crate) is_in_flight: bool,
    /// The wall time at which it was queued.
    pub(crate) queued_at: i64,
}

impl Request {
    /// Whether it is known to be stored.
    fn is_stored(&self) -> bool {
        matches!(self.fate, Fate::Durable | Fate::Written)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct PartModel {
    /// Every record that must be there, by offset, also those below the log start.
    pub(crate) records: BTreeMap<u64, Name>,
    /// One past the last offset that was acknowledged as durable or was readable.
    pub(crate) end: u64,
    /// The log start is not below what was acknowledged…
    pub(crate) start: u64,
    /// …and not above what was requested or seen.
    pub(crate) start_at_most: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Existence {
    Yes,
    /// It is unknown whether a create or a delete was done.
    Maybe,
    No,
}

#[derive(Clone, Debug)]
pub(crate) struct TopicModel {
    pub(crate) name: String,
    pub(crate) exists: Existence,
    /// The last one was requested last; any of them may be found after a restart.
    pub(crate) specs: Vec<TopicSpec>,
    pub(crate) partitions: BTreeMap<u32, PartModel>,
    /// Whether retention may delete.
    pub(crate) retention: bool,
    /// The request that deletes it.
    pub(crate) deletion: Option<RequestId>,
}

impl TopicModel {
    pub(crate) fn new(name: String, spec: TopicSpec) -> Self {
        Self {
            name,
            exists: Existence::Yes,
            partitions: (0..spec.partitions)
                .map(|index| (index, PartModel::default()))
                .collect(),
            retention: retains(&spec),
            specs: vec![spec],
            deletion: None,
        }
    }
}

pub(crate) fn retains(spec: &TopicSpec) -> bool {
    spec.settings.retention_ms.is_some() || spec.settings.retention_bytes.is_some()
}

#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) next_request: RequestId,
    pub(crate) requests: BTreeMap<RequestId, Request>,
    /// Every change of a key that is known to be durable.
    state: BTreeMap<Vec<u8>, BTreeMap<RequestId, Option<Vec<u8>>>>,
    pub(crate) topics: BTreeMap<TopicId, TopicModel>,
    /// Names whose creation was not answered, with the specification.
    pub(crate) creating: Vec<(String, TopicSpec)>,
    pub(crate) last_topic_id: Option<TopicId>,
    /// The committed offsets of groups that were seen.
    pub(crate) committed: BTreeMap<Vec<u8>, u64>,
    /// The latest time that the wall clock has shown: keys that expire later must be remembered.
    pub(crate) latest: i64,
}

/// What must happen to a batch that comes after the stored ones.
fn verdict(stored: &[(Option<Offset>, BatchTry)], batch: &BatchTry) -> Verdict {
    let Some((_, newest)) = stored.last() else {
        return Verdict::Append;
    };
    let of_epoch = stored
        .iter()
        .rev()
        .take_while(|(_, known)| known.epoch == newest.epoch);
    let repeated = of_epoch.take(5).find(|(_, known)| known == batch);
    if let Some((base, _)) = repeated {
        return Verdict::Repeated(*base);
    }
    let next = match batch.epoch.cmp(&newest.epoch) {
        Ordering::Less => return Verdict::Fenced,
        Ordering::Equal if newest.last == i32::MAX => 0,
        Ordering::Equal => newest.last + 1,
        Ordering::Greater => 0,
    };
    if batch.first == next {
        Verdict::Append
    } else {
        Verdict::OutOfOrder
    }
}

impl Model {
    pub(crate) fn new_request(&mut self, request: Request) -> RequestId {
        let id = self.next_request;
        self.next_request += 1;
        self.requests.insert(id, request);
        id
    }

    /// When the request of a record was queued, by the wall clock.
    pub(crate) fn queued_at(&self, name: Name) -> Option<i64> {
        Some(self.requests.get(&name.request)?.queued_at)
    }

    pub(crate) fn record(&self, name: Name) -> Option<&Rec> {
        let part = self.requests.get(&name.request)?.parts.get(name.part as usize)?;
        part.rows.records.get(name.index as usize)
    }

    pub(crate) fn part_mut(&mut self, key: PartKey) -> &mut PartModel {
        let topic = self
            .topics
            .get_mut(&key.0)
            .expect("requests go to topics that were made");
        topic.partitions.entry(key.1).or_default()
    }

    /// A request is now known to be there for ever, its parts at `bases`.
    pub(crate) fn settle(&mut self, id: RequestId, bases: &[Option<Offset>]) {
        let request = self
            .requests
            .get_mut(&id)
            .expect("only known requests are settled");
        if request.fate == Fate::Durable {
            return;
        }
        assert!(
            request.fate != Fate::Absent,
            "request {id} was answered as not stored, and is there"
        );
        if let Some(answered) = &request.bases {
            for (part, (answered, found)) in answered.iter().zip(bases).enumerate() {
                assert!(
                    found.is_none_or(|found| found == *answered),
                    "part {part} of request {id} was answered to be at {answered} and is at {found:?}"
                );
            }
        }
        request.fate = Fate::Durable;
        if request.bases.is_none() {
            request.bases = bases.iter().copied().collect();
        }
        let once = request.once.clone();
        let state = request.state.clone();
        for (part, (plan, base)) in request.parts.clone().into_iter().zip(bases).enumerate() {
            let (Some(base), key) = (base, plan.partition) else {
                continue;
            };
            let model = self.part_mut(key);
            model.end = model.end.max(base.get() + plan.rows.offsets());
            for index in plan.rows.numbers() {
                let name = Name {
                    request: id,
                    part: part as u32,
                    index,
                };
                let offset = base.get() + u64::from(index);
                let before = model.records.insert(offset, name);
                assert!(
                    before.is_none_or(|before| before == name),
                    "offset {offset} of {key:?} was given to {before:?} and now to {name:?}"
                );
            }
        }
        for (key, value) in state {
            self.state.entry(key).or_default().insert(id, value);
        }
        if let Some(once) = once {
            self.check_only_one(id, &once);
        }
    }

    /// Checks that no other request with the same key is stored and still remembered.
    pub(crate) fn check_only_one(&self, id: RequestId, once: &KeyedTry) {
        for (other, request) in &self.requests {
            if let Some(twin) = &request.once
                && *other != id
                && request.is_stored()
                && twin.has_key_of(once)
            {
                assert!(
                    twin.expires.min(once.expires) <= self.latest,
                    "requests {other} and {id} are stored both, with one key: {once:?}"
                );
            }
        }
    }

    /// Whether another request prevents one with this key from being stored: one with another content (`reused`), or
    /// any.
    pub(crate) fn is_remembered(&self, id: RequestId, reused: bool, now: i64) -> bool {
        let once = self.requests[&id].once.as_ref().expect("it has a key");
        self.requests.iter().any(|(other, request)| {
            *other != id
                && request.is_stored()
                && request.once.as_ref().is_some_and(|twin| {
                    twin.has_key_of(once)
                        && twin.expires > now
                        && (!reused || twin.fingerprint != once.fingerprint)
                })
        })
    }

    /// How many keys must be remembered.
    pub(crate) fn remembered(&self, now: i64) -> usize {
        let is_live = |request: &&Request| {
            request.is_stored() && request.once.as_ref().is_some_and(|once| once.expires > now)
        };
        self.requests.values().filter(is_live).count()
    }

    /// The batches of a producer that are stored in a partition, in order, each with its offset if that was answered.
    pub(crate) fn batches(
        &self,
        partition: PartKey,
        producer: i64,
        but: RequestId,
    ) -> Vec<(Option<Offset>, BatchTry)> {
        let mut stored = Vec::new();
        for (id, request) in &self.requests {
            let Some(batch) = request.batch.filter(|batch| batch.producer == producer) else {
                continue;
            };
            if *id == but || request.parts[0].partition != partition {
                continue;
            }
            // Requests in flight were appended, except for repetitions.
            let was_appended = request.is_in_flight && verdict(&stored, &batch) == Verdict::Append;
            if request.is_stored() || was_appended {
                let base = request.bases.as_ref().and_then(|bases| bases.first().copied());
                stored.push((base, batch));
            }
        }
        stored
    }

    /// What must happen to a producer's batch that comes after the stored ones.
    pub(crate) fn verdict(&self, id: RequestId) -> Verdict {
        let request = &self.requests[&id];
        let batch = request.batch.expect("it is a producer's");
        let stored = self.batches(request.parts[0].partition, batch.producer, id);
        verdict(&stored, &batch)
    }

    /// A request that is not there and never will be.
    pub(crate) fn refuse(&mut self, id: RequestId) {
        let request = self
            .requests
            .get_mut(&id)
            .expect("only known requests are refused");
        assert!(
            request.fate != Fate::Durable,
            "request {id} was answered as not stored, after it had been readable"
        );
        request.fate = Fate::Absent;
        request.is_in_flight = false;
    }

    pub(crate) fn open_requests(&self) -> Vec<RequestId> {
        let open = |fate| matches!(fate, Fate::Unknown | Fate::Written);
        self.requests
            .iter()
            .filter(|(_, request)| open(request.fate))
            .map(|(id, _)| *id)
            .collect()
    }

    /// The map as it must be, if no request is open.
    pub(crate) fn state(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.state
            .iter()
            .filter_map(|(key, changes)| Some((key.clone(), changes.values().next_back()?.clone()?)))
            .collect()
    }

    pub(crate) fn topic_named(&self, name: &str) -> Option<TopicId> {
        let mut topics = self.topics.iter();
        topics
            .find(|(_, topic)| topic.name == name && topic.exists != Existence::No)
            .map(|(id, _)| *id)
    }
}
