//! Reading the small JSON bodies of everything but produce requests, within the limits.

use axum::body::Body;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::params::json_body;
use super::problem::{Code, Problem};
use crate::app::App;

/// Reads a request's body and makes a `T` of it, which denies unknown fields.
///
/// # Errors
/// 400 for what is not the JSON expected or is broken off, 413 above `max_request_bytes`, 415 for a coded body, 408 for a client that
/// stopped sending, 503 when too many bodies are held already.
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
    let mut held = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(&error))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > limit {
            return Err(Problem::new(
                Code::RequestTooLarge,
                format!("a body is at most {limit} bytes"),
            ));
        }
        hold(app, &mut held, data.len())?;
        bytes.extend_from_slice(&data);
    }
    json_body(&bytes)
}

/// The problem of a body that did not arrive whole: its client paused for too long, or sent what is not HTTP.
pub(crate) fn broken(error: &axum::Error) -> Problem {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let io_error = error.downcast_ref::<std::io::Error>();
        if io_error.is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut) {
            return Problem::new(
                Code::RequestTimeout,
                "the client paused for too long within the body",
            );
        }
        cause = error.source();
    }
    Problem::invalid("", format!("the body did not arrive whole: {error}"))
}

fn hold(
    app: &App,
    held: &mut Option<tokio::sync::OwnedSemaphorePermit>,
    bytes: usize,
) -> Result<(), Problem> {
    let permits = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    let more = app
        .body_budget
        .clone()
        .try_acquire_many_owned(permits)
        .map_err(|_| {
            Problem::new(
                Code::Overloaded,
                "too many request bodies are being received; try again",
            )
        })?;
    match held {
        Some(permit) => permit.merge(more),
        None => *held = Some(more),
    }
    Ok(())
}
