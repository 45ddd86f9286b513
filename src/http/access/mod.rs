//! The door of the HTTP API: who calls, and whether that may be.
//!
//! [`ROUTES`](super::needs::ROUTES) has every route with what it needs, and nothing else decides that. [`Door::enter`] looks at a request before its
//! handler and its body: it finds out who calls, checks the right on what the path names, and the quotas. What only the query or
//! the body names is checked by the handlers and the broker, with the [`Caller`] that the door has completed.
//!
//! A route that is documented and not listed needs an administrator, and a test fails until it is listed. A refusal is the
//! same whether what the path names exists or not. Tokens are never read from URLs.

pub(super) mod principals;
pub(super) mod session;
pub(super) mod tokens;

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::browsers;
use super::needs::{Need, need_of};
use super::openapi::{self, shapes};
use super::params::values_of;
use super::problem::Problem;
use crate::broker::access::Failure;
use crate::broker::access::again::Again;
use crate::broker::caller::{Caller, Who};
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::rights::Rule;
use crate::broker::rights::grant::Grant;
use crate::broker::rights::quota::{Limits, Quota};
use crate::http::app::App;
use crate::metrics::{Requests, Slot};

use Need::{Admin, ByContent, Group, Open, SeesAll, SignedIn, Topic, Valid};

/// What this listener is called in the log.
const LISTENER: &str = "http";
/// The cookie that has a session's id.
pub(super) const COOKIE: &str = "quipu_session";

fn kind_of(method: &str, path: &str) -> Kind {
    match (method, path.strip_prefix("/v1/groups/{group}/")) {
        ("POST", Some("members/{member}/poll")) => Kind::Poll,
        ("POST" | "DELETE", Some(rest)) if rest.starts_with("members/{member}") => Kind::Acknowledgement,
        ("PUT", Some("offsets")) => Kind::Acknowledgement,
        _ => Kind::Other,
    }
}

/// A route as the door sees it.
struct Entry {
    need: Need,
    /// Which segment of the path names the topic or the group.
    named: usize,
    kind: Kind,
}

/// What a quota does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A poll is never refused, since it acknowledges; its answer is slowed.
    Poll,
    /// Acknowledgements, settles and heartbeats are counted, and neither refused nor slowed: what they acknowledge would
    /// come again.
    Acknowledgement,
    /// Refused while the quota is used up; uploads and streams are slowed.
    Other,
}

/// Checks every request before its handler.
pub(crate) struct Door {
    app: App,
    /// By the slot of the route.
    entries: Box<[Entry]>,
}

/// A request that a quota counts until this is dropped.
pub(crate) struct InFlight {
    pub(crate) quota: Arc<Quota>,
    pub(crate) kind: Kind,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.quota.end();
    }
}

impl Door {
    /// The door to the routes that `requests` has rows for.
    pub(crate) fn new(app: &App, requests: &Requests) -> Self {
        let documented = openapi::operations();
        let entry = |slot: usize| {
            let (path, method) = requests.labels(Slot(slot));
            let is_documented = || {
                let mut all = documented.iter();
                all.any(|(known, at)| known == method && at == path)
            };
            let need = match need_of(method, path) {
                Some(need) => need,
                // It tells a page what it may ask, and does nothing.
                None if method == "OPTIONS" => Open,
                None if is_documented() => Admin,
                // The router has an answer to that: 404 or 405.
                None => SignedIn,
            };
            let is_named = |segment: &str| segment == "{topic}" || segment == "{group}";
            Entry {
                need,
                named: path.split('/').position(is_named).unwrap_or(0),
                kind: kind_of(method, path),
            }
        };
        Self {
            app: app.clone(),
            entries: (0..requests.len()).map(entry).collect(),
        }
    }

    /// Finds out who calls, completes the caller, and checks what it may; only while everybody has to sign in. A request that
    /// a quota counts comes with its count.
    ///
    /// # Errors
    /// 401, 403, 429. The request must not be routed then.
    pub(crate) async fn enter(
        &self,
        slot: Slot,
        (path, headers): (&str, &HeaderMap),
        caller: &mut Caller,
        again: &Again,
    ) -> Result<Option<InFlight>, Problem> {
        let entry = &self.entries[slot.0];
        caller.who = match self.sign_in(headers, caller, again).await {
            Ok(Some(grant)) => Who::SignedIn(grant),
            Ok(None) => Who::Nobody,
            Err(_) if entry.need == Open => Who::Nobody,
            Err(failure) => {
                self.app.access.count_failure(LISTENER, caller, failure);
                return Err(Refusal::from(failure).into());
            }
        };
        self.check(entry, path, caller)?;
        if entry.need == Open {
            // Strangers get that too, and whoever has used up a quota may still sign out.
            return Ok(None);
        }
        let Some(grant) = caller.grant().filter(|grant| grant.principal.quota.is_limited()) else {
            return Ok(None);
        };
        let quota = &grant.principal.quota;
        let begun = quota.begin(self.app.clock.monotonic(), entry.kind != Kind::Other);
        begun.map_err(|exceeded| {
            let detail = format!("{} of {} is used up for now", exceeded.what, grant.principal.name);
            let mut refusal = Refusal::new(Reason::QuotaExceeded, detail).with("quota", exceeded.what);
            // Whole seconds, and not too early.
            let seconds = exceeded.retry_after.as_millis().div_ceil(1000).max(1);
            refusal.retry_after = Some(std::time::Duration::from_secs(seconds as u64));
            refusal
        })?;
        Ok(Some(InFlight {
            quota: Arc::clone(quota),
            kind: entry.kind,
        }))
    }

    fn check(&self, entry: &Entry, path: &str, caller: &Caller) -> Result<(), Refusal> {
        match entry.need {
            Open | Valid => Ok(()),
            SignedIn | ByContent => caller.check_signed_in(),
            Topic(right) => caller.check_topic(right, &segment(path, entry.named)),
            Group(rights) => caller.check_group(rights, &segment(path, entry.named)),
            SeesAll => caller.check_sees_all(),
            Admin => caller.check_admin(),
        }
    }

    /// Who presents what: a bearer token or JWT, else a session's cookie, else a certificate. `None`: nothing.
    async fn sign_in(
        &self,
        headers: &HeaderMap,
        caller: &Caller,
        again: &Again,
    ) -> Result<Option<Arc<Grant>>, Failure> {
        let access = &self.app.access;
        let mut given = values_of(headers, &header::AUTHORIZATION);
        if let Some(first) = given.next() {
            if given.next().is_some() {
                return Err(Failure::Wrong);
            }
            if let Some(grant) = again.grant(first.as_bytes(), self.app.clock.now()) {
                return Ok(Some(grant));
            }
            let bearer = first.to_str().ok().and_then(bearer);
            let grant = access.bearer(bearer.ok_or(Failure::Wrong)?).await?;
            return Ok(Some(again.keep(first.as_bytes(), grant)));
        }
        // What a browser sends by itself counts only for trusted pages: a page of another origin could read what it was not
        // meant to, in the name of who has signed in.
        if !browsers::is_trusted_page(&self.app.config, headers) {
            return Ok(None);
        }
        for id in sessions(headers) {
            if let Ok(grant) = access.session(id).await {
                return Ok(Some(grant));
            }
        }
        match &caller.certificate {
            Some(certificate) => access.certificate(certificate).map(Some),
            None => Ok(None),
        }
    }
}

/// The token of `Bearer TOKEN`.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The ids of sessions in the request's cookies. Another server on this host may have set one of the same name.
fn sessions(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let cookies = headers.get_all(header::COOKIE).iter();
    let pairs = cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(';'));
    let ids = pairs.filter_map(|pair| pair.trim().split_once('=').filter(|(name, _)| *name == COOKIE));
    ids.map(|(_, id)| id).take(4)
}

/// A segment of a path, decoded as the router does it.
fn segment(path: &str, index: usize) -> Cow<'_, str> {
    let raw = path.as_bytes().split(|byte| *byte == b'/').nth(index);
    percent_encoding::percent_decode(raw.unwrap_or_default()).decode_utf8_lossy()
}

/// A rule of what a token or principal may do.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Rule)]
pub(super) struct RuleBody {
    /// `read`, `write`, `create`, `delete`, `configure`, `describe`; or `admin` alone, for everything.
    #[schema(min_items = 1)]
    allow: Vec<String>,
    /// Names of topics, in which `*` stands for any characters; none: no topic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<shapes::NamePattern>)]
    topics: Vec<String>,
    /// Names of groups, in which `*` stands for any characters; none: no group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<shapes::NamePattern>)]
    groups: Vec<String>,
}

impl From<RuleBody> for Rule {
    fn from(body: RuleBody) -> Self {
        Self {
            allow: body.allow,
            topics: body.topics,
            groups: body.groups,
        }
    }
}

impl From<&Rule> for RuleBody {
    fn from(rule: &Rule) -> Self {
        Self {
            allow: rule.allow.clone(),
            topics: rule.topics.clone(),
            groups: rule.groups.clone(),
        }
    }
}

fn rules_of(bodies: Vec<RuleBody>) -> Vec<Rule> {
    bodies.into_iter().map(Rule::from).collect()
}

fn bodies_of(rules: &[Rule]) -> Vec<RuleBody> {
    rules.iter().map(RuleBody::from).collect()
}

/// What a principal may use over all its connections; what is left out or null has no limit.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Quotas)]
pub(super) struct QuotasBody {
    /// Bytes a second, of bodies in both directions. A large request runs into debt; streams are slowed.
    #[serde(default)]
    #[schema(minimum = 1)]
    bytes_per_second: Option<u64>,
    /// Requests a second, with a burst of one second's worth.
    #[serde(default)]
    #[schema(minimum = 1)]
    requests_per_second: Option<u64>,
    /// Requests in flight.
    #[serde(default)]
    #[schema(minimum = 1)]
    connections: Option<u64>,
}

impl From<QuotasBody> for Limits {
    fn from(body: QuotasBody) -> Self {
        Self {
            bytes_per_second: body.bytes_per_second,
            requests_per_second: body.requests_per_second,
            connections: body.connections,
        }
    }
}

impl From<Limits> for QuotasBody {
    fn from(limits: Limits) -> Self {
        Self {
            bytes_per_second: limits.bytes_per_second,
            requests_per_second: limits.requests_per_second,
            connections: limits.connections,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_route_is_listed() {
        for (method, path) in openapi::operations() {
            assert!(
                need_of(&method, &path).is_some(),
                "list {method} {path} in http/needs"
            );
        }
    }

    #[test]
    fn only_a_whole_bearer_token_is_one() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        for wrong in ["Bearer", "Bearer ", "Basic abc", "abc", "", "Bearer\tabc"] {
            assert_eq!(bearer(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_session_is_found_among_other_cookies() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, "a=b; quipu_session=one;c=d".parse().unwrap());
        headers.append(
            header::COOKIE,
            "xquipu_session=no; quipu_session=two".parse().unwrap(),
        );
        assert_eq!(sessions(&headers).collect::<Vec<_>>(), ["one", "two"]);
    }

    #[test]
    fn names_in_paths_are_decoded_before_they_are_checked() {
        assert_eq!(segment("/v1/topics/ord%65rs/records", 3), "orders");
        assert_eq!(segment("/v1/topics/a%2Fb", 3), "a/b");
        assert_eq!(segment("/v1", 3), "");
    }
}
