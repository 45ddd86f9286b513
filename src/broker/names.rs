//! The rule for names of topics, groups and members, and pages of lists that are sorted by them.

use super::refusal::Refusal;

/// What a name must be.
pub struct Rule {
    /// Whose name it is, for messages.
    whose: &'static str,
    /// The argument that has the name; callers that have it elsewhere say so with [`Refusal::at`].
    field: &'static str,
    most_bytes: usize,
    /// Only letters, digits, `.`, `_` and `-`, and nothing that is a path or the server's own.
    is_portable: bool,
}

/// Topics, dead-letter topics too. The rule is Kafka's, without the server's own names.
pub const TOPIC: Rule = Rule {
    whose: "a topic's name",
    field: "topic",
    most_bytes: 249,
    is_portable: true,
};
/// Groups: the rule of topics.
pub const GROUP: Rule = Rule {
    whose: "a group's name",
    field: "group",
    ..TOPIC
};
/// Tokens, and the rules for JWTs and certificates: the rule of topics.
pub const PRINCIPAL: Rule = Rule {
    whose: "a name of a token or principal",
    field: "name",
    ..TOPIC
};
/// Members and clients.
pub const MEMBER: Rule = Rule {
    whose: "a name of a member or client",
    field: "member",
    most_bytes: 255,
    is_portable: false,
};

impl Rule {
    /// Checks a name.
    ///
    /// # Errors
    /// [`InvalidRequest`](super::refusal::Reason::InvalidRequest) that says what is wrong with it.
    pub fn check(&self, name: &str) -> Result<(), Refusal> {
        let portable = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let wrong = if name.is_empty() || name.len() > self.most_bytes {
            format!("has 1 to {} characters", self.most_bytes)
        } else if !self.is_portable && !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            "consists of visible ASCII characters".to_owned()
        } else if self.is_portable && !name.bytes().all(portable) {
            "consists of ASCII letters, digits, '.', '_' and '-'".to_owned()
        } else if name == "." || name == ".." {
            // Clients take such a segment of a path for a way up: to remove the member `..` would be to delete its group.
            "is neither . nor ..".to_owned()
        } else if self.is_portable && name.starts_with("__") {
            "does not begin with __, which is kept for the server's own".to_owned()
        } else {
            return Ok(());
        };
        let shown: String = name.chars().take(250).collect();
        let detail = format!("{} {wrong}; {shown:?} is not one", self.whose);
        Err(Refusal::invalid(self.field, detail))
    }
}

/// A page of a list that is sorted by name: at most `limit` items after the name `after`, and the last name of the page
/// if more items follow.
pub fn page<'a, T>(
    all: &'a [T],
    name: fn(&T) -> &str,
    after: Option<&str>,
    limit: usize,
) -> (&'a [T], Option<&'a str>) {
    let first = after.map_or(0, |after| all.partition_point(|item| name(item) <= after));
    let rest = &all[first..];
    let shown = &rest[..rest.len().min(limit)];
    (shown, shown.last().filter(|_| rest.len() > limit).map(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::refusal::Reason;

    #[test]
    fn names_of_topics_and_groups_are_kafkas_without_the_servers_own() {
        for rule in [TOPIC, GROUP] {
            for good in ["a", "A.b-c_9", "billing-1", "...", "_x", "-", &"n".repeat(249)] {
                assert!(rule.check(good).is_ok(), "{good}");
            }
            let long = "n".repeat(250);
            for bad in "|.|..|__x|a b|a/b|ü|é|a\0".split('|').chain([&*long]) {
                let refusal = rule.check(bad).unwrap_err();
                assert_eq!(refusal.reason, Reason::InvalidRequest, "{bad:?}");
            }
        }
    }

    #[test]
    fn names_of_members_are_visible_ascii() {
        for (name, fits) in [
            ("a/b:c", true),
            ("__x", true),
            ("", false),
            (".", false),
            ("..", false),
            ("...", true),
            ("a b", false),
            ("ü", false),
        ] {
            assert_eq!(MEMBER.check(name).is_ok(), fits, "{name:?}");
        }
    }
}
