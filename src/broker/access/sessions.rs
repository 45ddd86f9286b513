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
/// The most sessions of one principal; above it that of its own ends. So nobody ends those of all others.
const MAX_OF_ONE: usize = 1000;

/// All sessions.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<Digest, Session>>);

struct Session {
    /// The token, or the JWT, as it was given.
    token: Arc<str>,
    /// Whose that was when the session began.
    principal: Arc<str>,
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
        let principal = Arc::clone(&grant.principal.name);
        let mut sessions = self.0.sessions.0.lock();
        let is_own = |session: &Session| session.principal == principal;
        let own = sessions.values().filter(|session| is_own(session)).count();
        if own >= MAX_OF_ONE || sessions.len() >= MAX {
            let candidates = sessions
                .iter()
                .filter(|(_, session)| own < MAX_OF_ONE || is_own(session));
            let oldest = candidates.min_by_key(|(_, session)| session.used);
            let oldest = oldest.map(|(id, _)| *id);
            oldest.map(|id| sessions.remove(&id));
        }
        let session = Session {
            token: token.into(),
            principal,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::access::testing::{access, token};
    use crate::broker::caller::Caller;
    use crate::broker::engine::TimestampMs;
    use crate::broker::engine::sim::SimClock;

    #[tokio::test]
    async fn whoever_signs_in_again_and_again_ends_sessions_of_his_own() {
        let clock = Arc::new(SimClock::new(TimestampMs(1_700_000_000_000)));
        let access = access(&clock);
        access.set_admin_token(Some("the-administrators-token"));
        let token = access
            .create_token(&Caller::default(), token("often"))
            .await
            .unwrap();
        let (other, _) = access.begin_session("the-administrators-token").await.unwrap();
        let mut own = Vec::new();
        for _ in 0..=MAX_OF_ONE {
            clock.advance(Duration::from_millis(1));
            own.push(access.begin_session(&token).await.unwrap().0);
        }
        assert!(access.session(&other).await.is_ok());
        assert_eq!(access.session(&own[0]).await.err(), Some(Failure::Wrong));
        assert!(access.session(&own[1]).await.is_ok());
        assert!(access.session(&own[MAX_OF_ONE]).await.is_ok());
    }
}
