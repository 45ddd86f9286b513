//! `quipu consume`: prints records as NDJSON, and with a group remembers how far.
//!
//! Other threads read, the main thread prints, so a silent connection never holds up Ctrl-C. What is followed, or chosen
//! by key, comes as one stream ([`super::stream`]); what begins or ends at offsets, a group's among them, and plain
//! history are fetched partition by partition ([`super::history`]). A group's offsets are committed only for lines that
//! standard output has taken, at intervals and at the end, so a consumer that is killed prints some lines again and never
//! skips one.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use clap::builder::NonEmptyStringValueParser;
use http::Method;
use quipu_segments::TimestampMs;
use serde_json::{Value, json};

use super::api::{self, Committed, Topic, group_route, stream_route};
use super::client::{Client, Connect, Failure};
use super::deliver::PATIENCE;
use super::history::{Chunk, FETCH_BYTES, MAX_RECORDS, Partition, Size, head};
use super::output::Output;
use super::position::{Position, at};
use super::signal::{Interrupt, Stop};
use super::stream::{MOST_PARTITIONS, Records, Stream};

/// Threads that follow partitions; where there are more partitions, a thread has several.
const FOLLOWERS: usize = 64;
/// How long a follower of one partition waits for a record.
const LONG_WAIT: Duration = Duration::from_secs(20);
/// How long a follower of several partitions waits at one of them when none has records.
const SHORT_WAIT: Duration = Duration::from_millis(200);
/// How often a group's offsets are committed.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// What `quipu consume` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Topic to read
    #[arg(value_name = "TOPIC", value_parser = NonEmptyStringValueParser::new())]
    topic: String,
    /// Start where this group stopped, and commit what was printed
    #[arg(long, value_name = "GROUP", value_parser = NonEmptyStringValueParser::new())]
    group: Option<String>,
    /// Start at `earliest`, `latest`, a time (2013-07-01T00:00:00Z, a date, milliseconds) or offset:N; with --group
    /// only where it has committed nothing [default: earliest]
    #[arg(long, value_name = "WHERE", value_parser = Position::parse_from)]
    from: Option<Position>,
    /// End before a time or offset:N, or at `latest`, the end as it is now [default: latest without --follow]
    #[arg(long, value_name = "WHERE", value_parser = Position::parse_until)]
    until: Option<Position>,
    /// Print only records with this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Read only this partition; may be repeated
    #[arg(long, value_name = "P")]
    partition: Vec<u32>,
    /// Go on with records as they arrive, over restarts of the server too
    #[arg(long, short)]
    follow: bool,
    /// Stop after this many records
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

/// What the reading threads say.
enum Event {
    /// Of one partition.
    Chunk(Chunk),
    /// Of a stream.
    Records(Records),
    Failed(Failure),
}

/// Does it.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let client = args.connect.client()?;
    // Records are JSON, one a line, whatever `--output` says.
    let _ = args.output;
    let interrupt = Interrupt::watch()?;
    let topic = Topic::describe_patiently(&client, &args.topic, &interrupt)?;
    let chosen = topic.choose(&args.partition)?;
    let mut printer = Printer {
        client: &client,
        args: &args,
        out: io::BufWriter::with_capacity(256 << 10, io::stdout().lock()),
        printed: 0,
        flushed: BTreeMap::new(),
        committed: BTreeMap::new(),
        commit_due: Instant::now() + COMMIT_INTERVAL,
    };
    if printer.is_full() {
        return Ok(());
    }
    if args.is_stream() && chosen.len() <= MOST_PARTITIONS {
        let events = stream(&client, &args, &topic, &chosen, &interrupt)?;
        return print(&events, &interrupt, &mut printer);
    }
    let (partitions, tail) = partitions(&client, &args, &chosen)?;
    let result = read(partitions, &args, tail, &interrupt, &mut printer);
    // What was printed is committed whatever ended the reading: an error, a closed pipe, Ctrl-C.
    let commit = printer.commit();
    match result {
        Err(error) if !super::is_closed_pipe(&error) => Err(error),
        result => commit.and(result),
    }
}

impl Args {
    /// Whether the server's stream can begin and end where this does, and is the better way.
    fn is_stream(&self) -> bool {
        let is_offset = |position: &Option<Position>| matches!(position, Some(Position::Offset(_)));
        (self.follow || self.key.is_some())
            && self.group.is_none()
            && !is_offset(&self.from)
            && !is_offset(&self.until)
    }
}

/// Begins to read one stream of all partitions.
fn stream(
    client: &Client,
    args: &Args,
    topic: &Topic,
    chosen: &[&api::Partition],
    interrupt: &Interrupt,
) -> anyhow::Result<Receiver<Event>> {
    let mut route = stream_route(&args.topic, &args.partition, args.key.as_deref());
    match args.from {
        Some(Position::Latest) => route = route.with("from", "latest"),
        Some(Position::Time(time)) => route = route.with("from", time.0),
        _ => {}
    }
    if let Some(Position::Time(time)) = args.until {
        route = route.with("until", time.0);
    }
    let follow = args.follow && args.until != Some(Position::Latest);
    let patience = (!follow).then_some(PATIENCE);
    let stream = Stream::new(client, topic, chosen, route, follow, patience, interrupt);
    Ok(stream.spawn(|read| read.map_or_else(Event::Failed, Event::Records))?)
}

/// The partitions that are fetched, each from where it begins to where it ends.
fn partitions(
    client: &Client,
    args: &Args,
    chosen: &[&api::Partition],
) -> anyhow::Result<(Vec<Partition>, Tail)> {
    let committed = match &args.group {
        Some(group) => {
            check_no_members(client, group)?;
            Committed::of(client, group)?.offsets
        }
        None => Vec::new(),
    };
    let mut partitions = Vec::new();
    let mut tail = Tail::default();
    for chosen in chosen {
        let number = chosen.partition;
        let committed = committed
            .iter()
            .find(|c| c.topic == args.topic && c.partition == number);
        let start = match committed {
            Some(committed) => committed.offset.max(chosen.log_start_offset),
            None => args
                .from
                .unwrap_or(Position::Earliest)
                .resolve(client, &args.topic, chosen)?,
        };
        let until = match args.until {
            // A live tail up to a time to come: the end is known when a record of that time arrives.
            Some(Position::Time(time)) if args.follow && is_to_come(time) => {
                let end = at(client, &args.topic, number, time)?;
                tail.until = Some(time.0);
                end.timestamp.is_some().then_some(end.offset)
            }
            Some(until) => Some(until.resolve(client, &args.topic, chosen)?),
            None if args.follow => None,
            None => Some(chosen.end_offset),
        };
        if until.is_none_or(|until| start < until) {
            let partition = Partition::new(client, &args.topic, number, start, until);
            partitions.push(if args.follow { partition.live() } else { partition });
        }
    }
    Ok((partitions, tail))
}

fn is_to_come(time: TimestampMs) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.is_ok_and(|now| i128::from(time.0) > now.as_millis().cast_signed())
}

/// Refuses to print records of a group whose members commit for it, before the first is printed.
fn check_no_members(client: &Client, group: &str) -> anyhow::Result<()> {
    match client.get::<Value>(&group_route(group, &[])) {
        Ok(answer) => match answer.get("members").and_then(Value::as_array) {
            Some(members) if !members.is_empty() => Err(has_members(group)),
            _ => Ok(()),
        },
        Err(failure) if failure.code() == Some("unknown-group") => Ok(()),
        Err(failure) => Err(failure.into()),
    }
}

/// What to do about members that commit for the group.
fn has_members(group: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "group-active: group {group} has live members, and they alone commit for it: choose another --group, stop the \
         members (quipu group describe {group} shows them), or join them (POST /v1/groups/{group}/members/NAME/poll)"
    )
}

/// When a live tail with a time as its end stops.
#[derive(Clone, Copy, Debug, Default)]
struct Tail {
    until: Option<i64>,
}

fn read(
    partitions: Vec<Partition>,
    args: &Args,
    tail: Tail,
    interrupt: &Interrupt,
    printer: &mut Printer<'_>,
) -> anyhow::Result<()> {
    if partitions.is_empty() {
        return Ok(());
    }
    let threads = if args.follow {
        partitions.len().min(FOLLOWERS)
    } else {
        1
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
            records: args
                .max
                .filter(|_| args.key.is_none())
                .unwrap_or(MAX_RECORDS)
                .min(MAX_RECORDS),
            tail,
            sender: sender.clone(),
            interrupt: interrupt.clone(),
        };
        std::thread::Builder::new()
            .name("fetch".to_owned())
            .spawn(move || follower.run(share))?;
    }
    drop(sender);
    print(&events, interrupt, printer)
}

/// Prints chunks until there are no more, enough are printed, or somebody says stop.
fn print(events: &Receiver<Event>, interrupt: &Interrupt, printer: &mut Printer<'_>) -> anyhow::Result<()> {
    loop {
        match interrupt.get() {
            // As if the last write had told: the end is quiet.
            Some(Stop::Unread) => return Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
            Some(Stop::Asked) => return Ok(()),
            None => {}
        }
        match events.recv_timeout(Duration::from_millis(100)) {
            Ok(Event::Chunk(chunk)) => {
                printer.print(&chunk.lines, Some((chunk.partition, chunk.next)))?;
            }
            Ok(Event::Records(records)) => printer.print(&records.lines, None)?,
            Ok(Event::Failed(_)) if interrupt.get().is_some() => {}
            Ok(Event::Failed(failure)) => return Err(failure.into()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        if printer.is_full() {
            return Ok(());
        }
        if Instant::now() >= printer.commit_due {
            printer.commit()?;
        }
    }
}

/// Fetches from its partitions in turn until each has been read.
struct Follower {
    records: u64,
    tail: Tail,
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
                let chunk = match partition
                    .fetch(size, &self.interrupt)
                    .map(|chunk| self.cut(chunk, partition))
                {
                    Ok(Ok(chunk)) => chunk,
                    Err(failure) | Ok(Err(failure)) => {
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
        let Some(until) = self.tail.until else {
            return Ok(chunk);
        };
        let mut end = 0;
        for line in chunk.lines.split_inclusive(|byte| *byte == b'\n') {
            let head = head(line).map_err(|error| Failure::Unexpected {
                server: "the server".to_owned(),
                reason: error.to_string(),
            })?;
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

/// Standard output, and how far it has taken each partition.
struct Printer<'a> {
    client: &'a Client,
    args: &'a Args,
    out: io::BufWriter<io::StdoutLock<'static>>,
    printed: u64,
    flushed: BTreeMap<u32, u64>,
    committed: BTreeMap<u32, u64>,
    commit_due: Instant,
}

impl Printer<'_> {
    fn is_full(&self) -> bool {
        self.args.max.is_some_and(|max| self.printed >= max)
    }

    /// Prints the lines that are wanted and flushes; only then does the partition that they are of, if they are of one,
    /// count as read up to the given offset.
    fn print(&mut self, lines: &[u8], of: Option<(u32, u64)>) -> anyhow::Result<()> {
        let mut next = of.map(|(_, next)| next);
        // The server has chosen what comes as a stream.
        let key = self.args.key.as_deref().filter(|_| of.is_some());
        if key.is_none() && self.args.max.is_none() {
            self.out.write_all(lines)?;
        } else {
            for line in lines.split_inclusive(|byte| *byte == b'\n') {
                let head = head(line)?;
                if key.is_some() && head.key.as_deref() != key {
                    continue;
                }
                self.out.write_all(line)?;
                self.printed += 1;
                if self.is_full() {
                    next = Some(head.offset + 1);
                    break;
                }
            }
        }
        self.out.flush()?;
        if let (Some((partition, _)), Some(next)) = (of, next) {
            self.flushed.insert(partition, next);
        }
        Ok(())
    }

    fn commit(&mut self) -> anyhow::Result<()> {
        self.commit_due = Instant::now() + COMMIT_INTERVAL;
        let Some(group) = &self.args.group else {
            return Ok(());
        };
        let offsets: Vec<_> = self
            .flushed
            .iter()
            .filter(|(partition, offset)| self.committed.get(partition) != Some(offset))
            .map(|(partition, offset)| {
                json!({"topic": self.args.topic, "partition": partition, "offset": offset})
            })
            .collect();
        if offsets.is_empty() {
            return Ok(());
        }
        self.client
            .send(
                &Method::PUT,
                &group_route(group, &["offsets"]),
                Some(&json!({"offsets": offsets})),
            )
            .map_err(|failure| match failure.code() {
                Some("group-active") => has_members(group),
                _ => anyhow::anyhow!("cannot commit the offsets of group {group}: {failure}"),
            })?;
        self.committed.clone_from(&self.flushed);
        Ok(())
    }
}
