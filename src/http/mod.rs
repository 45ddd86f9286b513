//! The HTTP API: one file or folder per resource, with thin handlers (parse, call, convert).
//!
//! [`router`] is the whole API, for the server and for tests. A resource's `routes()` gives its paths together with
//! their part of the OpenAPI document, so every route is documented.

mod accept;
pub mod access;
pub mod app;
mod audit;
mod backups;
pub(crate) mod body;
pub(crate) mod browsers;
pub(crate) mod chunks;
mod damage;
pub(crate) mod fetch;
pub(crate) mod forwarded;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub(crate) mod groups;
pub(crate) mod lag;
mod lag_chart;
mod lag_history;
mod lag_overview;
pub(crate) mod links;
pub mod needs;
mod objects;
mod openapi;
mod operate;
mod page;
pub mod params;
mod path;
pub mod problem;
mod produce;
mod status;
mod stream;
mod topics;

use axum::Router;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;

pub(crate) use crate::broker::blocking::Share;
use crate::broker::refusal::Reason;
use app::App;
use problem::{Code, Problem};

/// All resources of the API; a new resource adds its line here and nowhere else.
fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::base())
        .merge(access::tokens::routes())
        .merge(access::principals::routes())
        .merge(access::session::routes())
        .merge(groups::routes())
        .merge(lag::routes())
        .merge(lag_history::routes())
        .merge(lag_overview::routes())
        .merge(topics::routes())
        .merge(damage::routes())
        .merge(fetch::routes())
        .merge(produce::routes())
        .merge(stream::routes())
        .merge(operate::routes())
        .merge(status::routes())
        .merge(backups::routes())
        .merge(audit::routes())
        .merge(openapi::routes())
        .merge(page::routes())
}

/// The whole API over `app`, for the server and for tests.
pub fn router(app: App) -> Router {
    let (router, api) = routes().split_for_parts();
    app.metrics.requests(|| api.paths.paths.keys().cloned().collect());
    router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
}

/// The answer to a path that no route has.
pub(crate) async fn not_found(uri: Uri) -> Problem {
    let detail = format!("nothing is at {}; GET /openapi.json lists every path", uri.path());
    Problem::new(Code::NotFound, detail)
}

/// The router adds `Allow`.
async fn method_not_allowed(method: http::Method) -> Problem {
    let detail = format!("{method} is not allowed here; the header Allow lists the allowed methods");
    Problem::new(Code::MethodNotAllowed, detail)
}

/// The headers of an answer that no cache may keep.
pub(crate) fn fresh(content_type: &'static str) -> [(HeaderName, HeaderValue); 2] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ]
}

/// What a handler returns.
pub(crate) type Answer = Result<Response, Problem>;

/// The usual answer of a handler: 200 with a JSON body, see [`json_answer`].
pub(crate) fn ok(body: &impl Serialize) -> Answer {
    Ok(json_answer(StatusCode::OK, body))
}

/// A JSON answer that no cache may keep. It ends with a newline, so that a terminal shows it as a line.
pub(crate) fn json_answer(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            (status, fresh("application/json"), exact(bytes)).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            Problem::new(Reason::Internal, "the server could not write its answer").into_response()
        }
    }
}

/// The bytes of a complete answer, without much unused capacity: held until they are read, counted by length.
pub(crate) fn exact(bytes: Vec<u8>) -> Bytes {
    match bytes.capacity() - bytes.len() > bytes.len() / 8 {
        true => Bytes::copy_from_slice(&bytes),
        false => Bytes::from(bytes),
    }
}

/// The answer to a dry run: 200 with a JSON body, or the refusal; in both nothing was changed.
pub(crate) fn dry(body: Result<impl Serialize, impl Into<Problem>>) -> Answer {
    let answer = body.map_err(Into::into).and_then(|body| ok(&body));
    let mut response = answer.into_response();
    response.extensions_mut().insert(ChangesNothing);
    Ok(response)
}

/// Marks the answer to a dry run: for the log.
#[derive(Clone, Copy, Debug)]
pub struct ChangesNothing;

/// The name of whoever has signed in, put into an answer by whoever has checked that: for the log.
#[derive(Clone, Debug)]
pub struct SignedIn(pub std::sync::Arc<str>);

/// Marks an answer whose bytes are slices of mapped files, not the server's own memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapped;

/// Marks an answer that keeps a share of the budget for bodies until the client has read it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HoldsBodies;
