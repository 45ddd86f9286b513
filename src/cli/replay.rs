//! `quipu replay`: a stretch of history again, partitions merged by timestamp, at a multiple of its own pace.
//!
//! Within a partition the order is that of the offsets; a record whose timestamp is earlier than the one before it
//! does not overtake. What is fetched ahead is bounded: all partitions together share one budget.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::builder::NonEmptyStringValueParser;
use quipu_segments::TimestampMs;

use super::Usage;
use super::api::{self, Topic};
use super::client::{Client, Connect};
use super::history::{FETCH_BYTES, MAX_RECORDS, Partition, Size, head};
use super::output::Output;
use super::position::{self, Position};
use super::signal::{Interrupt, Stop};

/// Stored bytes that are fetched ahead of printing, over all partitions.
const AHEAD_BYTES: u64 = 64 << 20;

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
    /// Read only this partition; may be repeated
    #[arg(long, value_name = "P")]
    partition: Vec<u32>,
    /// Replay into another topic
    #[arg(long, value_name = "TOPIC", hide = true)]
    to: Option<String>,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

fn parse_speed(text: &str) -> Result<f64, String> {
    match text.trim_end_matches(['x', 'X']).parse::<f64>() {
        Ok(speed) if speed.is_finite() && speed > 0.0 => Ok(speed),
        _ => Err(format!("{text:?} is not a number above 0, as 60 or 0.5")),
    }
}

/// Does it.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    if args.to.is_some() {
        let text =
            "replay --to is not supported by this version; pipe it: quipu replay … | quipu produce TOPIC";
        return Err(Usage(text.to_owned()).into());
    }
    if args.until.is_some_and(|until| until < args.from) {
        return Err(Usage("--until lies before --from".to_owned()).into());
    }
    let client = args.connect.client()?;
    // Records are JSON, one a line, whatever `--output` says.
    let _ = args.output;
    let topic = Topic::describe(&client, &args.topic)?;
    let chosen = topic.choose(&args.partition)?;
    let until = args.until.map_or(Position::Latest, Position::Time);
    let mut merge = Merge::open(&client, &args.topic, &chosen, args.from, until)?;
    let interrupt = Interrupt::watch()?;
    let mut out = io::BufWriter::with_capacity(256 << 10, io::stdout().lock());
    let mut pace = args.speed.map(Pace::new);
    loop {
        let record = match merge.next(&interrupt) {
            // A fetch that was interrupted is no failure.
            Err(_) if interrupt.get().is_some() => None,
            record => record?,
        };
        let Some((timestamp, line)) = record else { break };
        if let Some(due) = pace.as_mut().map(|pace| pace.wait_for(timestamp))
            && !due.is_zero()
        {
            out.flush()?;
            interrupt.wait(due);
        }
        match interrupt.get() {
            Some(Stop::Unread) => return Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
            Some(Stop::Asked) => break,
            None => out.write_all(&line)?,
        }
    }
    Ok(out.flush()?)
}

/// When each record is due.
struct Pace {
    speed: f64,
    /// When the first record was due, its timestamp, and the latest timestamp since.
    began: Option<(Instant, i64, i64)>,
}

impl Pace {
    fn new(speed: f64) -> Self {
        Self { speed, began: None }
    }

    /// How long to wait before a record with this timestamp; one that is out of order is due with the one before it.
    fn wait_for(&mut self, timestamp: i64) -> Duration {
        let (began, first, latest) = *self
            .began
            .get_or_insert_with(|| (Instant::now(), timestamp, timestamp));
        let latest = latest.max(timestamp);
        self.began = Some((began, first, latest));
        let after = Duration::try_from_secs_f64(latest.abs_diff(first) as f64 / 1000.0 / self.speed);
        after.unwrap_or(Duration::MAX).saturating_sub(began.elapsed())
    }
}

/// The k-way merge: the earliest of the partitions' next records, over and over.
pub(crate) struct Merge {
    sources: Vec<Source>,
    /// Timestamp and index of each source's next record, earliest first.
    heads: BinaryHeap<Reverse<(i64, usize)>>,
    size: Size,
    begun: bool,
}

/// A partition and what has been fetched of it.
struct Source {
    partition: Partition,
    lines: Vec<u8>,
    start: usize,
}

impl Merge {
    /// The records of `partitions` from a time on, before `until`.
    ///
    /// # Errors
    /// The bounds cannot be found.
    pub(crate) fn open(
        client: &Client,
        topic: &str,
        partitions: &[&api::Partition],
        from: TimestampMs,
        until: Position,
    ) -> anyhow::Result<Self> {
        let mut sources = Vec::new();
        for partition in partitions {
            let start = Position::Time(from).resolve(client, topic, partition)?;
            let end = until.resolve(client, topic, partition)?;
            if start < end {
                let partition = Partition::new(client, topic, partition.partition, start, Some(end));
                sources.push(Source {
                    partition,
                    lines: Vec::new(),
                    start: 0,
                });
            }
        }
        let bytes = (AHEAD_BYTES / sources.len().max(1) as u64).clamp(4 << 10, FETCH_BYTES);
        let size = Size {
            records: MAX_RECORDS,
            bytes,
            wait: Duration::ZERO,
        };
        Ok(Self {
            sources,
            heads: BinaryHeap::new(),
            size,
            begun: false,
        })
    }

    /// The next record: its timestamp and its line.
    ///
    /// # Errors
    /// A fetch failed for good.
    pub(crate) fn next(&mut self, interrupt: &Interrupt) -> anyhow::Result<Option<(i64, Vec<u8>)>> {
        if !self.begun {
            for index in 0..self.sources.len() {
                self.advance(index, interrupt)?;
            }
            self.begun = true;
        }
        let Some(Reverse((timestamp, index))) = self.heads.pop() else {
            return Ok(None);
        };
        let line = self.sources[index].take();
        self.advance(index, interrupt)?;
        Ok(Some((timestamp, line)))
    }

    /// Puts the source's next record among the heads, fetching if it has none left.
    fn advance(&mut self, index: usize, interrupt: &Interrupt) -> anyhow::Result<()> {
        let source = &mut self.sources[index];
        while source.rest().is_empty() && !source.partition.is_done() {
            source.lines = source.partition.fetch(self.size, interrupt)?.lines;
            source.start = 0;
        }
        if let Some(line) = source.rest().split_inclusive(|byte| *byte == b'\n').next() {
            self.heads.push(Reverse((head(line)?.timestamp, index)));
        }
        Ok(())
    }
}

impl Source {
    fn rest(&self) -> &[u8] {
        &self.lines[self.start..]
    }

    fn take(&mut self) -> Vec<u8> {
        let rest = self.rest();
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        let line = rest[..end].to_vec();
        self.start += end;
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_out_of_order_is_not_waited_for() {
        let mut pace = Pace::new(1.0);
        assert_eq!(pace.wait_for(5_000), Duration::ZERO);
        let hour = pace.wait_for(3_605_000);
        assert!(
            hour > Duration::from_secs(3_000) && hour <= Duration::from_secs(3_600),
            "{hour:?}"
        );
        assert!(
            pace.wait_for(1_000) > Duration::from_secs(3_000),
            "it stays behind the one before it"
        );
    }

    #[test]
    fn speeds_are_above_zero() {
        assert_eq!(parse_speed("60"), Ok(60.0));
        assert_eq!(parse_speed("0.5x"), Ok(0.5));
        for wrong in ["0", "-1", "inf", "NaN", "fast", ""] {
            assert!(parse_speed(wrong).is_err(), "{wrong}");
        }
    }
}
