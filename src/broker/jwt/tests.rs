//! Each rule for JWTs, with tokens that break one of them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair,
};
use serde_json::json;

use super::keys::{ASK_INTERVAL, parse};
use super::*;
use crate::broker::engine::{Clock, Monotonic};

const NOW: i64 = 1_700_000_000;
const ISSUER: &str = "https://id.example.org";
const AUDIENCE: &str = "quipu";

/// A clock whose monotonic time a test moves.
#[derive(Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> TimestampMs {
        TimestampMs(NOW * 1000)
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(Duration::from_millis(self.0.load(Relaxed)))
    }
}

enum Signer {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    /// A test key: no provider of keys here makes new RSA keys.
    fn rsa() -> Self {
        let key = include_bytes!("../../../tests/fixtures/jwt-rsa.pk8");
        Self::Rsa(RsaKeyPair::from_pkcs8(key).unwrap())
    }

    fn p256() -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::P256(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap())
    }

    fn ed25519() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    fn alg(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Rsa(key) => {
                let public = signature::RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                let (n, e) = (public.n, public.e);
                json!({"kty": "RSA", "kid": kid, "n": encode(n), "e": encode(e)})
            }
            Self::P256(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": encode(x), "y": encode(y)})
            }
            Self::Ed25519(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": encode(key.public_key())})
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                let padding = &signature::RSA_PKCS1_SHA256;
                key.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
            Self::P256(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// A token of this text, whatever it is.
    fn token_of(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = encode(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    fn token(&self, kid: &str, claims: &Value) -> String {
        let header = json!({"alg": self.alg(), "kid": kid, "typ": "JWT"});
        self.token_of(&header.to_string(), &claims.to_string())
    }
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "exp": NOW + 300, "sub": "billing"})
}

/// The same with another value of a claim, or without it.
fn but(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

fn set(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

fn jwts_of(set: Vec<u8>) -> Jwts {
    let keys = Keys::new(Box::new(move || Ok(set.clone())), Arc::new(Hand::default()));
    keys.read().unwrap();
    Jwts::new(ISSUER.to_owned(), AUDIENCE.to_owned(), Arc::new(keys))
}

async fn found(jwts: &Jwts, token: &str) -> Result<Checked, String> {
    jwts.check(token, TimestampMs(NOW * 1000)).await
}

#[track_caller]
fn refused(found: Result<Checked, String>, why: &str) {
    let error = found.expect_err("it must be refused");
    assert!(error.contains(why), "{error}, not {why}");
}

#[tokio::test]
async fn each_algorithm_is_accepted_with_a_key_for_it() {
    let signers = [Signer::rsa(), Signer::p256(), Signer::ed25519()];
    let keys: Vec<_> = signers
        .iter()
        .zip(["a", "b", "c"])
        .map(|(signer, kid)| signer.jwk(kid))
        .collect();
    let jwts = jwts_of(set(&keys));
    for (signer, kid) in signers.iter().zip(["a", "b", "c"]) {
        let claims = found(&jwts, &signer.token(kid, &claims())).await.unwrap();
        assert_eq!(claims.claims["sub"], "billing");
        assert_eq!(claims.expires, TimestampMs((NOW + 360) * 1000));
        let header = json!({"alg": signer.alg()}).to_string();
        let without_kid = signer.token_of(&header, &self::claims().to_string());
        found(&jwts, &without_kid).await.unwrap();
    }
}

#[tokio::test]
async fn forged_signatures_are_refused() {
    let signers = [Signer::rsa(), Signer::p256(), Signer::ed25519()];
    for signer in &signers {
        let jwts = jwts_of(set(&[signer.jwk("a")]));
        let token = signer.token("a", &claims());
        let (message, signature) = token.rsplit_once('.').unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        for at in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            let forged = format!("{message}.{}", encode(&bytes));
            refused(found(&jwts, &forged).await, "the signature is wrong");
        }
        for forged in [
            Vec::new(),
            bytes[1..].to_vec(),
            [&bytes[..], &[0]].concat(),
            vec![0; bytes.len()],
        ] {
            let forged = format!("{message}.{}", encode(&forged));
            refused(found(&jwts, &forged).await, "the signature is wrong");
        }
        let other = encode(but("sub", "admin".into()).to_string());
        let header = token.split('.').next().unwrap();
        let forged = format!("{header}.{other}.{signature}");
        refused(found(&jwts, &forged).await, "the signature is wrong");
    }
    let stranger = Signer::p256().token("a", &claims());
    let jwts = jwts_of(set(&[signers[1].jwk("a")]));
    refused(found(&jwts, &stranger).await, "the signature is wrong");
}

#[tokio::test]
async fn a_token_cannot_choose_another_algorithm_than_its_key_has() {
    let (rsa, p256) = (Signer::rsa(), Signer::p256());
    let jwts = jwts_of(set(&[rsa.jwk("a"), p256.jwk("b")]));
    let text = claims().to_string();
    for alg in [
        "none", "None", "HS256", "HS512", "RS512", "PS256", "ES384", "rs256", "Ed25519", "",
    ] {
        let header = json!({"alg": alg, "kid": "a"}).to_string();
        refused(found(&jwts, &rsa.token_of(&header, &text)).await, "alg is not");
        let unsigned = format!("{}.{}.", encode(&header), encode(&text));
        refused(found(&jwts, &unsigned).await, "alg is not");
    }
    for header in [
        json!({"kid": "a"}),
        json!({"alg": null}),
        json!({"alg": ["RS256"]}),
    ] {
        refused(
            found(&jwts, &rsa.token_of(&header.to_string(), &text)).await,
            "alg is not",
        );
    }
    // The public key as the secret of an HMAC, under the name that would fit.
    let public = rsa.jwk("a").to_string();
    for alg in ["HS256", "RS256"] {
        let message = format!(
            "{}.{}",
            encode(json!({"alg": alg, "kid": "a"}).to_string()),
            encode(&text)
        );
        let secret = hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes());
        let signature = encode(hmac::sign(&secret, message.as_bytes()));
        assert!(found(&jwts, &format!("{message}.{signature}")).await.is_err());
    }
    // A right signature under the name of another key, or with its algorithm.
    let header = |alg, kid| json!({"alg": alg, "kid": kid}).to_string();
    let wrong = "the signature is wrong";
    refused(
        found(&jwts, &rsa.token_of(&header("RS256", "b"), &text)).await,
        wrong,
    );
    refused(
        found(&jwts, &rsa.token_of(&header("ES256", "a"), &text)).await,
        wrong,
    );
    refused(
        found(&jwts, &rsa.token_of(&header("ES256", "b"), &text)).await,
        wrong,
    );
}

#[tokio::test]
async fn keys_that_come_with_the_token_are_ignored() {
    let (ours, theirs) = (Signer::p256(), Signer::p256());
    let jwts = jwts_of(set(&[ours.jwk("a")]));
    let text = claims().to_string();
    let header = json!({
        "alg": "ES256", "kid": "a", "jwk": theirs.jwk("a"), "jku": "https://evil.example/keys",
        "x5u": "https://evil.example/x5u", "x5c": ["AAAA"],
    });
    let header = header.to_string();
    refused(
        found(&jwts, &theirs.token_of(&header, &text)).await,
        "the signature is wrong",
    );
    found(&jwts, &ours.token_of(&header, &text)).await.unwrap();
}

#[tokio::test]
async fn extensions_that_must_be_understood_are_refused() {
    let signer = Signer::ed25519();
    let jwts = jwts_of(set(&[signer.jwk("a")]));
    for crit in [json!(["b64"]), json!([]), json!(null), json!("exp")] {
        let header = json!({"alg": "EdDSA", "kid": "a", "crit": crit, "b64": false});
        let token = signer.token_of(&header.to_string(), &claims().to_string());
        refused(found(&jwts, &token).await, "crit");
    }
}

#[tokio::test]
async fn claims_are_checked_one_by_one() {
    let signer = Signer::ed25519();
    let jwts = jwts_of(set(&[signer.jwk("a")]));
    for (name, value, why) in [
        ("iss", json!(null), "iss is not"),
        ("iss", json!("https://id.example.org/"), "iss is not"),
        ("iss", json!([ISSUER]), "iss is not"),
        ("aud", json!(null), "aud does not"),
        ("aud", json!("other"), "aud does not"),
        ("aud", json!("Quipu"), "aud does not"),
        ("aud", json!([]), "aud does not"),
        ("aud", json!(["other", "quipu2"]), "aud does not"),
        ("aud", json!([AUDIENCE, 7]), "aud does not"),
        ("aud", json!({"quipu": AUDIENCE}), "aud does not"),
        ("aud", json!(["other", AUDIENCE]), ""),
        ("exp", json!(null), "exp is missing"),
        ("exp", json!((NOW + 300).to_string()), "exp is no number"),
        ("exp", json!(NOW - 60), "it has expired"),
        ("exp", json!(NOW - 61), "it has expired"),
        ("exp", json!(-1e300), "it has expired"),
        ("exp", json!(NOW - 59), ""),
        ("exp", json!(NOW as f64 + 0.5), ""),
        ("exp", json!(1e300), ""),
        ("nbf", json!(NOW + 61), "it is not valid yet"),
        ("nbf", json!(1e300), "it is not valid yet"),
        ("nbf", json!("0"), "nbf is no number"),
        ("nbf", json!(NOW + 60), ""),
        ("nbf", json!(NOW - 1000), ""),
        ("iat", json!(NOW + 1000), ""),
    ] {
        let found = found(&jwts, &signer.token("a", &but(name, value.clone()))).await;
        match why {
            "" => assert!(found.is_ok(), "{name} {value}: {found:?}"),
            why => refused(found, why),
        }
    }
}

#[tokio::test]
async fn what_two_parsers_may_read_differently_is_refused() {
    let signer = Signer::ed25519();
    let jwts = jwts_of(set(&[signer.jwk("a")]));
    let (header, text) = (r#"{"alg":"EdDSA","kid":"a"}"#, claims().to_string());
    let twice = text.replacen('{', r#"{"sub":"admin","#, 1);
    refused(
        found(&jwts, &signer.token_of(header, &twice)).await,
        "\"sub\" is given twice",
    );
    let nested = text.replacen('{', r#"{"realm":{"a":1,"a":2},"#, 1);
    refused(
        found(&jwts, &signer.token_of(header, &nested)).await,
        "\"a\" is given twice",
    );
    let twice = r#"{"alg":"none","alg":"EdDSA","kid":"a"}"#;
    refused(
        found(&jwts, &signer.token_of(twice, &text)).await,
        "\"alg\" is given twice",
    );
    for claims in ["[]", "null", "\"x\"", "", "{", "{} {}"] {
        refused(
            found(&jwts, &signer.token_of(header, claims)).await,
            "the claims are no JSON",
        );
    }
    for header in ["[]", "7", "", "{\"alg\":\"EdDSA\",}"] {
        refused(
            found(&jwts, &signer.token_of(header, &text)).await,
            "the header is no JSON",
        );
    }
    let kid = r#"{"alg":"EdDSA","kid":7}"#;
    refused(
        found(&jwts, &signer.token_of(kid, &text)).await,
        "kid is no string",
    );

    // Each part in another form of the same bytes, with a signature of what is sent.
    let sign = |message: String| {
        let signature = encode(signer.sign(message.as_bytes()));
        format!("{message}.{signature}")
    };
    let (encoded, payload) = (encode(header), encode(&text));
    for other in [
        format!("{encoded}="),
        format!("{encoded}\n"),
        format!(" {encoded}"),
    ] {
        refused(
            found(&jwts, &sign(format!("{other}.{payload}"))).await,
            "the header is no base64url",
        );
    }
    refused(
        found(&jwts, &sign(format!("{encoded}.{payload}=="))).await,
        "the claims are no base64url",
    );
    let good = sign(format!("{encoded}.{payload}"));
    found(&jwts, &good).await.unwrap();
    // The last letter of 64 bytes has four bits that mean nothing.
    let mut letters: Vec<char> = good.chars().collect();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = alphabet.find(*letters.last().unwrap()).unwrap();
    *letters.last_mut().unwrap() = alphabet.chars().nth(last + 1).unwrap();
    let other: String = letters.into_iter().collect();
    refused(found(&jwts, &other).await, "the signature is no base64url");
    for other in [
        format!("{good}="),
        format!("{good}\n"),
        good.replace('.', ".."),
        format!("{good}."),
    ] {
        assert!(found(&jwts, &other).await.is_err(), "{other}");
    }
    for other in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d.e"] {
        assert!(found(&jwts, other).await.is_err(), "{other}");
    }
}

#[tokio::test]
async fn huge_tokens_are_refused_before_they_are_read() {
    let signer = Signer::ed25519();
    let jwts = jwts_of(set(&[signer.jwk("a")]));
    let huge = signer.token("a", &but("pad", "x".repeat(16 << 10).into()));
    refused(found(&jwts, &huge).await, "it is larger than");
    let large = signer.token("a", &but("pad", "x".repeat(8 << 10).into()));
    found(&jwts, &large).await.unwrap();
    let deep = claims().to_string().replacen(
        '{',
        &format!("{{\"x\":{}1{},", "[".repeat(500), "]".repeat(500)),
        1,
    );
    let deep = signer.token_of(r#"{"alg":"EdDSA","kid":"a"}"#, &deep);
    refused(found(&jwts, &deep).await, "recursion limit");
}

/// An issuer whose set a test changes, and which counts how often it is asked.
struct Issuer {
    set: Mutex<Result<Vec<u8>, String>>,
    asked: AtomicU64,
}

impl Issuer {
    fn new(keys: &[Value]) -> Arc<Self> {
        Arc::new(Self {
            set: Mutex::new(Ok(set(keys))),
            asked: AtomicU64::new(0),
        })
    }

    fn jwts(self: &Arc<Self>, clock: &Arc<Hand>) -> Jwts {
        let issuer = self.clone();
        let source = move || {
            issuer.asked.fetch_add(1, Relaxed);
            issuer.set.lock().clone()
        };
        let keys = Keys::new(Box::new(source), clock.clone());
        Jwts::new(ISSUER.to_owned(), AUDIENCE.to_owned(), Arc::new(keys))
    }
}

#[tokio::test]
async fn an_unknown_key_is_asked_for_at_most_once_a_minute() {
    let (old, new) = (Signer::ed25519(), Signer::p256());
    let (issuer, clock) = (Issuer::new(&[old.jwk("old")]), Arc::new(Hand::default()));
    let jwts = issuer.jwts(&clock);
    let (by_old, by_new) = (old.token("old", &claims()), new.token("new", &claims()));
    // The first token makes the server ask, and a known key never does again.
    for _ in 0..3 {
        found(&jwts, &by_old).await.unwrap();
        assert_eq!(issuer.asked.load(Relaxed), 1);
    }
    let unknown = "no key of the issuer";
    for _ in 0..3 {
        refused(found(&jwts, &by_new).await, unknown);
    }
    // Nor does a forged token under a known name.
    let forged = new.token("old", &claims());
    refused(found(&jwts, &forged).await, "the signature is wrong");
    assert_eq!(issuer.asked.load(Relaxed), 1);

    *issuer.set.lock() = Ok(set(&[old.jwk("old"), new.jwk("new")]));
    refused(found(&jwts, &by_new).await, unknown);
    clock.0.fetch_add(ASK_INTERVAL.as_millis() as u64, Relaxed);
    found(&jwts, &by_new).await.unwrap();
    found(&jwts, &by_old).await.unwrap();
    assert_eq!(issuer.asked.load(Relaxed), 2);

    // A key that the issuer takes back is gone with the next look.
    *issuer.set.lock() = Ok(set(&[new.jwk("new")]));
    jwts.keys.read().unwrap();
    refused(found(&jwts, &by_old).await, unknown);

    // So are all, whether the set is empty or what is left is for something else.
    for nothing in [vec![], vec![json!({"kty": "oct", "kid": "new", "k": "AAAA"})]] {
        *issuer.set.lock() = Ok(set(&[new.jwk("new")]));
        jwts.keys.read().unwrap();
        let signing = found(&jwts, &by_new).await.unwrap().key;
        *issuer.set.lock() = Ok(set(&nothing));
        jwts.keys.read().unwrap();
        assert!(signing.is_withdrawn());
        refused(found(&jwts, &by_new).await, unknown);
    }
}

#[test]
fn a_start_needs_a_key() {
    for (keys, starts) in [(vec![], false), (vec![Signer::p256().jwk("a")], true)] {
        let set = set(&keys);
        let keys = Keys::new(Box::new(move || Ok(set.clone())), Arc::new(Hand::default()));
        assert_eq!(keys.open().is_ok(), starts);
    }
}

#[tokio::test]
async fn the_former_keys_stay_while_the_issuer_is_away_or_says_nonsense() {
    let signer = Signer::ed25519();
    let (issuer, clock) = (Issuer::new(&[signer.jwk("a")]), Arc::new(Hand::default()));
    let jwts = issuer.jwts(&clock);
    let (good, unknown) = (signer.token("a", &claims()), signer.token("b", &claims()));
    found(&jwts, &good).await.unwrap();
    for bad in [
        Err("no route".to_owned()),
        Ok(b"<html>".to_vec()),
        Ok(b"{}".to_vec()),
        Ok(b"{\"keys\":[],\"keys\":[]}".to_vec()),
    ] {
        *issuer.set.lock() = bad;
        clock.0.fetch_add(ASK_INTERVAL.as_millis() as u64, Relaxed);
        refused(found(&jwts, &unknown).await, "no key of the issuer");
        found(&jwts, &good).await.unwrap();
        assert!(jwts.keys.read().is_err());
        found(&jwts, &good).await.unwrap();
    }
}

#[test]
fn keys_that_are_for_something_else_are_passed_over() {
    let (rsa, p256, ed25519) = (Signer::rsa(), Signer::p256(), Signer::ed25519());
    let with = |mut key: Value, name: &str, value: Value| {
        key[name] = value;
        key
    };
    let good = [
        rsa.jwk("a"),
        with(rsa.jwk("a"), "alg", "RS256".into()),
        with(p256.jwk("a"), "use", "sig".into()),
        with(p256.jwk("a"), "key_ops", json!(["sign", "verify"])),
        with(ed25519.jwk("a"), "alg", "EdDSA".into()),
        with(ed25519.jwk("a"), "x5t", "whatever".into()),
        // The private part does not matter, wherever it comes from.
        with(ed25519.jwk("a"), "d", encode([7; 32]).into()),
    ];
    for key in &good {
        assert_eq!(parse(&set(std::slice::from_ref(key))).unwrap().len(), 1, "{key}");
    }
    let short = encode([0xff; 128]);
    let bad = [
        json!({"kty": "oct", "kid": "a", "alg": "HS256", "k": encode("secret")}),
        json!({"kty": "oct", "kid": "a", "alg": "RS256", "k": encode("secret")}),
        json!({"kid": "a"}),
        json!("key"),
        with(rsa.jwk("a"), "alg", "RS512".into()),
        with(rsa.jwk("a"), "alg", "HS256".into()),
        with(rsa.jwk("a"), "alg", json!(null)),
        with(rsa.jwk("a"), "use", "enc".into()),
        with(rsa.jwk("a"), "key_ops", json!(["encrypt"])),
        with(rsa.jwk("a"), "n", short.into()),
        with(rsa.jwk("a"), "n", encode([0xff; 1025]).into()),
        with(rsa.jwk("a"), "e", json!(65537)),
        with(rsa.jwk("a"), "kid", json!(7)),
        with(p256.jwk("a"), "crv", "P-384".into()),
        with(p256.jwk("a"), "crv", "Ed25519".into()),
        with(p256.jwk("a"), "x", encode([1; 31]).into()),
        with(p256.jwk("a"), "y", "a=".into()),
        with(ed25519.jwk("a"), "crv", "X25519".into()),
        with(ed25519.jwk("a"), "x", encode([1; 33]).into()),
    ];
    for key in &bad {
        assert!(
            parse(&set(std::slice::from_ref(key))).unwrap().is_empty(),
            "{key}"
        );
    }
    let all: Vec<Value> = good.iter().chain(&bad).cloned().collect();
    assert_eq!(parse(&set(&all)).unwrap().len(), good.len());
    for no_set in ["{}", "[]", "null", "{\"keys\":{}}", "x"] {
        assert!(parse(no_set.as_bytes()).is_err(), "{no_set}");
    }
}
