//! The problems of each answer: which codes it can have, by the table of [`Code`].
//!
//! An annotation gives a status with a description that names codes in backticks. They become the `enum` of `code`, so
//! that the document says which codes an operation can answer, and a code that it does not say is found by whoever
//! compares answers with the document. What any operation can answer is added here.

use serde_json::{Map, Value, json};

use crate::http::problem::Code;

/// The media type of problems.
pub(super) const PROBLEM: &str = "application/problem+json";

/// Answers that any operation can give: the status, and the description with its codes.
const OF_ALL: [(&str, &str); 4] = [
    (
        "400",
        "`invalid-request`; `pointer` names the field or the parameter",
    ),
    (
        "403",
        "`forbidden`: whoever calls may not do that, whether what is named exists or not; or the `Host` is not a name of this server, or a web page of another origin tries to change something",
    ),
    ("500", "`internal`"),
    ("503", "`overloaded`, `shutting-down`"),
];
/// Answers of operations that are not open to all.
const OF_DOORS: [(&str, &str); 2] = [
    (
        "401",
        "`unauthenticated`: with `auth=tokens`, nobody has signed in",
    ),
    ("429", "`quota-exceeded`"),
];
/// Answers of operations that read a body.
const OF_BODIES: [(&str, &str); 3] = [
    ("408", "`request-timeout`: the body did not arrive in time"),
    ("413", "`request-too-large`"),
    ("415", "`unsupported-media-type`"),
];
/// Answers of operations that write to the disk.
const OF_CHANGES: [(&str, &str); 2] = [("503", "`log-failed`"), ("507", "`storage-full`")];

/// The statuses of the table with their codes, each once.
fn rows() -> Vec<(u16, &'static str)> {
    let mut rows = Vec::new();
    for code in Code::ALL {
        let (status, name, ..) = code.row();
        if !rows.contains(&(status, name)) {
            rows.push((status, name));
        }
    }
    rows
}

/// The codes of a status that a text names in backticks, in the order of the table.
fn codes_in(status: &str, text: &str) -> Vec<&'static str> {
    let of_status = rows().into_iter().filter(|(of, _)| of.to_string() == status);
    let named = of_status.filter(|(_, code)| text.contains(&format!("`{code}`")));
    named.map(|(_, code)| code).collect()
}

/// What decides about the answers that an operation shares with others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// Nobody has to sign in for it.
    pub(super) is_open: bool,
    /// It reads a body.
    pub(super) has_body: bool,
    /// It writes to the disk.
    pub(super) changes: bool,
}

/// Completes the unsuccessful answers of an operation: adds those that any such operation can give, and gives each its
/// schema and its headers.
pub(super) fn complete(responses: &mut Map<String, Value>, kind: Kind) {
    let doors = OF_DOORS.iter().filter(|_| !kind.is_open);
    let bodies = OF_BODIES.iter().filter(|_| kind.has_body);
    let changes = OF_CHANGES.iter().filter(|_| kind.changes);
    let usual = OF_ALL.iter().chain(doors).chain(bodies).chain(changes);
    for (status, usual) in usual.filter(|(status, usual)| !codes_in(status, usual).is_empty()) {
        let response = responses
            .entry(*status)
            .or_insert_with(|| json!({"description": ""}));
        let said = response["description"].as_str().unwrap_or_default();
        if codes_in(status, usual)
            .iter()
            .any(|code| !said.contains(&format!("`{code}`")))
        {
            let between = if said.is_empty() { "" } else { "; " };
            response["description"] = format!("{said}{between}{usual}").into();
        }
    }
    for (status, response) in responses {
        if status.starts_with(['4', '5']) {
            let said = response["description"].as_str().unwrap_or_default();
            let schema = of_status(status, &codes_in(status, said));
            response["content"] = json!({PROBLEM: {"schema": schema}});
            response["headers"]["X-Request-Id"] = json!({"$ref": "#/components/headers/X-Request-Id"});
            add_headers(status, response);
        }
    }
}

/// The schema of a problem with a status and one of some codes.
fn of_status(status: &str, codes: &[&str]) -> Value {
    let status: u16 = status.parse().unwrap_or_default();
    let types: Vec<String> = codes.iter().map(|code| format!("/problems/{code}")).collect();
    json!({"allOf": [{"$ref": "#/components/schemas/Problem"}, {
        "properties": {"status": {"enum": [status]}, "code": {"enum": codes}, "type": {"enum": types}},
    }]})
}

fn add_headers(status: &str, response: &mut Value) {
    let mut add = |name: &str, header: Value| response["headers"][name] = header;
    match status {
        "429" => add("Retry-After", retry_after(true)),
        "503" | "507" => add("Retry-After", retry_after(status == "507")),
        "401" => add(
            "WWW-Authenticate",
            json!({"required": true, "description": "How to sign in", "schema": {"type": "string"}}),
        ),
        _ => {}
    }
}

fn retry_after(required: bool) -> Value {
    let about = "Seconds until it is worth trying again; absent if that never comes by itself";
    json!({"required": required, "description": about, "schema": {"type": "integer", "minimum": 0, "maximum": u32::MAX}})
}

/// Answers that belong to no operation: of a path that nothing is at, and of a method that a path does not have.
pub(super) fn of_no_operation() -> Value {
    let answer = |status: &str, text: &str| {
        let schema = of_status(status, &codes_in(status, text));
        json!({"description": text, "content": {PROBLEM: {"schema": schema}}})
    };
    let mut other_method = answer("405", "`method-not-allowed`: the path has other methods");
    other_method["headers"] = json!({"Allow": {
        "required": true, "description": "The methods that the path has", "schema": {"type": "string"},
    }});
    json!({"NotFound": answer("404", "`not-found`: nothing is at this path"), "MethodNotAllowed": other_method})
}

/// The schema of every problem.
pub(super) fn schema() -> Value {
    let codes: Vec<&str> = rows().into_iter().map(|(_, code)| code).collect();
    let offset =
        |about: &str| json!({"type": "integer", "minimum": 0, "maximum": i64::MAX, "description": about});
    let count = |about: &str| json!({"type": "integer", "minimum": 0, "description": about});
    let places = |about: &str| {
        json!({"type": "array", "description": about, "items": {"type": "object", "required": ["topic", "partition"], "properties": {
            "topic": {"type": "string"}, "partition": {"type": "integer", "minimum": 0}, "offset": {"type": "integer", "minimum": 0},
        }}})
    };
    json!({
        "description": "An unsuccessful answer (RFC 9457).",
        "type": "object",
        "required": ["type", "title", "status", "detail", "code", "retryable", "outcome"],
        "properties": {
            "type": {"type": "string", "description": "`/problems/` and the code.", "examples": ["/problems/offset-trimmed"]},
            "title": {"type": "string", "description": "The code in words."},
            "status": {"type": "integer", "minimum": 400, "maximum": 599, "description": "The HTTP status."},
            "detail": {"type": "string", "description": "What is wrong with this request."},
            "code": {"enum": codes, "description": "The code, for programs."},
            "retryable": {"type": "boolean", "description": "Whether the same request may succeed later."},
            "outcome": {"enum": ["none", "partial", "unknown"], "description": "How much was stored."},
            "pointer": {"type": "string", "description": "What is at fault: the JSON pointer (RFC 6901) of a field, or the name of a parameter or a header."},
            "line": count("NDJSON: the line at fault, from 1."),
            "accepted": count("NDJSON: records of earlier lines that are stored."),
            "log_start_offset": offset("The first offset that is kept."),
            "end_offset": offset("One past the last offset."),
            "damaged_offset": offset("The first offset that cannot be read."),
            "damaged_until_offset": offset("One past the last offset that cannot be read: go on here."),
            "healthy_offset": offset("An offset that can be read."),
            "dead_letter_offset": offset("The dead letter at which a redrive stopped."),
            "partition": count("The partition at fault."),
            "partition_count": count("How many partitions the topic has."),
            "redriven": count("Dead letters that were given back before the fault."),
            "sequence": {"type": "integer", "description": "The sequence number of the batch."},
            "expected_sequence": {"type": "integer", "description": "The sequence number that the producer's next batch has."},
            "quota": {"enum": ["bytes_per_second", "requests_per_second", "connections"], "description": "The quota that is used up."},
            "id": {"type": "string", "description": "The `id` of the topic that has the name now."},
            "degraded": {"type": "array", "items": {"$ref": "#/components/schemas/Degraded"}, "description": "The server's faults."},
            "lost": places("What the call can no longer acknowledge."),
            "settled": places("What was settled before."),
            "produced": places("Records of the call that are stored."),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_of_a_status_are_those_that_its_description_names() {
        assert_eq!(
            codes_in("409", "`fenced`: why. `group-active`"),
            ["group-active", "fenced"]
        );
        assert_eq!(codes_in("404", "`fenced`, fenced, unknown-topic"), [""; 0]);
    }

    #[test]
    fn an_answer_says_what_any_operation_can_answer_and_what_this_one_can() {
        let mut responses = Map::from_iter([
            ("200".to_owned(), json!({"description": "Good"})),
            ("503".to_owned(), json!({"description": "`log-failed`: why"})),
        ]);
        let kind = |has_body, changes| Kind {
            is_open: true,
            has_body,
            changes,
        };
        complete(&mut responses, kind(false, false));
        let statuses: Vec<&String> = responses.keys().collect();
        assert_eq!(statuses, ["200", "400", "403", "500", "503"]);
        let description = "`log-failed`: why; `overloaded`, `shutting-down`";
        assert_eq!(responses["503"]["description"], description);
        let schema = &responses["503"]["content"][PROBLEM]["schema"]["allOf"][1]["properties"];
        assert_eq!(
            schema["code"],
            json!({"enum": ["overloaded", "shutting-down", "log-failed"]})
        );
        assert_eq!(schema["status"], json!({"enum": [503]}));
        complete(&mut responses, kind(true, true));
        let added: Vec<&String> = responses.keys().collect();
        assert_eq!(
            added,
            ["200", "400", "403", "408", "413", "415", "500", "503", "507"]
        );
    }
}
