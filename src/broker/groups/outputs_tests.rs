//! Random histories of calls with outputs, over a broker on a simulated disk: answers are lost, calls are repeated late,
//! members leave, and the power fails at any call of the disk. In the end each input has its output once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::broker::Broker;
use crate::broker::caller::Caller;
use crate::broker::engine::sim::{Rng, SimClock, SimDisk};
use crate::broker::engine::{PartitionId, TimestampMs};
use crate::broker::groups::live::GroupType;
use crate::broker::groups::membership::Join;
use crate::broker::groups::outside::NamedCommit;
use crate::broker::groups::poll::{Polled, Wanted};
use crate::broker::groups::repeats::REMEMBERED_MS;
use crate::broker::groups::settle::{self, Settling};
use crate::broker::produce::whole::Attempt;
use crate::formats::json::parse_addressed_list;

const NOW: TimestampMs = TimestampMs(1_700_000_000_000);
const INPUTS: u64 = 12;

struct World {
    disk: SimDisk,
    clock: Arc<SimClock>,
    broker: Broker,
    kind: GroupType,
    rng: Rng,
    /// Calls that were sent, to be sent again late.
    sent: Vec<Call>,
    crashes: u64,
}

/// The records of an answer.
#[derive(Clone)]
struct Held {
    poll_id: String,
    epoch: u64,
    inputs: Vec<(u32, Offset)>,
}

#[derive(Clone)]
enum What {
    Poll(Option<Held>),
    Commit(u64, Vec<(u32, Offset)>),
    Settle(Vec<(u32, Offset)>, Vec<(u32, Offset)>),
}

/// A call with the inputs whose outputs it stores.
#[derive(Clone)]
struct Call {
    member: &'static str,
    what: What,
    outputs: Vec<(u32, Offset)>,
}

fn list(topic: &str, places: &[(u32, Offset)]) -> String {
    let row = |(partition, offset): &(u32, Offset)| {
        format!(r#"{{"topic":"{topic}","key":"{partition}-{offset}","value":"{partition}-{offset}"}}"#)
    };
    format!("[{}]", places.iter().map(row).collect::<Vec<_>>().join(","))
}

/// As the wire makes them.
fn outputs(broker: &Broker, places: &[(u32, Offset)]) -> Outputs {
    let attempt = Attempt {
        options: crate::broker::produce::Options {
            ack: None,
            expected_offset: None,
            repartition: false,
        },
        now: broker.producer.now(),
        firsts: None,
    };
    let list = list("out", places);
    let nobody = Caller::default();
    let mut addressed = broker
        .producer
        .addressed(&nobody, "/produce", &attempt, Vec::new());
    let count = parse_addressed_list(&list, "/produce", |index, record| {
        addressed.add(index, &record.topic, &record.record)
    });
    Outputs {
        count: count.unwrap(),
        held: None,
        placed: Ok(addressed.placed()),
    }
}

impl World {
    fn new(kind: GroupType, seed: u64) -> Self {
        let (disk, clock) = (SimDisk::new(seed), Arc::new(SimClock::new(NOW)));
        let broker = Broker::on(&disk, &clock).unwrap();
        for topic in ["in", "out"] {
            broker
                .topics
                .create(&Caller::default(), topic, Some(2), &[])
                .unwrap();
        }
        let world = Self {
            disk,
            clock,
            broker,
            kind,
            rng: Rng::new(seed),
            sent: Vec::new(),
            crashes: 0,
        };
        let topic = world.broker.log.topic("in").unwrap();
        for index in 0..2 {
            let mut records = crate::broker::engine::batch::BatchBuilder::new();
            for _ in 0..INPUTS / 2 {
                records.push(NOW, None, Some(b"x"), &[]);
            }
            let records = crate::broker::engine::Records::Loose(records);
            let part = crate::broker::engine::Part::new(topic.partition(index).unwrap(), records);
            let ticket = world.broker.log.append(AppendRequest::of(vec![part]));
            ticket.unwrap().wait().unwrap();
        }
        world
    }

    fn restart(&mut self) {
        self.crashes += 1;
        let disk = match self.rng.chance(1, 2) {
            true => self.disk.after_power_cut(),
            false => self.disk.after_kill(),
        };
        self.broker = Broker::on(&disk, &self.clock).unwrap();
        self.disk = disk;
    }

    fn place(&self, (partition, offset): (u32, Offset)) -> settle::Place {
        settle::Place {
            topic: "in".to_owned(),
            partition,
            offset,
        }
    }

    async fn send(&mut self, call: &Call) -> Result<(Option<Held>, Option<Produced>), Refusal> {
        let groups = self.broker.groups.clone();
        let given = match &call.what {
            What::Poll(None) => None,
            _ => Some(outputs(&self.broker, &call.outputs)),
        };
        let nobody = Caller::default();
        match &call.what {
            What::Poll(held) => {
                let wanted = Wanted {
                    ack: held.as_ref().map(|held| held.poll_id.clone()),
                    max_records: Some(1 + self.rng.below(5)),
                    max_bytes: 1 << 20,
                    wait: Duration::ZERO,
                    instance: None,
                };
                let join = Join {
                    max_deliveries: Some(1000).filter(|_| self.kind == GroupType::Shared),
                    ..Join::of(&["in"], self.kind)
                };
                let polled = groups
                    .poll(&nobody, "g", call.member, &wanted, given, Some(join))
                    .await?;
                Ok((Some(held_of(&polled)), polled.produced))
            }
            What::Commit(epoch, places) => {
                let commit = |(partition, offset): &(u32, Offset)| NamedCommit {
                    topic: "in".to_owned(),
                    partition: *partition,
                    offset: offset.get(),
                    metadata: None,
                };
                let commits: Vec<NamedCommit> = places.iter().map(commit).collect();
                let done = groups.commit_as(&nobody, "g", call.member, (*epoch, None), &commits, given);
                Ok((None, done.await?.1))
            }
            What::Settle(accept, reject) => {
                let reject = reject.iter();
                let settling = Settling {
                    accept: accept.iter().map(|place| self.place(*place)).collect(),
                    reject: reject
                        .map(|place| (self.place(*place), "bad".to_owned()))
                        .collect(),
                    ..Settling::default()
                };
                let done = groups.settle(&nobody, "g", call.member, settling, given);
                Ok((None, done.await?.1))
            }
        }
    }

    /// Sends a call until it has an answer that arrives, or is refused for good. Answers are lost, and the power fails.
    async fn call(&mut self, call: Call) -> Option<Option<Held>> {
        self.sent.push(call.clone());
        for _ in 0..20 {
            if self.rng.chance(1, 8) {
                self.disk.stop_at(1 + self.rng.below(12));
            }
            let answer = self.send(&call).await;
            if self.disk.is_off() {
                // The client may have had its answer before.
                let arrives = answer.is_ok() && self.rng.chance(1, 2);
                self.restart();
                if self.rng.chance(1, 3) {
                    // The client is gone too: another process begins without a memory.
                    return None;
                }
                if !arrives {
                    continue;
                }
            }
            match answer {
                Ok((held, _)) if self.rng.chance(4, 5) => return Some(held),
                Ok(_) => {}
                Err(refusal)
                    if refusal.reason == Reason::Fenced || refusal.reason == Reason::UnknownMember =>
                {
                    return None;
                }
                Err(refusal) if refusal.reason == Reason::PollSuperseded => return None,
                Err(refusal) => {
                    assert!(
                        matches!(
                            refusal.reason,
                            Reason::LogFailed | Reason::ShuttingDown | Reason::Internal
                        ),
                        "{refusal:?}"
                    );
                    self.restart();
                }
            }
        }
        None
    }

    /// What a client does with the records of an answer. Returns the answer that it acknowledges next.
    async fn work(&mut self, member: &'static str, held: Held) -> Option<Held> {
        let inputs = held.inputs.clone();
        let some = self.rng.index(inputs.len() + 1);
        if some == 0 || self.rng.chance(1, 2) {
            return Some(held);
        }
        match self.kind {
            GroupType::Ordered => {
                // A prefix of the records of the first partition.
                let (partition, _) = inputs[0];
                let of_first = inputs.iter().filter(|(index, _)| *index == partition);
                let done: Vec<_> = of_first.take(some).copied().collect();
                let next = done.last()?.1.plus(1);
                let call = Call {
                    member,
                    what: What::Commit(held.epoch, vec![(partition, next)]),
                    outputs: done.clone(),
                };
                self.call(call).await?;
                // The rest by the answer's name.
                Some(Held {
                    inputs: inputs.into_iter().filter(|place| !done.contains(place)).collect(),
                    ..held
                })
            }
            GroupType::Shared | GroupType::Classic => {
                let (done, rest) = inputs.split_at(some);
                let rejected = self.rng.index(done.len() + 1);
                for part in [done, rest].into_iter().filter(|part| !part.is_empty()) {
                    let rejected = rejected.min(part.len());
                    let call = Call {
                        member,
                        what: What::Settle(part[rejected..].to_vec(), part[..rejected].to_vec()),
                        outputs: part.to_vec(),
                    };
                    self.call(call).await?;
                }
                None
            }
        }
    }

    /// The outputs, with how often each is there.
    fn stored(&self) -> BTreeMap<String, u32> {
        let mut found = BTreeMap::new();
        let topic = self.broker.log.topic("out").unwrap();
        for partition in topic.partitions().iter() {
            let end = partition.positions().end_offset;
            let mut from = Offset::ZERO;
            while from < end {
                let request = crate::broker::engine::ReadRequest::new(from, 1 << 20);
                let fetched = partition.read(request).unwrap();
                for run in crate::broker::fetch::page::PageRecords::new(&fetched.runs, from, Offset::MAX) {
                    let value = run.unwrap().0.value.unwrap().to_vec();
                    let value = String::from_utf8(value).unwrap();
                    *found.entry(value.trim_matches('"').to_owned()).or_default() += 1;
                }
                from = fetched.next_offset;
            }
        }
        found
    }

    async fn run(mut self) -> Result<u64, TestCaseError> {
        let members = ["a", "b"];
        let mut held: BTreeMap<&str, Option<Held>> = BTreeMap::new();
        let mut is_draining = false;
        for step in 0..400 {
            is_draining |= step > 40;
            if self.disk.is_off() {
                self.restart();
            }
            let member = members[if is_draining { 0 } else { self.rng.index(2) }];
            match self.rng.below(if is_draining { 10 } else { 13 }) {
                // A late duplicate: whatever it is answered, it stores nothing twice.
                0 if !self.sent.is_empty() => {
                    let late = self.sent[self.rng.index(self.sent.len())].clone();
                    let _ = self.send(&late).await;
                    held.insert(late.member, None);
                    self.release_leases();
                }
                10 => self.restart(),
                11 => {
                    // Without its acknowledgement: the records come again.
                    let _ = self
                        .broker
                        .groups
                        .leave(&Caller::default(), "g", member, None)
                        .await;
                    held.insert(member, None);
                }
                12 => self.release_leases(),
                _ => {
                    let before = held.insert(member, None).flatten();
                    let before = match before {
                        Some(before) if !before.inputs.is_empty() => self.work(member, before).await,
                        before => before,
                    };
                    let outputs = before.as_ref().map(|held| held.inputs.clone());
                    let call = Call {
                        member,
                        what: What::Poll(before),
                        outputs: outputs.unwrap_or_default(),
                    };
                    let next = self.call(call).await.flatten();
                    if is_draining && next.as_ref().is_none_or(|next| next.inputs.is_empty()) {
                        self.release_leases();
                        for other in members {
                            let _ = self
                                .broker
                                .groups
                                .leave(&Caller::default(), "g", other, None)
                                .await;
                        }
                        held.clear();
                        if self.is_done() {
                            break;
                        }
                        continue;
                    }
                    held.insert(member, next);
                }
            }
        }
        self.restart();
        let expected: BTreeMap<String, u32> = (0..2)
            .flat_map(|partition| (0..INPUTS / 2).map(move |offset| (format!("{partition}-{offset}"), 1)))
            .collect();
        prop_assert_eq!(self.stored(), expected);
        Ok(self.crashes)
    }

    /// Everything that is leased is free again, as if much time had passed.
    fn release_leases(&self) {
        self.clock.advance(Duration::from_secs(31));
    }

    fn is_done(&self) -> bool {
        let committed = self.broker.groups.committed("g");
        let topic = self.broker.log.topic("in").unwrap();
        let is_done = |index| {
            let id = PartitionId::new(topic.id(), index);
            committed
                .get(&id)
                .is_some_and(|row| row.offset.get() == INPUTS / 2)
        };
        (0..2).all(is_done)
    }
}

fn held_of(polled: &Polled) -> Held {
    let mut inputs = Vec::new();
    for delivered in &polled.pages {
        for record in delivered.page.records() {
            inputs.push((delivered.partition.index, record.unwrap().0.offset));
        }
    }
    Held {
        poll_id: polled.poll_id.clone(),
        epoch: polled.epoch,
        inputs,
    }
}

fn run(kind: GroupType, seed: u64) -> Result<u64, TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(World::new(kind, seed).run())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn each_input_of_an_ordered_group_has_its_output_once_whatever_fails(seed in any::<u64>()) {
        run(GroupType::Ordered, seed)?;
    }

    #[test]
    fn each_input_of_a_queue_has_its_output_once_whatever_fails(seed in any::<u64>()) {
        run(GroupType::Shared, seed)?;
    }
}

#[tokio::test]
async fn calls_are_forgotten_ten_minutes_after_the_last_one() {
    let mut world = World::new(GroupType::Ordered, 7);
    let first = world
        .send(&Call {
            member: "a",
            what: What::Poll(None),
            outputs: Vec::new(),
        })
        .await;
    let first = first.unwrap().0.unwrap();
    let call = Call {
        member: "a",
        outputs: first.inputs.clone(),
        what: What::Poll(Some(first)),
    };
    world.send(&call).await.unwrap();
    let keys = |world: &World| world.broker.log.state_prefix(&repeats::group_prefix("g")).len();
    assert_eq!(keys(&world), 1);
    world.clock.advance(Duration::from_millis(REMEMBERED_MS as u64));
    // Over a restart too.
    world.restart();
    assert_eq!(world.broker.groups.forget_repeats().await.unwrap(), 0);
    let again = world.send(&call).await.unwrap().1.unwrap();
    assert!(again.is_replayed && again.rows.len() == call.outputs.len());
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.broker.groups.forget_repeats().await.unwrap(), 1);
    assert_eq!(keys(&world), 0);
    let refusal = world.send(&call).await.err().unwrap();
    assert_eq!(
        (refusal.reason, refusal.outcome),
        (Reason::Fenced, Default::default())
    );
}
