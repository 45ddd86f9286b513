//! The bundled events: 20,000 departures and arrivals at New York's airports in January 2013.
//!
//! The key of an event is the aircraft's tail number. [`Log`] finds the bundled events again among what a topic holds:
//! an aircraft's events must come back in their order, and what somebody else appended between them is no mistake.

use std::collections::HashMap;
use std::io::Read;

use anyhow::Context;
use serde::Deserialize;
use serde_json::value::RawValue;

static FILE: &[u8] = include_bytes!("../../../examples/flights-20k.ndjson.gz");

/// The bundled events as NDJSON.
///
/// # Errors
/// The bundle does not decompress, which a build cannot have.
pub(crate) fn unpack() -> anyhow::Result<Vec<u8>> {
    let mut lines = Vec::new();
    flate2::read::MultiGzDecoder::new(FILE)
        .read_to_end(&mut lines)
        .context("the bundled events are damaged")?;
    Ok(lines)
}

/// What of a record counts as the same event.
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
    /// Records that are no bundled event, or not the next one of their aircraft.
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
    ///
    /// # Errors
    /// The bundle holds something else than records.
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
    ///
    /// # Errors
    /// A line is no record.
    pub(crate) fn found(&mut self, partition: u32, lines: &[u8]) -> anyhow::Result<()> {
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let event: Event<'_> = serde_json::from_slice(line)?;
            let Some(track) = event.key.and_then(|key| self.aircraft.get_mut(&*key)) else {
                self.others += 1;
                continue;
            };
            let value = event.value.map(RawValue::get);
            if track
                .events
                .get(track.found)
                .is_some_and(|next| (next.1, Some(next.2)) == (event.timestamp, value))
            {
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
        let mut lines: Vec<&[u8]> = self
            .aircraft
            .values()
            .flat_map(|track| &track.events[track.found..])
            .map(|event| event.0)
            .collect();
        // All lines lie in the one bundle: by address they are in the order of the file.
        lines.sort_unstable_by_key(|line| line.as_ptr());
        lines.concat()
    }

    /// Aircraft, events found, and whether all came back, each aircraft's in one partition.
    pub(crate) fn summary(&self) -> (u64, u64, bool) {
        let found = self.aircraft.values().map(|track| track.found as u64).sum();
        let whole = self
            .aircraft
            .values()
            .all(|track| track.found == track.events.len() && !track.moved);
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
        log.found(
            0,
            b"{\"key\":\"N14228\",\"value\":1,\"timestamp\":1}\n{\"timestamp\":2}\n",
        )
        .unwrap();
        assert_eq!(log.missing(), &bundle[half..]);
        assert!(!log.summary().2);
        log.found(0, &bundle[half..]).unwrap();
        assert_eq!((log.summary(), log.others), ((2_468, 20_000, true), 2));
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
