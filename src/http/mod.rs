//! The HTTP API: one file a resource, thin handlers (parse, call, convert).
//!
//! [`router`] is the whole API, for the server and the tests alike. A resource's `routes()` gives its paths together
//! with their part of the OpenAPI document, so no route can be without one.

mod accept;
pub(crate) mod body;
mod chunks;
mod cors;
mod fetch;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub(crate) mod groups;
pub(crate) mod lag;
mod openapi;
mod operate;
pub mod params;
mod path;
pub mod problem;
mod produce;
pub(crate) mod table;
mod topics;

use axum::Router;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, Uri, header};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use problem::{Code, Problem};

/// Every resource of the API; a new one adds its line here and nowhere else.
fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::base())
        .merge(groups::routes())
        .merge(lag::routes())
        .merge(topics::routes())
        .merge(fetch::routes())
        .merge(produce::routes())
        .merge(operate::routes())
        .merge(openapi::routes())
}

/// The whole API over `app`; the server and the tests use the same.
pub fn router(app: App) -> Router {
    let (router, api) = routes().split_for_parts();
    app.metrics.requests(|| api.paths.paths.keys().cloned().collect());
    let origins = app.config.cors_origins.clone();
    let router = router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app);
    if origins.is_empty() {
        router
    } else {
        cors::layer(router, origins)
    }
}

async fn not_found(uri: Uri) -> Problem {
    Problem::new(
        Code::NotFound,
        format!("nothing is at {}; GET /openapi.json lists every path", uri.path()),
    )
}

/// The router adds `Allow`.
async fn method_not_allowed(method: http::Method) -> Problem {
    Problem::new(
        Code::MethodNotAllowed,
        format!("{method} is not allowed here; the header Allow names what is"),
    )
}

/// An answer in JSON that no cache keeps.
pub(crate) fn json_answer(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => {
            let headers = [
                (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            ];
            (status, headers, bytes).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            Problem::new(Code::Internal, "the server could not write its answer").into_response()
        }
    }
}

/// Runs what may wait for the disk where that holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "a request's work on a blocking thread failed");
            Err(Problem::new(
                Code::Internal,
                "the server could not do it; its log says why",
            ))
        }
    }
}
