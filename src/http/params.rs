//! Strict input: query parameters and JSON bodies that may only use known names.
//!
//! A typo must never be a silent default, so an unknown or repeated parameter and an unknown field are 400 with a
//! `pointer`: the parameter's name, or the JSON pointer of the field.

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::objects::Objects;
use super::problem::Problem;
use crate::broker::engine::TimestampMs;
use crate::broker::refusal::Reason;
use crate::formats::json::without_mark;
use crate::formats::time::{self, parse_time};

/// The query parameters of one request.
#[derive(Debug, Default)]
pub struct Params {
    pairs: Vec<(String, String)>,
}

impl Params {
    /// Parses a query string (percent-decoded, `+` is a space) and refuses every name that is not in `allowed`.
    ///
    /// # Errors
    /// 400 for an unknown or repeated name or bad percent-encoding; 501 for a name in `later`.
    pub fn parse(query: Option<&str>, allowed: &[&str], later: &[&str]) -> Result<Self, Problem> {
        Self::parse_with(query, allowed, None, later)
    }

    /// The same, but names with one of the prefixes are allowed too, if something follows the prefix.
    ///
    /// # Errors
    /// As for [`Params::parse`].
    pub fn parse_with(
        query: Option<&str>,
        allowed: &[&str],
        prefix: Option<&str>,
        later: &[&str],
    ) -> Result<Self, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for part in query
            .unwrap_or_default()
            .split('&')
            .filter(|part| !part.is_empty())
        {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let name = decode(name)
                .ok_or_else(|| Problem::invalid(name, "bad percent-encoding in a parameter's name"))?;
            let value = decode(value)
                .ok_or_else(|| Problem::invalid(&*name, format!("bad percent-encoding in {name}")))?;
            if later.contains(&&*name) {
                return Err(Problem::new(
                    Reason::NotSupported,
                    format!("{name} is not supported by this version"),
                )
                .with("pointer", name));
            }
            let is_open = prefix
                .and_then(|prefix| name.strip_prefix(prefix))
                .is_some_and(|rest| !rest.is_empty());
            if !is_open && !allowed.contains(&&*name) {
                let open = prefix.map(|prefix| format!("{prefix}NAME"));
                let known: Vec<&str> = allowed.iter().copied().chain(open.as_deref()).collect();
                let known = if known.is_empty() {
                    "none".to_owned()
                } else {
                    known.join(", ")
                };
                return Err(Problem::invalid(
                    &*name,
                    format!("unknown parameter {name}; known here: {known}"),
                ));
            }
            if pairs.iter().any(|(earlier, _)| *earlier == name) {
                return Err(Problem::invalid(&*name, format!("{name} is given twice")));
            }
            pairs.push((name, value));
        }
        Ok(Self { pairs })
    }

    /// The value of a parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// The parameters with a prefix: the rest of the name, and the unchanged value.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.pairs
            .iter()
            .filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
    }

    /// All parameters, decoded and sorted by name: equal for every spelling of a query.
    pub(crate) fn sorted(&self) -> Vec<(&str, &str)> {
        let mut pairs: Vec<_> = self
            .pairs
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        pairs.sort_unstable();
        pairs
    }

    /// A whole number in `low..=high`.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn number(&self, name: &str, low: u64, high: u64) -> Result<Option<u64>, Problem> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        match text.parse::<u64>() {
            Ok(value) if (low..=high).contains(&value) && !text.starts_with('+') => Ok(Some(value)),
            _ => Err(Problem::invalid(
                name,
                format!("{name} must be a whole number from {low} to {high}, not {text:?}"),
            )),
        }
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Problem> {
        match self.get(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(text) => Err(Problem::invalid(
                name,
                format!("{name} must be true or false, not {text:?}"),
            )),
        }
    }

    /// A time: milliseconds since the Unix epoch, or RFC 3339.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn time(&self, name: &str) -> Result<Option<TimestampMs>, Problem> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        parse_time(text).map(Some).ok_or_else(|| {
            Problem::invalid(name, format!("{name} must be a time (milliseconds, or RFC 3339 as in 2013-07-01T00:00:00Z), not {text:?}{}", time::hint(text)))
        })
    }
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let high = (bytes.next()? as char).to_digit(16)?;
                let low = (bytes.next()? as char).to_digit(16)?;
                out.push((high * 16 + low) as u8);
            }
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

/// Reads a JSON body into a type that denies unknown fields.
///
/// # Errors
/// 400 with a JSON pointer to the field that is wrong.
pub fn json_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(without_mark(body));
    let value = serde_path_to_error::deserialize(Objects(&mut deserializer)).map_err(|error| {
        let pointer = error.path().iter().fold(String::new(), |mut pointer, segment| {
            use serde_path_to_error::Segment;
            match segment {
                Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
                Segment::Map { key } | Segment::Enum { variant: key } => {
                    pointer.push('/');
                    pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
                }
                Segment::Unknown => {}
            }
            pointer
        });
        let what = match error.inner().classify() {
            Category::Eof => "it ends within the JSON".to_owned(),
            // Serde names the Rust struct; a client knows only objects.
            _ => match error.inner().to_string().split_once("struct ") {
                Some((before, rest)) => {
                    let after = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
                    format!("{before}an object{after}")
                }
                None => error.inner().to_string(),
            },
        };
        Problem::invalid(pointer, format!("the body is not what is expected here: {what}"))
    })?;
    deserializer
        .end()
        .map_err(|error| Problem::invalid("", format!("something follows the JSON body: {error}")))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::problem::Code;

    #[test]
    fn unknown_and_repeated_parameters_are_refused_by_name() {
        let error = Params::parse(Some("ofset=3"), &["offset"], &[]).unwrap_err();
        assert_eq!(error.to_json()["pointer"], "ofset");
        let error = Params::parse(Some("offset=3&offset=4"), &["offset"], &[]).unwrap_err();
        assert_eq!(error.to_json()["pointer"], "offset");
        let error = Params::parse(Some("follow=true"), &["offset"], &["follow"]).unwrap_err();
        assert_eq!(error.code(), Code::Refused(Reason::NotSupported));
    }

    #[test]
    fn an_array_is_no_object_at_any_depth() {
        #[derive(Debug, PartialEq, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Inner {
            a: u32,
        }
        #[derive(Debug, PartialEq, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Outer {
            list: Vec<Inner>,
            one: Option<Inner>,
        }
        let good = json_body::<Outer>(br#"{"list":[{"a":1}],"one":{"a":2}}"#).unwrap();
        assert_eq!(
            (good.list, good.one),
            (vec![Inner { a: 1 }], Some(Inner { a: 2 }))
        );
        for (wrong, pointer) in [
            ("[[], null]", ""),
            (r#"{"list":[[1]],"one":null}"#, "/list/0"),
            (r#"{"list":[],"one":[1]}"#, "/one"),
        ] {
            let problem = json_body::<Outer>(wrong.as_bytes()).unwrap_err().to_json();
            assert_eq!(problem["pointer"], pointer, "{wrong}");
            assert!(
                problem["detail"].as_str().unwrap().contains("expected an object"),
                "{problem}"
            );
        }
    }

    #[test]
    fn values_are_percent_decoded() {
        let params = Params::parse(Some("key=a%2Fb+c&x"), &["key", "x"], &[]).unwrap();
        assert_eq!(params.get("key"), Some("a/b c"));
        assert_eq!(params.get("x"), Some(""));
        assert!(Params::parse(Some("key=%zz"), &["key"], &[]).is_err());
    }
}
