//! Replay and live tail over HTTP: the records of a topic's partitions, or of several topics', as one stream.
//!
//! `query` reads what is asked for; `broker::stream` finds, reads, orders and waits; `output` writes lines, or events with
//! a cursor. The stream is the body of its answer (`chunks`): it runs as the client reads, and ends with it.

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

use self::output::{Format, Output};
use self::query::StreamQuery;
use super::accept::choose;
use super::chunks;
use super::fetch::JsonRecord;
use super::fresh;
use super::path::TopicName;
use crate::broker::refusal::Refusal;
use crate::broker::stream::run::{Cut, OpenStream};
use crate::http::Answer;
use crate::http::app::App;

/// Makes nginx, and proxies that follow it, pass on each chunk at once instead of buffering.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(stream_topic))
        .routes(routes!(stream_topics))
}

/// Replays a topic, and follows it
///
/// All partitions' records as one stream, from a point of time or a cursor to the end as of the request; with `follow` it goes
/// on with what comes. Within a partition records come in the order of offsets; over partitions in none, or with
/// `order=timestamp` in that of their timestamps.
///
/// As Server-Sent Events each record is an event `record` whose `id` is a cursor over all partitions: what lost its
/// connection sends it as `Last-Event-ID` (an `EventSource` does so by itself) and goes on with nothing lost and nothing
/// twice, over restarts of the server too. Other events are `gap` (records that are missing: `topic`, `partition`,
/// `from_offset`, `until_offset`, `reason`: `skipped` or `trimmed`), `error` (a problem: the stream ends there) and `end` (all
/// was sent; whoever then asks again with that `id`, and there is nothing new, is answered 204). Idle streams send a
/// comment every 15 s.
///
/// An NDJSON stream that cannot go on breaks off without its final chunk.
#[utoipa::path(get, path = "/v1/topics/{topic}/records", tag = "records",
    params(
        ("from" = Option<String>, Query, description = "Where to begin: `earliest` (the log start, the default), `latest` (the end), the first record at or after a time in milliseconds or RFC 3339, or a cursor (the `id` of an event)", example = "earliest"),
        ("until" = Option<String>, Query, description = "Each partition ends before its first record at or after this time; `latest`: at the end as of the request; a cursor: where that one is"),
        ("last" = Option<u64>, Query, minimum = 1, maximum = 100000, description = "Only the newest records, so many over all partitions: those that are wanted between `from` and `until`, chosen by timestamp, of each partition the last ones without a hole. With `follow` it goes on from there. As Server-Sent Events an `id` comes before the first record: `until` with it gives those before, a page back."),
        ("key" = Option<String>, Query, description = "Only records with this key. Reads only that key's partition where the topic is known to be placed by key throughout."),
        ("partitions" = Option<String>, Query, description = "Only these partitions, separated by commas; a stream is over at most 256", example = "0,3"),
        ("header.NAME" = Option<String>, Query, description = "Only records with a header NAME of this value, as in `header.type=OrderPaid`. Several, of different names, must all match; of a header that repeats, one value must match."),
        ("follow" = Option<bool>, Query, description = "Go on with records as they arrive, and with partitions as they are added; with `until` up to that time"),
        ("order" = Option<String>, Query, description = "`none`, or `timestamp`: merges the partitions by their next records' timestamps", example = "timestamp"),
        ("speed" = Option<f64>, Query, description = "Replays at this many times the pace of the recorded timestamps; implies `order=timestamp`", example = 60),
        ("data" = Option<String>, Query, description = "`records`, or `cloudevents`: each line, or the data of each event, is a structured CloudEvent", example = "cloudevents"),
        ("Accept" = Option<String>, Header, description = "`application/x-ndjson` or `text/event-stream`; with `application/cloudevents+json` beside it, records come as structured CloudEvents"),
        ("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last event that was received: goes on behind it; `from` and `last` are ignored"),
    ),
    responses(
        (status = 200, description = "The records, a line or an event each",
            content((JsonRecord = "application/x-ndjson"), (String = "text/event-stream"))),
        (status = 204, description = "Nothing is left behind `Last-Event-ID`, and the stream does not follow: do not ask again"),
        (status = 400, description = "`invalid-request`; `pointer` names the parameter, or `Last-Event-ID`"),
        (status = 404, description = "`unknown-topic`, `unknown-partition`"),
        (status = 406, description = "`not-acceptable`"),
        (status = 410, description = "`cursor-expired`: the cursor's topic is gone; `offset-trimmed` (NDJSON): records behind the cursor have been deleted"),
        (status = 416, description = "`offset-out-of-range`: the cursor is from beyond the end"),
        (status = 500, description = "`corrupt-data` (NDJSON): records cannot be read"),
        (status = 501, description = "`not-supported`: `search`, `max_records`, `max_scan_bytes`, `max_scan_ms`, `value_limit`"),
        (status = 503, description = "`shutting-down`, `overloaded`"),
    ))]
async fn stream_topic(
    app: App,
    method: Method,
    TopicName(name): TopicName,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let format = choose(&headers, &Format::ALL)?;
    let query = StreamQuery::parse(query.as_deref(), &headers, false)?;
    stream(app, &method, format, query, &[name]).await
}

/// Replays several topics, and follows them
///
/// As for one topic; each record carries its `topic`.
#[utoipa::path(get, path = "/v1/records", tag = "records",
    params(("topics" = String, Query, description = "The topics' names, separated by commas", example = "orders,payments"),
        ("partitions" = Option<String>, Query, description = "As for one topic; only where `topics` names one"),
        ("Last-Event-ID" = Option<String>, Header, description = "As for one topic: the `id` of an event of a stream over the same topics")),
    responses((status = 200, description = "The records, a line or an event each",
        content((JsonRecord = "application/x-ndjson"), (String = "text/event-stream")))))]
async fn stream_topics(app: App, method: Method, RawQuery(query): RawQuery, headers: HeaderMap) -> Answer {
    let format = choose(&headers, &Format::ALL)?;
    let query = StreamQuery::parse(query.as_deref(), &headers, true)?;
    let names = query.topics.clone();
    stream(app, &method, format, query, &names).await
}

async fn stream(app: App, method: &Method, format: Format, query: StreamQuery, names: &[String]) -> Answer {
    let is_live = query.request.is_live();
    let is_resumed = query.request.is_resumed;
    let opened = OpenStream::open(&app.fetcher, &app.clock, &app.topics, names, query.request).await;
    let stream = opened.map_err(|mut refusal| {
        if is_resumed && refusal.field.as_deref() == Some("from") {
            refusal.field = Some("Last-Event-ID".to_owned());
        }
        refusal
    })?;
    let body = if *method == Method::HEAD {
        nothing()
    } else {
        let write = |chunks| {
            let mut output = Output::new(format, stream.cursor(), chunks);
            output.is_named = names.len() > 1;
            output.as_events = query.as_events;
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
            Err(Cut::NothingLeft) => {
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
    Ok(response)
}

/// The body of an answer to HEAD: of no known length, as that of GET is.
fn nothing() -> Body {
    let body = chunks::body(|mut chunks| async move {
        chunks.send(Bytes::new()).await;
        Ok::<_, Infallible>(Bytes::new())
    });
    let Ok(body) = body;
    body
}
