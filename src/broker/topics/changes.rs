//! What a client asks a topic to become: its partitions, its configuration, and words that are only kept.
//!
//! A kept word is a setting that clients of Kafka's protocol rely on to be remembered, although this version does not act
//! on it: there is no compaction, so whatever bounds compaction holds. One of them has two consequences: a topic that is to
//! be compacted, and not deleted from, keeps all of its records, whatever its retention says; and clients of Kafka's
//! protocol must give each record for a topic that is to be compacted a key, as there. Words are stored as
//! properties of the topic, and no wire but Kafka's shows them.

use std::fmt::Write as _;

use serde_json::Value;

use crate::broker::refusal::Refusal;

/// Whether old records are deleted, compacted, or both.
pub const CLEANUP_POLICY: &str = "cleanup_policy";
/// How long a deletion of a key is kept at least, in milliseconds.
pub const DELETE_RETENTION_MS: &str = "delete_retention_ms";
/// How old a record is at least when it is compacted, in milliseconds.
pub const MIN_COMPACTION_LAG_MS: &str = "min_compaction_lag_ms";
/// Which share of a partition is not compacted at least when compaction begins.
pub const MIN_CLEANABLE_DIRTY_RATIO: &str = "min_cleanable_dirty_ratio";

/// The words of a cleanup policy.
const DELETE: &str = "delete";
const COMPACT: &str = "compact";

/// What a topic is to become; what is not given stays, or has its default in a new topic.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// How many partitions it has then.
    pub partitions: Option<u32>,
    /// Changes of configuration keys; null restores a default.
    pub config: Vec<(String, Value)>,
    /// Words to keep, by the names above; `None` forgets one.
    pub kept: Vec<(&'static str, Option<String>)>,
}

impl Changes {
    /// Changes without words.
    #[must_use]
    pub fn of(partitions: Option<u32>, config: &[(String, Value)]) -> Self {
        Self {
            partitions,
            config: config.to_vec(),
            kept: Vec::new(),
        }
    }

    /// Refuses a word that the kept setting cannot be.
    ///
    /// # Errors
    /// [`Reason::InvalidRequest`](crate::broker::refusal::Reason::InvalidRequest), with a pointer below `/config`.
    pub(super) fn check_kept(&self) -> Result<(), Refusal> {
        for (name, word) in &self.kept {
            let Some(word) = word else { continue };
            let is_valid = match *name {
                CLEANUP_POLICY => is_policy(word),
                DELETE_RETENTION_MS | MIN_COMPACTION_LAG_MS => word.parse::<i64>().is_ok_and(|ms| ms >= 0),
                MIN_CLEANABLE_DIRTY_RATIO => word
                    .parse::<f64>()
                    .is_ok_and(|ratio| (0.0..=1.0).contains(&ratio)),
                _ => false,
            };
            if !is_valid {
                let shown: String = word.chars().take(250).collect();
                let detail = format!("{shown:?} is no value of {name}");
                return Err(Refusal::invalid(format!("/config/{name}"), detail));
            }
        }
        Ok(())
    }

    /// The settings of the request, as an entry of the audit log shows them.
    pub(super) fn listed(&self) -> String {
        let mut text = String::new();
        for (key, value) in &self.config {
            let _ = write!(text, ", {key} {value}");
        }
        for (name, word) in &self.kept {
            let _ = write!(text, ", {name} {}", word.as_deref().unwrap_or("null"));
        }
        text
    }
}

fn is_policy(words: &str) -> bool {
    let mut words = words.split(',');
    words.all(|word| [DELETE, COMPACT].contains(&word))
}

/// Whether a topic with this policy loses its oldest records: by default it does.
pub(super) fn deletes(policy: Option<&str>) -> bool {
    policy.is_none_or(|words| words.split(',').any(|word| word == DELETE))
}

/// Whether a topic with this policy is to be compacted: by default it is not.
pub(super) fn compacts(policy: Option<&str>) -> bool {
    policy.is_some_and(|words| words.split(',').any(|word| word == COMPACT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_kept_only_if_the_setting_can_be_that() {
        for (name, good, bad) in [
            (
                CLEANUP_POLICY,
                "compact delete compact,delete",
                ", compact, shred",
            ),
            (MIN_COMPACTION_LAG_MS, "0 9223372036854775807", "-1 x 1.5"),
            (DELETE_RETENTION_MS, "86400000", "-1"),
            (MIN_CLEANABLE_DIRTY_RATIO, "0 0.01 1", "-0.1 1.1 NaN"),
            ("other", "", "x"),
        ] {
            let check = |word: &str| {
                let kept = vec![(name, Some(word.to_owned()))];
                let changes = Changes {
                    kept,
                    ..Changes::default()
                };
                changes.check_kept().is_ok()
            };
            for word in good.split_whitespace() {
                assert!(check(word), "{name} {word}");
            }
            for word in bad.split_whitespace() {
                assert!(!check(word), "{name} {word}");
            }
        }
    }

    #[test]
    fn a_topic_that_is_only_compacted_loses_nothing() {
        assert!(deletes(None) && deletes(Some("delete")) && deletes(Some("compact,delete")));
        assert!(!deletes(Some("compact")));
        assert!(compacts(Some("compact")) && compacts(Some("compact,delete")));
        assert!(!compacts(Some("delete")) && !compacts(None));
    }
}
