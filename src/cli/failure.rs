//! What can go wrong with a request, told apart by what the caller does next.
//!
//! The server refused ([`Failure::Problem`]), nothing was sent ([`Failure::NotSent`]), or the answer was lost, so that
//! nobody knows whether the request was carried out ([`Failure::Lost`]). A read may be repeated after any of them; a
//! produce request after a lost answer only under its idempotency key.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value};

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The server answered with a problem.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// No connection: the server has not received any of the request.
    #[error("cannot reach {server}: {reason}")]
    NotSent { server: String, reason: String },
    /// TLS with the server is impossible: one of them does not trust the other, or does not speak it.
    #[error("cannot reach {server}: {reason}")]
    Tls { server: String, reason: String },
    /// The connection broke or went silent: the request may or may not have been carried out.
    #[error("the connection to {server} broke: {reason}")]
    Lost { server: String, reason: String },
    /// An error status without a problem: a proxy answered, or the address is not that of a quipu server.
    #[error("{}", foreign(.server, *.status))]
    Status {
        server: String,
        status: StatusCode,
        /// How long to wait before the next attempt, if that was said.
        retry_after: Option<Duration>,
    },
    /// An answer that quipu never gives: the address is not that of a quipu server.
    #[error("{server} does not answer as quipu does: {reason}")]
    Unexpected { server: String, reason: String },
}

impl Failure {
    /// The code of the problem, if the server answered with one.
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Self::Problem(problem) => Some(&problem.code),
            _ => None,
        }
    }

    /// Whether the same read may succeed soon: the server is away, restarts, is overloaded, or limits this caller.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::Problem(problem) => problem.passes(),
            Self::NotSent { .. } | Self::Lost { .. } => true,
            Self::Status { status, .. } => matches!(status.as_u16(), 408 | 429 | 502 | 503 | 504),
            Self::Unexpected { .. } | Self::Tls { .. } => false,
        }
    }

    /// How long the server asks to wait before the next attempt.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem(problem) => problem.retry_after,
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether a command that runs until it is stopped should try again: as [`Self::passes`], also for all retryable
    /// problems and faults that an operator will repair: a full disk, a failed log, a status 5xx without a problem.
    pub(crate) fn may_pass(&self) -> bool {
        let is_stuck = |problem: &Problem| matches!(&*problem.code, "storage-full" | "log-failed");
        match self {
            Self::Problem(problem) => problem.passes() || problem.is_retryable() || is_stuck(problem),
            Self::Status { status, .. } => self.passes() || status.is_server_error(),
            _ => self.passes(),
        }
    }

    /// Whether it is certain that the request stored nothing.
    pub(crate) fn stored_nothing(&self) -> bool {
        match self {
            Self::NotSent { .. } | Self::Tls { .. } => true,
            Self::Problem(problem) => problem.outcome() == Some("none"),
            _ => false,
        }
    }
}

/// The message for an error status without a problem.
fn foreign(server: &str, status: StatusCode) -> String {
    let refused = |token: &str| {
        format!(
            "{server} refuses the request: {status}, and the answer is not quipu's: a proxy in front of it may want {token}"
        )
    };
    match status.as_u16() {
        401 | 407 => refused("a --token"),
        403 => refused("another --token"),
        code => {
            let hint = match code {
                502..=504 => "; a proxy may not reach it",
                _ => "",
            };
            format!("{server} does not answer as quipu does: status {status} without a problem{hint}")
        }
    }
}

/// An `application/problem+json` answer.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) code: String,
    pub(crate) members: Map<String, Value>,
    /// How long the server asks to wait before the next attempt.
    pub(crate) retry_after: Option<Duration>,
}

impl Problem {
    /// A member that is a text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.members.get(name)?.as_str()
    }

    /// A member that is a whole number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.members.get(name)?.as_u64()
    }

    /// Whether the problem passes without anybody's action.
    pub(crate) fn passes(&self) -> bool {
        matches!(
            &*self.code,
            "overloaded" | "shutting-down" | "quota-exceeded" | "idempotency-key-in-use"
        )
    }

    /// Whether the server says that the same request may succeed later.
    pub(crate) fn is_retryable(&self) -> bool {
        self.members.get("retryable") == Some(&Value::Bool(true))
    }

    /// What was stored: `none`, `partial` (the `accepted` first records) or `unknown`.
    pub(crate) fn outcome(&self) -> Option<&str> {
        self.text("outcome")
    }

    /// A problem from its members; `None` without a `code`.
    pub(crate) fn of(members: Map<String, Value>, retry_after: Option<Duration>) -> Option<Self> {
        let code = one_line(members.get("code")?.as_str()?);
        Some(Self {
            code,
            members,
            retry_after,
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |name| self.text(name).filter(|text| !text.is_empty()).map(one_line);
        let detail = text("detail").or_else(|| text("title"));
        let pointer = text("pointer").map(|pointer| format!(" (pointer {pointer})"));
        let (detail, pointer) = (detail.unwrap_or_default(), pointer.unwrap_or_default());
        write!(f, "{}: {detail}{pointer}", self.code)
    }
}

/// The text with its control characters, line breaks among them, replaced: it came over the network.
pub(crate) fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line() {
        let members =
            r#"{"code":"invalid-request","detail":"partitions must\nbe 1","pointer":"/partitions"}"#;
        let problem = Problem::of(serde_json::from_str(members).unwrap(), None).unwrap();
        let expected = "invalid-request: partitions must be 1 (pointer /partitions)";
        assert_eq!(problem.to_string(), expected);
    }

    #[test]
    fn a_proxy_that_refuses_is_named_as_one() {
        let refused = |status, token| {
            format!(
                "refuses the request: {status}, and the answer is not quipu's: a proxy in front of it may want {token}"
            )
        };
        let other = |status| format!("does not answer as quipu does: status {status} without a problem");
        for (status, text) in [
            (401, refused("401 Unauthorized", "a --token")),
            (403, refused("403 Forbidden", "another --token")),
            (502, other("502 Bad Gateway") + "; a proxy may not reach it"),
            (302, other("302 Found")),
        ] {
            let (server, status) = ("http://h".to_owned(), StatusCode::from_u16(status).unwrap());
            let failure = Failure::Status {
                server,
                status,
                retry_after: None,
            };
            assert_eq!(failure.to_string(), format!("http://h {text}"));
        }
    }
}
