//! Errors as clients see them: `application/problem+json` (RFC 9457) with quipu's own members.
//!
//! Every unsuccessful answer is a [`Problem`]. [`Code`] is the one table of codes with status, title and whether the
//! same request may succeed later; nothing else in the service chooses an error's status.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use super::fresh;
use crate::broker::engine::Error;
use crate::broker::refusal::{self, Outcome, Reason, Refusal};

/// The code of a problem, for client programs to branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The broker refuses the request, for this reason.
    Refused(Reason),
    /// No resource has this path.
    NotFound,
    /// The `Host` is not the server's, or a web page of another origin requests a change.
    Forbidden,
    /// The path exists, but not with this method.
    MethodNotAllowed,
    /// The client accepts no representation that the server has.
    NotAcceptable,
    /// The body's media type or coding is unknown.
    UnsupportedMediaType,
    /// The client did not send its request in time.
    RequestTimeout,
}

impl From<Reason> for Code {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason)
    }
}

impl Code {
    /// Every code, in the order of the table.
    #[rustfmt::skip]
    pub const ALL: &[Self] = &[
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::RequestTimeout,
        Self::UnsupportedMediaType,
        Self::Refused(Reason::InvalidRequest),
        Self::Refused(Reason::Unauthenticated),
        Self::Refused(Reason::PrincipalExists),
        Self::Refused(Reason::QuotaExceeded),
        Self::Refused(Reason::UnknownTopic),
        Self::Refused(Reason::UnknownPartition),
        Self::Refused(Reason::UnknownGroup),
        Self::Refused(Reason::UnknownMember),
        Self::Refused(Reason::UnknownBackup),
        Self::Refused(Reason::BackupExists),
        Self::Refused(Reason::BackupRunning),
        Self::Refused(Reason::TopicExists),
        Self::Refused(Reason::TopicProtected),
        Self::Refused(Reason::PartitionsCannotShrink),
        Self::Refused(Reason::GroupActive),
        Self::Refused(Reason::Fenced),
        Self::Refused(Reason::PollSuperseded),
        Self::Refused(Reason::MemberSuperseded),
        Self::Refused(Reason::GroupTypeMismatch),
        Self::Refused(Reason::GroupSettingsDiffer),
        Self::Refused(Reason::OutOfOrderSequence),
        Self::Refused(Reason::NotDamaged),
        Self::Refused(Reason::OffsetTrimmed),
        Self::Refused(Reason::CursorExpired),
        Self::Refused(Reason::PollExpired),
        Self::Refused(Reason::TopicChanged),
        Self::Refused(Reason::OffsetMismatch),
        Self::Refused(Reason::PreviewOutdated),
        Self::Refused(Reason::RecordTooLarge),
        Self::Refused(Reason::RequestTooLarge),
        Self::Refused(Reason::OffsetOutOfRange),
        Self::Refused(Reason::IdempotencyKeyReused),
        Self::Refused(Reason::CorruptData),
        Self::Refused(Reason::Internal),
        Self::Refused(Reason::NotSupported),
        Self::Refused(Reason::Overloaded),
        Self::Refused(Reason::ShuttingDown),
        Self::Refused(Reason::LogFailed),
        Self::Refused(Reason::StorageFull),
    ];

    /// Its status, its name in a problem, its title, and whether the same request may succeed later.
    #[must_use]
    #[rustfmt::skip]
    pub const fn row(self) -> (u16, &'static str, &'static str, bool) {
        match self {
            Self::Forbidden => (403, "forbidden", "The request is not allowed", false),
            Self::NotFound => (404, "not-found", "There is nothing here", false),
            Self::MethodNotAllowed => (405, "method-not-allowed", "The method is not allowed here", false),
            Self::NotAcceptable => (406, "not-acceptable", "No acceptable representation", false),
            Self::RequestTimeout => (408, "request-timeout", "The request did not arrive in time", true),
            Self::UnsupportedMediaType => (415, "unsupported-media-type", "The body's type is not supported", false),
            Self::Refused(reason) => match reason {
                Reason::InvalidRequest => (400, "invalid-request", "The request is not valid", false),
                Reason::Unauthenticated => (401, "unauthenticated", "Nobody has signed in", false),
                Reason::Forbidden => Self::Forbidden.row(),
                Reason::UnknownPrincipal => Self::NotFound.row(),
                Reason::PrincipalExists => (409, "principal-exists", "The name is taken", false),
                Reason::QuotaExceeded => (429, "quota-exceeded", "The quota is used up for now", true),
                Reason::UnknownTopic => (404, "unknown-topic", "The topic does not exist", false),
                Reason::UnknownPartition => (404, "unknown-partition", "The partition does not exist", false),
                Reason::UnknownGroup => (404, "unknown-group", "The group does not exist", false),
                Reason::UnknownMember => (404, "unknown-member", "The member does not exist", false),
                Reason::UnknownBackup => (404, "unknown-backup", "The backup does not exist", false),
                Reason::BackupExists => (409, "backup-exists", "The backup exists", false),
                Reason::BackupRunning => (409, "backup-running", "A backup is running", true),
                Reason::TopicExists => (409, "topic-exists", "The topic exists and is different", false),
                Reason::TopicProtected => (409, "topic-protected", "The topic is protected against deletion", false),
                Reason::PartitionsCannotShrink => (409, "partitions-cannot-shrink", "Partitions are only ever added", false),
                Reason::GroupActive => (409, "group-active", "The group has live members", true),
                Reason::Fenced => (409, "fenced", "What the call names is not the caller's any more", false),
                Reason::PollSuperseded => (409, "poll-superseded", "A newer poll has taken this one's place", false),
                Reason::MemberSuperseded => (409, "member-superseded", "A newer process has taken the member over", false),
                Reason::GroupTypeMismatch => (409, "group-type-mismatch", "The group is of another type", false),
                Reason::GroupSettingsDiffer => (409, "group-settings-differ", "The group has other settings", false),
                Reason::OutOfOrderSequence => (409, "out-of-order-sequence", "The batch does not follow on its producer's last one", false),
                // Kafka's protocol tells them apart.
                Reason::ForgottenProducer => Self::Refused(Reason::OutOfOrderSequence).row(),
                Reason::NotDamaged => (409, "not-damaged", "The records can be read", false),
                Reason::OffsetTrimmed => (410, "offset-trimmed", "The offset has been trimmed", false),
                Reason::CursorExpired => (410, "cursor-expired", "The cursor's topic or data directory is gone", false),
                Reason::PollExpired => (410, "poll-expired", "The poll was answered before a restore", false),
                Reason::TopicChanged => (412, "topic-changed", "The topic is another one by now", false),
                Reason::OffsetMismatch => (412, "offset-mismatch", "The next offset is another", false),
                Reason::PreviewOutdated => (412, "preview-outdated", "The preview is out of date", false),
                // Kafka's protocol tells them apart.
                Reason::CorruptBatch
                | Reason::InvalidBatch
                | Reason::InvalidTimestamp
                | Reason::UnknownCompression => Self::Refused(Reason::InvalidRequest).row(),
                Reason::RecordTooLarge => (413, "record-too-large", "The record is too large", false),
                Reason::RequestTooLarge => (413, "request-too-large", "The request is too large", false),
                Reason::OffsetOutOfRange => (416, "offset-out-of-range", "The offset is above the end", false),
                Reason::IdempotencyKeyReused => (422, "idempotency-key-reused", "The idempotency key belongs to another request", false),
                Reason::CorruptData => (500, "corrupt-data", "Stored data is damaged", false),
                Reason::Internal => (500, "internal", "Something failed in the server", true),
                Reason::NotSupported => (501, "not-supported", "This version does not support it", false),
                Reason::Overloaded => (503, "overloaded", "The server cannot take more at the moment", true),
                Reason::ShuttingDown => (503, "shutting-down", "The server is stopping", true),
                Reason::LogFailed => (503, "log-failed", "The log refuses appends until a restart", false),
                Reason::StorageFull => (507, "storage-full", "The server's disk is full", true),
            },
        }
    }
}

/// One problem, ready to be answered.
#[derive(Clone, Debug)]
pub struct Problem {
    code: Code,
    detail: String,
    outcome: Outcome,
    retry_after: Option<Duration>,
    members: Map<String, Value>,
}

impl Problem {
    /// A problem with outcome `none`. Some codes have a `Retry-After`: 1 s, or 5 s for a full disk.
    #[must_use]
    pub fn new(code: impl Into<Code>, detail: impl Into<String>) -> Self {
        let code = code.into();
        Self {
            retry_after: match code {
                Code::Refused(reason) => reason.retry_after(),
                _ => None,
            },
            code,
            detail: detail.into(),
            outcome: Outcome::None,
            members: Map::new(),
        }
    }

    /// A 400 that names the field by a JSON pointer (`/records/3/key`), or the query parameter by its name.
    #[must_use]
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(Reason::InvalidRequest, detail).with("pointer", Value::String(pointer.into()))
    }

    /// Adds a member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Sets the outcome.
    #[must_use]
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// The problem as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (status, code, title, retryable) = self.code.row();
        let outcome = match self.outcome {
            Outcome::None => "none",
            Outcome::Partial => "partial",
            Outcome::Unknown => "unknown",
        };
        let mut body = json!({
            "type": format!("/problems/{code}"), "title": title, "status": status, "detail": self.detail,
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
        let status = StatusCode::from_u16(self.code.row().0).expect("the table has HTTP's own numbers");
        let body = format!("{}\n", self.to_json());
        let mut response = (status, fresh("application/problem+json"), body).into_response();
        let headers = response.headers_mut();
        if self.code == Reason::Unauthenticated.into() {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"quipu\""),
            );
        }
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let mut problem = Self::new(refusal.reason, refusal.detail).outcome(refusal.outcome);
        problem.retry_after = refusal.retry_after;
        if let Some(field) = refusal.field {
            problem = problem.with("pointer", field);
        }
        refusal
            .values
            .into_iter()
            .fold(problem, |problem, (name, value)| match value {
                refusal::Value::Number(number) => problem.with(name, number),
                refusal::Value::Text(text) => problem.with(name, text),
                refusal::Value::Indexes(indexes) => problem.with(name, indexes),
                refusal::Value::Places(places) => {
                    problem.with(name, places.iter().map(place).collect::<Vec<Value>>())
                }
            })
    }
}

fn place(place: &refusal::Place) -> Value {
    let (topic, partition) = (&place.topic, place.partition);
    match place.offset {
        Some(offset) => json!({"topic": topic, "partition": partition, "offset": offset.get()}),
        None => json!({"topic": topic, "partition": partition}),
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Refusal::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use crate::broker::engine::Offset;

    use super::*;

    #[test]
    fn the_list_of_codes_has_every_row_of_the_table() {
        let rows = include_str!("problem.rs").lines();
        let is_row = |line: &str| line.trim_start().starts_with(['S', 'R']) && line.contains("=> (");
        let rows = rows.filter(|line| is_row(line)).count();
        let all = Code::ALL.iter().enumerate();
        let mut once = all.filter(|(index, code)| !Code::ALL[..*index].contains(code));
        assert_eq!((once.by_ref().count(), Code::ALL.len()), (rows, rows));
    }

    #[test]
    fn a_problem_carries_its_code_status_and_members() {
        let value = Problem::invalid("/records/3/key", "a key is a string").to_json();
        let expected = json!({
            "type": "/problems/invalid-request", "title": "The request is not valid", "status": 400,
            "detail": "a key is a string", "code": "invalid-request", "retryable": false, "outcome": "none",
            "pointer": "/records/3/key",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_problem_that_blocks_a_retry_says_what_to_do() {
        let retry_after = std::time::Duration::from_millis(9_001);
        let (expected, found) = (7, 9);
        for (error, status, code, retry_after) in [
            (Error::KeyReused, 422, "idempotency-key-reused", None),
            (Error::TooManyKeys { retry_after }, 503, "overloaded", Some("10")),
            (Error::KeysFailed("why".into()), 503, "log-failed", None),
            (
                Error::OutOfOrderSequence { expected, found },
                409,
                "out-of-order-sequence",
                None,
            ),
            (Error::ProducerFenced { epoch: 3, found: 2 }, 409, "fenced", None),
        ] {
            let problem = Problem::from(error);
            assert_eq!(problem.to_json()["code"], code);
            let response = problem.into_response();
            let found = response.headers().get(header::RETRY_AFTER);
            let seconds = found.map(|seconds| seconds.to_str().unwrap());
            assert_eq!(seconds, retry_after, "{code}");
            assert_eq!(response.status(), status, "{code}");
        }
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
