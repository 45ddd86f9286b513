//! The bodies of a fetch: a JSON document, lines, CloudEvents, or batches as they are.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::broker::engine::batch::{BatchError, Record};
use crate::broker::fetch::page::Page;
use crate::formats::cloudevents::EventRenderer;
use crate::formats::render::{Layout, RecordRenderer};
use crate::http::chunks::{self, CHUNK_BYTES, Chunks, chunk_capacity};

/// How the records of one partition are written.
pub(in crate::http) enum RecordText {
    /// As quipu's own JSON.
    Record(RecordRenderer),
    /// As structured CloudEvents.
    CloudEvent(EventRenderer),
}

impl RecordText {
    /// Adds a record; `json_lines` says that its value is known to be JSON on one line.
    #[inline]
    pub(in crate::http) fn push(&self, out: &mut Vec<u8>, record: &Record<'_>, json_lines: bool) {
        match self {
            Self::Record(renderer) => renderer.push(out, record, json_lines),
            Self::CloudEvent(renderer) => renderer.push(out, record, json_lines),
        }
    }
}

/// What a body says besides its records.
pub(super) struct About<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: u32,
    /// Whether the log start and the end are given: not where the answer is to stay the same for ever.
    pub(super) positions: bool,
}

/// The page as one JSON document.
pub(super) fn json(page: Page, about: &About<'_>) -> Result<Body, BatchError> {
    let topic = serde_json::Value::from(about.topic);
    let before = format!(
        "{{\"topic\":{topic},\"partition\":{},\"records\":[",
        about.partition
    );
    let mut after = format!("],\"next_offset\":{}", page.next_offset);
    if about.positions {
        after.push_str(&format!(
            ",\"log_start_offset\":{},\"end_offset\":{}",
            page.log_start_offset, page.end_offset
        ));
    }
    for (index, gap) in page.gaps.iter().enumerate() {
        after.push_str(if index == 0 { ",\"gaps\":[" } else { "," });
        after.push_str(&format!(
            "{{\"offset\":{},\"until_offset\":{},\"reason\":\"damaged\"}}",
            gap.from, gap.until
        ));
    }
    if !page.gaps.is_empty() {
        after.push(']');
    }
    after.push('}');
    let renderer = RecordRenderer::new(None, about.partition, Layout::Document);
    let text = Text {
        before,
        between: ",",
        behind: "",
        after,
    };
    chunks::body(|chunks| text.write(page, RecordText::Record(renderer), chunks))
}

/// The page as a batch of CloudEvents.
pub(super) fn events(page: Page, about: &About<'_>) -> Result<Body, BatchError> {
    let renderer = EventRenderer::new(about.topic, about.partition, Layout::Document);
    let text = Text {
        before: "[".to_owned(),
        between: ",",
        behind: "",
        after: "]".to_owned(),
    };
    chunks::body(|chunks| text.write(page, RecordText::CloudEvent(renderer), chunks))
}

/// The page as a record a line.
pub(super) fn lines(page: Page, about: &About<'_>) -> Result<Body, BatchError> {
    let renderer = RecordRenderer::new(None, about.partition, Layout::Lines);
    let text = Text {
        before: String::new(),
        between: "",
        behind: "\n",
        after: String::new(),
    };
    chunks::body(|chunks| text.write(page, RecordText::Record(renderer), chunks))
}

/// The page as its batches, not copied.
pub(super) fn batches(page: Page) -> Body {
    let mut left: VecDeque<Bytes> = page.runs.into_iter().map(|run| run.bytes).collect();
    match left.len() {
        0 => Body::empty(),
        1 => Body::from(left.pop_front().unwrap_or_default()),
        _ => Body::new(Pieces { left }),
    }
}

/// What stands around records.
struct Text {
    before: String,
    between: &'static str,
    behind: &'static str,
    after: String,
}

impl Text {
    /// Writes the records of `page`, a chunk at a time; returns the rest.
    async fn write(self, page: Page, records: RecordText, mut chunks: Chunks) -> Result<Bytes, BatchError> {
        let capacity = chunk_capacity(page.stored_bytes);
        let mut out = Vec::with_capacity(capacity);
        out.extend_from_slice(self.before.as_bytes());
        let mut between = "";
        for record in page.records() {
            let (record, json_lines) = record?;
            out.extend_from_slice(between.as_bytes());
            between = self.between;
            records.push(&mut out, &record, json_lines);
            out.extend_from_slice(self.behind.as_bytes());
            if out.len() >= CHUNK_BYTES {
                chunks.send(Bytes::from(std::mem::take(&mut out))).await;
                out.reserve(capacity);
            }
        }
        out.extend_from_slice(self.after.as_bytes());
        Ok(Bytes::from(out))
    }
}

/// Several pieces of memory sent one after the other, with the length of all known.
struct Pieces {
    left: VecDeque<Bytes>,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.left.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.iter().map(|piece| piece.len() as u64).sum())
    }
}
