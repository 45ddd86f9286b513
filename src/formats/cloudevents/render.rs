//! Records as events in the JSON event format.
//!
//! A record that came as an event becomes that event again: its attributes, and its data. An event that a Kafka client
//! stored in structured mode is the record's value, copied unchanged. Any other record becomes an event whose
//! attributes give its place:
//!
//! ```json
//! {"specversion":"1.0","id":"orders/0/1042","source":"/v1/topics/orders/partitions/0","type":"quipu.record",
//!  "time":"2013-01-01T10:57:00Z","partitionkey":"N14228","data":{"event":"FlightDeparted"}}
//! ```
//!
//! Headers of such a record become extension attributes, if their names and values are legal; `content-type` becomes
//! `datacontenttype`. In both cases data is JSON if the bytes are JSON and the content type says so or is absent; a
//! string if they are UTF-8 text; else Base64.

use jiff::Timestamp;
use quipu_segments::batch::Record;

use super::attributes::{Content, Names, REQUIRED, fault, is_known, is_name};
use super::{CONTENT_TYPE, PREFIX, parse_event};
use crate::formats::render::text::{push_base64, push_string};
use crate::formats::render::value::{is_json_and_not_null, spaces_for_breaks};
use crate::formats::render::{Layout, push_number};

type Header<'a> = (&'a [u8], Option<&'a [u8]>);

/// Renders the records of one partition as events.
#[derive(Clone, Debug)]
pub struct EventRenderer {
    /// The beginning of a record that is no event, up to the offset in its id.
    head: Vec<u8>,
    /// From after its id to the end of its type.
    middle: Vec<u8>,
    layout: Layout,
}

impl EventRenderer {
    /// A renderer for the records of a partition.
    pub fn new(topic: &str, partition: u32, layout: Layout) -> Self {
        let mut middle = b"\",\"source\":".to_vec();
        push_string(&mut middle, &format!("/v1/topics/{topic}/partitions/{partition}"));
        middle.extend_from_slice(b",\"type\":\"quipu.record\"");
        let mut head = b"{\"specversion\":\"1.0\",\"id\":".to_vec();
        push_string(&mut head, &format!("{topic}/{partition}/"));
        head.pop();
        Self { head, middle, layout }
    }

    /// Adds `record` to `out` as one JSON object; the caller adds commas and line ends.
    ///
    /// `json_lines`: the value is known to be JSON without line breaks, and not `null`, as for
    /// [`RecordRenderer::push`](crate::formats::render::RecordRenderer::push).
    pub fn push(&self, out: &mut Vec<u8>, record: &Record<'_>, json_lines: bool) {
        let headers: Vec<Header<'_>> = record.headers.iter().collect();
        let content_type = headers
            .iter()
            .find(|(name, value)| *name == CONTENT_TYPE && is_legal(b"datacontenttype", *value))
            .and_then(|(_, value)| *value);
        if is_event(&headers) {
            push_event(out, &headers);
        } else if let Some(event) = structured(content_type, record.value) {
            self.push_json(out, event, json_lines);
            return;
        } else {
            self.push_record(out, record, &headers);
        }
        if let Some(stored) = record.value {
            let content = content_type.map_or(Content::Json, Content::of);
            self.push_data(out, stored, content, json_lines);
        }
        out.push(b'}');
    }

    /// The attributes of a record that is no event.
    fn push_record(&self, out: &mut Vec<u8>, record: &Record<'_>, headers: &[Header<'_>]) {
        out.extend_from_slice(&self.head);
        push_number(out, record.offset.get());
        out.extend_from_slice(&self.middle);
        // The years of RFC 3339.
        if let Ok(time) = Timestamp::from_millisecond(record.timestamp.get())
            && let text = time.to_string()
            && is_legal(b"time", Some(text.as_bytes()))
        {
            push_attribute(out, b"time", text.as_bytes());
        }
        if let Some(key) = record.key
            && is_legal(b"partitionkey", Some(key))
        {
            push_attribute(out, b"partitionkey", key);
        }
        let mut names = Names::default();
        for (name, value) in headers {
            let name = match *name {
                CONTENT_TYPE => b"datacontenttype",
                other if is_name(other) && !is_known(other) => other,
                _ => continue,
            };
            if is_legal(name, *value) && names.insert(name.into()) {
                push_attribute(out, name, value.unwrap_or_default());
            }
        }
    }

    fn push_data(&self, out: &mut Vec<u8>, stored: &[u8], content: Content, json_lines: bool) {
        match content {
            Content::Json if json_lines || is_data(stored) => {
                out.extend_from_slice(b",\"data\":");
                self.push_json(out, stored, json_lines);
            }
            Content::Text if let Ok(text) = std::str::from_utf8(stored) => {
                out.extend_from_slice(b",\"data\":");
                push_string(out, text);
            }
            _ => {
                out.extend_from_slice(b",\"data_base64\":\"");
                push_base64(out, stored);
                out.push(b'"');
            }
        }
    }

    fn push_json(&self, out: &mut Vec<u8>, json: &[u8], is_line: bool) {
        let start = out.len();
        out.extend_from_slice(json);
        if !is_line && self.layout == Layout::Lines {
            spaces_for_breaks(&mut out[start..]);
        }
    }
}

/// Whether the bytes are JSON that a reader gets back unchanged: white space around it would be lost.
fn is_data(stored: &[u8]) -> bool {
    stored == b"null" || (stored.trim_ascii().len() == stored.len() && is_json_and_not_null(stored))
}

fn is_legal(name: &[u8], value: Option<&[u8]>) -> bool {
    value.is_some_and(|value| fault(name, value).is_none())
}

/// The value, if it is an event in the JSON format, by its content type and its content.
fn structured<'a>(content_type: Option<&[u8]>, value: Option<&'a [u8]>) -> Option<&'a [u8]> {
    const EVENT: &[u8] = b"application/cloudevents+json";
    let (start, rest) = content_type?.split_at_checked(EVENT.len())?;
    let is_event_type = start.eq_ignore_ascii_case(EVENT) && matches!(rest.first(), None | Some(b';' | b' '));
    value.filter(|value| is_event_type && parse_event(value).is_ok())
}

/// The attribute that a header of an event holds, if it is one.
fn attribute_of(name: &[u8]) -> Option<&[u8]> {
    if name == CONTENT_TYPE {
        return Some(b"datacontenttype");
    }
    let name = name.strip_prefix(PREFIX)?;
    (is_name(name) && name != b"datacontenttype").then_some(name)
}

/// Whether the headers have every required attribute.
fn is_event(headers: &[Header<'_>]) -> bool {
    REQUIRED.iter().all(|required| {
        let mut found = headers
            .iter()
            .filter(|(name, _)| name.strip_prefix(PREFIX) == Some(required.as_bytes()));
        let first = found.next();
        found.next().is_none() && first.is_some_and(|(_, value)| is_legal(required.as_bytes(), *value))
    })
}

fn push_event(out: &mut Vec<u8>, headers: &[Header<'_>]) {
    let mut names = Names::default();
    let mut begin = b'{';
    for (header, value) in headers {
        let Some(name) = attribute_of(header) else {
            continue;
        };
        if is_legal(name, *value) && names.insert(name.into()) {
            let at = out.len();
            push_attribute(out, name, value.unwrap_or_default());
            out[at] = begin;
            begin = b',';
        }
    }
}

/// Adds `,"name":"value"`; name and value are legal.
fn push_attribute(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name);
    out.extend_from_slice(b"\":");
    push_string(out, &String::from_utf8_lossy(value));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quipu_segments::TimestampMs;
    use quipu_segments::batch::{BatchBuilder, Records, SealedBatch};
    use serde_json::{Value, json};

    use super::*;
    use crate::formats::cloudevents::read_binary;
    use crate::formats::json::{ParsedRecord, is_json_line};

    type Fields<'a> = (i64, Option<&'a [u8]>, Option<&'a [u8]>, &'a [Header<'a>]);

    fn stored((timestamp, key, value, headers): Fields<'_>) -> SealedBatch {
        let mut builder = BatchBuilder::new();
        builder.push(TimestampMs(timestamp), key, value, headers);
        builder.seal()
    }

    fn render(fields: Fields<'_>, layout: Layout) -> String {
        let batch = stored(fields);
        let record = Records::new(batch.as_bytes()).unwrap().next().unwrap().unwrap();
        let mut out = Vec::new();
        let json_lines = fields.2.is_none_or(is_json_line);
        let renderer = EventRenderer::new("orders", 3, layout);
        renderer.push(&mut out, &record, json_lines);
        let text = String::from_utf8(out).unwrap();
        let mut unseen = Vec::new();
        renderer.push(&mut unseen, &record, false);
        let found = text.as_bytes();
        assert_eq!(found, unseen, "`json_lines` changes nothing in the output");
        text
    }

    /// The event that comes back for one that was read.
    fn again(record: &ParsedRecord<'_>, layout: Layout) -> String {
        let headers = record.headers.iter();
        let headers: Vec<Header<'_>> = headers.map(|(name, value)| (&**name, value.as_deref())).collect();
        let timestamp = record.timestamp.map_or(7, TimestampMs::get);
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        render((timestamp, key, value, &headers), layout)
    }

    #[test]
    fn an_event_comes_back_with_its_attributes_and_its_data_byte_for_byte() {
        for json in [
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t"}"#,
            r#"{"type":"t","source":"urn:s","id":"\"1\"","specversion":"1.0","time":"2018-04-05T17:31:00.5+02:00","subject":"é","partitionkey":"k","data":{ "a" : 1.50 }}"#,
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":null}"#,
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"application/x+json","data":"text"}"#,
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"text/xml","data":"<a b=\"c\"/>"}"#,
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"image/png","data_base64":"AP8="}"#,
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"application/json","data_base64":"IHt9"}"#,
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"text/plain","data_base64":"/w=="}"#,
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"application/cloudevents+json","data":{"specversion":"1.0","id":"2","source":"/s","type":"t"}}"#,
        ] {
            let record = parse_event(json.as_bytes()).unwrap();
            assert_eq!(again(&record, Layout::Document), json);
        }
    }

    #[test]
    fn a_line_has_no_line_breaks_and_means_the_same() {
        let json = "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/s\",\"type\":\"t\",\"data\":[1,\r\n\"\\n\"]}";
        let record = parse_event(json.as_bytes()).unwrap();
        assert_eq!(again(&record, Layout::Document), json);
        assert_eq!(again(&record, Layout::Lines), json.replace("\r\n", "  "));
    }

    #[test]
    fn binary_mode_comes_back_as_the_structured_mode_has_it() {
        let headers: [(&str, &[u8]); 6] = [
            ("content-type", b"application/json"),
            ("ce-specversion", b"1.0"),
            ("ce-id", b"a%20b"),
            ("ce-source", b"/s"),
            ("ce-type", b"t"),
            ("ce-x", b"5"),
        ];
        let read = |body: &'static [u8]| {
            let record = read_binary(headers.into_iter(), body).unwrap();
            serde_json::from_str::<Value>(&again(&record, Layout::Document)).unwrap()
        };
        let event = json!({"specversion": "1.0", "id": "a b", "source": "/s", "type": "t", "x": "5",
            "datacontenttype": "application/json"});
        assert_eq!(read(b""), event);
        let with = |name: &str, value: &str| {
            let mut event = event.clone();
            event[name] = value.into();
            event
        };
        assert_eq!(read(b"\"text\""), with("data", "text"));
        assert_eq!(read(b"no json"), with("data_base64", "bm8ganNvbg=="));
    }

    #[test]
    fn any_other_record_is_an_event_that_says_where_it_lies() {
        let headers: [Header<'_>; 9] = [
            (b"content-type", Some(b"text/plain")),
            (b"traceparent", Some(b"00-ab")),
            (b"Type", Some(b"x")),
            (b"a_b", Some(b"x")),
            (b"id", Some(b"x")),
            (b"twice", Some(b"1")),
            (b"twice", Some(b"2")),
            (b"none", None),
            (b"bytes", Some(b"\xff")),
        ];
        let place = r#"{"specversion":"1.0","id":"orders/3/0","source":"/v1/topics/orders/partitions/3","type":"quipu.record","#;
        let text = render(
            (1_357_035_420_000, Some(b"N14228"), Some(b"hello"), &headers),
            Layout::Lines,
        );
        let rest = r#""time":"2013-01-01T10:17:00Z","partitionkey":"N14228","datacontenttype":"text/plain","traceparent":"00-ab","twice":"1","data":"hello"}"#;
        assert_eq!(text, format!("{place}{rest}"));
        let text = render((0, Some(b"\xff"), None, &[]), Layout::Lines);
        assert_eq!(text, format!(r#"{place}"time":"1970-01-01T00:00:00Z"}}"#));
        for timestamp in [i64::MAX, i64::MIN, -99_999_999_999_999] {
            let text = render((timestamp, None, Some(b"1"), &[]), Layout::Lines);
            let holds = !text.contains("\"time\"") && text.ends_with(",\"data\":1}");
            assert!(holds, "{text}");
        }
    }

    #[test]
    fn an_attribute_that_is_missing_wrong_or_there_twice_makes_a_record_no_event() {
        let all: [Header<'_>; 4] = [
            (b"ce_specversion", Some(b"1.0")),
            (b"ce_id", Some(b"1")),
            (b"ce_source", Some(b"/s")),
            (b"ce_type", Some(b"t")),
        ];
        let is_plain = |headers: &[Header<'_>]| {
            render((0, None, Some(b"1"), headers), Layout::Lines).contains("quipu.record")
        };
        assert!(!is_plain(&all));
        for at in 0..all.len() {
            for value in [None, Some(&b""[..]), Some(b"\xff")] {
                let mut wrong = all;
                wrong[at].1 = value;
                assert!(is_plain(&wrong), "{wrong:?}");
            }
            let mut twice = all.to_vec();
            twice.push(all[at]);
            assert!(is_plain(&twice), "{twice:?}");
        }
    }

    #[test]
    fn an_event_that_was_stored_in_structured_mode_is_its_value() {
        let event = br#"{ "specversion":"1.0", "id":"1","source":"/s","type":"t" }"#;
        let of = |content_type: &[u8], value: &[u8]| {
            let headers = [(&b"content-type"[..], Some(content_type))];
            render((0, None, Some(value), &headers), Layout::Lines)
        };
        let text = std::str::from_utf8(event).unwrap();
        assert_eq!(of(b"application/cloudevents+json; charset=UTF-8", event), text);
        assert_eq!(of(b"Application/CloudEvents+JSON", event), text);
        for (content_type, value) in [
            (&b"application/json"[..], &event[..]),
            (b"application/cloudevents-batch+json", event),
            (b"application/cloudevents+json", b"{}"),
        ] {
            assert!(of(content_type, value).contains("quipu.record"));
        }
    }

    fn header_name() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            "ce_(specversion|id|source|type|time|subject|x|datacontenttype|data)"
                .prop_map(String::into_bytes),
            "(content-type|x|id|time|traceparent|A|a_b)".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..4),
        ]
    }

    fn header_value() -> impl Strategy<Value = Option<Vec<u8>>> {
        prop_oneof![
            Just(Some(b"1.0".to_vec())),
            "(text/plain|application/json|application/cloudevents\\+json|2018-04-05T17:31:00Z|a/b; charset=x|)"
                .prop_map(|text| Some(text.into_bytes())),
            prop::option::of(prop::collection::vec(any::<u8>(), 0..6)),
        ]
    }

    fn value() -> impl Strategy<Value = Option<Vec<u8>>> {
        prop_oneof![
            prop::option::of(prop::collection::vec(any::<u8>(), 0..10)),
            "(null|1| 1|\\{\"a\":\n1\\}|\"x\"|<a/>|\\[\\]\n)".prop_map(|text| Some(text.into_bytes())),
        ]
    }

    proptest! {
        #[test]
        fn every_record_is_an_event_that_the_reader_takes(
            timestamp in any::<i64>(),
            key in prop::option::of(prop::collection::vec(any::<u8>(), 0..5)),
            value in value(),
            headers in prop::collection::vec((header_name(), header_value()), 0..12),
        ) {
            let headers: Vec<Header<'_>> = headers.iter().map(|(name, value)| (&name[..], value.as_deref())).collect();
            for layout in [Layout::Document, Layout::Lines] {
                let text = render((timestamp, key.as_deref(), value.as_deref(), &headers), layout);
                let event = parse_event(text.as_bytes());
                prop_assert!(event.is_ok(), "{}: {}", text, event.unwrap_err());
                prop_assert!(layout == Layout::Document || !text.contains(['\n', '\r']));
                if layout == Layout::Document {
                    let event = event.unwrap();
                    prop_assert_eq!(event.value.as_deref(), value.as_deref());
                }
            }
        }

        #[test]
        fn an_event_comes_back_as_the_same_event(
            id in "[^\\p{C}\u{fdd0}-\u{fdef}]{1,5}",
            extension in prop::option::of("[ -~é]{0,5}"),
            content_type in prop::option::of("(application/json|text/plain|image/png|text/plain; charset=latin1)"),
            bytes in prop::option::of(value()),
            key in prop::option::of("[a-z]{1,3}"),
        ) {
            use base64::Engine as _;
            let mut event = json!({"specversion": "1.0", "id": id, "source": "/s", "type": "t", "x": extension,
                "datacontenttype": content_type, "partitionkey": key});
            if let Some(Some(bytes)) = &bytes {
                event["data_base64"] = base64::prelude::BASE64_STANDARD.encode(bytes).into();
            }
            let text = event.to_string();
            let record = parse_event(text.as_bytes()).unwrap();
            let rendered = again(&record, Layout::Document);
            prop_assert_eq!(parse_event(rendered.as_bytes()).unwrap(), record, "{}", rendered);
        }
    }
}
