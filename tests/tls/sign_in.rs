//! Who signs in with a JWT or a certificate, on addresses that others reach.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quipu::settings::{Auth, Config, Secret};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::authority::{Authority, Pair, write};
use crate::open::{refusal, started, temporary};
use crate::secure::{Secure, Stream, client, connect};
use crate::support::clock::HandClock;
use crate::support::contains;

const ADMIN: &str = "the-administrators-token";
const ISSUER: &str = "https://id.example.org";

fn asks(config: &mut Config) {
    config.auth = Auth::Tokens;
    config.admin_token = Secret::of(ADMIN);
}

/// An issuer of JWTs with one key.
struct Issuer(Ed25519KeyPair);

impl Issuer {
    fn new() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    fn keys(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "one", "x": x}]}).to_string()
    }

    /// A token that never expires in a test, unless `change` says so.
    fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = json!({"iss": ISSUER, "aud": "quipu", "exp": 4_000_000_000_u64, "sub": "billing"});
        change(&mut claims);
        let header = json!({"alg": "EdDSA", "kid": "one"}).to_string();
        let part = |text: String| URL_SAFE_NO_PAD.encode(text);
        let message = format!("{}.{}", part(header), part(claims.to_string()));
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

impl Secure {
    /// A call with a bearer token and perhaps a certificate; returns the whole answer.
    fn ask(&self, token: &str, own: Option<&Pair>, method: &str, path: &str, body: &str) -> String {
        let config = client(&self.authority.pem, own, rustls::ALL_VERSIONS);
        let mut stream = connect(self.address(), config).expect("a handshake");
        let kind = match token {
            "" => "application/json".to_owned(),
            token => format!("application/json\r\nAuthorization: Bearer {token}"),
        };
        stream
            .call(method, path, &kind, body.as_bytes())
            .expect("an answer")
    }

    #[track_caller]
    fn expect(&self, status: u16, token: &str, own: Option<&Pair>, path: &str) -> String {
        let answer = self.ask(token, own, "GET", path, "");
        contains(&answer, &format!("HTTP/1.1 {status} "));
        answer
    }

    /// Gives rules to whoever matches: to look at the topic `orders`, which is made, and to read it.
    fn admit(&self, name: &str, matches: &Value) {
        self.ask(ADMIN, None, "PUT", "/v1/topics/orders", r#"{"partitions":1}"#);
        let rules = json!([{"allow": ["describe", "read"], "topics": ["orders"]}]);
        let body = json!({"match": matches, "rules": rules}).to_string();
        let answer = self.ask(ADMIN, None, "PUT", &format!("/v1/principals/{name}"), &body);
        contains(&answer, "HTTP/1.1 20");
    }
}

fn issued_by(config: &mut Config, keys: String) {
    asks(config);
    config.jwt_issuer = Some(ISSUER.to_owned());
    config.jwt_audience = Some("quipu".to_owned());
    config.jwt_keys = Some(keys);
}

const ORDERS: &str = "/v1/topics/orders";

#[test]
fn a_jwt_of_the_issuer_signs_in_with_the_rules_for_its_claims() {
    let issuer = Issuer::new();
    let secure = Secure::with(|config, dir| {
        let keys = write(dir, "keys.json", &issuer.keys());
        issued_by(config, keys.display().to_string());
    });
    secure.admit("billing", &json!({"jwt": {"sub": "billing"}}));
    let good = issuer.token(|_| {});
    secure.expect(200, &good, None, ORDERS);
    secure.expect(403, &good, None, "/v1/topics/others");
    contains(
        &secure.expect(200, &good, None, "/v1/me"),
        "\"principal\":\"billing\"",
    );
    let nobody = issuer.token(|claims| claims["sub"] = "nobody".into());
    secure.expect(403, &nobody, None, ORDERS);
    for wrong in [
        issuer.token(|claims| claims["exp"] = 1_000_000_000.into()),
        issuer.token(|claims| claims["aud"] = "another".into()),
        issuer.token(|claims| claims["iss"] = "https://evil.example".into()),
        Issuer::new().token(|_| {}),
        format!("{good}A"),
        "a.b.c".to_owned(),
        "..".to_owned(),
    ] {
        let answer = secure.expect(401, &wrong, None, ORDERS);
        contains(&answer.to_ascii_lowercase(), "www-authenticate");
        assert!(
            !answer.contains("exp") || !answer.contains("(exp)"),
            "{answer}: no reason for strangers"
        );
    }
    secure.expect(401, "", None, ORDERS);

    // A key that the issuer takes back.
    let next = Issuer::new();
    write(secure.dir(), "keys.json", &next.keys());
    secure.reload();
    secure.expect(200, &next.token(|_| {}), None, ORDERS);
    let fresh = issuer.token(|claims| claims["jti"] = 2.into());
    secure.expect(401, &fresh, None, ORDERS);
    secure.expect(401, &good, None, ORDERS);
    secure.stop();
}

/// Begins a live tail of the topic `orders`, whose head has come.
fn tail(secure: &Secure, token: &str, own: Option<&Pair>) -> Stream {
    let config = client(&secure.authority.pem, own, rustls::ALL_VERSIONS);
    let mut stream = connect(secure.address(), config).expect("a handshake");
    let accept = match token {
        "" => "text/plain".to_owned(),
        token => format!("text/plain\r\nAuthorization: Bearer {token}"),
    };
    let head = stream.call("GET", "/v1/topics/orders/records?follow=true", &accept, b"");
    contains(&head.expect("an answer"), "HTTP/1.1 200 ");
    stream
}

/// Reads until the stream breaks off, which is without its final chunk.
fn breaks_off(mut stream: Stream) {
    let mut rest = Vec::new();
    let read = stream.0.read_to_end(&mut rest);
    let is_late = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    assert!(!read.as_ref().is_err_and(is_late), "it goes on");
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it ended in order");
}

/// Checks that the stream goes on: it gets a record that is produced now.
fn goes_on(secure: &Secure, stream: &mut Stream) {
    let body = r#"{"records":[{"value":"news"}]}"#;
    secure.ask(ADMIN, None, "POST", "/v1/topics/orders/records", body);
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"news") {
        stream.0.read_exact(&mut byte).expect("a record comes");
        seen.push(byte[0]);
    }
}

#[test]
fn a_stream_ends_with_the_key_that_has_signed_its_jwt() {
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let both = |first: &Issuer, second: &Issuer| {
        let mut set: Value = serde_json::from_str(&first.keys()).unwrap();
        let more: Value = serde_json::from_str(&second.keys()).unwrap();
        let mut more = more["keys"][0].clone();
        more["kid"] = "two".into();
        set["keys"].as_array_mut().unwrap().push(more);
        set.to_string()
    };
    let secure = Secure::with(|config, dir| {
        let keys = write(dir, "keys.json", &issuer.keys());
        issued_by(config, keys.display().to_string());
    });
    secure.admit("billing", &json!({"jwt": {"sub": "billing"}}));
    let token = issuer.token(|_| {});
    let mut stream = tail(&secure, &token, None);
    // Another key beside it changes nothing.
    write(secure.dir(), "keys.json", &both(&issuer, &other));
    secure.reload();
    goes_on(&secure, &mut stream);
    write(secure.dir(), "keys.json", &other.keys());
    secure.reload();
    breaks_off(stream);
    secure.expect(401, &token, None, ORDERS);
    secure.stop();
}

#[test]
fn a_stream_ends_with_the_certificate_that_it_was_signed_in_with() {
    let clients = Authority::new("the clients' authority");
    let clock = Arc::new(HandClock::running());
    let secure = Secure::at(clock.clone(), |config, dir| {
        asks(config);
        config.tls_client_ca = Some(write(dir, "clients.pem", &clients.pem));
    });
    secure.admit("billing", &json!({"cert": "billing.example"}));
    let own = clients.sign_with(&["billing.example"], |params| {
        params.not_after = rcgen::date_time_ymd(2089, 1, 1);
    });
    let mut stream = tail(&secure, "", Some(&own));
    goes_on(&secure, &mut stream);
    let config = client(&secure.authority.pem, Some(&own), rustls::ALL_VERSIONS);
    let mut open = connect(secure.address(), config).expect("a handshake");
    contains(&open.get(ORDERS).expect("an answer"), "HTTP/1.1 200 ");
    clock.set(3_755_376_000_000 + 1);
    breaks_off(stream);
    contains(&open.get(ORDERS).expect("an answer"), "HTTP/1.1 401 ");
    secure.stop();
}

#[test]
fn rules_that_come_later_for_some_jwts_and_certificates_end_their_streams_and_no_others() {
    let issuer = Issuer::new();
    let clients = Authority::new("the clients' authority");
    let secure = Secure::with(|config, dir| {
        let keys = write(dir, "keys.json", &issuer.keys());
        issued_by(config, keys.display().to_string());
        config.tls_client_ca = Some(write(dir, "clients.pem", &clients.pem));
    });
    secure.admit("team", &json!({"jwt": {"team": "red"}}));
    secure.admit("machines", &json!({"cert": "machines.example"}));
    let of = |sub: &str| {
        issuer.token(|claims| {
            claims["team"] = "red".into();
            claims["sub"] = sub.into();
        })
    };
    let own = |name: &str| clients.sign_with(&["machines.example", name], |_| {});
    let mut stays = tail(&secure, &of("alice"), None);
    let ends = tail(&secure, &of("mallory"), None);
    let mut stays_too = tail(&secure, "", Some(&own("one.example")));
    let ends_too = tail(&secure, "", Some(&own("lost.example")));
    let nothing = |name: &str, matches: Value| {
        let body = json!({"match": matches, "rules": []}).to_string();
        let answer = secure.ask(ADMIN, None, "PUT", &format!("/v1/principals/{name}"), &body);
        contains(&answer, "HTTP/1.1 201 ");
    };
    nothing("blocked", json!({"jwt": {"team": "red", "sub": "mallory"}}));
    nothing("blocked-machine", json!({"cert": "lost.example"}));
    breaks_off(ends);
    breaks_off(ends_too);
    secure.expect(403, &of("mallory"), None, ORDERS);
    secure.expect(403, "", Some(&own("lost.example")), ORDERS);
    goes_on(&secure, &mut stays);
    goes_on(&secure, &mut stays_too);
    secure.stop();
}

#[test]
fn a_certificate_counts_only_for_trusted_pages() {
    let clients = Authority::new("the clients' authority");
    let secure = Secure::with(|config, dir| {
        asks(config);
        config.tls_client_ca = Some(write(dir, "clients.pem", &clients.pem));
        config.cors_origins = vec!["*".to_owned(), "https://app.example".to_owned()];
    });
    secure.admit("billing", &json!({"cert": "billing.example"}));
    let own = clients.sign_with(&["billing.example"], |_| {});
    for (headers, status) in [
        ("", 200),
        ("\r\nSec-Fetch-Site: same-origin", 200),
        ("\r\nOrigin: https://app.example", 200),
        ("\r\nOrigin: https://evil.example", 401),
        ("\r\nSec-Fetch-Site: cross-site", 401),
    ] {
        let config = client(&secure.authority.pem, Some(&own), rustls::ALL_VERSIONS);
        let mut stream = connect(secure.address(), config).expect("a handshake");
        let answer = stream.call("GET", ORDERS, &format!("text/plain{headers}"), b"");
        contains(&answer.expect("an answer"), &format!("HTTP/1.1 {status} "));
    }
    secure.stop();
}

#[test]
fn keys_come_from_a_url_when_the_first_token_needs_them() {
    let issuer = Issuer::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (keys, asked) = (issuer.keys(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap();
            assert!(request[..read].starts_with(b"GET /keys HTTP/1.1"));
            count.fetch_add(1, Relaxed);
            let head = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                keys.len()
            );
            stream.write_all((head + &keys).as_bytes()).unwrap();
        }
    });
    let secure = Secure::with(|config, _| issued_by(config, format!("http://{address}/keys")));
    secure.admit("billing", &json!({"jwt": {"sub": "billing"}}));
    secure.expect(200, &issuer.token(|_| {}), None, ORDERS);
    for _ in 0..3 {
        let unknown = issuer.token(|claims| claims["jti"] = 1.into());
        let unknown = unknown.replacen(
            &URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","kid":"one"}"#),
            &URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","kid":"two"}"#),
            1,
        );
        secure.expect(401, &unknown, None, ORDERS);
    }
    assert_eq!(asked.load(Relaxed), 1);
    secure.stop();
}

#[test]
fn a_client_certificate_signs_in_with_the_rules_for_its_names() {
    let clients = Authority::new("the clients' authority");
    let secure = Secure::with(|config, dir| {
        asks(config);
        config.tls_client_ca = Some(write(dir, "clients.pem", &clients.pem));
    });
    secure.admit("billing", &json!({"cert": "billing.example"}));
    secure.admit("subject", &json!({"cert": "CN=a test"}));
    let billing = clients.sign_with(&["billing.example"], |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
    });
    let subject = clients.sign_with(&["other.example"], |_| {});
    let neither = clients.sign_with(&["other.example"], |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
    });
    for (own, name) in [(&billing, "billing"), (&subject, "subject")] {
        secure.expect(200, "", Some(own), ORDERS);
        secure.expect(403, "", Some(own), "/v1/topics/others");
        let me = secure.expect(200, "", Some(own), "/v1/me");
        contains(&me, &format!("\"principal\":\"{name}\""));
    }
    secure.expect(403, "", Some(&neither), ORDERS);
    secure.expect(401, "", None, ORDERS);
    // Probes need none, and a token counts more than a certificate.
    secure.expect(200, "", None, "/health/ready");
    let me = secure.expect(200, ADMIN, Some(&billing), "/v1/me");
    contains(&me, "\"principal\":\"admin\"");
    secure.expect(401, "wrong-token", Some(&billing), ORDERS);
    secure.stop();
}

#[test]
fn a_new_token_of_the_administrator_is_read_from_its_file() {
    let secure = Secure::with(|config, dir| {
        config.auth = Auth::Tokens;
        config.admin_token_file = Some(write(dir, "token", "the-first-token\n"));
    });
    secure.expect(200, "the-first-token", None, "/v1/tokens");
    secure.ask("the-first-token", None, "PUT", ORDERS, r#"{"partitions":1}"#);
    let stream = tail(&secure, "the-first-token", None);
    write(secure.dir(), "token", "the-second-token\n");
    secure.reload();
    breaks_off(stream);
    secure.expect(401, "the-first-token", None, "/v1/tokens");
    secure.expect(200, "the-second-token", None, "/v1/tokens");
    // What is no token leaves the former in force.
    write(secure.dir(), "token", "short");
    secure.reload();
    secure.expect(200, "the-second-token", None, "/v1/tokens");
    secure.stop();
}

#[test]
fn beyond_loopback_somebody_must_sign_in_and_tokens_must_not_travel_in_plain_text() {
    let dir = temporary();
    let pair = Authority::new("an authority").sign();
    let path = |name: &str, text: &str| write(dir.path(), name, text).display().to_string();
    let tls = format!(
        "--tls-cert {} --tls-key {}",
        path("cert.pem", &pair.cert),
        path("key.pem", &pair.key)
    );
    let open = "--listen 0.0.0.0:0 --auth tokens";
    let token = [("QUIPU_ADMIN_TOKEN", ADMIN)];
    let plain = "tokens would travel there in plain text: set tls_cert and tls_key, or tls=proxy";
    contains(&refusal(open, &token), plain);
    contains(
        &refusal(&format!("{open} --trusted-proxies 10.0.0.0/8"), &token),
        plain,
    );
    let proxies = "tls=proxy needs the addresses of the proxies: set trusted_proxies";
    contains(&refusal(&format!("{open} --tls proxy"), &token), proxies);
    let nobody = "nobody would have to sign in there";
    contains(&refusal(&format!("--listen 0.0.0.0:0 {tls}"), &token), nobody);
    let behind = "--listen 0.0.0.0:0 --tls proxy --trusted-proxies 10.0.0.0/8";
    contains(&refusal(behind, &token), nobody);

    let settings = |flags: &str| {
        let (_dir, server) = started(flags);
        let mut connection = server.connect();
        connection.begin("GET", "/v1/topics", "X-Forwarded-For: 192.0.2.7\r\n");
        connection.answer().expect("an answer").with_status(401);
        let headers = format!("X-Forwarded-For: 192.0.2.7\r\nAuthorization: Bearer {ADMIN}\r\n");
        connection.begin("GET", "/v1/topics", &headers);
        connection.answer().expect("an answer").with_status(200);
        server.stop();
    };
    settings(&format!(
        "{open} --admin-token {ADMIN} --tls proxy --trusted-proxies 127.0.0.0/8"
    ));
    settings(&format!("{open} --admin-token {ADMIN} --insecure"));
    settings(&format!("--auth tokens --admin-token {ADMIN}"));
}

#[test]
fn settings_for_jwts_come_all_three_or_not_at_all() {
    let dir = temporary();
    let keys = write(dir.path(), "keys.json", &Issuer::new().keys())
        .display()
        .to_string();
    let junk = write(dir.path(), "junk.json", r#"{"keys":[]}"#)
        .display()
        .to_string();
    let start = |settings: &[(&str, &str)]| {
        let all = [
            &[("QUIPU_AUTH", "tokens"), ("QUIPU_ADMIN_TOKEN", ADMIN)],
            settings,
        ]
        .concat();
        refusal("--listen 127.0.0.1:0", &all)
    };
    let (issuer, audience) = (("QUIPU_JWT_ISSUER", ISSUER), ("QUIPU_JWT_AUDIENCE", "quipu"));
    let keys = ("QUIPU_JWT_KEYS", &*keys);
    for some in [
        &[issuer, audience][..],
        &[issuer, keys],
        &[audience, keys],
        &[keys],
    ] {
        contains(
            &start(some),
            "jwt_issuer, jwt_audience and jwt_keys belong together",
        );
    }
    for (wrong, why) in [
        (&*junk, "it has no key for RS256, ES256 or EdDSA"),
        ("/no/such/file", "No such file"),
        ("http://id.example.org/keys", "jwt_keys is"),
        ("http://192.0.2.7/keys", "jwt_keys is"),
        ("ftp://localhost/keys", "jwt_keys is"),
        ("https:///keys", "jwt_keys is"),
    ] {
        contains(&start(&[issuer, audience, ("QUIPU_JWT_KEYS", wrong)]), why);
    }
    let nobody = refusal("--listen 127.0.0.1:0", &[issuer, audience, keys]);
    contains(&nobody, "jwt_keys is set, but auth is none");
}
