//! JSON Web Tokens (RFC 7519) that one issuer signs (RFC 7515) for this server.
//!
//! The signature is checked before the claims are read, with a key of the issuer that is for the algorithm that the token
//! names: neither `none`, nor an HMAC whose secret would be the public key, nor a key that comes with the token (`jwk`,
//! `jku`, `x5u`, `x5c`) is ever used. A document that two parsers may read differently is refused: names that come twice,
//! other forms of the same base64.

pub mod keys;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use self::keys::{Algorithm, Key, Keys, fitting, knows};
use crate::broker::engine::TimestampMs;
use crate::broker::rights::grant::SigningKey;
use crate::formats::unique::parse_unique;

/// The largest token.
const MAX_BYTES: usize = 16 << 10;
/// How far the clocks of the issuer and of this server may be apart.
const LEEWAY_MS: i64 = 60_000;

/// What a token says, after it was checked.
#[derive(Clone, Debug)]
pub struct Checked {
    /// All of its claims.
    pub claims: Map<String, Value>,
    /// When it ends, leeway included.
    pub expires: TimestampMs,
    /// The key that has signed it.
    pub key: Arc<SigningKey>,
}

/// Checks the JWTs of one issuer.
pub struct Jwts {
    issuer: String,
    audience: String,
    keys: Arc<Keys>,
}

/// A token, before anything of it is believed.
struct Unchecked<'a> {
    algorithm: Algorithm,
    key_id: Option<String>,
    /// What is signed.
    message: &'a [u8],
    payload: &'a str,
    signature: Vec<u8>,
}

/// Why no key has verified a token.
#[derive(Debug, PartialEq, Eq)]
enum Unverified {
    /// The keys in force may not be the issuer's newest.
    UnknownKey,
    /// The key is known, and the signature is not its.
    Forged,
}

impl Jwts {
    /// Tokens of this issuer (`iss`) for this audience (`aud`).
    #[must_use]
    pub fn new(issuer: String, audience: String, keys: Arc<Keys>) -> Self {
        Self {
            issuer,
            audience,
            keys,
        }
    }

    /// Checks a token: its signature, its issuer, its audience and its times. Waits for the issuer if the token names a key
    /// that is not known.
    ///
    /// # Errors
    /// Why it is refused, for the server's log: a client is told no reason.
    pub async fn check(&self, token: &str, now: TimestampMs) -> Result<Checked, String> {
        let token = read(token)?;
        let mut verified = verify(&token, &self.keys.all());
        if matches!(verified, Err(Unverified::UnknownKey)) {
            self.keys.ask().await;
            verified = verify(&token, &self.keys.all());
        }
        let key = verified.map_err(|why| match why {
            Unverified::UnknownKey => "no key of the issuer has its kid and is for its alg".to_owned(),
            Unverified::Forged => "the signature is wrong".to_owned(),
        })?;
        let claims = object(token.payload).map_err(|error| format!("the claims are {error}"))?;
        let expires = self.check_claims(&claims, now)?;
        Ok(Checked { claims, expires, key })
    }

    /// Checks the claims of a token whose signature is right. Returns when it ends.
    fn check_claims(&self, claims: &Map<String, Value>, now: TimestampMs) -> Result<TimestampMs, String> {
        if claims.get("iss").and_then(Value::as_str) != Some(&*self.issuer) {
            return Err("iss is not jwt_issuer".to_owned());
        }
        let is_ours = match claims.get("aud") {
            Some(Value::String(one)) => *one == self.audience,
            Some(Value::Array(all)) => {
                all.iter().all(Value::is_string)
                    && all.iter().any(|one| one.as_str() == Some(&*self.audience))
            }
            _ => false,
        };
        if !is_ours {
            return Err("aud does not name jwt_audience".to_owned());
        }
        let time = |name: &str| match claims.get(name) {
            None => Ok(None),
            // A number that is too large for a time means never; Rust's conversion saturates.
            Some(found) => match found.as_f64() {
                Some(seconds) => Ok(Some((seconds * 1000.0) as i64)),
                None => Err(format!("{name} is no number")),
            },
        };
        let expires_ms = time("exp")?.ok_or("exp is missing")?.saturating_add(LEEWAY_MS);
        if now.get() >= expires_ms {
            return Err("it has expired (exp)".to_owned());
        }
        if let Some(begins_ms) = time("nbf")?
            && now.get() < begins_ms.saturating_sub(LEEWAY_MS)
        {
            return Err("it is not valid yet (nbf)".to_owned());
        }
        Ok(TimestampMs(expires_ms))
    }
}

/// Reads all of a token but its claims.
fn read(token: &str) -> Result<Unchecked<'_>, String> {
    if token.len() > MAX_BYTES {
        return Err(format!("it is larger than {MAX_BYTES} bytes"));
    }
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("it has not three parts".to_owned());
    };
    let message = &token.as_bytes()[..header.len() + 1 + payload.len()];
    let header = object(header).map_err(|error| format!("the header is {error}"))?;
    if header.contains_key("crit") {
        return Err("it has extensions that must be understood (crit)".to_owned());
    }
    let algorithm = header.get("alg").and_then(Value::as_str).and_then(Algorithm::of);
    let algorithm = algorithm.ok_or("alg is not RS256, ES256 or EdDSA")?;
    let key_id = match header.get("kid") {
        None => None,
        Some(Value::String(id)) => Some(id.clone()),
        Some(_) => return Err("kid is no string".to_owned()),
    };
    let signature = decode(signature).map_err(|error| format!("the signature is {error}"))?;
    Ok(Unchecked {
        algorithm,
        key_id,
        message,
        payload,
        signature,
    })
}

/// Which of these keys has signed the token.
fn verify(token: &Unchecked<'_>, keys: &[Key]) -> Result<Arc<SigningKey>, Unverified> {
    let id = token.key_id.as_deref();
    let mut candidates = fitting(keys, id, token.algorithm);
    if let Some(key) = candidates.find(|key| key.verifies(token.message, &token.signature)) {
        return Ok(Arc::clone(&key.signing));
    }
    match id {
        Some(id) if knows(keys, id) => Err(Unverified::Forged),
        // Without a name it may be signed by a key that came later.
        _ => Err(Unverified::UnknownKey),
    }
}

fn object(part: &str) -> Result<Map<String, Value>, String> {
    match parse_unique(&decode(part)?) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err("no JSON object".to_owned()),
        Err(error) => Err(format!("no JSON: {error}")),
    }
}

/// Base64url without padding, in its one form.
fn decode(part: &str) -> Result<Vec<u8>, String> {
    let decoded = URL_SAFE_NO_PAD.decode(part);
    decoded.map_err(|error| format!("no base64url: {error}"))
}

/// The door for the fuzz target.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    use super::keys::parse;
    use super::*;

    /// Whether a token is signed by one of the keys in a set; the set is not valid, or the token cannot be read: `None`.
    #[must_use]
    pub fn is_signed(set: &[u8], token: &str) -> Option<bool> {
        let keys = parse(set).ok()?;
        let token = read(token).ok()?;
        Some(verify(&token, &keys).is_ok())
    }
}

#[cfg(test)]
mod tests;
