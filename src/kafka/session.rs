//! Who the client of a connection is: nobody at first, if one has to sign in, or whom its certificate names; then whom it
//! signs in as.
//!
//! [`Sessions`] has those that are open while everybody has to sign in. What a session was signed in with may be revoked,
//! changed or expire: then the connection is closed ([`Sessions::end`]), and its client connects and signs in again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::Peer;
use super::sasl::SignIn;
use crate::broker::access::Access;
use crate::broker::caller::{Caller, RequestId, Who};
use crate::broker::rights::grant::{Certificate, Grant};
use crate::broker::rights::quota::Quota;

/// A connection's client.
pub(crate) struct Session {
    /// Where it comes from.
    pub(crate) address: Option<SocketAddr>,
    /// The address that it has reached.
    pub(crate) reached: SocketAddr,
    /// Whether nobody can overhear it, so that a secret may be sent.
    pub(crate) is_private: bool,
    certificate: Option<Arc<Certificate>>,
    state: Mutex<State>,
    /// What the request takes that is being handled.
    request: Mutex<Option<OwnedSemaphorePermit>>,
    /// What the answer to it takes.
    answer: Mutex<Option<OwnedSemaphorePermit>>,
    over: Notify,
    /// Notified when a request has failed that has no answer.
    failed: Notify,
}

struct State {
    who: Who,
    sign_in: SignIn,
    /// The connection ends after the next answer.
    is_refused: bool,
}

impl Session {
    /// The session of a connection that begins.
    pub(crate) fn new(access: &Access, peer: &Peer) -> Self {
        let who = match &peer.certificate {
            _ if !access.is_on() => Who::Anyone,
            // Who has a certificate without rules may sign in otherwise.
            Some(certificate) => access.certificate(certificate).map_or(Who::Nobody, Who::SignedIn),
            None => Who::Nobody,
        };
        Self {
            address: peer.address,
            reached: peer.reached,
            is_private: peer.is_private,
            certificate: peer.certificate.clone(),
            state: Mutex::new(State {
                who,
                sign_in: SignIn::default(),
                is_refused: false,
            }),
            request: Mutex::default(),
            answer: Mutex::default(),
            over: Notify::new(),
            failed: Notify::new(),
        }
    }

    /// Whoever calls now.
    pub(crate) fn caller(&self, request_id: RequestId) -> Caller {
        Caller {
            address: self.address,
            request_id,
            certificate: self.certificate.clone(),
            who: self.state.lock().who.clone(),
        }
    }

    /// Whether it must sign in before anything else.
    pub(crate) fn is_nobody(&self) -> bool {
        matches!(self.state.lock().who, Who::Nobody)
    }

    /// The quota that its next request counts in, if that limits anything. What signs in is not limited.
    pub(crate) fn quota(&self) -> Option<Arc<Quota>> {
        let state = self.state.lock();
        match &state.who {
            Who::SignedIn(grant) if !state.sign_in.is_bare() => {
                let quota = &grant.principal.quota;
                quota.is_limited().then(|| Arc::clone(quota))
            }
            _ => None,
        }
    }

    /// How far it is in signing in; nothing has begun from then on.
    pub(crate) fn take_sign_in(&self) -> SignIn {
        std::mem::take(&mut self.state.lock().sign_in)
    }

    /// Goes on with signing in there.
    pub(crate) fn put_sign_in(&self, sign_in: SignIn) {
        self.state.lock().sign_in = sign_in;
    }

    /// Whether its next frame is one of signing in, without a header.
    pub(crate) fn expects_bare(&self) -> bool {
        self.state.lock().sign_in.is_bare()
    }

    /// It has signed in.
    pub(crate) fn sign_in(&self, grant: Arc<Grant>) {
        self.state.lock().who = Who::SignedIn(grant);
    }

    /// It has failed to: the connection ends after the answer.
    pub(crate) fn refuse(&self) {
        self.state.lock().is_refused = true;
    }

    /// Whether the connection ends after the answer.
    pub(crate) fn is_refused(&self) -> bool {
        self.state.lock().is_refused
    }

    /// A request that has no answer has failed: no more are read, so that its client learns of it.
    pub(crate) fn fail(&self) {
        self.failed.notify_one();
    }

    /// Returns when one has.
    pub(crate) async fn failed(&self) {
        self.failed.notified().await;
    }

    /// Holds a share of the memory for answers, for the request that is being handled.
    pub(crate) fn hold_answer(&self, share: Option<OwnedSemaphorePermit>) {
        add(&self.answer, share);
    }

    /// Holds a share of the memory for requests, for the one that is being handled.
    pub(crate) fn hold_request(&self, share: Option<OwnedSemaphorePermit>) {
        add(&self.request, share);
    }

    /// How much of the memory for requests is held for it, in bytes.
    pub(crate) fn request_bytes(&self) -> usize {
        bytes_of(&self.request)
    }

    /// How much of the memory for answers is held for it, in bytes.
    pub(crate) fn answer_bytes(&self) -> usize {
        bytes_of(&self.answer)
    }

    /// What is held for the request.
    pub(crate) fn take_request(&self) -> Option<OwnedSemaphorePermit> {
        self.request.lock().take()
    }

    /// What is held for the answer.
    pub(crate) fn take_answer(&self) -> Option<OwnedSemaphorePermit> {
        self.answer.lock().take()
    }

    fn is_over(&self, access: &Access) -> bool {
        match &self.state.lock().who {
            Who::SignedIn(grant) => access.is_over(grant),
            Who::Anyone | Who::Nobody => false,
        }
    }

    /// Returns when what it was signed in with is over.
    pub(crate) async fn over(&self) {
        self.over.notified().await;
    }
}

fn bytes_of(held: &Mutex<Option<OwnedSemaphorePermit>>) -> usize {
    let held = held.lock();
    held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) * 1024
}

fn add(held: &Mutex<Option<OwnedSemaphorePermit>>, share: Option<OwnedSemaphorePermit>) {
    let Some(share) = share else { return };
    let mut held = held.lock();
    match held.as_mut() {
        Some(held) => held.merge(share),
        None => *held = Some(share),
    }
}

/// The open sessions, by the numbers of their connections.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<u64, Arc<Session>>>);

/// A session in [`Sessions`]; dropping it takes it out.
pub(crate) struct Open<'a> {
    sessions: &'a Sessions,
    connection: u64,
}

impl Sessions {
    /// Adds a session.
    pub(crate) fn open(&self, connection: u64, session: &Arc<Session>) -> Open<'_> {
        self.0.lock().insert(connection, Arc::clone(session));
        Open {
            sessions: self,
            connection,
        }
    }

    /// Ends those whose credentials are over.
    pub(crate) fn end(&self, access: &Access) {
        for session in self.0.lock().values() {
            if session.is_over(access) {
                session.over.notify_one();
            }
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.sessions.0.lock().remove(&self.connection);
    }
}
