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
use crate::secure::{Secure, client, connect};
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

    /// Gives rules to whoever matches: to look at the topic `orders`, which is made.
    fn admit(&self, name: &str, matches: &Value) {
        self.ask(ADMIN, None, "PUT", "/v1/topics/orders", r#"{"partitions":1}"#);
        let rules = json!([{"allow": ["describe"], "topics": ["orders"]}]);
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
    write(secure.dir(), "token", "the-second-token\n");
    secure.reload();
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
