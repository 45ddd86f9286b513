//! `GET /openapi.json`: describes every route that exists, this one included.

use std::collections::BTreeMap;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{OpenApi, Ref, RefOr, Required, ResponseBuilder};
use utoipa::{OpenApi as _, PartialSchema as _, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::fresh;
use super::path::NoQuery;
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
    /// What is wrong with this request.
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
        (name = "groups", description = "Groups: their committed offsets, and the members that share the records (ordered groups and work queues)"),
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
async fn document(app: App, _: NoQuery) -> Response {
    let text = || Bytes::from(complete().to_json().unwrap_or_default() + "\n");
    (fresh("application/json"), app.openapi.get_or_init(text).clone()).into_response()
}

const PROBLEM: &str = "application/problem+json";

/// The parameters of paths.
const IN_PATHS: [(&str, &str); 4] = [
    ("topic", "The topic's name"),
    ("partition", "The partition, from 0"),
    ("group", "The group's name"),
    ("member", "The member's name"),
];

/// The document of all routes. Parts that are the same everywhere are added here, unless an operation describes them
/// itself: path parameters, the 404 answer for unknown names in the path, problems of any request, and the body of
/// problems. The stream over several topics gets the rest of its description from the stream over one.
pub(super) fn complete() -> OpenApi {
    let mut api = super::routes().into_openapi();
    let stream = |path: &str| api.paths.paths.get(path).and_then(|item| item.get.clone());
    if let (Some(one), Some(mut several)) = (stream("/v1/topics/{topic}/records"), stream("/v1/records")) {
        let parameters = several.parameters.get_or_insert_default();
        for parameter in one.parameters.into_iter().flatten() {
            let name = name_of(&parameter);
            if name != Some("topic") && parameters.iter().all(|known| name_of(known) != name) {
                parameters.push(parameter);
            }
        }
        for (status, response) in one.responses.responses {
            several.responses.responses.entry(status).or_insert(response);
        }
        api.paths.paths.entry("/v1/records".to_owned()).or_default().get = Some(several);
    }
    for (path, item) in &mut api.paths.paths {
        for operation in [&mut item.get, &mut item.post, &mut item.delete]
            .into_iter()
            .flatten()
        {
            complete_operation(path, false, operation);
        }
        item.patch
            .iter_mut()
            .for_each(|operation| complete_operation(path, false, operation));
        item.put
            .iter_mut()
            .for_each(|operation| complete_operation(path, true, operation));
    }
    api
}

fn name_of(parameter: &RefOr<Parameter>) -> Option<&str> {
    match parameter {
        RefOr::T(parameter) => Some(&parameter.name),
        RefOr::Ref(_) => None,
    }
}

/// `makes`: the operation creates the resource that its path names, so it has no 404 for it.
fn complete_operation(path: &str, makes: bool, operation: &mut Operation) {
    let (mut parameters, mut unknown) = (Vec::new(), Vec::new());
    let told = operation.parameters.take().unwrap_or_default();
    for (name, description) in IN_PATHS {
        if !path.contains(&format!("{{{name}}}")) {
            continue;
        }
        unknown.push(format!("`unknown-{name}`"));
        if !told.iter().any(|parameter| name_of(parameter) == Some(name)) {
            let schema = match name {
                "partition" => u32::schema(),
                _ => String::schema(),
            };
            let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path);
            let parameter = parameter.description(Some(description)).required(Required::True);
            parameters.push(RefOr::T(parameter.schema(Some(schema)).build()));
        }
    }
    parameters.extend(told);
    operation.parameters = Some(parameters).filter(|all| !all.is_empty());
    if path.contains("{member}") {
        // If the member is unknown, the answer does not tell whether the group exists.
        unknown.remove(0);
    }
    let responses = &mut operation.responses.responses;
    let mut add = |status: &str, description: String| {
        let response = || RefOr::T(ResponseBuilder::new().description(description).build());
        responses.entry(status.to_owned()).or_insert_with(response);
    };
    add("400", "`invalid-request`".to_owned());
    let forbidden = "`forbidden`: the `Host` is not a name of this server, or a web page of another origin tries to change something";
    add("403", forbidden.to_owned());
    if !unknown.is_empty() && !makes {
        add("404", unknown.join(", "));
    }
    add("default", "Any other error: a problem".to_owned());
    for (status, response) in responses {
        if let RefOr::T(response) = response
            && (status.starts_with(['4', '5']) || status == "default")
            && response.content.is_empty()
        {
            let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem")));
            let problem = RefOr::T(problem.build());
            response.content.insert(PROBLEM.to_owned(), problem);
        }
    }
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
        let end = paths.find("}, }").or_else(|| paths.find("} }"));
        let paths = &paths[..end.expect("the list ends")];
        let mut paths: Vec<String> = paths.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        paths.sort_unstable();
        paths
    }

    #[test]
    fn every_route_is_in_the_document_and_nothing_else_is() {
        let mut documented: Vec<String> = complete().paths.paths.into_keys().collect();
        documented.sort_unstable();
        let registered = registered_paths();
        assert!(registered.contains(&"/openapi.json".to_owned()), "{registered:?}");
        assert_eq!(registered, documented);
    }

    #[test]
    fn operations_have_unique_ids_and_every_failure_is_a_problem() {
        let document: Value = serde_json::from_str(&complete().to_json().unwrap()).unwrap();
        let mut ids = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                ids.push(operation["operationId"].as_str().expect("an id").to_owned());
                for (status, response) in operation["responses"].as_object().unwrap() {
                    if status.starts_with(['4', '5']) || status == "default" {
                        let schema = &response["content"][PROBLEM]["schema"]["$ref"];
                        assert_eq!(schema, "#/components/schemas/Problem", "{method} {path} {status}");
                    }
                }
                for usual in ["400", "403", "default"] {
                    assert!(operation["responses"][usual].is_object(), "{method} {path}");
                }
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                let in_path = parameters.filter(|parameter| parameter["in"] == "path");
                assert_eq!(in_path.count(), path.matches('{').count(), "{method} {path}");
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
            let holds = document.pointer(target).is_some();
            assert!(holds, "{target} is not in the document");
        }
    }
}
