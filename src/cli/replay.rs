//! `quipu replay`: a stretch of history again, partitions merged by timestamp, at a multiple of its own pace.
//!
//! The server merges and keeps the pace; the stream goes on where it was when a connection breaks ([`super::stream`]).
//! What goes to a topic or an address is sent in requests with idempotency keys ([`super::deliver`]), so a lost answer
//! doubles nothing. With a pace, what is due is sent at once; without one, in large requests.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use clap::builder::NonEmptyStringValueParser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quipu_segments::TimestampMs;
use serde_json::json;

use super::Usage;
use super::api::{self, Topic, stream_route};
use super::client::{Client, Connect, Failure, Route};
use super::deliver::{Delivery, PATIENCE, Undelivered, random_key};
use super::output::{self, Output, brief_ms, rate, records, time_ms, took};
use super::position;
use super::signal::{Interrupt, Stop};
use super::stream::{Records, Stream};

/// Bytes of a request; a longer record goes alone.
const REQUEST_BYTES: usize = 8 << 20;
/// Steps of the progress bar.
const STEPS: f64 = 10_000.0;

/// What `quipu replay` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Topic to read
    #[arg(value_name = "TOPIC", value_parser = NonEmptyStringValueParser::new())]
    topic: String,
    /// Begin with the first record at or after this time (2013-07-01T00:00:00Z, a date, milliseconds)
    #[arg(long, value_name = "TIME", value_parser = position::parse_time)]
    from: TimestampMs,
    /// End before this time [default: the end as it is now]
    #[arg(long, value_name = "TIME", value_parser = position::parse_time)]
    until: Option<TimestampMs>,
    /// How many times as fast as it happened; as fast as possible if left out
    #[arg(long, value_name = "X", value_parser = parse_speed)]
    speed: Option<f64>,
    /// Replay only records with this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Read only this partition; may be repeated
    #[arg(long, value_name = "P")]
    partition: Vec<u32>,
    /// Replay into a topic of this server, or POST the records as NDJSON to an http:// address: another server's
    /// …/v1/topics/TOPIC/records, or whatever takes them [default: standard output]
    #[arg(long, value_name = "TOPIC|URL", value_parser = parse_to)]
    to: Option<To>,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

/// Where `--to` sends.
#[derive(Clone, Debug)]
enum To {
    Topic(String),
    Address(http::Uri),
}

fn parse_speed(text: &str) -> Result<f64, String> {
    match text.trim_end_matches(['x', 'X']).parse::<f64>() {
        Ok(speed) if speed.is_finite() && speed > 0.0 => Ok(speed),
        _ => Err(format!("{text:?} is not a number above 0, as 60 or 0.5")),
    }
}

fn parse_to(text: &str) -> Result<To, String> {
    if text.is_empty() {
        return Err("a topic or an address like http://127.0.0.1:7420/v1/topics/copy/records".to_owned());
    }
    if !text.contains("://") {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !text.bytes().all(is_name) {
            return Err(format!(
                "{text:?} is neither a topic's name nor an address like http://127.0.0.1:7420/v1/topics/copy/records"
            ));
        }
        return Ok(To::Topic(text.to_owned()));
    }
    let uri: http::Uri = text
        .parse()
        .map_err(|error| format!("{text:?} is no address: {error}"))?;
    match uri.scheme_str() {
        Some("http")
            if uri
                .authority()
                .is_some_and(|authority| !authority.as_str().contains('@')) =>
        {
            Ok(To::Address(uri))
        }
        Some("https") => Err("this build of quipu speaks no TLS; give an http:// address".to_owned()),
        _ => Err(format!(
            "{text:?} is not an address like http://127.0.0.1:7420/v1/topics/copy/records"
        )),
    }
}

/// What was replayed.
#[derive(Debug, Default)]
struct Sums {
    records: u64,
    bytes: u64,
    requests: u64,
}

/// Where the records go.
enum Sink<'a> {
    Stdout(io::BufWriter<io::StdoutLock<'static>>),
    Target(Delivery<'a>),
}

/// Does it.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    if args.until.is_some_and(|until| until < args.from) {
        return Err(Usage("--until lies before --from".to_owned()).into());
    }
    let client = args.connect.client()?;
    let interrupt = Interrupt::watch()?;
    let topic = Topic::describe_patiently(&client, &args.topic, &interrupt)?;
    let chosen = topic.choose(&args.partition)?;
    let foreign = match &args.to {
        Some(To::Address(uri)) => Some(args.connect.client_of(uri)?),
        _ => None,
    };
    let sink = match (&args.to, &foreign) {
        (None, _) => Sink::Stdout(io::BufWriter::with_capacity(256 << 10, io::stdout().lock())),
        (Some(To::Address(uri)), Some(foreign)) => Sink::Target(Delivery::new(
            foreign,
            Route::of(uri),
            random_key(),
            None,
            &interrupt,
        )),
        (Some(to), _) => Sink::Target(into_topic(&client, &topic, &to.to_string(), &interrupt)?),
    };
    let stream = open(&client, &args, &topic, &chosen, &interrupt);
    let mut replay = Replay {
        sink,
        progress: Progress::new(&args, &chosen),
        is_paced: args.speed.is_some(),
        interrupt: &interrupt,
        sums: Sums::default(),
    };
    let started = Instant::now();
    let result = replay.run(&stream.spawn(|read| read)?);
    replay.progress.bar.finish_and_clear();
    result?;
    report(&args, &replay.sums, started.elapsed(), interrupt.get().is_some())
}

/// The stream of what is asked for.
fn open(
    client: &Client,
    args: &Args,
    topic: &Topic,
    chosen: &[&api::Partition],
    interrupt: &Interrupt,
) -> Stream {
    let mut route = stream_route(&args.topic, &args.partition, args.key.as_deref()).with("from", args.from.0);
    if let Some(until) = args.until {
        route = route.with("until", until.0);
    }
    route = match args.speed {
        Some(speed) => route.with("speed", speed),
        None => route.with("order", "timestamp"),
    };
    Stream::new(client, topic, chosen, route, false, Some(PATIENCE), interrupt)
}

/// The way into a topic of the same server. A record stays in its partition where the topic has as many.
fn into_topic<'a>(
    client: &'a Client,
    source: &Topic,
    name: &str,
    interrupt: &'a Interrupt,
) -> Result<Delivery<'a>, Failure> {
    let target = Topic::describe_patiently(client, name, interrupt)?;
    let mut route = Route::new(&["v1", "topics", name, "records"]);
    if target.partition_count != source.partition_count {
        route = route.with("repartition", "true");
    }
    let mut delivery = Delivery::new(client, route, random_key(), target.dedupe_window(), interrupt);
    delivery.answered = true;
    Ok(delivery)
}

impl std::fmt::Display for To {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Topic(name) => f.write_str(name),
            Self::Address(uri) => write!(f, "{uri}"),
        }
    }
}

type Stretch = Receiver<Result<Records, Failure>>;

struct Replay<'a> {
    sink: Sink<'a>,
    progress: Progress,
    is_paced: bool,
    interrupt: &'a Interrupt,
    sums: Sums,
}

impl Replay<'_> {
    fn run(&mut self, stream: &Stretch) -> anyhow::Result<()> {
        let mut held = None;
        loop {
            match self.interrupt.get() {
                Some(Stop::Unread) if matches!(self.sink, Sink::Stdout(_)) => {
                    return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
                }
                Some(Stop::Asked) => return Ok(()),
                _ => {}
            }
            let read = match held.take() {
                Some(held) => Ok(held),
                None => stream.recv_timeout(Duration::from_millis(100)),
            };
            let mut records = match read {
                Ok(Ok(records)) => records,
                // What an interrupted wait for the server ends with is no failure.
                Ok(Err(_)) if self.interrupt.get() == Some(Stop::Asked) => return Ok(()),
                Ok(Err(failure)) => return Err(self.explain(&failure)),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            if matches!(self.sink, Sink::Target(_)) {
                held = gather(&mut records, stream, self.is_paced, self.interrupt);
            }
            self.send(&records)?;
        }
    }

    fn send(&mut self, records: &Records) -> anyhow::Result<()> {
        match &mut self.sink {
            Sink::Stdout(out) => {
                out.write_all(&records.lines)?;
                out.flush()?;
            }
            Sink::Target(delivery) => {
                let number = self.sums.requests + 1;
                if let Err(undelivered) = delivery.send(number, &records.lines, None) {
                    return Err(self.undelivered(&undelivered, records.count));
                }
                self.sums.requests = number;
            }
        }
        self.sums.records += records.count;
        self.sums.bytes += records.lines.len() as u64;
        self.progress.set(&self.sums, records.timestamp());
        Ok(())
    }

    /// What became of a request with so many records that was given up.
    fn undelivered(&mut self, undelivered: &Undelivered, count: u64) -> anyhow::Error {
        let Undelivered { failure, doubt, .. } = undelivered;
        if let Failure::Problem(problem) = failure
            && problem.outcome() == Some("partial")
            && let Some(accepted) = problem.number("accepted")
        {
            self.sums.records += accepted;
            return self.explain(failure);
        }
        let doubt = match (doubt, self.sums.records) {
            (None, _) => String::new(),
            (Some(_), 0) => format!("; whether it has taken {} is not known", records(count)),
            (Some(_), _) => {
                let count = records(count);
                format!("; whether it has taken the {count} after them is not known")
            }
        };
        anyhow::anyhow!("{}{doubt}", self.explain(failure))
    }

    fn explain(&self, failure: &Failure) -> anyhow::Error {
        let what = match (&self.sink, failure) {
            // Whatever takes records is good enough: it need not answer as quipu does.
            (Sink::Target(delivery), Failure::Status { server, status, .. })
                if server == delivery.client.base() =>
            {
                format!("{server} answered with status {status}")
            }
            _ => failure.to_string(),
        };
        match (&self.sink, self.sums.records) {
            (Sink::Target(_), sent @ 1..) => anyhow::anyhow!("{what}; {} were sent before", records(sent)),
            _ => anyhow::anyhow!("{what}"),
        }
    }
}

/// Adds what a request has room for: with a pace what is there already, without one all that comes. Returns what did not
/// fit.
fn gather(
    records: &mut Records,
    stream: &Stretch,
    is_paced: bool,
    interrupt: &Interrupt,
) -> Option<Result<Records, Failure>> {
    while records.lines.len() < REQUEST_BYTES && interrupt.get().is_none() {
        let next = match stream.try_recv() {
            Ok(next) => next,
            Err(TryRecvError::Empty) if !is_paced => match stream.recv_timeout(Duration::from_millis(100)) {
                Ok(next) => next,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return None,
            },
            Err(_) => return None,
        };
        match next {
            Ok(next) if records.lines.len() + next.lines.len() <= REQUEST_BYTES => {
                records.lines.extend_from_slice(&next.lines);
                records.count += next.count;
            }
            next => return Some(next),
        }
    }
    None
}

fn report(args: &Args, sums: &Sums, elapsed: Duration, was_interrupted: bool) -> anyhow::Result<()> {
    if let Some(to) = &args.to
        && args.output.is_json()
    {
        return Ok(output::json(&json!({
            "topic": args.topic,
            "to": to.to_string(),
            "records": sums.records,
            "bytes": sums.bytes,
            "requests": sums.requests,
            "seconds": elapsed.as_secs_f64(),
            "interrupted": was_interrupted,
        }))?);
    }
    // Whoever reads the records from a pipe has not asked for more.
    if args.to.is_some() || (io::stderr().is_terminal() && !was_interrupted) {
        output::note(format_args!(
            "{}{} replayed{} in {}: {} records/s",
            if was_interrupted { "interrupted: " } else { "" },
            records(sums.records),
            args.to
                .as_ref()
                .map_or_else(String::new, |to| format!(" to {to}")),
            took(elapsed),
            rate(sums.records, elapsed),
        ));
    }
    Ok(())
}

/// The bar on standard error.
struct Progress {
    bar: ProgressBar,
    /// Recorded time from where to where, milliseconds since the Unix epoch.
    span: Option<(i64, i64)>,
    speed: Option<f64>,
    started: Instant,
}

impl Progress {
    fn new(args: &Args, chosen: &[&api::Partition]) -> Self {
        let first = chosen.iter().filter_map(|p| p.first_timestamp).min();
        let last = chosen.iter().filter_map(|p| p.last_timestamp).max();
        let until = args.until.map_or(i64::MAX, |until| until.0);
        let span = first
            .zip(last)
            .map(|(first, last)| (first.max(args.from.0), last.min(until)));
        let span = span.filter(|(from, until)| from <= until);
        // On one terminal with the records it would only be in their way.
        let target = if args.to.is_none() && io::stdout().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(STEPS as u64), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {wide_msg}") {
            bar.set_style(style);
        }
        Self {
            bar,
            span,
            speed: args.speed,
            started: Instant::now(),
        }
    }

    fn set(&self, sums: &Sums, timestamp: Option<i64>) {
        if self.bar.is_hidden() {
            return;
        }
        let elapsed = self.started.elapsed();
        let mut message = format!(
            "{}, {}/s, at {}",
            records(sums.records),
            rate(sums.records, elapsed),
            time_ms(timestamp)
        );
        if let (Some(span), Some(timestamp)) = (self.span, timestamp) {
            let fraction = fraction(span, timestamp);
            self.bar.set_position((fraction * STEPS) as u64);
            if let Some(left) = time_left(span, timestamp, self.speed, elapsed) {
                let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                message.push_str(&format!(", {} left", brief_ms(left)));
            }
        }
        self.bar.set_message(message);
    }
}

/// Which part of the recorded time has passed, from 0 to 1.
fn fraction((from, until): (i64, i64), timestamp: i64) -> f64 {
    if until <= from {
        return 1.0;
    }
    (timestamp.saturating_sub(from) as f64 / until.saturating_sub(from) as f64).clamp(0.0, 1.0)
}

/// How long the rest takes: exactly with a pace, else as long as what was done in proportion.
fn time_left(span: (i64, i64), timestamp: i64, speed: Option<f64>, elapsed: Duration) -> Option<Duration> {
    let seconds = match speed {
        Some(speed) => span.1.saturating_sub(timestamp).max(0) as f64 / 1000.0 / speed,
        None => match fraction(span, timestamp) {
            0.0 => return None,
            done => elapsed.as_secs_f64() * (1.0 - done) / done,
        },
    };
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_above_zero() {
        assert_eq!(parse_speed("60"), Ok(60.0));
        assert_eq!(parse_speed("0.5x"), Ok(0.5));
        for wrong in ["0", "-1", "inf", "NaN", "fast", ""] {
            assert!(parse_speed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_target_is_a_topic_or_an_address() {
        assert!(matches!(parse_to("copy"), Ok(To::Topic(name)) if name == "copy"));
        for address in [
            "http://other:7420/v1/topics/copy/records?ack=written",
            "http://[::1]:80",
        ] {
            assert!(matches!(parse_to(address), Ok(To::Address(_))), "{address}");
        }
        for wrong in [
            "",
            "other:7420/x",
            "a b",
            "https://other/x",
            "ftp://other/x",
            "http://",
            "http://u:p@other/",
            "http://a b/",
        ] {
            assert!(parse_to(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_left_follows_from_recorded_time() {
        let span = (10_000, 20_000);
        let second = Duration::from_secs(1);
        assert_eq!(
            time_left(span, 15_000, Some(10.0), second),
            Some(second / 2),
            "exactly, with a pace"
        );
        assert_eq!(
            time_left(span, 15_000, None, second * 3),
            Some(second * 3),
            "half of it is done"
        );
        assert_eq!(
            time_left(span, 30_000, None, second),
            Some(Duration::ZERO),
            "timestamps may be out of order"
        );
        assert_eq!(time_left(span, 5_000, None, second), None);
        assert_eq!(fraction((5, 5), 5), 1.0);
        assert_eq!(fraction((i64::MIN, i64::MAX), i64::MAX), 1.0);
    }

    #[test]
    fn a_request_takes_what_is_there_and_keeps_what_does_not_fit() {
        let (sender, stream) = std::sync::mpsc::channel();
        let some = |bytes: usize| Records {
            lines: vec![b'x'; bytes],
            count: 1,
        };
        for bytes in [10, REQUEST_BYTES - 20, 11] {
            sender.send(Ok(some(bytes))).unwrap();
        }
        let mut request = some(10);
        let held = gather(&mut request, &stream, true, &Interrupt::default());
        assert_eq!((request.count, request.lines.len()), (3, REQUEST_BYTES));
        assert!(held.is_none());
        let mut request = some(REQUEST_BYTES - 10);
        let held = gather(&mut request, &stream, true, &Interrupt::default());
        assert_eq!((request.count, held.unwrap().unwrap().lines.len()), (1, 11));
        let mut request = some(1);
        assert!(
            gather(&mut request, &stream, true, &Interrupt::default()).is_none(),
            "what is due goes at once"
        );
        assert_eq!(request.count, 1);
    }
}
