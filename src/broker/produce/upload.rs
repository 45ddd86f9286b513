//! Uploads: any number of records, one a line, appended unit by unit while they arrive.
//!
//! A *unit* is one append: it is stored whole or not at all. The lines alone decide where a unit ends, never how they
//! arrived: before the line that would make it larger than [`UNIT_BYTES`] (line breaks counted), and after
//! [`UNIT_LINES`] lines (blank ones counted). A line that is larger than [`UNIT_BYTES`] is a unit by itself.
//!
//! While a unit is on its way to the disk only the next one is read. A unit is sent only after the one before it has
//! succeeded, so the stored units are always a prefix. Memory is bounded by two units and the longest line.
//!
//! With an idempotency key each unit is appended once, under a key of its own: a retry skips the units that are stored,
//! counts their records as accepted, and appends the rest. A unit's note says how many records each partition got.
//!
//! An upload that ends early is answered with `accepted`, the number of appended records. If a line is wrong, the lines
//! before it are appended first, and the answer has its number in `line`: the client goes on with that line.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};
use xxhash_rust::xxh3::Xxh3;

use super::append::add_to;
use super::idempotency::{Fingerprint, Key, decode_parts, encode_parts, expiry, fingerprint};
use super::placing::{ExtraHeader, Placer};
use super::{Options, Producer, Target};
use crate::broker::engine::{AppendRequest, Appended, Error, Offset, Part, Records, Ticket};
use crate::broker::refusal::{Outcome, Reason, Refusal};
use crate::formats::json::{parse_record, without_mark};

/// The most bytes of lines in a unit.
const UNIT_BYTES: usize = 1 << 20;
/// The most lines in a unit.
const UNIT_LINES: u32 = 10_000;

/// The most bytes that an upload's blank lines may have beyond the bytes of its other lines. They compress to next to
/// nothing, so without a limit a body of 200 kB keeps a processor busy for minutes, long after its client has gone.
const MAX_BLANK_BYTES: usize = 16 << 20;

/// How long to wait when the engine is overloaded; doubled each time up to the second value.
const RETRY_FIRST: Duration = Duration::from_millis(1);
const RETRY_MOST: Duration = Duration::from_millis(100);

/// What an upload stored in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The first record's offset. If others write too, offsets between the first and the last may be theirs.
    pub first_offset: Offset,
    /// The last record's offset.
    pub last_offset: Offset,
    /// How many records.
    pub records: u64,
}

/// An upload between two lines.
pub struct Upload<'a> {
    producer: &'a Producer,
    target: &'a Target,
    options: Options,
    placer: Placer<'a>,
    /// Lines so far, blank ones too.
    lines: u64,
    unit_bytes: usize,
    unit_lines: u32,
    /// The bytes that blank lines may still have: see [`MAX_BLANK_BYTES`].
    blank_bytes: usize,
    /// The longest line that can hold an allowed record; with a key, a record that was ever allowed.
    max_line_bytes: usize,
    in_flight: Option<InFlight>,
    keyed: Option<Keyed>,
    /// Units that this upload appended, and units that were appended before.
    new_units: u64,
    replayed_units: u64,
    /// Records that are appended.
    accepted: u64,
    totals: BTreeMap<u32, Stored>,
    stopping: watch::Receiver<bool>,
}

/// The idempotency key of an upload.
struct Keyed {
    key: Box<Key>,
    /// The number of the unit that is being read, and the hash of what was read of it.
    unit: u32,
    hasher: Xxh3,
    /// A wrong line, in a unit that is remembered with another fingerprint than that of the lines before. Perhaps the
    /// line was right the first time, when the limits were others: the rest of the unit is read without parsing, and
    /// the unit is then looked up by the fingerprint of all its lines.
    wrong: Option<Stop>,
}

impl Keyed {
    /// Ends the unit; returns its number and fingerprint.
    fn next_unit(&mut self) -> (u32, Fingerprint) {
        let hasher = std::mem::replace(&mut self.hasher, self.key.hasher());
        let unit = self.unit;
        // No upload gets there: it would take four billion units.
        self.unit = unit.saturating_add(1);
        (unit, fingerprint(&hasher))
    }

    fn line(&mut self, line: &[u8]) {
        self.hasher.update(line);
        self.hasher.update(b"\n");
    }
}

/// A unit on its way to the disk.
struct InFlight {
    ticket: Ticket,
    /// Partition and number of records of each part.
    parts: Vec<(u32, u32)>,
    bytes: usize,
    /// The permit for the unit's memory, until it is appended.
    _permit: Option<OwnedSemaphorePermit>,
}

/// Why an upload ends early.
pub struct Stop {
    refusal: Refusal,
    /// The number of the wrong line.
    line: Option<u64>,
    /// The unit in flight may be stored all the same.
    unknown: bool,
}

impl Stop {
    /// Whether a line is wrong, and the lines before it can be appended.
    pub fn is_wrong_line(&self) -> bool {
        self.line.is_some()
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            line: None,
            unknown: false,
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        let unknown = matches!(error, Error::LogFailed { in_flight: true, .. });
        Self {
            unknown,
            ..Self::from(Refusal::from(error))
        }
    }
}

impl<'a> Upload<'a> {
    /// Begins an upload; every record gets those `extra_headers` whose names it lacks.
    ///
    /// # Errors
    /// Those of [`Producer::prepare_keys`], with a key.
    pub async fn begin(
        producer: &'a Producer,
        target: &'a Target,
        options: Options,
        extra_headers: Vec<ExtraHeader<'a>>,
        key: Option<Box<Key>>,
    ) -> Result<Self, Refusal> {
        let limits = &producer.limits;
        // Base64 adds a third, and white space any amount; keys and headers may be all escapes, six bytes for one.
        let mut max_line_bytes = 2 * target.rules.max_record_bytes
            + 6 * (limits.max_key_bytes + limits.max_header_bytes)
            + (64 << 10);
        if key.is_some() {
            producer.prepare_keys().await?;
            // The line may have been appended under larger limits: only the fingerprint of its whole unit tells.
            max_line_bytes = max_line_bytes.max(limits.max_request_bytes);
        }
        let mut placing = producer.placing(target, options, None);
        placing.extra_headers = extra_headers;
        Ok(Self {
            producer,
            target,
            options,
            placer: Placer::new(placing, producer.now()),
            lines: 0,
            unit_bytes: 0,
            unit_lines: 0,
            blank_bytes: MAX_BLANK_BYTES,
            max_line_bytes,
            in_flight: None,
            keyed: key.map(|key| Keyed {
                hasher: key.hasher(),
                unit: 0,
                wrong: None,
                key,
            }),
            new_units: 0,
            replayed_units: 0,
            accepted: 0,
            totals: BTreeMap::new(),
            stopping: producer.stopping.clone(),
        })
    }

    /// Becomes true when the server begins to stop.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.clone()
    }

    /// Bytes of the unit that is being read.
    pub fn unit_bytes(&self) -> usize {
        self.unit_bytes
    }

    /// Refuses an unfinished line if its first `bytes` are already too many.
    ///
    /// # Errors
    /// The line is too long.
    pub fn check_length(&mut self, bytes: usize) -> Result<(), Stop> {
        if bytes > self.max_line_bytes {
            self.lines += 1;
            return Err(self.line_too_long(bytes));
        }
        Ok(())
    }

    /// Whether the unit ends before `line`: [`Upload::cut`] it first.
    #[inline]
    pub fn is_full(&self, line: &[u8]) -> bool {
        self.unit_lines == UNIT_LINES
            || (self.unit_lines > 0 && self.unit_bytes + line.len() + 1 > UNIT_BYTES)
    }

    /// Adds a line to the unit.
    ///
    /// # Errors
    /// The line is wrong.
    #[inline]
    pub fn line(&mut self, line: &[u8]) -> Result<(), Stop> {
        self.lines += 1;
        self.unit_lines += 1;
        self.unit_bytes += line.len() + 1;
        if line.len() > self.max_line_bytes {
            return Err(self.line_too_long(line.len()));
        }
        let Some(keyed) = &mut self.keyed else {
            return self.record(line);
        };
        if keyed.wrong.is_some() {
            keyed.line(line);
            return Ok(());
        }
        let read = self.record(line);
        self.keyed_line(line, read)
    }

    /// Adds a line's record, if it is not blank.
    #[inline]
    fn record(&mut self, mut line: &[u8]) -> Result<(), Stop> {
        if self.lines == 1 {
            line = without_mark(line);
        }
        if line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
            return match self.blank_bytes.checked_sub(line.len() + 1) {
                Some(left) => {
                    self.blank_bytes = left;
                    Ok(())
                }
                None => Err(self.wrong_line(Refusal::invalid(
                    "",
                    "the body has 16 MiB of blank lines more than lines with records",
                ))),
            };
        }
        self.blank_bytes = self.blank_bytes.saturating_add(line.len());
        match parse_record(line) {
            Ok(record) => match self.placer.add(&record) {
                Ok(_) => Ok(()),
                Err(error) => Err(self.wrong_line(error.refuse("", "/partition"))),
            },
            Err(error) => Err(self.wrong_line(error.into())),
        }
    }

    /// Adds a line to the unit's fingerprint. A wrong line ends the upload, unless `Keyed::wrong` applies.
    fn keyed_line(&mut self, line: &[u8], read: Result<(), Stop>) -> Result<(), Stop> {
        let Some(keyed) = &mut self.keyed else {
            return read;
        };
        if let Err(stop) = read {
            let before = fingerprint(&keyed.hasher);
            if self.producer.recall(&keyed.key, keyed.unit, &before).is_ok() {
                return Err(stop);
            }
            keyed.wrong = Some(stop);
        }
        keyed.line(line);
        Ok(())
    }

    #[cold]
    fn wrong_line(&self, refusal: Refusal) -> Stop {
        Stop {
            line: Some(self.lines),
            ..Stop::from(refusal)
        }
    }

    #[cold]
    fn line_too_long(&self, bytes: usize) -> Stop {
        let detail = format!(
            "a line of {bytes} bytes or more; a record that the topic takes has at most {}",
            self.max_line_bytes
        );
        self.wrong_line(Refusal::new(Reason::RecordTooLarge, detail).at(""))
    }

    /// Ends the unit, and hands it to the engine once the one before it is appended. `take` gives the permit for the
    /// unit's memory, which is held until this unit is appended too.
    ///
    /// # Errors
    /// Why the upload ends.
    pub async fn cut(&mut self, take: impl FnOnce() -> Option<OwnedSemaphorePermit>) -> Result<(), Stop> {
        self.unit_bytes = 0;
        self.unit_lines = 0;
        let wrong = self.keyed.as_mut().and_then(|keyed| keyed.wrong.take());
        let key = self.keyed.as_mut().map(Keyed::next_unit);
        if let Some(wrong) = wrong {
            return self.pass_over(key, wrong, take).await;
        }
        if self.placer.is_empty() {
            return Ok(());
        }
        self.settle().await?;
        if *self.stopping.borrow() {
            return Err(self.stop());
        }
        let (bytes, moved) = (self.placer.bytes(), self.placer.moved());
        let now = self.producer.now();
        let built = self.placer.take(now);
        let parts: Vec<(u32, u32)> = built
            .iter()
            .map(|built| (built.partition, built.record_count))
            .collect();
        let records: u64 = parts.iter().map(|(_, records)| u64::from(*records)).sum();
        let mut request = AppendRequest {
            ack: self.target.ack(self.options),
            ..AppendRequest::default()
        };
        let expected_offset = self.options.expected_offset;
        add_to(
            &mut request,
            &self.producer.log,
            &self.target.topic,
            built,
            expected_offset,
            moved,
        )?;
        self.follow_on(records)?;
        if let (Some(keyed), Some((unit, fingerprint))) = (&self.keyed, key) {
            if let Some(appended) = self.producer.recall(&keyed.key, unit, &fingerprint)? {
                drop(take());
                return self.account(parts, appended, bytes);
            }
            let expires = expiry(&self.target.topic, now);
            request.once = Some(keyed.key.once(unit, fingerprint, expires, encode_parts(&parts)));
        }
        self.in_flight = Some(InFlight {
            ticket: self.append(request).await?,
            parts,
            bytes,
            _permit: take(),
        });
        if self.keyed.is_some() && self.options.expected_offset.is_some() {
            // Another try may be appending this unit now; its partition is the one for all further records.
            self.settle().await?;
        }
        Ok(())
    }

    /// Ends a unit with a wrong line: skips it if it was appended before, and otherwise ends the upload.
    async fn pass_over(
        &mut self,
        key: Option<(u32, Fingerprint)>,
        wrong: Stop,
        take: impl FnOnce() -> Option<OwnedSemaphorePermit>,
    ) -> Result<(), Stop> {
        self.settle().await?;
        // Drops the records before the line.
        self.placer.take(self.producer.now());
        drop(take());
        let (Some(keyed), Some((unit, fingerprint))) = (&self.keyed, key) else {
            return Err(wrong);
        };
        let Some(appended) = self.producer.recall(&keyed.key, unit, &fingerprint)? else {
            return Err(wrong);
        };
        let before = self.accepted;
        self.account(Vec::new(), appended, 0)?;
        self.follow_on(self.accepted - before)
    }

    /// Moves `expected_offset` behind a unit of so many records.
    fn follow_on(&mut self, records: u64) -> Result<(), Stop> {
        if let Some(offset) = self.options.expected_offset {
            let next = offset.checked_add(records).ok_or_else(|| {
                Refusal::invalid("expected_offset", "the records would pass the largest offset")
            })?;
            self.options.expected_offset = Some(next);
        }
        Ok(())
    }

    /// Hands a unit to the engine; while the engine is overloaded, waits and tries again.
    async fn append(&self, mut request: AppendRequest) -> Result<Ticket, Stop> {
        let mut pause = RETRY_FIRST;
        loop {
            // The engine consumes the request even if it refuses it.
            let spare = copy(&request);
            match self.producer.log.append(request) {
                Err(Error::Overloaded { .. }) if !*self.stopping.borrow() => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MOST);
                    request = spare;
                }
                other => return Ok(other?),
            }
        }
    }

    /// Waits for the unit in flight.
    ///
    /// # Errors
    /// It is not stored, or that cannot be known.
    pub async fn settle(&mut self) -> Result<(), Stop> {
        let Some(unit) = self.in_flight.take() else {
            return Ok(());
        };
        let appended = unit.ticket.await?;
        self.account(unit.parts, appended, unit.bytes)
    }

    /// Adds an appended unit to the answer: with `parts`, or if it is a replay, with the parts of the first time.
    fn account(&mut self, parts: Vec<(u32, u32)>, appended: Appended, bytes: usize) -> Result<(), Stop> {
        let is_replayed = appended.repeated.is_some();
        let parts = match &appended.repeated {
            None => parts,
            Some(note) => {
                let parts = decode_parts(note)?;
                if let Some((partition, _)) = parts.first() {
                    self.placer.go_on_in(*partition);
                }
                parts
            }
        };
        let mut records = 0;
        for ((partition, count), base) in parts.into_iter().zip(appended.base_offsets) {
            let count = u64::from(count);
            let last_offset = base.plus(count - 1);
            let total = self.totals.entry(partition).or_insert(Stored {
                first_offset: base,
                last_offset,
                records: 0,
            });
            total.last_offset = last_offset;
            total.records += count;
            records += count;
        }
        self.accepted += records;
        self.replayed_units += u64::from(is_replayed);
        self.new_units += u64::from(!is_replayed);
        self.producer.count(is_replayed, records, bytes);
        Ok(())
    }

    /// Records that are appended.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Whether nothing was appended, because every unit was appended before.
    pub fn is_replayed(&self) -> bool {
        self.new_units == 0 && self.replayed_units > 0
    }

    /// What is stored, by partition.
    pub fn stored(&self) -> &BTreeMap<u32, Stored> {
        &self.totals
    }

    /// Whether a part of the upload is stored, when it ends early and no unit is in flight.
    pub fn outcome(&self) -> Outcome {
        match self.accepted {
            0 => Outcome::None,
            _ => Outcome::Partial,
        }
    }

    /// The refusal of an upload that ends early.
    pub fn refuse(&self, stop: Stop) -> Refusal {
        let outcome = if stop.unknown {
            Outcome::Unknown
        } else {
            self.outcome()
        };
        let refusal = stop.refusal.with("accepted", self.accepted).outcome(outcome);
        match stop.line {
            Some(line) => refusal.with("line", line),
            None => refusal,
        }
    }

    /// The server stops.
    #[cold]
    pub fn stop(&self) -> Stop {
        Refusal::new(
            Reason::ShuttingDown,
            "the server is stopping; go on after the accepted records",
        )
        .into()
    }
}

fn copy(request: &AppendRequest) -> AppendRequest {
    AppendRequest {
        parts: request
            .parts
            .iter()
            .map(|part| {
                Part::new(
                    part.partition.clone(),
                    match &part.records {
                        Records::Loose(builder) => Records::Loose(builder.clone()),
                        Records::Sealed(batches) => Records::Sealed(batches.clone()),
                    },
                )
                .expecting(part.expected_offset)
                .json_lines(part.json_lines)
            })
            .collect(),
        state: request.state.clone(),
        receipts: request.receipts.clone(),
        ack: request.ack,
        once: request.once.clone(),
    }
}
