//! What a principal may do: rights on topics and groups, given by rules.
//!
//! A [`Rule`] allows some [`Right`]s on the topics and groups that its patterns match. A principal has several rules, and may
//! do what one of them allows; nothing is forbidden by a rule. [`Rules`] are rules made ready for checks on the hot path.
//! [`grant`] is what somebody who has signed in carries along, [`quota`] counts what a principal uses.

pub mod grant;
pub mod quota;

use serde::{Deserialize, Serialize};

use super::names;
use super::refusal::Refusal;

/// The most rules of a principal.
const MAX_RULES: usize = 100;
/// The most patterns of a rule, for topics and for groups.
pub const MAX_PATTERNS: usize = 1000;
/// The most names of rights in a rule; a name may be repeated.
pub const MAX_RIGHTS: usize = 100;

/// What may be done with a topic or a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Topics: fetch and stream. Groups: the calls of members, which also make the group.
    Read,
    /// Topics: produce. Groups: commit from outside, reset, redrive, change settings.
    Write,
    /// Topics: create.
    Create,
    /// Topics: delete the topic, records, or by a lower retention. Groups: delete.
    Delete,
    /// Topics: change the configuration, skip damage.
    Configure,
    /// Look: at lists, descriptions, offsets, lag.
    Describe,
}

impl Right {
    /// All of them, with their names in rules.
    pub const ALL: [(&'static str, Self); 6] = [
        ("read", Self::Read),
        ("write", Self::Write),
        ("create", Self::Create),
        ("delete", Self::Delete),
        ("configure", Self::Configure),
        ("describe", Self::Describe),
    ];

    /// Its name in rules.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The word for everything.
const ADMIN: &str = "admin";

/// A rule, as it is given and stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Names of rights; or `admin` alone, for everything.
    pub allow: Vec<String>,
    /// Patterns of topics; none: no topic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<String>,
    /// Patterns of groups; none: no group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

impl Rule {
    /// The rule of administrators.
    #[must_use]
    pub fn admin() -> Self {
        Self {
            allow: vec![ADMIN.to_owned()],
            topics: Vec::new(),
            groups: Vec::new(),
        }
    }

    /// Whether it allows everything.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.allow.iter().any(|word| word == ADMIN)
    }

    fn check(&self) -> Result<(), Refusal> {
        if self.allow.is_empty() {
            return Err(Refusal::invalid("/allow", "name what the rule allows"));
        }
        if self.allow.len() > MAX_RIGHTS {
            let detail = format!("a rule has at most {MAX_RIGHTS} rights");
            return Err(Refusal::invalid("/allow", detail));
        }
        if self.is_admin() && (self.allow.len() > 1 || !self.topics.is_empty() || !self.groups.is_empty()) {
            let detail = "admin allows everything: it stands alone, without topics and groups";
            return Err(Refusal::invalid("/allow", detail));
        }
        for (i, word) in self.allow.iter().enumerate() {
            if word != ADMIN && right_of(word).is_none() {
                let known: Vec<&str> = Right::ALL.iter().map(|(name, _)| *name).collect();
                let detail = format!("a right is {} or admin, not {word:?}", known.join(", "));
                return Err(Refusal::invalid(format!("/allow/{i}"), detail));
            }
        }
        for (field, patterns) in [("topics", &self.topics), ("groups", &self.groups)] {
            if patterns.len() > MAX_PATTERNS {
                let detail = format!("a rule has at most {MAX_PATTERNS} {field}");
                return Err(Refusal::invalid(format!("/{field}"), detail));
            }
            for (i, pattern) in patterns.iter().enumerate() {
                if !is_pattern(pattern) {
                    let detail = format!(
                        "{pattern:?} is neither a name nor a pattern of names, in which * stands for any characters"
                    );
                    return Err(Refusal::invalid(format!("/{field}/{i}"), detail));
                }
            }
        }
        Ok(())
    }
}

fn right_of(word: &str) -> Option<Right> {
    let found = Right::ALL.iter().find(|(name, _)| *name == word);
    found.map(|(_, right)| *right)
}

/// Whether a text is a name, or a name in which `*` stands for some characters.
fn is_pattern(text: &str) -> bool {
    text.chars().all(|c| c == '*') && !text.is_empty() || names::TOPIC.check(&text.replace('*', "x")).is_ok()
}

/// Checks rules.
///
/// # Errors
/// [`InvalidRequest`](super::refusal::Reason::InvalidRequest) at a field below `/rules`.
pub fn check(rules: &[Rule]) -> Result<(), Refusal> {
    if rules.len() > MAX_RULES {
        let detail = format!("there are at most {MAX_RULES} rules");
        return Err(Refusal::invalid("/rules", detail));
    }
    for (i, rule) in rules.iter().enumerate() {
        rule.check().map_err(|refusal| {
            let below = refusal.field.clone().unwrap_or_default();
            refusal.at(format!("/rules/{i}{below}"))
        })?;
    }
    Ok(())
}

/// The rules of a principal, ready for checks. Cost of a check: a walk over the patterns, without an allocation.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    given: Vec<Rule>,
    is_admin: bool,
    topics: Vec<(u8, Vec<Box<str>>)>,
    groups: Vec<(u8, Vec<Box<str>>)>,
}

impl Rules {
    /// Prepares rules that were checked. What is not known (a right of a later version) allows nothing.
    #[must_use]
    pub fn new(given: Vec<Rule>) -> Self {
        let mut rules = Self {
            is_admin: given.iter().any(Rule::is_admin),
            ..Self::default()
        };
        for rule in &given {
            let known = rule.allow.iter().filter_map(|word| right_of(word));
            let rights = known.fold(0, |rights, right| rights | right.bit());
            let patterns = |all: &[String]| all.iter().map(|pattern| pattern.as_str().into()).collect();
            if !rule.topics.is_empty() {
                rules.topics.push((rights, patterns(&rule.topics)));
            }
            if !rule.groups.is_empty() {
                rules.groups.push((rights, patterns(&rule.groups)));
            }
        }
        rules.given = given;
        rules
    }

    /// The rules as they were given.
    #[must_use]
    pub fn given(&self) -> &[Rule] {
        &self.given
    }

    /// Whether everything is allowed.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.is_admin
    }

    /// Whether this may be done with that topic. What the server keeps for itself (`__…`) is the administrators'.
    #[must_use]
    pub fn topic(&self, right: Right, name: &str) -> bool {
        self.is_admin || (!name.starts_with("__") && allows(&self.topics, right, name))
    }

    /// Whether this may be done with some topic, whether there is one of such a name or not.
    #[must_use]
    pub fn some_topic(&self, right: Right) -> bool {
        self.is_admin || self.topics.iter().any(|(rights, _)| rights & right.bit() != 0)
    }

    /// Whether this may be done with that group.
    #[must_use]
    pub fn group(&self, right: Right, name: &str) -> bool {
        self.is_admin || allows(&self.groups, right, name)
    }

    /// Whether all topics and all groups may be described.
    #[must_use]
    pub fn describes_all(&self) -> bool {
        let all = |rules: &[(u8, Vec<Box<str>>)]| {
            let mut of_all = rules
                .iter()
                .filter(|(_, patterns)| patterns.iter().any(|pattern| pattern.bytes().all(|b| b == b'*')));
            of_all.any(|(rights, _)| rights & Right::Describe.bit() != 0)
        };
        self.is_admin || (all(&self.topics) && all(&self.groups))
    }
}

/// The longest name that rules are looked through for: nothing has a longer one, and clients may send one of any length.
const MAX_NAME_BYTES: usize = 255;

fn allows(rules: &[(u8, Vec<Box<str>>)], right: Right, name: &str) -> bool {
    if name.len() > MAX_NAME_BYTES {
        return false;
    }
    let mut of_right = rules.iter().filter(|(rights, _)| rights & right.bit() != 0);
    of_right.any(|(_, patterns)| patterns.iter().any(|pattern| matches(pattern, name)))
}

/// Whether a name matches a pattern, in which `*` stands for any number of characters. Cost: at most the product of both
/// lengths.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Behind the last star, and where its run would go on.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, n));
            }
            Some(byte) if *byte == name[n] => (p, n) = (p + 1, n + 1),
            _ => match retry {
                Some((after, run)) => {
                    (p, n) = (after, run + 1);
                    retry = Some((after, run + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: &str, topics: &str, groups: &str) -> Rule {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        Rule {
            allow: words(allow),
            topics: words(topics),
            groups: words(groups),
        }
    }

    #[test]
    fn a_star_stands_for_any_characters_and_nothing_else_does() {
        for (pattern, yes, no) in [
            ("orders", "orders", "order orders2 Orders"),
            (
                "billing-*",
                "billing- billing-a billing-a.b",
                "billing billin-a xbilling-a",
            ),
            ("*", "a a.b -", ""),
            ("*.dlq", "a.dlq .dlq a.dlq.dlq", "dlq a.dlqx"),
            ("a*b*c", "abc aXbYc abbcc abcbc", "ab ac abcd"),
            ("a.b", "a.b", "axb"),
        ] {
            for name in yes.split(' ') {
                assert!(matches(pattern, name), "{pattern} {name}");
            }
            for name in no.split(' ').filter(|name| !name.is_empty()) {
                assert!(!matches(pattern, name), "{pattern} {name}");
            }
        }
        assert!(matches("*", "") && !matches("a", ""));
    }

    #[test]
    fn a_rule_allows_its_rights_on_what_it_names_and_no_more() {
        let rules = Rules::new(vec![
            rule("read describe", "orders billing-*", ""),
            rule("read", "", "billing-*"),
            rule("write", "out", "g"),
        ]);
        assert!(rules.topic(Right::Read, "orders") && rules.topic(Right::Describe, "billing-x"));
        assert!(!rules.topic(Right::Write, "orders") && !rules.topic(Right::Read, "out"));
        assert!(rules.group(Right::Read, "billing-a") && !rules.group(Right::Describe, "billing-a"));
        assert!(rules.group(Right::Write, "g") && !rules.group(Right::Read, "g"));
        assert!(!rules.is_admin() && !rules.describes_all());
        // Left-out lists match nothing, and the server's own is nobody's.
        assert!(!Rules::new(vec![rule("read", "", "")]).topic(Right::Read, "a"));
        assert!(!Rules::new(vec![rule("read", "*", "*")]).topic(Right::Read, "__audit"));
        assert!(Rules::new(vec![rule("describe", "*", "*")]).describes_all());
        let apart = vec![rule("describe", "*", ""), rule("describe", "", "a *")];
        assert!(Rules::new(apart).describes_all());
        assert!(!Rules::new(vec![rule("describe", "*", "a")]).describes_all());
        let admin = Rules::new(vec![Rule::admin()]);
        assert!(
            admin.topic(Right::Delete, "__x") && admin.group(Right::Delete, "g") && admin.describes_all()
        );
    }

    #[test]
    fn a_rule_that_says_nothing_or_too_much_is_refused_where_it_is_wrong() {
        for (rule, field) in [
            (rule("", "a", ""), "/rules/0/allow"),
            (rule("admin", "a", ""), "/rules/0/allow"),
            (rule("admin read", "", ""), "/rules/0/allow"),
            (rule(&"read ".repeat(MAX_RIGHTS + 1), "", ""), "/rules/0/allow"),
            (rule("read look", "", ""), "/rules/0/allow/1"),
            (rule("Read", "", ""), "/rules/0/allow/0"),
            (rule("read", "a b/c", ""), "/rules/0/topics/1"),
            (rule("read", "", "__a"), "/rules/0/groups/0"),
            (rule("read", "a#", ""), "/rules/0/topics/0"),
        ] {
            let refusal = check(std::slice::from_ref(&rule)).unwrap_err();
            assert_eq!(refusal.field.as_deref(), Some(field), "{rule:?}");
        }
        assert!(
            check(&[
                rule("read", "* a-*.b **", "g*"),
                rule(&"read ".repeat(MAX_RIGHTS), "", ""),
                Rule::admin(),
                rule("read", "", "")
            ])
            .is_ok()
        );
    }

    #[test]
    fn rights_have_the_names_of_their_places() {
        for (name, right) in Right::ALL {
            assert_eq!(right.name(), name);
        }
    }
}
