//! Batches of idempotent producers: over restarts, in one round, and when rounds fail.

mod support;

use quipu_segments::batch::{BatchBuilder, SealedBatch};
use quipu_segments::sim::{Fault, IoKind, SimDisk};
use quipu_segments::{
    AppendRequest, Appended, Error, Log, Offset, Once, Part, ProducerId, Records, StateChange, Ticket,
    TimestampMs,
};
use support::{change, failing_rounds, of_parts, open, partition as partition_of, plain_spec, start, store};

struct World {
    disk: SimDisk,
    log: Log,
}

/// A batch of `count` records as a producer sends it.
fn batch(producer: i64, epoch: i16, sequence: i32, count: u32) -> SealedBatch {
    let mut builder = BatchBuilder::new();
    for record in 0..count {
        let text = format!("{sequence}+{record}");
        builder.push(TimestampMs(1), None, Some(text.as_bytes()), &[]);
    }
    let mut batch = builder.seal();
    batch.set_producer(ProducerId(producer), epoch, sequence);
    batch
}

impl World {
    fn new() -> Self {
        let (disk, log) = start(1, plain_spec(2));
        Self { disk, log }
    }

    fn crash(&mut self) {
        self.disk = self.disk.after_power_cut();
        self.log = open(&self.disk);
    }

    fn part(&self, partition: u32, batches: Vec<SealedBatch>) -> Part {
        support::part(partition_of(&self.log, partition), Records::Sealed(batches))
    }

    fn queue(&self, partition: u32, batch: SealedBatch) -> Ticket {
        let part = self.part(partition, vec![batch]);
        self.log.append(of_parts(vec![part])).unwrap()
    }

    fn send(&self, batch: SealedBatch) -> Result<Appended, Error> {
        self.store(0, batch)
    }

    fn store(&self, partition: u32, batch: SealedBatch) -> Result<Appended, Error> {
        store(&self.log, of_parts(vec![self.part(partition, vec![batch])]))
    }

    fn end(&self) -> u64 {
        partition_of(&self.log, 0).positions().end_offset.get()
    }
}

/// The first offset, and whether the batch was appended now.
fn told(answer: Result<Appended, Error>) -> (u64, bool) {
    let answer = answer.unwrap();
    assert!(answer.repeated.as_ref().is_none_or(Vec::is_empty));
    (answer.base_offsets[0].get(), answer.repeated.is_none())
}

fn assert_out_of_order(answer: Result<Appended, Error>, wanted: i32, other: i32) {
    match answer {
        Err(Error::OutOfOrderSequence { expected, found }) => assert_eq!((expected, found), (wanted, other)),
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn a_repeated_batch_is_answered_with_its_first_offset_after_any_restart() {
    let mut world = World::new();
    for sequence in 0..7 {
        let first = told(world.send(batch(9, 2, 3 * sequence, 3)));
        assert_eq!(first, (3 * sequence as u64, true));
        world.crash();
        for known in (0..=sequence).rev().take(5) {
            let found = told(world.send(batch(9, 2, 3 * known, 3)));
            assert_eq!(found, (3 * known as u64, false));
        }
        if sequence % 2 == 0 {
            world.log.close().unwrap();
            world.disk = world.disk.after_power_cut();
            world.log = open(&world.disk);
        }
    }
    assert_eq!(world.end(), 21);
    assert_out_of_order(world.send(batch(9, 2, 22, 1)), 21, 22);
    let fenced = world.send(batch(9, 1, 21, 1));
    assert!(matches!(
        fenced,
        Err(Error::ProducerFenced { epoch: 2, found: 1 })
    ));
    // Other partitions do not know the producer, and other producer ids do not share its sequence.
    assert_eq!(told(world.store(1, batch(9, 0, 8, 1))), (0, true));
    assert_eq!(told(world.send(batch(10, 0, 8, 1))), (21, true));
}

#[test]
fn batches_of_one_round_follow_one_another_and_repeat_one_another() {
    let world = World::new();
    let tickets: Vec<Ticket> = [0, 2, 2, 0, 5, 4]
        .into_iter()
        .map(|sequence| world.queue(0, batch(9, 0, sequence, 2)))
        .collect();
    while world.log.run_round().unwrap() {}
    let mut answers = tickets.into_iter().map(Ticket::wait);
    for expected in [(0, true), (2, true), (2, false), (0, false)] {
        assert_eq!(told(answers.next().unwrap()), expected);
    }
    assert_out_of_order(answers.next().unwrap(), 4, 5);
    assert_eq!(told(answers.next().unwrap()), (4, true));
}

#[test]
fn later_batches_of_a_failed_round_get_the_error_of_the_round() {
    for fault in failing_rounds() {
        let mut world = World::new();
        told(world.send(batch(9, 1, 0, 1)));
        world.disk.fail(fault.clone());
        let tickets = [(1, 1), (1, 1), (1, 5), (0, 1)].map(|(epoch, sequence)| {
            let sequence = batch(9, epoch, sequence, 1);
            world.queue(0, sequence)
        });
        let known = world.queue(0, batch(9, 1, 0, 1));
        while world.log.run_round().unwrap_or(false) {}
        for ticket in tickets {
            let error = ticket.wait().unwrap_err();
            let is_full = matches!(error, Error::StorageFull | Error::Overloaded { .. });
            let is_refused = is_full || matches!(error, Error::LogFailed { .. });
            assert!(is_refused, "{fault:?}: {error}");
        }
        assert_eq!(told(known.wait()), (0, false), "{fault:?}");
        world.disk.clear_faults();
        world.crash();
        let stored = world.end() - 1;
        assert_eq!(told(world.send(batch(9, 1, 1, 1))), (1, stored == 0), "{fault:?}");
        assert_eq!(told(world.send(batch(9, 1, 2, 1))), (2, true), "{fault:?}");
    }
}

#[test]
fn a_repeated_batch_is_found_before_its_expected_offset_is_checked_and_changes_nothing() {
    let world = World::new();
    let request = || {
        let part = world.part(0, vec![batch(9, 0, 0, 1)]);
        let mut request = of_parts(vec![part.expecting(Some(Offset::ZERO))]);
        request.state = vec![change("n", world.end().to_string().as_bytes())];
        told(store(&world.log, request))
    };
    assert_eq!(request(), (0, true));
    assert_eq!(request(), (0, false));
    assert_eq!(world.log.state_get(b"n").as_deref(), Some(&b"0"[..]));
}

#[test]
fn a_batch_of_a_producer_needs_an_epoch_and_a_sequence_and_a_part_of_its_own() {
    let world = World::new();
    for wrong in [
        vec![batch(9, -1, 0, 1)],
        vec![batch(9, 0, -1, 1)],
        vec![batch(9, 0, 0, 1), batch(9, 0, 1, 1)],
        vec![batch(-1, -1, -1, 1), batch(9, 0, 0, 1)],
    ] {
        let request = of_parts(vec![world.part(0, wrong)]);
        assert!(matches!(world.log.append(request), Err(Error::Invalid(_))));
    }
    let none = vec![batch(-1, -1, -1, 1), batch(-1, -1, -1, 1)];
    let request = of_parts(vec![world.part(0, none)]);
    assert!(world.log.append(request).is_ok());
}

#[test]
fn the_state_of_producers_is_hidden_and_cannot_be_changed() {
    let mut world = World::new();
    told(world.send(batch(9, 0, 0, 1)));
    world.crash();
    assert!(world.log.state_prefix(b"").is_empty());
    let request = AppendRequest::of_state(vec![StateChange::remove(b"\0p".to_vec())]);
    assert!(matches!(world.log.append(request), Err(Error::Invalid(_))));
}

#[test]
fn a_topic_of_the_same_name_knows_nothing_of_the_producers_of_the_deleted_one() {
    let mut world = World::new();
    for sequence in 0..3 {
        told(world.send(batch(9, 4, sequence, 1)));
    }
    for round in 0..3 {
        world.log.delete_topic("orders", Vec::new()).unwrap();
        world.log.create_topic("orders", plain_spec(2)).unwrap();
        if round > 0 {
            world.crash();
        }
        assert_eq!(told(world.send(batch(9, 3, 7 + round, 1))), (0, true));
    }
}

#[test]
fn a_key_that_comes_with_a_repeated_batch_is_remembered_for_longer_than_the_batch() {
    let mut world = World::new();
    world.log.prepare_keys().unwrap();
    let first = batch(9, 0, 0, 2);
    assert_eq!(told(world.send(first.clone())), (0, true));
    let send = |world: &World, fingerprint| {
        let mut request = of_parts(vec![world.part(0, vec![first.clone()])]);
        request.once = Some(Once {
            topic: Some(world.log.topic("orders").unwrap().id()),
            key: b"k".to_vec(),
            fingerprint: [fingerprint; 16],
            expires: TimestampMs(i64::MAX),
            note: b"two".to_vec(),
        });
        store(&world.log, request)
    };
    // Its round fails: the batch is not remembered, and is not reported as stored.
    world.disk.fail(Fault::once(IoKind::Write, 0).on("/__keys/"));
    assert!(send(&world, 1).is_err());
    world.crash();
    assert_eq!(send(&world, 1).unwrap().repeated, Some(Vec::new()));
    for sequence in 0..6 {
        told(world.send(batch(9, 0, 2 + sequence, 1)));
    }
    world.crash();
    let refused = world.send(first.clone());
    assert!(matches!(refused, Err(Error::OutOfOrderSequence { .. })));
    let again = send(&world, 1).unwrap();
    assert_eq!(again.base_offsets, [Offset::ZERO]);
    assert_eq!(again.repeated, Some(b"two".to_vec()));
    assert!(matches!(send(&world, 2), Err(Error::KeyReused)));
    assert_eq!(world.end(), 8);
}
