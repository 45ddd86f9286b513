//! Replay and live tail over HTTP: the records of one topic or several, all their partitions in one stream.
//!
//! `query` reads the request; `broker::stream` finds, reads, orders and waits; `output` writes lines, or events with a
//! cursor. The stream is the body of its answer (`chunks`): it runs as the client reads, and ends with it.

mod output;
mod query;

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::RawQuery;
use axum::response::IntoResponse;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::output::{BrowsedRecords, Format, Output};
use self::query::StreamQuery;
use super::chunks;
use super::fresh;
use super::links;
use super::openapi::shapes;
use super::path::TopicName;
use crate::broker::caller::Caller;
use crate::broker::refusal::Refusal;
use crate::broker::stream::run::{Cut, OpenStream};
use crate::http::Answer;
use crate::http::app::App;

/// Tells nginx, and proxies that follow it, to pass on each chunk at once instead of buffering.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(stream_topic))
        .routes(routes!(stream_topics))
}

/// Replays a topic, and follows it
///
/// Sends the records of all partitions as one stream, from a time or a cursor to the end as it was at the time of the
/// request; with `follow` it continues with new records. Within a partition, records come in the order of their
/// offsets. Across partitions there is no order, or with `order=timestamp` the order of timestamps.
///
/// As Server-Sent Events, each record is an event `record` whose `id` is a cursor over all partitions. A client that
/// lost its connection sends it as `Last-Event-ID` (an `EventSource` does so by itself) and continues: nothing is lost
/// or sent twice, also when the server restarts. Other events are `gap` (missing records: `topic`, `partition`,
/// `from_offset`, `until_offset`, `reason`: `skipped` or `trimmed`), `error` (a problem: the stream ends there) and
/// `end` (everything was sent; a request with that `id` is answered 204 if there is nothing new). Idle streams send a
/// comment every 15 s.
///
/// An NDJSON stream that cannot continue breaks off without its final chunk.
///
/// To browse: `last`, then its cursor as `until`, pages back from the newest records; `search` finds a text. `max_records`,
/// `max_scan_bytes` and `max_scan_ms` bound how far one request looks. With `Accept: application/json` the answer is one
/// document that says why it `ended` and where to go on (`cursor`): with `last` that is the page's beginning, for `until`,
/// else its end, for `from`. (`application/json` beside `*/*` gets NDJSON; with `application/cloudevents+json` beside a type,
/// records come as structured CloudEvents.) As Server-Sent Events, an event `progress` says each second how far a search is, and the
/// event `end` has the same members. Whoever closes the connection ends the search.
#[utoipa::path(get, path = "/v1/topics/{topic}/records", tag = "records",
    params(
        ("from" = Option<shapes::StreamStart>, Query, description = "Where to begin: `earliest` (the log start, the default), `latest` (the end), the first record at or after a time in milliseconds or RFC 3339, or a cursor (the `id` of an event)", example = "earliest"),
        ("until" = Option<shapes::StreamEnd>, Query, description = "Where to end: each partition before its first record at or after this time; `latest`: at its end at the time of the request; a cursor: at the cursor's offset"),
        ("last" = Option<u64>, Query, minimum = 1, maximum = 100000, description = "Only this many of the newest records, over all partitions. They are chosen by timestamp among the matching records between `from` and `until`; of each partition the last matching ones are taken, with none left out between them. With `follow` the stream continues from there. In Server-Sent Events an `id` comes before the first record: a request with that `id` as `until` gets the records before it, one page back."),
        ("key" = Option<String>, Query, description = "Only records with this key. If it is certain that the topic placed all its records by key, only that key's partition is read."),
        ("partitions" = Option<Vec<u32>>, Query, style = Form, explode = false, max_items = 256, description = "Only these partitions, separated by commas, each once; a stream has at most 256"),
        ("headers" = Option<shapes::HeaderPatterns>, Query, style = Form, explode, description = "Only records that have a header NAME with a value that matches this pattern, as in `header.type=OrderPaid` or `header.type=order.*`: words between dots, `*` for one word, `#` (in a URL `%23`) for any number of words, also none. If it is repeated for a header, one of its patterns must match; different headers must all match. If a record repeats a header, one of its values must match."),
        ("follow" = Option<bool>, Query, description = "Continue with records as they arrive, and with partitions as they are added; with `until`, up to that time"),
        ("order" = Option<String>, Query, pattern = "^(none|timestamp)$", description = "`none`, or `timestamp`: merges the partitions by their next records' timestamps", example = "timestamp"),
        ("speed" = Option<f64>, Query, exclusive_minimum = 0, description = "Replays this many times as fast as the records' timestamps advance; implies `order=timestamp`", example = 60),
        ("data" = Option<String>, Query, pattern = "^(records|cloudevents)$", description = "`records`, or `cloudevents`: each line, or the data of each event, is a structured CloudEvent", example = "cloudevents"),
        ("search" = Option<String>, Query, min_length = 1, max_length = 1024, description = "Only records that contain this text: in the key, the value, or a name or value of the headers. Bytes are compared as they are stored: upper and lower case are told apart, and escapes in JSON stay escapes."),
        ("max_records" = Option<u64>, Query, minimum = 1, maximum = 100000, description = "The stream ends after so many records; one JSON document has 500 unless it says otherwise, or `last` does"),
        ("max_scan_bytes" = Option<u64>, Query, minimum = 1, maximum = 1125899906842624_u64, description = "The stream ends when it has looked at so many stored bytes, but looks at a record of each partition at least. Default 256 MiB for one JSON document, and for a search in Server-Sent Events. Not with `follow` or `speed`"),
        ("max_scan_ms" = Option<u64>, Query, minimum = 1, maximum = 600000, description = "The stream ends after so many milliseconds. Default 10000, where `max_scan_bytes` has one. Not with `follow` or `speed`"),
        ("value_limit" = Option<u64>, Query, description = "Of a longer value only its first bytes, as `value_text`, with `value_bytes` and `truncated`. Not for CloudEvents"),
        ("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last event that was received: the stream continues after it; `from` and `last` are ignored"),
    ),
    responses(
        (status = 200, description = "The records, one per line or event",
            content((Vec<shapes::StreamLine> = "application/x-ndjson"), (shapes::StreamEvent = "text/event-stream"), (BrowsedRecords = "application/json"))),
        (status = 204, description = "There is nothing after `Last-Event-ID`, and the stream does not follow: do not ask again"),
        (status = 400, description = "`invalid-request`; `pointer` names the parameter, or `Last-Event-ID`"),
        (status = 404, description = "`unknown-topic`, `unknown-partition`"),
        (status = 406, description = "`not-acceptable`; also for `application/json` with `follow`"),
        (status = 410, description = "`cursor-expired`: the cursor's topic was deleted, or the server was restored from a backup since; `offset-trimmed` (NDJSON): records after the cursor have been deleted"),
        (status = 416, description = "`offset-out-of-range`: the cursor is after the end"),
        (status = 500, description = "`corrupt-data` (NDJSON): records cannot be read"),
        (status = 503, description = "`shutting-down`, `overloaded`"),
    ))]
async fn stream_topic(
    app: App,
    caller: Caller,
    method: Method,
    TopicName(name): TopicName,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let query = StreamQuery::parse(query.as_deref(), &headers, false)?;
    stream(app, &caller, &method, query, &[name]).await
}

/// Replays several topics, and follows them
///
/// As for one topic; each record has its `topic`.
#[utoipa::path(get, path = "/v1/records", tag = "records",
    params(("topics" = Vec<String>, Query, style = Form, explode = false, max_items = 256, description = "The topics' names, separated by commas, each once"),
        ("partitions" = Option<Vec<u32>>, Query, style = Form, explode = false, max_items = 256, description = "As for one topic; only if `topics` names a single topic"),
        ("Last-Event-ID" = Option<String>, Header, description = "As for one topic: the `id` of an event of a stream over the same topics")),
    responses((status = 200, description = "The records, one per line or event",
        content((Vec<shapes::StreamLine> = "application/x-ndjson"), (shapes::StreamEvent = "text/event-stream"), (BrowsedRecords = "application/json")))))]
async fn stream_topics(
    app: App,
    caller: Caller,
    method: Method,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let query = StreamQuery::parse(query.as_deref(), &headers, true)?;
    let names = query.topics.clone();
    stream(app, &caller, &method, query, &names).await
}

async fn stream(app: App, caller: &Caller, method: &Method, query: StreamQuery, names: &[String]) -> Answer {
    let format = query.format;
    let is_live = query.request.is_live();
    let is_resumed = query.request.is_resumed;
    let opened = OpenStream::open(
        caller,
        &app.fetcher,
        &app.clock,
        &app.topics,
        names,
        query.request,
    )
    .await;
    let stream = opened.map_err(|mut refusal| {
        if is_resumed && refusal.field.as_deref() == Some("from") {
            refusal.field = Some("Last-Event-ID".to_owned());
        }
        refusal
    })?;
    let links = links::none(&app);
    let body = if *method == Method::HEAD {
        nothing()
    } else {
        let write = |chunks| {
            let mut output = Output::new(format, stream.cursor(), chunks);
            output.is_named = names.len() > 1;
            output.as_events = query.as_events;
            output.value_limit = query.value_limit;
            output.links = links.clone();
            let mut stream = stream.into_stream(output);
            async move {
                stream.run().await?;
                Ok(stream.out.rest())
            }
        };
        match chunks::begun(write).await {
            Ok(body) => body,
            Err(Cut::Refused(refusal)) => return Err(refusal.into()),
            Err(Cut::Stopping) => return Err(Refusal::stopping().into()),
            Err(Cut::NothingLeft | Cut::Bounded) => {
                let [_, no_store] = fresh("");
                return Ok((StatusCode::NO_CONTENT, [no_store]).into_response());
            }
        }
    };
    let mut response = (fresh(format.media_type()), body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    if format == Format::Events || is_live {
        headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    }
    links::set(&mut response, links);
    Ok(response)
}

/// The body of an answer to HEAD: its length is unknown, as for GET.
fn nothing() -> Body {
    let body = chunks::body(|mut chunks| async move {
        chunks.send(Bytes::new()).await;
        Ok::<_, Infallible>(Bytes::new())
    });
    let Ok(body) = body;
    body
}
