//! Signing in with SASL, and what rights, quotas and the end of a token do to a connection.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};
use serde_json::{Value, json};

use super::issuer::{ISSUER, Issuer};
use super::*;
use support::client::Answer;

pub(crate) const ADMIN: &str = "the-first-administrators-token";
const HANDSHAKE: i16 = 17;
const AUTHENTICATE: i16 = 36;
const OFFSET_COMMIT: i16 = 8;

/// A server on which everybody has to sign in. It gives them an hour, unless the settings say otherwise: a connection that
/// it closes is closed for another reason.
pub(crate) fn closed(settings: &[(&str, &str)]) -> Fixture {
    let mut all = vec![
        ("QUIPU_AUTH", "tokens"),
        ("QUIPU_ADMIN_TOKEN", ADMIN),
        ("QUIPU_HEADER_READ_TIMEOUT_MS", "3600000"),
        ("QUIPU_BODY_IDLE_TIMEOUT_MS", "3600000"),
        ("QUIPU_IDLE_TIMEOUT_MS", "3600000"),
    ];
    all.extend_from_slice(settings);
    Fixture::with(&all)
}

impl Fixture {
    /// A call over HTTP with a token.
    pub(crate) fn http(&self, token: &str, method: &str, path: &str, body: &Value) -> Answer {
        let headers = format!("Authorization: Bearer {token}\r\n");
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        self.server
            .connect()
            .request_with(method, path, "application/json", &headers, body.as_bytes())
            .expect("an answer")
    }

    /// Makes a token; returns its secret.
    pub(crate) fn token(&self, name: &str, more: &Value) -> String {
        let mut body = json!({"name": name});
        for (key, value) in more.as_object().expect("an object") {
            body[key] = value.clone();
        }
        let made = self.http(ADMIN, "POST", "/v1/tokens", &body).created();
        made["token"].as_str().expect("a secret").to_owned()
    }

    pub(crate) fn topic(&self, name: &str) {
        self.http(
            ADMIN,
            "PUT",
            &format!("/v1/topics/{name}"),
            &json!({"partitions": 1}),
        )
        .created();
    }

    pub(crate) fn metric(&self, name: &str) -> String {
        let text = self.http(ADMIN, "GET", "/metrics", &Value::Null);
        let line = text.text().lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("no {name}")).to_owned()
    }
}

/// Rules that allow everything on all topics and groups.
pub(crate) fn all() -> Value {
    json!([{"allow": ["read", "write", "create", "delete", "configure", "describe"], "topics": ["*"], "groups": ["*"]}])
}

/// The code and the mechanisms of a handshake.
pub(crate) fn handshake(client: &mut Client, version: i16, mechanism: &str) -> (i16, Vec<String>) {
    let mut answer = client.ask(HANDSHAKE, version, Out::new().text(mechanism));
    let code = answer.i16();
    let mechanisms = (0..answer.i32()).map(|_| answer.text()).collect();
    answer.end();
    (code, mechanisms)
}

/// The answer to a SASL message: the message, and the lifetime of the session; or the code.
pub(crate) fn authenticate(client: &mut Client, message: &[u8]) -> Result<(Vec<u8>, i64), i16> {
    let mut answer = client.ask(AUTHENTICATE, 1, Out::new().bytes(message));
    let code = answer.i16();
    let said = answer.text();
    let length = answer.i32();
    let (bytes, lifetime) = (answer.bytes(length), answer.i64());
    answer.end();
    assert_eq!(code == 0, said.is_empty(), "{said}");
    if code == 0 {
        Ok((bytes, lifetime))
    } else {
        Err(code)
    }
}

/// A client's side of SCRAM.
struct Scram {
    mechanism: &'static str,
    first: String,
    nonce: &'static str,
}

impl Scram {
    fn new(mechanism: &'static str, name: &str) -> Self {
        let nonce = "rOprNGfwEbeRWgbNEkqO";
        Self {
            mechanism,
            first: format!("n={name},r={nonce}"),
            nonce,
        }
    }

    fn first(&self) -> Vec<u8> {
        format!("n,,{}", self.first).into_bytes()
    }

    /// The last message, and the signature that the server's must have. `nonce` is the nonce to repeat, of the server's.
    fn last(&self, asked: &[u8], password: &str, nonce: impl Fn(&str) -> String) -> (String, String) {
        let asked = std::str::from_utf8(asked).expect("a text");
        let fields: Vec<&str> = asked.split(',').collect();
        let [all, salt, iterations] = fields[..] else {
            panic!("{asked}")
        };
        let all = all.strip_prefix("r=").expect("a nonce");
        assert!(
            all.strip_prefix(self.nonce).is_some_and(|own| own.len() >= 16),
            "{all}"
        );
        let salt = STANDARD
            .decode(salt.strip_prefix("s=").expect("a salt"))
            .expect("Base64");
        let iterations: u32 = iterations
            .strip_prefix("i=")
            .and_then(|text| text.parse().ok())
            .expect("a number");
        assert!(iterations >= 4096, "Kafka's clients refuse fewer");
        let (kind, keyed, hash) = match self.mechanism {
            "SCRAM-SHA-256" => (pbkdf2::PBKDF2_HMAC_SHA256, hmac::HMAC_SHA256, &digest::SHA256),
            _ => (pbkdf2::PBKDF2_HMAC_SHA512, hmac::HMAC_SHA512, &digest::SHA512),
        };
        let mut salted = vec![0; hash.output_len()];
        pbkdf2::derive(
            kind,
            iterations.try_into().expect("not 0"),
            &salt,
            password.as_bytes(),
            &mut salted,
        );
        let sign = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(keyed, key), text.as_bytes());
        let client_key = sign(&salted, "Client Key");
        let stored = digest::digest(hash, client_key.as_ref());
        let unproven = format!("c=biws,r={}", nonce(all));
        let message = format!("{},{asked},{unproven}", self.first);
        let signature = sign(stored.as_ref(), &message);
        let proof: Vec<u8> = client_key
            .as_ref()
            .iter()
            .zip(signature.as_ref())
            .map(|(a, b)| a ^ b)
            .collect();
        let of_server = sign(sign(&salted, "Server Key").as_ref(), &message);
        (
            format!("{unproven},p={}", STANDARD.encode(proof)),
            format!("v={}", STANDARD.encode(of_server.as_ref())),
        )
    }
}

/// Signs in with SCRAM; returns the lifetime of the session, or the code.
pub(crate) fn scram(
    client: &mut Client,
    mechanism: &'static str,
    name: &str,
    password: &str,
) -> Result<i64, i16> {
    let (code, _) = handshake(client, 1, mechanism);
    if code != 0 {
        return Err(code);
    }
    let scram = Scram::new(mechanism, name);
    let (asked, _) = authenticate(client, &scram.first())?;
    let (last, expected) = scram.last(&asked, password, str::to_owned);
    let (signed, lifetime) = authenticate(client, last.as_bytes())?;
    assert_eq!(
        String::from_utf8(signed).expect("a text"),
        expected,
        "the server knows it too"
    );
    Ok(lifetime)
}

/// The topics that a client sees.
pub(crate) fn topics(client: &mut Client) -> Vec<String> {
    let mut answer = client.ask(METADATA, 1, Out::new().i32(-1));
    answer.bytes(8);
    answer.text();
    answer.bytes(4 + 2 + 4);
    let rows = (0..answer.i32()).map(|_| {
        answer.i16();
        let name = answer.text();
        answer.i8();
        for _ in 0..answer.i32() {
            answer.bytes(2 + 4 + 4 + 8 + 8);
        }
        name
    });
    rows.collect()
}

#[test]
fn a_token_signs_in_with_scram_and_its_rules_hold() {
    let fixture = closed(&[]);
    fixture.topic("orders");
    fixture.topic("secret");
    let rules = json!([{"allow": ["read", "describe"], "topics": ["orders"], "groups": ["billing"]}]);
    let secret = fixture.token("billing", &json!({"rules": rules}));
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let mut client = fixture.client();
        client.ask(API_VERSIONS, 0, Out::new());
        assert_eq!(scram(&mut client, mechanism, "billing", &secret), Ok(0));
        assert_eq!(topics(&mut client), ["orders"]);
        assert_eq!(fetch(&mut client, "orders", 0).0, 0);
        // What is not there answers the same.
        for topic in ["secret", "none"] {
            assert_eq!(fetch(&mut client, topic, 0).0, 29, "{topic}");
            assert_eq!(
                produce(&mut client, topic, -1, &batch(&["x"])),
                (29, -1),
                "{topic}"
            );
        }
        assert_eq!(produce(&mut client, "orders", -1, &batch(&["x"])).0, 29);
        for (group, code) in [("billing", 30), ("other", 30)] {
            // To commit from outside takes the right to write.
            let body = Out::new()
                .text(group)
                .i32(-1)
                .text("")
                .i64(-1)
                .i32(1)
                .text("orders")
                .i32(1);
            let mut answer = client.ask(OFFSET_COMMIT, 2, body.i32(0).i64(0).text(""));
            answer.i32();
            answer.text();
            answer.bytes(8);
            assert_eq!(answer.i16(), code, "{group}");
        }
    }
    // The first administrator's token is one, too.
    let mut client = fixture.client();
    assert_eq!(scram(&mut client, "SCRAM-SHA-256", "admin", ADMIN), Ok(0));
    assert_eq!(topics(&mut client), ["orders", "secret"]);
    assert_eq!(produce(&mut client, "orders", -1, &batch(&["x"])), (0, 0));
}

#[test]
fn whoever_is_wrong_learns_nothing_and_is_counted() {
    let fixture = closed(&[]);
    let secret = fixture.token("billing", &json!({"rules": all()}));
    let before = fixture.metric("quipu_failed_sign_ins_total");
    assert_eq!(before, "quipu_failed_sign_ins_total 0");
    let mut shapes = Vec::new();
    for (name, password) in [
        ("billing", "wrong"),
        ("nobody", &*secret),
        ("admin", &*secret),
        ("billing", ""),
    ] {
        let mut client = fixture.client();
        assert_eq!(handshake(&mut client, 1, "SCRAM-SHA-256").0, 0);
        let scram = Scram::new("SCRAM-SHA-256", name);
        let (asked, _) = authenticate(&mut client, &scram.first()).expect("a name is never wrong");
        shapes.push(asked.len());
        let (last, _) = scram.last(&asked, password, str::to_owned);
        let mut answer = client.ask(AUTHENTICATE, 1, Out::new().bytes(last.as_bytes()));
        assert_eq!(answer.i16(), 58, "{name}");
        assert!(answer.text().contains("wrong, revoked or expired"), "{name}");
        client.is_closed();
    }
    assert_eq!(
        shapes, [shapes[0]; 4],
        "an unknown name is asked like a known one"
    );
    // Messages that are none.
    for message in [
        &b""[..],
        b"n,,",
        b"\0billing\0x",
        b"\xff\xfe",
        b"p=tls-unique,,n=billing,r=x",
        b"n,a=admin,n=billing,r=x",
    ] {
        let mut client = fixture.client();
        handshake(&mut client, 1, "SCRAM-SHA-256");
        assert_eq!(authenticate(&mut client, message), Err(58), "{message:?}");
        client.is_closed();
    }
    let after = fixture.metric("quipu_failed_sign_ins_total");
    assert_eq!(after, "quipu_failed_sign_ins_total 10");
    assert!(fixture.server.log().contains("a sign-in failed"));
    assert!(!fixture.server.log().contains(&secret));
}

#[test]
fn whoever_does_not_sign_in_is_not_kept() {
    let fixture = closed(&[("QUIPU_HEADER_READ_TIMEOUT_MS", "200")]);
    // One that is silent, one that stops within a frame, one that stops within signing in.
    fixture.client().is_closed();
    let mut client = fixture.client();
    client.send(&[0, 0, 0, 9, 0]);
    client.is_closed();
    let mut client = fixture.client();
    handshake(&mut client, 1, "SCRAM-SHA-256");
    client.is_closed();
}

#[test]
fn a_proof_for_other_nonces_is_none() {
    let fixture = closed(&[]);
    let secret = fixture.token("billing", &json!({"rules": all()}));
    let signed_in = |nonce: fn(&str) -> String| {
        let mut client = fixture.client();
        handshake(&mut client, 1, "SCRAM-SHA-256");
        let scram = Scram::new("SCRAM-SHA-256", "billing");
        let (asked, _) = authenticate(&mut client, &scram.first()).expect("asked");
        let (last, _) = scram.last(&asked, &secret, nonce);
        authenticate(&mut client, last.as_bytes()).is_ok()
    };
    assert!(signed_in(str::to_owned));
    // Debian's librdkafka repeats its own nonce.
    assert!(signed_in(|all| format!("rOprNGfwEbeRWgbNEkqO{all}")));
    assert!(!signed_in(|all| format!("x{all}")));
    assert!(!signed_in(|all| format!("{all}x")));
    assert!(!signed_in(|_| "rOprNGfwEbeRWgbNEkqO".to_owned()));
    assert!(!signed_in(|_| String::new()));
}

#[test]
fn a_proof_has_the_length_of_the_hash() {
    let fixture = closed(&[]);
    let secret = fixture.token("billing", &json!({"rules": all()}));
    let signed_in = |change: fn(&mut Vec<u8>)| {
        let mut client = fixture.client();
        handshake(&mut client, 1, "SCRAM-SHA-512");
        let scram = Scram::new("SCRAM-SHA-512", "billing");
        let (asked, _) = authenticate(&mut client, &scram.first()).expect("asked");
        let (last, _) = scram.last(&asked, &secret, str::to_owned);
        let (unproven, proof) = last.split_once(",p=").expect("a proof");
        let mut proof = STANDARD.decode(proof).expect("Base64");
        change(&mut proof);
        let last = format!("{unproven},p={}", STANDARD.encode(proof));
        authenticate(&mut client, last.as_bytes()).is_ok()
    };
    assert!(signed_in(|_| ()));
    assert!(!signed_in(|proof| proof.push(0)));
    assert!(!signed_in(|proof| proof.truncate(63)));
    assert!(!signed_in(Vec::clear));
}

#[test]
fn a_proof_repeats_the_header_that_the_client_began_with() {
    let fixture = closed(&[]);
    let secret = fixture.token("billing", &json!({"rules": all()}));
    for (header, is_good) in [("n,,", true), ("y,,", false)] {
        let mut client = fixture.client();
        handshake(&mut client, 1, "SCRAM-SHA-256");
        let scram = Scram::new("SCRAM-SHA-256", "billing");
        let first = format!("{header}{}", scram.first);
        let (asked, _) = authenticate(&mut client, first.as_bytes()).expect("asked");
        // It says that it began with `n,,`: somebody between has changed one of the two.
        let (last, _) = scram.last(&asked, &secret, str::to_owned);
        let signed_in = authenticate(&mut client, last.as_bytes()).is_ok();
        assert_eq!(signed_in, is_good, "{header}");
    }
}

#[test]
fn mechanisms_are_those_that_keep_a_secret() {
    let fixture = closed(&[]);
    let mut client = fixture.client();
    let scrams = ["SCRAM-SHA-256", "SCRAM-SHA-512"].map(str::to_owned).to_vec();
    // Not under TLS: a token must not be sent.
    assert_eq!(handshake(&mut client, 1, "PLAIN"), (33, scrams.clone()));
    client.is_closed();
    let mut client = fixture.client();
    assert_eq!(handshake(&mut client, 0, "GSSAPI"), (33, scrams));
    client.is_closed();
    // A message before a mechanism is named.
    let mut client = fixture.client();
    client.send(&Out::new().bytes(b"n,,n=u,r=x").frame(AUTHENTICATE, 1, 1));
    client.is_closed();
}

#[test]
fn frames_of_strangers_are_small() {
    let fixture = closed(&[]);
    fixture.topic("t");
    let mut client = fixture.client();
    client.send(&((32 << 10) + 1_i32).to_be_bytes());
    client.is_closed();
    let mut client = fixture.client();
    assert_eq!(scram(&mut client, "SCRAM-SHA-256", "admin", ADMIN), Ok(0));
    assert_eq!(
        produce(&mut client, "t", -1, &batch(&[&"x".repeat(600 << 10)])),
        (0, 0)
    );
}

#[test]
fn nobody_signs_in_where_nobody_has_to() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    assert_eq!(handshake(&mut client, 1, "SCRAM-SHA-256"), (34, Vec::new()));
    assert_eq!(authenticate(&mut client, b"n,,n=u,r=x"), Err(34));
    // The connection goes on.
    client.ask(METADATA, 1, Out::new().i32(0));
}

#[test]
fn after_version_0_of_the_handshake_messages_have_no_header() {
    let fixture = closed(&[]);
    fixture.topic("t");
    let secret = fixture.token("old", &json!({"rules": all()}));
    let bare = |client: &mut Client, message: &[u8]| {
        client.send(&Out::new().bytes(message).0);
        let mut length = [0; 4];
        std::io::Read::read_exact(&mut client.stream, &mut length).ok()?;
        let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
        std::io::Read::read_exact(&mut client.stream, &mut bytes).expect("a whole message");
        Some(bytes)
    };
    let sign_in = |password: &str| {
        let mut client = fixture.client();
        assert_eq!(handshake(&mut client, 0, "SCRAM-SHA-512").0, 0);
        let scram = Scram::new("SCRAM-SHA-512", "old");
        let asked = bare(&mut client, &scram.first()).expect("asked");
        let (last, expected) = scram.last(&asked, password, str::to_owned);
        let signed = bare(&mut client, last.as_bytes());
        (
            client,
            signed.map(|bytes| String::from_utf8(bytes) == Ok(expected)),
        )
    };
    let (mut client, signed) = sign_in(&secret);
    assert_eq!(signed, Some(true));
    assert_eq!(topics(&mut client), ["t"]);
    // Again in this form it could not be told from requests.
    assert_eq!(handshake(&mut client, 0, "SCRAM-SHA-512").0, 34);
    assert_eq!(topics(&mut client), ["t"]);
    let (mut client, signed) = sign_in("wrong");
    assert_eq!(signed, None);
    client.is_closed();
}

#[test]
fn the_end_of_a_token_ends_its_connections() {
    let fixture = closed(&[]);
    fixture.topic("t");
    for (name, method, path, body) in [
        ("revoked", "DELETE", "/v1/tokens/revoked", Value::Null),
        (
            "changed",
            "PATCH",
            "/v1/tokens/changed",
            json!({"rules": [{"allow": ["describe"], "topics": ["t"]}]}),
        ),
        (
            "rotated",
            "POST",
            "/v1/tokens/rotated/rotate",
            json!({"overlap_ms": 0}),
        ),
    ] {
        let secret = fixture.token(name, &json!({"rules": all()}));
        let (mut idle, mut waiting) = (fixture.client(), fixture.client());
        for client in [&mut idle, &mut waiting] {
            assert_eq!(scram(client, "SCRAM-SHA-256", name, &secret), Ok(0), "{name}");
            topics(client);
        }
        waiting.send(&fetch_request("t", 0, (3_600_000, 1, 1 << 20)).frame(FETCH, 4, 7));
        let answer = fixture.http(ADMIN, method, path, &body);
        assert!(answer.status < 300, "{name}");
        idle.is_closed();
        waiting.is_closed();
    }
}

/// The wall time, in milliseconds.
fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("the clock is past 1970").as_millis() as i64
}

#[test]
fn a_session_lasts_as_long_as_its_token() {
    let fixture = closed(&[]);
    let lasting = fixture.token(
        "lasting",
        &json!({"rules": all(), "expires": now_ms() + 3_600_000}),
    );
    let mut client = fixture.client();
    let lifetime = scram(&mut client, "SCRAM-SHA-256", "lasting", &lasting).expect("signed in");
    assert!((1..=3_600_000).contains(&lifetime), "{lifetime}");
    // Signing in again, before it expires: in the same name and way, with the same answer.
    let lifetime = scram(&mut client, "SCRAM-SHA-256", "lasting", &lasting).expect("signed in again");
    assert!((1..=3_600_000).contains(&lifetime), "{lifetime}");
    topics(&mut client);
    let other = fixture.token("other", &json!({"rules": all()}));
    assert_eq!(scram(&mut client, "SCRAM-SHA-256", "other", &other), Err(58));
    client.is_closed();
    let mut client = fixture.client();
    scram(&mut client, "SCRAM-SHA-256", "lasting", &lasting).expect("signed in");
    assert_eq!(scram(&mut client, "SCRAM-SHA-512", "lasting", &lasting), Err(33));
    client.is_closed();
    // A short one ends by itself.
    let short = json!({"rules": all(), "expires": now_ms() + 10_000});
    let secret = fixture.token("short", &short);
    let mut client = fixture.client();
    scram(&mut client, "SCRAM-SHA-256", "short", &secret).expect("signed in");
    client.is_closed();
    let mut client = fixture.client();
    assert_eq!(scram(&mut client, "SCRAM-SHA-256", "short", &secret), Err(58));
}

#[test]
fn a_fetch_that_waits_ends_with_the_token_that_expires() {
    let fixture = closed(&[]);
    fixture.topic("t");
    let secret = fixture.token("short", &json!({"rules": all(), "expires": now_ms() + 10_000}));
    let mut client = fixture.client();
    scram(&mut client, "SCRAM-SHA-256", "short", &secret).expect("signed in");
    client.send(&fetch_request("t", 0, (3_600_000, 1, 1 << 20)).frame(FETCH, 4, 7));
    client.is_closed();
    // What comes later is for others.
    let mut admin = fixture.client();
    scram(&mut admin, "SCRAM-SHA-256", "admin", ADMIN).expect("signed in");
    assert_eq!(produce(&mut admin, "t", -1, &batch(&["x"])), (0, 0));
}

#[test]
fn both_secrets_of_a_rotated_token_sign_in_while_they_are_valid() {
    let fixture = closed(&[]);
    let old = fixture.token("app", &json!({"rules": all()}));
    let rotate = |overlap_ms: u64| {
        let body = json!({"overlap_ms": overlap_ms});
        let made = fixture.http(ADMIN, "POST", "/v1/tokens/app/rotate", &body).ok();
        made["token"].as_str().expect("a secret").to_owned()
    };
    let is_valid = |secret: &str| {
        let both = ["SCRAM-SHA-256", "SCRAM-SHA-512"];
        both.map(|mechanism| scram(&mut fixture.client(), mechanism, "app", secret).is_ok())
    };
    let new = rotate(3_600_000);
    assert_eq!((is_valid(&old), is_valid(&new)), ([true; 2], [true; 2]));
    let newest = rotate(0);
    for gone in [&old, &new] {
        assert_eq!(is_valid(gone), [false; 2]);
    }
    assert_eq!(is_valid(&newest), [true; 2]);
}

#[test]
fn what_a_client_uses_counts_in_its_quota() {
    let fixture = closed(&[]);
    fixture.topic("t");
    let more = json!({"rules": all(), "quotas": {"bytes_per_second": 1000}});
    let secret = fixture.token("greedy", &more);
    let mut client = fixture.client();
    assert_eq!(scram(&mut client, "SCRAM-SHA-256", "greedy", &secret), Ok(0));
    // Far beyond what a second has.
    assert_eq!(
        produce(&mut client, "t", -1, &batch(&[&"x".repeat(500_000)])),
        (0, 0)
    );
    let refused = fixture.http(&secret, "GET", "/v1/topics/t", &Value::Null);
    refused.problem(429, "quota-exceeded");
    // What is committed passes all the same; whatever comes then waits.
    let body = Out::new()
        .text("g")
        .i32(-1)
        .text("")
        .i64(-1)
        .i32(1)
        .text("t")
        .i32(1);
    let mut answer = client.ask(OFFSET_COMMIT, 2, body.i32(0).i64(1).text(""));
    answer.i32();
    answer.text();
    answer.bytes(8);
    assert_eq!(answer.i16(), 0);
    client.send(&Out::new().i32(0).frame(METADATA, 1, 99));
    // Others are not slowed.
    let mut admin = fixture.client();
    scram(&mut admin, "SCRAM-SHA-256", "admin", ADMIN).expect("signed in");
    assert_eq!(topics(&mut admin), ["t"]);
    // A stop does not wait for the debt.
    fixture.server.stop();
}

#[test]
fn a_jwt_signs_in_with_oauthbearer_and_nothing_else_does() {
    let issuer = Issuer::new();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let keys = directory.path().join("keys.json");
    std::fs::write(&keys, issuer.keys()).expect("a file");
    let fixture = closed(&[
        ("QUIPU_JWT_ISSUER", ISSUER),
        ("QUIPU_JWT_AUDIENCE", "quipu"),
        ("QUIPU_JWT_KEYS", keys.to_str().expect("a path")),
    ]);
    fixture.topic("orders");
    fixture.topic("secret");
    let rules = json!([{"allow": ["describe"], "topics": ["orders"]}]);
    let principal = json!({"match": {"jwt": {"sub": "billing"}}, "rules": rules});
    fixture
        .http(ADMIN, "PUT", "/v1/principals/billing", &principal)
        .created();
    let sign_in = |name: &str, token: &str| {
        let mut client = fixture.client();
        assert_eq!(handshake(&mut client, 1, "OAUTHBEARER").0, 0);
        let message = format!("n,{name},\u{1}auth=Bearer {token}\u{1}\u{1}");
        let answered = authenticate(&mut client, message.as_bytes());
        (client, answered)
    };
    let (mut client, answered) = sign_in("", &issuer.token("billing"));
    let (message, lifetime) = answered.expect("signed in");
    assert!(message.is_empty() && lifetime > 0, "{lifetime}");
    assert_eq!(topics(&mut client), ["orders"]);
    let (mut named, answered) = sign_in("a=billing", &issuer.token("billing"));
    assert!(answered.is_ok());
    for (name, token) in [
        ("a=admin", issuer.token("billing")),
        ("", issuer.token("somebody")),
        ("", Issuer::new().token("billing")),
        ("", "a.b.c".to_owned()),
        // Tokens are not sent where they could be overheard.
        ("", ADMIN.to_owned()),
    ] {
        let (mut client, answered) = sign_in(name, &token);
        assert_eq!(answered, Err(58), "{name} {token}");
        client.is_closed();
    }
    // Other rules end what runs.
    let principal = json!({"match": {"jwt": {"sub": "billing"}}, "rules": all()});
    fixture
        .http(ADMIN, "PUT", "/v1/principals/billing", &principal)
        .ok();
    client.is_closed();
    named.is_closed();
    // So does another principal that the JWT belongs to from then on: of two that match it, the one that says more.
    let (mut client, answered) = sign_in("", &issuer.token("billing"));
    assert!(answered.is_ok());
    let closer = json!({"match": {"jwt": {"sub": "billing", "iss": ISSUER}}, "rules": rules});
    fixture
        .http(ADMIN, "PUT", "/v1/principals/closer", &closer)
        .created();
    client.is_closed();
}

#[test]
fn administrators_see_who_can_sign_in_with_scram() {
    let fixture = closed(&[]);
    let secret = fixture.token("app", &json!({"rules": all()}));
    let ask = |client: &mut Client, users: &[u8]| {
        let mut answer = client.ask(50, 0, Out::new().raw(&[0]).raw(users).raw(&[0]));
        answer.i8();
        assert_eq!(answer.i32(), 0);
        let code = answer.i16();
        answer.i8();
        let rows = (1..answer.i8()).map(|_| {
            let length = i32::from(answer.i8()) - 1;
            let name = String::from_utf8(answer.bytes(length)).expect("a name");
            let code = answer.i16();
            let length = i32::from(answer.i8()) - 1;
            answer.bytes(length);
            let infos = (1..answer.i8()).map(|_| {
                let info = (answer.i8(), answer.i32());
                answer.i8();
                info
            });
            let infos: Vec<_> = infos.collect();
            answer.i8();
            (name, code, infos)
        });
        (code, rows.collect::<Vec<_>>())
    };
    let mut admin = fixture.client();
    scram(&mut admin, "SCRAM-SHA-256", "admin", ADMIN).expect("signed in");
    let both = vec![(1, 4096), (2, 4096)];
    let app = ("app".to_owned(), 0, both);
    assert_eq!(ask(&mut admin, &[0]), (0, vec![app.clone()]));
    let asked = [&[3, 4][..], b"app", &[0, 2, b'x', 0]].concat();
    assert_eq!(
        ask(&mut admin, &asked),
        (0, vec![app, ("x".to_owned(), 91, Vec::new())])
    );
    let mut client = fixture.client();
    scram(&mut client, "SCRAM-SHA-256", "app", &secret).expect("signed in");
    assert_eq!(ask(&mut client, &[0]), (31, Vec::new()));
    // Nothing is set over this protocol.
    let body = Out::new().raw(&[0, 1, 2, 2, b'x', 1]).i32(4096);
    let body = body.raw(&[2, 9, 2, 9, 0, 0]);
    let mut answer = admin.ask(51, 0, body);
    answer.i8();
    assert_eq!(
        (answer.i32(), answer.bytes(3), answer.i16()),
        (0, vec![2, 2, b'x'], 42)
    );
}

#[test]
fn the_salt_of_a_name_is_always_the_same_whether_somebody_has_the_name_or_not() {
    let fixture = closed(&[]);
    fixture.token("billing", &json!({"rules": all()}));
    let names = ["billing", "nobody", "nobody2", "admin"];
    let salts = |fixture: &Fixture| {
        let asked = |name, mechanism| {
            let mut client = fixture.client();
            handshake(&mut client, 1, mechanism);
            let scram = Scram::new(mechanism, name);
            let (asked, _) = authenticate(&mut client, &scram.first()).expect("a name is never wrong");
            let asked = String::from_utf8(asked).expect("a text");
            asked.split_once(",s=").expect("a salt").1.to_owned()
        };
        let both = |name| ["SCRAM-SHA-256", "SCRAM-SHA-512"].map(|mechanism| asked(name, mechanism));
        names.map(both)
    };
    let first = salts(&fixture);
    assert_eq!(salts(&fixture), first);
    // Nor does it change when somebody gets the name, or loses it.
    let secret = fixture.token("nobody", &json!({"rules": all()}));
    assert_eq!(salts(&fixture), first, "with a new token");
    let signed_in = scram(&mut fixture.client(), "SCRAM-SHA-256", "nobody", &secret);
    assert_eq!(signed_in, Ok(0));
    for (method, path) in [
        ("POST", "/v1/tokens/billing/rotate"),
        ("DELETE", "/v1/tokens/nobody"),
    ] {
        let answer = fixture.http(ADMIN, method, path, &json!({}));
        assert!(answer.status < 300, "{method} {path}");
        assert_eq!(salts(&fixture), first, "{method} {path}");
    }
    let different: BTreeSet<_> = first.iter().flatten().collect();
    assert_eq!(different.len(), 2 * names.len(), "{first:?}");
    let settings = [("QUIPU_AUTH", "tokens"), ("QUIPU_ADMIN_TOKEN", ADMIN)];
    let fixture = fixture.restart_after_kill_with(&settings);
    assert_eq!(salts(&fixture), first, "after a restart");
    // Nor does the salt say whether the first administrator has a token, or another one.
    let other = [
        ("QUIPU_AUTH", "tokens"),
        ("QUIPU_ADMIN_TOKEN", "another-administrators-token"),
    ];
    let fixture = fixture.restart_after_kill_with(&other);
    assert_eq!(salts(&fixture), first, "with another token");
    let mut client = fixture.client();
    let signed_in = scram(&mut client, "SCRAM-SHA-512", "admin", other[1].1);
    assert_eq!(signed_in, Ok(0));
    assert_eq!(
        salts(&fixture.restart_after_kill_with(&other[..1])),
        first,
        "with none"
    );
    // They are those of this directory.
    assert_ne!(salts(&closed(&[]))[1], first[1]);
}
