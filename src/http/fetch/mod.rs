//! Fetch over HTTP: the query, the caching headers, the body.
//!
//! `broker::fetch` resolves the offsets and reads; the answer is rendered while the client reads it. The answer to a
//! closed range holds nothing that changes (no positions). It has a strong `ETag`, and the client may keep it: a client
//! that already has it gets 304. Every other answer is `no-store`.

pub(super) mod body;
pub(super) mod query;

use axum::extract::RawQuery;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::accept::{Representation, negotiate};
use super::openapi::shapes;
use super::params::VALUE_LIMIT;
use super::path::AtPartition;
use super::problem::Problem;
use super::{Mapped, links};
use crate::broker::engine::{Log, Partition, Topic};
use crate::broker::fetch::page::Page;
use crate::broker::fetch::range::{FetchRange, FetchRequest};
use crate::broker::fetch::unreadable;
use crate::broker::topics::catalog;
use crate::broker::topics::skips::Gap;
use crate::http::Answer;
use crate::http::app::App;
use query::FetchQuery;

const NEXT_OFFSET: HeaderName = HeaderName::from_static("next-offset");
const LOG_START_OFFSET: HeaderName = HeaderName::from_static("log-start-offset");
const END_OFFSET: HeaderName = HeaderName::from_static("end-offset");
/// Damaged offsets that the operator has skipped: `100-250` (the second exclusive), separated by commas.
const GAPS: HeaderName = HeaderName::from_static("gaps");

/// The number of rewrites of stored history (compaction would be one); part of every `ETag`.
const GENERATION: u64 = 0;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(fetch))
}

/// Fetches records of one partition
///
/// The answer holds the available records within the limits; at the end of the log it has none. `next_offset` is where
/// the next fetch begins. With `wait_ms` the fetch waits until `min_bytes` are there.
///
/// With `until_offset` at or below the end of the log, the answer never changes: it leaves out `log_start_offset` and
/// `end_offset` (headers and body), has a strong `ETag`, and `If-None-Match` can be answered with 304.
///
/// As CloudEvents, a record that was produced as an event is that event again. Any other record is an event of type
/// `quipu.record`; its source and id say where the record is stored.
///
/// Damaged bytes end an answer early, after the healthy records before them. A fetch that begins in damage is refused;
/// the problem says where to continue. Damage that the operator has skipped is reported as a gap.
#[utoipa::path(get, path = "/v1/topics/{topic}/partitions/{partition}/records", tag = "records",
    params(
        ("offset" = Option<shapes::FetchStart>, Query, description = "Where to begin: a number, `earliest` (the log start) or `latest` (the end). Exactly one of `offset` and `from` is needed.", example = "earliest"),
        ("from" = Option<shapes::Time>, Query, description = "Where to begin: the first record whose timestamp is at or after this time, in milliseconds or RFC 3339"),
        ("until_offset" = Option<u64>, Query, description = "The answer ends before this offset"),
        ("until" = Option<shapes::Time>, Query, description = "The answer ends before the first record whose timestamp is at or after this time"),
        ("max_records" = Option<u64>, Query, minimum = 1, description = "The largest number of records: default 500, maximum 100000 (a larger value counts as 100000). Batches are not cut: the batch that reaches the limit is the last one."),
        ("max_bytes" = Option<u64>, Query, minimum = 1, description = "The largest number of stored bytes: default 1048576, maximum 33554432 (a larger value counts as 33554432). At least one record, or batch, is returned if there is one, whatever its size."),
        ("wait_ms" = Option<u64>, Query, maximum = 60000, description = "How long to wait for `min_bytes`, in milliseconds: default 0, maximum 60000"),
        ("min_bytes" = Option<u64>, Query, description = "Stored bytes to wait for: default 1"),
        ("value_limit" = Option<u64>, Query, description = "Of a longer value only its first bytes, as `value_text`, with `value_bytes` and `truncated`. Not for batches and CloudEvents"),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an answer that the client already has"),
    ),
    responses(
        (status = 200, description = "The records. Lines, events and batches come without the other members of the JSON document: `next_offset` and the rest are then in the headers only. Batches are sent as they are stored: the first may begin before `offset`, and the last may end after `until_offset`.",
            content(
                (FetchedRecords = "application/json"),
                (Vec<JsonRecord> = "application/x-ndjson"),
                (Vec<shapes::CloudEvent> = "application/cloudevents-batch+json"),
                (shapes::RecordBatches = "application/vnd.apache.kafka.record-batch"),
            ),
            headers(
                ("Next-Offset" = u64, description = "Where the next fetch begins"),
                ("Log-Start-Offset" = u64, description = "The first offset that is kept; absent if the answer never changes"),
                ("End-Offset" = u64, description = "One past the offset of the last record; absent if the answer never changes"),
                ("Gaps" = String, description = "Damaged offsets that the operator has skipped: `100-250`, the second exclusive, separated by commas; absent if there are none"),
                ("ETag" = String, description = "Only on an answer that never changes"),
                ("Cache-Control" = String, description = "`private, no-cache` on an answer that never changes, else `no-store`"),
            )),
        (status = 304, description = "The client already has this answer",
            headers(("ETag" = String, description = "As `If-None-Match` has it"))),
        (status = 400, description = "`invalid-request`; `pointer` names the parameter"),
        (status = 406, description = "`not-acceptable`"),
        (status = 410, description = "`offset-trimmed`: below `log_start_offset`"),
        (status = 416, description = "`offset-out-of-range`: above `end_offset`"),
        (status = 500, description = "`corrupt-data`: continue at `damaged_until_offset`"),
        (status = 503, description = "`shutting-down`, `overloaded`"),
    ))]
async fn fetch(
    app: App,
    method: Method,
    AtPartition { topic, partition }: AtPartition,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let representation = negotiate(&headers)?;
    let FetchQuery {
        mut request,
        value_limit,
    } = query::parse(query.as_deref())?;
    let form = Form {
        representation,
        value_limit,
    };
    form.check()?;
    request.whole_batches = representation == Representation::RecordBatch;
    let range = app.fetcher.resolve(&partition, &request).await?;
    let tag = || etag(&app.log, &partition, &request, &range, form);
    let tag = range.is_closed.then(tag);
    if let Some(tag) = &tag
        && has_it_already(&headers, tag.as_bytes())
    {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        caching_headers(response.headers_mut(), Some(tag));
        return Ok(response);
    }

    let page = app.fetcher.fetch(&topic, &partition, &request, range).await?;
    if method != Method::HEAD {
        app.fetcher.count(page.records, page.stored_bytes);
    }
    // HEAD makes the same answer. The server then leaves out the body; most of it has not been rendered at that time.
    let links = links::of(&app, [&page]);
    let mut response = answer(&topic, &partition, page, form, tag.as_ref())?;
    links::set(&mut response, links);
    Ok(response)
}

/// How records are written.
#[derive(Clone, Copy)]
struct Form {
    representation: Representation,
    /// Longer values are cut.
    value_limit: Option<usize>,
}

impl Form {
    fn check(self) -> Result<(), Problem> {
        match self.representation {
            Representation::RecordBatch | Representation::CloudEvents if self.value_limit.is_some() => Err(
                Problem::invalid(VALUE_LIMIT, "batches and CloudEvents have whole values"),
            ),
            _ => Ok(()),
        }
    }
}

fn answer(topic: &Topic, partition: &Partition, page: Page, form: Form, tag: Option<&HeaderValue>) -> Answer {
    let representation = form.representation;
    // A gap may close: the file can be restored, or the skip can be taken back.
    let tag = tag.filter(|_| page.gaps.is_empty());
    let mut headers = HeaderMap::with_capacity(8);
    let media_type = HeaderValue::from_static(representation.media_type());
    headers.insert(header::CONTENT_TYPE, media_type);
    caching_headers(&mut headers, tag);
    headers.insert(NEXT_OFFSET, page.next_offset.get().into());
    if tag.is_none() {
        headers.insert(LOG_START_OFFSET, page.log_start_offset.get().into());
        headers.insert(END_OFFSET, page.end_offset.get().into());
    }
    if !page.gaps.is_empty() {
        let gap = |gap: &Gap| format!("{}-{}", gap.from, gap.until);
        let gaps: Vec<String> = page.gaps.iter().map(gap).collect();
        let gaps = HeaderValue::try_from(gaps.join(", "));
        headers.insert(GAPS, gaps.expect("digits, dashes and commas are visible ASCII"));
    }
    let body = match representation {
        Representation::RecordBatch => body::batches(page),
        _ => {
            let index = partition.id().index;
            body::text(page, form, topic.name(), index, tag.is_none()).map_err(unreadable)?
        }
    };
    let mut response = Response::new(body);
    *response.headers_mut() = headers;
    if representation == Representation::RecordBatch {
        response.extensions_mut().insert(Mapped);
    }
    Ok(response)
}

fn caching_headers(headers: &mut HeaderMap, tag: Option<&HeaderValue>) {
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    let cache = if tag.is_some() {
        "private, no-cache"
    } else {
        "no-store"
    };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    if let Some(tag) = tag {
        headers.insert(header::ETAG, tag.clone());
    }
}

/// A tag made of everything that determines the bytes of a closed range's answer.
fn etag(
    log: &Log,
    partition: &Partition,
    request: &FetchRequest,
    range: &FetchRange,
    form: Form,
) -> HeaderValue {
    let id = partition.id();
    let until = range.until.unwrap_or(range.from);
    let limit = form.value_limit.map(|limit| format!(".v{limit}"));
    let limit = limit.unwrap_or_default();
    let form = match form.representation {
        Representation::Json => "json",
        Representation::NdJson => "ndjson",
        Representation::RecordBatch => "batch",
        Representation::CloudEvents => "events",
    };
    let text = format!(
        "\"{}.{}.{}-{until}.{}.{}.{GENERATION}.{form}{limit}\"",
        catalog::public_id(log, id.topic),
        id.index,
        range.from,
        request.max_records,
        request.max_bytes,
    );
    HeaderValue::try_from(text).expect("hexadecimal digits, numbers and words are visible ASCII")
}

/// Whether `If-None-Match` names `tag` (weak comparison, as the standard requires) or is `*`.
pub(super) fn has_it_already(headers: &HeaderMap, tag: &[u8]) -> bool {
    let fields = headers.get_all(header::IF_NONE_MATCH).iter();
    // Our tags have no comma, so a foreign tag that is cut at a comma does not match either.
    let mut tags = fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(',').map(str::trim));
    tags.any(|wanted| wanted == "*" || wanted.strip_prefix("W/").unwrap_or(wanted).as_bytes() == tag)
}

/// What a fetch returns as JSON.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is written by hand")]
struct FetchedRecords {
    topic: String,
    partition: u32,
    records: Vec<JsonRecord>,
    /// Where the next fetch begins: one past the last record, or `until_offset` if that was reached.
    next_offset: u64,
    /// The first offset that is kept; left out if the answer never changes.
    log_start_offset: Option<u64>,
    /// One past the last record of the partition; left out if the answer never changes.
    end_offset: Option<u64>,
    /// Requested offsets that the operator has skipped because they are damaged; left out if there are none.
    gaps: Option<Vec<FetchedGap>>,
}

/// Requested offsets whose records are not in the answer.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is written by hand")]
struct FetchedGap {
    offset: u64,
    /// Exclusive.
    until_offset: u64,
    #[schema(pattern = "^(damaged)$")]
    reason: String,
}

/// A record as a fetch or a stream returns it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is written by hand")]
pub(super) struct JsonRecord {
    /// Only if records of several topics come together.
    topic: Option<String>,
    partition: u32,
    offset: u64,
    /// Milliseconds since the Unix epoch.
    timestamp: i64,
    /// Null if the record has no key; left out if `key_base64` is there.
    key: Option<String>,
    /// The key, if its bytes are not UTF-8.
    key_base64: Option<String>,
    /// Any JSON value, byte for byte as it was sent (in lines and events, line breaks between its tokens are spaces);
    /// null for a tombstone; left out if `value_base64` is there.
    value: Option<serde_json::Value>,
    /// The value, if its bytes are not JSON, or are a JSON null.
    value_base64: Option<String>,
    /// Instead of a value that is longer than `value_limit`: its first bytes as text.
    value_text: Option<String>,
    /// The length of a value that is longer than `value_limit`.
    value_bytes: Option<u64>,
    /// True if the value is longer than `value_limit`.
    truncated: Option<bool>,
    /// Each value is a string, `{"base64":"…"}` if its bytes are not UTF-8, null if the header has no value, or an
    /// array of these if a name repeats.
    #[schema(value_type = std::collections::HashMap<String, shapes::HeaderValues>)]
    headers: serde_json::Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_in_a_list_weak_or_by_a_star() {
        let tag = HeaderValue::from_static("\"a.0.1-2\"");
        let having = |field: &'static str| {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(field))]);
            has_it_already(&headers, tag.as_bytes())
        };
        for field in ["\"a.0.1-2\"", "\"x\", \"a.0.1-2\"", "W/\"a.0.1-2\"", "*"] {
            assert!(having(field), "{field}");
        }
        for field in ["\"a.0.1-3\"", "a.0.1-2", "\"x, a.0.1-2\"", ""] {
            assert!(!having(field), "{field}");
        }
    }
}
