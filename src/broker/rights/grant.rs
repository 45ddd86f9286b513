//! What somebody who has signed in carries along: whose it is, what it allows, and until when.
//!
//! A [`Grant`] belongs to one credential: a secret of a token, a JWT, a certificate. Requests keep it for as long as they run,
//! so a check needs no look-up. When a principal is revoked or changed, its [`Principal`] is marked as over, and a new one
//! takes its place: whoever still works with the old one asks [`Grant::is_over`] from time to time, and ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

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
    expires: AtomicI64,
}

impl Grant {
    /// What a credential of `principal` gives until `expires`.
    pub fn new(principal: &Arc<Principal>, expires: Option<TimestampMs>) -> Arc<Self> {
        Arc::new(Self {
            principal: Arc::clone(principal),
            expires: AtomicI64::new(expires.map_or(i64::MAX, TimestampMs::get)),
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
        self.principal.is_over.load(Relaxed) || self.expires.load(Relaxed) <= now.get()
    }
}
