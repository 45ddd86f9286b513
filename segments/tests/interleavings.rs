//! The whole engine, with its threads, under a scheduler that tries interleavings: producers, readers, the committer, the
//! syncer, retention, deletion and closing, in orders chosen by a seed.
//!
//! At every lock, atomic and call to the disk another thread may continue. A thread that waits for ever is a deadlock,
//! which ends the test; so is every lost wake-up. `scripts/interleavings` runs it; a failure prints its seed and its
//! schedule.

#[path = "crash/hook.rs"]
#[allow(dead_code, reason = "the crash test uses all of it")]
mod hook;
#[path = "interleavings/world.rs"]
mod world;

use std::sync::Arc;
use std::time::Duration;

use quipu_segments::sim::{Fault, IoKind, SimDisk};
use quipu_segments::{Ack, Disk, Error, Offset, Options, TimestampMs, TopicSettings, TopicSpec};
use shuttle::rand::{Rng as _, thread_rng};
use shuttle::thread::{JoinHandle, yield_now};

use hook::hooked;
use world::{Setup, TOPIC, Tally, World, chance, explore, notices, together};

/// What a thread does.
macro_rules! thread {
    ($world:ident, $run:expr) => {{
        let $world = Arc::clone(&$world);
        Box::new(move || {
            $run;
        }) as Box<dyn FnOnce() + Send>
    }};
}

/// Closes the log; only errors that the scenario allows may occur.
fn close(world: &World) {
    world.allow(world.log.close());
}

/// A thread that follows a partition until the log is closed; it returns the offset that it reached.
fn follower(world: &Arc<World>, index: u32) -> JoinHandle<u64> {
    let world = Arc::clone(world);
    shuttle::thread::spawn(move || world.follow(&world.partition(index), 0, u64::MAX))
}

/// Syncs as the log's own thread does, at the same time.
fn sync(world: &World) {
    world.allow(world.log.sync_segments());
}

/// Every batch gets a segment of its own.
fn small_segments() -> TopicSettings {
    TopicSettings::segments_of(100)
}

/// One map and one file at a time.
fn few_open() -> Options {
    Options {
        max_open_segments: 1,
        max_open_files: Some(1),
        ..Setup::default().options
    }
}

fn producers_and_followers(tally: &Tally, setup: Setup) {
    let world = World::new(setup);
    let rows = (0..world.topic.partition_count()).map(|index| follower(&world, index));
    let followers: Vec<_> = rows.collect();
    together(vec![
        thread!(world, world.produce("a", 2, 20)),
        thread!(world, world.produce("b", 2, 20)),
        thread!(
            world,
            for _ in 0..3 {
                world.watch("a");
                world.watch("b");
            }
        ),
    ]);
    close(&world);
    for (index, follower) in followers.into_iter().enumerate() {
        let came_to = follower.join().expect("it follows");
        if !world.is_off() {
            let end = world.partition(index as u32).positions().end_offset.get();
            assert_eq!(came_to, end, "a follower has stopped short of what there is");
        }
    }
    world.end(tally);
}

#[test]
fn what_is_told_is_durable_and_who_waits_is_woken() {
    explore("producers and followers", |tally| {
        let setup = Setup {
            partitions: 2,
            ..Setup::default()
        };
        producers_and_followers(tally, setup);
    });
}

#[test]
fn who_waits_for_records_is_woken_by_them_and_needs_no_other_event() {
    explore("waiting", |tally| {
        let world = World::new(Setup {
            partitions: 2,
            cuts: false,
            even: true,
            ..Setup::default()
        });
        together(vec![
            thread!(world, world.produce("a", 2, 20)),
            thread!(world, world.produce("b", 2, 20)),
            thread!(world, assert_eq!(world.follow(&world.partition(0), 0, 4), 4)),
            thread!(world, assert!(world.follow(&world.partition(0), 0, 3) >= 3)),
            thread!(world, assert_eq!(world.follow(&world.partition(1), 0, 4), 4)),
        ]);
        world.end(tally);
    });
}

/// Two producers send the same requests, while the log of their keys is shortened.
fn repeated_requests(tally: &Tally, options: Options) {
    let world = World::new(Setup {
        partitions: 2,
        even: true,
        options: Options {
            // Every entry makes the key log too long.
            key_log_bytes: Some(2),
            ..options
        },
        ..Setup::default()
    });
    let follower = follower(&world, 0);
    together(vec![
        thread!(world, world.produce_once("a", 3, TimestampMs(i64::MAX))),
        thread!(world, world.produce_once("a", 3, TimestampMs(i64::MAX))),
        // Keys that have expired already, so that the start of the key log can move past them.
        thread!(world, world.produce_once("b", 2, TimestampMs(0))),
        thread!(
            world,
            for _ in 0..4 {
                world.allow(world.log.apply_retention());
                sync(&world);
            }
        ),
    ]);
    close(&world);
    follower.join().expect("it follows");
    world.end(tally);
}

#[test]
fn what_two_send_with_the_same_keys_is_stored_once() {
    explore("repeated requests", |tally| {
        repeated_requests(tally, Setup::default().options);
    });
}

#[test]
fn keys_that_nobody_looks_up_are_noticed() {
    notices("no look at keys", |tally| {
        let options = Options {
            ignore_keys: true,
            ..Setup::default().options
        };
        repeated_requests(tally, options);
    });
}

/// A disk that reports a sync of the journal as done, but does not do it.
fn lying(disk: SimDisk) -> Arc<dyn Disk> {
    let disk = hooked(disk);
    disk.0.before_journal_sync(|| false);
    Arc::new(disk)
}

#[test]
fn a_disk_that_lies_about_the_journals_sync_is_noticed() {
    notices("no journal sync", |tally| {
        let setup = Setup {
            wrap: lying,
            ..Setup::default()
        };
        producers_and_followers(tally, setup);
    });
}

#[test]
fn requests_that_are_queued_when_the_log_closes_are_answered() {
    explore("closing", |tally| {
        let world = World::new(Setup::default());
        let follower = follower(&world, 0);
        together(vec![
            thread!(world, world.produce("a", 2, 20)),
            thread!(world, world.produce("b", 2, 20)),
            thread!(world, close(&world)),
            thread!(world, close(&world)),
        ]);
        let partition = world.partition(0);
        let late = world.request("late", 1, &[&partition], 1, 20, Ack::Written);
        assert!(world.is_off() || matches!(world.log.append(late), Err(Error::Closed)));
        drop(partition);
        follower.join().expect("it follows");
        world.end(tally);
    });
}

#[test]
fn requests_that_are_queued_when_the_log_is_dropped_are_answered() {
    explore("dropping", |tally| {
        let world = World::new(Setup::default());
        world.produce("a", 1, 20);
        let partition = world.partition(0);
        let rows = [Ack::Durable, Ack::Written, Ack::Durable].into_iter().zip(1..);
        let tickets: Vec<_> = rows
            .map(|(ack, request)| {
                world
                    .log
                    .append(world.request("b", request, &[&partition], 1, 20, ack))
            })
            .collect();
        let waiting = partition.wait_for(Offset::new(1_000));
        drop(partition);
        let waiter = shuttle::thread::spawn(move || {
            for ticket in tickets.into_iter().flatten() {
                let _answer = ticket.wait();
            }
            waiting.wait();
        });
        world.end_by(world::End::Drop, tally);
        waiter.join().expect("it waits only");
    });
}

#[test]
fn a_full_queue_refuses_and_takes_requests_again_when_there_is_room() {
    explore("overload", |tally| {
        let world = World::new(Setup {
            options: Options {
                queue_bytes: 250,
                ..Setup::default().options
            },
            ..Setup::default()
        });
        together(vec![
            thread!(world, world.produce("a", 3, 20)),
            thread!(world, world.produce("b", 3, 20)),
            thread!(world, world.produce("c", 2, 20)),
        ]);
        close(&world);
        assert_eq!(world.log.counters().queued_bytes, 0);
        world.end(tally);
    });
}

/// Looks up offsets and times of a partition in every way.
fn look(world: &World, times: u32) {
    let partition = world.partition(0);
    for _ in 0..times {
        let positions = partition.positions();
        let (start, end) = (positions.log_start_offset, positions.end_offset);
        assert!(start <= end && end <= positions.written_offset, "{positions:?}");
        let from = thread_rng().gen_range(start.get()..=end.get());
        let result = match thread_rng().gen_range(0..4) {
            0 => partition
                .offset_for_time(TimestampMs(1_700_000_000_000))
                .map(|found| {
                    let is_right = found.is_some() || start == end || moved(world, &positions);
                    assert!(is_right, "{positions:?}");
                }),
            1 => partition.locate(Offset::new(from)).map(|located| {
                let is_end = from == end.get();
                let is_right = located.next.is_some() || is_end || moved(world, &positions);
                assert!(is_right, "{from} {positions:?}");
            }),
            2 => partition.stats().map(|stats| {
                assert!(stats.positions.end_offset >= end, "{stats:?} {positions:?}");
            }),
            _ => {
                world.read(&partition, from);
                Ok(())
            }
        };
        match result {
            Ok(()) | Err(Error::Trimmed { .. }) => {}
            Err(error) => world.refused(&error),
        }
    }
}

/// Whether there is a reason why something from a moment ago is not found now.
fn moved(world: &World, before: &quipu_segments::Positions) -> bool {
    let now = world.partition(0).positions();
    world.is_off() || world.topic.is_deleted() || now.log_start_offset > before.log_start_offset
}

#[test]
fn readers_get_on_with_segments_that_roll_and_maps_that_are_closed_under_them() {
    explore("rolling", |tally| {
        let world = World::new(Setup {
            options: few_open(),
            settings: small_segments(),
            ..Setup::default()
        });
        together(vec![
            thread!(world, world.produce("a", 3, 20)),
            thread!(world, look(&world, 3)),
            thread!(world, look(&world, 3)),
            thread!(world, sync(&world)),
            thread!(world, world.cut_at_some_time()),
        ]);
        if !world.is_off() {
            // Threads that open segments at the same time may pass the limit together. Whoever opens the next one closes
            // the others, so the limit holds again after new segments were read.
            world.produce("b", 3, 20);
            let partition = world.partition(0);
            let mut next = 0;
            while next < partition.positions().end_offset.get() {
                match world.read(&partition, next) {
                    Some(now) => next = now,
                    None => break,
                }
            }
            let open = world.log.counters().open_segments;
            assert!(open <= 1 || world.is_off(), "{open} segments are open");
        }
        world.end(tally);
    });
}

fn trim(world: &World, times: u32) {
    let partition = world.partition(0);
    for _ in 0..times {
        let end = partition.positions().end_offset.get();
        let before = Offset::new(thread_rng().gen_range(0..=end));
        if let Some(start) = world.allow(partition.trim(before)) {
            assert!(start >= before, "trimmed to {before}, it starts at {start}");
            world.started_at(world.topic.id(), 0, start);
        }
    }
}

#[test]
fn readers_get_on_with_segments_that_are_trimmed_away() {
    explore("trimming", |tally| {
        let world = World::new(Setup {
            options: few_open(),
            settings: small_segments(),
            ..Setup::default()
        });
        world.produce("a", 2, 20);
        together(vec![
            thread!(world, world.produce("b", 2, 20)),
            thread!(world, look(&world, 3)),
            thread!(world, look(&world, 2)),
            thread!(world, trim(&world, 2)),
            thread!(world, sync(&world)),
            thread!(world, world.cut_at_some_time()),
        ]);
        world.end(tally);
    });
}

#[test]
fn retention_of_two_threads_and_a_trim_at_once_lose_nothing_that_is_kept() {
    explore("retention", |tally| {
        let world = World::new(Setup {
            options: Options {
                retention_interval: Duration::ZERO,
                checkpoint_interval: Duration::ZERO,
                ..few_open()
            },
            settings: TopicSettings {
                retention_bytes: Some(250),
                retention_ms: Some(60_000),
                ..small_segments()
            },
            ..Setup::default()
        });
        world.produce("a", 2, 20);
        together(vec![
            thread!(world, world.produce("b", 2, 20)),
            thread!(world, look(&world, 2)),
            thread!(world, trim(&world, 1)),
            thread!(world, {
                if chance(2) {
                    world.clock.advance(Duration::from_secs(120));
                }
                world.allow(world.log.apply_retention());
            }),
            thread!(world, world.cut_at_some_time()),
        ]);
        world.end(tally);
    });
}

fn spec(partitions: u32) -> TopicSpec {
    TopicSpec::new(partitions, small_segments())
}

#[test]
fn a_topic_can_be_deleted_and_made_again_while_it_is_written_and_read() {
    explore("deleting", |tally| {
        let world = World::new(Setup {
            options: few_open(),
            settings: small_segments(),
            allowed: |error| matches!(error, Error::NotFound(_)),
            ..Setup::default()
        });
        world.produce("a", 1, 20);
        let follower = follower(&world, 0);
        together(vec![
            thread!(world, world.produce("b", 2, 20)),
            thread!(world, look(&world, 2)),
            thread!(world, sync(&world)),
            thread!(world, {
                if world.allow(world.log.delete_topic(TOPIC, Vec::new())).is_none() {
                    return;
                }
                world.deleted(world.topic.id());
                if let Some(topic) = world.allow(world.log.create_topic(TOPIC, spec(1))) {
                    world.produce_to(&topic, "c", 2, 20);
                    let partition = topic.partition(0).expect("it has one");
                    world.read(&partition, 0);
                }
            }),
            thread!(world, world.cut_at_some_time()),
        ]);
        close(&world);
        follower.join().expect("it follows");
        world.end(tally);
    });
}

#[test]
fn partitions_that_are_added_take_appends_at_once() {
    explore("growing", |tally| {
        let world = World::new(Setup {
            settings: small_segments(),
            ..Setup::default()
        });
        together(vec![
            thread!(world, world.produce("a", 3, 20)),
            thread!(world, {
                for partitions in 2..4 {
                    if world
                        .allow(world.log.alter_topic(TOPIC, spec(partitions)))
                        .is_none()
                    {
                        return;
                    }
                    world.produce(&format!("b{partitions}"), 1, 20);
                }
            }),
            thread!(world, sync(&world)),
            thread!(world, world.cut_at_some_time()),
        ]);
        world.end(tally);
    });
}

#[test]
fn journal_files_are_used_again_while_producers_wait_for_them() {
    explore("journal files", |tally| {
        let world = World::new(Setup {
            even: true,
            ..Setup::default()
        });
        let follower = follower(&world, 0);
        together(vec![
            // Three files of nine rounds, or fewer and larger ones.
            thread!(world, world.produce("a", 12, 7_500)),
            thread!(world, world.produce("b", 12, 7_500)),
            thread!(world, world.cut_at_some_time()),
        ]);
        close(&world);
        follower.join().expect("it follows");
        world.end(tally);
    });
}

/// Checks that every request is answered although a call fails, and that acknowledged records stay.
fn failing(name: &str, after: u64, allowed: fn(&Error) -> bool, fault: fn(u64) -> Fault) {
    explore(name, move |tally| {
        let world = World::new(Setup {
            partitions: 2,
            allowed,
            ..Setup::default()
        });
        let follower = follower(&world, 0);
        world.disk.fail(fault(thread_rng().gen_range(0..after)));
        together(vec![
            thread!(world, world.produce("a", 3, 1_500)),
            thread!(world, world.produce("b", 3, 1_500)),
            thread!(world, sync(&world)),
        ]);
        // The last sync of a log that has failed may fail as well.
        if let Err(error) = world.log.close() {
            assert!(world.is_off() || world.disk.failed_calls() > 0, "{error}");
        }
        follower.join().expect("it follows");
        world.end(tally);
    });
}

fn of_journal(error: &Error) -> bool {
    matches!(error, Error::LogFailed { .. } | Error::Io { .. })
}

fn of_segment(error: &Error) -> bool {
    let is_refused = matches!(error, Error::LogFailed { .. } | Error::Overloaded { .. });
    is_refused || matches!(error, Error::PartitionFailed(_))
}

#[test]
fn everybody_is_answered_when_the_journals_sync_fails() {
    failing("failing journal syncs", 8, of_journal, |after| {
        Fault::once(IoKind::Sync, after).on(".journal")
    });
}

#[test]
fn everybody_is_answered_when_the_journals_writes_fail() {
    failing("failing journal writes", 8, of_journal, |after| {
        Fault::once(IoKind::Write, after).on(".journal").onwards()
    });
}

#[test]
fn everybody_is_answered_when_a_segments_sync_fails() {
    failing("failing segment syncs", 3, of_segment, |after| {
        Fault::once(IoKind::Sync, after).on(".log")
    });
}

#[test]
fn everybody_is_answered_when_a_segments_write_fails() {
    failing("failing segment writes", 3, of_segment, |after| {
        Fault::once(IoKind::Write, after).on(".log")
    });
}

#[test]
fn appends_go_on_when_a_full_disk_has_space_again() {
    explore("full disk", |tally| {
        let world = World::new(Setup {
            settings: small_segments(),
            allowed: |error| matches!(error, Error::StorageFull),
            ..Setup::default()
        });
        together(vec![
            thread!(world, world.produce("a", 4, 3_000)),
            thread!(world, world.produce("b", 3, 3_000)),
            thread!(world, {
                for _ in 0..2 {
                    let room = thread_rng().gen_range(0..4) * 4096;
                    world.disk.set_capacity(Some(world.disk.used_bytes() + room));
                    for _ in 0..thread_rng().gen_range(0..20) {
                        yield_now();
                    }
                    world.disk.set_capacity(None);
                }
            }),
        ]);
        world.end(tally);
    });
}
