//! Times and places in a topic's history as they are written on the command line.
//!
//! A place is `earliest`, `latest`, `offset:N` or a time. A time is RFC 3339, a date or a date with hours and minutes (in
//! UTC), an age (`-10m`, `-1h30m`, `-2d`), `now`, or milliseconds since the Unix epoch. A short number could be an offset
//! as well as a time, so it is refused wherever both are possible.
//! A parser's error says what is accepted.

use std::time::SystemTime;

use quipu::formats::{time, units};
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
    Offset(u64),
}

impl Position {
    /// What `--from` takes.
    pub(crate) fn parse_from(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            _ if text == "earliest" => Ok(Self::Earliest),
            _ if text == "latest" => Ok(Self::Latest),
            Some(("offset", number)) => {
                let wrong = format!("{number:?} is not an offset, a whole number from 0");
                number.parse().map(Self::Offset).map_err(|_| wrong)
            }
            Some(("time", time)) => Ok(Self::Time(
                parse_millis(time).map_or_else(|| parse_time(time), Ok)?,
            )),
            _ if is_number(text) && text.len() < MILLIS_DIGITS => Err(format!(
                "{text} could be an offset or a time: write offset:{text}, or time:{text} (milliseconds since 1970)"
            )),
            _ => parse_time(text)
                .map(Self::Time)
                .map_err(|error| format!("{error}; `earliest`, `latest` and offset:N are possible too")),
        }
    }

    /// What `--until` takes: as `--from`, but a history that ends at its start is a mistake.
    pub(crate) fn parse_until(text: &str) -> Result<Self, String> {
        match Self::parse_from(text) {
            Ok(Self::Earliest) => Err("nothing lies before `earliest`".to_owned()),
            result => result.map_err(|error| error.replace("`earliest`, `latest`", "`latest`")),
        }
    }

    /// The offset of this position in `partition`; only a time costs a request.
    /// Errors: [`Failure`]; an offset beyond the end.
    pub(crate) fn resolve(self, client: &Client, topic: &str, partition: &Partition) -> anyhow::Result<u64> {
        match self {
            Self::Offset(offset) if offset > partition.end_offset => anyhow::bail!(
                "offset-out-of-range: offset {offset} lies beyond the end of partition {} of {topic}, {}",
                partition.partition,
                partition.end_offset
            ),
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
    pub(crate) offset: u64,
    /// The timestamp of the record there; none at the end.
    pub(crate) timestamp: Option<i64>,
}

/// Asks for the first record at or after `time`.
pub(crate) fn at(client: &Client, topic: &str, partition: u32, time: TimestampMs) -> Result<At, Failure> {
    let number = partition.to_string();
    let route = Route::new(&["v1", "topics", topic, "partitions", &number, "offsets"]);
    client.get(&route.with("at", time.0))
}

/// Where `group reset` moves a group to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResetTo {
    Position(Position),
    /// This many records forward from the committed offset; back if negative.
    Shift(i64),
}

impl ResetTo {
    /// What `--to` takes.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some(records) = text.strip_prefix("shift:") {
            let wrong = format!("shift:{records} is not a number of records, as shift:-100 is");
            return records.parse().map(Self::Shift).map_err(|_| wrong);
        }
        Position::parse_from(text)
            .map(Self::Position)
            .map_err(|error| format!("{error}; shift:-100 too"))
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

/// A number of at least this many digits is milliseconds since the Unix epoch, not an offset. The smallest is in 1973.
const MILLIS_DIGITS: usize = 12;

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn parse_millis(text: &str) -> Option<TimestampMs> {
    text.parse().ok().filter(|_| is_number(text)).map(TimestampMs)
}

/// A time, see the module; a number is milliseconds since the Unix epoch.
pub(crate) fn parse_time(text: &str) -> Result<TimestampMs, String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    parse_time_at(text, now.map_or(0, |now| now.as_millis() as i64))
}

fn parse_time_at(text: &str, now_ms: i64) -> Result<TimestampMs, String> {
    let wrong = || {
        format!(
            "{text:?} is not a time like 2013-07-01T00:00:00Z, 2013-07-01T12:00 or 2013-07-01 (in UTC), -10m, -1h30m or -2d \
             (so long ago), or 1372636800000 (milliseconds)"
        )
    };
    if is_number(text) {
        let millis = parse_millis(text).ok_or_else(wrong)?;
        // As milliseconds it would lie in January 1970: more likely it counts seconds.
        if matches!(text.len(), 9..MILLIS_DIGITS) {
            return Err(format!(
                "{text} looks like seconds since 1970, and times are milliseconds: {text}000, or time:{text} for 1970"
            ));
        }
        return Ok(millis);
    }
    if text == "now" {
        return Ok(TimestampMs(now_ms));
    }
    if let Some(age) = text.strip_prefix('-') {
        let age = units::parse_duration(age).ok_or_else(wrong)?;
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        return Ok(TimestampMs(now_ms.saturating_sub(age).max(0)));
    }
    // The date's parser also knows dates without hyphens.
    let in_utc = || {
        let civil: jiff::civil::DateTime =
            (text.as_bytes().get(4) == Some(&b'-')).then(|| text.parse().ok())??;
        time::parse_rfc3339(&format!("{civil}Z"))
    };
    let is_in_utc =
        !text.ends_with(['Z', 'z']) && !text.get(10..).is_some_and(|rest| rest.contains(['+', '-']));
    if is_in_utc {
        in_utc()
    } else {
        time::parse_time(text)
    }
    .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_words_times_and_offsets() {
        let july = Position::Time(TimestampMs(1_372_636_800_000));
        let texts = "2013-07-01T00:00:00Z|2013-07-01T00:00|2013-07-01 00:00:00.000|2013-07-01|1372636800000|\
            time:1372636800000|time:2013-07-01|2013-07-01T02:00:00+02:00";
        for text in texts.split('|') {
            assert_eq!(Position::parse_from(text), Ok(july), "{text}");
        }
        for (text, millis) in [
            ("1931-12-31", 0),
            ("1969-12-31", 0),
            ("0001-01-01T00:00", 0),
            ("9999-12-31", 253_402_214_400_000),
        ] {
            let time = Position::Time(TimestampMs(millis));
            assert_eq!(Position::parse_from(text), Ok(time), "{text}");
        }
        assert_eq!(Position::parse_from("earliest"), Ok(Position::Earliest));
        assert_eq!(Position::parse_from("offset:7"), Ok(Position::Offset(7)));
        assert_eq!(Position::parse_from("time:7"), Ok(Position::Time(TimestampMs(7))));
        for wrong in "|soon|offset:|offset:-1|2013-13-01|-5|-|20130701|2013-07".split('|') {
            assert!(Position::parse_from(wrong).is_err(), "{wrong}");
        }
        for wrong in ["earliest", "1h"] {
            let error = Position::parse_until(wrong).unwrap_err();
            assert!(!error.contains("`earliest`, "), "{error}");
        }
    }

    #[test]
    fn an_age_is_counted_back_from_now() {
        let day = 86_400_000;
        for (text, millis) in [
            ("now", 10 * day),
            ("-10m", 10 * day - 600_000),
            ("-1h30m", 10 * day - 5_400_000),
            ("-2d", 8 * day),
            ("-9y", 0),
        ] {
            assert_eq!(parse_time_at(text, 10 * day), Ok(TimestampMs(millis)), "{text}");
        }
    }

    #[test]
    fn a_number_that_could_mean_two_things_is_refused() {
        for parse in [
            |text: &str| Position::parse_from(text).err(),
            |text: &str| ResetTo::parse(text).err(),
        ] {
            let error = parse("5").unwrap();
            let expected = "5 could be an offset or a time: write offset:5, or time:5";
            assert!(error.starts_with(expected), "{error}");
        }
        assert_eq!(parse_time("0"), Ok(TimestampMs(0)));
        let error = parse_time("1372636800").unwrap_err();
        assert!(error.contains("looks like seconds since 1970"), "{error}");
        assert!(error.contains("1372636800000"), "{error}");
    }

    #[test]
    fn a_reset_takes_places_and_shifts() {
        for (text, to) in [
            ("offset:100", json!({"offset": 100})),
            ("shift:-100", json!({"shift": -100})),
            ("time:100", json!(100)),
            ("2013-07-01", json!(1_372_636_800_000_i64)),
        ] {
            assert_eq!(ResetTo::parse(text).unwrap().to_json(), to, "{text}");
        }
        for wrong in ["", "shift:", "shift:x", "never"] {
            assert!(ResetTo::parse(wrong).is_err(), "{wrong}");
        }
    }
}
