//! `GET /openapi.json`: describes every route that exists, this one included.
//!
//! The routes' annotations give what only they know. [`complete`] makes the document exact: [`bounds`] (ranges that a name
//! or a type gives), [`shapes`] (values with several forms, and rules between fields), [`problems`] (the codes of each
//! answer), [`links`] (what follows on an answer).

mod bounds;
mod links;
mod problems;
pub(super) mod shapes;

use std::collections::BTreeSet;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::fresh;
use super::needs::{Need, need_of};
use super::path::NoQuery;
use crate::http::app::App;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "quipu",
        description = "A partitioned, append-only event log over HTTP. Times are milliseconds since the Unix epoch; on \
            input an RFC 3339 string is accepted too. Unknown fields and parameters are refused with 400.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "topics", description = "Topics, their partitions, their configuration"),
        (name = "records", description = "Producing and fetching"),
        (name = "groups", description = "Groups: their committed offsets, and the members that share the records (ordered groups and work queues)"),
        (name = "lag", description = "How far groups are behind"),
        (name = "access", description = "Tokens, rules for JWTs and certificates, sessions of browsers"),
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
    let text = || {
        Bytes::from(
            complete(app.config.limits.max_partitions, app.config.asks_for_tokens()).to_string() + "\n",
        )
    };
    (fresh("application/json"), app.openapi.get_or_init(text).clone()).into_response()
}

/// Every method and path of the document.
pub(super) fn operations() -> Vec<(String, String)> {
    let api = super::routes().into_openapi();
    let mut operations = Vec::new();
    for (path, item) in api.paths.paths {
        for (method, operation) in [
            ("GET", item.get),
            ("PUT", item.put),
            ("POST", item.post),
            ("DELETE", item.delete),
            ("PATCH", item.patch),
            ("HEAD", item.head),
            ("OPTIONS", item.options),
            ("TRACE", item.trace),
        ] {
            if operation.is_some() {
                operations.push((method.to_owned(), path.clone()));
            }
        }
    }
    operations
}

/// The parameters of paths.
const IN_PATHS: [(&str, &str); 4] = [
    ("topic", "The topic's name"),
    ("partition", "The partition, from 0"),
    ("group", "The group's name"),
    ("member", "The member's name"),
];

/// The document of all routes.
///
/// What is the same everywhere is added to what the annotations say: path parameters, the bounds of each name and type,
/// the problems of any request, the header `X-Request-Id`, and links. The stream over several topics gets the rest of its
/// description from the stream over one. `max_partitions` is the setting; `asks_for_tokens`: operations need somebody who has
/// signed in, except those that are open to all.
fn complete(max_partitions: u32, asks_for_tokens: bool) -> Value {
    let api = super::routes().into_openapi();
    let mut api = serde_json::to_value(api).expect("the document is JSON");
    continue_several(&mut api["paths"]);
    add_head(&mut api["paths"]);
    let in_requests = schemas_of_requests(&api);
    for (path, item) in members(&mut api["paths"]) {
        for (method, operation) in members(item) {
            let operation = operation.as_object_mut().expect("an operation is an object");
            complete_operation(path, method, operation);
            let who = match need_of(&method.to_uppercase(), path) {
                _ if !asks_for_tokens => continue,
                Some(Need::Open) => json!([]),
                Some(Need::Valid) => json!([{}, {"token": []}, {"session": []}]),
                _ => json!([{"token": []}, {"session": []}]),
            };
            operation.insert("security".to_owned(), who);
        }
    }
    let components = &mut api["components"];
    components["responses"] = problems::of_no_operation();
    components["headers"] = json!({"X-Request-Id": {
        "required": true, "description": "The request's name, as the log has it", "schema": {"type": "string", "minLength": 1},
    }});
    components["securitySchemes"] = json!({
        "token": {"type": "http", "scheme": "bearer", "description": "A token that the server made, or a JWT. Only with `auth=tokens`."},
        "session": {"type": "apiKey", "in": "cookie", "name": "quipu_session", "description": "A session of a browser, from `POST /v1/session`."},
    });
    components["schemas"]["Problem"] = problems::schema();
    if let Value::Object(schemas) = &mut components["schemas"] {
        for name in &in_requests {
            let properties = schemas
                .get_mut(name)
                .and_then(|schema| schema.get_mut("properties"));
            for (field, schema) in properties.into_iter().flat_map(members) {
                bounds::by_name(field, schema);
            }
        }
        shapes::refine(schemas);
    }
    components["schemas"]["TopicBody"]["properties"]["partitions"]["maximum"] = max_partitions.into();
    bounds::by_type(&mut api);
    api
}

/// The members of a JSON object; none of any other value.
fn members(value: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    value.as_object_mut().into_iter().flatten()
}

/// The names of the schemas that bodies of requests have, at any depth.
fn schemas_of_requests(api: &Value) -> BTreeSet<String> {
    fn collect(api: &Value, value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                let name = map.get("$ref").and_then(Value::as_str);
                if let Some(name) = name.and_then(|name| name.rsplit('/').next())
                    && found.insert(name.to_owned())
                {
                    collect(api, &api["components"]["schemas"][name], found);
                }
                map.values().for_each(|value| collect(api, value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| collect(api, value, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    let items = api["paths"].as_object().into_iter().flat_map(Map::values);
    for operation in items.flat_map(|item| item.as_object().into_iter().flat_map(Map::values)) {
        collect(api, &operation["requestBody"], &mut found);
    }
    found
}

fn continue_several(paths: &mut Value) {
    let one = paths["/v1/topics/{topic}/records"]["get"].clone();
    let several = &mut paths["/v1/records"]["get"];
    let known = |parameters: &Value, name: &Value| {
        let mut all = parameters.as_array().into_iter().flatten();
        all.any(|parameter| parameter["name"] == *name)
    };
    for parameter in one["parameters"].as_array().into_iter().flatten() {
        if parameter["name"] != "topic" && !known(&several["parameters"], &parameter["name"]) {
            let parameters = several["parameters"].as_array_mut();
            parameters.expect("it has topics").push(parameter.clone());
        }
    }
    for (status, response) in one["responses"].as_object().into_iter().flatten() {
        let responses = several["responses"].as_object_mut().expect("there are answers");
        responses.entry(status).or_insert_with(|| response.clone());
    }
}

/// `HEAD` of a fetch: a client asks for positions, or whether what it has is still current.
fn add_head(paths: &mut Value) {
    let item = &mut paths["/v1/topics/{topic}/partitions/{partition}/records"];
    let mut head = item["get"].clone();
    head["operationId"] = "fetch_head".into();
    head["summary"] = "The head of a fetch: positions and caching, without the records".into();
    for (_, response) in members(&mut head["responses"]) {
        if let Value::Object(response) = response {
            response.remove("content");
        }
    }
    item["head"] = head;
}

fn complete_operation(path: &str, method: &str, operation: &mut Map<String, Value>) {
    let said = match operation.remove("parameters") {
        Some(Value::Array(said)) => said,
        _ => Vec::new(),
    };
    let mut unknown = Vec::new();
    let mut parameters = Vec::new();
    for (name, description) in IN_PATHS {
        if !path.contains(&format!("{{{name}}}")) {
            continue;
        }
        unknown.push(format!("`unknown-{name}`"));
        let is_said = |parameter: &Value| parameter["name"] == name && parameter["in"] == "path";
        if !said.iter().any(is_said) {
            let schema = match name {
                "partition" => json!({"type": "integer", "format": "uint32"}),
                _ => json!({"type": "string"}),
            };
            parameters.push(json!({
                "name": name, "in": "path", "required": true, "description": description, "schema": schema,
            }));
        }
    }
    parameters.extend(said);
    parameters.iter_mut().for_each(complete_parameter);
    if !parameters.is_empty() {
        operation.insert("parameters".to_owned(), parameters.into());
    }
    let body = operation.get_mut("requestBody");
    let has_body = body.is_some();
    let contents = body.and_then(|body| body.get_mut("content")).into_iter();
    for (_, content) in contents.flat_map(members) {
        content.get_mut("schema").map(without_null);
    }
    if path.contains("{member}") {
        // If the member is unknown, the answer does not tell whether the group exists.
        unknown.remove(0);
    }
    let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
    let responses = operation["responses"].as_object_mut().expect("there are answers");
    // A `PUT` creates what its path names.
    if !unknown.is_empty() && method != "put" {
        let unknown = json!({"description": unknown.join(", ")});
        responses.entry("404").or_insert(unknown);
    }
    let kind = problems::Kind {
        is_open: need_of(&method.to_uppercase(), path) == Some(Need::Open),
        has_body,
        changes: !matches!(method, "get" | "head"),
    };
    problems::complete(responses, kind);
    links::add(&id, responses);
    for response in responses.values_mut() {
        if method == "head"
            && let Value::Object(response) = response
        {
            response.remove("content");
        }
    }
}

/// A parameter is left out, and never null. A list in one parameter has at least one value.
fn complete_parameter(parameter: &mut Value) {
    let name = parameter["name"].as_str().unwrap_or_default().to_owned();
    let Some(schema) = parameter.get_mut("schema") else {
        return;
    };
    without_null(schema);
    bounds::by_name(&name, schema);
    if schema["type"] == "array" {
        schema["minItems"] = 1.into();
        if matches!(&*name, "topics" | "partitions") {
            schema["uniqueItems"] = true.into();
        }
        bounds::by_name(name.trim_end_matches('s'), &mut schema["items"]);
    }
}

/// Takes away the alternative null.
fn without_null(schema: &mut Value) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = &types[..] {
            schema["type"] = only.clone();
        }
    }
    let other = schema["oneOf"].as_array().and_then(|both| match &both[..] {
        [null, other] | [other, null] if null["type"] == "null" => Some(other.clone()),
        _ => None,
    });
    if let Some(other) = other {
        *schema = other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::problem::Code;

    const MAX_PARTITIONS: u32 = 10_000;

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
        let document = complete(MAX_PARTITIONS, true);
        let mut documented: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
        documented.sort_unstable();
        let registered = registered_paths();
        assert!(registered.contains(&"/openapi.json".to_owned()), "{registered:?}");
        assert_eq!(registered.iter().collect::<Vec<_>>(), documented);
    }

    /// Calls `look` with each operation and a name for it.
    fn operations(mut look: impl FnMut(&str, &Value)) {
        let document = complete(MAX_PARTITIONS, true);
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                look(&format!("{method} {path}"), operation);
            }
        }
    }

    #[test]
    fn operations_have_unique_ids_a_summary_and_all_parameters_of_their_paths() {
        let mut ids = Vec::new();
        operations(|name, operation| {
            ids.push(operation["operationId"].as_str().expect("an id").to_owned());
            let summary = operation["summary"].as_str().unwrap_or_default();
            assert!(!summary.is_empty(), "{name} has no summary");
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let in_path =
                parameters.filter(|parameter| parameter["in"] == "path" && parameter["required"] == true);
            assert_eq!(in_path.count(), name.matches('{').count(), "{name}");
        });
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "an operation id is given twice: {ids:?}");
    }

    /// Parameters that take any text.
    const ANY_TEXT: &str = "after ack if_id key q reason search traceparent If-None-Match Last-Event-ID";

    #[test]
    fn every_parameter_has_bounds() {
        let document = complete(MAX_PARTITIONS, true);
        operations(|name, operation| {
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let called = parameter["name"].as_str().unwrap();
                let schema = &parameter["schema"];
                let has = |keywords: &[&str]| keywords.iter().all(|keyword| !schema[*keyword].is_null());
                let is_bounded = match schema["type"].as_str() {
                    _ if has(&["enum"]) => true,
                    None => schema["$ref"]
                        .as_str()
                        .is_some_and(|target| document.pointer(target.trim_start_matches('#')).is_some()),
                    Some("boolean") => true,
                    Some("integer") => has(&["minimum", "maximum"]),
                    Some("number") => has(&["exclusiveMinimum"]),
                    Some("array") => has(&["items", "minItems"]),
                    Some(_) => has(&["pattern"]) || has(&["format"]) || has(&["maxLength"]),
                };
                let is_any = ANY_TEXT.split(' ').any(|any| any == called);
                assert!(is_bounded || is_any, "{name}: {called} has no bounds: {schema}");
                let said = parameter["description"].as_str().unwrap_or_default();
                assert!(!said.is_empty(), "{name}: {called} is not described");
            }
        });
    }

    #[test]
    fn every_failure_is_a_problem_with_the_codes_that_it_can_have_and_every_code_is_used() {
        let mut unused: BTreeSet<&str> = Code::ALL.iter().map(|code| code.row().1).collect();
        let outside = problems::of_no_operation().to_string();
        unused.retain(|code| !outside.contains(&format!("\"{code}\"")));
        operations(|name, operation| {
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert_ne!(status, "default", "{name}");
                if !status.starts_with(['4', '5']) || name.starts_with("head ") {
                    continue;
                }
                let schema = &response["content"][problems::PROBLEM]["schema"]["allOf"];
                assert_eq!(
                    schema[0]["$ref"], "#/components/schemas/Problem",
                    "{name} {status}"
                );
                let codes = schema[1]["properties"]["code"]["enum"].as_array().unwrap();
                assert!(
                    !codes.is_empty(),
                    "{name}: the answer {status} names no code of the table"
                );
                unused.retain(|code| !codes.iter().any(|used| used == code));
            }
        });
        assert!(unused.is_empty(), "no operation answers {unused:?}");
    }

    #[test]
    fn links_lead_to_parameters_of_operations() {
        let mut parameters = Map::new();
        operations(|_, operation| {
            let names = operation["parameters"].as_array().into_iter().flatten();
            let names: Vec<Value> = names.map(|parameter| parameter["name"].clone()).collect();
            parameters.insert(
                operation["operationId"].as_str().unwrap().to_owned(),
                names.into(),
            );
        });
        let mut count = 0;
        operations(|name, operation| {
            for (status, response) in operation["responses"].as_object().unwrap() {
                for (target, link) in response["links"].as_object().into_iter().flatten() {
                    count += 1;
                    let names = parameters.get(target).and_then(Value::as_array);
                    let names = names.unwrap_or_else(|| panic!("{name} {status}: no operation {target}"));
                    for parameter in link["parameters"].as_object().unwrap().keys() {
                        assert!(
                            names.iter().any(|name| name == parameter),
                            "{target} has no {parameter}"
                        );
                    }
                }
            }
        });
        assert_eq!(
            count,
            links::count(),
            "a link begins at an answer that does not exist"
        );
    }

    #[test]
    fn fields_that_are_refused_are_not_in_the_bodies_of_requests() {
        let document = complete(MAX_PARTITIONS, true);
        for name in schemas_of_requests(&document) {
            let schema = &document["components"]["schemas"][&name];
            // Extension attributes of events have any name.
            if schema["type"] == "object" && schema["additionalProperties"].is_null() {
                panic!("{name} does not say whether other fields are refused");
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = complete(MAX_PARTITIONS, true);
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"").skip(1) {
            let target = reference.split('"').next().unwrap().trim_start_matches('#');
            let holds = document.pointer(target).is_some();
            assert!(holds, "{target} is not in the document");
        }
    }
}
