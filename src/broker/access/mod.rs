//! Who may: from what somebody presents to a [`Grant`], and the tokens and principals behind it.
//!
//! [`Access`] is one for the whole server, whatever the wire. While it is off (the setting `auth` is `none`), everybody may
//! do everything, and a check costs one branch. When it is on, a wire asks it once a request who calls
//! ([`bearer`](Access::bearer), [`session`](Access::session), [`certificate`](Access::certificate)), and puts the answer into
//! the [`Caller`], which has the checks. All of that is in memory; only changes touch the log.
//!
//! - [`rights`](crate::broker::rights): what rules allow, what a grant is, what quotas count.
//! - [`secret`]: how secrets are made and kept. [`records`]: tokens and principals in the durable state.
//! - [`scram`]: signing in without sending the secret.
//! - [`tokens`], [`principals`]: their changes. [`sessions`]: those of browsers, in memory.
//! - [`again`]: a token that comes again. [`verify`]: the seam for JWTs. `failures`: sign-ins that fail, in the log and counted.
//!
//! A change is durable, and then in force, before it is answered; one runs at a time. A crash leaves it made or not made.
//!
//! Secrets are found by their digests, which are compared in constant time: what a stranger can learn by timing is about
//! digests of what he sends, and no secret follows from that. What a connection has presented last is compared in constant
//! time, too.

pub mod again;
mod failures;
pub mod principals;
pub mod records;
pub mod scram;
pub mod secret;
pub mod sessions;
pub mod tokens;
pub mod verify;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::RwLock;

use self::failures::Failures;
use self::records::{Match, Principal as Ruled, Token};
use self::secret::{Digest, digest};
use self::sessions::Sessions;
use self::verify::Verifier;
use super::audit;
use super::caller::Caller;
use super::engine::{AppendRequest, Clock, Log, Monotonic, StateChange, TimestampMs};
use super::refusal::{Reason, Refusal};
use super::rights::grant::{Certificate, Credential, Grant, Matched, Principal};
use super::rights::quota::{Limits, Quota};
use super::rights::{Rule, Rules};

/// The name of the first administrator, whose token is a setting.
pub const ADMIN: &str = "admin";
/// How long a JWT that was verified is not verified again.
const REMEMBERED: Duration = Duration::from_secs(60);
/// The most verified JWTs that are remembered.
const MAX_REMEMBERED: usize = 10_000;

/// Who may do what. Cheap to clone; clones share.
#[derive(Clone)]
pub struct Access(Arc<Parts>);

struct Parts {
    log: Log,
    clock: Arc<dyn Clock>,
    is_on: AtomicBool,
    /// Held during a change.
    changing: Arc<tokio::sync::Mutex<()>>,
    table: RwLock<Table>,
    sessions: Sessions,
    verifier: RwLock<Option<Arc<dyn Verifier>>>,
    failures: Failures,
    /// Makes up salts for names that nobody has. Durable, so that these do not change when real ones do not.
    decoy: [u8; 32],
}

/// Everything that is known, in memory.
#[derive(Default)]
struct Table {
    /// By the digest of a token's secret.
    grants: HashMap<Digest, Arc<Grant>>,
    admin: Option<Admin>,
    tokens: BTreeMap<String, Known<Token>>,
    principals: BTreeMap<String, Known<Ruled>>,
    /// How often the principals have changed.
    change: u64,
    /// JWTs that were verified, by their digests.
    verified: HashMap<Digest, (Arc<Grant>, Monotonic)>,
}

/// The first administrator. His token may be another token's secret too, and is his then: apart from the others, so that
/// neither ends the other.
struct Admin {
    digest: Digest,
    kept: Vec<secret::Kept>,
    grant: Arc<Grant>,
}

/// A token or a principal, with whose it is.
struct Known<T> {
    record: T,
    principal: Arc<Principal>,
}

/// A sign-in that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// What was presented is not valid here, or no longer.
    Wrong,
    /// It is valid, but no rules are for it.
    NoRules,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Wrong => Self::new(
                Reason::Unauthenticated,
                "the token is not valid here: it is wrong, revoked or expired",
            ),
            Failure::NoRules => Self::new(
                Reason::Forbidden,
                "no rules are for this identity: an administrator gives them with PUT /v1/principals/{name}",
            ),
        }
    }
}

impl Access {
    /// The tokens and principals of a log. It is off.
    pub fn new(log: Log, clock: Arc<dyn Clock>) -> Self {
        let mut table = Table::default();
        for (name, record) in records::tokens(&log) {
            table.put_token(&name, record);
        }
        for (name, record) in records::principals(&log) {
            table.put_principal(&name, record);
        }
        let decoy = records::decoy(&log).or_else(|| secret::random().ok());
        Self(Arc::new(Parts {
            log,
            clock,
            is_on: AtomicBool::new(false),
            changing: Arc::default(),
            table: RwLock::new(table),
            sessions: Sessions::default(),
            verifier: RwLock::default(),
            failures: Failures::default(),
            decoy: decoy.unwrap_or_default(),
        }))
    }

    /// From now on everybody has to sign in. Blocks if that has never been so.
    pub fn turn_on(&self) {
        let (log, decoy) = (&self.0.log, &self.0.decoy);
        if records::decoy(log).is_none()
            && let Err(error) = records::keep_decoy(log, decoy)
        {
            tracing::warn!(
                error = error.detail,
                "a client can tell after a restart which names no token has"
            );
        }
        self.0.is_on.store(true, Relaxed);
    }

    /// Whether everybody has to sign in.
    #[inline]
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_on.load(Relaxed)
    }

    /// Sets the token of the first administrator, or takes it away. Another one than before ends what the old one began.
    /// Takes some milliseconds of one core.
    pub fn set_admin_token(&self, token: Option<&str>) {
        let digest = token.map(|token| digest(token.as_bytes()));
        let current = || self.0.table.read().admin.as_ref().map(|admin| admin.digest);
        if current() == digest {
            return;
        }
        let kept = token.map(|token| self.kept(ADMIN, token));
        let mut table = self.0.table.write();
        if let Some(before) = table.admin.take() {
            before.grant.principal.end();
        }
        let rules = Rules::new(vec![Rule::admin()]);
        let principal = Principal::new(ADMIN, rules, Arc::default());
        table.admin = digest.map(|digest| Admin {
            digest,
            kept: kept.into_iter().collect(),
            grant: Grant::new(&principal, None),
        });
    }

    /// Sets who checks JWTs. Without one, no JWT is valid.
    pub fn set_verifier(&self, verifier: Arc<dyn Verifier>) {
        *self.0.verifier.write() = Some(verifier);
        self.0.table.write().verified.clear();
    }

    /// Whether anybody could sign in: with the first administrator's token, another token, a JWT, or, if
    /// `has_certificates`, a client's certificate.
    #[must_use]
    pub fn could_anybody_sign_in(&self, has_certificates: bool) -> bool {
        let now = self.0.clock.now();
        let has_jwt = self.0.verifier.read().is_some();
        let table = self.0.table.read();
        let mut principals = table.principals.values();
        table.admin.is_some()
            || table.grants.values().any(|grant| !grant.is_over(now))
            || principals.any(|known| match known.record.r#match {
                Match::Jwt(_) => has_jwt,
                Match::Cert(_) => has_certificates,
            })
    }

    /// What a bearer gives: a token's secret, or a JWT.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn bearer(&self, text: &str) -> Result<Arc<Grant>, Failure> {
        let digest = digest(text.as_bytes());
        if let Some(grant) = self.known(&digest) {
            return Ok(grant);
        }
        match text.bytes().filter(|byte| *byte == b'.').count() {
            2 => self.jwt(text, digest).await,
            _ => Err(Failure::Wrong),
        }
    }

    /// What a secret of this digest gives now.
    fn known(&self, digest: &Digest) -> Option<Arc<Grant>> {
        let table = self.0.table.read();
        let admin = table
            .admin
            .as_ref()
            .filter(|admin| secret::is_equal(&admin.digest, digest));
        let grant = match admin {
            Some(admin) => &admin.grant,
            None => {
                let (found, grant) = table.grants.get_key_value(digest)?;
                secret::is_equal(found, digest).then_some(grant)?
            }
        };
        (!grant.is_over(self.0.clock.now())).then(|| Arc::clone(grant))
    }

    /// What a JWT gives, and nothing else.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn json_web_token(&self, text: &str) -> Result<Arc<Grant>, Failure> {
        self.jwt(text, digest(text.as_bytes())).await
    }

    async fn jwt(&self, text: &str, digest: Digest) -> Result<Arc<Grant>, Failure> {
        let verifier = self.0.verifier.read().clone().ok_or(Failure::Wrong)?;
        let now = self.0.clock.now();
        let at = self.0.clock.monotonic();
        if let Some((grant, verified)) = self.0.table.read().verified.get(&digest)
            && at.since(*verified) < REMEMBERED
            && !grant.is_over(now)
        {
            return Ok(Arc::clone(grant));
        }
        let claims = verifier.verify(text, now).await.map_err(|reason| {
            tracing::debug!(reason, "a JWT is refused");
            Failure::Wrong
        })?;
        let mut table = self.0.table.write();
        let principal = table
            .principal_of_claims(&claims.claims)
            .cloned()
            .ok_or(Failure::NoRules)?;
        if table.verified.len() >= MAX_REMEMBERED {
            table.verified.clear();
        }
        let credential = Credential::Jwt(claims.claims, claims.key);
        let grant = Grant::matched(&principal, claims.expires, credential, table.change);
        if grant.is_over(now) {
            return Err(Failure::Wrong);
        }
        table.verified.insert(digest, (Arc::clone(&grant), at));
        Ok(grant)
    }

    /// What a client's certificate gives, which the listener has verified.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn certificate(&self, certificate: &Arc<Certificate>) -> Result<Arc<Grant>, Failure> {
        if certificate.expires <= self.now() {
            return Err(Failure::Wrong);
        }
        let table = self.0.table.read();
        let principal = table.principal_of_certificate(certificate);
        let principal = principal.ok_or(Failure::NoRules)?;
        let credential = Credential::Certificate(Arc::clone(certificate));
        let (expires, change) = (certificate.expires, table.change);
        Ok(Grant::matched(principal, expires, credential, change))
    }

    /// Whether requests with a grant end: it is over, or it is another principal's by now.
    #[must_use]
    pub fn is_over(&self, grant: &Grant) -> bool {
        grant.is_over(self.now()) || !self.is_still_its(grant)
    }

    /// Whether a credential still matches the principal that it matched when it signed in, and no other before that.
    fn is_still_its(&self, grant: &Grant) -> bool {
        let Some(Matched { credential, change }) = &grant.matched else {
            return true;
        };
        let table = self.0.table.read();
        if change.load(Relaxed) == table.change {
            return true;
        }
        let found = match credential {
            Credential::Jwt(claims, _) => table.principal_of_claims(claims),
            Credential::Certificate(certificate) => table.principal_of_certificate(certificate),
        };
        let is_it = found.is_some_and(|found| Arc::ptr_eq(found, &grant.principal));
        if is_it {
            change.store(table.change, Relaxed);
        }
        is_it
    }

    /// Whether JWTs can be valid.
    #[must_use]
    pub fn takes_json_web_tokens(&self) -> bool {
        self.0.verifier.read().is_some()
    }

    /// Counts a sign-in that failed at a listener, and writes a line, unless there were many just before.
    pub fn count_failure(&self, listener: &'static str, caller: &Caller, failure: Failure) {
        let now = self.0.clock.monotonic();
        self.0.failures.count(now, listener, caller, failure);
    }

    /// Writes a line for the failed sign-ins that got none of their own, if a while of many has ended. To be called often.
    pub fn tell_left_out(&self) {
        self.0.failures.tell_left_out(self.0.clock.monotonic());
    }

    /// How many sign-ins have failed since the start.
    #[must_use]
    pub fn failed_sign_ins(&self) -> u64 {
        self.0.failures.total()
    }

    fn now(&self) -> TimestampMs {
        self.0.clock.now()
    }

    /// Makes a change while no other runs, even if the caller goes away. `decide` says what to store, from what is known; it
    /// may block. `apply` puts it in force once it is durable. `what` is for the audit log: what is done, and to what.
    async fn change<D: Send + 'static, T: Send + 'static>(
        &self,
        caller: &Caller,
        what: (&'static str, String),
        decide: impl FnOnce(&Self) -> Result<(StateChange, D), Refusal> + Send + 'static,
        apply: impl FnOnce(&mut Table, D) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (access, caller, (action, resource)) = (self.clone(), caller.clone(), what);
        let task = tokio::spawn(async move {
            let _one_at_a_time = Arc::clone(&access.0.changing).lock_owned().await;
            let deciding = access.clone();
            let decided = tokio::task::spawn_blocking(move || decide(&deciding)).await;
            let (change, decided) = decided.unwrap_or_else(|_| Err(Refusal::stopping()))?;
            let log = &access.0.log;
            let entry = audit::entry(log, &caller, action, &resource, "");
            log.append(AppendRequest::of_state(vec![change, entry]))?.await?;
            let mut table = access.0.table.write();
            Ok(apply(&mut table, decided))
        });
        // The task is never aborted, so this fails only if it panics or the runtime ends.
        task.await.unwrap_or_else(|_| Err(Refusal::stopping()))
    }
}

impl Table {
    /// Puts a token in force, in place of the one of that name. The quota goes on unless its limits changed.
    fn put_token(&mut self, name: &str, record: Token) {
        let before = self.take_token(name);
        let quota = quota_of(before.as_ref().map(|known| &known.principal), record.quotas);
        let principal = Principal::new(name, Rules::new(record.rules.clone()), quota);
        for secret in &record.secrets {
            let expires = secret.expires.into_iter().chain(record.expires).min();
            if let Some(digest) = secret.digest() {
                let grant = Grant::new(&principal, expires.map(TimestampMs));
                self.grants.insert(digest, grant);
            }
        }
        let known = Known { record, principal };
        self.tokens.insert(name.to_owned(), known);
    }

    /// Puts a token's new secrets in force. What runs with a former one goes on until that ends.
    fn rotate_token(&mut self, name: &str, record: Token) {
        let Some(known) = self.tokens.get_mut(name) else {
            return;
        };
        for secret in &known.record.secrets {
            let Some(digest) = secret.digest() else { continue };
            let kept = record.secrets.iter().find(|kept| kept.sha256 == secret.sha256);
            // One that is gone is over whatever the clock says later.
            let ends = kept.map_or(0, |kept| kept.expires.unwrap_or(i64::MAX));
            if let Some(grant) = self.grants.get(&digest) {
                grant.end_at(TimestampMs(ends));
            }
            if kept.is_none() {
                self.grants.remove(&digest);
            }
        }
        let newest = record.secrets.first().and_then(secret::Kept::digest);
        if let Some(digest) = newest {
            let grant = Grant::new(&known.principal, record.expires.map(TimestampMs));
            self.grants.insert(digest, grant);
        }
        known.record = record;
    }

    /// Takes a token back: what runs with it ends.
    fn take_token(&mut self, name: &str) -> Option<Known<Token>> {
        let known = self.tokens.remove(name)?;
        known.principal.end();
        for digest in known.record.secrets.iter().filter_map(secret::Kept::digest) {
            self.grants.remove(&digest);
        }
        Some(known)
    }

    /// Puts a principal in force, in place of the one of that name.
    fn put_principal(&mut self, name: &str, record: Ruled) {
        let before = self.take_principal(name);
        let quota = quota_of(before.as_ref().map(|known| &known.principal), record.quotas);
        let principal = Principal::new(name, Rules::new(record.rules.clone()), quota);
        let known = Known { record, principal };
        self.principals.insert(name.to_owned(), known);
    }

    /// Takes a principal back. Other rules may be for its JWTs and certificates now, so all of them are matched again.
    fn take_principal(&mut self, name: &str) -> Option<Known<Ruled>> {
        self.verified.clear();
        self.change += 1;
        let known = self.principals.remove(name)?;
        known.principal.end();
        Some(known)
    }
}

/// What was used is not forgotten when something else changes.
fn quota_of(before: Option<&Arc<Principal>>, limits: Limits) -> Arc<Quota> {
    match before {
        Some(before) if before.quota.limits() == limits => Arc::clone(&before.quota),
        _ => Arc::new(Quota::new(limits)),
    }
}

#[cfg(test)]
mod testing {
    use std::path::Path;

    use super::tokens::NewToken;
    use super::*;
    use crate::broker::engine::Options;
    use crate::broker::engine::sim::{SimClock, SimDisk};

    /// Over a simulated disk.
    pub(super) fn access(clock: &Arc<SimClock>) -> Access {
        let options = Options {
            journal_file_bytes: 1 << 20,
            max_request_bytes: 256 << 10,
            ..Options::default()
        };
        let disk = Arc::new(SimDisk::new(1));
        let log = Log::open_with(disk, clock.clone(), Path::new("/data"), options).unwrap();
        Access::new(log, clock.clone())
    }

    /// A token that allows nothing.
    pub(super) fn token(name: &str) -> NewToken {
        NewToken {
            name: name.to_owned(),
            rules: Vec::new(),
            expires: None,
            quotas: Limits::default(),
        }
    }
}
