//! `quipu replay`: past records again, partitions merged by timestamp, at full speed or a multiple of their pace.
//!
//! The server merges and keeps the pace; if a connection breaks, the stream continues after its last event
//! ([`super::stream`]). Requests to a topic or an address have idempotency keys ([`super::deliver`]), so that a lost
//! answer stores nothing twice in quipu. With a pace, due records are sent at once; without one, in large requests.

mod progress;

use std::io::{self, IsTerminal};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use clap::builder::NonEmptyStringValueParser;
use quipu_segments::TimestampMs;
use serde_json::json;

use self::progress::Progress;
use super::Usage;
use super::api::{self, Topic, append_route, stream_route};
use super::client::{Client, Failure, Route, base_address};
use super::connect::Connect;
use super::deliver::{Delivery, PATIENCE, Undelivered, random_key};
use super::output::{self, rate, records, took};
use super::position;
use super::signal::{Interrupt, Stop};
use super::stdout::Stdout;
use super::stream::{Records, Stream};

/// Bytes of a request; a longer record goes alone.
const REQUEST_BYTES: usize = 8 << 20;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quipu replay orders --from 2013-01-05T12:00 --until 2013-01-05T13:00 --speed 60
  quipu replay orders --from -1h --to orders-copy")]
pub(crate) struct Args {
    /// Topic to read
    #[arg(value_name = "TOPIC", value_parser = NonEmptyStringValueParser::new())]
    topic: String,
    /// Begin with the first record at or after this time: 2013-07-01T12:00, a date, -10m (so long ago), milliseconds
    #[arg(long, value_name = "TIME", value_parser = position::parse_time, allow_hyphen_values = true)]
    from: TimestampMs,
    /// End before this time [default: the end as it is now]
    #[arg(long, value_name = "TIME", value_parser = position::parse_time, allow_hyphen_values = true)]
    until: Option<TimestampMs>,
    /// Speed relative to the timestamps: 60 replays an hour in a minute [default: as fast as possible]
    #[arg(long, value_name = "X", value_parser = parse_speed)]
    speed: Option<f64>,
    /// Replay only records with this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Read only this partition; may be repeated
    #[arg(long, value_name = "P")]
    partition: Vec<u32>,
    /// Replay into a topic of this server, or POST the records as NDJSON to an http:// address: another server's
    /// …/v1/topics/TOPIC/records, or any service that accepts NDJSON [default: standard output]
    #[arg(long, value_name = "TOPIC|URL", value_parser = parse_to)]
    to: Option<To>,
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

const ADDRESS: &str = "http://127.0.0.1:7420/v1/topics/copy/records";

fn parse_to(text: &str) -> Result<To, String> {
    if text.is_empty() {
        return Err(format!("a topic or an address like {ADDRESS}"));
    }
    if !text.contains("://") {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !text.bytes().all(is_name) {
            let wrong = "is neither a topic's name nor an address like";
            return Err(format!("{text:?} {wrong} {ADDRESS}"));
        }
        return Ok(To::Topic(text.to_owned()));
    }
    let uri = text.parse::<http::Uri>();
    let uri = uri.map_err(|error| format!("{text:?} is no address: {error}"))?;
    let authority = uri.authority().map_or("@", |authority| authority.as_str());
    let is_good = !authority.contains('@');
    match uri.scheme_str() {
        Some("http" | "https") if is_good => {
            base_address(authority).map_err(|wrong| wrong.to_string())?;
            Ok(To::Address(uri))
        }
        _ => Err(format!("{text:?} is not an address like {ADDRESS}")),
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
    Stdout(Stdout),
    Target(Delivery<'a>),
}

pub(crate) fn run(args: Args, connect: &Connect, is_json: bool) -> anyhow::Result<()> {
    if args.until.is_some_and(|until| until < args.from) {
        return Err(Usage::of("--until lies before --from"));
    }
    let client = connect.client()?;
    let interrupt = Interrupt::watch()?;
    let topic = Topic::describe_patiently(&client, &args.topic, &interrupt)?;
    let chosen = topic.choose(&args.partition)?;
    let foreign;
    let sink = match &args.to {
        None => Sink::Stdout(Stdout::new(&interrupt)?),
        Some(To::Topic(name)) => Sink::Target(into_topic(&client, &topic, name, &interrupt)?),
        Some(To::Address(uri)) => {
            foreign = connect.client_of(uri)?;
            let (route, key) = (Route::of(uri), random_key());
            Sink::Target(Delivery::new(&foreign, route, key, None, &interrupt))
        }
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
    let was_interrupted = interrupt.get().is_some();
    report(&args, is_json, &replay.sums, started.elapsed(), was_interrupted)
}

/// The stream of the records to replay.
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
    let topics = [(topic, chosen.to_vec())];
    Stream::new(client, &topics, route, false, Some(PATIENCE), interrupt)
}

/// Delivery into a topic of the same server. Records keep their partition if both topics have as many partitions.
fn into_topic<'a>(
    client: &'a Client,
    source: &Topic,
    name: &str,
    interrupt: &'a Interrupt,
) -> Result<Delivery<'a>, Failure> {
    let target = Topic::describe_patiently(client, name, interrupt)?;
    let mut route = append_route(name);
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
                // After an interrupt, the failure is that of the interrupted wait: ignore it.
                Ok(Err(_)) if self.interrupt.get() == Some(Stop::Asked) => return Ok(()),
                Ok(Err(failure)) => return Err(self.explain(&failure)),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            if matches!(self.sink, Sink::Target(_)) {
                held = gather(&mut records, stream, self.is_paced, self.interrupt);
            }
            if !self.send(&mut records)? {
                return Ok(());
            }
        }
    }

    /// Sends the records to the sink; false if it was interrupted before standard output had taken them.
    fn send(&mut self, records: &mut Records) -> anyhow::Result<bool> {
        let (timestamp, bytes) = (records.timestamp(), records.lines.len() as u64);
        match &mut self.sink {
            Sink::Stdout(out) => {
                if !out.write(std::mem::take(&mut records.lines))? {
                    return Ok(false);
                }
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
        self.sums.bytes += bytes;
        self.progress.set(&self.sums, timestamp);
        Ok(true)
    }

    /// Explains why a request of `count` records was given up: how many were stored, or whether they are in doubt.
    fn undelivered(&mut self, undelivered: &Undelivered, count: u64) -> anyhow::Error {
        let Undelivered { failure, doubt, .. } = undelivered;
        if let Failure::Problem(problem) = failure
            && problem.outcome() == Some("partial")
            && let Some(accepted) = problem.number("accepted")
        {
            self.sums.records += accepted;
            return self.explain(failure);
        }
        let count = records(count);
        let doubt = match (doubt, self.sums.records) {
            (None, _) => String::new(),
            (Some(_), 0) => format!("; whether it has taken {count} is not known"),
            (Some(_), _) => format!("; whether it has taken the {count} after them is not known"),
        };
        anyhow::anyhow!("{}{doubt}", self.explain(failure))
    }

    fn explain(&self, failure: &Failure) -> anyhow::Error {
        let what = match (&self.sink, failure) {
            // The target may be any service, so its answer need not look like quipu's.
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

/// Adds records until the request is full: with a pace only those that have arrived, without one it waits for more.
/// Returns those that did not fit, or the stream's failure.
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

/// Says what was replayed. A copy that was interrupted is not whole, so it is an error.
fn report(
    args: &Args,
    is_json: bool,
    sums: &Sums,
    elapsed: Duration,
    was_interrupted: bool,
) -> anyhow::Result<()> {
    let to = args.to.as_ref().map(|to| format!(" to {to}")).unwrap_or_default();
    let (count, rate) = (records(sums.records), rate(sums.records, elapsed));
    let text = format!("{count} replayed{to} in {}: {rate} records/s", took(elapsed));
    if let Some(to) = &args.to
        && is_json
    {
        output::json(&json!({
            "topic": args.topic,
            "to": to.to_string(),
            "records": sums.records,
            "bytes": sums.bytes,
            "requests": sums.requests,
            "seconds": elapsed.as_secs_f64(),
            "interrupted": was_interrupted,
        }))?;
    } else if !was_interrupted && (args.to.is_some() || io::stderr().is_terminal()) {
        // If the records go to standard output and standard error is no terminal, print no summary.
        output::note(&text);
    }
    match args.to {
        Some(_) if was_interrupted => Err(anyhow::anyhow!("interrupted: {text}")),
        _ => Ok(()),
    }
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
            "https://other/x",
        ] {
            assert!(matches!(parse_to(address), Ok(To::Address(_))), "{address}");
        }
        let wrong = "|other:7420/x|a b|ftp://other/x|http://a b/|http://|http://u:p@other/";
        for wrong in wrong.split('|') {
            assert!(parse_to(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_request_takes_what_is_there_and_keeps_what_does_not_fit() {
        let (sender, stream) = std::sync::mpsc::channel();
        let some = |bytes: usize| Records {
            lines: vec![b'x'; bytes],
            count: 1,
        };
        let gather = |request: &mut Records| gather(request, &stream, true, &Interrupt::default());
        for bytes in [10, REQUEST_BYTES - 20, 11] {
            sender.send(Ok(some(bytes))).unwrap();
        }
        let mut request = some(10);
        let held = gather(&mut request);
        assert_eq!((request.count, request.lines.len()), (3, REQUEST_BYTES));
        assert!(held.is_none());
        let mut request = some(REQUEST_BYTES - 10);
        let held = gather(&mut request);
        assert_eq!((request.count, held.unwrap().unwrap().lines.len()), (1, 11));
        let mut request = some(1);
        assert!(gather(&mut request).is_none(), "records that are due go at once");
        assert_eq!(request.count, 1);
    }
}
