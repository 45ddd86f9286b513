//! Reading the small JSON bodies of everything but produce requests, within the limits.

use std::io::ErrorKind;

use axum::body::Body;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::budget::{Budget, Pace};
use super::params::json_body;
use super::problem::{Code, Problem};
use crate::app::App;
use crate::broker::refusal::Reason;

/// Reads a request's body and makes a `T` of it, which denies unknown fields.
///
/// # Errors
/// 400 for what is not the JSON expected or is broken off, 413 above `max_request_bytes`, 415 for a coded body, 408 for a client that
/// stopped sending, 503 when too many bodies are held already, or others wait for what a slow client's body holds.
pub(crate) async fn read_json<T: DeserializeOwned>(
    app: &App,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<T, Problem> {
    if headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|coding| coding != "identity")
    {
        return Err(Problem::new(
            Code::UnsupportedMediaType,
            "a body of this request must not be compressed",
        ));
    }
    let limit = app.config.limits.max_request_bytes;
    let mut bytes = Vec::new();
    let (mut budget, mut pace) = (Budget::new(&app.bodies), Pace::new(&app.bodies));
    while let Some(frame) = pace.wait(budget.covered(), body.frame()).await? {
        let frame = frame.map_err(|error| broken(&error))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
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
    json_body(&bytes)
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
