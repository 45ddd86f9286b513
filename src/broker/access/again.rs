//! The token that a connection has presented last. Clients send the same one with every request, and to compare it costs less
//! than to hash it and to look it up in what all connections share.
//!
//! A grant says itself when it is over, so whatever ends a token (or its secret) ends what is remembered of it. JWTs are not
//! remembered here: they are verified again after a minute.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Access, Failure, secret};
use crate::broker::rights::grant::Grant;

/// What a connection has presented last, and what that gave. The default is nothing.
#[derive(Default)]
pub struct Again(Mutex<Option<(Box<str>, Arc<Grant>)>>);

impl Access {
    /// What a bearer gives, as [`Access::bearer`] says, on a connection that may have presented it before.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn bearer_again(&self, text: &str, again: &Again) -> Result<Arc<Grant>, Failure> {
        if let Some((known, grant)) = &*again.0.lock()
            && secret::is_same(known.as_bytes(), text.as_bytes())
            && !grant.is_over(self.now())
        {
            return Ok(Arc::clone(grant));
        }
        let grant = self.bearer(text).await?;
        let Some(own) = grant.apart() else {
            return Ok(grant);
        };
        *again.0.lock() = Some((text.into(), Arc::clone(&own)));
        Ok(own)
    }
}
