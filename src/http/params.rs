//! Strict input: query parameters and JSON bodies may only use known names.
//!
//! A typo must never be a silent default. So an unknown or repeated parameter, or an unknown field, is answered 400
//! with a `pointer`: the parameter's name, or the JSON pointer of the field.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::objects::Objects;
use super::problem::Problem;
use crate::broker::engine::TimestampMs;
use crate::broker::refusal::Reason;
use crate::broker::topics::lookup::Start;
use crate::formats::json::{json_fault, without_mark};
use crate::formats::time::{self, parse_time};

/// The parameter that cuts long values.
pub const VALUE_LIMIT: &str = "value_limit";

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

    /// The same, but names with the prefix are allowed too, if something follows the prefix, and they may be repeated.
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
        let parts = query.unwrap_or_default().split('&');
        for part in parts.filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let broken = "bad percent-encoding in a parameter's name";
            let name = decode(name).ok_or_else(|| Problem::invalid(name, broken))?;
            let invalid = |detail: String| Err(Problem::invalid(&*name, detail));
            let Some(value) = decode(value) else {
                return invalid(format!("bad percent-encoding in {name}"));
            };
            if later.contains(&&*name) {
                let detail = format!("{name} is not supported by this version");
                return Err(Problem::new(Reason::NotSupported, detail).with("pointer", name));
            }
            let open = prefix.and_then(|prefix| name.strip_prefix(prefix));
            let is_known = allowed.contains(&&*name);
            if !is_known && open.is_none_or(str::is_empty) {
                let open = prefix.map(|prefix| format!("{prefix}NAME"));
                let mut known: Vec<&str> = allowed.iter().copied().chain(open.as_deref()).collect();
                if known.is_empty() {
                    known.push("none");
                }
                let known = known.join(", ");
                return invalid(format!("unknown parameter {name}; known here: {known}"));
            }
            if is_known && pairs.iter().any(|(earlier, _)| *earlier == name) {
                return invalid(format!("{name} is given twice"));
            }
            pairs.push((name, value));
        }
        Ok(Self { pairs })
    }

    /// The value of a parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.pairs.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The parameters with a prefix: the rest of the name, and the unchanged value.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let pairs = self.pairs.iter();
        pairs.filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
    }

    /// All parameters, decoded and sorted by name: equal for every spelling of a query.
    pub(crate) fn sorted(&self) -> Vec<(&str, &str)> {
        let mut pairs: Vec<_> = self.with_prefix("").collect();
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
            _ => {
                let detail = format!("{name} must be a whole number from {low} to {high}, not {text:?}");
                Err(Problem::invalid(name, detail))
            }
        }
    }

    /// How many bytes of a value are wanted.
    ///
    /// # Errors
    /// 400 for anything but a number.
    pub fn value_limit(&self) -> Result<Option<usize>, Problem> {
        let limit = self.number(VALUE_LIMIT, 0, u32::MAX.into())?;
        Ok(limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)))
    }

    /// One of a few words.
    ///
    /// # Errors
    /// 400 for any other.
    pub fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, Problem> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
            return Ok(Some(*choice));
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let words = one_of(&words);
        let detail = format!("{name} must be {words}, not {text:?}");
        Err(Problem::invalid(name, detail))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Problem> {
        self.choice(name, &[("true", true), ("false", false)])
    }

    /// A time: milliseconds since the Unix epoch, or RFC 3339.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn time(&self, name: &str) -> Result<Option<TimestampMs>, Problem> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        parse_time(text)
            .map(Some)
            .ok_or_else(|| not_a_time(name, "", text))
    }
}

/// The place that `earliest`, `latest` or a time names; `None` for any other text.
pub(super) fn start(text: &str) -> Option<Start> {
    match text {
        "earliest" => Some(Start::Earliest),
        "latest" => Some(Start::Latest),
        time => parse_time(time).map(Start::Time),
    }
}

/// The refusal of a text that is not a time. `words`, which end with a comma or `or` (`latest or `), are allowed too.
pub(super) fn not_a_time(name: &str, words: &str, text: &str) -> Problem {
    let shown: String = text.chars().take(250).collect();
    let hint = time::hint(text);
    let time = "a time (milliseconds, or RFC 3339 as in 2013-07-01T00:00:00Z)";
    Problem::invalid(name, format!("{name} must be {words}{time}, not {shown:?}{hint}"))
}

/// `a`, `a or b`, `a, b or c`.
fn one_of(words: &[&str]) -> String {
    match words {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

/// The values of a header. A request has few headers: comparing their names costs less than hashing one.
pub(super) fn values_of<'a, 'b>(
    headers: &'a HeaderMap,
    name: &'b HeaderName,
) -> impl Iterator<Item = &'a HeaderValue> + use<'a, 'b> {
    let found = headers.iter().filter(move |(found, _)| *found == name);
    found.map(|(_, value)| value)
}

/// The value of a header that a request may have at most once.
///
/// # Errors
/// 400 if it is given twice: nobody can know which one counts.
pub(super) fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = values_of(headers, name);
    let value = values.next();
    match values.next() {
        None => Ok(value),
        Some(_) => Err(Problem::invalid(
            name.as_str(),
            format!("the header {name} is given twice"),
        )),
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

/// The deserializer's message in words of JSON: no names of Rust types, and no place, because the pointer gives it. A
/// `number` that is wrong is shown as it was sent.
fn in_plain_words(message: &str, number: &str) -> String {
    let (message, _) = message.rsplit_once(" at line ").unwrap_or((message, ""));
    let words = |text: &str| text.replace('`', "");
    let (kind, expected) = message.rsplit_once(", expected ").unwrap_or((message, ""));
    if let Some(field) = kind.strip_prefix("unknown field ") {
        let known = expected.strip_prefix("one of ").unwrap_or(expected);
        return words(&format!("unknown field {field}; known here: {known}"));
    }
    for (prefix, what) in [("missing field ", "missing"), ("duplicate field ", "given twice")] {
        if let Some(field) = message.strip_prefix(prefix) {
            return words(&format!("the field {field} is {what}"));
        }
    }
    let Some(found) = kind
        .strip_prefix("invalid type: ")
        .or(kind.strip_prefix("invalid value: "))
    else {
        return words(message);
    };
    let expected = match expected {
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number from 0 to 18446744073709551615",
        "i64" => "a whole number from -9223372036854775808 to 9223372036854775807",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "an array",
        _ if expected.starts_with("struct ") || expected == "a map" => "an object",
        _ => expected,
    };
    let mut kinds = ["integer ", "floating point ", "boolean "].into_iter();
    let read = kinds.find_map(|kind| found.strip_prefix(kind)).unwrap_or(found);
    // The deserializer rounds long numbers.
    let is_sent = |sent: f64| read.trim_matches('`').parse() == Ok(sent);
    let found = match found {
        "sequence" => "an array",
        "map" => "an object",
        _ if number.parse().is_ok_and(is_sent) => number.get(..250).unwrap_or(number),
        _ => read,
    };
    format!("it must be {expected}, not {}", words(found))
}

/// Reads a JSON body into a type that denies unknown fields.
///
/// # Errors
/// 400 with a JSON pointer to the field that is wrong.
pub fn json_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let body = without_mark(body);
    let mut deserializer = serde_json::Deserializer::from_slice(body);
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
        let detail = match error.inner().classify() {
            Category::Data => in_plain_words(&error.inner().to_string(), number_before(body, error.inner())),
            _ => not_json(body, error.inner()),
        };
        Problem::invalid(pointer, detail)
    })?;
    deserializer
        .end()
        .map_err(|error| Problem::invalid("", not_json(body, &error)))?;
    Ok(value)
}

fn not_json(body: &[u8], error: &serde_json::Error) -> String {
    // The deserializer refuses some JSON: very deep nesting, halves of surrogate pairs, numbers beyond any float.
    let (line, column) = (error.line(), error.column());
    let unreadable = || format!("line {line}, column {column} is nested too deep, too large, or not text");
    let fault = json_fault(body).unwrap_or_else(unreadable);
    format!("the body is not JSON: {fault}")
}

/// The digits of the number that ends where `error` is, as they were sent.
fn number_before<'a>(body: &'a [u8], error: &serde_json::Error) -> &'a str {
    let line = body
        .split(|byte| *byte == b'\n')
        .nth(error.line().saturating_sub(1));
    let text = line
        .and_then(|line| line.get(..error.column()))
        .unwrap_or_default();
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let length = text.iter().rev().take_while(|byte| is_part(byte)).count();
    std::str::from_utf8(&text[text.len() - length..]).unwrap_or_default()
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
        let expected = (vec![Inner { a: 1 }], Some(Inner { a: 2 }));
        assert_eq!((good.list, good.one), expected);
        for (wrong, pointer) in [
            ("[[], null]", ""),
            (r#"{"list":[[1]],"one":null}"#, "/list/0"),
            (r#"{"list":[],"one":[1]}"#, "/one"),
        ] {
            let problem = json_body::<Outer>(wrong.as_bytes()).unwrap_err().to_json();
            assert_eq!(problem["pointer"], pointer, "{wrong}");
            let detail = problem["detail"].as_str().unwrap();
            assert_eq!(detail, "it must be an object, not an array");
        }
    }

    #[test]
    fn a_whole_number_may_have_a_fraction_of_zero() {
        #[derive(Debug, PartialEq, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            count: u64,
            shift: i64,
            ratio: f64,
            any: serde_json::Value,
        }
        let body = br#"{"count":5.0,"shift":-3.00,"ratio":2.0,"any":[7e1,0.5]}"#;
        let any = serde_json::json!([70, 0.5]);
        let (count, shift, ratio) = (5, -3, 2.0);
        let expected = Body {
            count,
            shift,
            ratio,
            any,
        };
        assert_eq!(json_body::<Body>(body).unwrap(), expected);
        for wrong in [
            "5.5",
            "-1.0",
            "900719925474100.0",
            "9007199254740993.0",
            "18446744073709551616",
        ] {
            let body = format!(r#"{{"count":{wrong},"shift":0,"ratio":0,"any":0}}"#);
            let problem = json_body::<Body>(body.as_bytes()).unwrap_err().to_json();
            assert_eq!(problem["pointer"], "/count", "{wrong}");
        }
    }

    #[test]
    fn a_field_that_is_wrong_is_named_with_what_it_must_be_in_words_of_json() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only read")]
        struct Body {
            count: Option<u32>,
            shift: Option<i64>,
            flag: Option<bool>,
            names: Vec<String>,
        }
        for row in [
            r#"/nmes | {"nmes":[]} | unknown field nmes; known here: count, shift, flag, names"#,
            " | {} | the field names is missing",
            r#" | {"names":[],"names":[]} | the field names is given twice"#,
            r#"/names/1 | {"names":["a",7]} | it must be a string, not 7"#,
            r#"/names | {"names":{}} | it must be an array, not an object"#,
            r#"/count | {"count":"5"} | it must be a whole number from 0 to 4294967295, not string "5""#,
            r#"/count | {"count":-1} | it must be a whole number from 0 to 4294967295, not -1"#,
            r#"/count | {"count":1.50} | it must be a whole number from 0 to 4294967295, not 1.50"#,
            r#"/count | {"count":18446744073709551616} | it must be a whole number from 0 to 4294967295, not 18446744073709551616"#,
            "/count | {\n\"count\": 4294967296 } | it must be a whole number from 0 to 4294967295, not 4294967296",
            r#"/flag | {"flag":"at line 1, expected u8"} | it must be true or false, not string "at line 1, expected u8""#,
            " | [1] | it must be an object, not an array",
            " | 7 | it must be an object, not 7",
            r#"/names | {"names":[ | the body is not JSON: the JSON ends early: expected a value (at byte 10)"#,
            r#" | {names} | the body is not JSON: expected a name in quotes, found 'n' (at byte 1)"#,
            r#" | {"names":[]} x | the body is not JSON: expected the end, found 'x' (at byte 13)"#,
        ] {
            let [pointer, body, detail] = row.split(" | ").collect::<Vec<_>>()[..] else {
                panic!("{row}")
            };
            let problem = json_body::<Body>(body.as_bytes()).unwrap_err().to_json();
            let expected = [pointer, detail];
            assert_eq!([&problem["pointer"], &problem["detail"]], expected, "{body}");
        }
        let deep = format!("{{\"names\":{}{}}}", "[".repeat(200), "]".repeat(200));
        for body in [
            &b"{\"names\":[\"\\ud800\"]}"[..],
            b"{\"names\":[\"\xff\"]}",
            deep.as_bytes(),
        ] {
            let detail = json_body::<Body>(body).unwrap_err().to_json()["detail"].to_string();
            assert!(!detail.contains(" at line 1 column "), "{detail}");
        }
    }

    #[test]
    fn a_header_that_must_be_single_is_refused_when_it_is_given_twice() {
        let mut headers = HeaderMap::new();
        let name = http::header::CONTENT_TYPE;
        assert_eq!(single(&headers, &name).unwrap(), None);
        headers.append(&name, HeaderValue::from_static("application/json"));
        assert_eq!(single(&headers, &name).unwrap().unwrap(), "application/json");
        headers.append(&name, HeaderValue::from_static("application/json"));
        let problem = single(&headers, &name).unwrap_err().to_json();
        assert_eq!(problem["pointer"], "content-type");
    }

    #[test]
    fn values_are_percent_decoded() {
        let params = Params::parse(Some("key=a%2Fb+c&x"), &["key", "x"], &[]).unwrap();
        assert_eq!(params.get("key"), Some("a/b c"));
        assert_eq!(params.get("x"), Some(""));
        assert!(Params::parse(Some("key=%zz"), &["key"], &[]).is_err());
    }
}
