//! The real server and the real command, killed at random bytes and started again: every record once, in order.
//!
//! `QUIPU_TEST_SEED` decides where the faults are.

use std::collections::BTreeMap;

use std::io::BufRead;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;
use tempfile::TempDir;

use crate::proxy::{Proxy, Way};
use crate::support::{Rng, Server};
use crate::{Ended, Running, command, file, run};

const PARTITIONS: u32 = 4;

/// Numbers by partition, in the partition's order.
type Numbers = BTreeMap<u64, Vec<u64>>;

/// What a fuse kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Server,
    Command,
    /// Only the connection breaks.
    Nobody,
}

/// A server behind a proxy, and the topic `t`.
struct World {
    dir: TempDir,
    server: Option<Server>,
    proxy: Proxy,
}

impl World {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let server = Server::start(&dir.path().join("data"));
        server.create_topic("t", PARTITIONS);
        let proxy = Proxy::to(server.address);
        Self {
            dir,
            server: Some(server),
            proxy,
        }
    }

    /// Kills the server, if it is not dead already, and starts it again.
    fn restart(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill();
        }
        let server = Server::start(&self.dir.path().join("data"));
        self.proxy.move_to(server.address);
        self.server = Some(server);
    }

    /// Runs a command to its end, past the proxy.
    fn run(&self, line: &str) -> String {
        run(&format!("http://{}", self.server.as_ref().unwrap().address), line).ok()
    }

    /// Starts a command behind the proxy.
    fn spawn(&self, line: &str) -> Running {
        let mut command = command(line);
        let command = command.env("QUIPU_SERVER", &self.proxy.url);
        Running::of(command.env("XDG_STATE_HOME", self.dir.path().join("state")))
    }

    /// Kills the victim when so many bytes have been sent in one direction; the channel then gets a message.
    fn arm(&self, victim: Victim, command: &Child, way: Way, bytes: u64) -> Receiver<()> {
        let pid = match victim {
            Victim::Server => Some(self.server.as_ref().unwrap().pid()),
            Victim::Command => Some(command.id()),
            Victim::Nobody => None,
        };
        let (burned, has_burned) = channel();
        self.proxy.arm(way, bytes, move || {
            if let Some(pid) = pid.and_then(|pid| Pid::from_raw(pid.cast_signed())) {
                // The test waits for the process only after this message, so the process id is still its own.
                kill_process(pid, Signal::KILL).unwrap();
            }
            burned.send(()).unwrap();
        });
        has_burned
    }

    /// The numbers in a topic's records, by partition.
    fn numbers(&self, topic: &str) -> Numbers {
        let mut numbers = Numbers::new();
        for line in self.run(&format!("consume {topic}")).lines() {
            note(&mut numbers, line);
        }
        numbers
    }
}

/// Notes the number in a printed record.
fn note(numbers: &mut Numbers, line: &str) {
    let record: Value = serde_json::from_str(line).unwrap();
    let partition = record["partition"].as_u64().unwrap();
    let number = record["value"]["n"].as_u64().unwrap();
    numbers.entry(partition).or_default().push(number);
}

/// Records from `from` on, with keys, of about so many bytes.
fn lines(from: u64, until: u64, bytes: usize) -> String {
    let filler = "x".repeat(bytes.saturating_sub(60));
    let mut text = String::new();
    for n in from..until {
        let key = n * 7919 % 997;
        let value = format!("{{\"n\":{n},\"x\":\"{filler}\"}}");
        text += &format!("{{\"key\":\"{key}\",\"timestamp\":{n},\"value\":{value}}}\n");
    }
    text
}

/// Checks that each number is there once, growing in each partition.
#[track_caller]
fn check_once(numbers: &Numbers, count: u64) {
    for (partition, numbers) in numbers {
        let wrong = numbers.windows(2).find(|pair| pair[0] >= pair[1]);
        assert_eq!(wrong, None, "partition {partition} is in order, nothing twice");
    }
    let mut all: Vec<u64> = numbers.values().flatten().copied().collect();
    all.sort_unstable();
    let wrong = all.iter().zip(0..).find(|(found, expected)| **found != *expected);
    assert_eq!((wrong, all.len() as u64), (None, count), "nothing is missing");
}

/// Waits until the fuse has burned; false if the command has ended instead. Then no fuse is left, so none kills a later
/// process with the same id.
fn has_burned(proxy: &Proxy, fuse: &Receiver<()>, command: &Child) -> bool {
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    loop {
        match fuse.recv_timeout(Duration::from_millis(5)) {
            Ok(()) => return true,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        // Without reaping the process: until that, its id stays its own.
        let waited = waitid(WaitId::Pid(Pid::from_child(command)), ended);
        if waited.unwrap().is_some() {
            proxy.disarm();
            return fuse.try_recv().is_ok();
        }
    }
}

/// Runs a command to its end, through so many faults; starts it again when it was killed.
fn run_through(world: &mut World, rng: &mut Rng, line: &str, victims: &[Victim], faults: u32) -> Ended {
    let mut command = world.spawn(line);
    for _ in 0..faults {
        let victim = victims[rng.below(victims.len() as u64) as usize];
        // An answer is some hundred bytes, so this hits the first one.
        let (way, bytes) = match rng.below(3) {
            0 => (Way::Down, rng.below(2_000)),
            _ => (Way::Up, rng.below(10 << 20)),
        };
        let fuse = world.arm(victim, &command.child, way, bytes);
        if !has_burned(&world.proxy, &fuse, &command.child) {
            break;
        }
        println!("{victim:?} at byte {bytes} {way:?}");
        match victim {
            Victim::Server => world.restart(),
            Victim::Command => {
                command.child.kill().unwrap();
                command.child.wait().unwrap();
                command = world.spawn(line);
            }
            Victim::Nobody => {}
        }
    }
    world.proxy.disarm();
    let ended = command.end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    ended
}

#[test]
fn a_load_whose_server_and_command_are_killed_over_and_over_ends_with_every_record_once() {
    const RECORDS: u64 = 200_000;
    let mut rng = Rng::from_environment("a load that is cut");
    let mut world = World::new();
    let path = file(&world.dir, "load.ndjson", lines(0, RECORDS, 250));
    let victims = [Victim::Server, Victim::Command, Victim::Nobody];
    let ended = run_through(&mut world, &mut rng, &format!("produce t {path}"), &victims, 12);
    println!("{}{}", ended.out, ended.err);
    check_once(&world.numbers("t"), RECORDS);
    let states = std::fs::read_dir(world.dir.path().join("state/quipu/loads"));
    assert_eq!(states.unwrap().count(), 0, "and nothing is left of it");
}

#[test]
fn a_consumer_that_follows_prints_every_record_once_over_restarts() {
    const ROUNDS: u64 = 4;
    const RECORDS: u64 = 5_000;
    let mut rng = Rng::from_environment("a tail that is cut");
    let mut world = World::new();
    let mut consumer = world.spawn("consume t --follow");
    let mut numbers = Numbers::new();
    for round in 0..ROUNDS {
        let victim = match rng.below(4) {
            0 => Victim::Nobody,
            _ => Victim::Server,
        };
        // Less than the round has, so the fuse burns; only then the rest is sent.
        let bytes = rng.below(RECORDS * 150);
        let fuse = world.arm(victim, &consumer.child, Way::Down, bytes);
        let (from, until) = (round * RECORDS, (round + 1) * RECORDS);
        let path = file(&world.dir, "part.ndjson", lines(from, until, 200));
        let producer = world.spawn(&format!("produce t {path}"));
        let (world, Running { child, out }) = (&mut world, &mut consumer);
        std::thread::scope(|scope| {
            let restart = scope.spawn(move || {
                assert!(has_burned(&world.proxy, &fuse, child), "the command has ended");
                println!("{victim:?} at byte {bytes}");
                if victim == Victim::Server {
                    world.restart();
                }
            });
            let mut line = String::new();
            for _ in from..until {
                line.clear();
                out.read_line(&mut line).unwrap();
                note(&mut numbers, &line);
            }
            restart.join().unwrap();
        });
        producer.end().ok();
    }
    let ended = consumer.stop();
    assert!(ended.err.contains("; trying again"), "{}", ended.err);
    assert_eq!(ended.ok(), "");
    check_once(&numbers, ROUNDS * RECORDS);
}

#[test]
fn a_replay_into_a_topic_stores_every_record_once_over_restarts() {
    const RECORDS: u64 = 60_000;
    let mut rng = Rng::from_environment("a replay that is cut");
    let mut world = World::new();
    world.server.as_ref().unwrap().create_topic("u", PARTITIONS);
    let path = file(&world.dir, "load.ndjson", lines(0, RECORDS, 400));
    world.run(&format!("produce t {path}"));
    let mut replay = |world: &mut World, line: &str, faults| {
        let victims = [Victim::Server, Victim::Server, Victim::Nobody];
        let line = format!("replay {line} --from 0 --to u --output json");
        let report = run_through(world, &mut rng, &line, &victims, faults).out;
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["records"], RECORDS, "{report}");
        world.numbers("u")
    };
    let copied = replay(&mut world, "t", 6);
    check_once(&copied, RECORDS);
    assert_eq!(copied, world.numbers("t"), "each record stays in its partition");

    // A replay into the same topic ends at the end offsets of its beginning.
    let doubled: usize = replay(&mut world, "u", 3).values().map(Vec::len).sum();
    assert_eq!(doubled as u64, 2 * RECORDS);
}
