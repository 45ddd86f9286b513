//! Errors as clients see them: `application/problem+json` (RFC 9457) with quipu's own members.
//!
//! Every answer that is not a success is a [`Problem`]. [`Code`] is the one table of codes with status, title and
//! whether the same request may succeed later; nothing else in the service chooses a status.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use quipu_segments::{Error, Offset};
use serde_json::{Map, Value, json};

/// The code of a problem: a client's programs branch on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request says something that it must not; `pointer` names the field or the parameter.
    InvalidRequest,
    /// The path names nothing.
    NotFound,
    /// The topic does not exist.
    UnknownTopic,
    /// The topic has no such partition.
    UnknownPartition,
    /// The group does not exist.
    UnknownGroup,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// No representation that the client accepts.
    NotAcceptable,
    /// A topic of that name exists and differs.
    TopicExists,
    /// Partitions are only ever added.
    PartitionsCannotShrink,
    /// The group has live members.
    GroupActive,
    /// The group has no such member.
    UnknownMember,
    /// The member acts with an epoch, or for a partition, that it no longer has; or the producer with an epoch.
    Fenced,
    /// A newer poll of the member has taken this one's place.
    PollSuperseded,
    /// The group is of another type.
    GroupTypeMismatch,
    /// The group was begun with other settings.
    GroupSettingsDiffer,
    /// The idempotency key was used by another request.
    IdempotencyKeyReused,
    /// A producer's batch does not follow on its last one.
    OutOfOrderSequence,
    /// `expected_offset` is not the next offset.
    OffsetMismatch,
    /// The offset lies below the log start.
    OffsetTrimmed,
    /// The offset lies above the end.
    OffsetOutOfRange,
    /// What a cursor says was read of a topic that is gone.
    CursorExpired,
    /// One record is above its topic's limit.
    RecordTooLarge,
    /// The request is above the limit.
    RequestTooLarge,
    /// The body's type or coding is not understood.
    UnsupportedMediaType,
    /// The contract has it, this version does not.
    NotSupported,
    /// What was to be skipped can be read.
    NotDamaged,
    /// Stored bytes are damaged.
    CorruptData,
    /// Something failed that should not.
    Internal,
    /// The disk cannot follow, or too much is in flight.
    Overloaded,
    /// The server is stopping.
    ShuttingDown,
    /// The journal or the partition's segment failed.
    LogFailed,
    /// The disk is full.
    StorageFull,
    /// The client did not send its request in time.
    RequestTimeout,
    /// A request's headers are above the limit.
    HeadersTooLarge,
}

impl Code {
    /// The code as it stands in a problem, its status, its title, and whether repeating the request may help.
    #[must_use]
    pub const fn row(self) -> (&'static str, StatusCode, &'static str, bool) {
        match self {
            Self::InvalidRequest => (
                "invalid-request",
                StatusCode::BAD_REQUEST,
                "The request is not valid",
                false,
            ),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "There is nothing here", false),
            Self::UnknownTopic => (
                "unknown-topic",
                StatusCode::NOT_FOUND,
                "The topic does not exist",
                false,
            ),
            Self::UnknownPartition => (
                "unknown-partition",
                StatusCode::NOT_FOUND,
                "The partition does not exist",
                false,
            ),
            Self::UnknownGroup => (
                "unknown-group",
                StatusCode::NOT_FOUND,
                "The group does not exist",
                false,
            ),
            Self::MethodNotAllowed => (
                "method-not-allowed",
                StatusCode::METHOD_NOT_ALLOWED,
                "The method is not allowed here",
                false,
            ),
            Self::NotAcceptable => (
                "not-acceptable",
                StatusCode::NOT_ACCEPTABLE,
                "No acceptable representation",
                false,
            ),
            Self::TopicExists => (
                "topic-exists",
                StatusCode::CONFLICT,
                "The topic exists and is different",
                false,
            ),
            Self::PartitionsCannotShrink => (
                "partitions-cannot-shrink",
                StatusCode::CONFLICT,
                "Partitions are only ever added",
                false,
            ),
            Self::GroupActive => (
                "group-active",
                StatusCode::CONFLICT,
                "The group has live members",
                true,
            ),
            Self::UnknownMember => (
                "unknown-member",
                StatusCode::NOT_FOUND,
                "The member does not exist",
                false,
            ),
            Self::Fenced => (
                "fenced",
                StatusCode::CONFLICT,
                "A newer epoch has taken this one's place",
                false,
            ),
            Self::PollSuperseded => (
                "poll-superseded",
                StatusCode::CONFLICT,
                "A newer poll has taken this one's place",
                false,
            ),
            Self::GroupTypeMismatch => (
                "group-type-mismatch",
                StatusCode::CONFLICT,
                "The group is of another type",
                false,
            ),
            Self::GroupSettingsDiffer => (
                "group-settings-differ",
                StatusCode::CONFLICT,
                "The group has other settings",
                false,
            ),
            Self::IdempotencyKeyReused => (
                "idempotency-key-reused",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The idempotency key belongs to another request",
                false,
            ),
            Self::OutOfOrderSequence => (
                "out-of-order-sequence",
                StatusCode::CONFLICT,
                "The batch does not follow on its producer's last one",
                false,
            ),
            Self::OffsetMismatch => (
                "offset-mismatch",
                StatusCode::PRECONDITION_FAILED,
                "The next offset is another",
                false,
            ),
            Self::OffsetTrimmed => (
                "offset-trimmed",
                StatusCode::GONE,
                "The offset has been trimmed",
                false,
            ),
            Self::OffsetOutOfRange => (
                "offset-out-of-range",
                StatusCode::RANGE_NOT_SATISFIABLE,
                "The offset is above the end",
                false,
            ),
            Self::CursorExpired => (
                "cursor-expired",
                StatusCode::GONE,
                "The cursor's topic is gone",
                false,
            ),
            Self::RecordTooLarge => (
                "record-too-large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "The record is too large",
                false,
            ),
            Self::RequestTooLarge => (
                "request-too-large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "The request is too large",
                false,
            ),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body's type is not supported",
                false,
            ),
            Self::NotSupported => (
                "not-supported",
                StatusCode::NOT_IMPLEMENTED,
                "This version does not support it",
                false,
            ),
            Self::NotDamaged => (
                "not-damaged",
                StatusCode::CONFLICT,
                "The records can be read",
                false,
            ),
            Self::CorruptData => (
                "corrupt-data",
                StatusCode::INTERNAL_SERVER_ERROR,
                "Stored data is damaged",
                false,
            ),
            Self::Internal => (
                "internal",
                StatusCode::INTERNAL_SERVER_ERROR,
                "Something failed in the server",
                true,
            ),
            Self::Overloaded => (
                "overloaded",
                StatusCode::SERVICE_UNAVAILABLE,
                "The server cannot take more at the moment",
                true,
            ),
            Self::ShuttingDown => (
                "shutting-down",
                StatusCode::SERVICE_UNAVAILABLE,
                "The server is stopping",
                true,
            ),
            Self::LogFailed => (
                "log-failed",
                StatusCode::SERVICE_UNAVAILABLE,
                "The log refuses appends until a restart",
                false,
            ),
            Self::StorageFull => (
                "storage-full",
                StatusCode::INSUFFICIENT_STORAGE,
                "The server's disk is full",
                true,
            ),
            Self::RequestTimeout => (
                "request-timeout",
                StatusCode::REQUEST_TIMEOUT,
                "The request did not arrive in time",
                true,
            ),
            Self::HeadersTooLarge => (
                "headers-too-large",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "The request's headers are too large",
                false,
            ),
        }
    }
}

/// Whether a failed request stored something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was stored.
    None,
    /// What `accepted` counts was stored.
    Partial,
    /// Nobody knows.
    Unknown,
}

/// One problem, ready to be answered.
#[derive(Clone, Debug)]
pub struct Problem {
    code: Code,
    detail: String,
    outcome: Outcome,
    retry_after_s: Option<u32>,
    allow: Option<&'static str>,
    members: Map<String, Value>,
}

impl Problem {
    /// A problem with nothing stored; codes that the contract gives a `Retry-After` carry one of 1 s (5 s for a full disk).
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let retry_after_s = match code {
            Code::Overloaded => Some(1),
            Code::StorageFull => Some(5),
            _ => None,
        };
        Self {
            code,
            detail: detail.into(),
            outcome: Outcome::None,
            retry_after_s,
            allow: None,
            members: Map::new(),
        }
    }

    /// A 400 that names the field by a JSON pointer (`/records/3/key`), or the query parameter by its name.
    #[must_use]
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, detail).with("pointer", Value::String(pointer.into()))
    }

    /// Adds a member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Says what was stored.
    #[must_use]
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// Says when it is worth to try again, in seconds.
    #[must_use]
    pub fn retry_after_s(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Names the methods that are allowed (405).
    #[must_use]
    pub fn allow(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// The problem as a JSON value.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (code, status, title, retryable) = self.code.row();
        let outcome = match self.outcome {
            Outcome::None => "none",
            Outcome::Partial => "partial",
            Outcome::Unknown => "unknown",
        };
        let mut body = json!({
            "type": format!("/problems/{code}"), "title": title, "status": status.as_u16(), "detail": self.detail,
            "code": code, "retryable": retryable, "outcome": outcome,
        });
        if let Value::Object(map) = &mut body {
            map.extend(self.members.clone());
        }
        body
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (_, status, _, _) = self.code.row();
        let mut response = (status, self.to_json().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

fn positions(problem: Problem, log_start_offset: Offset, end_offset: Offset) -> Problem {
    problem
        .with("log_start_offset", log_start_offset.get())
        .with("end_offset", end_offset.get())
}

impl From<Error> for Problem {
    /// Clients see no paths: an error that may name one is answered in general words and logged here, once.
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(detail) => Self::new(Code::InvalidRequest, detail),
            Error::RecordTooLarge { .. } => Self::new(Code::RecordTooLarge, error.to_string()),
            Error::RequestTooLarge { .. } => Self::new(Code::RequestTooLarge, error.to_string()),
            Error::NotFound(what) => Self::new(Code::UnknownTopic, format!("{what} does not exist")),
            Error::TopicExists(_) => Self::new(Code::TopicExists, error.to_string()),
            Error::OffsetMismatch { end_offset, .. } => {
                Self::new(Code::OffsetMismatch, error.to_string()).with("end_offset", end_offset.get())
            }
            Error::Trimmed {
                log_start_offset,
                end_offset,
                ..
            } => positions(
                Self::new(Code::OffsetTrimmed, error.to_string()),
                log_start_offset,
                end_offset,
            ),
            Error::OutOfRange {
                log_start_offset,
                end_offset,
                ..
            } => positions(
                Self::new(Code::OffsetOutOfRange, error.to_string()),
                log_start_offset,
                end_offset,
            ),
            Error::Damaged {
                damaged_from,
                damaged_until,
                ..
            } => {
                // The engine has logged it when it was first met.
                Self::new(
                    Code::CorruptData,
                    format!("offsets {damaged_from} to {damaged_until} (exclusive) cannot be read; go on from there"),
                )
                .with("damaged_offset", damaged_from.get())
                .with("damaged_until_offset", damaged_until.get())
            }
            Error::Overloaded { .. } => Self::new(Code::Overloaded, error.to_string()),
            Error::KeyReused => Self::new(
                Code::IdempotencyKeyReused,
                "the Idempotency-Key was used before, by a request with another query, content type or body; a new request needs a new key",
            ),
            Error::TooManyKeys { retry_after } => Self::new(
                Code::Overloaded,
                "as many idempotency keys are remembered as there is memory for; shorten the topics' dedupe_window_ms, or raise the server's max_idempotency_bytes",
            )
            // A second more than the whole ones, so that the first has expired by then.
            .retry_after_s(u32::try_from(retry_after.as_secs()).unwrap_or(u32::MAX).saturating_add(1)),
            Error::OutOfOrderSequence { expected, found } => {
                Self::new(Code::OutOfOrderSequence, error.to_string())
                    .with("expected_sequence", expected)
                    .with("sequence", found)
            }
            Error::ProducerFenced { .. } => Self::new(Code::Fenced, error.to_string()),
            Error::StorageFull => Self::new(
                Code::StorageFull,
                "the server's disk is full; appends go on by themselves when there is space",
            ),
            Error::PartitionFailed(_) => Self::new(
                Code::LogFailed,
                "appends to this partition stopped after a failed write, until a restart",
            ),
            Error::KeysFailed(_) => Self::new(
                Code::LogFailed,
                "idempotency keys cannot be stored after a failed write, until a restart; requests without one, and repetitions, go on",
            ),
            Error::LogFailed { in_flight, .. } => {
                let problem = Self::new(
                    Code::LogFailed,
                    "appends stopped after a failed write, until a restart",
                );
                problem.outcome(if in_flight {
                    Outcome::Unknown
                } else {
                    Outcome::None
                })
            }
            Error::Closed => Self::new(Code::ShuttingDown, "the server is stopping"),
            other => {
                tracing::error!(error = %other, "a request failed");
                // Part of it may have been done, and show after a restart.
                Self::new(Code::Internal, "the server could not do it; its log says why")
                    .outcome(Outcome::Unknown)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_carries_its_code_status_and_members() {
        let value = Problem::invalid("/records/3/key", "a key is a string").to_json();
        assert_eq!(value["status"], 400);
        assert_eq!(value["code"], "invalid-request");
        assert_eq!(value["type"], "/problems/invalid-request");
        assert_eq!(value["pointer"], "/records/3/key");
        assert_eq!(value["outcome"], "none");
        assert_eq!(value["retryable"], false);
    }

    #[test]
    fn what_keeps_a_repeated_request_from_being_stored_says_what_to_do() {
        let answer = |error: Error| {
            let response = Problem::from(error.clone()).into_response();
            let retry_after = response.headers().get(header::RETRY_AFTER).cloned();
            let code = Problem::from(error).to_json()["code"].clone();
            (
                response.status().as_u16(),
                code,
                retry_after.map(|seconds| seconds.to_str().unwrap().to_owned()),
            )
        };
        assert_eq!(
            answer(Error::KeyReused),
            (422, "idempotency-key-reused".into(), None)
        );
        let retry_after = std::time::Duration::from_millis(9_001);
        assert_eq!(
            answer(Error::TooManyKeys { retry_after }),
            (503, "overloaded".into(), Some("10".into()))
        );
        assert_eq!(
            answer(Error::KeysFailed("why".into())),
            (503, "log-failed".into(), None)
        );
        let (expected, found) = (7, 9);
        assert_eq!(
            answer(Error::OutOfOrderSequence { expected, found }),
            (409, "out-of-order-sequence".into(), None)
        );
        assert_eq!(
            answer(Error::ProducerFenced { epoch: 3, found: 2 }),
            (409, "fenced".into(), None)
        );
    }

    #[test]
    fn clients_see_no_paths() {
        let error = Error::Damaged {
            place: "/data/topics/a/0/00.log byte 7".into(),
            what: "crc".into(),
            damaged_from: Offset::new(3),
            damaged_until: Offset::new(9),
        };
        let text = Problem::from(error).to_json().to_string();
        assert!(!text.contains("/data"), "{text}");
        assert!(text.contains("\"damaged_until_offset\":9"), "{text}");
    }
}
