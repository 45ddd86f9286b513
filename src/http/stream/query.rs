//! Reads the query of a stream.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};

use super::output::Format;
use crate::broker::engine::TimestampMs;
use crate::broker::filter::Filter;
use crate::broker::stream::request::{Beginning, Bounds, Ending, StreamRequest};
use crate::formats::cursor::{Cursor, MAX_PARTITIONS};
use crate::formats::time::parse_time;
use crate::http::accept::names;
use crate::http::params::{Params, VALUE_LIMIT, not_a_time};
use crate::http::path::parse_index;
use crate::http::problem::Problem;

/// The cursor of an `EventSource` that lost its connection.
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Those that it supports; the first only if the query names the topics.
const PARAMETERS: [&str; 15] = [
    "topics",
    "from",
    "until",
    "last",
    "key",
    "partitions",
    "follow",
    "order",
    "speed",
    "search",
    MAX_RECORDS,
    MAX_SCAN_BYTES,
    MAX_SCAN_MS,
    "data",
    VALUE_LIMIT,
];
/// The largest `last`: the places of these records are held in memory during the search.
const MOST_LAST: u64 = 100_000;

const MAX_RECORDS: &str = "max_records";
const MAX_SCAN_BYTES: &str = "max_scan_bytes";
const MAX_SCAN_MS: &str = "max_scan_ms";
/// The most bytes of the text that is searched for.
const MOST_SEARCH_BYTES: usize = 1024;
/// The records of one document, unless the query says how many.
const DOCUMENT_RECORDS: u64 = 500;
/// How many records one document, or a stream with a bound, has at most.
const MOST_RECORDS: u64 = 100_000;
/// How far a search looks, unless the query says so.
const SCAN_BYTES: u64 = 256 << 20;
const MOST_SCAN_BYTES: u64 = 1 << 50;
const SCAN_MS: u64 = 10_000;
const MOST_SCAN_MS: u64 = 600_000;

/// The prefix of a parameter that names a header.
const HEADER_PREFIX: &str = "header.";

/// The query of a stream, together with the header `Last-Event-ID`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StreamQuery {
    /// At least one if the path names no topic, otherwise empty.
    pub(super) topics: Vec<String>,
    /// The format of the answer.
    pub(super) format: Format,
    pub(super) request: StreamRequest,
    /// Records come as structured CloudEvents.
    pub(super) as_events: bool,
    /// Longer values are cut.
    pub(super) value_limit: Option<usize>,
}

impl StreamQuery {
    /// `several`: the topics are named by the query, not by the path.
    ///
    /// # Errors
    /// 400 with the parameter's name; 406 if the client accepts no format that the stream can have.
    pub(super) fn parse(query: Option<&str>, headers: &HeaderMap, several: bool) -> Result<Self, Problem> {
        let allowed = if several {
            &PARAMETERS[..]
        } else {
            &PARAMETERS[1..]
        };
        let params = Params::parse_with(query, allowed, Some(HEADER_PREFIX), &[])?;
        let topics = if several { topics(&params)? } else { Vec::new() };
        let resumed = resumed(headers)?;
        let is_resumed = resumed.is_some();
        // Checked even if `Last-Event-ID` takes precedence: a typo is refused.
        let from = from(&params)?;
        let until = until(&params)?;
        let last = params.number("last", 1, MOST_LAST)?.map(|last| last as usize);
        if last.is_some() && from == Beginning::Latest {
            let detail = "from=latest begins after the newest records; leave out from or last";
            return Err(Problem::invalid("last", detail));
        }
        let partitions = params.get("partitions").map(partitions).transpose()?;
        if partitions.is_some() && topics.len() > 1 {
            let detail = "partitions can be chosen only in a stream over one topic";
            return Err(Problem::invalid("partitions", detail));
        }
        let speed = speed(&params)?;
        let order = params.choice("order", &[("none", false), ("timestamp", true)])?;
        if speed.is_some() && order == Some(false) {
            let detail = "a replay with speed always has the order of timestamps; leave out order";
            return Err(Problem::invalid("order", detail));
        }
        let follow = params.flag("follow")?.unwrap_or(false);
        let is_paced = speed.is_some();
        let format = Format::choose(headers, follow)?;
        let browse = bounds(&params, format, last, follow || is_paced)?;
        if format == Format::Json && is_paced {
            let detail = "one document comes at once; leave out speed, or accept application/x-ndjson or text/event-stream";
            return Err(Problem::invalid("speed", detail));
        }
        let most = browse.map_or(u64::MAX, |bounds| bounds.records);
        let as_events = params.choice("data", &[("records", false), ("cloudevents", true)])?;
        let request = StreamRequest {
            from: resumed.map_or(from, Beginning::Cursor),
            until,
            // A client that resumes continues at its cursor.
            last: last.filter(|_| !is_resumed).map(|last| match follow {
                true => last,
                false => last.min(usize::try_from(most).unwrap_or(usize::MAX)),
            }),
            filter: Arc::new(filter(&params)?),
            browse,
            partitions,
            follow,
            by_time: speed.is_some() || order == Some(true),
            speed,
            is_resumed,
        };
        let as_events = as_events.unwrap_or_else(|| names(headers, "application/cloudevents+json"));
        let value_limit = params.value_limit()?;
        if as_events && value_limit.is_some() {
            return Err(Problem::invalid(VALUE_LIMIT, "CloudEvents have whole values"));
        }
        Ok(Self {
            topics,
            format,
            request,
            as_events,
            value_limit,
        })
    }
}

/// The key is a text; the values of headers are patterns.
fn filter(params: &Params) -> Result<Filter, Problem> {
    let mut filter = Filter::default();
    if let Some(key) = params.get("key") {
        filter.set_key(key);
    }
    if let Some(text) = params.get("search") {
        if text.is_empty() || text.len() > MOST_SEARCH_BYTES {
            let detail = format!(
                "the text to search for has 1 to {MOST_SEARCH_BYTES} bytes, not {}",
                text.len()
            );
            return Err(Problem::invalid("search", detail));
        }
        filter.set_text(text);
    }
    for (name, pattern) in params.with_prefix(HEADER_PREFIX) {
        let added = filter.add_header(name, pattern);
        added.map_err(|refusal| refusal.at(format!("{HEADER_PREFIX}{name}")))?;
    }
    Ok(filter)
}

/// How far the stream looks, if it browses: it searches, is one document, or the query bounds it.
///
/// What is left out has its default only where the answer says how it ended: lines cannot.
fn bounds(
    params: &Params,
    format: Format,
    last: Option<usize>,
    is_live: bool,
) -> Result<Option<Bounds>, Problem> {
    let records = params.number(MAX_RECORDS, 1, MOST_RECORDS)?;
    let bytes = params.number(MAX_SCAN_BYTES, 1, MOST_SCAN_BYTES)?;
    let ms = params.number(MAX_SCAN_MS, 1, MOST_SCAN_MS)?;
    for (name, bound) in [(MAX_SCAN_BYTES, bytes), (MAX_SCAN_MS, ms)] {
        if is_live && bound.is_some() {
            let detail = "a stream with follow or speed takes as long as the records do; leave it out";
            return Err(Problem::invalid(name, detail));
        }
    }
    let is_document = format == Format::Json;
    let is_search = params.get("search").is_some();
    if !is_document && !is_search && records.or(bytes).or(ms).is_none() {
        return Ok(None);
    }
    let is_bounded = !is_live && (is_document || (is_search && format == Format::Events));
    let or = |given: Option<u64>, default| given.or(is_bounded.then_some(default));
    let most = last.map_or(DOCUMENT_RECORDS, |last| last as u64);
    Ok(Some(Bounds {
        records: records.or(is_document.then_some(most)).unwrap_or(u64::MAX),
        bytes: or(bytes, SCAN_BYTES).unwrap_or(u64::MAX),
        time: or(ms, SCAN_MS).map_or(Duration::MAX, Duration::from_millis),
    }))
}

fn topics(params: &Params) -> Result<Vec<String>, Problem> {
    let missing = "name the topics, separated by commas: topics=a,b";
    let list = params.get("topics").filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| Problem::invalid("topics", missing))?;
    let mut topics: Vec<String> = Vec::new();
    for name in list.split(',') {
        check_count("topics", topics.len())?;
        if name.is_empty() {
            return Err(Problem::invalid("topics", "a topic's name cannot be empty"));
        }
        if topics.iter().any(|other| other == name) {
            return Err(Problem::invalid("topics", format!("{name} is named twice")));
        }
        topics.push(name.to_owned());
    }
    Ok(topics)
}

/// Refuses one more partition, or topic, than a stream may have.
fn check_count(name: &str, count: usize) -> Result<(), Problem> {
    if count < MAX_PARTITIONS {
        return Ok(());
    }
    let detail = format!("a stream is over at most {MAX_PARTITIONS} partitions");
    Err(Problem::invalid(name, detail))
}

fn resumed(headers: &HeaderMap) -> Result<Option<Cursor>, Problem> {
    let mut fields = headers.get_all(LAST_EVENT_ID).iter();
    let Some(field) = fields.next().filter(|field| !field.is_empty()) else {
        return Ok(None);
    };
    let cursor = field.to_str().ok().and_then(Cursor::decode);
    match (cursor, fields.next()) {
        (Some(cursor), None) => Ok(Some(cursor)),
        _ => {
            let detail = "Last-Event-ID is not the id of an event of this server";
            Err(Problem::invalid("Last-Event-ID", detail))
        }
    }
}

fn from(params: &Params) -> Result<Beginning, Problem> {
    match params.get("from") {
        None | Some("earliest") => Ok(Beginning::Earliest),
        Some("latest") => Ok(Beginning::Latest),
        Some(text) => time_or_cursor(
            "from",
            "earliest, latest",
            text,
            Beginning::Time,
            Beginning::Cursor,
        ),
    }
}

fn until(params: &Params) -> Result<Option<Ending>, Problem> {
    match params.get("until") {
        None => Ok(None),
        Some("latest") => Ok(Some(Ending::Latest)),
        Some(text) => time_or_cursor("until", "latest", text, Ending::Time, Ending::Cursor).map(Some),
    }
}

/// Reads a time or a cursor; the error also names `words`, which are allowed too.
fn time_or_cursor<T>(
    name: &str,
    words: &str,
    text: &str,
    of_time: fn(TimestampMs) -> T,
    of_cursor: fn(Cursor) -> T,
) -> Result<T, Problem> {
    if let Some(time) = parse_time(text) {
        return Ok(of_time(time));
    }
    let words = format!("{words}, the id of an event or ");
    let cursor = Cursor::decode(text).ok_or_else(|| not_a_time(name, &words, text))?;
    Ok(of_cursor(cursor))
}

fn partitions(list: &str) -> Result<Vec<u32>, Problem> {
    let mut partitions = Vec::new();
    for text in list.split(',') {
        check_count("partitions", partitions.len())?;
        let Some(index) = parse_index(text) else {
            let detail = "partitions must be numbers separated by commas, as in 0,3";
            let detail = format!("{detail}; {text:?} is not the number of a partition");
            return Err(Problem::invalid("partitions", detail));
        };
        if partitions.contains(&index) {
            let detail = format!("partition {index} is named twice");
            return Err(Problem::invalid("partitions", detail));
        }
        partitions.push(index);
    }
    Ok(partitions)
}

fn speed(params: &Params) -> Result<Option<f64>, Problem> {
    let Some(text) = params.get("speed") else {
        return Ok(None);
    };
    let is_plain = text.bytes().all(|byte| b"0123456789.eE-+".contains(&byte)) && !text.starts_with('+');
    match text.parse::<f64>() {
        Ok(speed) if is_plain && speed > 0.0 && speed.is_finite() => Ok(Some(speed)),
        _ => {
            let detail = format!("speed must be a number above 0, as in 60 or 0.5, not {text:?}");
            Err(Problem::invalid("speed", detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::broker::engine::TopicId;
    use http::HeaderValue;
    use http::header::ACCEPT;

    use super::*;

    fn parse(query: &str) -> Result<StreamRequest, Problem> {
        StreamQuery::parse(Some(query), &HeaderMap::new(), false).map(|query| query.request)
    }

    fn cursor() -> Cursor {
        Cursor {
            directory: 5,
            topics: vec![TopicId(1)],
            reached: Vec::new(),
        }
    }

    #[test]
    fn a_stream_begins_at_the_log_start_and_ends_at_the_end_unless_it_says_otherwise() {
        let query = parse("").unwrap();
        let expected = (Beginning::Earliest, None, false);
        assert_eq!((query.from, query.until, query.follow), expected);
        let expected = (false, None, None);
        assert_eq!((query.by_time, query.speed, query.partitions), expected);
        assert!(query.filter.is_open());
    }

    #[test]
    fn every_parameter_is_read() {
        let text = "from=5&until=1970-01-01T00:00:01Z&last=7&key=a%20b&partitions=3,0&follow=true&order=timestamp\
            &speed=0.5&header.type=x%3Dy&header.b.c=&header.type=order.*";
        let query = parse(text).unwrap();
        assert_eq!(query.from, Beginning::Time(TimestampMs(5)));
        assert_eq!(query.until, Some(Ending::Time(TimestampMs(1000))));
        assert_eq!((query.last, query.partitions), (Some(7), Some(vec![3, 0])));
        let expected = (true, true, Some(0.5));
        assert_eq!((query.follow, query.by_time, query.speed), expected);
        let mut filter = Filter::default();
        filter.set_key("a b");
        for (name, pattern) in [("type", "x=y"), ("type", "order.*"), ("b.c", "")] {
            filter.add_header(name, pattern).unwrap();
        }
        assert_eq!(*query.filter, filter);
        // A key is compared as it is.
        assert_eq!(parse("key=a*").unwrap().filter.key(), Some("a*"));
        assert!(parse("speed=60").unwrap().by_time);
        assert_eq!(parse("speed=1e%2B3").unwrap().speed, Some(1000.0));
        let expected = Some(Ending::Latest);
        assert_eq!(parse("from=latest&until=latest").unwrap().until, expected);
        let query = parse(&format!("from={0}&until={0}&follow=true", cursor().encode())).unwrap();
        assert!(!query.goes_on(), "it ends where the cursor is");
        assert_eq!(query.from, Beginning::Cursor(cursor()));
        assert_eq!(query.until, Some(Ending::Cursor(cursor())));
    }

    #[test]
    fn the_id_of_the_last_event_wins_over_from_and_an_empty_one_says_nothing() {
        let with = |id: &str, query| {
            let headers = HeaderMap::from_iter([(LAST_EVENT_ID, HeaderValue::from_str(id).unwrap())]);
            StreamQuery::parse(Some(query), &headers, false).map(|query| query.request)
        };
        for query in ["from=latest", "last=5"] {
            let query = with(&cursor().encode(), query).unwrap();
            assert_eq!(query.from, Beginning::Cursor(cursor()));
            assert_eq!((query.last, query.is_resumed), (None, true));
        }
        let query = with("", "from=latest").unwrap();
        assert_eq!((query.from, query.is_resumed), (Beginning::Latest, false));
        for wrong in ["17", "earliest", "Axy"] {
            assert_eq!(with(wrong, "").unwrap_err().to_json()["pointer"], "Last-Event-ID");
        }
        let problem = with(&cursor().encode(), "from=x").unwrap_err();
        assert_eq!(problem.to_json()["pointer"], "from");
    }

    #[test]
    fn a_wrong_parameter_is_the_pointer_of_the_refusal() {
        for (pointer, queries) in [
            ("form", "form=earliest"),
            ("topics", "topics=a"),
            ("from", "from= from=-5 from=Ax"),
            ("until", "until=earliest until= until=Ax"),
            ("last", "last=0 last=100001 last=5&from=latest"),
            (
                "partitions",
                "partitions= partitions=0,0 partitions=01 partitions=0,x partitions=18446744073709551616",
            ),
            ("follow", "follow=1 follow"),
            ("order", "order=time order=none&speed=1"),
            (
                "speed",
                "speed=0 speed=-1 speed=inf speed=NaN speed=1e999 speed=%2B1 speed=",
            ),
            ("header.", "header.=x"),
            (
                "header.a",
                "header.a=or* header.a=1&header.a=%23%23 header.b=*&header.a=a.b%23",
            ),
            ("key", "key=a&key=b"),
            ("search", "search= search"),
            ("max_records", "max_records=0 max_records=100001 max_records=x"),
            (
                "max_scan_bytes",
                "max_scan_bytes=0 max_scan_bytes=1&follow=true max_scan_bytes=1&speed=2",
            ),
            (
                "max_scan_ms",
                "max_scan_ms=0 max_scan_ms=600001 max_scan_ms=9&follow=true",
            ),
        ] {
            for query in queries.split(' ') {
                let problem = parse(query).unwrap_err().to_json();
                assert_eq!(problem["status"], 400, "{query}");
                assert_eq!(problem["pointer"], pointer, "{query}");
            }
        }
    }

    #[test]
    fn what_is_not_bounded_by_the_query_is_where_the_answer_says_how_it_ended() {
        let browse = |accept: &'static str, query| {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            let query = StreamQuery::parse(Some(query), &headers, false).unwrap();
            let bounds = query.request.browse;
            bounds.map(|bounds| (bounds.records, bounds.bytes, bounds.time.as_millis() as u64))
        };
        let (json, lines, events) = ("application/json", "application/x-ndjson", "text/event-stream");
        let none = u128::from(u64::MAX) as u64;
        let max_ms = Duration::MAX.as_millis() as u64;
        for (accept, query, expected) in [
            (lines, "", None),
            (events, "last=5&key=a", None),
            (lines, "search=x", Some((none, none, max_ms))),
            (lines, "search=x&max_scan_ms=7", Some((none, none, 7))),
            (lines, "max_records=3&max_scan_bytes=1", Some((3, 1, max_ms))),
            (events, "search=x", Some((none, SCAN_BYTES, SCAN_MS))),
            (events, "search=x&follow=true", Some((none, none, max_ms))),
            (json, "", Some((500, SCAN_BYTES, SCAN_MS))),
            (json, "last=700&max_scan_ms=1", Some((700, SCAN_BYTES, 1))),
            (json, "last=700&max_records=9", Some((9, SCAN_BYTES, SCAN_MS))),
        ] {
            assert_eq!(browse(accept, query), expected, "{accept} {query}");
        }
        assert_eq!(parse("last=700&max_records=9").unwrap().last, Some(9));
        assert_eq!(
            parse("last=700&max_records=9&follow=true").unwrap().last,
            Some(700)
        );
        assert!(parse(&format!("search={}", "x".repeat(1024))).is_ok());
        assert!(parse(&format!("search={}", "x".repeat(1025))).is_err());
    }

    #[test]
    fn one_document_is_sent_only_to_who_asks_for_nothing_else_and_has_an_end() {
        let format = |accept: &'static str, query| {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            let query = StreamQuery::parse(Some(query), &headers, false);
            query
                .map(|query| query.format)
                .map_err(|problem| problem.to_json())
        };
        for (accept, query, expected) in [
            ("application/json", "", Format::Json),
            ("application/json, text/plain, */*", "", Format::NdJson),
            ("application/json, text/plain, */*", "follow=true", Format::NdJson),
            ("application/*", "", Format::NdJson),
            ("application/json, text/event-stream", "", Format::Events),
            ("application/json, text/event-stream;q=0.5", "", Format::Json),
            (
                "application/json, text/event-stream;q=0.5",
                "follow=true",
                Format::Events,
            ),
        ] {
            assert_eq!(format(accept, query), Ok(expected), "{accept} {query}");
        }
        let problem = format("application/json", "follow=true").unwrap_err();
        assert_eq!(problem["status"], 406);
        assert_eq!(
            format("application/json", "speed=1").unwrap_err()["pointer"],
            "speed"
        );
    }

    #[test]
    fn a_plus_that_became_a_blank_is_explained() {
        for name in ["from", "until"] {
            let problem = parse(&format!("{name}=2024-01-01T00:00:00+02:00")).unwrap_err();
            let holds = problem.to_json()["detail"].as_str().unwrap().contains("%2B");
            assert!(holds, "{problem:?}");
        }
    }

    #[test]
    fn more_than_a_stream_can_have_is_refused_before_it_costs_anything() {
        let list = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        assert!(parse(&format!("partitions={}", list(256))).is_ok());
        assert!(parse(&format!("partitions={}", list(257))).is_err());
        let topics =
            |count| StreamQuery::parse(Some(&format!("topics={}", list(count))), &HeaderMap::new(), true);
        assert!(topics(256).is_ok() && topics(257).is_err());
    }

    #[test]
    fn several_topics_are_named_once_each_and_partitions_are_of_one() {
        let parse = |query| StreamQuery::parse(Some(query), &HeaderMap::new(), true);
        assert_eq!(parse("topics=a,b").unwrap().topics, ["a", "b"]);
        assert!(parse("topics=a&partitions=1").is_ok());
        for (query, pointer) in [
            ("", "topics"),
            ("topics=", "topics"),
            ("topics=a,", "topics"),
            ("topics=a,b,a", "topics"),
            ("topics=a,b&partitions=0", "partitions"),
        ] {
            let problem = parse(query).unwrap_err().to_json();
            assert_eq!(problem["pointer"], pointer, "{query}");
        }
    }
}
