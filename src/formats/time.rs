//! Times as clients write them.

use quipu_segments::TimestampMs;

/// A time as clients write it: milliseconds since the Unix epoch, or RFC 3339. Times before 1970 are not valid.
#[must_use]
pub fn parse_time(text: &str) -> Option<TimestampMs> {
    if let Ok(number) = text.parse::<i64>() {
        return (number >= 0 && !text.starts_with('+')).then_some(TimestampMs(number));
    }
    millis_of(text.parse().ok()?)
}

/// A point in time as records have it; `None` before 1970.
#[must_use]
pub fn millis_of(time: jiff::Timestamp) -> Option<TimestampMs> {
    // A point between two milliseconds lies after the first of them, so a record "at or after" it is at the second.
    let millis = time.as_millisecond() + i64::from(time.subsec_nanosecond() % 1_000_000 > 0);
    (millis >= 0).then_some(TimestampMs(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_milliseconds_or_rfc_3339() {
        assert_eq!(parse_time("1372636800000"), Some(TimestampMs(1_372_636_800_000)));
        assert_eq!(
            parse_time("2013-07-01T00:00:00Z"),
            Some(TimestampMs(1_372_636_800_000))
        );
        assert_eq!(
            parse_time("2013-07-01T02:00:00+02:00"),
            Some(TimestampMs(1_372_636_800_000))
        );
        assert_eq!(
            parse_time("2013-07-01T00:00:00.0001Z"),
            Some(TimestampMs(1_372_636_800_001))
        );
        for wrong in ["", "-1", "+5", "yesterday", "2013-07-01", "1e3"] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }
}
