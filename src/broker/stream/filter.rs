//! Which records of a stream are wanted: by key, and by headers.
//!
//! A record must have everything that the filter names. If a header repeats, one equal value is enough. Bytes are
//! compared as they are stored: nothing is parsed.

use crate::broker::engine::batch::Record;

/// What a record must have to be in the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Its key.
    pub key: Option<String>,
    /// Names and values of headers.
    pub headers: Vec<(String, String)>,
}

impl Filter {
    /// Whether every record is wanted.
    pub fn is_open(&self) -> bool {
        self.key.is_none() && self.headers.is_empty()
    }

    /// Whether a record is wanted.
    pub fn matches(&self, record: &Record<'_>) -> bool {
        if let Some(key) = &self.key
            && record.key != Some(key.as_bytes())
        {
            return false;
        }
        self.headers.iter().all(|(name, value)| {
            record
                .headers
                .iter()
                .any(|(other, bytes)| other == name.as_bytes() && bytes == Some(value.as_bytes()))
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

    #[test]
    fn a_key_is_compared_byte_for_byte_and_an_empty_one_is_one() {
        let keyed = |key: &str| Filter {
            key: Some(key.to_owned()),
            ..Filter::default()
        };
        assert!(matches(&keyed("a"), Some(b"a"), &[]));
        assert!(matches(&keyed(""), Some(b""), &[]));
        for (wanted, key) in [
            ("a", None),
            ("a", Some(&b"A"[..])),
            ("a", Some(b"ab")),
            ("", None),
        ] {
            assert!(!matches(&keyed(wanted), key, &[]), "{wanted:?} {key:?}");
        }
        assert!(Filter::default().is_open() && matches(&Filter::default(), None, &[]));
        assert!(!keyed("").is_open());
    }

    #[test]
    fn all_headers_of_a_filter_must_match_and_any_value_of_a_repeated_one_will_do() {
        let filter = |pairs: &[(&str, &str)]| Filter {
            headers: pairs
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
            ..Filter::default()
        };
        let record: &[Header<'_>] = &[
            (b"type", Some(b"a")),
            (b"type", Some(b"b")),
            (b"x", Some(b"1")),
            (b"none", None),
        ];
        for wanted in [
            &[("type", "a")][..],
            &[("type", "b")],
            &[("type", "a"), ("type", "b")],
            &[("x", "1"), ("type", "b")],
        ] {
            assert!(matches(&filter(wanted), None, record), "{wanted:?}");
        }
        for wanted in [
            &[("type", "c")][..],
            &[("Type", "a")],
            &[("x", "1"), ("type", "c")],
            &[("none", "")],
            &[("missing", "")],
        ] {
            assert!(!matches(&filter(wanted), None, record), "{wanted:?}");
        }
        assert!(!filter(&[("a", "b")]).is_open());
    }
}
