//! An issuer of JWTs, for those who sign in with OAUTHBEARER.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://id.example.org";

/// An issuer of JWTs with one key.
pub(crate) struct Issuer(Ed25519KeyPair);

impl Issuer {
    pub(crate) fn new() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self(Ed25519KeyPair::from_pkcs8(key.as_ref()).expect("a key"))
    }

    pub(crate) fn public_key(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    pub(crate) fn keys(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "one", "x": x}]}).to_string()
    }

    pub(crate) fn token(&self, subject: &str) -> String {
        let claims = json!({"iss": ISSUER, "aud": "quipu", "exp": 4_000_000_000_u64, "sub": subject});
        self.sign(&json!({"alg": "EdDSA", "kid": "one"}), &claims)
    }

    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        jwt(header, claims, |message| {
            self.0.sign(message.as_bytes()).as_ref().to_vec()
        })
    }
}

/// A JWT with any signature.
pub(crate) fn jwt(header: &Value, claims: &Value, sign: impl FnOnce(&str) -> Vec<u8>) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(&message));
    format!("{message}.{signature}")
}
