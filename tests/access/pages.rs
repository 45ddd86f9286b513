//! What pages of other origins read, refusals too.

use serde_json::{Value, json};

use crate::support::client::Answer;
use crate::world::{ADMIN, World, rule};

const PAGE: &str = "https://app.example";
const ALLOWED: &str = "access-control-allow-origin";

fn ask(world: &World, token: &str, method: &str, path: &str, headers: &str) -> Answer {
    let headers = format!("Origin: {PAGE}\r\n{headers}");
    world.call_with(token, method, path, &headers, &Value::Null)
}

#[track_caller]
fn is_readable(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header(ALLOWED), Some(PAGE), "{status}");
    let exposed = answer.header("access-control-expose-headers").expect("a list");
    let exposed: Vec<&str> = exposed.split(", ").collect();
    for name in [
        "next-offset",
        "log-start-offset",
        "end-offset",
        "gaps",
        "etag",
        "idempotency-replayed",
        "retry-after",
        "allow",
        "www-authenticate",
        "x-request-id",
    ] {
        assert!(exposed.contains(&name), "{name} in {exposed:?}");
    }
    let vary = answer.headers.get_all("vary").iter();
    assert!(vary.into_iter().any(|value| value == "origin"), "{status}");
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}

#[test]
fn a_configured_page_reads_refusals_of_every_kind() {
    let world = World::with(&format!("--cors-origins {PAGE}"));
    world.topic("orders", 1);
    is_readable(&ask(&world, ADMIN, "GET", "/v1/topics", ""), 200);
    is_readable(&ask(&world, "", "GET", "/v1/topics", ""), 401);
    is_readable(&ask(&world, "wrong", "GET", "/v1/topics", ""), 401);
    let nothing = world.token("nothing", json!([]));
    is_readable(&ask(&world, &nothing, "GET", "/v1/topics/orders", ""), 403);
    is_readable(&ask(&world, ADMIN, "GET", "/v1/nothing", ""), 404);
    is_readable(&ask(&world, ADMIN, "DELETE", "/v1/topics", ""), 405);
    let body =
        json!({"name": "slow", "rules": [rule("read", "a", "")], "quotas": {"requests_per_second": 1}});
    let slow = world.admin("POST", "/v1/tokens", &body);
    let slow = slow["token"].as_str().unwrap();
    let mut answers = (0..50).map(|_| ask(&world, slow, "GET", "/v1/topics", ""));
    let refused = answers.find(|answer| answer.status != 200);
    is_readable(&refused.expect("the rate is exceeded"), 429);
    let framed = "Transfer-Encoding: gzip, chunked\r\n";
    let mut connection = world.begin(ADMIN, "GET", "/v1/topics", &format!("Origin: {PAGE}\r\n{framed}"));
    is_readable(&connection.answered(), 501);
    // Pages that are not configured read nothing.
    for page in ["https://evil.example", "https://app.example:444", "null"] {
        for token in [ADMIN, ""] {
            let headers = format!("Origin: {page}\r\n");
            let answer = world.call_with(token, "GET", "/v1/topics", &headers, &Value::Null);
            assert_eq!(answer.header(ALLOWED), None, "{page}");
            assert_eq!(answer.header("vary"), Some("origin"), "{page}");
        }
    }
}

#[test]
fn a_page_may_ask_before_it_sends_also_what_no_route_has() {
    let asking = "Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: authorization\r\n";
    let world = World::with(&format!("--cors-origins {PAGE}"));
    for path in ["/v1/topics/orders", "/v1/nothing/at/all", "/v1/tokens/x/rotate"] {
        let answer = ask(&world, "", "OPTIONS", path, asking);
        is_readable(&answer, 204);
        let methods = answer.header("access-control-allow-methods").unwrap();
        assert!(methods.contains("PUT"), "{methods}");
        assert_eq!(
            answer.header("access-control-allow-headers"),
            Some("authorization")
        );
    }
    // Who does not ask for a page gets no more than before.
    ask(&world, "", "OPTIONS", "/v1/topics", "").problem(405, "method-not-allowed");
    let foreign = format!("Origin: https://evil.example\r\n{asking}");
    let answer = world.call_with("", "OPTIONS", "/v1/topics", &foreign, &Value::Null);
    assert_eq!((answer.status, answer.header(ALLOWED)), (405, None));
    // Any page may read, and change nothing.
    let world = World::with("--cors-origins '*'");
    let answer = ask(&world, "", "OPTIONS", "/v1/topics/orders", asking);
    let methods = answer.header("access-control-allow-methods");
    assert_eq!((answer.status, methods), (204, Some("GET, HEAD")));
    // Without configured origins there is nothing of it.
    let world = World::new();
    let answer = ask(&world, "", "OPTIONS", "/v1/topics/orders", asking);
    assert_eq!(
        (answer.status, answer.header(ALLOWED), answer.header("vary")),
        (405, None, None)
    );
}
