//! Signing in with SCRAM (RFC 5802): a client proves that it has a token's secret, and does not send it.
//!
//! The name is that of the token. A name that nobody has is asked for a proof too, with a salt that is made up for it, so
//! that names cannot be tried out. Secrets of one token share their salt: a client says only with its proof which of them
//! it has, while a former one is still valid.

use std::sync::Arc;

use ring::{digest, hmac};

use super::secret::{Kept, SALT_BYTES, ScramKeys, is_same};
use super::{ADMIN, Access, Failure, Table};
use crate::broker::rights::grant::Grant;

/// How often a password is hashed, as clients are told for a name that nobody has.
const ITERATIONS: u32 = 4096;

/// The hash function of a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// Of SCRAM-SHA-256.
    Sha256,
    /// Of SCRAM-SHA-512.
    Sha512,
}

/// What a client needs to make its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Added to the password.
    pub salt: Vec<u8>,
    /// How often that is hashed.
    pub iterations: u32,
}

/// A proof that was right.
#[derive(Debug)]
pub struct Proven {
    /// What the secret gives.
    pub grant: Arc<Grant>,
    /// By which the client knows that the server knows it.
    pub signature: Vec<u8>,
}

impl Hash {
    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        }
    }

    fn keys(self, secret: &Kept) -> &ScramKeys {
        match self {
            Self::Sha256 => &secret.scram_sha_256,
            Self::Sha512 => &secret.scram_sha_512,
        }
    }

    /// Whether a proof over a message is one by the secret with this stored key.
    fn proves(self, stored_key: &[u8], message: &[u8], proof: &[u8]) -> bool {
        let signature = hmac::sign(&hmac::Key::new(self.hmac(), stored_key), message);
        let signature = signature.as_ref();
        // Nothing is learnt by the length: it is that of the hash.
        if proof.len() != signature.len() {
            return false;
        }
        let client_key: Vec<u8> = proof.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        is_same(digest::digest(self.digest(), &client_key).as_ref(), stored_key)
    }
}

impl Access {
    /// What a client of that name is asked for.
    #[must_use]
    pub fn scram_challenge(&self, hash: Hash, name: &str) -> Challenge {
        let table = self.0.table.read();
        if let Some(newest) = table.secrets_of(name).first() {
            let keys = hash.keys(newest);
            return Challenge {
                salt: keys.salt.0.clone(),
                iterations: keys.iterations,
            };
        }
        Challenge {
            salt: self.salt_of(hash, name).to_vec(),
            iterations: ITERATIONS,
        }
    }

    /// What is kept of a secret of that name.
    pub(super) fn kept(&self, name: &str, secret: &str) -> Kept {
        let salt = |hash| self.salt_of(hash, name);
        Kept::salted(secret, salt(Hash::Sha256), salt(Hash::Sha512))
    }

    /// The salt of a name: always the same, so that it does not say whether somebody has the name. Secrets are long and
    /// random, so a salt need not be.
    fn salt_of(&self, hash: Hash, name: &str) -> [u8; SALT_BYTES] {
        let of_name = [&[hash as u8], name.as_bytes()].concat();
        let made_up = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0.decoy), &of_name);
        let first = made_up.as_ref().first_chunk();
        *first.expect("an HMAC with SHA-256 has 32 bytes")
    }

    /// What a proof over `message` gives, that a client of that name has made for `challenge`.
    ///
    /// # Errors
    /// [`Failure::Wrong`].
    pub fn scram(
        &self,
        hash: Hash,
        name: &str,
        challenge: &Challenge,
        message: &[u8],
        proof: &[u8],
    ) -> Result<Proven, Failure> {
        let table = self.0.table.read();
        let now = self.0.clock.now();
        let secrets = table.secrets_of(name);
        if secrets.is_empty() {
            // Takes the time that a wrong proof for a name takes that somebody has.
            std::hint::black_box(hash.proves(&self.0.decoy, message, proof));
        }
        for secret in secrets {
            let keys = hash.keys(secret);
            let is_asked = keys.salt.0 == challenge.salt && keys.iterations == challenge.iterations;
            if !is_asked || !hash.proves(&keys.stored_key.0, message, proof) {
                continue;
            }
            let grant = table
                .grant_of(name, secret)
                .filter(|grant| !grant.is_over(now))
                .ok_or(Failure::Wrong)?;
            let signature = hmac::sign(&hmac::Key::new(hash.hmac(), &keys.server_key.0), message);
            return Ok(Proven {
                grant: Arc::clone(grant),
                signature: signature.as_ref().to_vec(),
            });
        }
        Err(Failure::Wrong)
    }
}

impl Table {
    /// The secrets of a token, or of the first administrator, the newest first.
    fn secrets_of(&self, name: &str) -> &[Kept] {
        match &self.admin {
            Some(admin) if name == ADMIN => admin.kept.as_slice(),
            _ => self.tokens.get(name).map_or(&[], |known| &known.record.secrets),
        }
    }

    /// What a secret of those gives.
    fn grant_of(&self, name: &str, secret: &Kept) -> Option<&Arc<Grant>> {
        match &self.admin {
            Some(admin) if name == ADMIN => Some(&admin.grant),
            _ => self.grants.get(&secret.digest()?),
        }
    }
}
