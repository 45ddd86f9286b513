//! Places in a topic's history as they are written on the command line.
//!
//! `earliest`, `latest`, a time (RFC 3339, a date, or milliseconds since the Unix epoch) or `offset:N`. Where offsets
//! are the usual thing to say, as in `group reset`, a bare number is an offset and milliseconds are `time:MS`.

use quipu::formats::time;
use quipu_segments::TimestampMs;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Partition;
use super::client::{Client, Failure, Route};

/// A place in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// The log start.
    Earliest,
    /// The end.
    Latest,
    /// The first record at or after that time.
    Time(TimestampMs),
    /// That offset.
    Offset(u64),
}

impl Position {
    /// What `--from` takes.
    ///
    /// # Errors
    /// What would have been right.
    pub(crate) fn parse_from(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            _ if text == "earliest" => Ok(Self::Earliest),
            _ if text == "latest" => Ok(Self::Latest),
            Some(("offset", number)) => Ok(Self::Offset(parse_offset(number)?)),
            Some(("time", time)) => Ok(Self::Time(parse_time(time)?)),
            _ => parse_time(text)
                .map(Self::Time)
                .map_err(|error| format!("{error}; `earliest`, `latest` and offset:N are possible too")),
        }
    }

    /// What `--until` takes: as `--from`, but a history that ends at its start is a mistake.
    ///
    /// # Errors
    /// What would have been right.
    pub(crate) fn parse_until(text: &str) -> Result<Self, String> {
        match Self::parse_from(text)? {
            Self::Earliest => Err("nothing lies before `earliest`".to_owned()),
            position => Ok(position),
        }
    }

    /// The offset that this is in a partition as it was described; an offset is taken as it stands, and only a time
    /// costs a request.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn resolve(self, client: &Client, topic: &str, partition: &Partition) -> Result<u64, Failure> {
        match self {
            Self::Offset(offset) => Ok(offset),
            Self::Earliest => Ok(partition.log_start_offset),
            Self::Latest => Ok(partition.end_offset),
            Self::Time(time) => Ok(at(client, topic, partition.partition, time)?.offset),
        }
    }
}

/// An answer of `GET …/offsets?at=`.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct At {
    /// The offset.
    pub(crate) offset: u64,
    /// The timestamp of the record there; none at the end.
    pub(crate) timestamp: Option<i64>,
}

/// Asks for the first record at or after `time`.
///
/// # Errors
/// [`Failure`].
pub(crate) fn at(client: &Client, topic: &str, partition: u32, time: TimestampMs) -> Result<At, Failure> {
    let number = partition.to_string();
    let route = Route::new(&["v1", "topics", topic, "partitions", &number, "offsets"]);
    client.get(&route.with("at", time.0))
}

/// Where `group reset` puts a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResetTo {
    /// A place.
    Position(Position),
    /// So many records on (or back, if negative) from what is committed.
    Shift(i64),
}

impl ResetTo {
    /// What `--to` takes.
    ///
    /// # Errors
    /// What would have been right.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some(records) = text.strip_prefix("shift:") {
            return match records.parse() {
                Ok(records) => Ok(Self::Shift(records)),
                Err(_) => Err(format!(
                    "shift:{records} is not a number of records, as shift:-100 is"
                )),
            };
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Position(Position::Offset(parse_offset(text)?)));
        }
        match Position::parse_from(text) {
            Ok(position) => Ok(Self::Position(position)),
            Err(_) => Err(format!(
                "{text:?} is none of earliest, latest, an offset, a time (2013-07-01T00:00:00Z, time:1372636800000) \
                 and shift:-100"
            )),
        }
    }

    /// As the HTTP API writes it.
    pub(crate) fn to_json(self) -> Value {
        match self {
            Self::Position(Position::Earliest) => json!("earliest"),
            Self::Position(Position::Latest) => json!("latest"),
            Self::Position(Position::Time(time)) => json!(time.0),
            Self::Position(Position::Offset(offset)) => json!({"offset": offset}),
            Self::Shift(records) => json!({"shift": records}),
        }
    }
}

/// A time: RFC 3339, a date (its first moment, UTC) or milliseconds since the Unix epoch.
///
/// # Errors
/// What would have been right.
pub(crate) fn parse_time(text: &str) -> Result<TimestampMs, String> {
    let midnight = || {
        let date: jiff::civil::Date = (text.len() == 10).then(|| text.parse().ok())??;
        let time = date
            .to_zoned(jiff::tz::TimeZone::UTC)
            .ok()?
            .timestamp()
            .as_millisecond();
        (time >= 0).then_some(TimestampMs(time))
    };
    // Ten digits may be a date without its hyphens to the date's parser; they are milliseconds here.
    time::parse_time(text).or_else(midnight).ok_or_else(|| {
        format!(
            "{text:?} is not a time like 2013-07-01T00:00:00Z, 2013-07-01 or 1372636800000 (milliseconds)"
        )
    })
}

fn parse_offset(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an offset, a whole number from 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_words_times_and_offsets() {
        let july = Position::Time(TimestampMs(1_372_636_800_000));
        for text in [
            "2013-07-01T00:00:00Z",
            "2013-07-01",
            "1372636800000",
            "time:2013-07-01",
            "2013-07-01T02:00:00+02:00",
        ] {
            assert_eq!(Position::parse_from(text), Ok(july), "{text}");
        }
        assert_eq!(Position::parse_from("earliest"), Ok(Position::Earliest));
        assert_eq!(Position::parse_from("offset:7"), Ok(Position::Offset(7)));
        for wrong in [
            "",
            "soon",
            "offset:",
            "offset:-1",
            "2013-13-01",
            "-5",
            "1969-12-31",
        ] {
            assert!(Position::parse_from(wrong).is_err(), "{wrong}");
        }
        assert!(Position::parse_until("earliest").is_err());
    }

    #[test]
    fn a_bare_number_resets_to_an_offset() {
        assert_eq!(ResetTo::parse("100").unwrap().to_json(), json!({"offset": 100}));
        assert_eq!(
            ResetTo::parse("shift:-100").unwrap().to_json(),
            json!({"shift": -100})
        );
        assert_eq!(ResetTo::parse("time:100").unwrap().to_json(), json!(100));
        assert_eq!(
            ResetTo::parse("2013-07-01").unwrap().to_json(),
            json!(1_372_636_800_000_i64)
        );
        for wrong in ["", "shift:", "shift:x", "never"] {
            assert!(ResetTo::parse(wrong).is_err(), "{wrong}");
        }
    }
}
