//! The keys of the issuer of JWTs: a set of JWKs (RFC 7517), from wherever the server has it.
//!
//! A key says itself what it is for. Only three kinds are used: RSA for RS256, P-256 for ES256, Ed25519 for EdDSA. Others
//! are passed over, above all symmetric ones: a public file has no secrets, and a token that claims to be signed by one
//! must not be believed because the file's text is known.
//!
//! A set that cannot be had leaves the former in force. One without a key of use withdraws all keys. What a key has signed
//! that a new set does not have any more ends with it ([`SigningKey`]).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::RwLock;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::{Map, Value};

use crate::broker::engine::{Clock, Monotonic};
use crate::broker::rights::grant::SigningKey;
use crate::formats::unique::parse_unique;

/// How long no token makes the server ask for the keys again.
pub const ASK_INTERVAL: Duration = Duration::from_secs(60);
/// The largest set.
pub const MAX_SET_BYTES: u64 = 1 << 20;
/// The most keys of a set that are used.
const MAX_KEYS: usize = 100;

/// Where the set comes from: reads all of it, and may block.
pub type Source = Box<dyn Fn() -> Result<Vec<u8>, String> + Send + Sync>;

/// An algorithm of signatures, by its name in a JWT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// EdDSA with Ed25519.
    EdDsa,
}

impl Algorithm {
    /// The algorithm of that name; `None` for all that are not supported, `none` and HMACs above all.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// A public key of the issuer.
pub struct Key {
    id: Option<String>,
    public: Public,
    /// The same for as long as sets have the key.
    pub(super) signing: Arc<SigningKey>,
}

#[derive(PartialEq, Eq)]
enum Public {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The point, uncompressed.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?}, {:?})", self.id, self.algorithm())
    }
}

impl Key {
    /// The one algorithm that it is for.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self.public {
            Public::Rsa { .. } => Algorithm::Rs256,
            Public::P256(_) => Algorithm::Es256,
            Public::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// Whether the signature is this key's, of this message.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.public {
            Public::Rsa { n, e } => {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            Public::P256(point) => {
                let key = UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point);
                key.verify(message, signature)
            }
            Public::Ed25519(point) => {
                UnparsedPublicKey::new(&signature::ED25519, point).verify(message, signature)
            }
        };
        verified.is_ok()
    }

    /// The key of a JWK; `None` if it is not one to check these tokens with.
    fn of(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let is = |name: &str, wanted: &str| match jwk.get(name) {
            None => true,
            Some(found) => found.as_str() == Some(wanted),
        };
        let verifies = match jwk.get("key_ops") {
            None => true,
            Some(operations) => operations
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one == "verify")),
        };
        if !verifies || !is("use", "sig") {
            return None;
        }
        let id = match jwk.get("kid") {
            None => None,
            Some(id) => Some(id.as_str()?.to_owned()),
        };
        let public = match (text("kty")?, text("crv")) {
            ("RSA", _) if is("alg", "RS256") => {
                let without_zeros =
                    |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect();
                let n: Vec<u8> = without_zeros(bytes("n")?);
                // Others are refused at each signature, so they are no key of use.
                if !(256..=1024).contains(&n.len()) {
                    return None;
                }
                Public::Rsa {
                    n,
                    e: without_zeros(bytes("e")?),
                }
            }
            ("EC", Some("P-256")) if is("alg", "ES256") => {
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != 32 || y.len() != 32 {
                    return None;
                }
                Public::P256([&[4][..], &x, &y].concat())
            }
            ("OKP", Some("Ed25519")) if is("alg", "EdDSA") || is("alg", "Ed25519") => {
                Public::Ed25519(bytes("x").filter(|x| x.len() == 32)?)
            }
            _ => return None,
        };
        let signing = Arc::default();
        Some(Self { id, public, signing })
    }

    /// Whether it is the same key under the same name.
    fn is(&self, other: &Self) -> bool {
        self.id == other.id && self.public == other.public
    }
}

/// What a set says that has nothing to check these tokens with.
const NO_KEY: &str = "it has no key for RS256, ES256 or EdDSA";

/// The keys of use in a JWK set. There may be none: an issuer can take back all.
///
/// # Errors
/// A message for the log: it is no set.
pub fn parse(set: &[u8]) -> Result<Vec<Key>, String> {
    let set = parse_unique(set)?;
    let keys = set.get("keys").and_then(Value::as_array);
    let keys = keys.ok_or("it is no JWK set: it has no list of keys")?;
    let all = keys.iter().filter_map(|key| Key::of(key.as_object()?));
    Ok(all.take(MAX_KEYS).collect())
}

/// The keys in force.
pub struct Keys {
    source: Source,
    clock: Arc<dyn Clock>,
    /// Replaced whole.
    set: RwLock<Arc<[Key]>>,
    /// The bytes that the set was last read from, or why it could not be. Held while the source is read, so that
    /// readers take turns.
    seen: parking_lot::Mutex<Option<Result<Vec<u8>, String>>>,
    /// When a token last made the server ask. Held while it asks, so that others wait for the same answer.
    asked: tokio::sync::Mutex<Option<Monotonic>>,
}

impl Keys {
    /// Without keys, until they are read for the first time.
    #[must_use]
    pub fn new(source: Source, clock: Arc<dyn Clock>) -> Self {
        Self {
            source,
            clock,
            set: RwLock::new(Arc::new([])),
            seen: parking_lot::Mutex::default(),
            asked: tokio::sync::Mutex::default(),
        }
    }

    /// All keys in force.
    #[must_use]
    pub fn all(&self) -> Arc<[Key]> {
        self.set.read().clone()
    }

    /// Reads the source for the first time. Blocks on the source.
    ///
    /// # Errors
    /// Why there are no keys.
    pub fn open(&self) -> Result<(), String> {
        match self.look().1? {
            0 => Err(NO_KEY.to_owned()),
            _ => Ok(()),
        }
    }

    /// Reads the source again, and takes its keys if they are others. Blocks on the source.
    ///
    /// # Errors
    /// Why the former keys stay. It is logged here, once for each reason.
    pub fn read(&self) -> Result<(), String> {
        let (is_new, read) = self.look();
        match &read {
            Ok(0) if is_new => {
                let error = NO_KEY;
                tracing::error!(
                    error,
                    "the issuer of JWTs has taken back all its keys: no JWT is valid"
                );
            }
            Ok(keys) if is_new => tracing::info!(keys, "the keys for JWTs were read"),
            Err(error) if is_new => {
                tracing::error!(
                    error,
                    "the keys for JWTs cannot be read; the former stay in force"
                );
            }
            _ => {}
        }
        read.map(drop)
    }

    /// Reads the source. Returns whether that has another result than the last time, and how many keys it is.
    fn look(&self) -> (bool, Result<usize, String>) {
        let mut seen = self.seen.lock();
        let found = (self.source)();
        let parsed = found.clone().and_then(|set| parse(&set));
        let count = parsed.as_ref().map(Vec::len).map_err(Clone::clone);
        let is_new = seen.as_ref() != Some(&found);
        if let Ok(keys) = parsed
            && is_new
        {
            self.replace(keys);
        }
        *seen = Some(found);
        (is_new, count)
    }

    /// Puts a set in force. What was signed with a key that it does not have ends.
    fn replace(&self, mut keys: Vec<Key>) {
        let mut set = self.set.write();
        for key in &mut keys {
            if let Some(same) = set.iter().find(|former| former.is(key)) {
                key.signing = Arc::clone(&same.signing);
            }
        }
        for former in set.iter() {
            if !keys.iter().any(|key| key.is(former)) {
                former.signing.withdraw();
            }
        }
        *set = keys.into();
    }

    /// Reads the source again because a token names an unknown key, but at most once in [`ASK_INTERVAL`]. Whoever calls
    /// meanwhile waits for the same answer.
    pub async fn ask(self: &Arc<Self>) {
        let mut asked = self.asked.lock().await;
        let now = self.clock.monotonic();
        if asked.is_some_and(|last| now.since(last) < ASK_INTERVAL) {
            return;
        }
        *asked = Some(now);
        let keys = self.clone();
        let _ = tokio::task::spawn_blocking(move || keys.read()).await;
    }
}

/// The keys that may have signed a token: those of this algorithm, and of this name if the token names one.
pub(super) fn fitting<'a>(
    keys: &'a [Key],
    id: Option<&'a str>,
    algorithm: Algorithm,
) -> impl Iterator<Item = &'a Key> {
    let has_name = move |key: &&Key| id.is_none() || key.id.as_deref() == id;
    keys.iter()
        .filter(has_name)
        .filter(move |key| key.algorithm() == algorithm)
}

/// Whether a key has this name, whatever it is for.
pub(super) fn knows(keys: &[Key], id: &str) -> bool {
    keys.iter().any(|key| key.id.as_deref() == Some(id))
}
