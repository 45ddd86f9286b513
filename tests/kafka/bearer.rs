//! JWTs over OAUTHBEARER that somebody has made himself, or that are not for this server.

use ring::hmac;
use serde_json::{Value, json};

use super::issuer::{ISSUER, Issuer, jwt};
use super::sasl::{all, authenticate, closed, handshake, topics};
use super::*;

struct World {
    issuer: Issuer,
    fixture: Fixture,
    _directory: TempDir,
}

impl World {
    /// A server that knows an issuer, with principals for two of its subjects.
    fn new() -> Self {
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
        for name in ["billing", "other"] {
            let principal = json!({"match": {"jwt": {"sub": name}}, "rules": all()});
            let path = format!("/v1/principals/{name}");
            fixture
                .http(super::sasl::ADMIN, "PUT", &path, &principal)
                .created();
        }
        Self {
            issuer,
            fixture,
            _directory: directory,
        }
    }

    fn sign_in(&self, token: &str) -> (Client, Result<i64, i16>) {
        let mut client = self.fixture.client();
        let answered = sign_in(&mut client, token);
        (client, answered)
    }
}

/// Signs in; returns the session's lifetime, or the code.
fn sign_in(client: &mut Client, token: &str) -> Result<i64, i16> {
    assert_eq!(handshake(client, 1, "OAUTHBEARER").0, 0);
    let message = format!("n,,\u{1}auth=Bearer {token}\u{1}\u{1}");
    authenticate(client, message.as_bytes()).map(|(_, lifetime)| lifetime)
}

fn header() -> Value {
    json!({"alg": "EdDSA", "kid": "one"})
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "quipu", "exp": 4_000_000_000_u64, "sub": "billing"})
}

/// An object with one more field, or with another value of it; null: without it.
fn with(mut object: Value, field: &str, value: Value) -> Value {
    let fields = object.as_object_mut().expect("an object");
    match value {
        Value::Null => drop(fields.remove(field)),
        value => drop(fields.insert(field.to_owned(), value)),
    }
    object
}

#[test]
fn no_forged_or_foreign_jwt_signs_in() {
    let world = World::new();
    let issuer = &world.issuer;
    let good = issuer.sign(&header(), &claims());
    assert!(world.sign_in(&good).1.is_ok());

    let hmac = |key: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        move |message: &str| hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
    };
    let mut forged = vec![("another key", Issuer::new().sign(&header(), &claims()))];
    for algorithm in ["none", "None", "nOnE", "", "RS256", "ES256", "HS256"] {
        let header = with(header(), "alg", json!(algorithm));
        forged.push(("unsigned", jwt(&header, &claims(), |_| Vec::new())));
        forged.push((
            "an algorithm that the key is not for",
            issuer.sign(&header, &claims()),
        ));
    }
    for algorithm in ["HS256", "HS384", "HS512"] {
        // The public key is known to everybody: it must not serve as a secret.
        let header = with(header(), "alg", json!(algorithm));
        for key in [issuer.public_key(), issuer.keys().as_bytes()] {
            forged.push(("signed with the public key", jwt(&header, &claims(), hmac(key))));
        }
    }
    for (field, value) in [
        ("alg", Value::Null),
        ("kid", json!("two")),
        ("crit", json!(["exp"])),
        ("crit", json!(["b64"])),
    ] {
        let header = with(header(), field, value);
        forged.push(("a header", issuer.sign(&header, &claims())));
    }
    // Keys that the token brings along do not count.
    let own = Issuer::new();
    let keys: Value = serde_json::from_str(&own.keys()).expect("JSON");
    for (field, value) in [
        ("jwk", keys["keys"][0].clone()),
        ("jku", json!("https://mallory.example/keys")),
        ("x5u", json!("https://mallory.example/chain")),
    ] {
        let header = with(header(), field, value);
        forged.push(("a key of its own", own.sign(&header, &claims())));
    }
    for (field, value) in [
        ("iss", json!("https://elsewhere.example")),
        ("iss", Value::Null),
        ("iss", json!([ISSUER])),
        ("aud", json!("another")),
        ("aud", json!(["another", "quipu2"])),
        ("aud", Value::Null),
        ("exp", json!(1_700_000_000)),
        ("exp", json!("4000000000")),
        ("exp", Value::Null),
        ("nbf", json!(3_999_999_999_u64)),
        ("sub", json!("stranger")),
        ("sub", Value::Null),
    ] {
        let claims = with(claims(), field, value);
        forged.push(("claims", issuer.sign(&header(), &claims)));
    }
    // Parts of two tokens, and parts that are not there.
    let other = issuer.token("other");
    let parts: Vec<&str> = good.split('.').collect();
    let others: Vec<&str> = other.split('.').collect();
    for pieces in [
        vec![parts[0], others[1], parts[2]],
        vec![parts[0], parts[1], others[2]],
        vec![parts[0], parts[1], ""],
        vec![parts[0], parts[1]],
        vec![parts[0], parts[1], parts[2], ""],
        vec!["", parts[1], parts[2]],
    ] {
        forged.push(("pieces", pieces.join(".")));
    }
    let long = with(claims(), "more", json!("x".repeat(20 << 10)));
    forged.push(("a huge one of another", own.sign(&header(), &long)));
    forged.push(("only dots", ".".repeat(30 << 10)));
    for (what, token) in &forged {
        let (mut client, answered) = world.sign_in(token);
        let begin = &token[..token.len().min(400)];
        assert_eq!(answered, Err(58), "{what}: {begin}");
        client.is_closed();
    }
    // A message that no token needs is not read at all.
    let longer = with(claims(), "more", json!("x".repeat(300 << 10)));
    for token in [issuer.sign(&header(), &longer), ".".repeat(300 << 10)] {
        let mut client = world.fixture.client();
        assert_eq!(handshake(&mut client, 1, "OAUTHBEARER").0, 0);
        let message = format!("n,,\u{1}auth=Bearer {token}\u{1}\u{1}");
        client.send(&Out::new().bytes(message.as_bytes()).frame(36, 1, 2));
        client.is_closed();
    }
    // What the server sends to a client is not longer for a longer token, and the good one is good after all that.
    assert!(world.sign_in(&good).1.is_ok());
    let metrics = world
        .fixture
        .http(super::sasl::ADMIN, "GET", "/metrics", &Value::Null);
    let counted = format!("quipu_failed_sign_ins_total {}", forged.len());
    assert!(metrics.text().contains(&counted), "{counted}");
}

#[test]
fn extensions_neither_help_nor_hurt_and_a_second_token_is_refused() {
    let world = World::new();
    let (good, bad) = (world.issuer.token("billing"), Issuer::new().token("billing"));
    for (pairs, is_good) in [
        (format!("auth=Bearer {good}\u{1}traceId=1\u{1}x=y"), true),
        (format!("a=b\u{1}auth=Bearer {good}"), true),
        (format!("auth=Bearer {bad}\u{1}auth=Bearer {good}"), false),
        (format!("auth=Bearer {good}\u{1}auth=Bearer {bad}"), false),
        (
            format!("auth=Bearer {bad}\u{1}sub=billing\u{1}principal=billing"),
            false,
        ),
        (format!("AUTH=Bearer {good}"), false),
    ] {
        let mut client = world.fixture.client();
        handshake(&mut client, 1, "OAUTHBEARER");
        let message = format!("n,,\u{1}{pairs}\u{1}\u{1}");
        let answered = authenticate(&mut client, message.as_bytes());
        assert_eq!(answered.is_ok(), is_good, "{pairs}");
    }
}

#[test]
fn whoever_signs_in_again_stays_who_it_is() {
    let world = World::new();
    let good = world.issuer.token("billing");
    let (mut client, answered) = world.sign_in(&good);
    assert!(answered.is_ok());
    // Again, with another token of the same subject too.
    let later = with(claims(), "exp", json!(4_000_000_001_u64));
    for token in [good.clone(), world.issuer.sign(&header(), &later)] {
        assert!(sign_in(&mut client, &token).is_ok());
        assert_eq!(topics(&mut client), ["orders"]);
    }
    for token in [
        world.issuer.token("other"),
        world.issuer.token("stranger"),
        Issuer::new().token("billing"),
        world
            .issuer
            .sign(&header(), &with(claims(), "exp", json!(1_700_000_000))),
    ] {
        let (mut client, answered) = world.sign_in(&good);
        assert!(answered.is_ok());
        // What waits goes with it.
        client.send(&fetch_request("orders", 0, (3_600_000, 1, 1 << 20)).frame(FETCH, 4, 7));
        let mut again = world.sign_in(&good).0;
        assert_eq!(sign_in(&mut again, &token), Err(58));
        again.is_closed();
        // Others of that name go on.
        client.stream.set_nonblocking(true).expect("a socket");
        let read = std::io::Read::read(&mut client.stream, &mut [0]);
        assert!(
            read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
            "it still waits"
        );
    }
}
