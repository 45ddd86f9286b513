//! Gives fuzz targets access to private readers of requests. Not part of the API.

use axum::body::Body;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, header};

use super::accept::negotiate;
use super::fetch::query;
use super::problem::Problem;
use super::produce::body::Incoming;
use crate::broker::budget::{Budget, Pool};

/// The media type of the answer to a request with these `Accept` fields.
///
/// # Errors
/// 406 if the client accepts none.
pub fn accept(fields: Vec<HeaderValue>) -> Result<&'static str, Problem> {
    let fields = fields.into_iter().map(|field| (header::ACCEPT, field));
    let headers = HeaderMap::from_iter(fields);
    negotiate(&headers).map(super::accept::Representation::media_type)
}

/// The parsed query of a fetch, as text to compare.
///
/// # Errors
/// 400 for a query that is not valid.
pub fn fetch_query(text: &str) -> Result<String, Problem> {
    query::parse(Some(text)).map(|request| format!("{request:?}"))
}

/// The decoded chunks of a body that arrives in pieces; stops at the chunk that exceeds `max_bytes`.
///
/// # Errors
/// 400 for a body that cannot be decoded, 415 for another coding.
pub fn decode_body(coding: HeaderValue, pieces: Vec<Bytes>, max_bytes: usize) -> Result<Vec<Bytes>, Problem> {
    let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, coding)]);
    let pieces = futures_util::stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>));
    let pool = Pool::new(1 << 30);
    let budget = Budget::new(&pool);
    let mut body = Incoming::new(&pool, &headers, Body::from_stream(pieces));
    body.check_coding()?;
    let mut chunks = Vec::new();
    let mut bytes = 0;
    while bytes <= max_bytes {
        // The whole body is there: a pending future only lets other tasks run, and continues when it is polled again.
        let chunk = loop {
            if let Some(next) = body.next(&budget).now_or_never() {
                break next?;
            }
        };
        let Some(chunk) = chunk else { break };
        bytes += chunk.len();
        chunks.push(chunk);
    }
    Ok(chunks)
}
