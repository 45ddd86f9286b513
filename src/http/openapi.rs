//! `GET /openapi.json`: the description of every route that exists, itself included.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use axum::extract::RawQuery;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, header};
use serde::Serialize;
use serde_json::Value;
use utoipa::openapi::content::{Content, ContentBuilder};
use utoipa::openapi::{OpenApi, Ref, RefOr, ResponseBuilder};
use utoipa::{OpenApi as _, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::params::Params;
use super::problem::Problem;
use crate::http::app::App;

/// An unsuccessful answer (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// `/problems/` and the code.
    #[serde(rename = "type")]
    #[schema(example = "/problems/offset-trimmed")]
    type_: String,
    /// The code in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// The fault of this request.
    detail: String,
    /// The code, for programs.
    #[schema(example = "offset-trimmed")]
    code: String,
    /// Whether the same request may succeed later.
    retryable: bool,
    /// How much was stored: `none`, `partial` or `unknown`.
    #[schema(example = "none", pattern = "^(none|partial|unknown)$")]
    outcome: String,
    /// More members: `pointer`, `line`, `accepted`, `end_offset` and so on.
    #[serde(flatten)]
    more: BTreeMap<String, Value>,
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "quipu",
        description = "A partitioned, append-only event log over HTTP. Times are milliseconds since the Unix epoch; on \
            input an RFC 3339 string is accepted too. Unknown fields and parameters are refused with 400.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(ProblemBody)),
    tags(
        (name = "topics", description = "Topics, their partitions, their configuration"),
        (name = "records", description = "Producing and fetching"),
        (name = "groups", description = "Named sets of committed offsets, and the members that share the records: ordered groups and work queues"),
        (name = "lag", description = "How far groups are behind"),
        (name = "operating", description = "Health, metrics, and the server's version and limits"),
    )
)]
struct Base;

/// The document before the routes are added.
pub(super) fn base() -> OpenApi {
    Base::openapi()
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(document))
}

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "operating",
    responses((status = 200, description = "The OpenAPI document", content_type = "application/json", body = Value)))]
async fn document(RawQuery(query): RawQuery) -> Result<Response, Problem> {
    Params::parse(query.as_deref(), &[], &[])?;
    static TEXT: OnceLock<Bytes> = OnceLock::new();
    let text = TEXT
        .get_or_init(|| Bytes::from(complete().to_json().unwrap_or_default() + "\n"))
        .clone();
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, text).into_response())
}

const PROBLEM: &str = "application/problem+json";

fn problem() -> Content {
    ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .build()
}

/// The document of all routes; every operation gets problems as its other answers, so handlers need not list them.
pub(super) fn complete() -> OpenApi {
    let mut api = super::routes().into_openapi();
    for item in api.paths.paths.values_mut() {
        let operations = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.delete,
            &mut item.options,
            &mut item.head,
            &mut item.patch,
            &mut item.trace,
        ];
        for operation in operations.into_iter().flatten() {
            let responses = &mut operation.responses.responses;
            for (status, response) in &mut *responses {
                if let RefOr::T(response) = response
                    && status.starts_with(['4', '5'])
                    && response.content.is_empty()
                {
                    response.content.insert(PROBLEM.to_owned(), RefOr::T(problem()));
                }
            }
            let forbidden = ResponseBuilder::new()
                .description("`forbidden`: the `Host` is none of this server's, or a web page of another origin changes something")
                .content(PROBLEM, problem())
                .build();
            responses.entry("403".to_owned()).or_insert(RefOr::T(forbidden));
            let other = ResponseBuilder::new()
                .description("Anything else: a problem")
                .content(PROBLEM, problem())
                .build();
            responses.entry("default".to_owned()).or_insert(RefOr::T(other));
        }
    }
    api
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paths that a router has, read off its debug output: it has no other way to list them.
    fn registered_paths() -> Vec<String> {
        let (router, _) = super::super::routes().split_for_parts();
        let text = format!("{router:?}");
        let (_, after) = text
            .split_once("path_router")
            .expect("the router shows its paths");
        let (_, paths) = after.split_once("paths: {").expect("the router shows its paths");
        let (paths, _) = paths
            .split_once("}, }")
            .or_else(|| paths.split_once("} }"))
            .expect("the list ends");
        let mut paths: Vec<String> = paths.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        paths.sort_unstable();
        paths
    }

    #[test]
    fn every_route_is_in_the_document_and_nothing_else_is() {
        let mut documented: Vec<String> = complete().paths.paths.into_keys().collect();
        documented.sort_unstable();
        let registered = registered_paths();
        assert!(
            registered.iter().any(|path| path == "/openapi.json"),
            "{registered:?}"
        );
        assert_eq!(registered, documented);
    }

    #[test]
    fn operations_have_unique_ids_and_every_failure_is_a_problem() {
        let document: Value = serde_json::from_str(&complete().to_json().unwrap()).unwrap();
        let mut ids = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                ids.push(
                    operation["operationId"]
                        .as_str()
                        .unwrap_or_else(|| panic!("{method} {path}"))
                        .to_owned(),
                );
                for (status, response) in operation["responses"].as_object().unwrap() {
                    if status.starts_with(['4', '5']) || status == "default" {
                        let schema = &response["content"][PROBLEM]["schema"];
                        assert_eq!(
                            schema["$ref"], "#/components/schemas/Problem",
                            "{method} {path} {status}"
                        );
                    }
                }
                assert!(operation["responses"]["default"].is_object(), "{method} {path}");
            }
        }
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "an operation id is given twice: {ids:?}");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let text = complete().to_json().unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        for reference in text.split("\"$ref\":\"").skip(1) {
            let target = reference.split('"').next().unwrap().trim_start_matches('#');
            assert!(
                document.pointer(target).is_some(),
                "{target} is not in the document"
            );
        }
    }
}
