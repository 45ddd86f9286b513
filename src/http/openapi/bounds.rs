//! Bounds that a name or a type gives: one word has one meaning in the whole API, so it has one range.

use serde_json::{Map, Value, json};

/// The largest offset.
pub(super) const OFFSET: u64 = i64::MAX as u64;
/// A name of a topic or a group: 1 to 249 of `A-Z a-z 0-9 . _ -`; not `.` or `..`, not beginning with `__`. Written
/// without looking ahead, which not all libraries of regular expressions can.
pub(super) const NAME: &str = r"^(?:[A-Za-z0-9-][A-Za-z0-9._-]{0,248}|_(?:[A-Za-z0-9.-][A-Za-z0-9._-]{0,247})?|\.(?:[A-Za-z0-9_-][A-Za-z0-9._-]{0,247}|\.[A-Za-z0-9._-]{1,247}))$";
/// A name of a topic or a group in which `*` stands for any characters.
pub(super) const NAME_WITH_STARS: &str = r"^(?:[A-Za-z0-9*-][A-Za-z0-9._*-]{0,248}|_(?:[A-Za-z0-9.*-][A-Za-z0-9._*-]{0,247})?|\.(?:[A-Za-z0-9_*-][A-Za-z0-9._*-]{0,247}|\.[A-Za-z0-9._*-]{1,247}))$";
/// A name of a member, a client or a process: 1 to 255 visible characters, not `.` or `..`.
pub(super) const MEMBER: &str = r"^(?:[!-\-/-~][!-~]{0,254}|\.(?:[!-\-/-~][!-~]{0,253}|\.[!-~]{1,253}))$";
/// A name of a topic, or a pattern of names: `*` and `#` are whole words.
pub(super) const NAME_OR_PATTERN: &str =
    r"^(?:[*#]|[A-Za-z0-9-][A-Za-z0-9_-]*|_(?:[A-Za-z0-9-][A-Za-z0-9_-]*)?)(?:\.(?:[*#]|[A-Za-z0-9_-]*))*$";

/// An attribute of an event in a header: visible ASCII with blanks within, and other characters percent-encoded as UTF-8.
/// Double quotes come in pairs; between them a backslash makes the next character stand for itself. The parts: a plain
/// character, or some between quotes; and encoded ones by their length, without control characters and code points that are no
/// characters (and without two blocks that have some).
const ATTRIBUTE: &str = concat!(
    r#"^(?:"")*(?:(?:"#,
    r#"[!#$&-~]|"(?:[ !#$&-\[\]-~]|\\[ -$&-~])+""#,
    r"|%[2-6][0-9A-Fa-f]|%7[0-9A-Ea-e]",
    r"|%(?:[Cc](?:2%[ABab]|[3-9A-Fa-f]%[89ABab])|[Dd][0-9A-Fa-f]%[89ABab])[0-9A-Fa-f]",
    r"|%[Ee](?:0%[ABab][0-9A-Fa-f]|[1-9A-Ca-cEe]%[89ABab][0-9A-Fa-f]|[Dd]%[89][0-9A-Fa-f]|[Ff]%(?:[89Aa][0-9A-Fa-f]|[Bb][0-689A-Ea-e]))%[89ABab][0-9A-Fa-f]",
    r"|%[Ff](?:0%[9ABab]|[1-3]%[89ABab]|4%8)(?:[0-9A-Ea-e]%[89ABab][0-9A-Fa-f]|[Ff]%(?:[89Aa][0-9A-Fa-f]|[Bb][0-9A-Ea-e]))%[89ABab][0-9A-Fa-f]",
    r#")(?: |"")*)+$"#,
);

/// What the name of a parameter, or of a field in a request, says about its value.
fn of_name(name: &str) -> Option<Value> {
    Some(match name {
        "topic" | "group" | "dead_letter_topic" => json!({"minLength": 1, "maxLength": 249, "pattern": NAME}),
        "member" | "member_id" | "client_id" | "instance" => {
            json!({"minLength": 1, "maxLength": 255, "pattern": MEMBER})
        }
        name if name.starts_with("ce-") && name != "ce-specversion" => {
            json!({"minLength": 1, "pattern": ATTRIBUTE})
        }
        "value_limit" => json!({"maximum": u32::MAX}),
        "before" => json!({"maximum": OFFSET}),
        name if name == "offset" || name.ends_with("_offset") => json!({"maximum": OFFSET}),
        _ => return None,
    })
}

/// Adds the bounds that `name` gives to the schema of a parameter, or of a field in a request.
pub(super) fn by_name(name: &str, schema: &mut Value) {
    let Some(bounds) = of_name(name) else { return };
    let is = |kind: &str| match &schema["type"] {
        Value::String(one) => one == kind,
        Value::Array(several) => several.iter().any(|one| one == kind),
        _ => false,
    };
    let applies = match bounds.get("pattern") {
        Some(_) => is("string") && schema.get("enum").is_none(),
        None => is("integer"),
    };
    if let (true, Value::Object(schema), Value::Object(bounds)) = (applies, schema, bounds) {
        for (keyword, value) in bounds {
            schema.entry(keyword).or_insert(value);
        }
    }
}

/// Adds to every schema within `value` what follows from its type: the range of an integer, and `enum` for a pattern
/// that only lists words.
pub(super) fn by_type(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(by_type),
        Value::Object(schema) => {
            words(schema);
            range(schema);
            schema.values_mut().for_each(by_type);
        }
        _ => {}
    }
}

/// `^(a|b)$` is the list of `a` and `b`.
fn words(schema: &mut Map<String, Value>) {
    let Some(Value::String(pattern)) = schema.get("pattern") else {
        return;
    };
    let list = pattern
        .strip_prefix("^(")
        .and_then(|rest| rest.strip_suffix(")$"));
    let Some(list) = list else { return };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"|-_./+".contains(&byte);
    if !list.bytes().all(is_plain) {
        return;
    }
    let mut words: Vec<Value> = list.split('|').map(Value::from).collect();
    if schema["type"]
        .as_array()
        .is_some_and(|types| types.iter().any(|kind| kind == "null"))
    {
        words.push(Value::Null);
    }
    schema.remove("pattern");
    schema.insert("enum".to_owned(), words.into());
}

fn range(schema: &mut Map<String, Value>) {
    let (format, low, high) = match schema.get("format").and_then(Value::as_str) {
        // The registry of formats spells them without the dash.
        Some("u-int32" | "uint32") => ("uint32", json!(0), json!(u32::MAX)),
        Some("u-int64" | "uint64") => ("uint64", json!(0), json!(u64::MAX)),
        Some("int32") => ("int32", json!(i32::MIN), json!(i32::MAX)),
        Some("int64") => ("int64", json!(i64::MIN), json!(i64::MAX)),
        _ => return,
    };
    schema.insert("format".to_owned(), format.into());
    schema.entry("minimum").or_insert(low);
    schema.entry("maximum").or_insert(high);
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;
    use crate::broker::names;
    use crate::formats::cloudevents::read_binary;

    fn fits(pattern: &str, text: &str) -> bool {
        Regex::new(pattern).unwrap().is_match(text)
    }

    #[test]
    fn the_pattern_of_names_is_the_rule_of_names() {
        let long = "n".repeat(249);
        let dots = format!("..{}", "a".repeat(247));
        for good in [
            "a",
            "A.b-c_9",
            "billing-1",
            "...",
            "_x",
            "_",
            "-",
            ".a",
            "..a",
            "_.",
            &long,
            &dots,
        ] {
            assert!(names::TOPIC.check(good).is_ok() && fits(NAME, good), "{good}");
        }
        let long = "n".repeat(250);
        let dots = format!("..{}", "a".repeat(248));
        for bad in ["", ".", "..", "__x", "__", "a b", "a/b", "ü", "a\0", &long, &dots] {
            assert!(names::TOPIC.check(bad).is_err() && !fits(NAME, bad), "{bad}");
        }
    }

    #[test]
    fn the_pattern_of_members_is_the_rule_of_members() {
        for text in ["a/b:c", "__x", "", "a b", "ü", &"n".repeat(255), &"n".repeat(256)] {
            assert_eq!(names::MEMBER.check(text).is_ok(), fits(MEMBER, text), "{text}");
        }
    }

    #[test]
    fn what_the_pattern_of_attributes_allows_is_read_and_what_it_refuses_is_not() {
        let is_read = |value: &str| {
            let headers = [
                ("ce-specversion", "1.0"),
                ("ce-id", value),
                ("ce-source", "/shops/7"),
                ("ce-type", "t"),
            ];
            let headers = headers.map(|(name, value)| (name, value.as_bytes()));
            read_binary(headers.into_iter(), b"").is_ok()
        };
        let good = [
            "a",
            "a b",
            "a%20b",
            "%7E",
            "%c3%bc",
            "%E2%82%AC",
            "%f0%9f%98%80",
            "%C2%A0",
            "%ed%9f%bf",
            "%ef%bb%bf",
            "%f1%9f%be%8e",
            "%F4%8f%be%bf",
            "\\",
            "\"a\"",
            "\"a b\"c",
            "\"\"a",
            "a\"\"",
            "a\"b\" ",
            "\" \"",
            r#""say \"hi\" \\""#,
        ];
        for text in good {
            assert!(is_read(text) && fits(ATTRIBUTE, text), "{text}");
        }
        let bad = [
            "",
            "\"",
            "\"\"",
            "a\"",
            "\"a",
            r#"a"b\""#,
            r#""\"#,
            "%",
            "a%",
            "%2",
            "%zz",
            "%0a",
            "%1F",
            "%7f",
            "%C0%A0",
            "%c3",
            "%c3a",
            "%ed%a0%80",
            "%ef%bf%bf",
            "%ef%b7%90",
            "%f1%9f%bf%bf",
            "%c2%85",
            "%e0%80%80",
            "%f4%90%80%80",
            "%f0%80%80%80",
            "%c0%80",
            "%ff",
            "\n",
        ];
        for text in bad {
            assert!(!is_read(text) && !fits(ATTRIBUTE, text), "{text}");
        }
    }

    #[test]
    fn a_pattern_that_lists_words_becomes_their_list() {
        let mut schema = json!({"type": ["string", "null"], "pattern": "^(a|b-c)$"});
        by_type(&mut schema);
        assert_eq!(
            schema,
            json!({"type": ["string", "null"], "enum": ["a", "b-c", null]})
        );
        let mut schema = json!({"type": "string", "pattern": "^(a|b)*$"});
        by_type(&mut schema);
        assert_eq!(schema["pattern"], "^(a|b)*$");
    }
}
