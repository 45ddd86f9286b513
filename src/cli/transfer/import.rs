//! Makes on a server what a file of `quipu export` has.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, bail};
use flate2::read::MultiGzDecoder;
use http::Method;
use indicatif::ProgressBar;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::VERSION;
use super::export::spinner;
use super::groups::{Group, Offset};
use super::letters::{self, Moved};
use super::runs::Runs;
use crate::cli::api::{Committed, Topic, append_route, group_route, partition_route, patiently, topic_route};
use crate::cli::client::{Client, Failure};
use crate::cli::connect::Connect;
use crate::cli::deliver::PATIENCE;
use crate::cli::output::{self, counted, note, records, say_once};
use crate::cli::signal::{Interrupt, spawn};

/// Records of one partition are sent together up to so many bytes.
const REQUEST_BYTES: usize = 4 << 20;
/// The longest line: more than any record.
const LINE_BYTES: u64 = 1 << 30;
/// The file is read ahead in chunks of so many bytes, at most as many as follow.
const CHUNK_BYTES: usize = 256 << 10;
const CHUNKS: usize = 4;
/// How often a wait for the file looks for an interrupt.
const LOOK: Duration = Duration::from_millis(100);
const INTERRUPTED: &str = "interrupted; run the same command again to go on";
/// With it, records would get the time of the import. It is set when they are stored.
const LATER: &str = "timestamp_type";

const EXAMPLES: &str = "An import that was cut short goes on when it is run again with the same file. Nobody else may write to the topics meanwhile.

Examples:
  quipu import all.ndjson
  zcat all.ndjson.gz | quipu import --server http://other:7420";

/// What to import.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A file of quipu export (.gz too); `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
}

/// A line of the file; which members it has says what it is.
#[derive(Debug, Deserialize)]
struct Line {
    export: Option<u64>,
    make_topic: Option<String>,
    partitions: Option<u32>,
    #[serde(default)]
    config: Map<String, Value>,
    topic: Option<String>,
    partition: Option<u32>,
    offset: Option<u64>,
    group: Option<String>,
    end: Option<bool>,
    records: Option<u64>,
}

/// Runs the command. Errors: what is wrong with the file or the server; running it again goes on there.
pub(crate) fn run(args: &Args, connect: &Connect, is_json: bool) -> anyhow::Result<()> {
    let client = connect.client()?;
    let interrupt = Interrupt::watch()?;
    let mut import = Import {
        client: &client,
        interrupt: &interrupt,
        bar: spinner(),
        places: BTreeMap::new(),
        letters: BTreeMap::new(),
        config_later: Vec::new(),
        topics: 0,
        groups: 0,
        passed_over: 0,
        stored: 0,
        batch: Batch::default(),
    };
    let name = match is_stdin(&args.file) {
        true => "standard input".to_owned(),
        false => args.file.display().to_string(),
    };
    let result = read(&args.file, &interrupt, |line| import.line(line));
    let is_whole = result.map_err(|error| error.context(name.clone()))?;
    import.bar.finish_and_clear();
    if !is_whole {
        bail!(
            "{name} is not whole: its last line is missing. What it has is imported; export again, and import that"
        );
    }
    let Import {
        topics,
        groups,
        passed_over,
        stored,
        ..
    } = import;
    let answer = json!({"topics": topics, "groups": groups, "records": stored, "already_there": passed_over});
    let there = match passed_over {
        0 => String::new(),
        many => format!(" ({} were there already)", records(many)),
    };
    let (topics, groups) = (counted(topics, "topic"), counted(groups, "group"));
    output::done(
        &answer,
        &format!("{} imported{there}, {topics}, {groups}", records(stored)),
        is_json,
    )
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// The bytes of the file, which a thread of its own reads: a pipe may be idle for hours, and must not hold up an interrupt.
struct Source {
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: Cursor<Vec<u8>>,
    interrupt: Interrupt,
}

impl Source {
    /// Begins to read. Errors: those of the thread; that there is no such file is an error of the first read.
    fn read(path: &Path, interrupt: &Interrupt) -> io::Result<Self> {
        let (sender, chunks) = sync_channel(CHUNKS);
        let path = path.to_owned();
        spawn("input", move || {
            if let Err(error) = hand_over(&path, &sender) {
                // A send fails if nobody receives any more; then nobody needs the error.
                let _ = sender.send(Err(error));
            }
        })?;
        Ok(Self {
            chunks,
            chunk: Cursor::default(),
            interrupt: interrupt.clone(),
        })
    }
}

/// Sends what can be read as it comes, until the end or until nobody receives it.
fn hand_over(path: &Path, sender: &SyncSender<io::Result<Vec<u8>>>) -> io::Result<()> {
    // Opening a named pipe waits for its writer.
    let mut source: Box<dyn Read> = match is_stdin(path) {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path)?),
    };
    loop {
        let mut bytes = vec![0; CHUNK_BYTES];
        match source.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(length) => bytes.truncate(length),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if sender.send(Ok(bytes)).is_err() {
            return Ok(());
        }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.chunk.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            if self.interrupt.get().is_some() {
                return Err(io::Error::other(INTERRUPTED));
            }
            match self.chunks.recv_timeout(LOOK) {
                Ok(chunk) => self.chunk = Cursor::new(chunk?),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            }
        }
    }
}

/// Calls `take` with each line, until it returns true: that was the last one. Returns whether there was a last one.
fn read(
    path: &Path,
    interrupt: &Interrupt,
    mut take: impl FnMut(&[u8]) -> anyhow::Result<bool>,
) -> anyhow::Result<bool> {
    let source = Source::read(path, interrupt)?;
    let is_gzip = path.extension().is_some_and(|extension| extension == "gz");
    let source: Box<dyn Read> = if is_gzip {
        Box::new(MultiGzDecoder::new(source))
    } else {
        Box::new(source)
    };
    let mut source = BufReader::with_capacity(1 << 20, source);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let length = source.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line)?;
        if length == 0 {
            break;
        }
        if line.last() != Some(&b'\n') {
            // Cut off, or longer than any line.
            return Ok(false);
        }
        if !line.trim_ascii().is_empty() && take(&line).with_context(|| format!("line {number}"))? {
            return Ok(true);
        }
    }
    Ok(false)
}

type PlaceName = (String, u32);

/// A partition of the file.
#[derive(Debug, Default)]
struct Place {
    /// The records of the file so far.
    runs: Runs,
    /// The target's end offset when the import began: so many records are there already.
    there: u64,
    log_start: u64,
}

/// Records of one partition that wait to be sent.
#[derive(Debug, Default)]
struct Batch {
    place: PlaceName,
    /// The offset that the first one gets.
    first: u64,
    lines: Vec<u8>,
    /// Where each line ends.
    ends: Vec<usize>,
}

struct Import<'a> {
    client: &'a Client,
    interrupt: &'a Interrupt,
    bar: ProgressBar,
    places: BTreeMap<PlaceName, Place>,
    /// Dead letters of the file that are to be found by their groups, by offset.
    letters: BTreeMap<PlaceName, BTreeMap<u64, Moved>>,
    /// Settings that are made when all records are stored.
    config_later: Vec<(String, Value)>,
    topics: u64,
    groups: u64,
    passed_over: u64,
    stored: u64,
    batch: Batch,
}

impl Import<'_> {
    /// Takes a line; true if it was the last one.
    fn line(&mut self, text: &[u8]) -> anyhow::Result<bool> {
        if self.interrupt.get().is_some() {
            bail!(INTERRUPTED);
        }
        let line: Line = serde_json::from_slice(text).context("it is not of an export")?;
        match line {
            Line {
                export: Some(version),
                ..
            } if version != VERSION => {
                bail!("the file is of version {version} of the format, this program knows {VERSION}")
            }
            Line { export: Some(_), .. } => {}
            Line {
                make_topic: Some(name),
                partitions: Some(partitions),
                config,
                ..
            } => {
                self.flush()?;
                self.make_topic(&name, partitions, config)?;
            }
            Line {
                topic: Some(topic),
                partition: Some(partition),
                offset: Some(offset),
                ..
            } => {
                self.record((topic, partition), offset, text)?;
            }
            Line { group: Some(_), .. } => {
                self.flush()?;
                let group: Group = serde_json::from_slice(text).context("it is not of an export")?;
                self.group(&group)?;
            }
            Line {
                end: Some(true),
                records: Some(records),
                ..
            } => {
                self.flush()?;
                let found: u64 = self.places.values().map(|place| place.runs.count()).sum();
                if found != records {
                    bail!("the file has {found} records and says that it has {records}");
                }
                self.finish()?;
                return Ok(true);
            }
            _ => bail!("it is not of an export"),
        }
        Ok(false)
    }

    fn make_topic(
        &mut self,
        name: &str,
        partitions: u32,
        mut config: Map<String, Value>,
    ) -> anyhow::Result<()> {
        if let Some(value) = config.remove(LATER) {
            self.config_later.push((name.to_owned(), value));
        }
        let body = json!({"partitions": partitions, "config": config});
        let made = patiently(self.interrupt, false, || {
            self.client.send(&Method::PUT, &topic_route(name), Some(&body))
        });
        if let Err(failure) = made {
            match failure.code() {
                Some("topic-exists") => {
                    let topic = self.describe(name)?;
                    if topic.partition_count != partitions {
                        let found = topic.partition_count;
                        bail!("topic {name} is there with {found} partitions, and the file has {partitions}");
                    }
                    note(format_args!(
                        "topic {name} is there with other settings, which stay as they are"
                    ));
                }
                _ => return Err(failure.into()),
            }
        }
        for partition in self.describe(name)?.partitions {
            let place = Place {
                there: partition.end_offset,
                log_start: partition.log_start_offset,
                ..Place::default()
            };
            self.places.insert((name.to_owned(), partition.partition), place);
        }
        self.topics += 1;
        Ok(())
    }

    fn describe(&self, name: &str) -> Result<Topic, Failure> {
        Topic::describe_patiently(self.client, name, self.interrupt)
    }

    fn record(&mut self, name: PlaceName, offset: u64, text: &[u8]) -> anyhow::Result<()> {
        if self.batch.place != name {
            self.flush()?;
        }
        let Some(place) = self.places.get_mut(&name) else {
            bail!("a record of {} before its topic", name.0);
        };
        let number = place.runs.count();
        if !place.runs.push(offset) {
            bail!("records of {}/{} are not in order", name.0, name.1);
        }
        let (there, log_start) = (place.there, place.log_start);
        if number < there {
            self.passed_over += 1;
            // The last one that is there shows whether all of them are of this file.
            if number + 1 == there && number >= log_start && !self.is_stored(&name, number, text)? {
                bail!(foreign(&name));
            }
            return Ok(());
        }
        let moved = self.letters.get(&name).and_then(|letters| letters.get(&offset));
        let text = match moved {
            Some(moved) => Cow::Owned(letters::moved(text, *moved)?),
            None => Cow::Borrowed(text),
        };
        if self.batch.ends.is_empty() {
            self.batch.place = name;
            self.batch.first = number;
        }
        self.batch.lines.extend_from_slice(&text);
        self.batch.ends.push(self.batch.lines.len());
        match self.batch.lines.len() >= REQUEST_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Whether the target has this record at an offset.
    fn is_stored(&self, (topic, partition): &PlaceName, offset: u64, text: &[u8]) -> anyhow::Result<bool> {
        let route = partition_route(topic, *partition, &["records"]);
        let route = route.with("offset", offset).with("max_records", 1);
        let found = patiently(self.interrupt, true, || {
            self.client.read(&route, "application/x-ndjson", Duration::ZERO)
        })?;
        let content = |text: &[u8]| -> anyhow::Result<Map<String, Value>> {
            let mut record: Map<String, Value> = serde_json::from_slice(text)?;
            record.retain(|name, value| {
                !matches!(&**name, "topic" | "partition" | "offset") && !value.is_null()
            });
            letters::forget(&mut record);
            Ok(record)
        };
        Ok(!found.body.is_empty() && content(&found.body)? == content(text)?)
    }

    /// Stores what waits, once, however often it has to be sent.
    fn flush(&mut self) -> anyhow::Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        let (mut waited, mut delay) = (Duration::ZERO, Duration::from_millis(100));
        let (mut is_in_doubt, mut is_said) = (false, false);
        while !batch.ends.is_empty() {
            let route = append_route(&batch.place.0)
                .with("expected_offset", batch.first)
                .with("ack", "durable");
            let failure = match self.client.post(&route, &[], &batch.lines) {
                Ok(_) => {
                    self.stored += batch.ends.len() as u64;
                    break;
                }
                Err(failure) => failure,
            };
            let is_outdated = failure.code() == Some("offset-mismatch");
            if is_outdated && !is_in_doubt {
                bail!(foreign(&batch.place));
            }
            if !(is_outdated || failure.passes()) || waited > PATIENCE {
                return Err(anyhow::Error::from(failure).context("run the same command again to go on"));
            }
            is_in_doubt |= !failure.stored_nothing();
            say_once(&mut is_said, format_args!("{failure}; trying again"));
            let wait = failure.retry_after().unwrap_or(delay);
            if self.interrupt.wait(wait).is_some() {
                bail!(INTERRUPTED);
            }
            waited += wait;
            delay = (delay * 2).min(Duration::from_secs(2));
            if self.pass_stored(&mut batch)? {
                waited = Duration::ZERO;
            }
        }
        self.bar.set_message(format!("{} stored", records(self.stored)));
        self.bar.tick();
        Ok(())
    }

    /// Takes out of a batch what the target has of it; whether that is anything.
    fn pass_stored(&mut self, batch: &mut Batch) -> anyhow::Result<bool> {
        let (topic, partition) = &batch.place;
        let found = self.describe(topic)?;
        let end = found.partitions.iter().find(|row| row.partition == *partition);
        let end = end.map_or(0, |row| row.end_offset);
        let Some(count) = end
            .checked_sub(batch.first)
            .and_then(|count| usize::try_from(count).ok())
        else {
            bail!(foreign(&batch.place));
        };
        let Some(last) = count.checked_sub(1) else {
            return Ok(false);
        };
        let Some(&stop) = batch.ends.get(last) else {
            bail!(foreign(&batch.place));
        };
        let start = last.checked_sub(1).map_or(0, |before| batch.ends[before]);
        if !self.is_stored(&batch.place, end - 1, &batch.lines[start..stop])? {
            bail!(foreign(&batch.place));
        }
        batch.lines.drain(..stop);
        batch.ends.drain(..count);
        batch.ends.iter_mut().for_each(|end| *end -= stop);
        batch.first = end;
        self.stored += count as u64;
        Ok(true)
    }

    /// Makes a group, finds its dead letters, and commits its offsets.
    fn group(&mut self, group: &Group) -> anyhow::Result<()> {
        let made = group.make(self.client, self.interrupt)?;
        self.expect_letters(group, made);
        self.commit(&group.group, &group.offsets)?;
        self.groups += 1;
        Ok(())
    }

    /// Notes what becomes of a group's dead letters. `now`: the server's time, after the group was made.
    fn expect_letters(&mut self, group: &Group, now: Option<i64>) {
        let mut left = 0;
        for letter in &group.dead_letters {
            let origin = &letter.origin;
            let committed = group.committed(&origin.topic, origin.partition);
            if committed.is_none_or(|committed| origin.offset >= committed) {
                // The record itself is given out again.
                continue;
            }
            let from = self.places.get(&(origin.topic.clone(), origin.partition));
            let offset = from.and_then(|place| place.runs.number_of(origin.offset));
            let name = (letter.topic.clone(), letter.partition);
            let is_past = self
                .places
                .get(&name)
                .is_some_and(|place| place.runs.is_past(letter.offset));
            match offset.zip(now) {
                Some((offset, died_at)) if !is_past => {
                    let letters = self.letters.entry(name).or_default();
                    letters.insert(letter.offset, Moved { offset, died_at });
                }
                _ => left += 1,
            }
        }
        if left > 0 {
            let letters = counted(left, "dead letter");
            note(format_args!(
                "{letters} of the group {} cannot be redriven here, because their first records are not in the file; they are in their topic, for everybody to read",
                group.group
            ));
        }
    }

    /// Commits a group's offsets where it has none yet: it may have gone on since an earlier import.
    fn commit(&self, group: &str, offsets: &[Offset]) -> anyhow::Result<()> {
        let there = Committed::of(self.client, group)?.offsets;
        let is_there = |row: &&Offset| {
            there
                .iter()
                .any(|known| (&*known.topic, known.partition) == (&*row.topic, row.partition))
        };
        let kept = offsets.iter().filter(is_there).count() as u64;
        let rows = offsets.iter().filter(|row| !is_there(row)).map(|row| {
            let place = self.places.get(&(row.topic.clone(), row.partition));
            let place = place.with_context(|| format!("the file has no topic {}", row.topic))?;
            let mut new = json!({"topic": row.topic, "partition": row.partition, "offset": place.runs.below(row.offset)});
            if let Some(metadata) = &row.metadata {
                new["metadata"] = metadata.clone().into();
            }
            Ok(new)
        });
        let rows: Vec<Value> = rows.collect::<anyhow::Result<_>>()?;
        if kept > 0 {
            let offsets = counted(kept, "offset");
            note(format_args!(
                "group {group} has {offsets} already, which stay as they are"
            ));
        }
        if !rows.is_empty() {
            let body = json!({"offsets": rows});
            self.client
                .send(&Method::PUT, &group_route(group, &["offsets"]), Some(&body))?;
        }
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        for (name, place) in &self.places {
            if place.there > place.runs.count() {
                bail!(foreign(name));
            }
        }
        for (name, value) in &self.config_later {
            let mut config = Map::new();
            config.insert(LATER.to_owned(), value.clone());
            let body = json!({"config": config});
            self.client
                .send(&Method::PATCH, &topic_route(name), Some(&body))?;
        }
        Ok(())
    }
}

fn foreign((topic, partition): &PlaceName) -> String {
    format!(
        "partition {partition} of topic {topic} has records that are not of this file: import to a server that does not have the topic, and let nobody else write to it meanwhile"
    )
}
