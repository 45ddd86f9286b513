//! What a cell does with consumers: members that fetch by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Core, Session};
use crate::broker::engine::{Log, TopicId};
use crate::broker::groups::consumers::regex::TopicRegex;
use crate::broker::groups::members::{Joining, Ms, Refused};
use crate::broker::groups::ordered::partitions::Ordered;
use crate::broker::groups::ordered::partitions::consumers::{Assignor, Terms};

/// Names that begin so are the server's own.
const OWN: &str = "__";

/// What a consumer wants to read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish {
    /// Topics by name, which need not exist.
    pub(crate) topics: BTreeSet<String>,
    /// All topics whose names match.
    pub(crate) regex: Option<Arc<TopicRegex>>,
}

/// What a heartbeat changes of a consumer; `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct News {
    pub(crate) topics: Option<BTreeSet<String>>,
    /// `Some(None)`: no expression any more.
    pub(crate) regex: Option<Option<Arc<TopicRegex>>>,
    pub(crate) assignor: Option<Assignor>,
    pub(crate) rebalance_timeout: Option<Ms>,
}

impl Session {
    /// Finds the topics of the names again: a consumer follows a name to a topic that is made later.
    pub(super) fn follow(&mut self, log: &Log) {
        let names = self.topics.iter().filter(|name| !name.starts_with(OWN));
        let found = names.map(|name| (name.clone(), log.topic(name).map(|topic| topic.id())));
        self.bound = found.collect();
    }

    fn wish(&mut self, wish: Wish) {
        self.is_consumer = true;
        self.topics = wish.topics;
        self.regex = wish.regex;
        self.bound.clear();
    }
}

impl Core {
    fn ordered_ref(&self) -> Option<&Ordered> {
        match &self.kind {
            super::Kind::Ordered(ordered) => Some(ordered),
            super::Kind::Shared(_) | super::Kind::Classic(_) => None,
        }
    }

    /// Refuses the calls of members that poll to those that fetch by themselves.
    ///
    /// # Errors
    /// [`Refused::Unknown`].
    pub(crate) fn check_polls(&self, member: &str) -> Result<(), Refused> {
        match self
            .ordered_ref()
            .is_some_and(|ordered| ordered.is_consumer(member))
        {
            true => Err(Refused::Unknown),
            false => Ok(()),
        }
    }

    /// Whether any member fetches by itself.
    pub(crate) fn has_consumers(&self) -> bool {
        self.ordered_ref().is_some_and(Ordered::has_consumers)
    }

    /// Adds a consumer; call [`Core::refresh`] next. If `replaced`, a static member that is away, its place becomes the new
    /// one's.
    pub(crate) fn join_consumer(
        &mut self,
        joining: Joining,
        wish: Wish,
        terms: Terms,
        replaced: Option<&str>,
        now: Ms,
    ) {
        let name = Arc::clone(&joining.member);
        if let Some(old) = replaced {
            self.members.leave(old);
            self.sessions.remove(old);
            if let Some((ordered, _)) = self.ordered() {
                ordered.pass_on(old, &name);
            }
        }
        self.join(joining, BTreeSet::new(), now);
        if let Some((ordered, _)) = self.ordered() {
            ordered.consume(&name, terms);
        }
        if let Some(session) = self.sessions.get_mut(&name) {
            session.wish(wish);
        }
    }

    /// Changes what a consumer says of itself; call [`Core::refresh`] next.
    pub(crate) fn change_consumer(&mut self, member: &str, news: News) {
        let mut changes = false;
        if let Some((ordered, _)) = self.ordered() {
            let changed = ordered.change_terms(member, news.assignor, news.rebalance_timeout);
            changes |= changed == Ok(true);
        }
        if let Some(session) = self.sessions.get_mut(member) {
            if let Some(topics) = news.topics.filter(|topics| session.topics != *topics) {
                session.topics = topics;
                changes = true;
            }
            if let Some(regex) = news.regex.filter(|regex| session.regex != *regex) {
                session.regex = regex;
                changes = true;
            }
        }
        if changes {
            self.topics_seen = 0;
        }
    }

    /// The expression that a member subscribes to.
    pub(crate) fn regex_of(&self, member: &str) -> Option<&Arc<TopicRegex>> {
        self.sessions.get(member)?.regex.as_ref()
    }

    /// The names that a member subscribes to.
    pub(crate) fn topics_of(&self, member: &str) -> impl Iterator<Item = &String> {
        let topics = self.sessions.get(member).map(|session| &session.topics);
        topics.into_iter().flatten()
    }

    /// The topics that each subscribed expression matches.
    pub(super) fn matched_by_regex(&self, log: &Log) -> BTreeMap<String, Vec<TopicId>> {
        let expressions = self
            .sessions
            .values()
            .filter_map(|session| session.regex.as_ref());
        let expressions: BTreeMap<&str, &Arc<TopicRegex>> =
            expressions.map(|regex| (regex.text(), regex)).collect();
        if expressions.is_empty() {
            return BTreeMap::new();
        }
        let mut topics = log.topics();
        topics.retain(|topic| !topic.name().starts_with(OWN));
        let matching = |(text, regex): (&str, &Arc<TopicRegex>)| {
            let found = topics.iter().filter(|topic| regex.matches(topic.name()));
            (text.to_owned(), found.map(|topic| topic.id()).collect())
        };
        expressions.into_iter().map(matching).collect()
    }
}
