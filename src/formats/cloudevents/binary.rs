//! The binary mode of the HTTP binding: attributes in headers that begin with `ce-`, the data in the body.

use std::borrow::Cow;

use super::attributes::Draft;
use crate::formats::json::{ParsedRecord, RecordError};

/// Reads an event from a request's headers. Its value is `body`, or none if that is empty, as an event without data has
/// none.
///
/// `headers` are all of the request's, with names in lower case; headers that are not the event's are skipped. The
/// value is not checked for JSON.
///
/// # Errors
/// The fault, with the name of the header as the pointer.
pub fn read_binary<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    body: &'a [u8],
) -> Result<ParsedRecord<'a>, RecordError> {
    let mut draft = Draft::default();
    for (header, value) in headers {
        let wrong = |detail: Cow<'static, str>| RecordError {
            pointer: header.to_owned(),
            detail: detail.into_owned(),
        };
        let name = match header.strip_prefix("ce-") {
            Some("datacontenttype") => {
                return Err(wrong("the type of the data is the header content-type".into()));
            }
            Some(name) => name,
            // An empty content type means nothing.
            None if header == "content-type" && !value.is_empty() => "datacontenttype",
            None => continue,
        };
        draft.name(Cow::Borrowed(name.as_bytes())).map_err(wrong)?;
        let value = match name {
            "datacontenttype" => Cow::Borrowed(value),
            _ => decode(value).map_err(|what| wrong(what.into()))?,
        };
        draft.attribute(name.as_bytes(), value).map_err(wrong)?;
    }
    let mut record = draft.finish().map_err(|missing| RecordError {
        pointer: format!("ce-{missing}"),
        detail: format!("the header ce-{missing} is missing"),
    })?;
    if !body.is_empty() {
        record.value = Some(Cow::Borrowed(body));
    }
    Ok(record)
}

/// Decodes a header's value: removes quotes, then one round of percent-encoding.
fn decode(value: &[u8]) -> Result<Cow<'_, [u8]>, &'static str> {
    let plain = if value.contains(&b'"') {
        Cow::Owned(unquote(value)?)
    } else {
        Cow::Borrowed(value)
    };
    if !plain.contains(&b'%') {
        return Ok(plain);
    }
    let mut out = Vec::with_capacity(plain.len());
    let mut bytes = plain.iter();
    let digit = |byte: Option<&u8>| byte.and_then(|byte| (*byte as char).to_digit(16));
    while let Some(&byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
            _ => return Err("a percent sign is followed by two hexadecimal digits; the sign itself is %25"),
        }
    }
    Ok(out.into())
}

/// Removes double quotes, and the backslashes within them.
fn unquote(value: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::with_capacity(value.len());
    let mut quoted = false;
    let mut bytes = value.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => out.push(*bytes.next().ok_or("a backslash ends the value")?),
            other => out.push(other),
        }
    }
    if quoted {
        Err("a quote is not closed")
    } else {
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: [(&str, &[u8]); 4] = [
        ("ce-specversion", b"1.0"),
        ("ce-id", b"a-1"),
        ("ce-source", b"/shops/7"),
        ("ce-type", b"com.example.order.placed"),
    ];

    fn read<'a>(more: &[(&'a str, &'a [u8])], body: &'a [u8]) -> Result<ParsedRecord<'a>, RecordError> {
        read_binary(REST.iter().chain(more).copied(), body)
    }

    fn header(record: &ParsedRecord<'_>, name: &str) -> Option<String> {
        let (_, value) = record.headers.iter().find(|(n, _)| &**n == name.as_bytes())?;
        Some(String::from_utf8(value.as_deref()?.to_vec()).unwrap())
    }

    #[test]
    fn headers_are_attributes_and_the_body_is_the_data() {
        let more: [(&str, &[u8]); 5] = [
            ("host", b"x"),
            ("content-type", b"application/json; charset=utf-8"),
            ("ce-partitionkey", b"N14228"),
            ("ce-time", b"2018-04-05T17:31:00Z"),
            ("traceparent", b"00-ab"),
        ];
        let record = read(&more, b" { } ").unwrap();
        assert_eq!(header(&record, "ce_source").unwrap(), "/shops/7");
        let expected = "application/json; charset=utf-8";
        assert_eq!(header(&record, "content-type").unwrap(), expected);
        assert_eq!(header(&record, "traceparent"), None);
        assert_eq!(record.headers.len(), 7);
        assert_eq!(record.key.as_deref(), Some(&b"N14228"[..]));
        assert_eq!(record.timestamp.unwrap().get(), 1_522_949_460_000);
        assert_eq!(record.value.as_deref(), Some(&b" { } "[..]));
        assert_eq!(read(&[], b"").unwrap().value, None);
        assert_eq!(read(&[("content-type", b"")], b"").unwrap().headers.len(), 4);
    }

    #[test]
    fn values_are_unquoted_and_percent_decoded_once() {
        for (value, expected) in [
            (&b"Euro%20%E2%82%AC%20%f0%9f%98%80"[..], "Euro \u{20ac} \u{1f600}"),
            (b"100%2525", "100%25"),
            (b"plain text", "plain text"),
            (b"\"a b\"", "a b"),
            (br#""say \"%22\" \\""#, "say \"\"\" \\"),
            ("caf\u{e9}".as_bytes(), "caf\u{e9}"),
            (b"", ""),
        ] {
            let more = [("ce-x", value)];
            let record = read(&more, b"").unwrap();
            assert_eq!(header(&record, "ce_x").unwrap(), expected);
        }
    }

    #[test]
    fn a_fault_names_its_header() {
        for (name, value) in [
            ("ce-x", &b"100%"[..]),
            ("ce-x", b"%zz"),
            ("ce-x", b"%C0%A0"),
            ("ce-x", b"%0a"),
            ("ce-x", b"\"open"),
            ("ce-x", b"\"open\\"),
            ("ce-x", b"\xff"),
            ("ce-my_ext", b"x"),
            ("ce-", b"x"),
            ("ce-data", b"x"),
            ("ce-datacontenttype", b"text/plain"),
            ("ce-time", b"now"),
            ("ce-subject", b""),
            ("ce-id", b"again"),
            ("content-type", b"a\nb"),
        ] {
            let more = [(name, value)];
            assert_eq!(read(&more, b"").expect_err(name).pointer, name);
        }
        let more: [(&str, &[u8]); 2] = [("content-type", b"a/b"), ("content-type", b"a/b")];
        assert_eq!(read(&more, b"").unwrap_err().pointer, "content-type");
        for (missing, _) in REST {
            let rest = REST.into_iter().filter(|(name, _)| *name != missing);
            assert_eq!(read_binary(rest, b"").unwrap_err().pointer, missing);
        }
        let error = read_binary([("ce-specversion", &b"0.3"[..])].into_iter(), b"").unwrap_err();
        assert_eq!(error.pointer, "ce-specversion");
    }
}
