//! `POST /v1/records`: a list of records that name their topics, appended in one append.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use http::request::Parts;
use serde::Serialize;
use utoipa::ToSchema;

use super::body::Incoming;
use super::{Call, Media, ack, answer_or_drain, media_type, whole};
use crate::broker::caller::{Caller, Who};
use crate::broker::produce::whole::{Attempt, Placed};
use crate::broker::produce::{Options, Producer};
use crate::broker::refusal::Refusal;
use crate::broker::rights::Right;
use crate::formats::json::{parse_addressed, without_mark};
use crate::http::Answer;
use crate::http::app::App;
use crate::http::openapi::shapes;
use crate::http::params::Params;
use crate::http::problem::{Code, Problem};

/// The body of a request for several topics.
#[derive(ToSchema)]
#[schema(as = NewTopicRecords)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "describes the body in the OpenAPI document")]
struct RecordsDoc {
    /// At least one record.
    #[schema(min_items = 1, value_type = Vec<shapes::NewTopicRecord>)]
    records: Vec<serde_json::Value>,
}

/// Where a record is stored.
#[derive(Serialize, ToSchema)]
#[schema(as = TopicRecordPosition)]
struct PositionDoc {
    /// The topic.
    topic: String,
    /// The partition.
    partition: u32,
    /// The record's offset in the partition.
    offset: u64,
}

/// The records' positions, in the order of the request.
#[derive(Serialize, ToSchema)]
#[schema(as = ProducedToTopics)]
struct ProducedDoc {
    /// One for each record.
    offsets: Vec<PositionDoc>,
}

/// Produce records to several topics
///
/// Each record names its topic. The records of all topics are one request: after a crash all of them are there, or none.
#[utoipa::path(post, path = "/v1/records", tag = "records",
    params(
        ("ack" = Option<String>, Query, pattern = "^(durable|written)$", description = "When the request is answered: `durable` (the records are on stable storage) or `written` (the operating system has them); default: `written` if that is the `ack` of all its topics"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]{1,255}$", description = "If the same request with the same key is repeated within the longest `dedupe_window_ms` of its topics, it appends nothing and gets the first answer. Such a key belongs to the server, not to a topic"),
        ("content-encoding" = Option<String>, Header, pattern = "^(gzip|zstd|identity)$", description = "`gzip` or `zstd`"),
        ("traceparent" = Option<String>, Header, description = "Stored as a header of every record that has no header with this name"),
    ),
    request_body(description = "The records", content((RecordsDoc = "application/json"))),
    responses(
        (status = 200, description = "The records are stored", content_type = "application/json", body = ProducedDoc,
            headers(("Idempotency-Replayed" = bool, description = "`true` if the records had been appended before"))),
        (status = 400, description = "`invalid-request`; `pointer` names the field"),
        (status = 404, description = "`unknown-topic`, `unknown-partition`: a topic or a partition that a record names does not exist; `pointer` names the field"),
        (status = 408, description = "`request-timeout`: the body did not arrive whole"),
        (status = 413, description = "`record-too-large`, `request-too-large`"),
        (status = 415, description = "`unsupported-media-type`: the body is not `application/json`, or its coding is not supported"),
        (status = 422, description = "`idempotency-key-reused`: the key was used for a request with another query, type or body"),
        (status = 503, description = "`overloaded` (also by idempotency keys, which are never forgotten early), `shutting-down`, `log-failed`"),
        (status = 507, description = "`storage-full`"),
    ))]
pub(super) async fn produce_to_topics(app: App, caller: Caller, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut body = Incoming::new(&app.bodies, &parts.headers, body);
    let answer = produce(&app.producer, &caller, &parts, &mut body).await;
    answer_or_drain(answer, body, &app.stopping)
}

async fn produce(
    producer: &Arc<Producer>,
    caller: &Caller,
    parts: &Parts,
    body: &mut Incoming<'_>,
) -> Answer {
    body.check_coding()?;
    if media_type(&parts.headers)? != Media::Json {
        let detail = "records of several topics are sent as application/json, {\"records\":[{\"topic\":…}, …]}; other types go \
            to POST /v1/topics/{topic}/records";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    let call = Call {
        producer,
        caller,
        parts,
        target: (),
    };
    let params = Params::parse(parts.uri.query(), &["ack"], &[])?;
    let options = Options {
        ack: ack(&params)?,
        expected_offset: None,
        repartition: false,
    };
    let key = call.scoped_key(None, &params, None)?;
    let inspect = |body: &[u8]| check_rights(caller, body);
    whole::produce(&call, options, key, body, inspect, place).await
}

/// Refuses topics that the caller may not write to, before anything is said about the rest of the request or about its key.
fn check_rights(caller: &Caller, body: &[u8]) -> Result<Option<&'static str>, Problem> {
    if matches!(caller.who, Who::Anyone) {
        return Ok(None);
    }
    let mut last = Vec::new();
    parse_addressed(without_mark(body), |index, addressed| {
        if last[..] == addressed.topic[..] {
            return Ok(());
        }
        let topic = String::from_utf8_lossy(&addressed.topic);
        let checked = caller.check_topic(Right::Write, &topic);
        checked.map_err(|refusal| refusal.at(format!("/records/{index}/topic")))?;
        last.clear();
        last.extend_from_slice(&addressed.topic);
        Ok::<(), Refusal>(())
    })?;
    Ok(None)
}

fn place(call: &Call<'_, ()>, attempt: &Attempt, body: &[u8]) -> Result<Placed, Refusal> {
    let mut list = call
        .producer
        .addressed(call.caller, "/records", attempt, call.extra_headers());
    parse_addressed(without_mark(body), |index, addressed| {
        list.add(index, &addressed.topic, &addressed.record)
    })?;
    Ok(list.placed())
}
