//! Reading the small JSON bodies of everything but produce requests, within the limits.

use std::io::ErrorKind;

use axum::body::Body;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::budget::{Budget, Pace};
use super::params::json_body;
use super::problem::{Code, Problem};
use super::{Work, blocking};
use crate::broker::refusal::Reason;
use crate::http::app::App;

/// Bodies up to this size are parsed on the worker that received them. Larger ones go where blocking is fine.
const INLINE_BYTES: usize = 256 << 10;

/// Reads a request's JSON body and makes a `T` of it, which denies unknown fields.
///
/// # Errors
/// 400 for a body that is missing, is not the JSON expected or is broken off, 413 above `max_request_bytes`, 415 for another type or
/// a coded body, 408 for a client that stopped sending, 503 when too many bodies are held already, or others wait for what a
/// slow client's body holds.
pub(crate) async fn read_json<T: DeserializeOwned + Send + 'static>(
    app: &App,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Problem> {
    let limit = app.config.limits.max_request_bytes;
    read_optional_json(app, headers, body, limit)
        .await?
        .ok_or_else(missing)
}

/// The refusal of a body that is missing.
pub(crate) fn missing() -> Problem {
    Problem::invalid("", "a JSON body is missing")
}

/// The same for at most `limit` bytes, where the body may be left out: `None` for one of white space.
///
/// # Errors
/// Those of [`read_json`].
pub(crate) async fn read_optional_json<T: DeserializeOwned + Send + 'static>(
    app: &App,
    headers: &HeaderMap,
    mut body: Body,
    limit: usize,
) -> Result<Option<T>, Problem> {
    let mut bytes = Vec::new();
    let (mut budget, mut pace) = (Budget::new(&app.bodies), Pace::new(&app.bodies));
    while let Some(frame) = pace.wait(budget.covered(), body.frame()).await? {
        let frame = frame.map_err(|error| broken(&error))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        // A body that is missing is refused as that, whatever its type.
        if bytes.is_empty() && !data.is_empty() {
            check_type(headers)?;
        }
        if bytes.len() + data.len() > limit {
            return Err(Problem::new(
                Reason::RequestTooLarge,
                format!("a body is at most {limit} bytes"),
            ));
        }
        budget.cover(bytes.len() + data.len()).await?;
        pace.count(data.len());
        bytes.extend_from_slice(&data);
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    if bytes.len() <= INLINE_BYTES {
        return json_body(&bytes).map(Some);
    }
    blocking(app.blocking.clone(), Work::Parse, move || {
        json_body(&bytes).map(Some)
    })
    .await
}

/// Checks that a body is JSON and has no content coding. Web pages may send other types, and none, to other origins without
/// asking, so they are refused.
fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let refused = |detail: String| Err(Problem::new(Code::UnsupportedMediaType, detail));
    if headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|coding| coding != "identity")
    {
        return refused("a body of this request must not be compressed".to_owned());
    }
    let Some(media_type) = headers.get(header::CONTENT_TYPE) else {
        return refused("the header content-type: application/json is missing".to_owned());
    };
    let media_type = media_type.to_str().unwrap_or_default();
    let essence = media_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let shown: String = media_type.chars().take(250).collect();
    refused(format!("the body must be application/json, not {shown}"))
}

/// The problem of a body that did not arrive whole: what came is not HTTP (400), or its client stopped sending (408).
pub(crate) fn broken(error: &axum::Error) -> Problem {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
            Some(ErrorKind::TimedOut) => {
                return Problem::new(
                    Code::RequestTimeout,
                    "the client paused for too long within the body",
                );
            }
            Some(ErrorKind::InvalidInput | ErrorKind::InvalidData) => {
                return Problem::invalid("", format!("the body is not HTTP: {error}"));
            }
            _ => cause = error.source(),
        }
    }
    Problem::new(
        Code::RequestTimeout,
        format!("the body did not arrive whole: {error}"),
    )
}
