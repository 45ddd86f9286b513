//! Threads that fetch partitions in turn, where one stream cannot be used.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use super::Event;
use crate::cli::client::Failure;
use crate::cli::history::{Chunk, FETCH_BYTES, Partition, Size, head};
use crate::cli::signal::{self, Interrupt};

/// The most threads that follow partitions; if there are more partitions, a thread has several.
const FOLLOWERS: usize = 64;
/// How long a follower of one partition waits for a record.
const LONG_WAIT: Duration = Duration::from_secs(20);
/// How long a follower of several partitions waits at one of them when none has records.
const SHORT_WAIT: Duration = Duration::from_millis(200);

/// Starts to fetch the partitions, at most `records` records at once. With `follow` up to [`FOLLOWERS`] threads share
/// them, otherwise one thread fetches them.
/// Errors: The system refuses a thread.
pub(super) fn spawn(
    partitions: Vec<Partition>,
    records: u64,
    follow: bool,
    until: Option<i64>,
    interrupt: &Interrupt,
) -> std::io::Result<Receiver<Event>> {
    let threads = match follow {
        true => partitions.len().min(FOLLOWERS),
        false => 1,
    };
    let mut shares: Vec<Vec<Partition>> = Vec::new();
    shares.resize_with(threads, Vec::new);
    for (index, partition) in partitions.into_iter().enumerate() {
        shares[index % threads].push(partition);
    }
    // Few chunks in flight: they are up to a fetch's size each.
    let (sender, events) = sync_channel(2);
    for share in shares {
        let follower = Follower {
            records,
            until,
            sender: sender.clone(),
            interrupt: interrupt.clone(),
        };
        signal::spawn("fetch", move || follower.run(share))?;
    }
    Ok(events)
}

/// Fetches from its partitions in turn until each has been read.
struct Follower {
    records: u64,
    /// The time before which a live tail ends, if it has one.
    until: Option<i64>,
    sender: SyncSender<Event>,
    interrupt: Interrupt,
}

impl Follower {
    fn run(self, mut share: Vec<Partition>) {
        let mut idle = 0;
        while !share.is_empty() {
            let mut index = 0;
            while index < share.len() {
                let wait = match share.len() {
                    1 => LONG_WAIT,
                    // A whole turn without a record: wait a little, at one partition after the other.
                    len if idle >= len => SHORT_WAIT,
                    _ => Duration::ZERO,
                };
                let size = Size {
                    records: self.records,
                    bytes: FETCH_BYTES,
                    wait,
                };
                let partition = &mut share[index];
                let fetched = partition.fetch(size, &self.interrupt);
                let chunk = match fetched.and_then(|chunk| self.cut(chunk, partition)) {
                    Ok(chunk) => chunk,
                    Err(failure) => {
                        let _ = self.sender.send(Event::Failed(failure));
                        return;
                    }
                };
                idle = if chunk.lines.is_empty() { idle + 1 } else { 0 };
                // A chunk without records still says how far the partition has been read.
                if self.sender.send(Event::Chunk(chunk)).is_err() || self.interrupt.get().is_some() {
                    return;
                }
                if share[index].is_done() {
                    share.remove(index);
                } else {
                    index += 1;
                }
            }
        }
    }

    /// Cuts a live tail at the first record that is not before its end.
    fn cut(&self, mut chunk: Chunk, partition: &mut Partition) -> Result<Chunk, Failure> {
        let Some(until) = self.until else {
            return Ok(chunk);
        };
        let mut end = 0;
        for line in chunk.lines.split_inclusive(|byte| *byte == b'\n') {
            let server = "the server".to_owned();
            let head = head(line).map_err(|error| error.to_string());
            let head = head.map_err(|reason| Failure::Unexpected { server, reason })?;
            if head.timestamp >= until {
                chunk.next = head.offset;
                partition.end_at(head.offset);
                break;
            }
            end += line.len();
        }
        chunk.lines.truncate(end);
        Ok(chunk)
    }
}
