//! The thread that sends spans to the collector, in batches.
//!
//! A batch that the collector does not take is dropped and counted: the next one may be. The log says when sending begins
//! to fail, and when it works again, not for each batch.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Duration;

use super::{Span, otlp};
use crate::broker::counters::Counters;
use crate::formats::trace_context::TraceContext;

/// The most spans of a batch.
pub(super) const BATCH: usize = 512;
/// How long a span waits for others, unless a full batch has just been sent.
const GATHER: Duration = Duration::from_millis(200);
/// The most time that one batch takes.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the queue holds.
#[derive(Debug)]
pub(super) enum Message {
    /// A span, under the context that it has.
    Span(Box<(TraceContext, Span)>),
    /// Answered when all spans before it are sent or dropped.
    Flush(SyncSender<()>),
}

pub(super) struct Exporter {
    url: String,
    agent: ureq::Agent,
    counters: Arc<Counters>,
}

impl Exporter {
    pub(super) fn new(endpoint: &str, counters: Arc<Counters>) -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT));
        Self {
            url: format!("{endpoint}/v1/traces"),
            agent: config.build().new_agent(),
            counters,
        }
    }

    /// Sends what comes, until nobody can send more.
    pub(super) fn run(self, messages: &Receiver<Message>) {
        let (mut is_failing, mut is_full) = (false, false);
        while let Ok(first) = messages.recv() {
            if !is_full && matches!(first, Message::Span(_)) {
                std::thread::sleep(GATHER);
            }
            let (mut batch, mut flushes) = (Vec::new(), Vec::new());
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Span(span) => batch.push(*span),
                    Message::Flush(done) => flushes.push(done),
                }
                is_full = batch.len() == BATCH;
                next = (!is_full).then(|| messages.try_recv().ok()).flatten();
            }
            if !batch.is_empty() {
                is_failing = self.send(&batch, is_failing);
            }
            for done in flushes {
                // Nobody may wait for it any more.
                let _ = done.try_send(());
            }
        }
    }

    /// Whether it failed.
    fn send(&self, batch: &[(TraceContext, Span)], was_failing: bool) -> bool {
        let body = otlp::request(batch);
        let request = self.agent.post(&self.url).content_type("application/json");
        let sent = request.send(body.as_bytes());
        // Logged before it is counted: who sees the count finds the line.
        match &sent {
            Ok(_) if was_failing => tracing::info!("the trace collector takes spans again"),
            Err(error) if !was_failing => {
                tracing::warn!(%error, url = self.url, "the trace collector does not take spans: they are dropped");
            }
            _ => {}
        }
        let counter = match sent {
            Ok(_) => &self.counters.sent_spans,
            Err(_) => &self.counters.dropped_spans,
        };
        counter.fetch_add(batch.len() as u64, Relaxed);
        sent.is_err()
    }
}
