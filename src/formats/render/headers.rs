//! The headers of a record as a JSON object.
//!
//! A value is a string; `{"base64":"…"}` if its bytes are not UTF-8; `null` if the header has no value; an array of
//! those if a name repeats. Names appear in order of their first use. A name that is not UTF-8 (only a record batch can
//! bring one) is shown with replacement characters.

use std::borrow::Cow;
use std::collections::HashMap;

use super::text::{push_base64, push_string};

type Header<'a> = (&'a [u8], Option<&'a [u8]>);
/// A name as shown, and its values.
type Group<'a> = (Cow<'a, str>, Vec<Option<&'a [u8]>>);

/// Above this many headers repeated names are found by hashing: comparing each with each would cost the square.
const FEW: usize = 16;

/// Adds `,"headers":{…}`.
pub(super) fn push_headers<'a>(out: &mut Vec<u8>, headers: impl Iterator<Item = Header<'a>>) {
    let headers: Vec<Header<'a>> = headers.collect();
    out.extend_from_slice(b",\"headers\":{");
    if has_repeated_names(&headers) {
        push_grouped(out, &headers);
    } else {
        for (index, (name, value)) in headers.iter().enumerate() {
            push_name(out, index, &String::from_utf8_lossy(name));
            push_header_value(out, *value);
        }
    }
    out.push(b'}');
}

fn has_repeated_names(headers: &[Header<'_>]) -> bool {
    // Names that are not UTF-8 may become equal by their replacement characters: grouping compares what is shown.
    if headers.len() > FEW || headers.iter().any(|(name, _)| !name.is_ascii()) {
        return true;
    }
    headers
        .iter()
        .enumerate()
        .any(|(index, (name, _))| headers[..index].iter().any(|(earlier, _)| earlier == name))
}

/// Headers with repeated names: the values of one name share an array.
fn push_grouped(out: &mut Vec<u8>, headers: &[Header<'_>]) {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut group_of: HashMap<Cow<'_, str>, usize> = HashMap::new();
    for (name, value) in headers {
        let name = String::from_utf8_lossy(name);
        if let Some(&group) = group_of.get(&name) {
            groups[group].1.push(*value);
        } else {
            group_of.insert(name.clone(), groups.len());
            groups.push((name, vec![*value]));
        }
    }
    for (index, (name, values)) in groups.iter().enumerate() {
        push_name(out, index, name);
        if let [value] = values[..] {
            push_header_value(out, value);
            continue;
        }
        for (index, value) in values.iter().enumerate() {
            out.push(if index == 0 { b'[' } else { b',' });
            push_header_value(out, *value);
        }
        out.push(b']');
    }
}

fn push_name(out: &mut Vec<u8>, index: usize, name: &str) {
    if index > 0 {
        out.push(b',');
    }
    push_string(out, name);
    out.push(b':');
}

fn push_header_value(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
        None => out.extend_from_slice(b"null"),
        Some(Ok(text)) => push_string(out, text),
        Some(Err(bytes)) => {
            out.extend_from_slice(b"{\"base64\":\"");
            push_base64(out, bytes);
            out.extend_from_slice(b"\"}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(headers: &[Header<'_>]) -> String {
        let mut out = Vec::new();
        push_headers(&mut out, headers.iter().copied());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn headers_are_strings_base64_null_or_arrays_of_those() {
        let repeated: [Header<'_>; 4] = [
            (b"a", Some(b"1")),
            (b"b", Some(b"2")),
            (b"a", Some(b"\xff")),
            (b"a", None),
        ];
        for (headers, expected) in [
            (&[(&b"a"[..], Some(&b"x"[..]))][..], r#"{"a":"x"}"#),
            (
                &[(b"a", Some(b"\xff")), (b"b", None), (b"c\"", Some(b""))],
                r#"{"a":{"base64":"/w=="},"b":null,"c\"":""}"#,
            ),
            (&repeated, r#"{"a":["1",{"base64":"/w=="},null],"b":"2"}"#),
            // Names that look equal once they are shown are one member.
            (
                &[(b"\xff", Some(b"1")), (b"\xfe", Some(b"2"))],
                "{\"\u{fffd}\":[\"1\",\"2\"]}",
            ),
        ] {
            assert_eq!(rendered(headers), format!(",\"headers\":{expected}"));
        }
    }

    #[test]
    fn many_headers_keep_the_order_of_their_names() {
        let names: Vec<String> = (0..1000).map(|n| format!("n{}", n % 500)).collect();
        let value = Some(&b"v"[..]);
        let headers: Vec<Header<'_>> = names.iter().map(|name| (name.as_bytes(), value)).collect();
        let text = rendered(&headers);
        let holds = text.starts_with(r#","headers":{"n0":["v","v"],"n1":["v","v"],"n2":"#);
        assert!(holds, "{text}");
    }
}
