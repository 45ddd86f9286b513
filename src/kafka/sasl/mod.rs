//! APIs 17 and 36: clients sign in with SASL.
//!
//! A client names a [`Mechanism`] and then sends its messages, in requests of API 36, or, after version 0 of API 17, in
//! frames without a header. It may sign in again before what it has signed in with expires (KIP-368), in the same name. A
//! failure ends the connection after its answer.
//!
//! - PLAIN sends a token: only where nobody can overhear it.
//! - SCRAM-SHA-256 and -512 prove that the client has a token: [`scram`].
//! - OAUTHBEARER sends a JWT: [`oauth`].
//!
//! What is presented is checked by [`access`](crate::broker::access). The name is that of the token.

mod credentials;
mod oauth;
mod plain;
mod scram;

use std::sync::Arc;

use bytes::Bytes;

pub(crate) use credentials::{alter_scram_credentials, describe_scram_credentials};

use super::call::{Call, Hangup};
use super::errors::ErrorCode;
use super::messages::sasl::{
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use crate::broker::access::scram::Hash;
use crate::broker::access::{Access, Failure};
use crate::broker::refusal::Refusal;
use crate::broker::rights::grant::Grant;

/// What this listener is called in the log.
const LISTENER: &str = "kafka";

/// How a client signs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mechanism {
    Plain,
    Scram(Hash),
    OauthBearer,
}

impl Mechanism {
    const ALL: [(&'static str, Self); 4] = [
        ("SCRAM-SHA-256", Self::Scram(Hash::Sha256)),
        ("SCRAM-SHA-512", Self::Scram(Hash::Sha512)),
        ("PLAIN", Self::Plain),
        ("OAUTHBEARER", Self::OauthBearer),
    ];

    /// Those that a client may use.
    fn offered(call: &Call) -> impl Iterator<Item = (&'static str, Self)> {
        let is_private = call.session.is_private;
        let takes_jwts = call.broker.access.takes_json_web_tokens();
        Self::ALL
            .into_iter()
            .filter(move |(_, mechanism)| match mechanism {
                Self::Plain => is_private,
                Self::OauthBearer => takes_jwts,
                Self::Scram(_) => true,
            })
    }
}

/// How far a client is in signing in.
#[derive(Debug, Default)]
pub(crate) struct SignIn {
    /// The mechanism that it has signed in with.
    done: Option<Mechanism>,
    /// What its next message is, and of which mechanism.
    next: Option<(Mechanism, Next)>,
    /// Its messages have no header.
    is_bare: bool,
}

impl SignIn {
    /// Whether the client's next frame has no header.
    pub(crate) fn is_bare(&self) -> bool {
        self.is_bare && self.next.is_some()
    }
}

/// What a message of a client is.
#[derive(Debug)]
enum Next {
    Plain,
    ScramFirst(Hash),
    ScramFinal(Box<scram::Asked>),
    OauthBearer,
}

impl Next {
    fn first(mechanism: Mechanism) -> Self {
        match mechanism {
            Mechanism::Plain => Self::Plain,
            Mechanism::Scram(hash) => Self::ScramFirst(hash),
            Mechanism::OauthBearer => Self::OauthBearer,
        }
    }
}

/// The answer to a message.
enum Step {
    /// More is needed.
    Go(Vec<u8>, Next),
    /// The client has signed in.
    Done(Vec<u8>, Arc<Grant>),
}

/// Answers one message.
async fn step(access: &Access, next: Next, message: &[u8]) -> Result<Step, Failure> {
    let text = std::str::from_utf8(message).map_err(|_| Failure::Wrong)?;
    match next {
        Next::Plain => {
            let (name, token) = plain::read(text).ok_or(Failure::Wrong)?;
            let grant = access.bearer(token).await?;
            match *grant.principal.name == *name {
                true => Ok(Step::Done(Vec::new(), grant)),
                false => Err(Failure::Wrong),
            }
        }
        Next::ScramFirst(hash) => {
            let (answer, asked) = scram::first(access, hash, text)?;
            Ok(Step::Go(answer, Next::ScramFinal(Box::new(asked))))
        }
        Next::ScramFinal(asked) => {
            let (answer, grant) = scram::last(access, &asked, text)?;
            Ok(Step::Done(answer, grant))
        }
        Next::OauthBearer => {
            let (name, token) = oauth::read(text).ok_or(Failure::Wrong)?;
            let grant = access.json_web_token(token).await?;
            match name.is_none_or(|name| *grant.principal.name == *name) {
                true => Ok(Step::Done(Vec::new(), grant)),
                false => Err(Failure::Wrong),
            }
        }
    }
}

/// Takes the mechanism that a client wants to sign in with.
pub(crate) async fn handshake(
    call: &Call,
    request: SaslHandshakeRequest,
) -> Result<SaslHandshakeResponse, Hangup> {
    let session = &call.session;
    let done = session.take_sign_in().done;
    // Nobody has to sign in; or it has, and does it again in a form that cannot be told from requests.
    if !call.broker.access.is_on() || done.is_some() && call.version == 0 {
        session.put_sign_in(SignIn {
            done,
            ..SignIn::default()
        });
        return Ok(SaslHandshakeResponse {
            error_code: call.failed(ErrorCode::IllegalSaslState),
            mechanisms: Vec::new(),
        });
    }
    let mechanisms = Mechanism::offered(call).map(|(name, _)| name.into()).collect();
    let mut offered = Mechanism::offered(call);
    // Whoever signs in again does it in the same way.
    let wanted = offered
        .find(|(name, wanted)| **name == *request.mechanism && done.is_none_or(|done| done == *wanted));
    let Some((_, mechanism)) = wanted else {
        session.refuse();
        return Ok(SaslHandshakeResponse {
            error_code: call.failed(ErrorCode::UnsupportedSaslMechanism),
            mechanisms,
        });
    };
    session.put_sign_in(SignIn {
        done,
        next: Some((mechanism, Next::first(mechanism))),
        is_bare: call.version == 0,
    });
    Ok(SaslHandshakeResponse {
        error_code: 0,
        mechanisms,
    })
}

/// Takes a message of the mechanism.
pub(crate) async fn authenticate(
    call: &Call,
    request: SaslAuthenticateRequest,
) -> Result<SaslAuthenticateResponse, Hangup> {
    let sign_in = call.session.take_sign_in();
    if sign_in.next.is_none() {
        let is_nobody = call.session.is_nobody();
        call.session.put_sign_in(sign_in);
        // As in Kafka: nothing is answered before a mechanism is named.
        if is_nobody {
            return Err(Hangup::NotSignedIn);
        }
        return Ok(SaslAuthenticateResponse {
            error_code: call.failed(ErrorCode::IllegalSaslState),
            error_message: Some("no mechanism was named before, or nobody has to sign in".into()),
            ..SaslAuthenticateResponse::default()
        });
    }
    Ok(match go_on(call, sign_in, &request.auth_bytes).await {
        Ok((auth_bytes, session_lifetime_ms)) => SaslAuthenticateResponse {
            auth_bytes: auth_bytes.into(),
            session_lifetime_ms,
            ..SaslAuthenticateResponse::default()
        },
        Err(failure) => SaslAuthenticateResponse {
            error_code: call.failed(ErrorCode::SaslAuthenticationFailed),
            error_message: Some(Refusal::from(failure).detail.into()),
            ..SaslAuthenticateResponse::default()
        },
    })
}

/// Takes a message without a header; the answer has none either, and a failure has no answer.
pub(crate) async fn bare(call: &Call, message: &[u8]) -> Result<Bytes, Hangup> {
    let sign_in = call.session.take_sign_in();
    let answered = go_on(call, sign_in, message).await;
    answered
        .map(|(answer, _)| answer.into())
        .map_err(|_| Hangup::NotSignedIn)
}

/// Answers a message; at the end with how long the session lasts, in milliseconds, 0 for ever.
async fn go_on(call: &Call, mut sign_in: SignIn, message: &[u8]) -> Result<(Vec<u8>, i64), Failure> {
    let (session, access) = (&call.session, &call.broker.access);
    let answered = match sign_in.next.take() {
        Some((mechanism, next)) => step(access, next, message).await.map(|step| (mechanism, step)),
        None => Err(Failure::Wrong),
    };
    let before = call.caller.principal().filter(|_| sign_in.done.is_some());
    let answered = answered.and_then(|(mechanism, step)| match (&step, before) {
        // Whoever signs in again is the same.
        (Step::Done(_, grant), Some(before)) if grant.principal.name != *before => Err(Failure::Wrong),
        _ => Ok((mechanism, step)),
    });
    match answered {
        Ok((mechanism, Step::Go(answer, next))) => {
            sign_in.next = Some((mechanism, next));
            session.put_sign_in(sign_in);
            Ok((answer, 0))
        }
        Ok((mechanism, Step::Done(answer, grant))) => {
            let now = call.broker.clock.now().get();
            let lasts = grant
                .expires()
                .map(|expires| expires.get().saturating_sub(now).max(1));
            sign_in.done = Some(mechanism);
            session.put_sign_in(sign_in);
            session.sign_in(grant);
            Ok((answer, lasts.unwrap_or(0)))
        }
        Err(failure) => {
            session.refuse();
            access.count_failure(LISTENER, &call.caller, failure);
            Err(failure)
        }
    }
}
