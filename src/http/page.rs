//! `GET /`: the page for people; `GET /docs`: the page of the API; and the files that they load.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Answer;
use super::fetch::has_it_already;
use super::path::{FileName, NoQuery};
use super::problem::{Code, Problem};
use crate::dashboard::{self, Asset};
use crate::http::app::App;

/// Only this server's own files run in the page, and no other page may frame it.
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(page))
        .routes(routes!(docs))
        .routes(routes!(asset))
}

/// The page for people
///
/// Lag, records, groups and topics in a browser. It uses only this API.
#[utoipa::path(get, path = "/", tag = "operating",
    responses((status = 200, description = "The page", body = String, content_type = "text/html"),
        (status = 304, description = "As `If-None-Match` has it")))]
async fn page(_: NoQuery, headers: HeaderMap) -> Response {
    answer(dashboard::page(), &headers)
}

/// This API for people
///
/// Every call of `/openapi.json` in a browser, with a search and examples. It loads nothing from elsewhere.
#[utoipa::path(get, path = "/docs", tag = "operating",
    responses((status = 200, description = "The page", body = String, content_type = "text/html"),
        (status = 304, description = "As `If-None-Match` has it")))]
async fn docs(_: NoQuery, headers: HeaderMap) -> Response {
    answer(dashboard::docs(), &headers)
}

/// A file of the page
#[utoipa::path(get, path = "/assets/{file}", tag = "operating",
    params(("file" = String, Path, pattern = "^[A-Za-z0-9._-]{1,100}$", description = "The file's name")),
    responses((status = 200, description = "The file", content((String = "text/javascript"), (String = "text/css"), (String = "image/svg+xml"))),
        (status = 304, description = "As `If-None-Match` has it"),
        (status = 404, description = "`not-found`")))]
async fn asset(FileName(file): FileName, _: NoQuery, headers: HeaderMap) -> Answer {
    let missing = || Problem::new(Code::NotFound, "the page has no such file");
    Ok(answer(dashboard::find(&file).ok_or_else(missing)?, &headers))
}

/// The file, or 304 for a client that has it. Browsers ask every time: a new version of the server has new files.
fn answer(asset: &'static Asset, headers: &HeaderMap) -> Response {
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::ETAG, &*asset.etag),
    ];
    match has_it_already(headers, asset.etag.as_bytes()) {
        true => (StatusCode::NOT_MODIFIED, fixed).into_response(),
        false => (fixed, [(header::CONTENT_TYPE, asset.content_type)], asset.bytes).into_response(),
    }
}
