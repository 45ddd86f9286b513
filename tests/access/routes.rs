//! Every route of the document without a token, and with too small a right.

use std::collections::BTreeSet;

use quipu::http::needs::{Need, ROUTES, need_of};
use serde_json::{Value, json};

use crate::support::client::Answer;
use crate::world::{World, rule};

/// A path with names in it, that exist or not.
fn filled(path: &str, topic: &str, group: &str) -> String {
    path.replace("{topic}", topic)
        .replace("{group}", group)
        .replace("{partition}", "0")
        .replace("{member}", "m")
        .replace("{name}", "x")
        .replace("{file}", "app.js")
}

fn operations(world: &World) -> Vec<(String, String)> {
    let document = world.get("", "/openapi.json").json();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("operations").keys() {
            if ["get", "put", "post", "delete", "patch", "options"].contains(&&**method) {
                all.push((method.to_uppercase(), path.clone()));
            }
        }
    }
    all
}

/// What a refusal says, without the id of its request.
fn shown(answer: &Answer) -> (u16, String) {
    (answer.status, answer.text().to_owned())
}

#[test]
fn every_route_refuses_a_request_without_a_token_and_with_too_small_a_right() {
    let world = World::new();
    world.topic("there", 1);
    world.admin(
        "PUT",
        "/v1/groups/there/offsets",
        &json!({"offsets": [{"topic": "there", "partition": 0, "offset": 0}]}),
    );
    let nothing = world.token("nothing", json!([]));
    // Everything but what the route needs, on everything; and what it needs, on something else.
    let all: BTreeSet<&str> = ["read", "write", "create", "delete", "configure", "describe"].into();
    let mut tokens = std::collections::BTreeMap::new();
    let mut token_of = |needed: &[&str]| {
        let key = needed.join("-");
        let made = tokens.entry(key.clone()).or_insert_with(|| {
            let others: Vec<&str> = all
                .iter()
                .filter(|right| !needed.contains(right))
                .copied()
                .collect();
            let mut rules = vec![rule(&others.join(" "), "*", "*")];
            if !needed.is_empty() {
                rules.push(rule(&needed.join(" "), "other-*", "other-*"));
            }
            let rules = json!(rules);
            world.token(&format!("without-{key}"), rules)
        });
        made.clone()
    };
    let mut checked = 0;
    for (method, path) in operations(&world) {
        let need =
            need_of(&method, &path).unwrap_or_else(|| panic!("{method} {path} is not listed in http/needs"));
        let at = filled(&path, "there", "there");
        let missing = filled(&path, "not-there", "not-there");
        // The body is wrong on purpose: rights come first.
        let body = if method == "GET" {
            Value::Null
        } else {
            json!({"wrong": 1})
        };
        let without = world.call("", &method, &at, &body);
        let wrong = world.call("not-a-token", &method, &at, &body);
        match need {
            Need::Open => {
                assert_ne!(without.status, 401, "{method} {path}");
                assert_ne!(wrong.status, 401, "{method} {path}");
                continue;
            }
            Need::Valid => {
                assert_ne!(without.status, 401, "{method} {path}");
                wrong.problem(401, "unauthenticated");
                continue;
            }
            _ => {
                without.problem(401, "unauthenticated");
                wrong.problem(401, "unauthenticated");
                assert_eq!(without.header("www-authenticate"), Some("Bearer realm=\"quipu\""));
            }
        }
        checked += 1;
        let small = match need {
            Need::SignedIn | Need::ByContent => continue,
            Need::Topic(right) => token_of(&[right.name()]),
            Need::Group(rights) => token_of(&rights.iter().map(|right| right.name()).collect::<Vec<_>>()),
            Need::SeesAll => token_of(&["describe"]),
            _ => token_of(&[]),
        };
        for token in [&nothing, &small] {
            let refused = world.call(token, &method, &at, &body);
            assert_eq!(refused.status, 403, "{method} {path}: {}", refused.text());
            refused.problem(403, "forbidden");
            let gone = world.call(token, &method, &missing, &body);
            let same = |text: String| text.replace("not-there", "there");
            assert_eq!(
                (gone.status, same(shown(&gone).1)),
                shown(&refused),
                "{method} {path}"
            );
        }
    }
    assert!(checked > 40, "{checked}");
    assert!(ROUTES.len() >= checked);
}

/// What the test above cannot check: who gets in here, and what they may do, has a test of its own for each route.
#[test]
fn the_routes_that_need_no_right_of_the_table_are_these_and_no_others() {
    let of = |need: Need| {
        let rows = ROUTES.iter().filter(move |row| row.2 == need);
        rows.map(|(method, path, _)| format!("{method} {path}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(of(Need::ByContent), ["GET /v1/records", "POST /v1/records"]);
    let signed_in = [
        "GET /v1/info",
        "GET /v1/topics",
        "GET /v1/groups",
        "GET /v1/lag",
        "GET /v1/lag/history",
    ];
    assert_eq!(of(Need::SignedIn), signed_in);
    assert_eq!(of(Need::Valid), ["GET /v1/me"]);
    let open = [
        "GET /",
        "GET /assets/{file}",
        "GET /docs",
        "GET /openapi.json",
        "GET /health/live",
        "GET /health/ready",
        "POST /v1/session",
        "DELETE /v1/session",
    ];
    assert_eq!(of(Need::Open), open);
}

#[test]
fn every_route_lets_in_whoever_has_the_right() {
    let world = World::new();
    world.topic("there", 1);
    for (method, path) in operations(&world) {
        let rules = match need_of(&method, &path) {
            Some(Need::Topic(right)) => rule(right.name(), "there", ""),
            Some(Need::Group(rights)) => rule(rights[0].name(), "", "there"),
            Some(Need::SeesAll) => rule("describe", "*", "*"),
            Some(Need::Admin) => json!({"allow": ["admin"]}),
            Some(_) => rule("read", "there", "there"),
            None => panic!("{method} {path} is not listed"),
        };
        let name = format!(
            "t{:x}",
            path.len() * 1000 + method.len() + path.bytes().map(usize::from).sum::<usize>()
        );
        let token = world.token(&name, json!([rules]));
        let body = if method == "GET" {
            Value::Null
        } else {
            json!({"wrong": 1})
        };
        let answer = world.call(&token, &method, &filled(&path, "there", "there"), &body);
        assert!(
            answer.status != 401 && answer.status != 403,
            "{method} {path}: {}",
            answer.text()
        );
        world.admin("DELETE", &format!("/v1/tokens/{name}"), &Value::Null);
        world.call(
            crate::world::ADMIN,
            "PUT",
            "/v1/topics/there",
            &json!({"partitions": 1}),
        );
    }
}

#[test]
fn what_is_no_route_is_refused_as_well_and_methods_are_told_to_whoever_is_signed_in() {
    let world = World::new();
    world.get("", "/v1/nothing").problem(401, "unauthenticated");
    world
        .call("", "TRACE", "/v1/topics", &Value::Null)
        .problem(401, "unauthenticated");
    let nothing = world.token("nothing", json!([]));
    world.get(&nothing, "/v1/nothing").problem(404, "not-found");
    world
        .call(&nothing, "POST", "/v1/topics", &Value::Null)
        .problem(405, "method-not-allowed");
    for header in [
        "Authorization: Basic dTpw\r\n",
        "Authorization: Bearer\r\n",
        "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n",
    ] {
        world
            .call_with("", "GET", "/v1/topics", header, &Value::Null)
            .problem(401, "unauthenticated");
    }
    // Of two tokens none counts, were one of them, or both, valid.
    for other in [&*nothing, "wrong-token"] {
        let twice = format!("Authorization: Bearer {other}\r\n");
        world
            .call_with(&nothing, "GET", "/v1/topics", &twice, &Value::Null)
            .problem(401, "unauthenticated");
    }
    // Tokens are never read from URLs.
    let at = format!("/v1/topics?token={nothing}&access_token={nothing}");
    world.get("", &at).problem(401, "unauthenticated");
}

#[test]
fn health_gives_strangers_a_word_and_nothing_else_does() {
    let world = World::new();
    assert_eq!(world.get("", "/health/ready").json()["status"], "ready");
    assert_eq!(world.get("wrong", "/health/ready").json()["status"], "ready");
    assert_eq!(world.get("", "/health/live").json()["status"], "live");
    assert_eq!(world.get("", "/").status, 200);
    world.get("", "/v1/info").problem(401, "unauthenticated");
    let metrics = world.token("metrics", json!([rule("describe", "*", "*")]));
    let text = world.get(&metrics, "/metrics");
    assert_eq!(text.status, 200);
    // A health check with a wrong token is none.
    assert!(
        text.text().contains("quipu_failed_sign_ins_total 0"),
        "{}",
        text.text()
    );
    world.get("wrong", "/v1/info").problem(401, "unauthenticated");
    assert!(
        world
            .get(&metrics, "/metrics")
            .text()
            .contains("quipu_failed_sign_ins_total 1")
    );
}

#[test]
fn a_name_that_is_left_out_of_a_path_is_no_way_round_its_rights() {
    let world = World::new();
    world.topic("there", 1);
    let nothing = world.token("nothing", json!([]));
    let mut checked = 0;
    for (method, path) in operations(&world) {
        for left_out in [
            "{topic}",
            "{group}",
            "{partition}",
            "{member}",
            "{name}",
            "{file}",
        ] {
            if !path.contains(left_out) {
                continue;
            }
            let at = filled(&path.replace(left_out, ""), "there", "there");
            let body = if method == "GET" {
                Value::Null
            } else {
                json!({"wrong": 1})
            };
            world
                .call("", &method, &at, &body)
                .problem(401, "unauthenticated");
            let problem = world.call(&nothing, &method, &at, &body);
            // A path that ends with a slash may be another route.
            assert!(
                [404, 405].contains(&problem.status),
                "{method} {at}: {}",
                problem.text()
            );
            let code = problem.json()["code"].clone();
            assert!(
                code == "not-found" || code == "method-not-allowed",
                "{method} {at}: {code}"
            );
            checked += 1;
        }
    }
    assert!(checked > 40, "{checked}");
}
