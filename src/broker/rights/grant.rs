//! What somebody who has signed in carries along: whose it is, what it allows, and until when.
//!
//! A [`Grant`] belongs to one credential: a secret of a token, a JWT, a certificate. Requests keep it for as long as they run,
//! so a check needs no look-up. When a principal is revoked or changed, its [`Principal`] is marked as over, and a new one
//! takes its place: whoever still works with the old one asks from time to time whether it is over, and ends.
//!
//! The rules of a JWT and of a certificate are those of the principal that it matches. Other principals may come, so a grant
//! keeps what was matched.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

use serde_json::{Map, Value};

use super::Rules;
use super::quota::Quota;
use crate::broker::engine::TimestampMs;

/// A name with its rules.
#[derive(Debug)]
pub struct Principal {
    /// The name: of a token, of the rules for JWTs and certificates, or `admin`.
    pub name: Arc<str>,
    /// What it may do.
    pub rules: Rules,
    /// What it may use, over all its connections.
    pub quota: Arc<Quota>,
    is_over: AtomicBool,
}

impl Principal {
    /// A principal that is valid from now on.
    pub fn new(name: impl Into<Arc<str>>, rules: Rules, quota: Arc<Quota>) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            rules,
            quota,
            is_over: AtomicBool::new(false),
        })
    }

    /// It was revoked or changed: what still runs for it ends.
    pub fn end(&self) {
        self.is_over.store(true, Relaxed);
    }
}

/// What a credential gives.
#[derive(Debug)]
pub struct Grant {
    /// Whose it is.
    pub principal: Arc<Principal>,
    /// When it ends; the largest number: never.
    expires: Arc<AtomicI64>,
    /// What was matched with the principals; `None`: a token, which has its own rules.
    pub(in crate::broker) matched: Option<Matched>,
}

/// What a client's certificate says, which the listener has verified.
#[derive(Clone, Debug, Default)]
pub struct Certificate {
    /// Its subject (RFC 4514).
    pub subject: String,
    /// Its alternative names: of hosts, mail addresses, URIs, IP addresses, as text.
    pub names: Vec<String>,
    /// When it ends.
    pub expires: TimestampMs,
}

impl Certificate {
    /// Whether it has this subject or alternative name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.subject == name || self.names.iter().any(|own| own == name)
    }
}

/// A credential that has no rules of its own.
#[derive(Debug)]
pub(in crate::broker) struct Matched {
    pub(in crate::broker) credential: Credential,
    /// The number of the change of principals after which it was last matched.
    pub(in crate::broker) change: AtomicU64,
}

/// What principals are matched with.
#[derive(Debug)]
pub(in crate::broker) enum Credential {
    /// The claims of a JWT, and the key that has signed it.
    Jwt(Map<String, Value>, Arc<SigningKey>),
    /// A client's certificate.
    Certificate(Arc<Certificate>),
}

/// A key of the issuer of JWTs: what it has signed ends when it is withdrawn.
#[derive(Debug, Default)]
pub struct SigningKey {
    is_withdrawn: AtomicBool,
}

impl SigningKey {
    /// The issuer's keys are without it by now.
    pub fn withdraw(&self) {
        self.is_withdrawn.store(true, Relaxed);
    }

    /// Whether the issuer has withdrawn it.
    #[must_use]
    pub fn is_withdrawn(&self) -> bool {
        self.is_withdrawn.load(Relaxed)
    }
}

impl Grant {
    /// What a secret of the token `principal` gives until `expires`.
    pub fn new(principal: &Arc<Principal>, expires: Option<TimestampMs>) -> Arc<Self> {
        Self::of(principal, expires, None)
    }

    /// What a credential gives that was matched with the principals after so many changes of them.
    pub(in crate::broker) fn matched(
        principal: &Arc<Principal>,
        expires: TimestampMs,
        credential: Credential,
        change: u64,
    ) -> Arc<Self> {
        let change = AtomicU64::new(change);
        Self::of(principal, Some(expires), Some(Matched { credential, change }))
    }

    fn of(principal: &Arc<Principal>, expires: Option<TimestampMs>, matched: Option<Matched>) -> Arc<Self> {
        Arc::new(Self {
            principal: Arc::clone(principal),
            expires: Arc::new(AtomicI64::new(expires.map_or(i64::MAX, TimestampMs::get))),
            matched,
        })
    }

    /// The same for a connection alone: its requests count references to that, and not to one that all connections of a
    /// token share, which would pass from core to core with every request. `None`: it was matched, not looked up.
    pub(in crate::broker) fn apart(&self) -> Option<Arc<Self>> {
        self.matched.is_none().then(|| {
            Arc::new(Self {
                principal: Arc::clone(&self.principal),
                expires: Arc::clone(&self.expires),
                matched: None,
            })
        })
    }

    /// When it ends; `None`: never.
    pub fn expires(&self) -> Option<TimestampMs> {
        let expires = self.expires.load(Relaxed);
        (expires < i64::MAX).then_some(TimestampMs(expires))
    }

    /// This credential ends then, or before; its principal goes on.
    pub fn end_at(&self, at: TimestampMs) {
        self.expires.fetch_min(at.get(), Relaxed);
    }

    /// Whether it has expired, or was revoked or changed. Requests with it end.
    pub fn is_over(&self, now: TimestampMs) -> bool {
        let is_withdrawn = || match self.matched.as_ref().map(|matched| &matched.credential) {
            Some(Credential::Jwt(_, key)) => key.is_withdrawn(),
            Some(Credential::Certificate(_)) | None => false,
        };
        self.principal.is_over.load(Relaxed) || self.expires.load(Relaxed) <= now.get() || is_withdrawn()
    }
}
