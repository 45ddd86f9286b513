//! What operators and background threads do: topics made, changed and deleted, retention, trims, syncs of segments.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quipu_segments::{Ack, Clock, Error, Offset, Partition, TimestampMs, Topic, TopicSettings, TopicSpec};

use super::{Driver, is_refusal};
use crate::model::{Existence, Fate, Request, TopicModel, retains, state_changes};

/// By how much the wall clock is set back.
const SET_BACK_MS: i64 = 3_000;

impl Driver {
    pub(super) fn sync_segments(&mut self) {
        say!(self, "sync segments");
        let since = self.failures_so_far();
        if let Err(error) = self.log().sync_segments() {
            self.check_failure("sync_segments", &error, since);
        }
    }

    /// Moves the time forward.
    pub(super) fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
        self.model.latest = self.model.latest.max(self.clock.now().get());
    }

    pub(super) fn retention(&mut self) {
        let by = self.rng.below(4_000);
        say!(self, "retention, {by} ms later");
        self.advance(Duration::from_millis(by));
        if self.rng.chance(1, 8) {
            self.clock
                .set_wall(TimestampMs(self.clock.now().get() - SET_BACK_MS));
        }
        // First run rounds and read: later a record could become readable and fall below the new log start at once.
        self.run_rounds();
        self.observe();
        if self.disk.is_off() {
            return;
        }
        let partitions = self.partitions();
        let before: Vec<_> = partitions.iter().map(|partition| partition.positions()).collect();
        let rows = partitions.iter().zip(&before);
        let ends: BTreeMap<_, _> = rows
            .map(|(partition, positions)| (partition.id(), positions.end_offset))
            .collect();
        let since = self.failures_so_far();
        let result = self.log().apply_retention();
        for (id, topic) in &mut self.model.topics {
            for (index, part) in &mut topic.partitions {
                let id = quipu_segments::PartitionId::new(*id, *index);
                if let Some(end) = ends.get(&id).filter(|_| topic.retention) {
                    part.start_at_most = part.start_at_most.max(end.get());
                }
            }
        }
        for (partition, before) in partitions.iter().zip(&before) {
            self.check_retention(partition, before.log_start_offset);
        }
        if let Err(error) = result {
            self.check_failure("apply_retention", &error, since);
        }
        self.take_answers(false);
        self.observe();
    }

    /// Checks that retention has deleted only what it may.
    fn check_retention(&self, partition: &Partition, before: Offset) {
        let id = partition.id();
        let now_at = partition.positions().log_start_offset;
        let topic = self.log().topic_by_id(id.topic);
        let topic = topic.expect("it is not deleted meanwhile");
        let settings = topic.spec().settings.clone();
        let records = &self.model.topics[&id.topic].partitions[&id.index].records;
        let deleted = || (before.get()..now_at.get()).filter_map(|offset| records.get(&offset));
        let timestamps = deleted().filter_map(|name| Some(self.model.record(*name)?.timestamp));
        // The last append counts, and the clock may have been set back between queueing and the round.
        let last = deleted().next_back();
        let queued_at = last.and_then(|name| self.model.queued_at(*name));
        let Some((newest, queued_at)) = timestamps.max().zip(queued_at) else {
            return;
        };
        let age_ms = self.clock.now().get() - newest.min(queued_at - SET_BACK_MS);
        let is_old = settings.retention_ms.is_some_and(|limit| age_ms > limit as i64);
        let most = settings.retention_bytes;
        let is_surplus = most.is_some_and(|most| partition.size_bytes() >= most);
        assert!(
            is_old || is_surplus,
            "retention deleted {before} to {now_at} of {id}, of which a record is {age_ms} ms old and {} bytes are left: {settings:?}",
            partition.size_bytes()
        );
    }

    pub(super) fn trim(&mut self) {
        let partitions = self.partitions();
        if partitions.is_empty() {
            return;
        }
        self.run_rounds();
        self.observe();
        if self.disk.is_off() {
            return;
        }
        let partition = &partitions[self.rng.index(partitions.len())];
        let positions = partition.positions();
        let (start, end) = (positions.log_start_offset.get(), positions.end_offset.get());
        let beyond = u64::from(self.rng.chance(1, 8));
        let before = Offset::new(self.rng.between(start.saturating_sub(2), end + beyond));
        say!(self, "trim {} before {before}, has {positions:?}", partition.id());
        let since = self.failures_so_far();
        let result = partition.trim(before);
        let part = self.model.part_mut((partition.id().topic, partition.id().index));
        match result {
            Ok(now) => {
                assert!(before.get() <= end, "trim beyond the end");
                assert_eq!(now.get(), start.max(before.get()), "the log start after a trim");
                (part.start, part.start_at_most) = (now.get(), part.start_at_most.max(now.get()));
            }
            Err(error) => {
                say!(self, "trim fails: {error}");
                let beyond = before.get() > end && matches!(error, Error::OutOfRange { .. });
                assert!(beyond || self.explains(&error, since), "trim: {error}");
                if !beyond && !is_refusal(&error) {
                    let part = self.model.part_mut((partition.id().topic, partition.id().index));
                    part.start_at_most = part.start_at_most.max(before.get());
                }
            }
        }
        self.take_answers(false);
    }

    fn spec(&mut self, partitions: u32) -> TopicSpec {
        TopicSpec {
            partitions,
            settings: TopicSettings {
                segment_bytes: [4 << 10, 16 << 10, 64 << 10][self.rng.index(3)],
                segment_ms: [1_000, 1 << 40][self.rng.index(2)],
                retention_ms: self.rng.chance(1, 5).then_some(5_000),
                retention_bytes: self.rng.chance(1, 5).then_some(20_000),
            },
            properties: BTreeMap::from([("n".to_owned(), self.rng.below(100).into())]),
        }
    }

    pub(super) fn create_topic(&mut self) {
        let name = ["a", "b", "c", "d", "e"][self.rng.index(5)].to_owned();
        let partitions = [1, 1, 2, 3, 9][self.rng.index(5)];
        let spec = self.spec(partitions);
        say!(self, "create {name} {spec:?}");
        let known = self.model.topic_named(&name);
        let since = self.failures_so_far();
        match self.log().create_topic(&name, spec.clone()) {
            Ok(topic) => {
                let was_free = known.is_none_or(|id| self.model.topics[&id].exists == Existence::Maybe);
                assert!(was_free, "{name} exists");
                self.model.creating.retain(|(other, _)| *other != name);
                // Topic ids must not repeat.
                assert!(self.model.last_topic_id.is_none_or(|last| last < topic.id()));
                self.model.last_topic_id = Some(topic.id());
                self.model.topics.insert(topic.id(), TopicModel::new(name, spec));
            }
            Err(Error::TopicExists(_)) => {
                let may_exist = known.is_some() || !self.model.creating.is_empty();
                assert!(may_exist, "{name} does not exist");
            }
            Err(error) => {
                self.check_failure("create_topic", &error, since);
                let topic = self.log().topic(&name);
                let is_known = topic.is_none_or(|topic| Some(topic.id()) == known);
                assert!(is_known, "{name} was not made");
                self.model.creating.push((name, spec));
            }
        }
        self.take_answers(false);
    }

    fn topic(&mut self) -> Option<Arc<Topic>> {
        let topics = self.log().topics();
        (!topics.is_empty()).then(|| Arc::clone(&topics[self.rng.index(topics.len())]))
    }

    pub(super) fn delete_topic(&mut self) {
        self.run_rounds();
        let Some(topic) = self.topic().filter(|_| self.waiting.is_empty()) else {
            return;
        };
        let (id, name) = (topic.id(), topic.name().to_owned());
        let (state, marker) = self.changes();
        let changes = state_changes(&state);
        let request = self.model.new_request(Request {
            parts: Vec::new(),
            state,
            marker,
            ack: Ack::Durable,
            fate: Fate::Unknown,
            bases: None,
            has_receipt: false,
            once: None,
            batch: None,
            is_in_flight: false,
            queued_at: self.clock.now().get(),
        });
        say!(self, "delete {name} {id:?} by request {request}");
        let since = self.failures_so_far();
        match self.log().delete_topic(&name, changes) {
            Ok(()) => {
                assert!(topic.is_deleted());
                assert!(self.log().topic(&name).is_none());
                assert!(self.log().topic_by_id(id).is_none());
                self.model.settle(request, &[]);
                let topic = self.model.topics.get_mut(&id).expect("it was made");
                topic.exists = Existence::No;
                if let Some(earlier) = topic.deletion.take() {
                    self.model.refuse(earlier);
                }
            }
            Err(error) => {
                self.check_failure("delete_topic", &error, since);
                let topic = self.model.topics.get_mut(&id).expect("it was made");
                if is_refusal(&error) || topic.deletion.is_some() {
                    self.model.refuse(request);
                } else {
                    topic.exists = Existence::Maybe;
                    topic.deletion = Some(request);
                }
            }
        }
        self.take_answers(false);
    }

    pub(super) fn alter_topic(&mut self) {
        let Some(topic) = self.topic() else { return };
        let partitions = topic.partition_count() + [0, 0, 1, 3][self.rng.index(4)];
        let spec = self.spec(partitions);
        say!(self, "alter {} {spec:?}", topic.name());
        let since = self.failures_so_far();
        let result = self.log().alter_topic(topic.name(), spec.clone());
        let known = self.model.topics.get_mut(&topic.id()).expect("it was made");
        known.retention |= retains(&spec);
        match result {
            Ok(altered) => {
                assert_eq!((*altered.spec()).clone(), spec);
                for index in 0..spec.partitions {
                    known.partitions.entry(index).or_default();
                }
                known.specs = vec![spec];
            }
            Err(error) => {
                known.specs.push(spec);
                self.check_failure("alter_topic", &error, since);
            }
        }
        self.take_answers(false);
    }
}
