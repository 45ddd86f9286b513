//! Reads the times that clients write, for query parameters, JSON, CloudEvents and the command line.

use jiff::civil::Date;
use jiff::fmt::temporal::Pieces;
use quipu_segments::TimestampMs;

/// A time as clients write it: milliseconds since the Unix epoch, or RFC 3339.
pub fn parse_time(text: &str) -> Option<TimestampMs> {
    if let Ok(number) = text.parse::<i64>() {
        return (number >= 0 && !text.starts_with('+')).then_some(TimestampMs(number));
    }
    parse_rfc3339(text)
}

/// A time by RFC 3339, in all its range. Fractions of a millisecond are rounded down; a time before 1970 becomes 1970.
pub fn parse_rfc3339(text: &str) -> Option<TimestampMs> {
    let millis = match text.parse::<jiff::Timestamp>() {
        Ok(time) => time.as_millisecond(),
        // The last two days of the year 9999 exceed a timestamp, so that no time zone leads out of the year.
        Err(_) => {
            let pieces = Pieces::parse(text).ok()?;
            let (time, offset) = (pieces.time()?, pieces.to_numeric_offset()?);
            let epoch = Date::constant(1970, 1, 1);
            let days = epoch.until((jiff::Unit::Day, pieces.date())).ok()?.get_days();
            let seconds = i64::from(days) * 86_400
                + i64::from(time.hour()) * 3600
                + i64::from(time.minute()) * 60
                + i64::from(time.second())
                - i64::from(offset.seconds());
            seconds * 1000 + i64::from(time.millisecond())
        }
    };
    Some(TimestampMs(millis.max(0)))
}

/// A hint for a time in a query whose `+` was decoded as a space; empty for other mistakes.
pub fn hint(text: &str) -> &'static str {
    if text.contains(' ') && parse_time(&text.replace(' ', "+")).is_some() {
        "; in a query the + of an offset is written %2B"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_milliseconds_or_rfc_3339_in_all_its_range() {
        for (text, millis) in [
            ("1372636800000", 1_372_636_800_000),
            ("2013-07-01T00:00:00Z", 1_372_636_800_000),
            ("2013-07-01T02:00:00+02:00", 1_372_636_800_000),
            ("2013-07-01T00:00:00.0019Z", 1_372_636_800_001),
            ("0001-01-01T00:00:00Z", 0),
            ("0000-01-01T00:00:00-23:59", 0),
            ("1969-12-31T23:59:59.9999Z", 0),
            ("1970-01-01T00:00:00.0009Z", 0),
            ("9999-12-30T22:00:00Z", 253_402_207_200_000),
            ("9999-12-31T23:59:59Z", 253_402_300_799_000),
            ("9999-12-31T23:59:59.9999Z", 253_402_300_799_999),
            ("9999-12-31T23:59:59-23:59", 253_402_387_139_000),
        ] {
            assert_eq!(parse_time(text), Some(TimestampMs(millis)), "{text}");
        }
        let wrong =
            "-1 +5 yesterday 2013-07-01 1e3 9999-12-31T24:00:00Z 9999-12-32T00:00:00Z 9999-12-31T23:59:59";
        for wrong in wrong.split(' ').chain([""]) {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_plus_that_became_a_blank_is_named() {
        assert!(hint("2024-01-01T00:00:00 02:00").contains("%2B"));
        assert_eq!(hint("2024-01-01 00:00:00"), "");
    }
}
