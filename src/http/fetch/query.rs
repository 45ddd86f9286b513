//! Reads the query of a fetch.

use std::time::Duration;

use crate::broker::engine::Offset;
use crate::broker::fetch::range::{FetchRequest, FetchStart};
use crate::http::params::{Params, VALUE_LIMIT};
use crate::http::problem::Problem;

const PARAMETERS: [&str; 9] = [
    "offset",
    "from",
    "until_offset",
    "until",
    "max_records",
    "max_bytes",
    "wait_ms",
    "min_bytes",
    VALUE_LIMIT,
];

/// The default number of records in one answer.
const DEFAULT_RECORDS: u64 = 500;
/// The largest number of records in one answer.
const MOST_RECORDS: u64 = 100_000;
/// The default number of stored bytes in one answer.
const DEFAULT_BYTES: u64 = 1 << 20;
/// The largest number of stored bytes in one answer.
const MOST_BYTES: u64 = 32 << 20;
/// The longest wait: many proxies close a connection on which the server is silent for longer than a minute.
const MOST_WAIT_MS: u64 = 60_000;

/// The query of a fetch.
#[derive(Clone, Debug)]
pub(crate) struct FetchQuery {
    pub(super) request: FetchRequest,
    /// Longer values are cut.
    pub(super) value_limit: Option<usize>,
}

/// Reads the query of a fetch; limits above the maximum are clamped to it.
///
/// # Errors
/// 400 with the parameter's name: unknown ones, bad values, neither or both of `offset` and `from`, and offsets
/// that are in the wrong order.
pub(crate) fn parse(query: Option<&str>) -> Result<FetchQuery, Problem> {
    let params = Params::parse(query, &PARAMETERS, &[])?;
    let start = match (params.get("offset"), params.time("from")?) {
        (Some(_), Some(_)) => {
            let detail = "a fetch begins at offset or at from, not at both";
            return Err(Problem::invalid("from", detail));
        }
        (None, None) => {
            let forms = "offset=<number>, offset=earliest, offset=latest or from=<time>";
            return Err(Problem::invalid("offset", format!("say where to begin: {forms}")));
        }
        (None, Some(time)) => FetchStart::Time(time),
        (Some("earliest"), None) => FetchStart::Earliest,
        (Some("latest"), None) => FetchStart::Latest,
        (Some(text), None) => {
            let detail = || format!("offset must be a number, earliest or latest, not {text:?}");
            let number = offset(&params, "offset")?;
            FetchStart::Offset(number.ok_or_else(|| Problem::invalid("offset", detail()))?)
        }
    };
    let until_offset = offset(&params, "until_offset")?;
    if let (FetchStart::Offset(from), Some(until)) = (start, until_offset)
        && from > until
    {
        let detail = format!("until_offset, {until}, lies before offset, {from}");
        return Err(Problem::invalid("until_offset", detail));
    }
    let limit = |name, low, default| -> Result<u64, Problem> {
        Ok(params.number(name, low, u64::MAX)?.unwrap_or(default))
    };
    let max_bytes = limit("max_bytes", 1, DEFAULT_BYTES)?.min(MOST_BYTES);
    let request = FetchRequest {
        start,
        until_offset,
        until: params.time("until")?,
        max_records: limit("max_records", 1, DEFAULT_RECORDS)?.min(MOST_RECORDS),
        max_bytes,
        wait: Duration::from_millis(params.number("wait_ms", 0, MOST_WAIT_MS)?.unwrap_or(0)),
        min_bytes: limit("min_bytes", 0, 1)?.min(max_bytes),
        whole_batches: false,
    };
    let value_limit = params.value_limit()?;
    Ok(FetchQuery { request, value_limit })
}

fn offset(params: &Params, name: &str) -> Result<Option<Offset>, Problem> {
    // `number` keeps it within the range of offsets.
    Ok(params.number(name, 0, Offset::MAX.get())?.map(Offset::new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::engine::TimestampMs;

    #[test]
    fn defaults_are_those_of_the_contract() {
        let expected = FetchRequest {
            start: FetchStart::Offset(Offset::new(7)),
            until_offset: None,
            until: None,
            max_records: 500,
            max_bytes: 1 << 20,
            wait: Duration::ZERO,
            min_bytes: 1,
            whole_batches: false,
        };
        let query = parse(Some("offset=7")).unwrap();
        assert_eq!((query.request, query.value_limit), (expected, None));
    }

    #[test]
    fn a_start_is_an_offset_a_word_or_a_time() {
        for (text, start) in [
            ("offset=earliest", FetchStart::Earliest),
            ("offset=latest", FetchStart::Latest),
            ("from=5", FetchStart::Time(TimestampMs(5))),
            ("from=1970-01-01T00:00:01Z", FetchStart::Time(TimestampMs(1000))),
            ("offset=9223372036854775807", FetchStart::Offset(Offset::MAX)),
        ] {
            assert_eq!(parse(Some(text)).unwrap().request.start, start, "{text}");
        }
    }

    #[test]
    fn limits_above_the_most_are_clamped() {
        let text = "offset=0&max_records=100001&max_bytes=99999999999999&min_bytes=99999999999999";
        let query = parse(Some(text)).unwrap().request;
        let limits = (query.max_records, query.max_bytes, query.min_bytes);
        assert_eq!(limits, (MOST_RECORDS, MOST_BYTES, MOST_BYTES));
    }

    #[test]
    fn a_wrong_parameter_is_the_pointer_of_the_refusal() {
        for (text, pointer) in [
            ("", "offset"),
            ("max_records=5", "offset"),
            ("offset=1&from=2", "from"),
            ("offset=", "offset"),
            ("offset=-1", "offset"),
            ("offset=first", "offset"),
            ("offset=9223372036854775808", "offset"),
            ("from=soon", "from"),
            ("offset=0&until_offset=x", "until_offset"),
            ("offset=6&until_offset=5", "until_offset"),
            ("offset=0&until=-5", "until"),
            ("offset=0&max_records=0", "max_records"),
            ("offset=0&max_bytes=0", "max_bytes"),
            ("offset=0&wait_ms=60001", "wait_ms"),
            ("offset=0&min_bytes=x", "min_bytes"),
            ("offset=0&value_limit=-1", "value_limit"),
            ("offset=0&limit=5", "limit"),
        ] {
            let problem = parse(Some(text)).unwrap_err().to_json();
            assert_eq!(problem["status"], 400, "{text}");
            assert_eq!(problem["pointer"], pointer, "{text}");
        }
    }
}
