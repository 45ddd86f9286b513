//! `quipu produce`: sends NDJSON records from a file or standard input.
//!
//! Requests are cut at lines and answered one after the other, so at any time a prefix of the input is stored, and
//! an error names the line where it ends. A request is repeated only when nothing of what is repeated can have been
//! stored: the server never saw it, or counted what it accepted before it ran out of room. An answer that was lost
//! leaves its lines in doubt, and the command stops and says which.

use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::builder::NonEmptyStringValueParser;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::api::Topic;
use super::client::{Client, Connect, Failure, Route};
use super::input::{BadInput, Block, Input, MAX_LINE_BYTES};
use super::output::{self, Output, bytes, rate, records, took};
use super::shape::{Pointer, Shape};
use super::signal::Interrupt;

/// Bytes of a request; a longer line goes alone.
const REQUEST_BYTES: usize = 8 << 20;
const _: () = assert!(REQUEST_BYTES <= MAX_LINE_BYTES);
/// How long a pipe may pause before what it has given is sent.
const LINGER: Duration = Duration::from_millis(20);
/// How long a server that was there may be away, or overloaded.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `quipu produce` is told.
#[derive(Debug, clap::Args)]
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
    /// When records count as stored: on stable storage, or as soon as the operating system has them
    #[arg(long, value_enum, value_name = "ACK")]
    ack: Option<Ack>,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

/// When a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Ack {
    /// When its records are on stable storage
    Durable,
    /// When the operating system has them
    Written,
}

/// The answer to an NDJSON request.
#[derive(Debug, Deserialize)]
pub(crate) struct Produced {
    /// How many records were stored.
    pub(crate) records: u64,
    /// Where.
    #[serde(default)]
    pub(crate) partitions: Vec<Range>,
}

/// What went to one partition.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Range {
    partition: u32,
    first_offset: u64,
    last_offset: u64,
    records: u64,
}

/// Lines that are sent together.
#[derive(Debug, Default)]
struct Request {
    bytes: Vec<u8>,
    first_line: u64,
    lines: u64,
    position: u64,
}

/// What the input gives next.
enum Next {
    Request(Request),
    Bad(BadInput),
    End,
    Interrupted,
}

/// Does it.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let client = args.connect.client()?;
    let mut route = Route::new(&["v1", "topics", &args.topic, "records"]);
    match args.ack {
        Some(Ack::Durable) => route = route.with("ack", "durable"),
        Some(Ack::Written) => route = route.with("ack", "written"),
        None => {}
    }
    let shape = Shape {
        raw: args.raw,
        key_field: args.key_field.clone(),
    };
    let input = Input::open(args.file.as_deref(), shape).with_context(|| {
        format!(
            "cannot open {}",
            args.file
                .as_deref()
                .unwrap_or("standard input".as_ref())
                .display()
        )
    })?;
    let interrupt = Interrupt::watch()?;
    let bar = progress(input.file_bytes);
    let mut sender = Sender {
        client: &client,
        route,
        interrupt: &interrupt,
        name: input.name.clone(),
        held: None,
        line: 1,
        report: Report::default(),
        answered: false,
    };
    let started = Instant::now();
    let result = sender.run(&args.topic, &input, &bar);
    bar.finish_and_clear();
    result?;
    sender.report.print(&args, started.elapsed())
}

/// Sums of what was answered.
#[derive(Debug, Default)]
struct Report {
    records: u64,
    bytes: u64,
    lines: u64,
    requests: u64,
    partitions: std::collections::BTreeMap<u32, Range>,
}

impl Report {
    fn add(&mut self, produced: &Produced) {
        self.records += produced.records;
        for range in &produced.partitions {
            self.partitions
                .entry(range.partition)
                .and_modify(|sum| {
                    sum.last_offset = range.last_offset;
                    sum.records += range.records;
                })
                .or_insert(*range);
        }
    }

    fn print(&self, args: &Args, elapsed: Duration) -> anyhow::Result<()> {
        if args.output.is_json() {
            let partitions: Vec<&Range> = self.partitions.values().collect();
            return Ok(output::json(&json!({
                "topic": args.topic,
                "records": self.records,
                "lines": self.lines,
                "bytes": self.bytes,
                "requests": self.requests,
                "seconds": elapsed.as_secs_f64(),
                "partitions": partitions,
            }))?);
        }
        Ok(output::line(format_args!(
            "{} ({}) in topic {} in {}: {} records/s, {}/s",
            records(self.records),
            bytes(self.bytes),
            args.topic,
            took(elapsed),
            rate(self.records, elapsed),
            bytes((self.bytes as f64 / elapsed.as_secs_f64().max(1e-9)) as u64),
        ))?)
    }
}

struct Sender<'a> {
    client: &'a Client,
    route: Route,
    interrupt: &'a Interrupt,
    /// What the input is called.
    name: String,
    /// What came of the input after the request before was full.
    held: Option<Result<Block, BadInput>>,
    /// The next line to be taken from the input.
    line: u64,
    report: Report,
    /// Whether the server has answered before: it is then worth waiting for.
    answered: bool,
}

impl Sender<'_> {
    fn run(&mut self, topic: &str, input: &Input, bar: &ProgressBar) -> anyhow::Result<()> {
        loop {
            match self.next(input) {
                Next::Request(request) => {
                    let (position, size, lines) =
                        (request.position, request.bytes.len() as u64, request.lines);
                    self.send(request)?;
                    self.report.bytes += size;
                    self.report.lines += lines;
                    if input.file_bytes.is_some() {
                        bar.set_position(position);
                    } else {
                        bar.set_position(self.report.bytes);
                    }
                    bar.set_message(records(self.report.records));
                }
                Next::Bad(BadInput { line, reason }) => {
                    bail!("line {line} of {}: {reason}; {}", self.name, self.stored());
                }
                Next::End => {
                    if !self.answered {
                        // Nothing was sent; a mistyped topic should not look like success.
                        Topic::describe(self.client, topic)?;
                    }
                    return Ok(());
                }
                // A pipe that is idle has no end but this one, and everything it gave is stored.
                Next::Interrupted
                    if input.file_bytes.is_none()
                        && self.held.is_none()
                        && input.blocks.try_recv().is_err() =>
                {
                    return Ok(());
                }
                Next::Interrupted => {
                    bail!(
                        "interrupted before line {} of {}; {}",
                        self.line,
                        self.name,
                        self.stored()
                    );
                }
            }
        }
    }

    fn stored(&self) -> String {
        match self.report.records {
            1 => "1 record was stored".to_owned(),
            records => format!("{records} records were stored"),
        }
    }

    /// Gathers blocks until a request is full, the input ends, or a pipe pauses.
    fn next(&mut self, input: &Input) -> Next {
        let mut request = Request {
            first_line: self.line,
            ..Request::default()
        };
        let is_pipe = input.file_bytes.is_none();
        loop {
            if self.interrupt.get().is_some() && (request.lines == 0 || !is_pipe) {
                self.line = request.first_line;
                return Next::Interrupted;
            }
            let may_pause = is_pipe && request.lines > 0;
            let limit = if may_pause {
                LINGER
            } else {
                Duration::from_millis(100)
            };
            let block = match self.held.take() {
                Some(held) => Ok(held),
                None => input.blocks.recv_timeout(limit),
            };
            match block {
                Ok(Ok(block))
                    if request.lines == 0 || request.bytes.len() + block.bytes.len() <= REQUEST_BYTES =>
                {
                    self.line += block.lines;
                    request.lines += block.lines;
                    request.position = block.position;
                    if request.bytes.is_empty() {
                        request.bytes = block.bytes;
                    } else {
                        request.bytes.extend_from_slice(&block.bytes);
                    }
                }
                Ok(Err(bad)) if request.lines == 0 => return Next::Bad(bad),
                Ok(held) => {
                    self.held = Some(held);
                    return Next::Request(request);
                }
                Err(RecvTimeoutError::Disconnected) if request.lines == 0 => return Next::End,
                Err(RecvTimeoutError::Disconnected) => return Next::Request(request),
                Err(RecvTimeoutError::Timeout) if may_pause => return Next::Request(request),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Sends a request, and what is left of it again as long as that cannot store anything twice.
    fn send(&mut self, mut request: Request) -> anyhow::Result<()> {
        let mut waited = Duration::ZERO;
        let mut delay = Duration::from_millis(100);
        loop {
            let failure =
                match self
                    .client
                    .post::<Produced>(&self.route, "application/x-ndjson", &request.bytes)
                {
                    Ok(produced) => {
                        self.answered = true;
                        self.report.requests += 1;
                        self.report.add(&produced);
                        return Ok(());
                    }
                    Err(failure) => failure,
                };
            let wait = match &failure {
                Failure::NotSent { .. } => Some(delay),
                Failure::Problem(problem) => {
                    self.answered = true;
                    let accepted = problem.number("accepted").unwrap_or(0);
                    self.report.records += accepted;
                    if problem.passes() && problem.counts_what_is_stored() {
                        if accepted > 0 {
                            request.skip(accepted);
                            waited = Duration::ZERO;
                        }
                        Some(problem.retry_after.unwrap_or(delay))
                    } else {
                        None
                    }
                }
                Failure::Lost { .. } | Failure::Unexpected { .. } => None,
            };
            let patience = if self.answered {
                PATIENCE
            } else {
                Duration::from_secs(1)
            };
            match wait {
                Some(wait) if waited + wait <= patience && self.interrupt.wait(wait).is_none() => {
                    waited += wait;
                    delay = (delay * 2).min(Duration::from_secs(2));
                }
                _ => return Err(self.explain(&request, &failure)),
            }
        }
    }

    /// Says what a failed request means for the input.
    fn explain(&self, request: &Request, failure: &Failure) -> anyhow::Error {
        let last_line = request.first_line + request.lines.saturating_sub(1);
        let (name, stored) = (&self.name, self.stored());
        match failure {
            Failure::Problem(problem) => match problem.number("line") {
                Some(line) if line > 0 => {
                    let line = request.first_line + line - 1;
                    anyhow::anyhow!("line {line} of {name}: {problem}; {stored}")
                }
                _ if problem.counts_what_is_stored() => anyhow::anyhow!("{problem}; {stored}"),
                _ => anyhow::anyhow!(
                    "{problem}; lines {}-{last_line} of {name} may or may not be stored, {stored} of the lines before",
                    request.first_line
                ),
            },
            Failure::NotSent { .. } if self.report.records == 0 => anyhow::anyhow!("{failure}"),
            Failure::NotSent { .. } => {
                anyhow::anyhow!(
                    "{failure}; {stored}, go on with line {} of {name}",
                    request.first_line
                )
            }
            Failure::Lost { .. } | Failure::Unexpected { .. } => anyhow::anyhow!(
                "{failure}; lines {}-{last_line} of {name} may or may not be stored, {stored} of the lines before",
                request.first_line
            ),
        }
    }
}

impl Request {
    /// Drops the lines of the first `records` records; blank lines are none.
    fn skip(&mut self, records: u64) {
        let (mut left, mut end, mut lines) = (records, 0, 0);
        for line in self.bytes.split_inclusive(|byte| *byte == b'\n') {
            if left == 0 {
                break;
            }
            end += line.len();
            lines += 1;
            left -= u64::from(!line.trim_ascii().is_empty());
        }
        self.bytes.drain(..end);
        self.first_line += lines;
        self.lines -= lines;
    }
}

fn progress(file_bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match file_bytes {
        Some(size) => (
            ProgressBar::new(size),
            "{bar:32} {decimal_bytes} of {decimal_total_bytes} of the file, {msg}, {eta} left",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {decimal_bytes} sent, {msg}",
        ),
    };
    // A template that does not parse would be a mistake above; the plain bar is then good enough.
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
    fn going_on_skips_records_and_counts_blank_lines() {
        let mut request = Request {
            bytes: b"1\n\n2\n \n3\n".to_vec(),
            first_line: 10,
            lines: 5,
            position: 0,
        };
        request.skip(2);
        assert_eq!(
            (&*request.bytes, request.first_line, request.lines),
            (&b" \n3\n"[..], 13, 2)
        );
        request.skip(9);
        assert_eq!(
            (request.bytes.len(), request.first_line, request.lines),
            (0, 15, 0)
        );
    }
}
