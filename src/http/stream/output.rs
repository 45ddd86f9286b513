//! What a stream writes: lines, or Server-Sent Events.
//!
//! NDJSON is a record a line and nothing else. A stream that could not go on is told from one that is complete by its end:
//! it breaks off.
//!
//! Server-Sent Events (WHATWG HTML, section 9.2), each with an `id` that says how far the stream is behind it:
//!
//! | event | data |
//! |---|---|
//! | `record` | a record, on one line |
//! | `gap` | records that are missing: `topic`, `partition`, `from_offset`, `until_offset` (exclusive), `reason` (`skipped`: damaged, and given up by the operator; `trimmed`: deleted before they were read) |
//! | `error` | a problem, then the stream ends |
//! | `end` | `{}`: all there is was sent |
//!
//! An event that is cut counts for nothing by that standard, its `id` neither, so a client resumes behind the last event
//! that it has whole. An `id` without data moves the client's place and shows it nothing: what was filtered out is told
//! like that.

use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use crate::broker::engine::batch::Record;
use crate::broker::topics::skips::Gap;
use crate::formats::cloudevents::EventRenderer;
use crate::formats::cursor::{CursorText, Reached};
use crate::formats::render::{Layout, RecordRenderer};
use crate::http::problem::Problem;

/// What is rendered before it is handed to the connection: large enough that the cost of a chunk does not show, small
/// enough for thousands of slow readers.
pub(super) const CHUNK_BYTES: usize = 64 << 10;

/// How a client that lost its connection waits before it asks again.
const RETRY: &[u8] = b"retry: 2000\n\n";

/// The format of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// A record a line.
    NdJson,
    /// Server-Sent Events.
    Events,
}

impl Format {
    /// All of them; the first is for clients that have no wish.
    pub(super) const ALL: [(&'static str, Self); 2] = [
        ("application/x-ndjson", Self::NdJson),
        ("text/event-stream", Self::Events),
    ];

    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::NdJson => Self::ALL[0].0,
            Self::Events => Self::ALL[1].0,
        }
    }
}

/// How a record is written: the line, or the `data` of its event. Each is one line.
pub(super) enum Data {
    /// As in every other answer.
    Record(RecordRenderer),
    /// As a structured CloudEvent.
    CloudEvent(EventRenderer),
}

impl Data {
    /// For the records of one partition, which carry `topic` if there is one.
    pub(super) fn new(topic: Option<&str>, partition: u32) -> Self {
        Self::Record(RecordRenderer::new(topic, partition, Layout::Lines))
    }

    /// The same as CloudEvents, which always say their topic.
    pub(super) fn cloud_events(topic: &str, partition: u32) -> Self {
        Self::CloudEvent(EventRenderer::new(topic, partition, Layout::Lines))
    }

    #[inline]
    fn push(&self, out: &mut Vec<u8>, record: &Record<'_>, json_lines: bool) {
        match self {
            Self::Record(renderer) => renderer.push(out, record, json_lines),
            Self::CloudEvent(renderer) => renderer.push(out, record, json_lines),
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

/// What is written and not sent yet.
pub(super) struct Output {
    pub(super) text: Vec<u8>,
    format: Format,
    cursor: CursorText,
    /// What was counted since it was last asked.
    records: u64,
    bytes: u64,
    /// When something was sent.
    pub(super) sent: Instant,
    /// The client's last `id` is not where the stream is.
    pub(super) is_behind: bool,
}

impl Output {
    pub(super) fn new(format: Format, cursor: CursorText) -> Self {
        Self {
            text: Vec::new(),
            format,
            cursor,
            records: 0,
            bytes: 0,
            sent: Instant::now(),
            is_behind: false,
        }
    }

    pub(super) fn is_events(&self) -> bool {
        self.format == Format::Events
    }

    /// Makes room at once for a chunk, or for what so many stored bytes may become.
    #[inline]
    pub(super) fn reserve(&mut self, stored_bytes: u64) {
        if self.text.capacity() == 0 {
            let expected = usize::try_from(stored_bytes * 2 + 512).unwrap_or(CHUNK_BYTES);
            self.text.reserve(expected.min(CHUNK_BYTES + CHUNK_BYTES / 16));
        }
    }

    /// Whether there is enough of it to be sent.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.text.len() >= CHUNK_BYTES
    }

    /// Says where the partitions are of which no records come for a while.
    pub(super) fn fix(&mut self, others: impl Iterator<Item = Reached>) {
        if self.is_events() {
            self.cursor.fix(others);
        }
    }

    /// Writes a record, behind which its partition is at `reached`.
    #[inline]
    pub(super) fn record(&mut self, data: &Data, record: &Record<'_>, json_lines: bool, reached: Reached) {
        self.records += 1;
        self.bytes += (8 + record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len)) as u64;
        match self.format {
            Format::NdJson => {
                data.push(&mut self.text, record, json_lines);
                self.text.push(b'\n');
            }
            Format::Events => {
                self.text.extend_from_slice(b"event: record\nid: ");
                self.cursor.push(&mut self.text, Some(reached));
                self.text.extend_from_slice(b"\ndata: ");
                data.push(&mut self.text, record, json_lines);
                self.text.extend_from_slice(b"\n\n");
                self.is_behind = false;
            }
        }
    }

    /// Records and bytes since this was last asked.
    pub(super) fn take_counts(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.records), std::mem::take(&mut self.bytes))
    }

    /// Begins, with where the stream is if the client could not find that again by itself.
    pub(super) fn begin(&mut self, reached: Option<impl Iterator<Item = Reached>>) {
        if self.is_events() {
            self.text.extend_from_slice(RETRY);
        }
        if let Some(reached) = reached {
            self.place(reached);
        }
    }

    /// Says where the stream is, with nothing to show for it; lines have no way to.
    pub(super) fn place(&mut self, reached: impl Iterator<Item = Reached>) {
        if self.is_events() {
            self.id(reached);
            self.text.push(b'\n');
        }
    }

    /// Says that the stream is alive, and where it is if that has changed.
    pub(super) fn heartbeat(&mut self, reached: impl Iterator<Item = Reached>) {
        debug_assert!(self.is_events(), "lines have no comments");
        self.text.extend_from_slice(b": \n");
        if self.is_behind {
            self.id(reached);
        }
        self.text.push(b'\n');
    }

    /// Tells of missing records; lines have no way to.
    pub(super) fn gap(
        &mut self,
        topic: &str,
        partition: u32,
        gap: Gap,
        reason: &str,
        reached: impl Iterator<Item = Reached>,
    ) {
        let data = Missing {
            topic,
            partition,
            from_offset: gap.from.get(),
            until_offset: gap.until.get(),
            reason,
        };
        self.event("gap", &data, reached);
    }

    /// Tells why the stream ends.
    pub(super) fn error(&mut self, problem: &Problem, reached: impl Iterator<Item = Reached>) {
        self.event("error", &problem.to_json(), reached);
    }

    /// Tells that all was sent.
    pub(super) fn end(&mut self, reached: impl Iterator<Item = Reached>) {
        self.event("end", &json!({}), reached);
    }

    fn event(&mut self, name: &str, data: &impl Serialize, reached: impl Iterator<Item = Reached>) {
        if !self.is_events() {
            return;
        }
        self.text.extend_from_slice(format!("event: {name}\n").as_bytes());
        self.id(reached);
        self.text.extend_from_slice(b"data: ");
        // JSON that is written without white space has no line breaks.
        serde_json::to_writer(&mut self.text, data).expect("memory takes everything, and names are strings");
        self.text.extend_from_slice(b"\n\n");
    }

    fn id(&mut self, reached: impl Iterator<Item = Reached>) {
        self.cursor.fix(reached);
        self.text.extend_from_slice(b"id: ");
        self.cursor.push(&mut self.text, None);
        self.text.push(b'\n');
        self.is_behind = false;
    }
}

#[cfg(test)]
mod tests {
    use crate::broker::engine::batch::{BatchBuilder, Records};
    use crate::broker::engine::{Offset, TimestampMs, TopicId};

    use super::*;
    use crate::broker::refusal::Reason;
    use crate::formats::cursor::Cursor;

    fn reached(partition: u32, next: u64) -> Reached {
        Reached {
            topic: 0,
            partition,
            next: Offset::new(next),
        }
    }

    fn output(format: Format) -> Output {
        Output::new(format, CursorText::new(7, &[TopicId(1)]))
    }

    fn write(output: &mut Output, value: &[u8], json_lines: bool) {
        let mut batch = BatchBuilder::new();
        batch.push(TimestampMs(5), Some(b"k\n"), Some(value), &[]);
        let batch = batch.seal();
        let record = Records::new(batch.as_bytes()).unwrap().next().unwrap().unwrap();
        output.fix([reached(0, 4)].into_iter());
        output.record(&Data::new(Some("t"), 1), &record, json_lines, reached(1, 1));
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
        let record = r#"{"topic":"t","partition":1,"offset":0,"timestamp":5,"key":"k\n","value":{ "a": 1 },"headers":{}}"#;
        let mut lines = output(Format::NdJson);
        write(&mut lines, b"{\n\"a\":\r1 }", false);
        assert_eq!(
            String::from_utf8(lines.text.clone()).unwrap(),
            format!("{record}\n")
        );
        assert_eq!(lines.take_counts(), (1, 8 + 2 + 10));
        assert_eq!(lines.take_counts(), (0, 0));
        let mut events = output(Format::Events);
        write(&mut events, b"{\n\"a\":\r1 }", false);
        let id = cursor(&[reached(0, 4), reached(1, 1)]);
        assert_eq!(
            String::from_utf8(events.text).unwrap(),
            format!("event: record\nid: {id}\ndata: {record}\n\n")
        );
    }

    #[test]
    fn a_heartbeat_has_an_id_only_where_the_stream_has_moved_silently() {
        let mut events = output(Format::Events);
        events.heartbeat([reached(0, 1)].into_iter());
        events.is_behind = true;
        events.heartbeat([reached(0, 2)].into_iter());
        events.heartbeat([reached(0, 2)].into_iter());
        let id = cursor(&[reached(0, 2)]);
        assert_eq!(
            String::from_utf8(events.text).unwrap(),
            format!(": \n\n: \nid: {id}\n\n: \n\n")
        );
    }

    #[test]
    fn what_is_no_record_is_an_event_of_its_own_and_nothing_among_lines() {
        let gap = Gap {
            from: Offset::new(3),
            until: Offset::new(9),
        };
        let here = || [reached(0, 9)].into_iter();
        let problem = Problem::new(Reason::CorruptData, "line\nbreak");
        let id = cursor(&[reached(0, 9)]);
        let mut events = output(Format::Events);
        events.begin(Some(here()));
        events.gap("t", 0, gap, "skipped", here());
        events.error(&problem, here());
        events.end(here());
        let text = String::from_utf8(events.text).unwrap();
        assert_eq!(
            text,
            format!(
                "retry: 2000\n\nid: {id}\n\n\
                 event: gap\nid: {id}\ndata: {{\"topic\":\"t\",\"partition\":0,\"from_offset\":3,\"until_offset\":9,\
                 \"reason\":\"skipped\"}}\n\n\
                 event: error\nid: {id}\ndata: {}\n\n\
                 event: end\nid: {id}\ndata: {{}}\n\n",
                problem.to_json()
            )
        );
        let mut lines = output(Format::NdJson);
        lines.begin(Some(here()));
        lines.gap("t", 0, gap, "skipped", here());
        lines.error(&problem, here());
        lines.end(here());
        assert!(lines.text.is_empty());
    }
}
