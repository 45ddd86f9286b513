//! Sessions of browsers, and cookies that come from elsewhere.

use serde_json::{Value, json};

use crate::world::{ADMIN, World, rule};

fn signed_in(world: &World) -> String {
    let begun = world
        .call("", "POST", "/v1/session", &json!({"token": ADMIN}))
        .with_status(204);
    let cookie = begun.header("set-cookie").expect("a cookie");
    for attribute in ["; HttpOnly", "; SameSite=Strict", "; Path=/"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    assert!(
        !cookie.contains(ADMIN) && !cookie.contains("Secure") && !cookie.contains("Max-Age"),
        "{cookie}"
    );
    cookie.split(';').next().expect("a pair").to_owned()
}

fn with(world: &World, cookie: &str, method: &str, path: &str, headers: &str) -> u16 {
    let headers = format!("Cookie: other=1; {cookie}\r\n{headers}");
    world.call_with("", method, path, &headers, &Value::Null).status
}

#[test]
fn a_session_serves_every_call_until_it_is_ended() {
    let world = World::new();
    let cookie = signed_in(&world);
    assert_eq!(with(&world, &cookie, "GET", "/v1/tokens", ""), 200);
    assert_eq!(with(&world, &cookie, "PUT", "/v1/topics/orders", ""), 201);
    let headers = format!("Cookie: {cookie}\r\n");
    let me = world.call_with("", "GET", "/v1/me", &headers, &Value::Null).ok();
    assert_eq!(
        me,
        json!({"auth": "tokens", "principal": "admin", "rules": [{"allow": ["admin"]}], "expires": null})
    );
    let ended = world
        .call_with("", "DELETE", "/v1/session", &headers, &Value::Null)
        .with_status(204);
    assert!(ended.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(with(&world, &cookie, "GET", "/v1/tokens", ""), 401);
    // A token that is sent as well counts alone.
    let cookie = signed_in(&world);
    assert_eq!(
        with(
            &world,
            &cookie,
            "GET",
            "/v1/tokens",
            "Authorization: Bearer wrong\r\n"
        ),
        401
    );
    world
        .call("", "POST", "/v1/session", &json!({"token": "wrong-token"}))
        .problem(401, "unauthenticated");
    world
        .call("", "POST", "/v1/session", &json!({"tokn": ADMIN}))
        .problem(400, "invalid-request");
    let world = world.restart();
    assert_eq!(
        with(&world, &cookie, "GET", "/v1/tokens", ""),
        401,
        "sessions are in memory"
    );
}

#[test]
fn a_cookie_counts_only_for_pages_of_this_server() {
    let world = World::with("--cors-origins *,https://app.example --public-url https://quipu.example");
    let cookie = signed_in(&world);
    for (headers, reads, changes) in [
        ("", 200, 201),
        ("Sec-Fetch-Site: same-origin\r\n", 200, 201),
        ("Sec-Fetch-Site: none\r\n", 200, 201),
        ("Origin: http://localhost\r\n", 200, 201),
        ("Origin: https://quipu.example\r\n", 200, 201),
        ("Origin: https://app.example\r\n", 200, 201),
        // Another port of this host is another origin, although browsers send the cookie.
        ("Sec-Fetch-Site: same-site\r\n", 401, 403),
        ("Sec-Fetch-Site: cross-site\r\n", 401, 403),
        ("Origin: http://localhost:3000\r\n", 401, 403),
        ("Origin: https://evil.example\r\n", 401, 403),
        ("Origin: null\r\n", 401, 403),
        (
            "Sec-Fetch-Site: same-site\r\nOrigin: http://localhost\r\n",
            401,
            403,
        ),
    ] {
        assert_eq!(
            with(&world, &cookie, "GET", "/v1/tokens", headers),
            reads,
            "{headers}"
        );
        let found = with(&world, &cookie, "PUT", "/v1/topics/orders", headers);
        assert_eq!(found, changes, "{headers}");
        if changes == 201 {
            world.admin("DELETE", "/v1/topics/orders", &Value::Null);
        }
    }
    // Reading without cookie is what `*` is for.
    let reader = world.token("reader", json!([rule("describe", "*", "*")]));
    let answer = world.call_with(
        &reader,
        "GET",
        "/v1/topics",
        "Origin: https://evil.example\r\n",
        &Value::Null,
    );
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (200, Some("https://evil.example"))
    );
    // Nobody signs a victim in from elsewhere.
    let body = json!({"token": ADMIN});
    let foreign = world.call_with(
        "",
        "POST",
        "/v1/session",
        "Origin: https://evil.example\r\n",
        &body,
    );
    foreign.problem(403, "forbidden");
}

#[test]
fn forged_and_empty_sessions_are_nobodys() {
    let world = World::new();
    for cookie in [
        "quipu_session=",
        "quipu_session=admin",
        "quipu_session=\"\"",
        "quipu_session=a; quipu_session=b",
    ] {
        assert_eq!(with(&world, cookie, "GET", "/v1/topics", ""), 401, "{cookie}");
    }
    // A cookie of the same name from another port does not lock anybody out.
    let cookie = format!("quipu_session=of-another-server; {}", signed_in(&world));
    assert_eq!(with(&world, &cookie, "GET", "/v1/topics", ""), 200);
}

#[test]
fn behind_a_proxy_with_tls_cookies_are_for_tls_alone() {
    let world = World::with("--tls proxy --trusted-proxies 127.0.0.1");
    let begun = world
        .call("", "POST", "/v1/session", &json!({"token": ADMIN}))
        .with_status(204);
    assert!(begun.header("set-cookie").unwrap().contains("; Secure"));
}
