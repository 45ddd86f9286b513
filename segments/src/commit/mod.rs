//! Group commit over all partitions: one round after the other, each made durable by one sync of the journal.
//!
//! A round takes the requests that wait, in order of arrival, and
//! 1. plans: looks for duplicates, checks conditions, assigns offsets, combines small requests into batches (`plan`);
//! 2. writes the batches at their positions in the segments, page cache only (`write`);
//! 3. writes the round into the journal, and answers `ack=written`;
//! 4. syncs the journal;
//! 5. publishes every partition's new end, wakes the readers, and answers `ack=durable` (`publish`).
//!
//! Crash: before the journal's write is on stable storage, nothing of the round is stored: recovery cuts what it left
//! in segments. After that all of it is stored. Requests are in the journal's order, and a round is atomic, so each
//! request is stored whole or not at all.
//!
//! If a segment write fails, the round's requests with records are refused: nothing of them was stored, and no position
//! has moved. After a full disk or a lack of file handles the next round tries again; after any other error the
//! partition takes no more appends. If a journal write or sync fails, the log takes no more appends.

mod once;
mod plan;
mod publish;
mod write;

use std::sync::Arc;

use once::Keyed;
use plan::{Control, Plan};

use crate::append::producers::Producers;
use crate::append::queue::Queued;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::io::sync::Mutex;
use crate::io::sync::atomic::Ordering;
use crate::journal::format::{BLOCK_BYTES, ITEM_OVERHEAD_BYTES, ROUND_HEADER_BYTES, RoundBuilder};
use crate::ticket::{Answer, Appended};
use crate::types::Ack;

/// Buffers that every round uses again.
#[derive(Default)]
struct Scratch {
    requests: Vec<Queued>,
    plans: Vec<Plan>,
    outcomes: Vec<Outcome>,
    journal: Vec<u8>,
    tag: u32,
    /// The keys that the round adds.
    keyed: Keyed,
    /// The idempotent producers. Not a buffer: it is here because only rounds use it.
    producers: Producers,
}

impl Scratch {
    /// Drops the round's plans, and the keys and producers' changes that go with their records.
    fn forget_records(&mut self) {
        self.plans.clear();
        self.keyed.forget();
        self.producers.forget_round();
    }
}

/// The answer to a request, until it may be given.
struct Outcome {
    answer: Answer,
    ack: Ack,
    has_records: bool,
    /// It adds nothing to the round, and is answered from what is durable, whatever the round's result is.
    is_settled: bool,
    result: Result<Appended>,
}

impl Outcome {
    /// Whether its refusal may be due to an earlier request of the same round: to that one's offsets, sequence or key,
    /// or to a topic that it deletes. If the round fails, that reason is void and must not be answered.
    fn may_hang_on_the_round(&self) -> bool {
        let is_of_state = matches!(
            self.result,
            Err(Error::OffsetMismatch { .. }
                | Error::NotFound(_)
                | Error::KeyReused
                | Error::TooManyKeys { .. }
                | Error::OutOfOrderSequence { .. }
                | Error::ProducerFenced { .. })
        );
        is_of_state && !self.is_settled
    }

    /// Whether it answers that something is stored which only this round stores.
    fn promises_the_round(&self) -> bool {
        self.result.is_ok() && !self.is_settled
    }
}

/// Runs the rounds.
pub(crate) struct Committer {
    engine: Arc<Engine>,
    /// The rounds' buffers; its lock makes rounds run one after the other.
    scratch: Mutex<Scratch>,
}

impl Committer {
    /// A committer that knows the idempotent producers that the engine's state holds.
    pub(crate) fn new(engine: Arc<Engine>) -> Arc<Self> {
        let topics = engine.catalog.list().iter().map(|topic| topic.id()).collect();
        let producers = Producers::load(&engine.state.read(), &topics, &mut engine.damage.lock());
        let scratch = Scratch {
            producers,
            ..Scratch::default()
        };
        Arc::new(Self {
            engine,
            scratch: Mutex::new(scratch),
        })
    }

    /// The committer's thread: runs rounds until the log closes.
    pub(crate) fn run(&self) {
        while self.engine.queue.wait() {
            // A failed round has answered everyone and is logged; later requests are refused at the queue.
            let _answered = self.run_round();
        }
    }

    /// Runs one round; `false` if nothing was queued.
    ///
    /// # Errors
    /// [`Error::LogFailed`] once the journal has failed: every request is answered with it.
    pub(crate) fn run_round(&self) -> Result<bool> {
        self.engine.run_round(&mut self.scratch.lock())
    }

    /// Calls `look` between two rounds: no round begins until it returns, and what is published does not change.
    pub(crate) fn between_rounds<T>(&self, look: impl FnOnce() -> T) -> T {
        let _scratch = self.scratch.lock();
        look()
    }
}

impl Engine {
    /// Runs one round; `false` if nothing was queued.
    ///
    /// # Errors
    /// [`Error::LogFailed`] once the journal has failed: every request is answered with it.
    fn run_round(&self, scratch: &mut Scratch) -> Result<bool> {
        self.queue.take(self.round_bytes, &mut scratch.requests);
        if scratch.requests.is_empty() {
            return Ok(false);
        }
        if let Some(error) = self.failure() {
            for request in scratch.requests.drain(..) {
                wake(request.answer.give(Err(error.clone())));
            }
            return Err(error);
        }
        scratch.tag = scratch.tag.wrapping_add(1).max(1);
        let mut controls = self.plan(scratch);
        if let Err(error) = self.make_room(&scratch.plans, &controls) {
            return self.refuse_round(scratch, error);
        }
        if let Err((index, error)) = self.write_segments(&mut scratch.plans) {
            self.segments_failed(scratch, index, &error);
            controls.retain(|control| !matches!(control, Control::State(_, true)));
        }
        let result = self.commit(scratch, &controls);
        if let Err(error) = &result {
            self.fail(error);
            for outcome in &mut scratch.outcomes {
                if outcome.promises_the_round() {
                    outcome.result = Err(error.clone());
                } else if outcome.may_hang_on_the_round() {
                    // It was refused because of something that is not durable, and stored nothing itself.
                    outcome.result = Err(self.failure().unwrap_or_else(|| error.clone()));
                }
            }
        }
        scratch.forget_records();
        let wakers: Vec<_> = scratch
            .outcomes
            .drain(..)
            .filter_map(|outcome| outcome.answer.give(outcome.result))
            .collect();
        for waker in wakers {
            waker.wake();
        }
        result.map(|()| true)
    }

    /// Makes sure that the journal has room for the round, before any of it is written: on a full disk the whole round
    /// can still be refused.
    fn make_room(&self, plans: &[Plan], controls: &[Control]) -> Result<()> {
        let batches = plans.iter().flat_map(|plan| &plan.batches);
        let records: usize = batches
            .map(|planned| planned.batch.as_bytes().len() + ITEM_OVERHEAD_BYTES)
            .sum();
        let changes: usize = controls
            .iter()
            .map(|control| {
                ITEM_OVERHEAD_BYTES
                    + match control {
                        Control::State(change, _) => {
                            change.key.len() + change.value.as_ref().map_or(0, Vec::len)
                        }
                        Control::DeleteTopic(_) | Control::LogStart(..) => 0,
                    }
            })
            .sum();
        let bytes = (ROUND_HEADER_BYTES + records + changes) as u64;
        if self.journal.is_full_for(bytes.next_multiple_of(BLOCK_BYTES)) {
            self.next_journal_file()?;
        }
        Ok(())
    }

    /// Answers a round before any of it was written. A full disk or a lack of file handles is not the log's failure:
    /// the next round tries again.
    fn refuse_round(&self, scratch: &mut Scratch, error: Error) -> Result<bool> {
        let error = match error {
            Error::LogFailed { .. } => error,
            error if error.is_passing() => error,
            other => Error::LogFailed {
                reason: other.to_string(),
                in_flight: false,
            },
        };
        if matches!(error, Error::StorageFull) {
            if !self.storage_full.swap(true, Ordering::Relaxed) {
                tracing::error!("the disk is full: there is no room for the journal");
            }
        } else if error.is_passing() {
            tracing::warn!(%error, "a round was refused: there is no next journal file");
        } else {
            self.fail(&error);
        }
        scratch.forget_records();
        for mut outcome in scratch.outcomes.drain(..) {
            if outcome.promises_the_round() || outcome.may_hang_on_the_round() {
                outcome.result = Err(error.clone());
            }
            wake(outcome.answer.give(outcome.result));
        }
        if error.is_passing() { Ok(true) } else { Err(error) }
    }

    /// Journals, syncs and publishes what was planned and written.
    fn commit(&self, scratch: &mut Scratch, controls: &[Control]) -> Result<()> {
        let failed = |what: &str, error: &std::io::Error| Error::LogFailed {
            reason: format!("{what} the journal: {error}"),
            in_flight: true,
        };
        let Scratch {
            plans,
            outcomes,
            journal,
            keyed,
            producers,
            ..
        } = scratch;
        let mut builder = RoundBuilder::new(std::mem::take(journal));
        let (records, bytes) = fill(&mut builder, plans, controls);
        let internal = keyed.records();
        if builder.is_empty() {
            *journal = builder.into_buffer();
            return Ok(());
        }
        let round = self
            .journal
            .write(&mut builder)
            .map_err(|error| failed("writing", &error))?;
        *journal = builder.into_buffer();
        for plan in &*plans {
            plan.partition.set_written(plan.next_offset);
        }
        answer_written(outcomes);

        let started = self.clock.monotonic();
        self.journal.sync().map_err(|error| failed("syncing", &error))?;
        self.stats.journal_synced(self.clock.monotonic().since(started));

        // Before anything is published: whoever sees the new end must find the keys of the requests below it.
        keyed.publish(self);
        producers.publish();
        self.apply_state(controls);
        for plan in &*plans {
            self.publish(plan);
        }
        self.apply(controls, producers);
        self.journal.set_published(round);
        if !plans.is_empty() {
            self.storage_full.store(false, Ordering::Relaxed);
        }
        // Records of the internal partition do not count: no caller appended them.
        self.stats.round(outcomes.len() as u64, records - internal, bytes);
        Ok(())
    }

    /// Switches to the next journal file, once there is one.
    fn next_journal_file(&self) -> Result<()> {
        let no_end_mark = |error| Error::LogFailed {
            reason: format!("ending a file of the journal: {error}"),
            in_flight: false,
        };
        while !self.journal.switch().map_err(no_end_mark)? {
            if self.options.background {
                self.journal.forget_passing();
                self.request_sync();
                self.journal.wait_for_spare()?;
            } else {
                self.sync_segments()?;
                if !self.journal.has_spare() && !self.journal.add_spare(self.spare_files())? {
                    return Err(self.stuck());
                }
            }
        }
        self.request_sync();
        Ok(())
    }
}

/// Puts a round together for the journal; returns how many records it has, and the bytes of their batches.
fn fill<'a>(builder: &mut RoundBuilder<'a>, plans: &'a [Plan], controls: &[Control]) -> (u64, u64) {
    let mut records = 0;
    let mut bytes = 0;
    for plan in plans {
        for planned in &plan.batches {
            let (segment, position) = planned
                .place
                .as_ref()
                .expect("write_segments has placed every batch");
            let batch = planned.batch.as_bytes();
            builder.append(
                plan.partition.id(),
                segment.base_offset(),
                *position,
                planned.json_lines,
                batch,
            );
            records += planned.next_offset.since(planned.base_offset);
            bytes += batch.len() as u64;
        }
    }
    for control in controls {
        match control {
            Control::State(change, _) => builder.state(&change.key, change.value.as_deref()),
            Control::DeleteTopic(topic) => builder.topic_deleted(topic.id()),
            Control::LogStart(partition, offset) => builder.log_start(partition.id(), *offset),
        }
    }
    (records, bytes)
}

/// Answers the successful requests that asked for [`Ack::Written`].
fn answer_written(outcomes: &mut Vec<Outcome>) {
    if outcomes.iter().all(|outcome| outcome.ack == Ack::Durable) {
        return;
    }
    let answered = outcomes.extract_if(.., |outcome| {
        outcome.ack == Ack::Written && outcome.result.is_ok()
    });
    let wakers: Vec<_> = answered
        .filter_map(|outcome| outcome.answer.give(outcome.result))
        .collect();
    for waker in wakers {
        waker.wake();
    }
}

fn wake(waker: Option<std::task::Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
