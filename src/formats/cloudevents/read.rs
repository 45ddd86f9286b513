//! The JSON event format: one object an event, an array of them a batch, read in place.

use std::borrow::Cow;

use super::attributes::{Content, Draft, is_name, is_text};
use crate::formats::json::{
    Fault, ParsedRecord, RecordError, Scanner, Text, base64, is_json_line, items, not_utf8, null, token,
};

/// Reads one event, the whole of `body` but for white space.
///
/// # Errors
/// The fault, with the pointer to the member.
pub fn parse_event(body: &[u8]) -> Result<ParsedRecord<'_>, RecordError> {
    if let Err(error) = std::str::from_utf8(body) {
        let parse = |prefix: &[u8]| parse_event(prefix).err();
        return Err(not_utf8(body, error.valid_up_to(), parse));
    }
    let mut scanner = Scanner::new(body);
    let record = event(&mut scanner)?;
    scanner.end().map_err(|fault| RecordError::new("", fault))?;
    Ok(record)
}

/// Reads a batch, an array of events, and passes each with its index to `take`, in order; returns their number.
///
/// The events before a wrong one have been passed on when the error returns: do nothing permanent with them.
///
/// # Errors
/// The fault, with the pointer from the batch (`/3/source`), or the error of `take`. An empty batch is an error.
pub fn parse_events<'a, E: From<RecordError>>(
    body: &'a [u8],
    take: impl FnMut(usize, ParsedRecord<'a>) -> Result<(), E>,
) -> Result<usize, E> {
    if let Err(error) = std::str::from_utf8(body) {
        let ignore = |_, _: ParsedRecord<'_>| Ok::<(), RecordError>(());
        return Err(not_utf8(body, error.valid_up_to(), |prefix| batch(prefix, ignore).err()).into());
    }
    batch(body, take)
}

/// [`parse_events`] of UTF-8.
fn batch<'a, E: From<RecordError>>(
    body: &'a [u8],
    mut take: impl FnMut(usize, ParsedRecord<'a>) -> Result<(), E>,
) -> Result<usize, E> {
    let top = |fault| RecordError::new("", fault);
    let mut scanner = Scanner::new(body);
    scanner.expect(b'[', "an array of events").map_err(top)?;
    let count = items(&mut scanner, "", event, &mut take)?;
    if count == 0 {
        return Err(top(Fault::new(scanner.position(), "the batch is empty")).into());
    }
    scanner.end().map_err(top)?;
    Ok(count)
}

/// The data of an event, as it is written.
enum Data<'a> {
    None,
    /// The member `data`: where its value begins, its bytes, and whether line breaks stand between its tokens.
    Json(Scanner<'a>, &'a [u8], bool),
    /// The decoded member `data_base64`.
    Bytes(Vec<u8>),
}

fn event<'a>(scanner: &mut Scanner<'a>) -> Result<ParsedRecord<'a>, RecordError> {
    let top = |fault| RecordError::new("", fault);
    let mut draft = Draft::default();
    let mut data = Data::None;
    scanner.expect(b'{', "an object, as an event is").map_err(top)?;
    let mut more = !scanner.eat(b'}');
    while more {
        let text = scanner.string("a member's name").map_err(top)?;
        let name = text.decode().map_err(top)?;
        let pointer = format!("/{}", token(&name));
        let here = |fault| RecordError::new(&*pointer, fault);
        let wrong = |what: Cow<'static, str>| RecordError::new(&*pointer, Fault::new(text.at, what));
        draft.name(name.clone()).map_err(wrong)?;
        scanner.expect(b':', "':'").map_err(here)?;
        scanner.space();
        match &*name {
            b"data" => {
                let (before, from) = (scanner.clone(), scanner.position());
                let breaks = scanner.value().map_err(here)?;
                let value = scanner.since(from);
                match data {
                    Data::Bytes(_) if value == b"null" => {}
                    Data::Bytes(_) => return Err(wrong(BOTH.into())),
                    _ => data = Data::Json(before, value, breaks),
                }
            }
            b"data_base64" => {
                if !null(scanner) {
                    if matches!(data, Data::Json(_, value, _) if value != b"null") {
                        return Err(wrong(BOTH.into()));
                    }
                    data = Data::Bytes(base64(scanner).map_err(here)?);
                }
            }
            _ if !is_name(&name) => {
                let (shown, rule) = (
                    String::from_utf8_lossy(&name),
                    "its name is lower-case ASCII letters and digits",
                );
                return Err(wrong(format!("{shown:?} cannot be an attribute: {rule}").into()));
            }
            _ => {
                if let Some(value) = attribute(scanner, &name).map_err(here)? {
                    draft.attribute(&name, value).map_err(wrong)?;
                }
            }
        }
        more = !scanner.eat(b'}');
        if more {
            scanner.expect(b',', "',' or '}'").map_err(here)?;
        }
    }
    let content = draft.content();
    let mut record = draft.finish().map_err(|missing| {
        let what = format!("{missing} is missing");
        RecordError::new(format!("/{missing}"), Fault::new(scanner.position(), what))
    })?;
    record.json_line = true;
    match data {
        Data::None => {}
        Data::Bytes(bytes) => {
            record.json_line = is_json_line(&bytes);
            record.value = Some(bytes.into());
        }
        Data::Json(_, json, breaks) if content == Content::Json => {
            record.json_line = !breaks && json != b"null";
            record.value = Some(Cow::Borrowed(json));
        }
        // A `null` means something in JSON only: with another type there is no data.
        Data::Json(_, b"null", _) => {}
        Data::Json(mut before, ..) => {
            let value = string(&mut before, content).map_err(|fault| RecordError::new("/data", fault))?;
            record.json_line = is_json_line(&value);
            record.value = Some(value);
        }
    }
    Ok(record)
}

const BOTH: &str = "data and data_base64 exclude each other";

/// The data of an event whose content type is not JSON.
fn string<'a>(scanner: &mut Scanner<'a>, content: Content) -> Result<Cow<'a, [u8]>, Fault> {
    if content == Content::Encoded {
        let what = "the content type names an encoding other than UTF-8: send its bytes as data_base64";
        return Err(Fault::new(scanner.position(), what));
    }
    let text: Text<'a> =
        scanner.string("a string, for the content type is not JSON; bytes are data_base64")?;
    text.decode()
}

/// An attribute's value in its canonical text; `None` for null, which counts as absent.
fn attribute<'a>(scanner: &mut Scanner<'a>, name: &[u8]) -> Result<Option<Cow<'a, [u8]>>, Fault> {
    let from = scanner.position();
    match scanner.peek() {
        Some(b'"') => return Ok(Some(scanner.string("a string")?.decode()?)),
        Some(b'{' | b'[') => {
            let what = "an attribute is a string, an integer or a boolean";
            return Err(Fault::new(from, what));
        }
        _ => {}
    }
    scanner.value()?;
    let literal = scanner.since(from);
    if literal == b"null" {
        return Ok(None);
    }
    if is_text(name) {
        return Err(Fault::new(from, "this attribute is a string"));
    }
    if matches!(literal, b"true" | b"false") {
        return Ok(Some(Cow::Borrowed(literal)));
    }
    // The range of the specification's integers.
    let number: i32 = std::str::from_utf8(literal)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Fault::new(from, "a number is an integer of 32 bits; send others as strings"))?;
    Ok(Some(number.to_string().into_bytes().into()))
}

#[cfg(test)]
mod tests {
    use quipu_segments::TimestampMs;

    use super::*;

    const REST: &str = r#""specversion":"1.0","id":"1","source":"/s","type":"t""#;

    fn parse(json: &str) -> ParsedRecord<'_> {
        parse_event(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"))
    }

    fn headers(record: &ParsedRecord<'_>) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let pair = |(name, value): &(Cow<'_, [u8]>, Option<Cow<'_, [u8]>>)| {
            (text(name), text(value.as_deref().unwrap()))
        };
        record.headers.iter().map(pair).collect()
    }

    fn pointer(json: &str) -> String {
        parse_event(json.as_bytes()).expect_err(json).pointer
    }

    /// The value of an event with these members besides the required ones.
    fn value(members: &str) -> Option<Vec<u8>> {
        let json = format!("{{{REST},{members}}}");
        parse(&json).value.map(Cow::into_owned)
    }

    #[test]
    fn attributes_become_headers_the_partition_key_the_key_and_the_time_the_timestamp() {
        let json = r#" { "specversion" : "1.0", "type":"com.example.order.placed", "source":"/shops/7", "id":"a-1",
            "subject":null, "time":"2018-04-05T17:31:00Z", "retries":-5, "express":true, "note":"caf\u00e9",
            "partitionkey":"N14228", "datacontenttype":"application/json",
            "data": { "total" : 1.50, "lines" : [ ] } } "#;
        let record = parse(json);
        assert_eq!(
            headers(&record),
            [
                ("ce_specversion", "1.0"),
                ("ce_type", "com.example.order.placed"),
                ("ce_source", "/shops/7"),
                ("ce_id", "a-1"),
                ("ce_time", "2018-04-05T17:31:00Z"),
                ("ce_retries", "-5"),
                ("ce_express", "true"),
                ("ce_note", "caf\u{e9}"),
                ("ce_partitionkey", "N14228"),
                ("content-type", "application/json"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert_eq!(record.key.as_deref(), Some(&b"N14228"[..]));
        assert_eq!(record.timestamp, Some(TimestampMs(1_522_949_460_000)));
        let data = br#"{ "total" : 1.50, "lines" : [ ] }"#;
        assert_eq!(record.value.as_deref(), Some(&data[..]));
        assert!(record.json_line && matches!(record.value, Some(Cow::Borrowed(_))));
    }

    #[test]
    fn data_is_json_a_string_or_bytes_as_the_content_type_has_it() {
        for (members, expected) in [
            (r#""data":"text""#, Some(&b"\"text\""[..])),
            (r#""data":null"#, Some(b"null")),
            (r#""x":1"#, None),
            (r#""data_base64":null"#, None),
            (
                r#""data":"<a b=\"c\"/>","datacontenttype":"application/xml""#,
                Some(b"<a b=\"c\"/>"),
            ),
            (r#""datacontenttype":"text/plain","data":null"#, None),
            (
                r#""data_base64":"AP8=","datacontenttype":"application/json""#,
                Some(b"\0\xff"),
            ),
            (r#""data":null,"data_base64":"AP8=""#, Some(b"\0\xff")),
            (r#""data_base64":"AP8=","data":null"#, Some(b"\0\xff")),
        ] {
            assert_eq!(value(members).as_deref(), expected, "{members}");
        }
    }

    #[test]
    fn a_fault_has_its_pointer() {
        for row in [
            r#"/specversion {} {"specversion":"1.1"} {"specversion":1.0} {"specversion":"0.3"}"#,
            r#"/id {"specversion":"1.0"} {"id":7} {"id":""} {"id":["a"]} {"id":"a\nb"}"#,
            r#"/id {"id":"a","id":"a"} {"id":null,"id":"a"}"#,
            r#"/source {"specversion":"1.0","id":"1","type":"t"}"#,
            r#"/type {"specversion":"1.0","id":"1","source":"/s"}"#,
            r#"/type {"specversion":"1.0","id":"1","source":"/s","type":null}"#,
            r#"/subject {"subject":""}"#,
            r#"/time {"time":"yesterday"} {"time":1522949460000}"#,
            r#"/Source {"Source":"/s"}"#,
            r#"/my_ext {"my_ext":"x"}"#,
            r#"/a~1b {"a/b":"x"}"#,
            r#"/ {"":"x"}"#,
            r#"/x {"x":1.0} {"x":1e3} {"x":2147483648} {"x":{}} {"x":[]} {"x":NaN}"#,
            r#"/partitionkey {"partitionkey":7}"#,
            r#"/data {"data_base64":"AA==","data":1} {"data":1,"data":1} {"data":}"#,
            r#"/data_base64 {"data":1,"data_base64":"AA=="} {"data_base64":"?"} {"data_base64":7}"#,
            " [] {",
        ] {
            let (expected, all) = row.split_once(' ').unwrap();
            for json in all.split(' ') {
                assert_eq!(pointer(json), expected, "{json}");
            }
        }
        let expected = (String::new(), "/specversion".to_owned());
        assert_eq!((pointer(""), pointer(r#"{"id":"1"} x"#)), expected);
        for content_type in ["text/plain", "text/plain; charset=latin1"] {
            let data = if content_type == "text/plain" {
                "{}"
            } else {
                r#""x""#
            };
            let json = format!(r#"{{{REST},"data":{data},"datacontenttype":"{content_type}"}}"#);
            assert_eq!(pointer(&json), "/data", "{json}");
        }
        assert_eq!(pointer(&format!("{{{REST}}} x")), "");
        assert_eq!(parse_event(b"{\"id\":\"\xff\"}").unwrap_err().pointer, "/id");
    }

    #[test]
    fn a_batch_is_an_array_of_at_least_one_event_and_names_the_wrong_one() {
        let read = |body: &str| {
            let mut ids = Vec::new();
            let count = parse_events(body.as_bytes(), |index, record| {
                assert_eq!(index, ids.len());
                ids.push(record.headers[1].1.clone().unwrap().into_owned());
                Ok::<_, RecordError>(())
            });
            count.map(|count| {
                assert_eq!(count, ids.len());
                ids
            })
        };
        let second = REST.replace("\"id\":\"1\"", "\"id\":\"2\"");
        let both = read(&format!(" [ {{{REST}}} , {{{second}}} ] ")).unwrap();
        assert_eq!(both, [b"1".to_vec(), b"2".to_vec()]);
        for (body, expected) in [
            ("[]", ""),
            ("REST", ""),
            ("[REST", ""),
            ("[REST,]", "/1"),
            (r#"[REST,{"specversion":"1.0","id":"1"}]"#, "/1/source"),
            ("[REST,1]", "/1"),
            ("[REST]x", ""),
        ] {
            let body = body.replace("REST", &format!("{{{REST}}}"));
            assert_eq!(read(&body).unwrap_err().pointer, expected, "{body}");
        }
        let broken = [format!("[{{{REST}}},{{\"x\":\"").as_bytes(), b"\xff"].concat();
        let error = parse_events(&broken, |_, _| Ok::<_, RecordError>(())).unwrap_err();
        assert_eq!(error.pointer, "/1/x");
    }

    #[test]
    fn many_attributes_are_read_and_too_many_are_refused() {
        let event = |count: usize| {
            let all: Vec<String> = (0..count).map(|number| format!("\"x{number}\":\"\"")).collect();
            format!("{{{REST},{}}}", all.join(","))
        };
        assert_eq!(parse(&event(1000)).headers.len(), 1004);
        assert_eq!(pointer(&event(10_000)), "/x9996");
        assert_eq!(pointer(&event(100).replace("\"x99\":", "\"x3\":")), "/x3");
        let absent = event(10_000).replace(":\"\"", ":null");
        assert_eq!(pointer(&absent), "/x9996", "what is null takes memory too");
    }
}
