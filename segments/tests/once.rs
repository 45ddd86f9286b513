//! Requests that are appended once, by a key: over restarts, in one round, and when things fail.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quipu_segments::batch::BatchBuilder;
use quipu_segments::sim::{Fault, FaultError, IoKind, SimClock, SimDisk};
use quipu_segments::{
    Ack, AppendRequest, Appended, Clock, Disk, Error, Log, Offset, Once, OpenMode, Options, Part, Records,
    StateChange, Ticket, TimestampMs, TopicSettings, TopicSpec, verify_on,
};

const WINDOW_MS: i64 = 600_000;
/// The log of the keys is shortened from this size on, so that it is seen soon.
const KEY_LOG_BYTES: u64 = 16 << 10;

struct World {
    disk: SimDisk,
    clock: SimClock,
    options: Options,
    log: Log,
}

fn spec(partitions: u32) -> TopicSpec {
    TopicSpec::new(partitions, TopicSettings::default())
}

impl World {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options {
            journal_file_bytes: 1 << 20,
            journal_files: 2,
            max_request_bytes: 512 << 10,
            background: false,
            key_log_bytes: Some(KEY_LOG_BYTES),
            ..Options::default()
        };
        change(&mut options);
        let disk = SimDisk::new(1);
        let clock = SimClock::new(TimestampMs(1_700_000_000_000));
        let log = open(&disk, &clock, &options);
        log.create_topic("orders", spec(3)).unwrap();
        log.prepare_keys().unwrap();
        Self {
            disk,
            clock,
            options,
            log,
        }
    }

    /// Goes on after a power cut.
    fn crash(&mut self) {
        self.disk = self.disk.after_power_cut();
        self.log = open(&self.disk, &self.clock, &self.options);
    }

    fn once(&self, key: &str) -> Once {
        Once {
            topic: self.log.topic("orders").unwrap().id(),
            key: key.into(),
            fingerprint: [3; 16],
            expires: TimestampMs(self.clock.now().get() + WINDOW_MS),
            note: format!("note of {key}").into_bytes(),
        }
    }

    fn part(&self, partition: u32, value: &str) -> Part {
        let mut builder = BatchBuilder::new();
        builder.push(self.clock.now(), None, Some(value.as_bytes()), &[]);
        Part::new(
            self.log.topic("orders").unwrap().partition(partition).unwrap(),
            Records::Loose(builder),
        )
    }

    /// Queues a record for partition 0.
    fn queue(&self, once: Once) -> Result<Ticket, Error> {
        self.log.append(AppendRequest {
            parts: vec![self.part(0, "value")],
            once: Some(once),
            ..AppendRequest::default()
        })
    }

    fn send(&self, once: Once) -> Result<Appended, Error> {
        let ticket = self.queue(once)?;
        while self.log.run_round()? {}
        ticket.wait()
    }

    fn end(&self, partition: u32) -> u64 {
        let partition = self.log.topic("orders").unwrap().partition(partition).unwrap();
        partition.positions().end_offset.get()
    }

    /// Moves the clock, and lets retention do what it has to.
    fn pass(&self, by: Duration) {
        self.clock.advance(by);
        for _ in 0..3 {
            self.log.apply_retention().unwrap();
            self.log.sync_segments().unwrap();
        }
    }

    /// Bytes of the log of the keys.
    fn key_log_bytes(&self) -> u64 {
        let dir = Path::new("/data/topics/__keys/0");
        let files = self.disk.list(dir).unwrap();
        let logs = files.iter().filter(|file| file.name.ends_with(".log"));
        logs.map(|file| {
            let file = self.disk.open(&dir.join(&file.name), OpenMode::Read).unwrap();
            file.len().unwrap()
        })
        .sum()
    }
}

fn open(disk: &SimDisk, clock: &SimClock, options: &Options) -> Log {
    Log::open_with(
        Arc::new(disk.clone()),
        Arc::new(clock.clone()),
        Path::new("/data"),
        options.clone(),
    )
    .unwrap()
}

fn is_new(answer: &Appended) -> bool {
    answer.repeated.is_none()
}

#[test]
fn a_repetition_appends_nothing_and_is_answered_as_the_first_was_after_any_restart() {
    let mut world = World::new();
    let first = world
        .log
        .append(AppendRequest {
            parts: vec![world.part(2, "a"), world.part(0, "b")],
            once: Some(world.once("k")),
            ..AppendRequest::default()
        })
        .unwrap();
    world.send(world.once("other")).unwrap();
    let first = first.wait().unwrap();
    assert_eq!(
        (&first.base_offsets[..], is_new(&first)),
        (&[Offset::ZERO; 2][..], true)
    );
    for round in 0..4 {
        // Placed elsewhere, as records without a key may be.
        let again = world.send(world.once("k")).unwrap();
        assert_eq!(again.base_offsets, first.base_offsets);
        assert_eq!(again.repeated.as_deref(), Some(&b"note of k"[..]), "{round}");
        assert_eq!((world.end(0), world.end(1), world.end(2)), (2, 0, 1));
        match round {
            0 => world.crash(),
            1 => {
                world.log.close().unwrap();
                world.crash();
            }
            _ => {
                world.disk = world.disk.after_kill();
                world.log = open(&world.disk, &world.clock, &world.options);
            }
        }
    }
}

#[test]
fn equal_keys_of_one_round_append_once_and_the_same_key_in_another_topic_is_another() {
    let world = World::new();
    let other = world.log.create_topic("payments", spec(1)).unwrap();
    let tickets: Vec<Ticket> = (0..3).map(|_| world.queue(world.once("k")).unwrap()).collect();
    let mut reused = world.once("k");
    reused.fingerprint = [4; 16];
    let reused = world.queue(reused).unwrap();
    let mut elsewhere = world.once("k");
    elsewhere.topic = other.id();
    let mut part = world.part(0, "value");
    part.partition = other.partition(0).unwrap();
    let elsewhere = world.log.append(AppendRequest {
        parts: vec![part],
        once: Some(elsewhere),
        ..AppendRequest::default()
    });
    while world.log.run_round().unwrap() {}
    let answers: Vec<Appended> = tickets.into_iter().map(|ticket| ticket.wait().unwrap()).collect();
    assert_eq!(
        answers.iter().map(is_new).collect::<Vec<_>>(),
        [true, false, false]
    );
    assert!(answers.iter().all(|answer| answer.base_offsets == [Offset::ZERO]));
    assert!(matches!(reused.wait(), Err(Error::KeyReused)));
    assert!(is_new(&elsewhere.unwrap().wait().unwrap()));
    assert_eq!(world.end(0), 1);
}

#[test]
fn another_fingerprint_is_refused_until_the_key_expires_and_then_it_is_appended() {
    let mut world = World::new();
    world.send(world.once("k")).unwrap();
    let mut other = world.once("k");
    other.fingerprint = [4; 16];
    for _ in 0..2 {
        assert!(matches!(world.send(other.clone()), Err(Error::KeyReused)));
        world.crash();
    }
    world.clock.advance(Duration::from_millis(WINDOW_MS as u64 - 1));
    assert!(matches!(world.send(other.clone()), Err(Error::KeyReused)));
    world.clock.advance(Duration::from_millis(1));
    other.expires = TimestampMs(world.clock.now().get() + WINDOW_MS);
    assert!(is_new(&world.send(other.clone()).unwrap()));
    // The newest entry counts, also where the partition still has the older one.
    world.crash();
    assert!(!is_new(&world.send(other).unwrap()));
    assert!(matches!(world.send(world.once("k")), Err(Error::KeyReused)));
}

#[test]
fn what_was_refused_is_not_remembered_and_a_repetition_is_found_before_its_condition() {
    let world = World::new();
    let request = |world: &World, expected| {
        let mut part = world.part(0, "value");
        part.expected_offset = Some(Offset::new(expected));
        let ticket = world.log.append(AppendRequest {
            parts: vec![part],
            once: Some(world.once("k")),
            ..AppendRequest::default()
        });
        while world.log.run_round().unwrap() {}
        ticket.unwrap().wait()
    };
    assert!(matches!(request(&world, 1), Err(Error::OffsetMismatch { .. })));
    assert!(is_new(&request(&world, 0).unwrap()));
    // It follows on offset 0 no more, but was appended when it did.
    assert!(!is_new(&request(&world, 0).unwrap()));
}

#[test]
fn a_repetition_is_answered_as_its_first_is_when_their_round_fails() {
    let faults = [
        Fault::once(IoKind::Write, 0)
            .on("/orders/")
            .with(FaultError::Full),
        Fault::once(IoKind::Write, 0).on("/orders/"),
        Fault::once(IoKind::Write, 0)
            .on("/__keys/")
            .with(FaultError::Full),
        Fault::once(IoKind::Write, 0).on("/__keys/"),
        Fault::once(IoKind::Write, 0).on(".journal"),
        Fault::once(IoKind::Sync, 0).on(".journal"),
    ];
    for fault in faults {
        let mut world = World::new();
        assert!(is_new(&world.send(world.once("before")).unwrap()));
        let state = |key: &str| StateChange::set(key, b"set".to_vec());
        world.disk.fail(fault.clone());
        let first = world
            .log
            .append(AppendRequest {
                parts: vec![world.part(0, "value")],
                state: vec![state("of the first")],
                once: Some(world.once("k")),
                ..AppendRequest::default()
            })
            .unwrap();
        let again = world.queue(world.once("k")).unwrap();
        let mut reused = world.once("k");
        reused.fingerprint = [4; 16];
        let reused = world.queue(reused).unwrap();
        let before = world.queue(world.once("before")).unwrap();
        while world.log.run_round().unwrap_or(false) {}
        let is_of_journal = world.log.is_failed();
        for (what, ticket) in [("first", first), ("again", again), ("reused", reused)] {
            let error = ticket.wait().expect_err("nothing is known to be stored");
            assert!(
                matches!(
                    error,
                    Error::StorageFull | Error::Overloaded { .. } | Error::LogFailed { .. }
                ),
                "{fault:?}, {what}: {error}"
            );
        }
        // What an earlier round stored is certain.
        assert!(!is_new(&before.wait().unwrap()), "{fault:?}");
        world.disk.clear_faults();
        if is_of_journal {
            world.crash();
        } else if !matches!(fault, ref full if format!("{full:?}").contains("Full")) {
            // The partition has failed until a restart.
            assert!(world.send(world.once("k")).is_err());
            assert!(!is_new(&world.send(world.once("before")).unwrap()));
            world.crash();
        }
        let stored = world.end(0) - 1;
        let answer = world.send(world.once("k")).unwrap();
        assert_eq!(is_new(&answer), stored == 0, "{fault:?}");
        assert_eq!(
            world.log.state_get(b"of the first").is_some(),
            stored == 1,
            "{fault:?}"
        );
        assert_eq!(world.end(0), 2, "{fault:?}");
        world.crash();
        assert!(!is_new(&world.send(world.once("k")).unwrap()), "{fault:?}");
        assert_eq!(world.end(0), 2, "{fault:?}");
    }
}

#[test]
fn when_the_log_of_the_keys_has_failed_only_requests_with_new_keys_are_refused() {
    let world = World::new();
    world.send(world.once("k")).unwrap();
    world.disk.fail(Fault::once(IoKind::Write, 0).on("/__keys/"));
    assert!(world.send(world.once("new")).is_err());
    assert!(matches!(world.send(world.once("new")), Err(Error::KeysFailed(_))));
    assert!(!is_new(&world.send(world.once("k")).unwrap()));
    let plain = world.log.append(AppendRequest::of(vec![world.part(0, "value")]));
    while world.log.run_round().unwrap() {}
    plain.unwrap().wait().unwrap();
    assert_eq!(world.log.health().failed_partitions[0].0, "__keys/0");
}

#[test]
fn a_repetition_waits_for_no_space_on_a_full_disk() {
    let world = World::new();
    world.send(world.once("k")).unwrap();
    world.disk.set_capacity(Some(world.disk.used_bytes()));
    let mut refused = None;
    for key in 0..2_000 {
        let mut once = world.once(&key.to_string());
        once.note = vec![0; 4_000];
        if let Err(error) = world.send(once) {
            refused = Some((key, error));
            break;
        }
    }
    let (key, error) = refused.expect("the disk is full");
    assert!(matches!(error, Error::StorageFull), "{error}");
    assert!(!is_new(&world.send(world.once("k")).unwrap()));
    world.disk.set_capacity(None);
    assert!(is_new(&world.send(world.once(&key.to_string())).unwrap()));
}

#[test]
fn a_key_goes_with_records_of_its_topic_after_it_was_prepared_for() {
    let disk = SimDisk::new(1);
    let clock = SimClock::new(TimestampMs(5));
    let options = Options {
        background: false,
        ..Options::default()
    };
    let log = open(&disk, &clock, &options);
    log.create_topic("orders", spec(3)).unwrap();
    let mut world = World {
        disk,
        clock,
        options,
        log,
    };
    assert!(matches!(world.send(world.once("k")), Err(Error::Invalid(_))));
    world.log.prepare_keys().unwrap();
    world.log.prepare_keys().unwrap();
    let of_another = Once {
        topic: quipu_segments::TopicId(99),
        ..world.once("k")
    };
    let without_key = Once {
        key: Vec::new(),
        ..world.once("k")
    };
    for wrong in [of_another, without_key] {
        assert!(matches!(world.send(wrong), Err(Error::Invalid(_))));
    }
    let state = StateChange::remove(b"k".to_vec());
    let without_records = world.log.append(AppendRequest {
        state: vec![state],
        once: Some(world.once("k")),
        ..AppendRequest::default()
    });
    assert!(matches!(without_records, Err(Error::Invalid(_))));
    assert!(is_new(&world.send(world.once("k")).unwrap()));
    // It needs no preparation any more.
    world.crash();
    assert!(!is_new(&world.send(world.once("k")).unwrap()));
}

#[test]
fn the_internal_topic_is_shown_to_nobody_and_verified_like_any_other() {
    let world = World::new();
    world.send(world.once("k")).unwrap();
    let names: Vec<String> = world
        .log
        .topics()
        .iter()
        .map(|topic| topic.name().to_owned())
        .collect();
    assert_eq!(names, ["orders"]);
    assert!(world.log.topic("__keys").is_none());
    for id in 0..10 {
        let topic = world.log.topic_by_id(quipu_segments::TopicId(id));
        assert!(topic.is_none_or(|topic| topic.name() == "orders"));
    }
    assert!(matches!(
        world.log.create_topic("__mine", spec(1)),
        Err(Error::Invalid(_))
    ));
    assert!(matches!(
        world.log.delete_topic("__keys", Vec::new()),
        Err(Error::NotFound(_))
    ));
    assert!(matches!(
        world.log.alter_topic("__keys", spec(2)),
        Err(Error::NotFound(_))
    ));
    assert_eq!(world.log.counters().appended_records, 1);
    world.log.close().unwrap();
    let disk = world.disk.after_kill();
    let verified = verify_on(&disk, Path::new("/data"), &mut |_| ()).unwrap();
    assert_eq!(verified.partitions, 4);
    assert!(verified.findings.is_empty(), "{:?}", verified.findings);
}

#[test]
fn the_keys_of_a_deleted_topic_are_no_longer_held_and_its_name_begins_anew() {
    let mut world = World::with(|options| options.key_bytes = 4 << 10);
    let fill = |world: &World| {
        (0..).find(|key: &u32| match world.send(world.once(&format!("key {key}"))) {
            Ok(answer) => !is_new(&answer),
            Err(error) => {
                assert!(matches!(error, Error::TooManyKeys { .. }), "{error}");
                true
            }
        })
    };
    let room = fill(&world).unwrap();
    assert!(room > 5);
    assert!(
        !is_new(&world.send(world.once("key 0")).unwrap()),
        "at the bound too"
    );
    for _ in 0..2 {
        world.log.delete_topic("orders", Vec::new()).unwrap();
        world.log.create_topic("orders", spec(3)).unwrap();
        assert_eq!(fill(&world), Some(room));
        assert_eq!(world.end(0), u64::from(room));
        // Those that are held count again.
        world.crash();
        assert!(matches!(
            world.send(world.once("new")),
            Err(Error::TooManyKeys { .. })
        ));
    }
    world.log.delete_topic("orders", Vec::new()).unwrap();
    world.crash();
    world.log.create_topic("orders", spec(3)).unwrap();
    assert_eq!(fill(&world), Some(room));
}

#[test]
fn at_the_bound_it_is_said_when_the_first_key_expires_and_then_there_is_room() {
    let world = World::with(|options| options.key_bytes = 4 << 10);
    let refusal = (0..).find_map(|key: u32| world.send(world.once(&key.to_string())).err());
    let Some(Error::TooManyKeys { retry_after }) = refusal else {
        panic!("{refusal:?}");
    };
    assert!(
        retry_after > Duration::from_millis(WINDOW_MS as u64 - 1_000),
        "{retry_after:?}"
    );
    world.clock.advance(retry_after);
    assert!(is_new(&world.send(world.once("new")).unwrap()));
}

#[test]
fn the_log_of_the_keys_goes_when_they_expire() {
    let mut world = World::new();
    for round in 0..6 {
        for key in 0..400 {
            world.send(world.once(&format!("{round}/{key}"))).unwrap();
        }
        world.pass(Duration::from_millis(WINDOW_MS as u64 / 2));
        let bytes = world.key_log_bytes();
        assert!(bytes < 300 * 1024, "{bytes} bytes after round {round}");
    }
    world.pass(Duration::from_millis(WINDOW_MS as u64 * 2));
    let bytes = world.key_log_bytes();
    assert!(bytes <= KEY_LOG_BYTES, "{bytes} bytes are left");
    world.crash();
    assert!(is_new(&world.send(world.once("5/399")).unwrap()));
}

#[test]
fn keys_that_live_long_hold_up_no_log_of_expired_ones_and_are_found_where_they_are_appended_again() {
    let mut world = World::new();
    let long_once = |world: &World, key: u32| Once {
        expires: TimestampMs(1_700_000_000_000 + 1_000 * WINDOW_MS),
        ..world.once(&format!("long {key}"))
    };
    let mut next = 0_u64;
    for key in 0..20 {
        world.send(long_once(&world, key)).unwrap();
        for _ in 0..60 {
            world.send(world.once(&format!("short {next}"))).unwrap();
            next += 1;
        }
    }
    let before = world.key_log_bytes();
    assert!(before > 5 * KEY_LOG_BYTES, "{before} bytes");
    for restart in 0..4 {
        world.pass(Duration::from_millis(WINDOW_MS as u64));
        for key in 0..20 {
            let answer = world.send(long_once(&world, key)).unwrap();
            assert_eq!(
                answer.base_offsets,
                [Offset::new(u64::from(key) * 61)],
                "{restart}"
            );
            assert_eq!(answer.repeated, Some(format!("note of long {key}").into_bytes()));
        }
        world.crash();
    }
    let bytes = world.key_log_bytes();
    assert!(bytes <= 2 * KEY_LOG_BYTES, "{bytes} bytes are left of {before}");
    assert_eq!(world.end(0), next + 20);
    world.pass(Duration::from_millis(1_000 * WINDOW_MS as u64));
    assert!(is_new(&world.send(long_once(&world, 3)).unwrap()));
}

#[test]
fn a_damaged_entry_is_reported_and_costs_its_key_alone() {
    let mut world = World::new();
    for key in 0..3 {
        world.send(world.once(&key.to_string())).unwrap();
    }
    world.log.close().unwrap();
    let path = Path::new("/data/topics/__keys/0/00000000000000000000.log");
    let bytes = world.disk.contents(path).expect("the log of the keys").len() as u64;
    // In the middle of three batches of the same length.
    world.disk.damage(path, bytes / 2, 1);
    world.disk = world.disk.after_kill();
    world.log = open(&world.disk, &world.clock, &world.options);
    let damage = world.log.health().damage;
    assert!(
        damage.len() == 1 && damage[0].contains("idempotency keys") && damage[0].contains("offsets 1 to 2"),
        "{damage:?}"
    );
    for (key, expected) in [("0", false), ("1", true), ("2", false)] {
        assert_eq!(
            is_new(&world.send(world.once(key)).unwrap()),
            expected,
            "key {key}"
        );
    }
    world.log.close().unwrap();
    let disk = world.disk.after_kill();
    let verified = verify_on(&disk, Path::new("/data"), &mut |_| ()).unwrap();
    assert!(!verified.findings.is_empty());
}

#[test]
fn a_repetition_of_what_was_only_written_is_answered_as_soon() {
    let world = World::new();
    let ticket = |ack| {
        world.log.append(AppendRequest {
            parts: vec![world.part(0, "value")],
            ack,
            once: Some(world.once("k")),
            ..AppendRequest::default()
        })
    };
    let (first, again, durable) = (
        ticket(Ack::Written).unwrap(),
        ticket(Ack::Written).unwrap(),
        ticket(Ack::Durable).unwrap(),
    );
    world.disk.fail(Fault::once(IoKind::Sync, 0).on(".journal"));
    assert!(world.log.run_round().is_err());
    assert!(is_new(&first.wait().unwrap()));
    assert!(!is_new(&again.wait().unwrap()));
    assert!(matches!(
        durable.wait(),
        Err(Error::LogFailed { in_flight: true, .. })
    ));
}

#[test]
fn a_few_long_lived_keys_with_large_notes_hold_up_little_of_the_log() {
    let world = World::with(|options| {
        options.key_log_bytes = None;
        options.journal_file_bytes = 8 << 20;
    });
    let long = TimestampMs(1_700_000_000_000 + 1_000 * WINDOW_MS);
    for key in 0..240 {
        let mut once = world.once(&key.to_string());
        once.note = vec![7; 100 << 10];
        if key % 30 == 29 {
            once.expires = long;
        }
        world.send(once).unwrap();
    }
    for _ in 0..4 {
        world.pass(Duration::from_millis(WINDOW_MS as u64));
    }
    let bytes = world.key_log_bytes();
    assert!(bytes <= 12 << 20, "{bytes} bytes are left");
}

#[test]
fn a_missing_segment_of_the_log_of_the_keys_costs_its_keys_and_not_the_start() {
    for missing in 0..3 {
        let mut world = World::new();
        for key in 0..400 {
            world.send(world.once(&key.to_string())).unwrap();
        }
        world.log.sync_segments().unwrap();
        world.log.close().unwrap();
        let dir = Path::new("/data/topics/__keys/0");
        let mut names: Vec<_> = world
            .disk
            .list(dir)
            .unwrap()
            .into_iter()
            .map(|file| file.name)
            .filter(|name| name.ends_with(".log"))
            .collect();
        names.sort();
        assert!(names.len() > 3, "{names:?}");
        world.disk.remove_file(&dir.join(&names[missing])).unwrap();
        world.disk = world.disk.after_kill();
        world.log = open(&world.disk, &world.clock, &world.options);
        let damage = world.log.health().damage;
        assert!(
            damage.iter().any(|what| what.contains("idempotency keys")),
            "{missing}: {damage:?}"
        );
        assert!(!is_new(&world.send(world.once("399")).unwrap()));
        assert_eq!(is_new(&world.send(world.once("0")).unwrap()), missing == 0);
    }
}

#[test]
fn a_disk_that_does_not_read_a_part_of_the_log_of_the_keys_costs_its_keys_and_not_the_start() {
    let mut world = World::new();
    for key in 0..100 {
        world.send(world.once(&key.to_string())).unwrap();
    }
    world.log.close().unwrap();
    world.disk = world.disk.after_kill();
    let last = Fault::once(IoKind::Read, 0).on("/__keys/0/00000000000000000076.log");
    world.disk.fail(last.onwards());
    world.log = open(&world.disk, &world.clock, &world.options);
    let damage = world.log.health().damage;
    assert!(
        damage.len() == 1 && damage[0].contains("idempotency keys"),
        "{damage:?}"
    );
    assert!(!is_new(&world.send(world.once("75")).unwrap()));
    assert!(is_new(&world.send(world.once("76")).unwrap()));
}

#[test]
fn what_was_appended_again_takes_no_more_memory_after_a_restart() {
    let mut world = World::new();
    for key in 0..400 {
        let mut once = world.once(&key.to_string());
        if key % 20 == 0 {
            once.expires = TimestampMs(1_700_000_000_000 + 1_000 * WINDOW_MS);
        }
        world.send(once).unwrap();
    }
    world
        .clock
        .advance(Duration::from_millis(WINDOW_MS as u64 + 2_000));
    let bytes = world.key_log_bytes();
    world.log.apply_retention().unwrap();
    assert!(world.key_log_bytes() > bytes, "nothing was appended again");
    let remembered = |world: &World| {
        let counters = world.log.counters();
        (counters.remembered_keys, counters.remembered_key_bytes)
    };
    let before = remembered(&world);
    world.crash();
    assert_eq!(remembered(&world), before);
    world.pass(Duration::from_millis(1));
    assert!(world.key_log_bytes() < bytes / 2);
    assert!(!is_new(&world.send(world.once("380")).unwrap()));
}
