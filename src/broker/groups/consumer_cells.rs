//! What a cell does with consumers: members that fetch by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Core, Session};
use crate::broker::engine::{Log, TopicId};
use crate::broker::groups::consumers::regex::{MOST_COMPILED_BYTES, TopicRegex};
use crate::broker::groups::members::{Joining, Ms, Refused};
use crate::broker::groups::ordered::partitions::Ordered;
use crate::broker::groups::ordered::partitions::consumers::{Assignor, Terms};

/// The most expressions that the members of a group may subscribe to: each is held against the name of every topic.
pub(crate) const MAX_EXPRESSIONS: usize = 64;
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
        let mut topics = None;
        if let Some(old) = replaced {
            topics = self.members.get(old).map(|old| old.topics.clone());
            self.members.leave(old);
            self.sessions.remove(old);
            if let Some((ordered, _)) = self.ordered() {
                ordered.pass_on(old, &name);
            }
        }
        self.join(joining, BTreeSet::new(), now);
        // As of a member that joins again, until they are looked up.
        if let (Some(topics), Some(member)) = (topics, self.members.get_mut(&name)) {
            member.topics = topics;
        }
        if let Some((ordered, _)) = self.ordered() {
            ordered.consume(&name, terms);
        }
        if let Some(session) = self.sessions.get_mut(&name) {
            session.wish(wish);
        }
    }

    /// Whether a consumer says something else than what is known of it.
    pub(crate) fn says_other(&self, member: &str, news: &News) -> bool {
        let Some(session) = self.sessions.get(member) else {
            return false;
        };
        let assignor = self.ordered_ref().and_then(|ordered| ordered.assignor_of(member));
        news.topics
            .as_ref()
            .is_some_and(|topics| session.topics != *topics)
            || news.regex.as_ref().is_some_and(|regex| session.regex != *regex)
            || news.assignor.is_some() && news.assignor != assignor
    }

    /// Changes what a consumer says of itself; call [`Core::refresh`] next. If it says something else than before, its next
    /// answer has another epoch: a heartbeat from before that comes late changes nothing any more.
    pub(crate) fn change_consumer(&mut self, member: &str, news: News) {
        let changes = self.says_other(member, &news);
        if let Some((ordered, _)) = self.ordered() {
            ordered.change_terms(member, news.assignor, news.rebalance_timeout, changes);
        }
        if let Some(session) = self.sessions.get_mut(member) {
            if let Some(topics) = news.topics {
                session.topics = topics;
            }
            if let Some(regex) = news.regex {
                session.regex = regex;
            }
        }
        if changes {
            self.topics_seen = 0;
        }
    }

    /// Counts the memory of what the members subscribe to.
    pub(super) fn weigh(&mut self) {
        let names: usize = self.sessions.values().map(|session| session.bytes).sum();
        self.subscribed = names + self.expressions().len() * MOST_COMPILED_BYTES;
    }

    /// What the texts take that the members subscribe to, in bytes.
    pub(crate) fn text_bytes(&self) -> usize {
        let of_session = |session: &Session| {
            let regex = session.regex.as_ref();
            session.bytes + regex.map_or(0, |regex| regex.text().len())
        };
        self.sessions.values().map(of_session).sum()
    }

    /// The expressions that the members subscribe to, by their texts.
    fn expressions(&self) -> BTreeMap<&str, &Arc<TopicRegex>> {
        let expressions = self
            .sessions
            .values()
            .filter_map(|session| session.regex.as_ref());
        expressions.map(|regex| (regex.text(), regex)).collect()
    }

    /// An expression that a member subscribes to, by its text; that of `member` is looked at first.
    pub(crate) fn expression(&self, member: &str, text: &str) -> Option<&Arc<TopicRegex>> {
        let own = self.regex_of(member).filter(|regex| regex.text() == text);
        own.or_else(|| self.expressions().remove(text))
    }

    /// Whether the other members subscribe to as many expressions as they may, and not to this one.
    pub(crate) fn is_full_of_expressions(&self, member: &str, text: &str) -> bool {
        let others = self.sessions.iter().filter(|(name, _)| ***name != *member);
        let others: BTreeSet<&str> = others
            .filter_map(|(_, session)| Some(session.regex.as_ref()?.text()))
            .collect();
        others.len() >= MAX_EXPRESSIONS && !others.contains(text)
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
        let expressions = self.expressions();
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::broker::engine::sim::{SimClock, SimDisk};
    use crate::broker::engine::{Options, TimestampMs};
    use crate::broker::groups::classic::MAX_GROUP_MEMBERS;
    use crate::broker::groups::coordinator::Coordinator;

    #[test]
    fn a_group_has_a_bounded_number_of_members() {
        let now = TimestampMs(1_700_000_000_000);
        let (_topics, changes) = tokio::sync::watch::channel(1);
        let coordinator = Coordinator::new(1, now, changes, 0);
        let cell = coordinator.cell("g");
        let mut core = coordinator.lock(&cell, 0);
        for number in 0..MAX_GROUP_MEMBERS {
            let member: Arc<str> = format!("m{number}").into();
            assert!(!core.is_full_for(&member), "{number}");
            let joining = Joining {
                member,
                client_id: None,
                address: None,
                session_timeout: 1000,
                instance: None,
            };
            core.join(joining, BTreeSet::new(), 0);
        }
        assert!(core.is_full_for("another") && !core.is_full_for("m0"));
    }

    #[test]
    fn what_members_subscribe_to_is_counted_while_they_are_there() {
        let now = TimestampMs(1_700_000_000_000);
        let options = Options {
            journal_file_bytes: 4 << 20,
            journal_files: 2,
            max_request_bytes: 1 << 20,
            ..Options::default()
        };
        let (disk, clock) = (Arc::new(SimDisk::new(1)), Arc::new(SimClock::new(now)));
        let log = Log::open_with(disk, clock, Path::new("/data"), options).unwrap();
        let (_topics, changes) = tokio::sync::watch::channel(1);
        let coordinator = Coordinator::new(1, now, changes, 0);
        let cell = coordinator.cell("g");
        let counted = || coordinator.subscribed.load(Relaxed);
        let join = |member: &str, topics: usize, regex: &str| {
            let joining = Joining {
                member: member.into(),
                client_id: None,
                address: None,
                session_timeout: 1000,
                instance: None,
            };
            let wish = Wish {
                topics: (0..topics).map(|number| format!("{number:0200}")).collect(),
                regex: Some(Arc::new(TopicRegex::new(regex).unwrap())),
            };
            let mut core = coordinator.lock(&cell, 0);
            core.join_consumer(joining, wish, Terms::default(), None, 0);
            core.refresh("g", &log, coordinator.change());
        };
        join("a", 100, "x.*");
        let first = counted();
        assert!(first > 100 * 200 + MOST_COMPILED_BYTES, "{first}");
        // Those who say the same have one expression.
        join("b", 0, "x.*");
        assert_eq!(counted(), first);
        join("b", 0, "y.*");
        assert_eq!(counted(), first + MOST_COMPILED_BYTES);
        coordinator.lock(&cell, 0).leave("a");
        assert_eq!(counted(), MOST_COMPILED_BYTES);
        coordinator.lock(&cell, 0).leave("b");
        assert_eq!(counted(), 0);
    }
}
