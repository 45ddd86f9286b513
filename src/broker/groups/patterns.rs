//! Topic patterns of subscriptions: `orders.*` stands for all topics with one word after `orders.`.
//!
//! A pattern brings every topic that matches it, also topics that are made later. It never brings a dead-letter topic: one
//! whose name ends in `.dlq`, or that a group names as its `dead_letter_topic`. Nor does it bring a topic of the server's
//! own.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::offsets;
use super::shared::settings::GroupValue;
use crate::broker::engine::{Log, Topic};
use crate::broker::names::TOPIC;
use crate::broker::refusal::Refusal;
use crate::formats::pattern::Pattern;

const DEAD_LETTERS: &str = ".dlq";
const OWN: &str = "__";

/// Whether a subscribed name is a pattern. No topic's name has these characters.
pub fn is_pattern(name: &str) -> bool {
    name.contains(['*', '#'])
}

/// Checks a pattern: `*` and `#` are whole words, and the rest can be in a topic's name.
///
/// # Errors
/// [`InvalidRequest`](crate::broker::refusal::Reason::InvalidRequest) at `topics`.
pub fn check(text: &str) -> Result<(), Refusal> {
    let parsed = text.parse::<Pattern>();
    parsed.map_err(|error| Refusal::invalid("topics", error.to_string()))?;
    let checked = TOPIC.check(&text.replace(['*', '#'], "x"));
    checked.map_err(|refusal| refusal.at("topics"))
}

/// The topics that patterns may bring.
pub struct Candidates(Vec<Arc<Topic>>);

impl Candidates {
    /// All topics but the server's own and dead-letter topics.
    ///
    /// Cost: a walk over all topics and the settings of all groups.
    pub fn of(log: &Log) -> Self {
        Self::among(log, log.topics())
    }

    /// Those of some topics.
    pub fn among(log: &Log, topics: impl IntoIterator<Item = Arc<Topic>>) -> Self {
        let is_open = |topic: &Arc<Topic>| {
            let name = topic.name();
            !name.ends_with(DEAD_LETTERS) && !name.starts_with(OWN)
        };
        let mut topics: Vec<Arc<Topic>> = topics.into_iter().filter(is_open).collect();
        if !topics.is_empty() {
            let named = named_dead_letters(log);
            topics.retain(|topic| !named.contains(topic.name()));
        }
        Self(topics)
    }

    /// Leaves out the topic with this name.
    #[must_use]
    pub fn without(mut self, name: Option<&str>) -> Self {
        self.0.retain(|topic| Some(topic.name()) != name);
        self
    }

    /// Those that match a pattern.
    pub fn matching(&self, pattern: &Pattern) -> impl Iterator<Item = &Arc<Topic>> {
        let topics = self.0.iter();
        topics.filter(|topic| pattern.matches(topic.name().as_bytes()))
    }
}

/// The topics that groups name for their dead letters.
fn named_dead_letters(log: &Log) -> BTreeSet<String> {
    let groups = log.state_prefix(&offsets::groups_prefix());
    let values = groups
        .iter()
        .filter_map(|(_, value)| GroupValue::decode(value).ok());
    let named = values.filter_map(|value| value.dead_letter_topic().map(str::to_owned));
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_has_wildcards_as_whole_words_between_what_a_name_may_have() {
        for good in ["orders.*", "#", "*.a-b_c", "#.paid"] {
            assert!(is_pattern(good) && check(good).is_ok(), "{good}");
        }
        let long = format!("*.{}", "n".repeat(248));
        for bad in ["order*", "a.#b", "a b.*", "__x.*", "ü.#", &long] {
            assert_eq!(check(bad).unwrap_err().field.as_deref(), Some("topics"), "{bad}");
        }
        assert!(!is_pattern("orders"));
    }
}
