//! Regular expressions over names of topics, with bounds: whoever may join a group may send one.

use regex_lite::{Regex, RegexBuilder};

/// The longest expression, in bytes.
pub const MAX_REGEX_BYTES: usize = 4096;
/// The memory of a compiled one, in bytes; `\w{1000}` has its place in it.
pub const MOST_COMPILED_BYTES: usize = 256 << 10;
/// How deep groups may be nested.
const MOST_NESTED: u32 = 50;

/// An expression that a whole name has to match. Its time to match is linear in the name's length, whatever it is.
#[derive(Debug)]
pub struct TopicRegex {
    text: String,
    compiled: Regex,
}

impl PartialEq for TopicRegex {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl TopicRegex {
    /// Compiles an expression. Its classes are those of ASCII, as names of topics are.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() > MAX_REGEX_BYTES {
            return Err(format!("it has more than {MAX_REGEX_BYTES} bytes"));
        }
        // Alone first: what closes a group that it has not opened is wrong.
        compile(text)?;
        Ok(Self {
            compiled: compile(&format!(r"\A(?:{text})\z"))?,
            text: text.to_owned(),
        })
    }

    /// As it was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it matches a whole name.
    pub fn matches(&self, name: &str) -> bool {
        self.compiled.is_match(name)
    }
}

fn compile(text: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(text)
        .nest_limit(MOST_NESTED)
        .size_limit(MOST_COMPILED_BYTES)
        .build();
    built.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_matches_whole_names() {
        let regex = |text| TopicRegex::new(text).unwrap();
        assert!(regex("orders|orders-.*").matches("orders-eu"));
        assert!(regex("a|ab").matches("ab"), "not only the first that fits");
        assert!(!regex("orders").matches("orders-eu") && !regex("ders.*").matches("orders"));
        assert!(regex("^t-[0-9]+$").matches("t-17") && regex(r"^t\.\w+").matches("t.x_1"));
        assert!(regex("t[[:digit:]]+").matches("t17") && !regex("t[[:digit:]]+").matches("tx"));
        assert!(regex("(?i)ORDERS").matches("orders") && regex(r"t\d{2,3}?").matches("t17"));
    }

    #[test]
    fn wrong_and_large_expressions_are_refused() {
        for wrong in [
            "(",
            "a)|(b",
            "*",
            r"\p{L}",
            "[z-a]",
            "a{100000}",
            r"(?=a)",
            r"(a)\1",
        ] {
            assert!(TopicRegex::new(wrong).is_err(), "{wrong}");
        }
        assert!(TopicRegex::new(&"a".repeat(MAX_REGEX_BYTES + 1)).is_err());
        assert!(
            TopicRegex::new("((a{50}){50}){50}").is_err(),
            "more memory than it may have"
        );
        let nested = format!("{}a{}", "(".repeat(60), ")".repeat(60));
        assert!(TopicRegex::new(&nested).is_err());
    }
}
