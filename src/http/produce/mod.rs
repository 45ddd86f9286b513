//! Produce: `POST /v1/topics/{topic}/records` and `POST /v1/topics/{topic}/partitions/{partition}/records`.
//!
//! The media type chooses the reader of the body: [`json`] (a list of records), [`ndjson`] (a stream of them), [`raw`]
//! (one value), [`cloudevents`] (one event or several), [`record_batch`] (batches as they are stored). [`several`] is
//! `POST /v1/records`, for records of several topics.
//! [`broker::produce`](crate::broker::produce) places and appends the records. This file reads the query and the
//! headers, and writes the answers, for all readers. [`whole`] serves the readers that read the whole body first.
//!
//! Invariants: if this version does not support a parameter, a header or a media type of the contract, it refuses it
//! and never ignores it. After a refusal the rest of the body is read ([`body::Incoming::drain`]), so that the client
//! can read the answer. If the client gives up in the middle, its request is appended whole or not at all (NDJSON: a
//! prefix of its units).

pub(super) mod body;
mod cloudevents;
mod json;
mod ndjson;
mod raw;
mod record_batch;
mod several;
mod whole;

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::body::Incoming;
use self::cloudevents::Mode;
use super::openapi::shapes;
use super::params::{Params, single, values_of};
use super::path::{not_text, parse_index};
use super::problem::{Code, Problem};
use super::{Share, chunks};
use crate::broker::caller::Caller;
use crate::broker::engine::{Ack, Offset, TimestampMs, TopicId};
use crate::broker::produce::idempotency::{Covered, Key};
use crate::broker::produce::limits::check_stored_bytes;
use crate::broker::produce::placing::{ExtraHeader, Placement, Placer, Placing};
use crate::broker::produce::whole::{Attempt, PartPlace, Placed};
use crate::broker::produce::{Options, Producer, Target};
use crate::broker::refusal::Refusal;
use crate::broker::topics::unknown_partition;
use crate::formats::cloudevents::unquoted;
use crate::formats::json::ParsedRecord;
use crate::http::Answer;
use crate::http::app::App;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const CE_SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Up to this size a body is read on the worker that received it: about 1 ms of work. Larger ones go to a blocking
/// thread.
const INLINE_BYTES: usize = 256 << 10;
/// Positions are written in pieces of this size, so that a slow client holds only one piece.
const ANSWER_CHUNK_BYTES: usize = 64 << 10;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(produce))
        .routes(routes!(produce_to_partition))
        .routes(routes!(several::produce_to_topics))
}

/// The body of a produce request.
#[derive(ToSchema)]
#[schema(as = NewRecords)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "describes the body in the OpenAPI document")]
struct RecordsDoc {
    /// At least one record.
    #[schema(min_items = 1, value_type = Vec<shapes::NewRecord>)]
    records: Vec<serde_json::Value>,
}

/// Where a record is stored.
#[derive(Serialize, ToSchema)]
#[schema(as = RecordPosition)]
struct PositionDoc {
    /// The partition.
    partition: u32,
    /// The record's offset in the partition.
    offset: u64,
}

/// The records' positions, in the order of the request.
#[derive(Serialize, ToSchema)]
#[schema(as = Produced)]
struct ProducedDoc {
    /// One for each record.
    offsets: Vec<PositionDoc>,
    /// Only there if a body that looks like `{"records":[…]}` became one record, because its type is not
    /// `application/json`.
    hint: Option<String>,
}

/// Produce records
///
/// The content type says how the body is read: a JSON object with `records`, NDJSON with one record per line,
/// CloudEvents, or any other type as one record's value. The records of one request are all stored, or none are. NDJSON
/// is cut into units at 1 MiB or 10,000 lines; each unit is like such a request, and the answer is `StreamProduced`.
///
/// CloudEvents 1.0.2 come in structured, batched and binary mode. The header `ce-specversion` makes any body except the
/// first two the data of an event. Attributes become headers `ce_…`, and `datacontenttype` the header `content-type`;
/// `partitionkey` also becomes the key, and `time` the timestamp.
#[utoipa::path(post, path = "/v1/topics/{topic}/records", tag = "records",
    params(
        ("ack" = Option<String>, Query, pattern = "^(durable|written)$", description = "When the request is answered: `durable` (the records are on stable storage) or `written` (the operating system has them); default: the topic's `ack`"),
        ("expected_offset" = Option<u64>, Query, description = "Append only if this is the partition's next offset; all records must go to one partition"),
        ("repartition" = Option<bool>, Query, description = "JSON and NDJSON: ignore the records' `partition`"),
        ("key" = Option<String>, Query, description = "Raw bodies: the record's key"),
        ("partition" = Option<u32>, Query, description = "Raw bodies and CloudEvents: the partition"),
        ("timestamp" = Option<shapes::Time>, Query, description = "Raw bodies: the record's time, in milliseconds or RFC 3339"),
        ("ce-specversion" = Option<String>, Header, pattern = "^(1.0)$", description = "`1.0`: the body is the data of a CloudEvent in binary mode"),
        ("ce-id" = Option<String>, Header, min_length = 1, description = "Binary mode: the event's `id`; other attributes and extensions have such headers too, percent-encoded"),
        ("ce-source" = Option<String>, Header, min_length = 1, description = "Binary mode: the event's `source`"),
        ("ce-type" = Option<String>, Header, min_length = 1, description = "Binary mode: the event's `type`"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]{1,255}$", description = "If the same request with the same key is repeated within the topic's `dedupe_window_ms`, it appends nothing and gets the first answer. NDJSON does this for each unit, so a retry of an interrupted request stores the missing units"),
        ("content-encoding" = Option<String>, Header, pattern = "^(gzip|zstd|identity)$", description = "`gzip` or `zstd`"),
        ("traceparent" = Option<String>, Header, description = "Stored as a header of every record that has no header with this name"),
    ),
    request_body(description = "The records", content(
            (RecordsDoc = "application/json"),
            (Vec<shapes::NewRecord> = "application/x-ndjson"),
            (shapes::CloudEvent = "application/cloudevents+json"),
            (shapes::CloudEventBatch = "application/cloudevents-batch+json"),
            (shapes::AnyBytes = "*/*"),
        )),
    responses(
        (status = 200, description = "The records are stored; for NDJSON the answer is StreamProduced", content_type = "application/json", body = inline(AnyProduced),
            headers(("Idempotency-Replayed" = bool, description = "`true` if all records had been appended before"))),
        (status = 400, description = "`invalid-request`; `pointer` names the field (NDJSON: and `line`, `accepted`)"),
        (status = 404, description = "`unknown-topic`, `unknown-partition`"),
        (status = 408, description = "`request-timeout`: the body did not arrive whole"),
        (status = 412, description = "`offset-mismatch`: `expected_offset` is not the next offset, which is `end_offset`"),
        (status = 413, description = "`record-too-large`, `request-too-large`"),
        (status = 415, description = "`unsupported-media-type`: the body's type or coding is not supported here"),
        (status = 422, description = "`idempotency-key-reused`: the key was used for a request with another query, type or body"),
        (status = 503, description = "`overloaded` (also by idempotency keys, which are never forgotten early), `shutting-down`, `log-failed`"),
        (status = 507, description = "`storage-full`"),
    ))]
async fn produce(
    app: App,
    caller: Caller,
    topic: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let mut body = Incoming::new(&app.bodies, &parts.headers, body);
    let answer = match topic {
        Ok(Path(topic)) => to_topic(&app.producer, &caller, &topic, &parts, &mut body).await,
        Err(_) => Err(not_text("path")),
    };
    answer_or_drain(answer, body, &app.stopping)
}

/// The answer to one body, or to a stream.
#[derive(ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes the answers in the OpenAPI document")]
enum AnyProduced {
    /// JSON, CloudEvents and raw bodies.
    Positions(ProducedDoc),
    /// NDJSON.
    Stream(ndjson::StreamDoc),
}

/// Produce record batches
///
/// The body is one or more record batches, version 2; they are stored as they are, compressed or not (gzip, snappy, lz4,
/// zstd). Compressed records may inflate to `max_request_bytes`. A batch with a producer id must be the only one in its
/// body: it is appended once, in its producer's order, as in Kafka.
#[utoipa::path(post, path = "/v1/topics/{topic}/partitions/{partition}/records", tag = "records",
    params(
        ("ack" = Option<String>, Query, pattern = "^(durable|written)$", description = "As for records in JSON"),
        ("expected_offset" = Option<u64>, Query, description = "Append only if this is the partition's next offset"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]{1,255}$", description = "If the same request with the same key is repeated within the topic's `dedupe_window_ms`, it appends nothing and gets the first answer. NDJSON does this for each unit, so a retry of an interrupted request stores the missing units"),
        ("content-encoding" = Option<String>, Header, pattern = "^(gzip|zstd|identity)$", description = "`gzip` or `zstd`"),
    ),
    request_body(description = "Record batches back to back", content((shapes::RecordBatches = "application/vnd.apache.kafka.record-batch"))),
    responses(
        (status = 200, description = "Stored", content_type = "application/json", body = record_batch::BatchesDoc,
            headers(("Idempotency-Replayed" = bool, description = "`true` if the batches had been appended before: by their idempotency key, or by their producer's sequence"))),
        (status = 400, description = "`invalid-request`: the bytes are not valid batches, or the request is not valid"),
        (status = 404, description = "`unknown-topic`, `unknown-partition`"),
        (status = 408, description = "`request-timeout`: the body did not arrive whole"),
        (status = 409, description = "`out-of-order-sequence`, `fenced`: the batch does not follow on its producer's last one, or a newer instance has replaced its producer"),
        (status = 412, description = "`offset-mismatch`: `expected_offset` is not the next offset, which is `end_offset`"),
        (status = 413, description = "`record-too-large`, `request-too-large`"),
        (status = 415, description = "`unsupported-media-type`: only record batches are accepted here"),
        (status = 422, description = "`idempotency-key-reused`: the key was used for a request with another query, path, type or body"),
        (status = 501, description = "`not-supported` by this version: transactional or control batches"),
        (status = 503, description = "`overloaded` (also by idempotency keys, which are never forgotten early), `shutting-down`, `log-failed`"),
        (status = 507, description = "`storage-full`"),
    ))]
async fn produce_to_partition(
    app: App,
    caller: Caller,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let mut body = Incoming::new(&app.bodies, &parts.headers, body);
    let answer = match path {
        Ok(Path((topic, partition))) => {
            to_partition(&app.producer, &caller, &topic, &partition, &parts, &mut body).await
        }
        Err(_) => Err(not_text("path")),
    };
    answer_or_drain(answer, body, &app.stopping)
}

async fn to_topic(
    producer: &Arc<Producer>,
    caller: &Caller,
    topic: &str,
    parts: &Parts,
    body: &mut Incoming<'_>,
) -> Answer {
    body.check_coding()?;
    let media = media_type(&parts.headers);
    if !matches!(media, Ok(Media::Event(_))) {
        cloudevents::refuse_half_an_event(&parts.headers)?;
    }
    let media = media?;
    if media == Media::RecordBatch {
        let place = "POST /v1/topics/{topic}/partitions/{partition}/records";
        let detail = format!("record batches are sent to one partition: {place}");
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    let target = producer.target(caller, topic)?;
    let call = TopicCall {
        producer,
        caller,
        parts,
        target,
    };
    // The rarer readers are boxed, which keeps the future of a small JSON request small.
    match media {
        Media::Json | Media::RecordBatch => json::produce(&call, body).await,
        Media::Ndjson => Box::pin(ndjson::produce(&call, body)).await,
        Media::Raw { is_json } => Box::pin(raw::produce(&call, is_json, body)).await,
        Media::Event(mode) => Box::pin(cloudevents::produce(&call, mode, body)).await,
    }
}

async fn to_partition(
    producer: &Arc<Producer>,
    caller: &Caller,
    topic: &str,
    partition: &str,
    parts: &Parts,
    body: &mut Incoming<'_>,
) -> Answer {
    body.check_coding()?;
    if media_type(&parts.headers)? != Media::RecordBatch {
        let detail = "application/vnd.apache.kafka.record-batch is sent to a partition; other types and CloudEvents name \
            theirs, and go to POST /v1/topics/{topic}/records";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    let target = producer.target(caller, topic)?;
    let call = TopicCall {
        producer,
        caller,
        parts,
        target,
    };
    let index = parse_index(partition).filter(|index| *index < call.target.partitions);
    let index = index.ok_or_else(|| unknown_partition(&call.target.topic, partition))?;
    Box::pin(record_batch::produce(&call, index, body)).await
}

fn answer_or_drain(answer: Answer, body: Incoming<'_>, stopping: &watch::Sender<bool>) -> Response {
    let problem = match answer {
        Ok(response) => return response,
        Err(problem) => problem,
    };
    body.drain(stopping.subscribe());
    let is_media = problem.code() == Code::UnsupportedMediaType;
    let mut response = problem.into_response();
    if is_media {
        let codings = HeaderValue::from_static("gzip, zstd");
        response.headers_mut().insert(header::ACCEPT_ENCODING, codings);
    }
    response
}

/// The readers of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Media {
    Json,
    Ndjson,
    RecordBatch,
    /// One record's value; `is_json` if the type is another one of JSON, such as `application/geo+json`.
    Raw {
        is_json: bool,
    },
    Event(Mode),
}

const NOT_OF_RECORDS: &str = "the content-type is not one that a body of records has";

/// The reader of a body. `ce-specversion` decides before `content-type`, except for the types of whole events.
fn media_type(headers: &HeaderMap) -> Result<Media, Problem> {
    let is_event = values_of(headers, &CE_SPECVERSION).next().is_some();
    let otherwise = is_event.then_some(Media::Event(Mode::Binary));
    let Some(value) = single(headers, &header::CONTENT_TYPE)?.map(HeaderValue::as_bytes) else {
        return otherwise.ok_or_else(|| not_a_type("the header content-type is missing"));
    };
    if value == b"application/json" && otherwise.is_none() {
        return Ok(Media::Json);
    }
    let (essence, parameters) = match memchr::memchr(b';', value) {
        Some(at) => (&value[..at], &value[at + 1..]),
        None => (value, &b""[..]),
    };
    let essence = essence.trim_ascii().to_ascii_lowercase();
    let media = match &essence[..] {
        b"application/cloudevents+json" => Media::Event(Mode::Structured),
        b"application/cloudevents-batch+json" => Media::Event(Mode::Batched),
        _ if let Some(binary) = otherwise => return Ok(binary),
        b"application/json" => Media::Json,
        b"application/x-ndjson"
        | b"application/ndjson"
        | b"application/jsonl"
        | b"application/x-jsonl"
        | b"application/jsonlines"
        | b"application/x-jsonlines" => Media::Ndjson,
        b"application/vnd.apache.kafka.record-batch" => Media::RecordBatch,
        essence if essence.starts_with(b"application/vnd.kafka.") => {
            return Err(not_a_type("the content-type is that of another service"));
        }
        // Many clients send these by default, or mean a list of records by another name of JSON or of its lines.
        b"" | b"application/x-www-form-urlencoded" | b"multipart/form-data" | b"application/stream+json" => {
            return Err(not_a_type(NOT_OF_RECORDS));
        }
        essence
            if memchr::memmem::find(essence, b"json").is_some()
                && !essence.contains(&b'+')
                && !essence.starts_with(b"application/vnd.") =>
        {
            return Err(not_a_type(NOT_OF_RECORDS));
        }
        essence if !essence.contains(&b'/') || essence.contains(&b',') => {
            return Err(not_a_type("the content-type is not one type"));
        }
        essence => {
            let is_json = essence.ends_with(b"+json");
            return Ok(Media::Raw { is_json });
        }
    };
    let parameters = parameters.to_ascii_lowercase();
    let mut parameters = parameters.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let charset = parameters.find_map(|parameter| parameter.strip_prefix(b"charset="));
    match charset.map(unquoted) {
        None | Some(b"utf-8" | b"utf8") => Ok(media),
        Some(other) => {
            let detail = format!("JSON is UTF-8, not {}", String::from_utf8_lossy(other));
            Err(Problem::new(Code::UnsupportedMediaType, detail))
        }
    }
}

/// The refusal of a type whose body would silently become one record.
#[cold]
fn not_a_type(what: &str) -> Problem {
    let types = "application/json for {\"records\":[…]}, application/x-ndjson for a record a line, application/cloudevents+json and \
                 application/cloudevents-batch+json for events, any other type, as application/octet-stream or text/plain, for the value of one record";
    Problem::new(Code::UnsupportedMediaType, format!("{what}; send {types}"))
}

/// A request to produce, to a `target`.
struct Call<'a, T> {
    producer: &'a Arc<Producer>,
    caller: &'a Caller,
    parts: &'a Parts,
    target: T,
}

/// A request to a topic that exists.
type TopicCall<'a> = Call<'a, Target>;

impl TopicCall<'_> {
    /// The query's parameters and the options; a parameter that is not in `allowed` is refused.
    fn params(&self, allowed: &[&str]) -> Result<(Params, Options), Problem> {
        let params = Params::parse(self.parts.uri.query(), allowed, &[])?;
        let expected_offset = params.number("expected_offset", 0, Offset::MAX.get())?;
        let options = Options {
            ack: ack(&params)?,
            expected_offset: expected_offset.map(Offset::new),
            repartition: params.flag("repartition")?.unwrap_or(false),
        };
        Ok((params, options))
    }

    /// The request's idempotency key, if it has one; `partition` is the partition in its path.
    ///
    /// # Errors
    /// Those of [`Call::scoped_key`].
    fn key(&self, params: &Params, partition: Option<u32>) -> Result<Option<Box<Key>>, Problem> {
        self.scoped_key(Some(self.target.topic.id()), params, partition)
    }

    /// How the request's records are placed.
    fn placing(&self, attempt: &Attempt) -> Placing<'_> {
        let producer = self.producer;
        Placing {
            extra_headers: self.extra_headers(),
            ..producer.placing(&self.target, attempt.options, attempt.first())
        }
    }
}

impl<T: Clone + Send + 'static> Call<'_, T> {
    /// The request's idempotency key, if it has one, for a topic or for the server.
    ///
    /// A repetition must have the same query (decoded and sorted), content type (as it was sent), headers of a
    /// CloudEvent, partition in the path, and decoded body. `traceparent` is not compared: each try may have its own.
    ///
    /// # Errors
    /// 400 for two keys, and for one that is not 1 to 255 characters of visible ASCII.
    fn scoped_key(
        &self,
        topic: Option<TopicId>,
        params: &Params,
        partition: Option<u32>,
    ) -> Result<Option<Box<Key>>, Problem> {
        let Some(key) = single(&self.parts.headers, &IDEMPOTENCY_KEY)? else {
            return Ok(None);
        };
        let covered = self.said_beside_the_body(params, partition);
        let key = Key::new(self.caller, topic, key.as_bytes(), covered);
        Ok(Some(key.map_err(|refusal| refusal.at(IDEMPOTENCY_KEY.as_str()))?))
    }

    fn said_beside_the_body(&self, params: &Params, partition: Option<u32>) -> Covered {
        let mut covered = Covered::default();
        let query = params.sorted();
        covered.add(&(query.len() as u64).to_be_bytes());
        for (name, value) in query {
            covered.add(name.as_bytes());
            covered.add(value.as_bytes());
        }
        let headers = &self.parts.headers;
        let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        covered.add(&[u8::from(content_type.is_some())]);
        covered.add(content_type.unwrap_or_default());
        let event = headers
            .iter()
            .filter(|(name, _)| name.as_str().starts_with("ce-"));
        let mut event: Vec<_> = event
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        // The values of one name keep their order.
        event.sort_by_key(|(name, _)| *name);
        covered.add(&(event.len() as u64).to_be_bytes());
        for (name, value) in event {
            covered.add(name.as_bytes());
            covered.add(value);
        }
        covered.add(&partition.map_or([0; 5], |index| {
            let [a, b, c, d] = index.to_be_bytes();
            [1, a, b, c, d]
        }));
        covered
    }

    /// The headers that every record of the request gets.
    fn extra_headers(&self) -> Vec<ExtraHeader<'_>> {
        let value = values_of(&self.parts.headers, &TRACEPARENT).next();
        let header = value.map(|value| (b"traceparent"[..].into(), value.as_bytes().into()));
        header.into_iter().collect()
    }

    /// Runs long work on the request on a blocking thread.
    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Call<'_, T>) -> Result<R, Refusal> + Send + 'static,
    ) -> Result<R, Refusal> {
        let (producer, parts, target) = (Arc::clone(self.producer), self.parts.clone(), self.target.clone());
        let caller = self.caller.clone();
        let work = move || {
            let (producer, caller, parts) = (&producer, &caller, &parts);
            work(&Call {
                producer,
                caller,
                parts,
                target,
            })
        };
        self.producer.blocking.attempt(Share::Parse, work).await
    }
}

/// The parameter `ack`.
fn ack(params: &Params) -> Result<Option<Ack>, Problem> {
    params.choice("ack", &[("durable", Ack::Durable), ("written", Ack::Written)])
}

/// A list of records that becomes one append.
struct Listed<'a> {
    target: &'a Target,
    placer: Placer<'a>,
    placements: Vec<Placement>,
    now: TimestampMs,
    /// The field of a record, or the parameter, that names its partition.
    partition: &'static str,
    /// The most bytes of records, as they are stored.
    max_bytes: usize,
}

impl<'a> Listed<'a> {
    fn new(call: &'a TopicCall<'_>, attempt: &Attempt, partition: &'static str) -> Self {
        let max_bytes = call.producer.limits.max_request_bytes;
        Self {
            target: &call.target,
            placer: Placer::new(call.placing(attempt), attempt.now),
            placements: Vec::new(),
            now: attempt.now,
            partition,
            max_bytes: attempt.first().map_or(max_bytes, |_| usize::MAX),
        }
    }

    fn add(&mut self, record: &ParsedRecord<'_>, pointer: impl Fn() -> String) -> Result<(), Refusal> {
        let placement = self.placer.add(record).map_err(|misfit| {
            let pointer = pointer();
            let mut partition = self.partition.to_owned();
            if partition.starts_with('/') {
                partition.insert_str(0, &pointer);
            }
            misfit.refuse(&pointer, &partition)
        })?;
        self.placements.push(placement);
        check_stored_bytes(self.placer.bytes(), self.max_bytes)
    }

    fn placed(self) -> Placed {
        Placed::of(self.target, self.placer, self.placements, self.now)
    }
}

/// `{"offsets":[…]}` for records at `placements` in `parts`, with their topics if they have `names`, written while the
/// client reads it, and a `hint`, which needs no escapes, as names need none; `held` is released at its end.
fn positions(
    placements: Vec<Placement>,
    parts: Vec<PartPlace>,
    names: Vec<String>,
    hint: Option<&'static str>,
    held: Option<OwnedSemaphorePermit>,
) -> Body {
    let written = chunks::body(|mut chunks| async move {
        let _held = held;
        let capacity = (32 + placements.len() * 40).min(ANSWER_CHUNK_BYTES + 128);
        let mut out = Vec::with_capacity(capacity);
        let mut number = itoa::Buffer::new();
        out.extend_from_slice(b"{\"offsets\":[");
        for (index, placement) in placements.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            let part = &parts[placement.part as usize];
            out.push(b'{');
            if let Some(name) = names.get(part.topic as usize) {
                out.extend_from_slice(b"\"topic\":\"");
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(b"\",");
            }
            out.extend_from_slice(b"\"partition\":");
            out.extend_from_slice(number.format(part.partition).as_bytes());
            out.extend_from_slice(b",\"offset\":");
            let offset = part.base_offset.plus(u64::from(placement.delta)).get();
            out.extend_from_slice(number.format(offset).as_bytes());
            out.push(b'}');
            if out.len() >= ANSWER_CHUNK_BYTES {
                chunks.send(std::mem::take(&mut out).into()).await;
                out.reserve(capacity);
            }
        }
        out.push(b']');
        if let Some(hint) = hint {
            out.extend_from_slice(format!(",\"hint\":\"{hint}\"").as_bytes());
        }
        out.extend_from_slice(b"}\n");
        Ok::<_, Infallible>(out.into())
    });
    let Ok(body) = written;
    body
}

/// The answer; a header marks it if it repeats the answer to an earlier request.
fn replayed(is_replayed: bool, mut response: Response) -> Response {
    if is_replayed {
        let value = HeaderValue::from_static("true");
        response.headers_mut().insert(REPLAYED, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::broker::refusal::Reason;

    fn media(value: &str) -> Result<Media, Code> {
        let value = HeaderValue::from_str(value).unwrap();
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, value)]);
        media_type(&headers).map_err(|problem| problem.code())
    }

    #[test]
    fn the_media_type_chooses_the_reader_whatever_its_case_and_parameters() {
        let raw = Media::Raw { is_json: false };
        for (expected, values) in [
            (Media::Json, "application/json|Application/JSON"),
            (Media::Json, "application/json; charset=utf-8"),
            (Media::Json, "application/json;charset=\"UTF-8\""),
            (Media::Ndjson, "application/x-ndjson|application/x-ndjson ; q=1"),
            (Media::Ndjson, "application/ndjson|application/jsonl"),
            (Media::Ndjson, "application/x-jsonlines; charset=utf-8"),
            (Media::RecordBatch, "application/vnd.apache.kafka.record-batch"),
            (Media::Event(Mode::Structured), "application/cloudevents+json"),
            (Media::Event(Mode::Batched), "Application/CloudEvents-Batch+JSON"),
            (Media::Ndjson, "application/x-jsonl|application/jsonlines"),
            (raw, "application/cloudevents+avro|application/vnd.x.json"),
            (raw, "text/plain; charset=latin1|application/octet-stream"),
            (Media::Raw { is_json: true }, "application/Geo+JSON; x=1"),
        ] {
            for value in values.split('|') {
                assert_eq!(media(value), Ok(expected), "{value}");
            }
        }
        let wrong = "application/json; charset=latin1|application/cloudevents+json; charset=latin1|text/x-ndjson|text/json|\
            application/x-www-form-urlencoded|Multipart/Form-Data; boundary=x|application/json, text/plain|x||\
            application/vnd.kafka.json.v2+json|application/x-json|application/json5|application/x-ldjson|\
            application/stream+json|application/json-seq|text/x-json|text/jsonl";
        for wrong in wrong.split('|') {
            assert_eq!(media(wrong), Err(Code::UnsupportedMediaType), "{wrong}");
        }
        let twice = ["application/json", "application/x-ndjson"].map(HeaderValue::from_static);
        let twice = HeaderMap::from_iter(twice.map(|value| (header::CONTENT_TYPE, value)));
        let code = media_type(&twice).unwrap_err().code();
        let expected = Code::Refused(Reason::InvalidRequest);
        assert_eq!(code, expected, "nobody can know which counts");
        let problem = media_type(&HeaderMap::new()).unwrap_err();
        assert_eq!(problem.code(), Code::UnsupportedMediaType);
        let detail = problem.to_json()["detail"].to_string();
        let holds = detail.contains("application/x-ndjson") && detail.contains("text/plain");
        assert!(holds, "{detail}");
    }

    #[test]
    fn a_specversion_makes_any_body_the_data_of_an_event_but_for_whole_events() {
        let mut headers = HeaderMap::new();
        headers.insert("ce-specversion", HeaderValue::from_static("1.0"));
        assert_eq!(media_type(&headers).unwrap(), Media::Event(Mode::Binary));
        for (value, mode) in [
            ("application/json", Mode::Binary),
            ("application/json; charset=latin1", Mode::Binary),
            ("application/x-ndjson", Mode::Binary),
            ("application/vnd.apache.kafka.record-batch", Mode::Binary),
            ("text/plain", Mode::Binary),
            ("application/cloudevents+json", Mode::Structured),
            ("application/cloudevents-batch+json; charset=utf-8", Mode::Batched),
        ] {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(media_type(&headers).unwrap(), Media::Event(mode), "{value}");
        }
    }

    #[tokio::test]
    async fn positions_stand_in_the_order_of_the_request() {
        let placement = |part, delta| Placement { part, delta };
        let placements = vec![placement(1, 0), placement(0, 0), placement(1, 1)];
        let part = |topic, partition, base_offset| PartPlace {
            topic,
            partition,
            base_offset: Offset::new(base_offset),
        };
        let parts = vec![part(0, 7, 41), part(1, 0, 9)];
        let written = async |names| {
            let body = positions(placements.clone(), parts.clone(), names, None, None);
            body.collect().await.unwrap().to_bytes()
        };
        let expected = r#"{"offsets":[{"partition":0,"offset":9},{"partition":7,"offset":41},{"partition":0,"offset":10}]}"#;
        assert_eq!(written(Vec::new()).await, format!("{expected}\n"));
        let names = vec!["a".to_owned(), "b".to_owned()];
        let expected = r#"{"offsets":[{"topic":"b","partition":0,"offset":9},{"topic":"a","partition":7,"offset":41},{"topic":"b","partition":0,"offset":10}]}"#;
        assert_eq!(written(names).await, format!("{expected}\n"));
    }
}
