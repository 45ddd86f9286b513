//! The bodies of a fetch: a JSON document, lines, CloudEvents, or batches as they are stored.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::Form;
use crate::broker::engine::batch::{BatchError, Record};
use crate::broker::fetch::page::Page;
use crate::formats::cloudevents::EventRenderer;
use crate::formats::render::{Layout, RecordRenderer};
use crate::http::accept::Representation;
use crate::http::chunks::{self, CHUNK_BYTES, PolledFrame, chunk_capacity};

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

/// The page as text: a JSON document, a batch of CloudEvents, or a record a line.
pub(super) fn text(
    page: Page,
    form: Form,
    topic: &str,
    partition: u32,
    has_positions: bool,
) -> Result<Body, BatchError> {
    let representation = form.representation;
    let (before, between, behind, after, layout) = match representation {
        Representation::CloudEvents => ("[".to_owned(), ",", "", "]\n".to_owned(), Layout::Document),
        Representation::NdJson => (String::new(), "", "\n", String::new(), Layout::Lines),
        _ => {
            let (before, after) = document(&page, topic, partition, has_positions);
            (before, ",", "", after, Layout::Document)
        }
    };
    let records = match representation {
        Representation::CloudEvents => RecordText::CloudEvent(EventRenderer::new(topic, partition, layout)),
        _ => RecordText::Record(RecordRenderer::new(None, partition, layout).cutting(form.value_limit)),
    };
    chunks::body(|mut chunks| async move {
        let capacity = chunk_capacity(page.stored_bytes);
        let mut out = Vec::with_capacity(capacity);
        out.extend_from_slice(before.as_bytes());
        let mut separator = "";
        for record in page.records() {
            let (record, json_lines) = record?;
            out.extend_from_slice(separator.as_bytes());
            separator = between;
            records.push(&mut out, &record, json_lines);
            out.extend_from_slice(behind.as_bytes());
            if out.len() >= CHUNK_BYTES {
                chunks.send(Bytes::from(std::mem::take(&mut out))).await;
                out.reserve(capacity);
            }
        }
        out.extend_from_slice(after.as_bytes());
        Ok(Bytes::from(out))
    })
}

/// The text before and after the records of a JSON document. Without `has_positions`, the log start and the end are
/// left out: that is for answers that must never change.
fn document(page: &Page, topic: &str, partition: u32, has_positions: bool) -> (String, String) {
    let topic = serde_json::Value::from(topic);
    let before = format!("{{\"topic\":{topic},\"partition\":{partition},\"records\":[");
    let mut after = format!("],\"next_offset\":{}", page.next_offset);
    if has_positions {
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
    after.push_str(if page.gaps.is_empty() { "}\n" } else { "]}\n" });
    (before, after)
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

/// Several pieces of memory, sent one after the other; their total length is known.
struct Pieces {
    left: VecDeque<Bytes>,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> PolledFrame<Infallible> {
        Poll::Ready(self.left.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.iter().map(|piece| piece.len() as u64).sum())
    }
}
