//! The seam for JWTs: who checks them is set from outside, with [`Access::set_verifier`](super::Access::set_verifier).

use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::broker::engine::TimestampMs;
use crate::broker::rights::grant::SigningKey;

/// What a JWT says, after it was checked.
#[derive(Clone, Debug)]
pub struct Claims {
    /// All of its claims.
    pub claims: Map<String, Value>,
    /// When it ends, leeway included: it is not asked for again before, but for a minute at most.
    pub expires: TimestampMs,
    /// The key that has signed it: what it has signed ends when the issuer withdraws it.
    pub key: Arc<SigningKey>,
}

/// The answer of a [`Verifier`].
pub type Verified<'a> = Pin<Box<dyn Future<Output = Result<Claims, String>> + Send + 'a>>;

/// Checks JWTs: signature, issuer, audience, times, and whatever else makes one valid.
///
/// It gets the bearer text as it was sent, if no token of the server is that text and it has two dots. What it accepts is
/// remembered for a minute, and matched with the principals' rules; it need not remember anything but keys.
pub trait Verifier: Send + Sync + 'static {
    /// The claims, or why it is refused: for the server's log, never for the client.
    fn verify<'a>(&'a self, token: &'a str, now: TimestampMs) -> Verified<'a>;
}
