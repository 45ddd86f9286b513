//! The bundled events: 20,000 departures and arrivals at New York's airports in January 2013.
//!
//! The key of an event is the aircraft's tail number. [`moved`] gives the events recent timestamps. [`Log`] finds them
//! again among the records of a topic: each aircraft's events must keep their order; other records may lie between.
//! A bundle that holds anything but records is an error.

use std::collections::HashMap;
use std::io::Read;

use anyhow::Context;
use serde::Deserialize;
use serde_json::value::RawValue;

static FILE: &[u8] = include_bytes!("../../../examples/flights-20k.ndjson.gz");

/// The bundled events as NDJSON.
/// Errors: The bundle does not decompress; that would be a fault of the build.
pub(crate) fn unpack() -> anyhow::Result<Vec<u8>> {
    let mut lines = Vec::new();
    flate2::read::MultiGzDecoder::new(FILE)
        .read_to_end(&mut lines)
        .context("the bundled events are damaged")?;
    Ok(lines)
}

/// Milliseconds of a day.
pub(crate) const DAY_MS: i64 = 86_400_000;

/// The events with their timestamps moved by whole days, so that the last one lies within the day before `now_ms`; or, if
/// `stored_first` is the first event moved by whole days, by as many days. Values stay as they are.
pub(crate) fn moved(bundle: &[u8], stored_first: Option<i64>, now_ms: i64) -> anyhow::Result<Vec<u8>> {
    let lines = || bundle.split_inclusive(|byte| *byte == b'\n');
    let (Some(first), Some(last)) = (lines().next(), lines().next_back()) else {
        return Ok(Vec::new());
    };
    let of = |line| anyhow::Ok(serde_json::from_slice::<Event<'_>>(line)?.timestamp);
    let (first, last) = (of(first)?, of(last)?);
    let earlier = stored_first.map(|stored| stored - first);
    let by = earlier
        .filter(|by| *by >= 0 && by % DAY_MS == 0)
        .unwrap_or_else(|| (now_ms - last).max(0) / DAY_MS * DAY_MS);
    let mut moved = Vec::with_capacity(bundle.len());
    for line in lines() {
        const NAME: &[u8] = b"\"timestamp\":";
        let begin = memchr::memmem::find(line, NAME).context("an event without a timestamp")? + NAME.len();
        let digits = line[begin..].iter().take_while(|byte| byte.is_ascii_digit());
        let end = begin + digits.count();
        moved.extend_from_slice(&line[..begin]);
        moved.extend_from_slice((of(line)? + by).to_string().as_bytes());
        moved.extend_from_slice(&line[end..]);
    }
    Ok(moved)
}

/// The first moment of the bundle's fifth day.
pub(crate) fn fifth_day(bundle: &[u8]) -> anyhow::Result<i64> {
    let line = bundle.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let first = serde_json::from_slice::<Event<'_>>(line)?.timestamp;
    Ok(first - first % DAY_MS + 4 * DAY_MS)
}

/// The members of a record that identify its event.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    key: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    timestamp: i64,
}

/// The bundled events of each aircraft, and how many of them have come back so far.
pub(crate) struct Log<'a> {
    aircraft: HashMap<String, Track<'a>>,
    /// Records that are not the next bundled event of their aircraft.
    pub(crate) others: u64,
}

#[derive(Default)]
struct Track<'a> {
    /// Line in the bundle, timestamp and value as written.
    events: Vec<(&'a [u8], i64, &'a str)>,
    found: usize,
    partition: Option<u32>,
    moved: bool,
}

impl<'a> Log<'a> {
    /// The events of `bundle`, none of them found yet.
    pub(crate) fn expect(bundle: &'a [u8]) -> anyhow::Result<Self> {
        let mut aircraft: HashMap<String, Track<'a>> = HashMap::new();
        for line in bundle.split_inclusive(|byte| *byte == b'\n') {
            let event: Event<'a> = serde_json::from_slice(line)?;
            let (Some(key), Some(value)) = (event.key, event.value) else {
                continue;
            };
            let track = aircraft.entry(key.into_owned()).or_default();
            track.events.push((line, event.timestamp, value.get()));
        }
        Ok(Self { aircraft, others: 0 })
    }

    /// Takes note of records that were read from a partition, in their order.
    /// Errors: A line is no record.
    pub(crate) fn found(&mut self, partition: u32, lines: &[u8]) -> anyhow::Result<()> {
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let event: Event<'_> = serde_json::from_slice(line)?;
            let Some(track) = event.key.and_then(|key| self.aircraft.get_mut(&*key)) else {
                self.others += 1;
                continue;
            };
            let value = event.value.map(RawValue::get);
            let next = track.events.get(track.found);
            if next.is_some_and(|next| (next.1, Some(next.2)) == (event.timestamp, value)) {
                track.found += 1;
                track.moved |= track.partition.is_some_and(|earlier| earlier != partition);
                track.partition = Some(partition);
            } else {
                self.others += 1;
            }
        }
        Ok(())
    }

    /// The lines that have not been found, aircraft by aircraft in their order.
    pub(crate) fn missing(&self) -> Vec<u8> {
        let tracks = self.aircraft.values();
        let events = tracks.flat_map(|track| &track.events[track.found..]);
        let mut lines: Vec<&[u8]> = events.map(|event| event.0).collect();
        // All lines lie in the one bundle: by address they are in the order of the file.
        lines.sort_unstable_by_key(|line| line.as_ptr());
        lines.concat()
    }

    /// Aircraft, events found, and whether all came back, each aircraft's in one partition.
    pub(crate) fn summary(&self) -> (u64, u64, bool) {
        let found = self.aircraft.values().map(|track| track.found as u64).sum();
        let is_whole = |track: &Track<'_>| track.found == track.events.len() && !track.moved;
        let whole = self.aircraft.values().all(is_whole);
        (self.aircraft.len() as u64, found, whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundle_is_found_again_with_other_records_between() {
        let bundle = unpack().unwrap();
        let mut log = Log::expect(&bundle).unwrap();
        assert_eq!(log.missing(), bundle);
        let half = bundle.len() / 2;
        let half = half + memchr::memchr(b'\n', &bundle[half..]).unwrap() + 1;
        log.found(0, &bundle[..half]).unwrap();
        let others = b"{\"key\":\"N14228\",\"value\":1,\"timestamp\":1}\n{\"timestamp\":2}\n";
        log.found(0, others).unwrap();
        assert_eq!(log.missing(), &bundle[half..]);
        assert!(!log.summary().2);
        log.found(0, &bundle[half..]).unwrap();
        assert_eq!((log.summary(), log.others), ((2_468, 20_000, true), 2));
    }

    #[test]
    fn events_are_moved_by_whole_days_and_to_where_they_were_moved_before() {
        let bundle = unpack().unwrap();
        let now = 1_795_900_000_000;
        let last = |lines: &[u8]| {
            let line = lines.trim_ascii_end().rsplit(|byte| *byte == b'\n').next();
            let event: Event<'_> = serde_json::from_slice(line.unwrap()).unwrap();
            event.timestamp
        };
        let once = moved(&bundle, None, now).unwrap();
        assert!((0..DAY_MS).contains(&(now - last(&once))), "{}", last(&once));
        let first = fifth_day(&once).unwrap() - fifth_day(&bundle).unwrap() + 1_357_035_420_000;
        assert_eq!((last(&once) - last(&bundle)) % DAY_MS, 0);
        assert!(moved(&bundle, Some(first), now + 9 * DAY_MS).unwrap() == once);
        let of_another = moved(&bundle, Some(first + 1), now).unwrap();
        assert!(of_another == once, "another's record says nothing");
    }

    #[test]
    fn an_aircraft_whose_events_changed_places_is_not_whole() {
        let bundle = unpack().unwrap();
        let mut log = Log::expect(&bundle).unwrap();
        let mut lines: Vec<&[u8]> = bundle.split_inclusive(|byte| *byte == b'\n').collect();
        lines.reverse();
        log.found(0, &lines.concat()).unwrap();
        assert!(!log.summary().2);
    }
}
