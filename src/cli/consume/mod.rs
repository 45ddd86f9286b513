//! `quipu consume`: prints records, and with `--group` commits how far it has printed.
//!
//! Other threads read, the main thread prints, so a silent connection never delays Ctrl-C. With `--last`, `--follow`, a
//! filter or several topics, records come as one stream ([`super::stream`]), if there is no group and no start or end
//! is an offset. All others are fetched by partition ([`fetch`]). A group's offsets are committed first where it starts,
//! then, each second and at the end, only for records that standard output has taken: a killed consumer prints some
//! again and skips none.

mod commit;
mod fetch;
mod format;

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, SystemTime};

use clap::builder::NonEmptyStringValueParser;
use quipu::formats::pattern::{Pattern, PatternError};
use quipu_segments::TimestampMs;

use self::commit::Commits;
use self::format::{Format, Record};
use super::Usage;
use super::api::{self, Topic, patiently, stream_route};
use super::client::{Client, Failure, Route};
use super::connect::Connect;
use super::deliver::PATIENCE;
use super::history::{Chunk, MAX_RECORDS, Partition};
use super::position::{Position, at};
use super::signal::{Interrupt, Stop};
use super::stdout::Stdout;
use super::stream::{MOST_PARTITIONS, Records, Stream};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "--format takes %t topic, %p partition, %o offset, %d time, %k key, %v value, %h headers \
(name=value,...), %% a percent sign, and \\n \\t \\r \\0 \\\\.

Examples:
  quipu consume orders --last 10 --follow
  quipu consume orders payments --from -10m --format '%t %p@%o %k %v\\n'
  quipu consume orders --group billing --raw"
)]
pub(crate) struct Args {
    /// Topics to read
    #[arg(value_name = "TOPIC", required = true, value_parser = NonEmptyStringValueParser::new())]
    topics: Vec<String>,
    /// Start where this group stopped, and commit what was printed
    #[arg(long, value_name = "GROUP", value_parser = NonEmptyStringValueParser::new())]
    group: Option<String>,
    /// Start at `earliest`, `latest`, offset:N or a time: 2013-07-01T12:00, a date, -10m (so long ago); with --group
    /// only where it has committed nothing [default: earliest]
    #[arg(long, value_name = "WHERE", value_parser = Position::parse_from, allow_hyphen_values = true)]
    from: Option<Position>,
    /// End before offset:N or a time, or at `latest`, the end as it is now [default: latest without --follow]
    #[arg(long, value_name = "WHERE", value_parser = Position::parse_until, allow_hyphen_values = true)]
    until: Option<Position>,
    /// Print only the newest N records of all partitions together, at most 100000; with --follow go on from there
    #[arg(long, value_name = "N", conflicts_with_all = ["group", "from"], value_parser = clap::value_parser!(u64).range(1..=100_000))]
    last: Option<u64>,
    /// Print only records with this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Print only records with this header; in a VALUE of words between dots, * stands for one word and # for any number.
    /// If repeated, records must match one VALUE of each NAME
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_header)]
    header: Vec<(String, Pattern)>,
    /// Read only this partition; may be repeated
    #[arg(long, value_name = "P")]
    partition: Vec<u32>,
    /// Print new records as they arrive; reconnects if the server restarts
    #[arg(long, short)]
    follow: bool,
    /// Stop after this many records
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// Print records by a template, as '%k %v\n', instead of as NDJSON
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "raw")]
    format: Option<Format>,
    /// Print values alone, their bytes as they are, each with a line break
    #[arg(long)]
    raw: bool,
}

fn parse_header(text: &str) -> Result<(String, Pattern), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            let pattern = value.parse().map_err(|error: PatternError| error.to_string())?;
            Ok((name.to_owned(), pattern))
        }
        _ => Err("a header is written NAME=VALUE".to_owned()),
    }
}

/// What the reading threads send.
enum Event {
    Chunk(Chunk),
    Records(Records),
    Failed(Failure),
}

/// A topic and those of its partitions that are read.
type Chosen<'a> = (&'a Topic, Vec<&'a api::Partition>);

pub(crate) fn run(args: Args, connect: &Connect) -> anyhow::Result<()> {
    if args.topics.len() > 1 && !args.partition.is_empty() {
        return Err(Usage::of("--partition is for one topic, and there are several"));
    }
    if args.last.is_some() && matches!(args.until, Some(Position::Offset(_))) {
        return Err(Usage::of("--last ends at a time or at the end, not at an offset"));
    }
    let client = connect.client()?;
    let interrupt = Interrupt::watch()?;
    let mut topics = Vec::new();
    for (index, name) in args.topics.iter().enumerate() {
        if !args.topics[..index].contains(name) {
            topics.push(Topic::describe_patiently(&client, name, &interrupt)?);
        }
    }
    let mut chosen: Vec<Chosen<'_>> = Vec::new();
    for topic in &topics {
        chosen.push((topic, topic.choose(&args.partition)?));
    }
    let partitions: usize = chosen.iter().map(|(_, partitions)| partitions.len()).sum();
    let commits = match &args.group {
        Some(group) => Some(Commits::begin(&client, group, args.follow, &interrupt)?),
        None => None,
    };
    let mut printer = Printer {
        args: &args,
        names_topics: topics.len() > 1,
        format: if args.raw {
            Some(Format::raw())
        } else {
            args.format.clone()
        },
        out: Stdout::new(&interrupt)?,
        printed: 0,
        commits,
    };
    if printer.is_full() {
        return Ok(());
    }
    if args.last.is_some() || (args.is_stream() && partitions <= MOST_PARTITIONS) {
        let events = stream(&client, &args, &chosen, &interrupt)?;
        return print(&events, &interrupt, &mut printer);
    }
    let (partitions, until) = to_fetch(&client, &args, &chosen, printer.commits.as_mut(), &interrupt)?;
    if partitions.is_empty() {
        return Ok(());
    }
    let most = args.max.filter(|_| args.key.is_none() && args.header.is_empty());
    let records = most.unwrap_or(MAX_RECORDS).min(MAX_RECORDS);
    let events = fetch::spawn(partitions, records, args.follow, until, &interrupt)?;
    let result = print(&events, &interrupt, &mut printer);
    // Commit the printed records however the reading ended: by an error, a closed pipe or Ctrl-C.
    let commit = printer.commits.as_mut().map_or(Ok(()), Commits::commit);
    match result {
        Err(error) if !super::is_closed_pipe(&error) => Err(error),
        result => commit.and(result),
    }
}

impl Args {
    /// Whether to read one stream: with `--follow`, a filter or several topics, if there is no group and no offset.
    fn is_stream(&self) -> bool {
        let is_offset = |position: &Option<Position>| matches!(position, Some(Position::Offset(_)));
        let is_chosen = self.key.is_some() || !self.header.is_empty() || self.topics.len() > 1;
        (self.follow || is_chosen)
            && self.group.is_none()
            && !is_offset(&self.from)
            && !is_offset(&self.until)
    }
}

/// Begins to read one stream of all topics.
fn stream(
    client: &Client,
    args: &Args,
    chosen: &[Chosen<'_>],
    interrupt: &Interrupt,
) -> anyhow::Result<Receiver<Event>> {
    let mut route = match chosen {
        [(topic, _)] => stream_route(&topic.name, &args.partition, args.key.as_deref()),
        topics => {
            let names: Vec<&str> = topics.iter().map(|(topic, _)| &*topic.name).collect();
            let route = Route::new(&["v1", "records"]).with("topics", names.join(","));
            match &args.key {
                Some(key) => route.with("key", key),
                None => route,
            }
        }
    };
    for (name, value) in &args.header {
        route = route.with(&format!("header.{name}"), value);
    }
    match args.from {
        Some(Position::Latest) => route = route.with("from", "latest"),
        Some(Position::Time(time)) => route = route.with("from", time.0),
        _ => {}
    }
    if let Some(last) = args.last {
        // The newest of all partitions together, in the order of time.
        route = route.with("last", last).with("order", "timestamp");
    }
    if let Some(Position::Time(time)) = args.until {
        route = route.with("until", time.0);
    }
    let follow = args.follow && args.until != Some(Position::Latest);
    let patience = (!follow).then_some(PATIENCE);
    let stream = Stream::new(client, chosen, route, follow, patience, interrupt);
    Ok(stream.spawn(|read| read.map_or_else(Event::Failed, Event::Records))?)
}

/// The partitions to fetch, with start and end offsets; and the time before which a live tail ends, if it has one.
/// Commits the start of each partition where the group has no offset yet.
fn to_fetch(
    client: &Client,
    args: &Args,
    chosen: &[Chosen<'_>],
    mut commits: Option<&mut Commits<'_>>,
    interrupt: &Interrupt,
) -> anyhow::Result<(Vec<Partition>, Option<i64>)> {
    let mut partitions = Vec::new();
    let mut tail_until = None;
    let from = args.from.unwrap_or(Position::Earliest);
    let all = chosen.iter();
    for (topic, chosen) in all.flat_map(|(topic, all)| all.iter().map(|p| (&*topic.name, *p))) {
        let number = chosen.partition;
        let place = (topic.to_owned(), number);
        let committed = commits.as_ref().and_then(|commits| commits.committed(&place));
        let start = match committed {
            Some(offset) => offset.max(chosen.log_start_offset),
            None => from.resolve(client, topic, chosen)?,
        };
        if let (Some(commits), None) = (&mut commits, committed) {
            commits.printed(place, start);
        }
        let until = match args.until {
            // A live tail that ends at a future time: the end is known when a record of that time arrives.
            Some(Position::Time(time)) if args.follow && is_to_come(time) => {
                let end = patiently(interrupt, true, || at(client, topic, number, time))?;
                tail_until = Some(time.0);
                end.timestamp.is_some().then_some(end.offset)
            }
            // Unlike a start, an end may lie beyond what is there.
            Some(Position::Offset(offset)) => Some(offset),
            Some(until) => Some(until.resolve(client, topic, chosen)?),
            None if args.follow => None,
            None => Some(chosen.end_offset),
        };
        if until.is_none_or(|until| start < until) {
            let mut partition = Partition::new(client, topic, number, start, until);
            partition.live = args.follow;
            partitions.push(partition);
        }
    }
    // Before the first record is printed: all that is not printed then counts as lag, and if this command is killed, the
    // next one skips nothing that came after its start.
    commits.map_or(Ok(()), Commits::commit)?;
    Ok((partitions, tail_until))
}

fn is_to_come(time: TimestampMs) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.is_ok_and(|now| i128::from(time.0) > now.as_millis().cast_signed())
}

/// Prints records until there are no more, enough are printed, or the user says stop.
fn print(events: &Receiver<Event>, interrupt: &Interrupt, printer: &mut Printer<'_>) -> anyhow::Result<()> {
    loop {
        match interrupt.get() {
            // As if the last write had failed: the end is quiet.
            Some(Stop::Unread) => return Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
            Some(Stop::Asked) => return Ok(()),
            None => {}
        }
        match events.recv_timeout(Duration::from_millis(100)) {
            Ok(Event::Chunk(chunk)) => {
                let of = Some((chunk.topic, chunk.partition, chunk.next));
                printer.print(chunk.lines, of)?;
            }
            Ok(Event::Records(records)) => printer.print(records.lines, None)?,
            Ok(Event::Failed(_)) if interrupt.get().is_some() => {}
            Ok(Event::Failed(failure)) => return Err(failure.into()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        if printer.is_full() {
            return Ok(());
        }
        if let Some(commits) = &mut printer.commits {
            commits.commit_if_due()?;
        }
    }
}

/// Standard output, and how far it has taken each partition.
struct Printer<'a> {
    args: &'a Args,
    /// Whether a record names its topic.
    names_topics: bool,
    format: Option<Format>,
    out: Stdout,
    printed: u64,
    commits: Option<Commits<'a>>,
}

impl Printer<'_> {
    fn is_full(&self) -> bool {
        self.args.max.is_some_and(|max| self.printed >= max)
    }

    /// Prints the records that match. `of` is their topic, partition and next offset if they were fetched, `None` for a
    /// stream. The partition counts as read up to there only when the records are written.
    fn print(&mut self, lines: Vec<u8>, of: Option<(String, u32, u64)>) -> anyhow::Result<()> {
        let mut next = of.as_ref().map(|(_, _, next)| *next);
        // In a stream the server has filtered the records already, and they name their topics.
        let key = self.args.key.as_deref().filter(|_| of.is_some());
        let headers = if of.is_some() { &*self.args.header } else { &[] };
        let names_topics = self.names_topics && of.is_some() && self.format.is_none();
        let is_chosen = key.is_some() || !headers.is_empty();
        let bytes = if !is_chosen && self.args.max.is_none() && self.format.is_none() && !names_topics {
            lines
        } else {
            let topic = of.as_ref().map_or(&*self.args.topics[0], |(topic, _, _)| topic);
            let member = format!("{{\"topic\":{},", serde_json::Value::from(topic));
            let mut bytes = Vec::with_capacity(lines.len());
            for line in lines.split_inclusive(|byte| *byte == b'\n') {
                let record = Record::parse(line)?;
                if is_chosen && !record.matches(key, headers) {
                    continue;
                }
                match &self.format {
                    Some(format) => format.append(&record, topic, &mut bytes),
                    None if names_topics => {
                        bytes.extend_from_slice(member.as_bytes());
                        bytes.extend_from_slice(&line[1..]);
                    }
                    None => bytes.extend_from_slice(line),
                }
                self.printed += 1;
                if self.is_full() {
                    next = Some(record.offset + 1);
                    break;
                }
            }
            bytes
        };
        if self.out.write(bytes)?
            && let (Some(commits), Some((topic, partition, _)), Some(next)) = (&mut self.commits, of, next)
        {
            commits.printed((topic, partition), next);
        }
        Ok(())
    }
}
