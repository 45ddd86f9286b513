//! Requests by route, method and class of status, each a histogram of durations.
//!
//! A histogram is made when it is first needed, so routes and statuses that never occur cost nothing and are not listed.

use std::sync::OnceLock;
use std::time::Duration;

use http::StatusCode;

use super::histogram::Histogram;
use super::routes::{RouteTable, Slot};
use super::text::{Pair, Text};

/// The classes of statuses, by their first digit from 1.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Counts of requests, a row for each route and method.
#[derive(Debug)]
pub(crate) struct Requests {
    table: RouteTable,
    rows: Box<[[OnceLock<Box<Histogram>>; CLASSES.len()]]>,
}

impl Requests {
    pub(super) fn new(table: RouteTable) -> Self {
        let rows = (0..table.len()).map(|_| Default::default()).collect();
        Self { table, rows }
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The row of a request.
    pub(crate) fn find(&self, method: &http::Method, path: &str) -> Slot {
        self.table.find(method, path)
    }

    /// The labels of a row: the route's template and the method.
    pub(crate) fn labels(&self, slot: Slot) -> (&str, &'static str) {
        self.table.labels(slot)
    }

    /// Whether it changes what an administrator changes: anything but records and the calls of members.
    pub(crate) fn is_administrative(&self, slot: Slot) -> bool {
        self.table.is_administrative(slot)
    }

    /// Counts an answer whose head was ready after `duration`.
    pub(crate) fn observe(&self, slot: Slot, status: StatusCode, duration: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.rows[slot.0][class]
            .get_or_init(Box::default)
            .observe(duration);
    }

    pub(super) fn encode(&self, out: &mut Text) {
        let mut read = Vec::new();
        for (slot, row) in self.rows.iter().enumerate() {
            let (route, method) = self.table.labels(Slot(slot));
            for (histogram, class) in row.iter().zip(CLASSES) {
                let Some(histogram) = histogram.get() else {
                    continue;
                };
                let labels: [Pair<'_>; 3] = [
                    ("route", route.into()),
                    ("method", method.into()),
                    ("status", class.into()),
                ];
                read.push((labels, histogram.read()));
            }
        }
        let counts = read.iter().map(|(labels, counted)| (*labels, counted.count()));
        out.counters("quipu_http_requests", "Requests answered", counts);
        let name = "quipu_http_request_duration_seconds";
        out.head(
            "histogram",
            name,
            "Time from the head of a request to the head of its answer",
        );
        for (labels, counted) in &read {
            counted.encode(out, name, labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::Format;
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_only_what_occurred_is_listed() {
        let requests = Requests::new(RouteTable::new(["/v1/x".to_owned()]));
        let slot = requests.find(&http::Method::GET, "/v1/x");
        for (status, us) in [(200, 100), (201, 101), (404, 20_000_000), (200, 20_000_000)] {
            let status = StatusCode::from_u16(status).unwrap();
            requests.observe(slot, status, Duration::from_micros(us));
        }
        let mut out = Text::new(Format::Classic);
        requests.encode(&mut out);
        let text = out.finish();
        let labels = |class| format!("{{route=\"/v1/x\",method=\"GET\",status=\"{class}\"");
        for line in [
            format!("quipu_http_requests_total{}}} 3", labels("2xx")),
            format!("quipu_http_requests_total{}}} 1", labels("4xx")),
            format!(
                "quipu_http_request_duration_seconds_bucket{},le=\"0.0001\"}} 1",
                labels("2xx")
            ),
            format!(
                "quipu_http_request_duration_seconds_bucket{},le=\"0.00025\"}} 2",
                labels("2xx")
            ),
            format!(
                "quipu_http_request_duration_seconds_bucket{},le=\"10\"}} 2",
                labels("2xx")
            ),
            format!(
                "quipu_http_request_duration_seconds_bucket{},le=\"+Inf\"}} 3",
                labels("2xx")
            ),
            format!("quipu_http_request_duration_seconds_sum{}}} 20", labels("4xx")),
            format!("quipu_http_request_duration_seconds_count{}}} 1", labels("4xx")),
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        assert!(!text.contains("POST") && !text.contains("5xx"), "{text}");
    }
}
