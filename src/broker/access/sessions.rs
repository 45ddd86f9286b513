//! Sessions of browsers: a random id in a cookie stands for a token, so that no script and no log ever sees that.
//!
//! They are in memory: a restart ends them. A session gives what its token gives at the moment, and dies with it. Ids are kept
//! as digests.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::secret::{self, Digest, digest};
use super::{Access, Failure};
use crate::broker::engine::Monotonic;
use crate::broker::refusal::Refusal;
use crate::broker::rights::grant::Grant;

/// The most sessions; above it the one that was used least recently ends.
const MAX: usize = 10_000;

/// All sessions.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<Digest, Session>>);

struct Session {
    /// The token, or the JWT, as it was given.
    token: Arc<str>,
    used: Monotonic,
}

impl Access {
    /// Begins a session for a token, and returns its id.
    ///
    /// # Errors
    /// [`Failure`] of the token; of the system's random bytes as a refusal.
    pub async fn begin_session(&self, token: &str) -> Result<(String, Arc<Grant>), Refusal> {
        let grant = self.bearer(token).await?;
        let id = secret::make()?;
        let used = self.0.clock.monotonic();
        let mut sessions = self.0.sessions.0.lock();
        if sessions.len() >= MAX {
            let oldest = sessions
                .iter()
                .min_by_key(|(_, session)| session.used)
                .map(|(id, _)| *id);
            oldest.map(|id| sessions.remove(&id));
        }
        let session = Session {
            token: token.into(),
            used,
        };
        sessions.insert(digest(id.as_bytes()), session);
        Ok((id, grant))
    }

    /// What a session gives now.
    ///
    /// # Errors
    /// [`Failure`]: there is no such session, or its token is not valid any more, which ends it.
    pub async fn session(&self, id: &str) -> Result<Arc<Grant>, Failure> {
        let id = digest(id.as_bytes());
        let token = {
            let mut sessions = self.0.sessions.0.lock();
            let session = sessions.get_mut(&id).ok_or(Failure::Wrong)?;
            session.used = self.0.clock.monotonic();
            Arc::clone(&session.token)
        };
        let grant = self.bearer(&token).await;
        if grant.is_err() {
            self.0.sessions.0.lock().remove(&id);
        }
        grant
    }

    /// Ends a session, if there is one of that id.
    pub fn end_session(&self, id: &str) {
        self.0.sessions.0.lock().remove(&digest(id.as_bytes()));
    }
}
