//! `quipu produce`: sends NDJSON records from a file or standard input, each once.
//!
//! Requests end at line ends and are answered one after the other, so at any time a prefix of the input is stored. Each
//! has an idempotency key and is sent again if its answer is lost. The progress of a file's load is saved ([`load`]),
//! so that the same command continues it, even after it was killed. If that could store a record twice, the command
//! stops and names the lines in doubt.

mod cut;
mod load;
mod memory;
mod sender;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::builder::NonEmptyStringValueParser;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::cut::Cutter;
use self::load::{Done, State};
use self::memory::Memory;
use self::sender::Sender;
use super::Usage;
use super::api::{Topic, append_route};
use super::connect::Connect;
use super::deliver::{Delivery, random_key};
use super::input::Input;
use super::output::{self, bytes, rate, records, took};
use super::shape::{Pointer, Shape};
use super::signal::Interrupt;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quipu produce orders orders.ndjson.gz
  tail -f app.log | quipu produce logs --raw")]
pub(crate) struct Args {
    /// Topic to append to
    #[arg(value_name = "TOPIC", value_parser = NonEmptyStringValueParser::new())]
    topic: String,
    /// NDJSON records, one a line (.gz and .zst too); standard input if left out or `-`
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Take each line as a record's value
    #[arg(long)]
    raw: bool,
    /// Take the key from the line, as /value/aircraft (a JSON pointer; into the value itself with --raw)
    #[arg(long, value_name = "POINTER")]
    key_field: Option<Pointer>,
    /// When records count as stored: `durable` on stable storage, `written` as soon as the operating system has them
    #[arg(long, value_name = "ACK", value_parser = ["durable", "written"])]
    ack: Option<String>,
    /// Name the load yourself: its requests get the keys KEY-1, KEY-2, …, and the same input sent again under the same
    /// KEY within the topic's dedupe_window_ms stores nothing twice. No progress is saved then, and standard input is
    /// sent in full requests only, not as it arrives
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    idempotency_key: Option<String>,
    /// Forget the progress of an earlier load of FILE into TOPIC, and begin with the first line
    #[arg(long, requires = "file", conflicts_with = "idempotency_key")]
    restart: bool,
}

/// The answer to an NDJSON request.
#[derive(Debug, Deserialize)]
pub(crate) struct Produced {
    pub(crate) records: u64,
    #[serde(default)]
    pub(crate) partitions: Vec<Range>,
}

/// The records of one partition.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Range {
    partition: u32,
    first_offset: u64,
    last_offset: u64,
    records: u64,
}

/// A key leaves room for the number of the request, and has at most 255 visible ASCII characters with it.
fn parse_key(text: &str) -> Result<String, String> {
    match text {
        "" => Err("a key is not empty".to_owned()),
        text if text.len() > 200 => Err("a key is at most 200 characters long".to_owned()),
        text if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err("a key is visible ASCII characters, without blanks".to_owned())
        }
        text => Ok(text.to_owned()),
    }
}

pub(crate) fn run(args: Args, connect: &Connect, is_json: bool) -> anyhow::Result<()> {
    let client = connect.client()?;
    let interrupt = Interrupt::watch()?;
    let file = args.file.as_deref().filter(|path| *path != Path::new("-"));
    if args.restart && file.is_none() {
        let wrong = "--restart is for files: standard input always starts again";
        return Err(Usage::of(wrong));
    }
    let topic = Topic::describe_patiently(&client, &args.topic, &interrupt)?;
    let shape = Shape {
        raw: args.raw,
        key_field: args.key_field.clone(),
    };
    let name = file.unwrap_or(Path::new("standard input")).display();
    let input = Input::open(file, shape, &interrupt).with_context(|| format!("cannot open {name}"))?;
    let is_file = input.file_bytes.is_some();
    let memory = match (file, &args.idempotency_key) {
        (Some(file), None) if is_file => Memory::open(&args, &client, &topic, file)?,
        _ => None,
    };
    let mut route = append_route(&args.topic);
    if let Some(ack) = &args.ack {
        route = route.with("ack", ack);
    }
    let key = match (&args.idempotency_key, &memory) {
        (Some(key), _) => key.clone(),
        (None, Some(memory)) => memory.state.key.clone(),
        (None, None) => random_key(),
    };
    let mut delivery = Delivery::new(&client, route, key, topic.dedupe_window(), &interrupt);
    // The server has answered: it described the topic.
    delivery.answered = true;
    let state = memory.as_ref().map(|memory| &memory.state);
    let before = state.map_or(Done::default(), |state| state.done);
    let bar = progress(input.file_bytes);
    let mut sender = Sender {
        delivery,
        cutter: Cutter::new(!is_file && args.idempotency_key.is_none()),
        topic: &args.topic,
        name: input.name.clone(),
        is_named: args.idempotency_key.is_some(),
        done: before,
        doubt: state.and_then(State::doubt),
        memory,
        stored: Stored::default(),
    };
    let started = Instant::now();
    let result = sender.run(&input, &bar);
    bar.finish_and_clear();
    result?;
    report(&sender, before, started.elapsed(), is_json)
}

/// The records of each partition that this run stored.
#[derive(Debug, Default)]
struct Stored(BTreeMap<u32, Range>);

impl Stored {
    fn add(&mut self, produced: &Produced) {
        for range in &produced.partitions {
            let new = Range { records: 0, ..*range };
            let sum = self.0.entry(range.partition).or_insert(new);
            sum.last_offset = range.last_offset;
            sum.records += range.records;
        }
    }
}

/// Says what this run stored, after what earlier ones had.
fn report(sender: &Sender<'_>, before: Done, elapsed: Duration, is_json: bool) -> anyhow::Result<()> {
    let (topic, done) = (sender.topic, sender.done);
    let (stored, sent) = (done.records - before.records, done.bytes - before.bytes);
    if is_json {
        let mut report = json!({
            "topic": topic,
            "records": stored,
            "lines": done.lines - before.lines,
            "bytes": sent,
            "requests": done.requests - before.requests,
            "seconds": elapsed.as_secs_f64(),
            "partitions": sender.stored.0.values().collect::<Vec<_>>(),
        });
        if before.lines > 0 {
            report["before"] = json!({"records": before.records, "lines": before.lines});
        }
        return Ok(output::json(&report)?);
    }
    let before = match before.records {
        0 => String::new(),
        stored => format!(", after {} of earlier runs", records(stored)),
    };
    let bytes_rate = bytes((sent as f64 / elapsed.as_secs_f64().max(1e-9)) as u64);
    let (rate, sent) = (rate(stored, elapsed), bytes(sent));
    let (stored, took) = (records(stored), took(elapsed));
    let text =
        format!("{stored} ({sent}) in topic {topic} in {took}: {rate} records/s, {bytes_rate}/s{before}");
    Ok(output::line(text)?)
}

fn progress(file_bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match file_bytes {
        Some(size) => {
            let template = "{bar:32} {decimal_bytes} of {decimal_total_bytes} of the file, {msg}, {eta} left";
            (ProgressBar::new(size), template)
        }
        None => {
            let template = "{spinner} {decimal_bytes} sent, {msg}";
            (ProgressBar::new_spinner(), template)
        }
    };
    // An invalid template would be a mistake above; fall back to the plain bar.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message("0 records");
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_visible_characters_with_room_for_a_number() {
        assert_eq!(parse_key("load-7"), Ok("load-7".to_owned()));
        for wrong in ["", "a b", "a\n", "é", &"x".repeat(201)] {
            assert!(parse_key(wrong).is_err(), "{wrong}");
        }
    }
}
