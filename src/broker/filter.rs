//! Which records are wanted: by key, by headers, and by a text that is in them.
//!
//! A filter has fields: the key, and headers by their names. A record must match one pattern of each field. If a
//! header repeats, one value that matches is enough. Bytes are compared as they are stored: nothing is parsed. So is the
//! text that is searched for: a record has it if its key, its value, or a name or value of its headers contains it,
//! upper and lower case told apart.
//!
//! The filter of a group is also named by its [fields](Filter::fields): `key` and `header.NAME`, each with its patterns.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use memchr::memmem::Finder;

use crate::broker::engine::batch::Record;
use crate::broker::refusal::{Reason, Refusal};
use crate::formats::pattern::Pattern;

/// The most patterns of a filter: each of them is compared with each record.
pub const MAX_PATTERNS: usize = 100;
/// The most bytes of a filter's fields and patterns, with the name of its field counted for each pattern.
pub const MAX_FIELDS_BYTES: usize = 16 << 10;

/// The field of the key's patterns.
const KEY_FIELD: &str = "key";
/// What comes before the header's name in the field of its patterns.
const HEADER_FIELD: &str = "header.";

/// What a record must have to be wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The patterns of the key; none: any key, or none.
    keys: Vec<Pattern>,
    /// The patterns of headers, by name; each has at least one.
    headers: Vec<(String, Vec<Pattern>)>,
    /// The text that a record must contain. Never set in the filter of a group.
    text: Option<Text>,
}

/// A text to search for.
#[derive(Clone, Debug)]
struct Text(Finder<'static>);

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.0.needle() == other.0.needle()
    }
}

impl Eq for Text {}

impl Text {
    /// Whether a record contains it.
    fn is_in(&self, record: &Record<'_>) -> bool {
        let has = |bytes: &[u8]| self.0.find(bytes).is_some();
        record.value.is_some_and(has)
            || record.key.is_some_and(has)
            || record
                .headers
                .iter()
                .any(|(name, value)| has(name) || value.is_some_and(has))
    }
}

impl Filter {
    /// Makes a filter from its fields: `key` and `header.NAME`, each with its patterns. Fields and patterns are put in
    /// order, so that two filters are equal if they say the same.
    ///
    /// # Errors
    /// [`Reason::InvalidRequest`] at the field (`/header.type`) or pattern (`/header.type/0`): an unknown field, one
    /// without patterns, a text that is no pattern; and for no field at all, and too many patterns or bytes.
    pub fn from_fields(fields: &BTreeMap<String, Vec<String>>) -> Result<Self, Refusal> {
        if fields.is_empty() {
            let detail = "a filter has at least one field: key or header.NAME";
            return Err(Refusal::invalid("", detail));
        }
        let mut filter = Self::default();
        let mut bytes = 0;
        for (field, patterns) in fields {
            let at = || format!("/{}", field.replace('~', "~0").replace('/', "~1"));
            let header = field.strip_prefix(HEADER_FIELD).filter(|name| !name.is_empty());
            if field != KEY_FIELD && header.is_none() {
                let detail = format!("the fields of a filter are key and header.NAME, not {field}");
                return Err(Refusal::invalid(at(), detail));
            }
            if patterns.is_empty() {
                return Err(Refusal::invalid(
                    at(),
                    "a field of a filter has at least one pattern",
                ));
            }
            let mut seen = BTreeSet::new();
            for (index, pattern) in patterns.iter().enumerate() {
                if !seen.insert(pattern) {
                    continue;
                }
                let added = match header {
                    Some(name) => filter.add_header(name, pattern),
                    None => filter.add_key(pattern),
                };
                added.map_err(|refusal| refusal.at(format!("{}/{index}", at())))?;
                bytes += field.len() + pattern.len();
            }
        }
        if bytes > MAX_FIELDS_BYTES {
            let detail =
                format!("fields and patterns of a filter are at most {MAX_FIELDS_BYTES} bytes, not {bytes}");
            return Err(Refusal::invalid("", detail));
        }
        for patterns in
            std::iter::once(&mut filter.keys).chain(filter.headers.iter_mut().map(|(_, patterns)| patterns))
        {
            patterns.sort_by_cached_key(ToString::to_string);
        }
        Ok(filter)
    }

    /// Its fields, each with its patterns; sorted as [`Filter::from_fields`] does. Empty for an open filter.
    pub fn fields(&self) -> BTreeMap<String, Vec<String>> {
        let texts = |patterns: &[Pattern]| patterns.iter().map(ToString::to_string).collect();
        let headers = self.headers.iter();
        let headers = headers.map(|(name, patterns)| (format!("{HEADER_FIELD}{name}"), texts(patterns)));
        let keys = (!self.keys.is_empty()).then(|| (KEY_FIELD.to_owned(), texts(&self.keys)));
        headers.chain(keys).collect()
    }

    /// Wants records with this key, whatever is in it.
    pub fn set_key(&mut self, key: &str) {
        self.keys = vec![Pattern::literal(key)];
    }

    /// Wants records that contain this text: in the key, the value, or a name or value of the headers.
    pub fn set_text(&mut self, text: &str) {
        self.text = Some(Text(Finder::new(text).into_owned()));
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
        self.keys.is_empty() && self.headers.is_empty() && self.text.is_none()
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
        let has_headers = self.headers.iter().all(|(name, patterns)| {
            let of_name = record
                .headers
                .iter()
                .filter(|(other, _)| *other == name.as_bytes());
            of_name
                .filter_map(|(_, value)| value)
                .any(|value| patterns.iter().any(|pattern| pattern.matches(value)))
        });
        // Last, because it costs the most.
        has_headers && self.text.as_ref().is_none_or(|text| text.is_in(record))
    }
}

impl fmt::Display for Filter {
    /// The fields as JSON has them, or `null` for an open filter.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_open() {
            true => f.write_str("null"),
            false => write!(f, "{:?}", self.fields()),
        }
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
    fn a_text_is_searched_in_key_value_and_headers_as_it_is_written() {
        let mut batch = BatchBuilder::new();
        let headers: &[Header<'_>] = &[(b"type", Some(b"order.paid")), (b"none", None)];
        batch.push(
            TimestampMs(0),
            Some(b"key-7"),
            Some(b"{\"a\": \"caf\xc3\xa9\"}"),
            headers,
        );
        let batch = batch.seal();
        let record = Records::new(batch.as_bytes()).unwrap().next().unwrap().unwrap();
        let has = |text: &str| {
            let mut filter = Filter::default();
            filter.set_text(text);
            assert!(!filter.is_open());
            filter.matches(&record)
        };
        for text in ["key-7", "y-", "\"a\": ", "caf\u{e9}", "type", "r.p", "none"] {
            assert!(has(text), "{text}");
        }
        for text in ["Key", "typeorder", "\"a\":\"", "caf\\u00e9", "7{", "x"] {
            assert!(!has(text), "{text}");
        }
        let mut both = Filter::default();
        both.set_text("caf");
        both.set_key("other");
        assert!(!both.matches(&record));
        assert_ne!(both, {
            let mut other = both.clone();
            other.set_text("x");
            other
        });
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

    fn fields(fields: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let pairs = fields.iter();
        pairs
            .map(|(name, patterns)| ((*name).to_owned(), owned(patterns)))
            .collect()
    }

    #[test]
    fn a_filter_comes_back_from_its_fields_and_their_order_does_not_matter() {
        let given = fields(&[
            ("key", &["c7", "b.*"]),
            ("header.type", &["order.*", "invoice.paid", "order.*"]),
        ]);
        let filter = Filter::from_fields(&given).unwrap();
        let sorted = fields(&[
            ("header.type", &["invoice.paid", "order.*"]),
            ("key", &["b.*", "c7"]),
        ]);
        assert_eq!(filter.fields(), sorted);
        assert_eq!(Filter::from_fields(&sorted).unwrap(), filter);
        let text = r#"{"header.type": ["invoice.paid", "order.*"], "key": ["b.*", "c7"]}"#;
        assert_eq!(filter.to_string(), text);
        assert_eq!(Filter::default().to_string(), "null");
        assert!(matches(&filter, Some(b"b.x"), &[(b"type", Some(b"order.made"))]));
        assert!(!matches(
            &filter,
            Some(b"b.x"),
            &[(b"type", Some(b"invoice.made"))]
        ));
    }

    #[test]
    fn fields_that_are_none_of_a_filter_are_refused_with_their_place() {
        let many: Vec<String> = (0..=MAX_PATTERNS).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let long = "n".repeat(MAX_FIELDS_BYTES);
        for (wrong, field) in [
            (fields(&[]), ""),
            (fields(&[("keys", &["a"])]), "/keys"),
            (fields(&[("header.", &["a"])]), "/header."),
            (fields(&[("a/b~", &["a"])]), "/a~1b~0"),
            (fields(&[("key", &[])]), "/key"),
            (fields(&[("header.type", &["a", "or*"])]), "/header.type/1"),
            (fields(&[("header.a/b", &["a.#b"])]), "/header.a~1b/0"),
            (fields(&[("key", &many)]), "/key/100"),
            (fields(&[("key", &[&long])]), ""),
        ] {
            let refusal = Filter::from_fields(&wrong).unwrap_err();
            assert_eq!(refusal.reason, Reason::InvalidRequest);
            assert_eq!(refusal.field.as_deref(), Some(field), "{wrong:?}");
        }
        assert!(Filter::from_fields(&fields(&[("key", &many[1..])])).is_ok());
    }
}
