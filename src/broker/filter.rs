//! Which records are wanted: by key, and by headers.
//!
//! A filter has fields: the key, and headers by their names. A record must match one pattern of each field. If a
//! header repeats, one value that matches is enough. Bytes are compared as they are stored: nothing is parsed.

use crate::broker::engine::batch::Record;
use crate::broker::refusal::{Reason, Refusal};
use crate::formats::pattern::Pattern;

/// The most patterns of a filter: each of them is compared with each record.
pub const MAX_PATTERNS: usize = 100;

/// What a record must have to be wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The patterns of the key; none: any key, or none.
    keys: Vec<Pattern>,
    /// The patterns of headers, by name; each has at least one.
    headers: Vec<(String, Vec<Pattern>)>,
}

impl Filter {
    /// Wants records with this key, whatever is in it.
    pub fn set_key(&mut self, key: &str) {
        self.keys = vec![Pattern::literal(key)];
    }

    /// Wants records whose key matches this pattern, or another one that was added.
    ///
    /// # Errors
    /// [`Reason::InvalidRequest`] (without a field) for a text that is no pattern, and for too many patterns.
    pub fn add_key(&mut self, pattern: &str) -> Result<(), Refusal> {
        let pattern = self.one_more(pattern)?;
        self.keys.push(pattern);
        Ok(())
    }

    /// Wants records that have this header with a value that matches this pattern, or another one that was added for the
    /// header.
    ///
    /// # Errors
    /// As for [`Filter::add_key`].
    pub fn add_header(&mut self, name: &str, pattern: &str) -> Result<(), Refusal> {
        let pattern = self.one_more(pattern)?;
        match self.headers.iter_mut().find(|(other, _)| other == name) {
            Some((_, patterns)) => patterns.push(pattern),
            None => self.headers.push((name.to_owned(), vec![pattern])),
        }
        Ok(())
    }

    fn one_more(&self, pattern: &str) -> Result<Pattern, Refusal> {
        let of_headers = self.headers.iter().map(|(_, patterns)| patterns.len());
        if self.keys.len() + of_headers.sum::<usize>() >= MAX_PATTERNS {
            let detail = format!("a filter has at most {MAX_PATTERNS} patterns");
            return Err(Refusal::new(Reason::InvalidRequest, detail));
        }
        let parsed = pattern.parse::<Pattern>();
        parsed.map_err(|error| Refusal::new(Reason::InvalidRequest, error.to_string()))
    }

    /// Whether every record is wanted.
    pub fn is_open(&self) -> bool {
        self.keys.is_empty() && self.headers.is_empty()
    }

    /// The key that all wanted records have, if it is known.
    pub fn key(&self) -> Option<&str> {
        match &self.keys[..] {
            [only] => only.as_literal(),
            _ => None,
        }
    }

    /// Whether a record is wanted.
    pub fn matches(&self, record: &Record<'_>) -> bool {
        if !self.keys.is_empty()
            && !record
                .key
                .is_some_and(|key| self.keys.iter().any(|pattern| pattern.matches(key)))
        {
            return false;
        }
        self.headers.iter().all(|(name, patterns)| {
            let of_name = record
                .headers
                .iter()
                .filter(|(other, _)| *other == name.as_bytes());
            of_name
                .filter_map(|(_, value)| value)
                .any(|value| patterns.iter().any(|pattern| pattern.matches(value)))
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::broker::engine::TimestampMs;
    use crate::broker::engine::batch::{BatchBuilder, Records};

    use super::*;

    type Header<'a> = (&'a [u8], Option<&'a [u8]>);

    fn matches(filter: &Filter, key: Option<&[u8]>, headers: &[Header<'_>]) -> bool {
        let mut batch = BatchBuilder::new();
        batch.push(TimestampMs(0), key, None, headers);
        let batch = batch.seal();
        let record = Records::new(batch.as_bytes()).unwrap().next().unwrap().unwrap();
        filter.matches(&record)
    }

    fn keyed(keys: &[&str]) -> Filter {
        let mut filter = Filter::default();
        for key in keys {
            filter.add_key(key).unwrap();
        }
        filter
    }

    #[test]
    fn a_key_is_compared_byte_for_byte_and_an_empty_one_is_one() {
        assert!(matches(&keyed(&["a"]), Some(b"a"), &[]));
        assert!(matches(&keyed(&[""]), Some(b""), &[]));
        for (wanted, key) in [
            ("a", None),
            ("a", Some(&b"A"[..])),
            ("a", Some(b"ab")),
            ("", None),
        ] {
            assert!(!matches(&keyed(&[wanted]), key, &[]), "{wanted:?} {key:?}");
        }
        assert!(Filter::default().is_open() && matches(&Filter::default(), None, &[]));
        assert!(!keyed(&[""]).is_open());
    }

    #[test]
    fn one_of_the_patterns_of_a_key_must_match_and_only_a_single_text_is_known() {
        let filter = keyed(&["a.*", "b"]);
        assert!(matches(&filter, Some(b"a.x"), &[]) && matches(&filter, Some(b"b"), &[]));
        assert!(!matches(&filter, Some(b"a"), &[]) && !matches(&keyed(&["#"]), None, &[]));
        let known = [&["k"][..], &["k", "l"], &["k.*"], &[]].map(|keys| keyed(keys).key().map(str::to_owned));
        assert_eq!(known, [Some("k".to_owned()), None, None, None]);
    }

    #[test]
    fn all_headers_of_a_filter_must_match_one_pattern_and_any_value_of_a_repeated_one_will_do() {
        let filter = |pairs: &[(&str, &str)]| {
            let mut filter = Filter::default();
            for (name, pattern) in pairs {
                filter.add_header(name, pattern).unwrap();
            }
            filter
        };
        let record: &[Header<'_>] = &[
            (b"type", Some(b"order.paid")),
            (b"type", Some(b"b")),
            (b"x", Some(b"1")),
            (b"none", None),
        ];
        for wanted in [
            &[("type", "order.paid")][..],
            &[("type", "b")],
            &[("type", "order.*")],
            &[("type", "c"), ("type", "b")],
            &[("type", "#.paid"), ("type", "c")],
            &[("x", "1"), ("type", "b")],
            &[("x", "#"), ("type", "c"), ("type", "*")],
        ] {
            assert!(matches(&filter(wanted), None, record), "{wanted:?}");
        }
        for wanted in [
            &[("type", "c")][..],
            &[("Type", "b")],
            &[("type", "order")],
            &[("x", "1"), ("type", "c"), ("type", "*.made")],
            &[("x", "2"), ("type", "#")],
            &[("none", "")],
            &[("none", "#")],
            &[("missing", "#")],
        ] {
            assert!(!matches(&filter(wanted), None, record), "{wanted:?}");
        }
        assert!(!filter(&[("a", "b")]).is_open());
    }

    #[test]
    fn what_is_no_pattern_and_too_many_of_them_are_refused_and_change_nothing() {
        let mut filter = Filter::default();
        for wrong in ["or*", "a.#b"] {
            let refusal = filter.add_header("type", wrong).unwrap_err();
            assert_eq!(refusal.reason, Reason::InvalidRequest);
            assert!(filter.add_key(wrong).is_err());
        }
        assert!(filter.is_open());
        for number in 0..MAX_PATTERNS {
            let name = format!("h{}", number / 2);
            filter.add_header(&name, &number.to_string()).unwrap();
        }
        assert!(filter.add_header("h0", "x").is_err() && filter.add_key("x").is_err());
        let mut key = Filter::default();
        key.set_key("or*");
        assert!(matches(&key, Some(b"or*"), &[]) && !matches(&key, Some(b"order"), &[]));
        assert_eq!(key.key(), Some("or*"));
    }
}
