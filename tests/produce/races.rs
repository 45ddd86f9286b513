//! `expected_offset`, raced by many writers over `kill -9`: at each offset exactly one wins.
//!
//! Every writer appends at the offset that it believes to be the end, and learns the end from a 412. An append that was
//! answered 200 is there once, at its offset; a refused one is not there; one that was in flight when the server was
//! killed is there once, at the expected offset, or not at all. An end that an answer gave never goes back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};

use crate::support::{Connection, Rng, Server, read_partition};

const PARTITIONS: u32 = 2;
const WRITERS: u64 = 8;
const KILLS: usize = 6;
/// Appends that succeed before the next kill.
const WINS_A_ROUND: u64 = 60;

/// One attempt: the values that it appends begin with its number.
#[derive(Clone, Debug)]
struct Attempt {
    number: u64,
    partition: u32,
    expected: u64,
    records: u64,
}

enum Outcome {
    /// Stored at the offset that was expected.
    Won(Attempt),
    /// Refused: nothing is stored.
    Lost(Attempt),
    /// The server went away before it answered.
    Unknown(Attempt),
}

/// The state that all writers of a round share.
struct Round<'a> {
    address: SocketAddr,
    stop: &'a AtomicBool,
    attempts: &'a AtomicU64,
    outcomes: Sender<Outcome>,
}

/// Appends until the server is gone. `ends` are the ends as the writer knows them: the real ones are not below these.
fn write(round: &Round<'_>, mut rng: Rng, ends: &mut [u64]) {
    let Ok(mut connection) = Connection::open(round.address) else {
        return;
    };
    while !round.stop.load(Ordering::Relaxed) {
        let partition = rng.below(u64::from(PARTITIONS)) as u32;
        let attempt = Attempt {
            number: round.attempts.fetch_add(1, Ordering::Relaxed),
            partition,
            expected: ends[partition as usize],
            records: 1 + rng.below(3),
        };
        let number = attempt.number;
        let row = |index| format!(r#"{{"partition":{partition},"value":[{number},{index}]}}"#);
        let rows = (0..attempt.records).map(row);
        let records: Vec<String> = rows.collect();
        let path = format!("/v1/topics/raced/records?expected_offset={}", attempt.expected);
        let body = format!(r#"{{"records":[{}]}}"#, records.join(","));
        let outcome = match connection.request("POST", &path, "application/json", body.as_bytes()) {
            Err(_) => {
                // The server is gone, as every writer expects in the end.
                let _ = round.outcomes.send(Outcome::Unknown(attempt));
                return;
            }
            Ok(answer) if answer.status == 200 => {
                let offsets = &answer.json()["offsets"];
                for index in 0..attempt.records {
                    let offset = offsets[index as usize]["offset"].as_u64();
                    assert_eq!(offset, Some(attempt.expected + index), "{attempt:?}");
                }
                ends[partition as usize] = attempt.expected + attempt.records;
                Outcome::Won(attempt)
            }
            Ok(answer) => {
                let problem = answer.refusal(412, "offset-mismatch", "none");
                let end = problem["end_offset"].as_u64().expect("the end");
                // An earlier answer gave this end, and an end never goes back.
                assert!(end > attempt.expected, "{attempt:?}: the end went back to {end}");
                ends[partition as usize] = end;
                Outcome::Lost(attempt)
            }
        };
        let _ = round.outcomes.send(outcome);
    }
}

#[test]
fn of_many_writers_that_race_for_an_offset_exactly_one_wins_over_kills_too() {
    let mut rng = Rng::from_environment("expected_offset");
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let mut server = Server::start(&data);
    server.create_topic("raced", PARTITIONS);

    let (mut won, mut lost, mut unknown) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
    let attempts = AtomicU64::new(0);
    let mut ends = vec![vec![0; PARTITIONS as usize]; WRITERS as usize];
    for _ in 0..KILLS {
        let stop = AtomicBool::new(false);
        let (sender, outcomes) = channel();
        std::thread::scope(|scope| {
            for ends in &mut ends {
                let round = Round {
                    address: server.address,
                    stop: &stop,
                    attempts: &attempts,
                    outcomes: sender.clone(),
                };
                let rng = rng.fork();
                scope.spawn(move || write(&round, rng, ends));
            }
            drop(sender);
            let mut wins = 0;
            let wanted = WINS_A_ROUND + rng.below(WINS_A_ROUND);
            let mut running = Some(server);
            for outcome in outcomes {
                match outcome {
                    Outcome::Won(attempt) => {
                        wins += 1;
                        won.push(attempt);
                    }
                    Outcome::Lost(attempt) => drop(lost.insert(attempt.number)),
                    Outcome::Unknown(attempt) => drop(unknown.insert(attempt.number, attempt)),
                }
                if wins >= wanted
                    && let Some(server) = running.take()
                {
                    server.kill();
                    stop.store(true, Ordering::Relaxed);
                }
            }
            // The writers ended before the server was killed.
            assert!(running.is_none());
        });
        server = Server::start(&data);
    }

    let mut stored: BTreeMap<u64, Vec<(u32, u64)>> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let mut next = 0;
        read_partition(&mut server.connect(), "raced", partition, 0, |record| {
            assert_eq!(record.offset, next, "a gap");
            next += 1;
            let [number, index]: [u64; 2] = serde_json::from_str(record.value.get()).expect("two numbers");
            let places = stored.entry(number).or_default();
            let found = places.len() as u64;
            assert_eq!(found, index, "attempt {number} is not there once, in order");
            places.push((partition, record.offset));
        });
    }
    let places = |attempt: &Attempt| -> Vec<(u32, u64)> {
        (0..attempt.records)
            .map(|index| (attempt.partition, attempt.expected + index))
            .collect()
    };
    for attempt in &won {
        let found = stored.remove(&attempt.number);
        assert_eq!(found, Some(places(attempt)), "{attempt:?}");
    }
    let from_flight = stored.len();
    for (number, found) in stored {
        let is_lost = lost.contains(&number);
        assert!(!is_lost, "attempt {number} was refused and is stored");
        let attempt = unknown
            .get(&number)
            .unwrap_or_else(|| panic!("nobody sent attempt {number}"));
        assert_eq!(found, places(attempt), "{attempt:?}");
    }
    let (won, lost, unknown) = (won.len(), lost.len(), unknown.len());
    println!("{won} won, {lost} lost, {unknown} unknown of which {from_flight} are stored");
    assert!(lost as u64 > WINS_A_ROUND, "hardly anybody raced: {lost} lost");
    server.stop();
}
