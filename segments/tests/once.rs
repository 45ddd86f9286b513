//! Requests that are appended once, by a key: over restarts, in one round, and when things fail.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quipu_segments::sim::{Fault, FaultError, IoKind, SimClock, SimDisk};
use quipu_segments::{
    Ack, AppendRequest, Appended, Clock, Disk, Error, Log, Offset, Once, Options, Part, StateChange, Ticket,
    TimestampMs, Verified, verify_on,
};
use support::{DIR, of_parts, partition, plain_spec as spec, records, roomy_options, store, try_open_with};

const WINDOW_MS: i64 = 600_000;
const WINDOW: Duration = Duration::from_millis(WINDOW_MS as u64);
/// The key log is shortened from this size on, so that tests see it soon.
const KEY_LOG_BYTES: u64 = 16 << 10;
const KEY_LOG: &str = "/quipu/data/topics/__keys/0";

struct World {
    disk: SimDisk,
    clock: SimClock,
    options: Options,
    log: Log,
}

impl World {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options {
            key_log_bytes: Some(KEY_LOG_BYTES),
            ..roomy_options()
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

    /// Continues after a power cut.
    fn crash(&mut self) {
        self.disk = self.disk.after_power_cut();
        self.log = open(&self.disk, &self.clock, &self.options);
    }

    /// Continues after a kill.
    fn kill(&mut self) {
        self.disk = self.disk.after_kill();
        self.log = open(&self.disk, &self.clock, &self.options);
    }

    fn once(&self, key: &str) -> Once {
        Once {
            topic: Some(self.log.topic("orders").unwrap().id()),
            key: key.into(),
            fingerprint: [3; 16],
            expires: TimestampMs(self.clock.now().get() + WINDOW_MS),
            note: format!("note of {key}").into_bytes(),
        }
    }

    fn part(&self, index: u32, value: &str) -> Part {
        let records = records(self.clock.now(), &[value.as_bytes()]);
        support::part(partition(&self.log, index), records)
    }

    /// The same key with the content of another request.
    fn reused(&self, key: &str) -> Once {
        let fingerprint = [4; 16];
        Once {
            fingerprint,
            ..self.once(key)
        }
    }

    /// The same key for a thousand times as long.
    fn long_lived(&self, key: &str) -> Once {
        let expires = TimestampMs(1_700_000_000_000 + 1_000 * WINDOW_MS);
        Once {
            expires,
            ..self.once(key)
        }
    }

    fn once_or_long(&self, key: u32, is_long: bool) -> Once {
        let key = key.to_string();
        if is_long {
            self.long_lived(&key)
        } else {
            self.once(&key)
        }
    }

    fn append(&self, parts: Vec<Part>, once: Once) -> Result<Ticket, Error> {
        let once = Some(once);
        self.log.append(AppendRequest {
            once,
            ..AppendRequest::of(parts)
        })
    }

    /// Queues a record for partition 0.
    fn queue(&self, once: Once) -> Result<Ticket, Error> {
        self.append(vec![self.part(0, "value")], once)
    }

    /// Sends a record under a key; returns whether it was appended.
    fn is_new(&self, key: &str) -> bool {
        is_new(&self.send(self.once(key)).unwrap())
    }

    /// Sends a record under each key of these numbers.
    fn send_all(&self, keys: std::ops::Range<u32>) {
        for key in keys {
            self.send(self.once(&key.to_string())).unwrap();
        }
    }

    fn send(&self, once: Once) -> Result<Appended, Error> {
        let ticket = self.queue(once)?;
        while self.log.run_round()? {}
        ticket.wait()
    }

    fn end(&self, index: u32) -> u64 {
        partition(&self.log, index).positions().end_offset.get()
    }

    /// Moves the clock, and lets retention do its work.
    fn pass(&self, by: Duration) {
        self.clock.advance(by);
        for _ in 0..3 {
            self.log.apply_retention().unwrap();
            self.log.sync_segments().unwrap();
        }
    }

    /// Closes the log, and verifies its directory.
    fn verified(&self) -> Verified {
        self.log.close().unwrap();
        verify_on(&self.disk.after_kill(), Path::new(DIR), &mut |_| ()).unwrap()
    }

    /// The files of the key log, in order.
    fn key_logs(&self) -> Vec<String> {
        let files = self.disk.list(Path::new(KEY_LOG)).unwrap().into_iter();
        let mut names: Vec<_> = files.map(|file| file.name).collect();
        names.retain(|name| name.ends_with(".log"));
        names.sort();
        names
    }

    /// The size of the key log in bytes.
    fn key_log_bytes(&self) -> u64 {
        let dir = Path::new(KEY_LOG);
        let len = |name| self.disk.contents(&dir.join(name)).expect("a log").len() as u64;
        self.key_logs().into_iter().map(len).sum()
    }
}

fn open(disk: &SimDisk, clock: &SimClock, options: &Options) -> Log {
    try_open_with(Arc::new(disk.clone()), clock, options.clone()).unwrap()
}

fn is_new(answer: &Appended) -> bool {
    answer.repeated.is_none()
}

#[test]
fn a_repetition_appends_nothing_and_is_answered_as_the_first_was_after_any_restart() {
    let mut world = World::new();
    let parts = vec![world.part(2, "a"), world.part(0, "b")];
    let first = world.append(parts, world.once("k")).unwrap();
    world.send(world.once("other")).unwrap();
    let first = first.wait().unwrap();
    assert!(is_new(&first));
    assert_eq!(first.base_offsets, [Offset::ZERO; 2]);
    for round in 0..4 {
        // Sent to other partitions, as records without a key may be.
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
            _ => world.kill(),
        }
    }
}

#[test]
fn equal_keys_of_one_round_append_once_and_the_same_key_in_another_topic_is_another() {
    let world = World::new();
    let other = world.log.create_topic("payments", spec(1)).unwrap();
    let tickets: Vec<Ticket> = (0..3).map(|_| world.queue(world.once("k")).unwrap()).collect();
    let reused = world.queue(world.reused("k")).unwrap();
    let topic = Some(other.id());
    let mut part = world.part(0, "value");
    part.partition = other.partition(0).unwrap();
    let elsewhere = world.append(
        vec![part],
        Once {
            topic,
            ..world.once("k")
        },
    );
    while world.log.run_round().unwrap() {}
    let answers: Vec<Appended> = tickets.into_iter().map(|ticket| ticket.wait().unwrap()).collect();
    let found = answers.iter().map(is_new).collect::<Vec<_>>();
    assert_eq!(found, [true, false, false]);
    assert!(answers.iter().all(|answer| answer.base_offsets == [Offset::ZERO]));
    assert!(matches!(reused.wait(), Err(Error::KeyReused)));
    assert!(is_new(&elsewhere.unwrap().wait().unwrap()));
    assert_eq!(world.end(0), 1);
}

#[test]
fn a_key_of_the_whole_log_spans_topics_and_outlives_them_and_restarts() {
    let mut world = World::new();
    world.log.create_topic("payments", spec(1)).unwrap();
    let of_log = |world: &World, fingerprint| Once {
        topic: None,
        fingerprint: [fingerprint; 16],
        ..world.once("k")
    };
    let parts = |world: &World| {
        let mut second = world.part(0, "b");
        second.partition = world.log.topic("payments").unwrap().partition(0).unwrap();
        vec![world.part(1, "a"), second]
    };
    world.send(world.once("other")).unwrap();
    let first = world.append(parts(&world), of_log(&world, 3)).unwrap();
    let twin = world.append(parts(&world), of_log(&world, 3)).unwrap();
    let reused = world.append(vec![world.part(2, "c")], of_log(&world, 4)).unwrap();
    while world.log.run_round().unwrap() {}
    let first = first.wait().unwrap();
    assert!(is_new(&first));
    assert_eq!(twin.wait().unwrap().repeated.as_deref(), Some(&b"note of k"[..]));
    assert!(matches!(reused.wait(), Err(Error::KeyReused)));
    // The same key of a topic is another one.
    assert!(world.is_new("k"));
    for round in 0..3 {
        let again = world.log.recall(None, b"k", &[3; 16]).unwrap().unwrap();
        assert_eq!(again.base_offsets, first.base_offsets, "{round}");
        let known = world.log.recall(None, b"k", &[4; 16]).unwrap();
        assert!(matches!(known, Err(Error::KeyReused)), "{round}");
        assert_eq!((world.end(0), world.end(1), world.end(2)), (2, 1, 0), "{round}");
        match round {
            0 => world.crash(),
            1 => {
                world.log.delete_topic("payments", Vec::new()).unwrap();
                world.kill();
            }
            _ => {}
        }
    }
    let again = world.queue(of_log(&world, 3)).unwrap();
    while world.log.run_round().unwrap() {}
    assert!(!is_new(&again.wait().unwrap()));
    world.clock.advance(WINDOW);
    assert!(world.log.recall(None, b"k", &[3; 16]).is_none());
}

#[test]
fn another_fingerprint_is_refused_until_the_key_expires_and_then_it_is_appended() {
    let mut world = World::new();
    world.send(world.once("k")).unwrap();
    let mut other = world.reused("k");
    for _ in 0..2 {
        assert!(matches!(world.send(other.clone()), Err(Error::KeyReused)));
        world.crash();
    }
    world.clock.advance(WINDOW - Duration::from_millis(1));
    assert!(matches!(world.send(other.clone()), Err(Error::KeyReused)));
    world.clock.advance(Duration::from_millis(1));
    other.expires = TimestampMs(world.clock.now().get() + WINDOW_MS);
    assert!(is_new(&world.send(other.clone()).unwrap()));
    // The newest entry counts, even if the partition still has the older one.
    world.crash();
    assert!(!is_new(&world.send(other).unwrap()));
    assert!(matches!(world.send(world.once("k")), Err(Error::KeyReused)));
}

#[test]
fn a_refused_request_is_not_remembered_and_a_repeated_one_is_found_before_its_expected_offset_is_checked() {
    let world = World::new();
    let request = |world: &World, expected| {
        let mut part = world.part(0, "value");
        part.expected_offset = Some(Offset::new(expected));
        let ticket = world.append(vec![part], world.once("k"));
        while world.log.run_round().unwrap() {}
        ticket.unwrap().wait()
    };
    assert!(matches!(request(&world, 1), Err(Error::OffsetMismatch { .. })));
    assert!(is_new(&request(&world, 0).unwrap()));
    // The expected offset 0 is wrong now, but it was right when the request was appended.
    assert!(!is_new(&request(&world, 0).unwrap()));
}

#[test]
fn a_repeated_request_gets_the_error_of_the_first_when_their_round_fails() {
    let write = |path| Fault::once(IoKind::Write, 0).on(path);
    let faults = [
        write("/orders/").with(FaultError::Full),
        write("/orders/"),
        write("/__keys/").with(FaultError::Full),
        write("/__keys/"),
        write(".journal"),
        Fault::once(IoKind::Sync, 0).on(".journal"),
    ];
    for fault in faults {
        let mut world = World::new();
        assert!(world.is_new("before"));
        world.disk.fail(fault.clone());
        let request = AppendRequest {
            state: vec![StateChange::set("of the first", "set")],
            once: Some(world.once("k")),
            ..AppendRequest::of(vec![world.part(0, "value")])
        };
        let first = world.log.append(request).unwrap();
        let again = world.queue(world.once("k")).unwrap();
        let reused = world.queue(world.reused("k")).unwrap();
        let before = world.queue(world.once("before")).unwrap();
        while world.log.run_round().unwrap_or(false) {}
        let is_of_journal = world.log.is_failed();
        for (what, ticket) in [("first", first), ("again", again), ("reused", reused)] {
            let error = ticket.wait().expect_err("nothing is known to be stored");
            let is_full = matches!(error, Error::StorageFull | Error::Overloaded { .. });
            let is_refused = is_full || matches!(error, Error::LogFailed { .. });
            assert!(is_refused, "{fault:?}, {what}: {error}");
        }
        // What an earlier round stored is certain.
        assert!(!is_new(&before.wait().unwrap()), "{fault:?}");
        world.disk.clear_faults();
        if is_of_journal {
            world.crash();
        } else if !matches!(fault, ref full if format!("{full:?}").contains("Full")) {
            // The partition has failed until a restart.
            assert!(world.send(world.once("k")).is_err());
            assert!(!world.is_new("before"));
            world.crash();
        }
        let stored = world.end(0) - 1;
        let answer = world.send(world.once("k")).unwrap();
        assert_eq!(is_new(&answer), stored == 0, "{fault:?}");
        let state = world.log.state_get(b"of the first");
        assert_eq!(state.is_some(), stored == 1, "{fault:?}");
        assert_eq!(world.end(0), 2, "{fault:?}");
        world.crash();
        assert!(!world.is_new("k"), "{fault:?}");
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
    assert!(!world.is_new("k"));
    store(&world.log, of_parts(vec![world.part(0, "value")])).unwrap();
    assert_eq!(world.log.health().failed_partitions[0].0, "__keys/0");
}

#[test]
fn a_repetition_waits_for_no_space_on_a_full_disk() {
    let world = World::new();
    world.send(world.once("k")).unwrap();
    world.disk.set_capacity(Some(world.disk.used_bytes()));
    let refused = (0..2_000).find_map(|key: u32| {
        let mut once = world.once(&key.to_string());
        once.note = vec![0; 4_000];
        world.send(once).err().map(|error| (key, error))
    });
    let (key, error) = refused.expect("the disk is full");
    assert!(matches!(error, Error::StorageFull), "{error}");
    assert!(!world.is_new("k"));
    world.disk.set_capacity(None);
    assert!(world.is_new(&key.to_string()));
}

#[test]
fn a_key_needs_prepare_keys_first_and_records_of_its_own_topic() {
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
    let (mut of_another, mut without_key) = (world.once("k"), world.once("k"));
    of_another.topic = Some(quipu_segments::TopicId(99));
    without_key.key.clear();
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
    assert!(world.is_new("k"));
    // After this, keys need no preparation.
    world.crash();
    assert!(!world.is_new("k"));
}

#[test]
fn the_internal_topic_is_shown_to_nobody_and_verified_like_any_other() {
    let world = World::new();
    world.send(world.once("k")).unwrap();
    let topics = world.log.topics();
    let found = topics.iter().map(|topic| topic.name()).collect::<Vec<_>>();
    assert_eq!(found, ["orders"]);
    assert!(world.log.topic("__keys").is_none());
    for id in 0..10 {
        let topic = world.log.topic_by_id(quipu_segments::TopicId(id));
        assert!(topic.is_none_or(|topic| topic.name() == "orders"));
    }
    let made = world.log.create_topic("__mine", spec(1));
    assert!(matches!(made, Err(Error::Invalid(_))));
    let deleted = world.log.delete_topic("__keys", Vec::new());
    assert!(matches!(deleted, Err(Error::NotFound(_))));
    let altered = world.log.alter_topic("__keys", spec(2));
    assert!(matches!(altered, Err(Error::NotFound(_))));
    assert_eq!(world.log.counters().appended_records, 1);
    let verified = world.verified();
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
    assert!(!world.is_new("key 0"), "at the bound too");
    for _ in 0..2 {
        world.log.delete_topic("orders", Vec::new()).unwrap();
        world.log.create_topic("orders", spec(3)).unwrap();
        assert_eq!(fill(&world), Some(room));
        assert_eq!(world.end(0), u64::from(room));
        // After a restart, the keys that are held count again.
        world.crash();
        let refused = world.send(world.once("new"));
        assert!(matches!(refused, Err(Error::TooManyKeys { .. })));
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
    assert!(retry_after > WINDOW - Duration::from_secs(1), "{retry_after:?}");
    world.clock.advance(retry_after);
    assert!(world.is_new("new"));
}

#[test]
fn the_log_of_the_keys_goes_when_they_expire() {
    let mut world = World::new();
    for round in 0..6 {
        for key in 0..400 {
            world.send(world.once(&format!("{round}/{key}"))).unwrap();
        }
        world.pass(WINDOW / 2);
        let bytes = world.key_log_bytes();
        assert!(bytes < 300 * 1024, "{bytes} bytes after round {round}");
    }
    world.pass(WINDOW * 2);
    let bytes = world.key_log_bytes();
    assert!(bytes <= KEY_LOG_BYTES, "{bytes} bytes are left");
    world.crash();
    assert!(world.is_new("5/399"));
}

#[test]
fn keys_that_live_long_hold_up_no_log_of_expired_ones_and_are_found_where_they_are_appended_again() {
    let mut world = World::new();
    let long_once = |world: &World, key: u32| world.long_lived(&format!("long {key}"));
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
        world.pass(WINDOW);
        for key in 0..20 {
            let answer = world.send(long_once(&world, key)).unwrap();
            let offset = Offset::new(u64::from(key) * 61);
            assert_eq!(answer.base_offsets, [offset], "{restart}");
            assert_eq!(answer.repeated, Some(format!("note of long {key}").into_bytes()));
        }
        world.crash();
    }
    let bytes = world.key_log_bytes();
    assert!(bytes <= 2 * KEY_LOG_BYTES, "{bytes} bytes are left of {before}");
    assert_eq!(world.end(0), next + 20);
    world.pass(WINDOW * 1_000);
    assert!(is_new(&world.send(long_once(&world, 3)).unwrap()));
}

#[test]
fn a_damaged_entry_is_reported_and_costs_its_key_alone() {
    let mut world = World::new();
    world.send_all(0..3);
    world.log.close().unwrap();
    let path = Path::new(KEY_LOG).join("00000000000000000000.log");
    // In the second of three batches of the same length.
    world.disk.damage(&path, world.key_log_bytes() / 2, 1);
    world.kill();
    let damage = world.log.health().damage;
    let words = ["idempotency keys", "offsets 1 to 2"];
    assert!(damage.len() == 1, "{damage:?}");
    assert!(words.iter().all(|word| damage[0].contains(word)), "{damage:?}");
    for (key, expected) in [("0", false), ("1", true), ("2", false)] {
        assert_eq!(world.is_new(key), expected, "key {key}");
    }
    let verified = world.verified();
    assert!(!verified.findings.is_empty());
}

#[test]
fn a_repeated_request_for_a_written_ack_is_answered_before_the_sync() {
    let world = World::new();
    let ticket = |ack| {
        let once = Some(world.once("k"));
        let request = AppendRequest::of(vec![world.part(0, "value")]);
        world.log.append(AppendRequest { ack, once, ..request }).unwrap()
    };
    let (first, again, durable) = (ticket(Ack::Written), ticket(Ack::Written), ticket(Ack::Durable));
    world.disk.fail(Fault::once(IoKind::Sync, 0).on(".journal"));
    assert!(world.log.run_round().is_err());
    assert!(is_new(&first.wait().unwrap()));
    assert!(!is_new(&again.wait().unwrap()));
    let refused = durable.wait();
    assert!(matches!(refused, Err(Error::LogFailed { in_flight: true, .. })));
}

#[test]
fn a_few_long_lived_keys_with_large_notes_hold_up_little_of_the_log() {
    let world = World::with(|options| {
        options.key_log_bytes = None;
        options.journal_file_bytes = 8 << 20;
    });
    for key in 0..240 {
        let once = world.once_or_long(key, key % 30 == 29);
        let note = vec![7; 100 << 10];
        world.send(Once { note, ..once }).unwrap();
    }
    for _ in 0..4 {
        world.pass(WINDOW);
    }
    let bytes = world.key_log_bytes();
    assert!(bytes <= 12 << 20, "{bytes} bytes are left");
}

#[test]
fn a_missing_segment_of_the_log_of_the_keys_costs_its_keys_and_not_the_start() {
    for missing in 0..3 {
        let mut world = World::new();
        world.send_all(0..400);
        world.log.sync_segments().unwrap();
        world.log.close().unwrap();
        let names = world.key_logs();
        assert!(names.len() > 3, "{names:?}");
        let lost = Path::new(KEY_LOG).join(&names[missing]);
        world.disk.remove_file(&lost).unwrap();
        world.kill();
        let damage = world.log.health().damage;
        let is_said = damage.iter().any(|what| what.contains("idempotency keys"));
        assert!(is_said, "{missing}: {damage:?}");
        assert!(!world.is_new("399"));
        assert_eq!(world.is_new("0"), missing == 0);
    }
}

#[test]
fn a_disk_that_does_not_read_a_part_of_the_log_of_the_keys_costs_its_keys_and_not_the_start() {
    let mut world = World::new();
    world.send_all(0..100);
    world.log.close().unwrap();
    world.disk = world.disk.after_kill();
    let last = Fault::once(IoKind::Read, 0).on("/__keys/0/00000000000000000076.log");
    world.disk.fail(last.onwards());
    world.log = open(&world.disk, &world.clock, &world.options);
    let damage = world.log.health().damage;
    assert!(damage.len() == 1, "{damage:?}");
    assert!(damage[0].contains("idempotency keys"), "{damage:?}");
    assert!(!world.is_new("75"));
    assert!(world.is_new("76"));
}

#[test]
fn what_was_appended_again_takes_no_more_memory_after_a_restart() {
    let mut world = World::new();
    for key in 0..400 {
        world.send(world.once_or_long(key, key % 20 == 0)).unwrap();
    }
    world.clock.advance(WINDOW + Duration::from_secs(2));
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
    assert!(!world.is_new("380"));
}
