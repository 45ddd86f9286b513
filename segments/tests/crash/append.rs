//! Requests, their rounds and their answers.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quipu_segments::batch::BatchBuilder;
use quipu_segments::{
    Ack, AppendRequest, Appended, Clock, Error, Offset, Once, Part, Partition, Receipt, Records, TimestampMs,
};

use super::{Driver, Waiting, is_refusal};
use crate::model::{
    BatchTry, Change, Existence, Fate, KeyedTry, Name, PartPlan, Rec, Request, RequestId, Rows, receipt_key,
    state_changes,
};
use crate::packed::packed;

impl Driver {
    fn marker(&mut self) -> Vec<u8> {
        let marker = format!("marker/{}", self.model.next_request).into_bytes();
        self.markers.push(marker.clone());
        marker
    }

    pub(super) fn changes(&mut self) -> (Vec<Change>, Option<Vec<u8>>) {
        let marker = self.marker();
        let mut changes = vec![(marker.clone(), Some(b"here".to_vec()))];
        if self.rng.chance(1, 2) {
            // A group's committed offset: it only rises.
            let key = format!("group/{}", self.rng.below(3)).into_bytes();
            changes.push((key, Some(self.model.next_request.to_le_bytes().to_vec())));
        }
        for _ in 0..self.rng.below(4) {
            let key = format!("key/{}", self.rng.below(8)).into_bytes();
            let len = [3, 40, 5_000][self.rng.index(3)];
            let mut value = format!("{}:", self.model.next_request).into_bytes();
            value.resize(len, b'.');
            if changes.iter().all(|(other, _)| *other != key) {
                changes.push((key, self.rng.chance(3, 4).then_some(value)));
            }
        }
        if self.markers.len() > 12 && self.model.open_requests().is_empty() {
            let old = self.markers.drain(..6);
            changes.extend(old.filter(|old| *old != marker).map(|old| (old, None)));
        }
        (changes, Some(marker))
    }

    pub(super) fn partitions(&self) -> Vec<Arc<Partition>> {
        self.log()
            .topics()
            .iter()
            .flat_map(|topic| topic.partitions().to_vec())
            .collect()
    }

    pub(super) fn append(&mut self) {
        let mut partitions = self.partitions();
        if partitions.is_empty() {
            self.create_topic();
            partitions = self.partitions();
        }
        if self.rng.chance(1, 20) {
            let by = self.rng.below(1_500);
            self.advance(Duration::from_millis(by));
        }
        match self.rng.below(8) {
            0..3 if !partitions.is_empty() && self.prepare_keys() => return self.append_once(partitions),
            3 if !partitions.is_empty() => return self.append_of_producer(&partitions),
            _ => {}
        }
        let wanted = [1, 1, 1, 2, 3, 8][self.rng.index(6)];
        let state_only = partitions.is_empty() || self.rng.chance(1, 8);
        let mut chosen = Vec::new();
        while !state_only && !partitions.is_empty() && chosen.len() < wanted {
            chosen.push(partitions.swap_remove(self.rng.index(partitions.len())));
        }
        let id = self.model.next_request;
        let parts = chosen
            .into_iter()
            .enumerate()
            .map(|(part, partition)| {
                let (records, plan) = self.records(id, part as u32);
                (partition, records, plan)
            })
            .collect();
        self.send(parts, None, None);
    }

    /// Sends a request with these records; without records it only changes the state.
    pub(super) fn send(
        &mut self,
        records: Vec<(Arc<Partition>, Records, Rows)>,
        once: Option<KeyedTry>,
        batch: Option<BatchTry>,
    ) {
        let id = self.model.next_request;
        let state_only = records.is_empty();
        let is_plain = once.is_none() && batch.is_none();
        let mut expected = (self.waiting.is_empty() && !state_only && is_plain).then_some(true);
        let may_expect = self.waiting.is_empty() && !state_only;
        let (mut parts, mut plans) = (Vec::new(), Vec::new());
        for (partition, records, rows) in records {
            let expected_offset = if may_expect && self.rng.chance(1, 8) {
                let next = partition.positions().written_offset;
                Some(if self.rng.chance(2, 3) {
                    next
                } else {
                    expected = Some(false);
                    next.plus(self.rng.between(1, 3))
                })
            } else {
                None
            };
            let key = (partition.id().topic, partition.id().index);
            plans.push(PartPlan { partition: key, rows });
            let part = Part::new(partition, records).expecting(expected_offset);
            parts.push(part.json_lines(self.rng.chance(1, 2)));
        }
        let (state, marker) = if state_only || self.rng.chance(1, 4) {
            self.changes()
        } else {
            (Vec::new(), None)
        };
        let ack = [Ack::Durable, Ack::Written][usize::from(self.rng.chance(1, 3))];
        let has_receipt = is_plain && !state_only && self.rng.chance(1, 4);
        let receipt = has_receipt.then(|| Receipt {
            key: receipt_key(id),
            value: id.to_be_bytes().to_vec(),
            parts: (0..parts.len() as u32).collect(),
        });
        let request = AppendRequest {
            parts,
            state: state_changes(&state),
            receipts: receipt.into_iter().collect(),
            ack,
            once: once.as_ref().map(|once| Once {
                topic: once.topic,
                key: once.key.clone(),
                fingerprint: [once.fingerprint; 16],
                expires: TimestampMs(once.expires),
                note: id.to_le_bytes().to_vec(),
            }),
        };
        say!(
            self,
            "append {id} {ack:?} {:?} state {} {once:?} {batch:?}",
            plans
                .iter()
                .map(|plan| (
                    plan.partition.0.0,
                    plan.partition.1,
                    &plan.rows.lacks,
                    plan.rows.offsets()
                ))
                .collect::<Vec<_>>(),
            state.len()
        );
        let id = self.model.new_request(Request {
            parts: plans,
            state,
            marker,
            ack,
            fate: Fate::Unknown,
            bases: None,
            has_receipt,
            once,
            batch,
            is_in_flight: false,
            queued_at: self.clock.now().get(),
        });
        self.tally.requests += 1;
        let since = self.failures_so_far();
        match self.log().append(request) {
            Ok(ticket) => self.waiting.push(Waiting {
                id,
                ticket,
                since,
                expected: if state_only { Some(true) } else { expected },
            }),
            Err(error) => {
                self.check_failure(&format!("append {id}"), &error, since);
                assert!(is_refusal(&error), "append {id}: {error}");
                self.model.refuse(id);
            }
        }
    }

    /// Random records for one part, as the log takes them and as the model does, within the limits of a request.
    pub(super) fn records(&mut self, request: RequestId, part: u32) -> (Records, Rows) {
        let count = [1, 1, 2, 5, 20, 100][self.rng.index(6)];
        let size = [0, 10, 100, 100, 1_000, 12_000][self.rng.index(6)].min(12_000 / count);
        let mut plan = Vec::new();
        for index in 0..count {
            let name = Name {
                request,
                part,
                index: index as u32,
            };
            let timestamp = self.clock.now().get() + self.rng.below(2_000) as i64 - 1_000;
            let len = size / 2 + self.rng.index(size / 2 + 1);
            plan.push(Rec::make(name, timestamp, len, &mut self.rng));
        }
        let mut lacks = BTreeSet::new();
        let records = if self.rng.chance(1, 3) {
            let batch = self.rng.between(1, count as u64) as usize;
            let mut batches = Vec::new();
            for (records, first) in plan.chunks(batch).zip((0..).step_by(batch)) {
                let (batch, missing) = packed(records, records[0].timestamp.unsigned_abs());
                lacks.extend(missing.into_iter().map(|number| first + number));
                batches.push(batch);
            }
            Records::Sealed(batches)
        } else {
            let mut builder = BatchBuilder::new();
            for record in &plan {
                record.push_to(&mut builder);
            }
            Records::Loose(builder)
        };
        (records, Rows { records: plan, lacks })
    }

    pub(super) fn run_rounds(&mut self) {
        let log = self.log();
        let since = self.failures_so_far();
        let mut whole = false;
        for _ in 0..1_000 {
            match log.run_round() {
                Ok(true) => {}
                Ok(false) => {
                    whole = true;
                    break;
                }
                Err(error) => {
                    self.check_failure("round", &error, since);
                    break;
                }
            }
        }
        self.take_answers(whole);
    }

    /// Takes the answers that have come; with `all`, every answer must have come.
    pub(super) fn take_answers(&mut self, all: bool) {
        let mut context = Context::from_waker(Waker::noop());
        for mut waiting in std::mem::take(&mut self.waiting) {
            let id = waiting.id;
            match Pin::new(&mut waiting.ticket).poll(&mut context) {
                Poll::Pending => {
                    assert!(
                        !all || self.disk.is_off(),
                        "request {id} was not answered by its round"
                    );
                    self.waiting.push(waiting);
                }
                Poll::Ready(Ok(Appended {
                    base_offsets,
                    repeated: Some(note),
                })) => self.repeated(id, &base_offsets, &note),
                Poll::Ready(Ok(appended)) => {
                    self.check_is_new(id);
                    assert!(
                        waiting.expected != Some(false),
                        "request {id} expected another offset, and was stored"
                    );
                    self.stored(id, appended.base_offsets);
                }
                Poll::Ready(Err(error)) => {
                    say!(self, "request {id}: {error}");
                    let mismatch = matches!(error, Error::OffsetMismatch { .. });
                    assert!(
                        self.explains(&error, waiting.since)
                            || mismatch && waiting.expected != Some(true)
                            || self.explains_refusal(id, &error),
                        "request {id} failed though nothing is wrong: {error}"
                    );
                    let only_full =
                        matches!(error, Error::StorageFull) && self.failures_so_far() == waiting.since;
                    let request = &self.model.requests[&id];
                    assert!(
                        !only_full || self.disk.is_off() || !request.parts.is_empty(),
                        "request {id} changes only state, which has its space: {error}"
                    );
                    if is_refusal(&error) {
                        self.model.refuse(id);
                    } else {
                        self.tally.unknown += 1;
                        let request = self.model.requests.get_mut(&id).expect("it was appended");
                        request.is_in_flight = matches!(error, Error::LogFailed { .. });
                    }
                }
            }
        }
        self.settle_written();
    }

    fn stored(&mut self, id: RequestId, bases: Vec<Offset>) {
        let request = self.model.requests.get_mut(&id).expect("it was appended");
        assert_eq!(bases.len(), request.parts.len(), "one base offset for each part");
        say!(self, "request {id} {:?} at {bases:?}", request.ack);
        self.tally.durable += u64::from(request.ack == Ack::Durable);
        request.bases = Some(bases.clone());
        let gaps = request.parts.iter().filter(|part| !part.rows.lacks.is_empty());
        self.tally.gaps += gaps.count() as u64;
        if request.ack == Ack::Written {
            request.fate = Fate::Written;
            return;
        }
        let topics: Vec<_> = request.parts.iter().map(|part| part.partition.0).collect();
        for topic in topics {
            // A topic that takes records has not been deleted, whatever its deletion was answered.
            let topic = self
                .model
                .topics
                .get_mut(&topic)
                .expect("requests go to topics that were made");
            if let Some(deletion) = topic.deletion.take_if(|deletion| *deletion < id) {
                topic.exists = Existence::Yes;
                self.model.refuse(deletion);
            }
        }
        let bases: Vec<_> = bases.into_iter().map(Some).collect();
        self.model.settle(id, &bases);
    }

    /// Readable records are durable, whichever acknowledgement was asked for.
    fn settle_written(&mut self) {
        if self.disk.is_off() {
            return;
        }
        let log = self.log();
        for id in self.model.open_requests() {
            let request = &self.model.requests[&id];
            let (Fate::Written, Some(bases)) = (request.fate, &request.bases) else {
                continue;
            };
            let readable = request.parts.iter().zip(bases).all(|(part, base)| {
                let topic = log.topic_by_id(part.partition.0);
                topic
                    .and_then(|topic| topic.partition(part.partition.1))
                    .is_some_and(|partition| {
                        partition.positions().end_offset >= base.plus(part.rows.offsets())
                    })
            });
            let marked = request
                .marker
                .as_ref()
                .is_none_or(|marker| log.state_get(marker).is_some());
            if readable && marked {
                let bases: Vec<_> = bases.iter().copied().map(Some).collect();
                self.model.settle(id, &bases);
            }
        }
    }
}
