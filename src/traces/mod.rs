//! Traces of requests, sent to an OpenTelemetry collector: [`Tracer`] takes spans, [`export`] sends them, [`otlp`] has
//! their form.
//!
//! The server decides nothing about sampling: a request has a span if its caller's trace is recorded (`traceparent` says
//! so), or if it delivers records that were produced in such a trace. The span then *continues* the caller's trace, and
//! *links* to those of the records.
//!
//! Nothing waits for the collector: spans go into a queue of [`QUEUE`], and what does not fit is dropped and counted.

mod export;
mod otlp;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;

use crate::broker::counters::Counters;
use crate::formats::trace_context::TraceContext;

/// The most spans that wait for the collector: 10 MiB if each has the most links.
const QUEUE: usize = 2048;
/// The most traces that one span links to.
pub const MAX_LINKS: usize = 128;

/// The traces of the records that an answer delivers, each once.
#[derive(Clone, Debug, Default)]
pub struct Links(Vec<TraceContext>);

impl Links {
    /// Adds the trace in which a record was produced, if `traceparent` says that it is recorded.
    pub fn add(&mut self, traceparent: &[u8]) {
        let context = TraceContext::parse(traceparent).filter(|context| context.is_sampled);
        if let Some(context) = context
            && !self.is_full()
            && !self.0.contains(&context)
        {
            self.0.push(context);
        }
    }

    /// Whether no more are taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.len() >= MAX_LINKS
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The links of an answer, which the span takes when the answer has ended: a stream still adds to them until then.
#[derive(Clone, Debug, Default)]
pub struct Linking(Arc<Mutex<Links>>);

impl Linking {
    /// Adds the traces of a record, by its headers. Whether more are taken.
    pub fn add<'a>(&self, headers: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> bool {
        let mut links = self.0.lock();
        for (name, value) in headers {
            if let (b"traceparent", Some(value)) = (name, value) {
                links.add(value);
            }
        }
        !links.is_full()
    }

    /// Takes those that have been added.
    #[must_use]
    pub fn take(&self) -> Links {
        std::mem::take(&mut self.0.lock())
    }
}

/// The work on one request.
#[derive(Debug)]
pub struct Span {
    /// The method and the route's template.
    pub name: String,
    /// The span of the caller that it continues.
    pub parent: Option<TraceContext>,
    /// The traces of the records that it delivered.
    pub links: Links,
    /// In nanoseconds since the Unix epoch.
    pub start_ns: u64,
    /// How long it took.
    pub duration: Duration,
    /// Names and values.
    pub attributes: Vec<(&'static str, String)>,
    /// The status of the answer.
    pub status: u16,
}

/// Takes spans. Dropping it ends the exporter.
#[derive(Debug)]
pub struct Tracer {
    queue: SyncSender<export::Message>,
    counters: Arc<Counters>,
    random: RandomState,
    next: AtomicU64,
}

impl Tracer {
    /// Starts the thread that sends spans to `endpoint`, as `http://localhost:4318`. `None` if the system has no thread.
    pub fn start(endpoint: &str, counters: &Arc<Counters>) -> Option<Self> {
        let (queue, spans) = sync_channel(QUEUE);
        let exporter = export::Exporter::new(endpoint, counters.clone());
        let thread = std::thread::Builder::new().name("quipu-traces".into());
        match thread.spawn(move || exporter.run(&spans)) {
            Ok(_ends_with_the_queue) => Some(Self {
                queue,
                counters: counters.clone(),
                random: RandomState::new(),
                next: AtomicU64::new(0),
            }),
            Err(error) => {
                tracing::error!(%error, "traces are not sent: their thread does not start");
                None
            }
        }
    }

    /// Queues a span; never waits.
    pub fn record(&self, span: Span) {
        let trace_id = match &span.parent {
            Some(parent) => parent.trace_id,
            None => {
                let [high, low] = [self.random(), self.random()];
                (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
            }
        };
        let context = TraceContext {
            trace_id,
            span_id: self.random().to_be_bytes(),
            is_sampled: true,
        };
        let message = export::Message::Span(Box::new((context, span)));
        if self.queue.try_send(message).is_err() {
            self.counters.dropped_spans.fetch_add(1, Relaxed);
        }
    }

    /// Waits until the queued spans are sent, for at most `patience`.
    pub fn flush(&self, patience: Duration) {
        let (done, is_done) = sync_channel(1);
        if self.queue.try_send(export::Message::Flush(done)).is_ok() {
            let _late_or_gone = is_done.recv_timeout(patience);
        }
    }

    /// A random number that is not 0.
    fn random(&self) -> u64 {
        self.random.hash_one(self.next.fetch_add(1, Relaxed)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_that_does_not_answer_costs_a_bounded_queue_and_no_time() {
        // Connections wait in the listener's queue for ever.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let counters = Arc::new(Counters::default());
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let tracer = Tracer::start(&endpoint, &counters).unwrap();
        let spans = 2 * (QUEUE + export::BATCH) as u64;
        for _ in 0..spans {
            tracer.record(Span {
                name: "GET /".into(),
                parent: None,
                links: Links::default(),
                start_ns: 0,
                duration: Duration::ZERO,
                attributes: Vec::new(),
                status: 200,
            });
        }
        assert!(counters.dropped_spans.load(Relaxed) >= spans / 2 - QUEUE as u64 / 2);
        assert_eq!(counters.sent_spans.load(Relaxed), 0);
    }

    #[test]
    fn links_are_of_recorded_traces_each_once_and_bounded() {
        let mut links = Links::default();
        let text = |trace: usize, flags: &str| format!("00-{trace:032x}-00f067aa0ba902b7-{flags}");
        links.add(text(1, "00").as_bytes());
        links.add(b"no trace");
        assert!(links.is_empty());
        for trace in (1..=2 * MAX_LINKS).flat_map(|trace| [trace, trace]) {
            links.add(text(trace, "01").as_bytes());
        }
        assert!(links.is_full());
        assert_eq!(links.0.len(), MAX_LINKS);
    }
}
