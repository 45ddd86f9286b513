//! Reads the small JSON bodies of all requests except produce, within the limits.

use std::io::ErrorKind;

use axum::extract::{FromRequest, Request};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use super::Share;
use super::params::{json_body, single};
use super::problem::{Code, Problem};
use crate::broker::budget::{Budget, Pace};
use crate::broker::refusal::Reason;
use crate::http::app::App;

/// Bodies up to this size are parsed on the worker that received them. Larger ones go to a blocking thread.
const INLINE_BYTES: usize = 256 << 10;

/// A request's JSON body as a `T`, which denies unknown fields: at most `LIMIT` bytes, and at most `max_request_bytes`.
///
/// It refuses: with 400 a body that is missing, broken off, or not the expected JSON; with 413 one above the limit;
/// with 415 another type or a content coding; with 408 a client that stopped sending; with 503 a body for which there
/// is no memory, and the body of a slow client if others wait for its memory.
pub(crate) struct JsonBody<T, const LIMIT: usize = { usize::MAX }>(pub(crate) T);

/// The same for an optional body: `None` if it is empty or only white space.
pub(crate) struct OptionalJson<T, const LIMIT: usize = { usize::MAX }>(pub(crate) Option<T>);

/// The same for a body with records, and its share of the memory for bodies: drop that when they are stored.
pub(crate) struct HeldJson<T>(pub(crate) T, pub(crate) Option<OwnedSemaphorePermit>);

impl<T: DeserializeOwned + Send + 'static, const LIMIT: usize> FromRequest<App> for JsonBody<T, LIMIT> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let body = read(request, app, LIMIT).await?;
        body.map(|(body, _)| Self(body)).ok_or_else(missing)
    }
}

impl<T: DeserializeOwned + Send + 'static> FromRequest<App> for HeldJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let body = read(request, app, usize::MAX).await?;
        body.map(|(body, held)| Self(body, held)).ok_or_else(missing)
    }
}

impl<T: DeserializeOwned + Send + 'static, const LIMIT: usize> FromRequest<App> for OptionalJson<T, LIMIT> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let body = read(request, app, LIMIT).await?;
        Ok(Self(body.map(|(body, _)| body)))
    }
}

fn missing() -> Problem {
    Problem::invalid("", "a JSON body is missing")
}

/// Reads a body of at most `limit` bytes; with its share of the memory for bodies. `None`: it is empty.
async fn read<T: DeserializeOwned + Send + 'static>(
    request: Request,
    app: &App,
    limit: usize,
) -> Result<Option<(T, Option<OwnedSemaphorePermit>)>, Problem> {
    let (parts, mut body) = request.into_parts();
    let limit = app.config.limits.max_request_bytes.min(limit);
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let length = length.unwrap_or(0);
    let mut bytes = Vec::new();
    let (mut budget, mut pace) = (Budget::new(&app.bodies), Pace::new(&app.bodies));
    while let Some(frame) = pace.wait(budget.covered(), body.frame()).await? {
        let frame = frame.map_err(|error| broken(&error))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        // A missing body is reported as missing, whatever its type.
        if bytes.is_empty() && !data.is_empty() {
            check_type(&parts.headers)?;
        }
        if bytes.len() + data.len() > limit {
            let detail = format!("a body is at most {limit} bytes");
            return Err(Problem::new(Reason::RequestTooLarge, detail));
        }
        budget.cover_arriving(0, bytes.len() + data.len(), length).await?;
        pace.count_of(budget.covered(), data.len());
        bytes.extend_from_slice(&data);
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    if bytes.len() <= INLINE_BYTES {
        return Ok(Some((json_body(&bytes)?, budget.take())));
    }
    let parsed = app.blocking.run(Share::Parse, move || json_body(&bytes)).await?;
    Ok(Some((parsed?, budget.take())))
}

/// Checks that a body is JSON and has no content coding. A web page may send other types, or none, to other origins
/// without asking first, so they are refused.
fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let refused = |detail: String| Err(Problem::new(Code::UnsupportedMediaType, detail));
    if single(headers, &header::CONTENT_ENCODING)?.is_some_and(|coding| coding != "identity") {
        return refused("a body of this request must not be compressed".to_owned());
    }
    let Some(media_type) = single(headers, &header::CONTENT_TYPE)? else {
        return refused("the header content-type: application/json is missing".to_owned());
    };
    let media_type = media_type.to_str().unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let shown: String = media_type.chars().take(250).collect();
    refused(format!("the body must be application/json, not {shown}"))
}

/// The problem of a body that did not arrive whole: the bytes are not HTTP (400), or the client stopped sending (408).
pub(crate) fn broken(error: &axum::Error) -> Problem {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
            Some(ErrorKind::TimedOut) => {
                let detail = "the client paused for too long within the body";
                return Problem::new(Code::RequestTimeout, detail);
            }
            Some(ErrorKind::InvalidInput | ErrorKind::InvalidData) => {
                return Problem::invalid("", format!("the body is not HTTP: {error}"));
            }
            _ => cause = error.source(),
        }
    }
    let detail = format!("the body did not arrive whole: {error}");
    Problem::new(Code::RequestTimeout, detail)
}
