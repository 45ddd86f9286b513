//! Patterns for texts that are words between dots, as a topic exchange of AMQP has them.
//!
//! | word of a pattern | stands for |
//! |---|---|
//! | `*` | one word, whatever it is |
//! | `#` | any number of words, also none |
//! | any other | the same word |
//!
//! A text without a dot is one word, and the empty text has none. A word may be empty: `a..b` has three. A pattern
//! without `*` and `#` matches the same bytes and nothing else.
//!
//! Cost of a match: one pass over the text. Each word of it is looked up among those of the pattern.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The most words of a pattern with `*` or `#`.
pub const MAX_WORDS: usize = 100;

/// A pattern that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    /// `None` if it matches its own text alone.
    words: Option<Words>,
}

/// The words of a pattern as sets of their places, of which bit `n` stands for place `n`. No `#` follows another one,
/// which would change nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Words {
    count: usize,
    /// The places of `*`.
    one: u128,
    /// The places of `#`.
    any: u128,
    /// The places of each other word.
    places: BTreeMap<Box<[u8]>, u128>,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A `*` or `#` that is only a part of a word.
    #[error(
        "in the word {0:?} * or # stands beside other characters; * (one word) and # (any number of words) stand alone \
         between dots"
    )]
    WithinWord(String),
    /// There are too many words.
    #[error("a pattern with * or # has at most {MAX_WORDS} words between dots")]
    TooManyWords,
}

impl Pattern {
    /// The pattern that matches this text alone, whatever is in it.
    pub fn literal(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            words: None,
        }
    }

    /// The only text that it matches; `None` if there may be others.
    pub fn as_literal(&self) -> Option<&str> {
        self.words.is_none().then_some(&*self.text)
    }

    /// Whether it matches a text.
    pub fn matches(&self, text: &[u8]) -> bool {
        match &self.words {
            None => text == self.text.as_bytes(),
            Some(words) => words.matches(text),
        }
    }
}

impl Words {
    fn of(text: &str) -> Result<Self, PatternError> {
        let mut all = Self::default();
        for word in split(text.as_bytes()) {
            if word == b"#" && all.count > 0 && all.any >> (all.count - 1) & 1 == 1 {
                continue;
            }
            if all.count == MAX_WORDS {
                return Err(PatternError::TooManyWords);
            }
            let place = 1 << all.count;
            match word {
                b"*" => all.one |= place,
                b"#" => all.any |= place,
                word if word.iter().any(is_wild) => {
                    let shown = String::from_utf8_lossy(word).chars().take(100).collect();
                    return Err(PatternError::WithinWord(shown));
                }
                word => *all.places.entry(word.into()).or_default() |= place,
            }
            all.count += 1;
        }
        Ok(all)
    }

    /// Goes through the text with all the places of the pattern that may come next: there are several behind a `#`.
    fn matches(&self, text: &[u8]) -> bool {
        let mut next = self.with_passed(1);
        for word in split(text) {
            let equal = self.places.get(word).copied().unwrap_or_default();
            let taken = (next & (self.one | equal)) << 1;
            // A `#` may take this word, and then more.
            next = self.with_passed(taken | next & self.any);
            if next == 0 {
                return false;
            }
        }
        next >> self.count & 1 == 1
    }

    /// With the places behind each `#`, which may stand for no word.
    fn with_passed(&self, places: u128) -> u128 {
        places | (places & self.any) << 1
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let is_wild = text.as_bytes().iter().any(is_wild);
        Ok(Self {
            text: text.to_owned(),
            words: is_wild.then(|| Words::of(text)).transpose()?,
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

fn is_wild(byte: &u8) -> bool {
    matches!(byte, b'*' | b'#')
}

/// The words of a text.
fn split(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut words = text.split(|byte| *byte == b'.');
    if text.is_empty() {
        words.next();
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    fn matches(wanted: &str, text: &str) -> bool {
        pattern(wanted).matches(text.as_bytes())
    }

    #[test]
    fn words_stand_for_themselves_a_star_for_one_and_a_hash_for_any_number() {
        for (wanted, texts) in [
            ("order.paid", "order.paid"),
            ("order.*", "order.paid order.made order."),
            ("*", "order x"),
            ("*.*", "order.paid . a."),
            ("order.#", "order order.paid order.paid.late order.."),
            ("#.paid", "paid order.paid a.b.paid paid.paid"),
            ("#", "a a.b.c . .a"),
            ("a.#.z", "a.z a.b.z a.z.z a.b.c.z"),
            ("a.*.#", "a.b a.b.c a.b.c.d"),
            ("#.*", "a a.b a.b.c"),
            ("#.#", "a a.b"),
            ("#.a.#.b.#", "a.b x.a.x.b.x a.a.b a.b.b"),
            ("*.a.#.a", "a.a.a b.a.b.a"),
        ] {
            for text in texts.split(' ') {
                assert!(matches(wanted, text), "{wanted} {text}");
            }
        }
        for (wanted, texts) in [
            (
                "order.paid",
                "order.made order Order.paid order.paid. order.paid.x",
            ),
            ("order.*", "order order.a.b xorder.a"),
            ("*.*", "a a.b.c"),
            ("order.#", "orders orders.paid a.order"),
            ("a.#.z", "a z a.b a.zz aa.z"),
            ("a.*.#", "a b.c"),
            ("#.a.#.b.#", "a b b.a"),
            ("*.a.#.a", "a.a a.b.a"),
        ] {
            for text in texts.split(' ') {
                assert!(!matches(wanted, text), "{wanted} {text}");
            }
        }
    }

    #[test]
    fn the_empty_text_has_no_word() {
        assert!(matches("", "") && matches("#", "") && matches("#.#", ""));
        assert!(!matches("*", "") && !matches("#.*", "") && !matches("", "a") && !matches("", "."));
    }

    #[test]
    fn bytes_that_are_not_text_are_words_too() {
        assert!(pattern("a.*").matches(b"a.\xff"));
        assert!(!pattern("a.b").matches(b"a.\xff"));
    }

    #[test]
    fn a_wildcard_within_a_word_is_refused_and_so_are_too_many_words() {
        for wrong in ["or*", "*r", "a.or*.b", "**", "##", "*#", "a.#b", "C#", "text/*"] {
            let error = wrong.parse::<Pattern>().unwrap_err();
            assert!(matches!(error, PatternError::WithinWord(..)), "{wrong}");
            assert!(error.to_string().contains("between dots"), "{error}");
        }
        let long = |words: usize| vec!["*"; words].join(".");
        assert!(matches(&long(MAX_WORDS), &vec!["a"; MAX_WORDS].join(".")));
        assert!(!matches(&long(MAX_WORDS), &vec!["a"; MAX_WORDS - 1].join(".")));
        let error = long(MAX_WORDS + 1).parse::<Pattern>();
        assert_eq!(error, Err(PatternError::TooManyWords));
        assert!(matches(&vec!["#"; 1000].join("."), "a"), "they count once");
        assert!(
            "x.".repeat(1000).parse::<Pattern>().is_ok(),
            "it is only compared"
        );
        assert!(Pattern::literal("or*").matches(b"or*"));
    }

    #[test]
    fn a_pattern_says_whether_it_is_one_text() {
        assert_eq!(pattern("a.b").as_literal(), Some("a.b"));
        assert_eq!(pattern("a.*").as_literal(), None);
        assert_eq!(pattern("a.*").to_string(), "a.*");
    }

    #[test]
    fn many_hashes_and_a_long_text_take_no_long_time() {
        // A matcher that tries each number of words for each `#` would not end.
        let wanted = "#.a.".repeat(MAX_WORDS / 2 - 1) + "b";
        let text = "a.".repeat(16_000);
        assert!(!matches(&wanted, &(text.clone() + "c")));
        assert!(matches(&wanted, &(text + "b")));
    }

    /// The rules as they are written, for one word after the other.
    fn naive(wanted: &[&str], text: &[&str]) -> bool {
        match wanted {
            [] => text.is_empty(),
            ["#", after @ ..] => (0..=text.len()).any(|taken| naive(after, &text[taken..])),
            [word, after @ ..] => {
                matches!(text, [first, rest @ ..] if (*word == "*" || word == first) && naive(after, rest))
            }
        }
    }

    fn words(text: &str) -> Vec<&str> {
        let words = text.split('.').filter(|_| !text.is_empty());
        words.collect()
    }

    proptest! {
        #[test]
        fn it_matches_what_the_rules_say(
            wanted in prop::collection::vec(prop::sample::select(vec!["a", "b", "", "*", "#", "#"]), 0..7),
            text in prop::collection::vec(prop::sample::select(vec!["a", "b", ""]), 0..9),
        ) {
            let (wanted, text) = (wanted.join("."), text.join("."));
            let expected = naive(&words(&wanted), &words(&text));
            prop_assert_eq!(matches(&wanted, &text), expected, "{} {}", wanted, text);
        }

        #[test]
        fn no_text_makes_it_panic(wanted: String, text: Vec<u8>) {
            if let Ok(pattern) = wanted.parse::<Pattern>() {
                pattern.matches(&text);
                prop_assert_eq!(pattern.to_string(), wanted);
            }
        }
    }
}
