//! Writes a stream: lines, or Server-Sent Events.
//!
//! NDJSON is one record per line and nothing else. A stream that cannot continue breaks off without its final chunk; a
//! complete one ends with it.
//!
//! One JSON document, `{"records":[…],"cursor":…,"scanned_records":…,"scanned_bytes":…,"ended":…}`, is written as it is
//! read too: its last members say how it ended. If that fails it breaks off.
//!
//! Server-Sent Events (WHATWG HTML, section 9.2) each have an `id`: the cursor of the stream after this event.
//!
//! | event | data |
//! |---|---|
//! | `record` | a record, on one line |
//! | `gap` | records that are missing: `topic`, `partition`, `from_offset`, `until_offset` (exclusive), `reason` (`skipped`: damaged, and given up by the operator; `trimmed`: deleted before they were read) |
//! | `progress` | of a stream that browses: `cursor`, `scanned_records`, `scanned_bytes` |
//! | `error` | a problem, then the stream ends |
//! | `end` | `{}`: everything was sent; of a stream that browses `ended`, `cursor`, `scanned_records`, `scanned_bytes` |
//!
//! By that standard a client ignores an event that is cut off, and its `id`: so it resumes after the last whole event.
//! An `id` without data moves the client's cursor without an event, so it need not read filtered records again.

use bytes::Bytes;
use http::HeaderMap;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::broker::engine::batch::Record;
use crate::broker::stream::{Browsed, Ended, Event, Looked, Sink};
use crate::formats::cloudevents::EventRenderer;
use crate::formats::cursor::{CursorText, Reached};
use crate::formats::render::{Layout, RecordRenderer};
use crate::http::accept::{choose, takes_all};
use crate::http::chunks::{CHUNK_BYTES, Chunks, chunk_capacity};
use crate::http::fetch::body::RecordText;
use crate::http::openapi::shapes;
use crate::http::problem::Problem;
use crate::traces::Linking;

/// Tells a client how long to wait before it connects again.
const RETRY: &[u8] = b"retry: 2000\n\n";

/// The format of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// One record per line.
    NdJson,
    /// Server-Sent Events.
    Events,
    /// One document.
    Json,
}

impl Format {
    /// All formats; the first is for clients that state no preference.
    const ALL: [(&'static str, Self); 3] = [
        ("application/x-ndjson", Self::NdJson),
        ("text/event-stream", Self::Events),
        ("application/json", Self::Json),
    ];

    /// The format that a client prefers. A document is sent only if the client does not take anything, and never of a
    /// stream that follows: it would have no end.
    ///
    /// # Errors
    /// 406 if the client accepts none.
    pub(super) fn choose(headers: &HeaderMap, follow: bool) -> Result<Self, Problem> {
        let known = match follow || takes_all(headers) {
            true => &Self::ALL[..2],
            false => &Self::ALL,
        };
        choose(headers, known)
    }

    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::NdJson => Self::ALL[0].0,
            Self::Events => Self::ALL[1].0,
            Self::Json => Self::ALL[2].0,
        }
    }
}

/// The data of a gap.
#[derive(Serialize)]
struct Missing<'a> {
    topic: &'a str,
    partition: u32,
    from_offset: u64,
    until_offset: u64,
    reason: &'a str,
}

/// How far a stream that browses has looked.
#[derive(Serialize, ToSchema)]
pub(super) struct Progress<'a> {
    /// Where to go on: pass it as `until` if the stream has `last`, else as `from`.
    cursor: &'a str,
    /// Records that were looked at.
    scanned_records: u64,
    /// Their stored bytes.
    scanned_bytes: u64,
    /// Why the stream ended: nothing is left (`end`), or a bound was reached. Only at its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^(end|records|bytes|time)$")]
    ended: Option<&'static str>,
}

/// One document of records.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only described: it is written record by record")]
pub(super) struct BrowsedRecords<'a> {
    /// The records.
    #[schema(value_type = Vec<shapes::StreamLine>)]
    records: Vec<serde_json::Value>,
    /// How far it has looked.
    #[serde(flatten)]
    progress: Progress<'a>,
}

/// Text that is written but not sent yet.
pub(super) struct Output {
    text: Vec<u8>,
    format: Format,
    cursor: CursorText,
    chunks: Chunks,
    /// Whether records have their topic.
    pub(super) is_named: bool,
    /// Whether records are written as structured CloudEvents, which always have their topic.
    pub(super) as_events: bool,
    /// Longer values are cut.
    pub(super) value_limit: Option<usize>,
    /// Takes the traces of the records; `None`: no more, or none at all.
    pub(super) links: Option<Linking>,
    /// Whether the beginning is written: in Server-Sent Events, how long to wait before connecting again.
    is_begun: bool,
    /// Whether a document has a record.
    has_records: bool,
}

impl Output {
    pub(super) fn new(format: Format, cursor: CursorText, chunks: Chunks) -> Self {
        Self {
            text: Vec::new(),
            format,
            cursor,
            chunks,
            is_named: false,
            as_events: false,
            value_limit: None,
            links: None,
            is_begun: false,
            has_records: false,
        }
    }

    /// The text that was not sent.
    pub(super) fn rest(mut self) -> Bytes {
        self.begin();
        Bytes::from(self.text)
    }

    #[inline]
    fn begin(&mut self) {
        if !self.is_begun {
            match self.format {
                Format::NdJson => {}
                Format::Events => self.text.extend_from_slice(RETRY),
                Format::Json => self.text.extend_from_slice(b"{\"records\":["),
            }
        }
        self.is_begun = true;
    }

    fn named(&mut self, name: &str, data: &impl Serialize, reached: impl Iterator<Item = Reached>) {
        self.text.extend_from_slice(format!("event: {name}\n").as_bytes());
        self.id(reached);
        self.text.extend_from_slice(b"data: ");
        // JSON that is written without white space has no line breaks.
        serde_json::to_writer(&mut self.text, data).expect("memory takes everything, and names are strings");
        self.text.extend_from_slice(b"\n");
    }

    /// A cursor, apart from that of the next events.
    fn cursor_at(&mut self, place: &[Reached]) -> String {
        let mut text = Vec::new();
        self.cursor.fix(place.iter().copied());
        self.cursor.push(&mut text, None);
        String::from_utf8(text).expect("Base64 is ASCII")
    }

    fn progress<'a>(cursor: &'a str, looked: Looked, ended: Option<Ended>) -> Progress<'a> {
        Progress {
            cursor,
            scanned_records: looked.records,
            scanned_bytes: looked.bytes,
            ended: ended.map(Ended::name),
        }
    }

    /// The end of a document.
    fn close(&mut self, browsed: &Browsed<'_>) {
        self.begin();
        let cursor = self.cursor_at(browsed.place);
        let progress = Self::progress(&cursor, browsed.looked, Some(browsed.ended));
        let members = serde_json::to_string(&progress).expect("names are strings");
        self.text.extend_from_slice(b"],");
        self.text
            .extend_from_slice(members.strip_prefix('{').expect("an object").as_bytes());
        self.text.push(b'\n');
    }

    fn id(&mut self, reached: impl Iterator<Item = Reached>) {
        self.cursor.fix(reached);
        self.text.extend_from_slice(b"id: ");
        self.cursor.push(&mut self.text, None);
        self.text.push(b'\n');
    }
}

impl Sink for Output {
    type Writer = RecordText;

    fn has_events(&self) -> bool {
        self.format == Format::Events
    }

    fn is_document(&self) -> bool {
        self.format == Format::Json
    }

    fn writer(&self, topic: &str, partition: u32) -> RecordText {
        let layout = match self.is_document() {
            true => Layout::Document,
            false => Layout::Lines,
        };
        if self.as_events {
            return RecordText::CloudEvent(EventRenderer::new(topic, partition, layout));
        }
        let topic = self.is_named.then_some(topic);
        RecordText::Record(RecordRenderer::new(topic, partition, layout).cutting(self.value_limit))
    }

    #[inline]
    fn reserve(&mut self, stored_bytes: u64) {
        if self.text.capacity() == 0 {
            self.text.reserve(chunk_capacity(stored_bytes));
        }
    }

    fn fix(&mut self, others: impl Iterator<Item = Reached>) {
        if self.has_events() {
            self.cursor.fix(others);
        }
    }

    #[inline]
    fn record(&mut self, writer: &RecordText, record: &Record<'_>, json_lines: bool, reached: Reached) {
        if let Some(links) = &self.links
            && !links.add(record.headers.iter())
        {
            self.links = None;
        }
        match self.format {
            Format::NdJson => {
                writer.push(&mut self.text, record, json_lines);
                self.text.push(b'\n');
            }
            Format::Events => {
                self.begin();
                self.text.extend_from_slice(b"event: record\nid: ");
                self.cursor.push(&mut self.text, Some(reached));
                self.text.extend_from_slice(b"\ndata: ");
                writer.push(&mut self.text, record, json_lines);
                self.text.extend_from_slice(b"\n\n");
            }
            Format::Json => {
                self.begin();
                if std::mem::replace(&mut self.has_records, true) {
                    self.text.push(b',');
                }
                writer.push(&mut self.text, record, json_lines);
            }
        }
    }

    fn event(&mut self, event: Event<'_>, reached: impl Iterator<Item = Reached>) {
        if let (Format::Json, Event::End(Some(browsed))) = (self.format, &event) {
            self.close(browsed);
        }
        if !self.has_events() {
            return;
        }
        self.begin();
        match event {
            Event::Place => self.id(reached),
            Event::Alive { has_moved } => {
                self.text.extend_from_slice(b": \n");
                if has_moved {
                    self.id(reached);
                }
            }
            Event::Progress { looked, place } => {
                let cursor = self.cursor_at(place);
                self.named("progress", &Self::progress(&cursor, looked, None), reached);
            }
            Event::Gap {
                topic,
                partition,
                gap,
                reason,
            } => {
                let missing = Missing {
                    topic,
                    partition,
                    from_offset: gap.from.get(),
                    until_offset: gap.until.get(),
                    reason,
                };
                self.named("gap", &missing, reached);
            }
            Event::Refused(refusal) => {
                self.named("error", &Problem::from(refusal.clone()).to_json(), reached);
            }
            Event::End(None) => self.named("end", &json!({}), reached),
            Event::End(Some(browsed)) => {
                let cursor = self.cursor_at(browsed.place);
                let progress = Self::progress(&cursor, browsed.looked, Some(browsed.ended));
                self.named("end", &progress, reached);
            }
        }
        self.text.push(b'\n');
    }

    fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.text.len() >= CHUNK_BYTES
    }

    async fn send(&mut self) {
        self.begin();
        let chunk = std::mem::take(&mut self.text);
        self.chunks.send(Bytes::from(chunk)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::engine::batch::{BatchBuilder, Records};
    use crate::broker::engine::{Offset, TimestampMs, TopicId};
    use crate::broker::refusal::{Reason, Refusal};
    use crate::broker::topics::skips::Gap;
    use crate::formats::cursor::Cursor;

    fn reached(partition: u32, next: u64) -> Reached {
        let (topic, next) = (0, Offset::new(next));
        Reached {
            topic,
            partition,
            next,
        }
    }

    /// The output of `write`.
    fn written(format: Format, write: impl FnOnce(&mut Output)) -> String {
        let cursor = CursorText::new(7, &[TopicId(1)]);
        let mut output = Output::new(format, cursor, Chunks::to_nowhere());
        output.is_named = true;
        write(&mut output);
        String::from_utf8(output.rest().to_vec()).unwrap()
    }

    fn cursor(places: &[Reached]) -> String {
        Cursor {
            directory: 7,
            topics: vec![TopicId(1)],
            reached: places.to_vec(),
        }
        .encode()
    }

    #[test]
    fn a_record_is_a_line_or_an_event_with_its_data_on_one_line() {
        let write = |output: &mut Output| {
            let mut batch = BatchBuilder::new();
            batch.push(TimestampMs(5), Some(b"k\n"), Some(b"{\n\"a\":\r1 }"), &[]);
            let batch = batch.seal();
            let record = Records::new(batch.as_bytes()).unwrap().next().unwrap().unwrap();
            output.fix([reached(0, 4)].into_iter());
            output.record(&output.writer("t", 1), &record, false, reached(1, 1));
        };
        let record = r#"{"topic":"t","partition":1,"offset":0,"timestamp":5,"key":"k\n","value":{ "a": 1 },"headers":{}}"#;
        assert_eq!(written(Format::NdJson, write), format!("{record}\n"));
        let id = cursor(&[reached(0, 4), reached(1, 1)]);
        let events = format!("retry: 2000\n\nevent: record\nid: {id}\ndata: {record}\n\n");
        assert_eq!(written(Format::Events, write), events);
    }

    #[test]
    fn gaps_errors_and_the_end_are_events_and_not_lines() {
        let (from, until) = (Offset::new(3), Offset::new(9));
        let gap = Event::Gap {
            topic: "t",
            partition: 0,
            gap: Gap { from, until },
            reason: "skipped",
        };
        let refusal = Refusal::new(Reason::CorruptData, "line\nbreak");
        let write = |output: &mut Output| {
            let [alive, moved] = [false, true].map(|has_moved| Event::Alive { has_moved });
            for event in [
                Event::Place,
                alive,
                moved,
                gap,
                Event::Refused(&refusal),
                Event::End(None),
            ] {
                output.event(event, [reached(0, 9)].into_iter());
            }
        };
        let id = cursor(&[reached(0, 9)]);
        assert_eq!(
            written(Format::Events, write),
            format!(
                "retry: 2000\n\nid: {id}\n\n: \n\n: \nid: {id}\n\n\
                 event: gap\nid: {id}\ndata: {{\"topic\":\"t\",\"partition\":0,\"from_offset\":3,\"until_offset\":9,\
                 \"reason\":\"skipped\"}}\n\n\
                 event: error\nid: {id}\ndata: {}\n\n\
                 event: end\nid: {id}\ndata: {{}}\n\n",
                Problem::from(refusal.clone()).to_json()
            )
        );
        assert_eq!(written(Format::NdJson, write), "");
    }
}
