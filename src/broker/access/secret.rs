//! Secrets that the server makes, and what it keeps of them.
//!
//! A secret has 256 random bits, so one SHA-256 is enough to store it by: there is nothing to guess. For SASL SCRAM, whose
//! password it is, the salted keys are made with it, since they cannot be made from the digest later.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SecureRandom;
use ring::{hmac, pbkdf2};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::broker::refusal::{Reason, Refusal};

/// The SHA-256 of a secret.
pub type Digest = [u8; 32];

/// What a token begins with, so that scanners for leaked secrets find it.
const PREFIX: &str = "quipu_";
/// Kafka asks for no less; more would only slow clients down, as nobody guesses 256 bits.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("it is not 0");
/// The length of a salt.
pub(super) const SALT_BYTES: usize = 16;

/// The digest by which a secret is found.
#[must_use]
pub fn digest(secret: &[u8]) -> Digest {
    let found = ring::digest::digest(&ring::digest::SHA256, secret);
    let mut digest = Digest::default();
    digest.copy_from_slice(found.as_ref());
    digest
}

/// A new secret: visible ASCII, for a header or a cookie.
///
/// # Errors
/// [`Reason::Internal`]: the system gives no random bytes.
pub fn make() -> Result<String, Refusal> {
    let bytes: [u8; 32] = random()?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// Random bytes.
///
/// # Errors
/// [`Reason::Internal`]: the system gives none.
pub fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    let filled = ring::rand::SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| {
        tracing::error!("the system gives no random bytes");
        Refusal::new(Reason::Internal, "the server could not make a secret")
    })?;
    Ok(bytes)
}

/// Bytes that are stored as Base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

/// What SCRAM needs of a password (RFC 5802): neither the password nor a way to sign in follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScramKeys {
    /// Added to the password.
    pub salt: Bytes,
    /// How often it is hashed.
    pub iterations: u32,
    /// The hash of the key by which a client proves that it has the password.
    pub stored_key: Bytes,
    /// The key by which the server proves that it knows the client.
    pub server_key: Bytes,
}

/// What is kept of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its digest.
    pub sha256: Bytes,
    /// Until when it is valid, in milliseconds; none: as long as its token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// For SCRAM-SHA-256.
    pub scram_sha_256: ScramKeys,
    /// For SCRAM-SHA-512.
    pub scram_sha_512: ScramKeys,
}

impl Kept {
    /// With the salts of another secret of its token: one that is asked for a proof does not say which it has. `None`: the
    /// other one is damaged.
    pub(super) fn beside(secret: &str, other: &Self) -> Option<Self> {
        let salt = |keys: &ScramKeys| keys.salt.0.as_slice().try_into().ok();
        let (one, two) = (salt(&other.scram_sha_256)?, salt(&other.scram_sha_512)?);
        Some(Self::salted(secret, one, two))
    }

    /// With these salts. Takes some milliseconds of one core.
    pub(super) fn salted(secret: &str, sha_256: [u8; SALT_BYTES], sha_512: [u8; SALT_BYTES]) -> Self {
        Self {
            sha256: Bytes(digest(secret.as_bytes()).to_vec()),
            expires: None,
            scram_sha_256: scram(&SHA_256, secret.as_bytes(), sha_256),
            scram_sha_512: scram(&SHA_512, secret.as_bytes(), sha_512),
        }
    }

    /// The digest; `None` if the stored value is damaged.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.sha256.0.as_slice().try_into().ok()
    }
}

/// One of SCRAM's hashes.
struct Hash {
    pbkdf2: pbkdf2::Algorithm,
    hmac: hmac::Algorithm,
    digest: &'static ring::digest::Algorithm,
}

static SHA_256: Hash = Hash {
    pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256,
    hmac: hmac::HMAC_SHA256,
    digest: &ring::digest::SHA256,
};
static SHA_512: Hash = Hash {
    pbkdf2: pbkdf2::PBKDF2_HMAC_SHA512,
    hmac: hmac::HMAC_SHA512,
    digest: &ring::digest::SHA512,
};

fn scram(hash: &Hash, password: &[u8], salt: [u8; SALT_BYTES]) -> ScramKeys {
    let mut salted = vec![0; hash.digest.output_len()];
    pbkdf2::derive(hash.pbkdf2, ITERATIONS, &salt, password, &mut salted);
    let key = hmac::Key::new(hash.hmac, &salted);
    let client_key = hmac::sign(&key, b"Client Key");
    let stored_key = ring::digest::digest(hash.digest, client_key.as_ref());
    ScramKeys {
        salt: Bytes(salt.to_vec()),
        iterations: ITERATIONS.get(),
        stored_key: Bytes(stored_key.as_ref().to_vec()),
        server_key: Bytes(hmac::sign(&key, b"Server Key").as_ref().to_vec()),
    }
}

/// Whether two digests are equal, in a time that does not depend on where they differ.
#[must_use]
pub fn is_equal(one: &Digest, other: &Digest) -> bool {
    is_same(one, other)
}

/// The same for bytes of any length; only that is not hidden.
#[must_use]
pub fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let differing = one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_long_different_and_fit_into_a_header() {
        let (one, other) = (make().unwrap(), make().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), PREFIX.len() + 43);
        assert!(one.bytes().all(|byte| byte.is_ascii_graphic()), "{one}");
    }

    #[test]
    fn the_keys_of_scram_are_those_of_rfc_7677() {
        // The example of RFC 7677, section 3: user `user`, password `pencil`.
        let salt: [u8; SALT_BYTES] = STANDARD
            .decode("W22ZaJ0SNY7soEsUEjb6gQ==")
            .unwrap()
            .try_into()
            .unwrap();
        let keys = scram(&SHA_256, b"pencil", salt);
        let message = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
            s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let key = hmac::Key::new(hmac::HMAC_SHA256, &keys.server_key.0);
        let proof = STANDARD.encode(hmac::sign(&key, message.as_bytes()));
        assert_eq!(proof, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn what_is_kept_comes_back_and_does_not_have_the_secret() {
        let secret = make().unwrap();
        let kept = Kept::salted(&secret, [1; SALT_BYTES], [2; SALT_BYTES]);
        let text = serde_json::to_string(&kept).unwrap();
        assert_eq!(serde_json::from_str::<Kept>(&text).unwrap(), kept);
        assert!(!text.contains(&secret) && !text.contains(&secret[PREFIX.len()..]));
        assert_eq!(kept.digest(), Some(digest(secret.as_bytes())));
    }
}
