//! What is noted of single requests: lines in the log, and spans.
//!
//! - A line for each request that changes something as an administrator does (topics, offsets of groups, and whatever else
//!   is not the daily work of producers and members), whether it is allowed or not. That of a dry run says so. Of those
//!   that are refused only a bounded number have a line ([`Sparing`]): a stranger can send as many as he likes.
//! - A line for each answer of 500.
//! - With the setting `access_log`, a line for each request, when its answer has ended.
//! - With the setting `otlp_endpoint`, a span of each traced request, see [`traces`](crate::traces).
//!
//! Each line has the id of the request, which problems and answers to changes carry in `X-Request-Id`. A request of which
//! nothing is noted costs no allocation here.

use std::net::SocketAddr;
use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body::Frame;

use crate::broker::caller::{RequestId, Shown};
use crate::broker::engine::{Monotonic, TimestampMs};
use crate::broker::sparing::Sparing;
use crate::formats::trace_context::TraceContext;
use crate::http::app::App;
use crate::http::{ChangesNothing, SignedIn};
use crate::metrics::{Requests, Slot};
use crate::traces::{Linking, Links, Span};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The most bytes of a path and query that a line shows.
const SHOWN_BYTES: usize = 1024;

/// A request of which something is noted.
pub(super) struct Noted {
    slot: Slot,
    request_id: RequestId,
    address: Option<SocketAddr>,
    uri: Uri,
    is_change: bool,
    started: Monotonic,
    started_at: TimestampMs,
    parent: Option<TraceContext>,
    links: Option<Linking>,
    principal: Option<SignedIn>,
    status: StatusCode,
    sent_bytes: u64,
}

impl Noted {
    /// `None`: nothing is noted of this request.
    pub(super) fn begin<T>(
        app: &App,
        requests: &Requests,
        slot: Slot,
        request: &Request<T>,
        (address, request_id): (Option<SocketAddr>, RequestId),
        started: Monotonic,
    ) -> Option<Box<Self>> {
        let is_change = requests.is_administrative(slot);
        if !is_change && !app.config.access_log && app.tracer.is_none() {
            return None;
        }
        let parent = request.headers().get("traceparent");
        let parent = parent.filter(|_| app.tracer.is_some());
        Some(Box::new(Self {
            slot,
            request_id,
            address,
            uri: request.uri().clone(),
            is_change,
            started,
            started_at: app.clock.now(),
            parent: parent.and_then(|value| TraceContext::parse(value.as_bytes())),
            links: None,
            principal: None,
            status: StatusCode::OK,
            sent_bytes: 0,
        }))
    }

    /// Notes the head of the answer. `refused` bounds the lines about changes that were refused.
    pub(super) fn answered(
        &mut self,
        requests: &Requests,
        (refused, now): (&Sparing, Monotonic),
        response: &mut Response,
    ) {
        self.status = response.status();
        self.links = response.extensions_mut().remove();
        self.principal = response.extensions_mut().remove();
        if self.is_change {
            set_id(response, self.request_id);
        }
        let address = self.address.map(|address| address.ip());
        let has_line = self.is_change && (!self.status.is_client_error() || refused.takes(now, address));
        if has_line {
            let (route, method) = requests.labels(self.slot);
            let asked = match response.extensions().get() {
                Some(ChangesNothing) => "a dry run was asked for",
                None => "a change was asked for",
            };
            tracing::info!(
                request_id = %self.request_id,
                address = self.address.map(|address| tracing::field::display(Shown(address))),
                principal = self.principal(),
                method,
                uri = self.shown(route),
                status = self.status.as_u16(),
                "{asked}"
            );
        }
    }

    /// Counts a part of the answer.
    pub(super) fn count(&mut self, frame: &Frame<Bytes>) {
        self.sent_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
    }

    /// The answer has ended: writes the line and the span.
    pub(super) fn finish(&mut self, app: &App, requests: &Requests, received_bytes: u64, is_whole: bool) {
        let duration = app.clock.monotonic().since(self.started);
        let (route, method) = requests.labels(self.slot);
        if app.config.access_log {
            tracing::info!(
                target: "quipu::access",
                request_id = %self.request_id,
                address = self.address.map(|address| tracing::field::display(Shown(address))),
                principal = self.principal(),
                method,
                route,
                status = self.status.as_u16(),
                duration_ms = duration.as_micros() as f64 / 1e3,
                received_bytes,
                sent_bytes = self.sent_bytes,
                is_whole,
                "a request was answered"
            );
        }
        if let Some(tracer) = &app.tracer {
            let is_recorded = self.parent.is_some_and(|parent| parent.is_sampled);
            let parent = self.parent.filter(|_| is_recorded);
            let links = self.links.take().map(|links| links.take()).unwrap_or_default();
            if is_recorded || (self.parent.is_none() && !links.is_empty()) {
                tracer.record(self.span((route, method), parent, links, duration));
            }
        }
    }

    fn span(
        &self,
        (route, method): (&str, &str),
        parent: Option<TraceContext>,
        links: Links,
        duration: Duration,
    ) -> Span {
        let mut attributes = vec![
            ("http.request.method", method.to_owned()),
            ("http.route", route.to_owned()),
            ("quipu.request_id", self.request_id.to_string()),
        ];
        for (parameter, name) in [
            ("{topic}", "messaging.destination.name"),
            ("{group}", "messaging.consumer.group.name"),
        ] {
            let mut pairs = route.split('/').zip(self.uri.path().split('/'));
            if let Some((_, value)) = pairs.find(|(segment, _)| *segment == parameter) {
                attributes.push((name, value.to_owned()));
            }
        }
        Span {
            name: format!("{method} {route}"),
            parent,
            links,
            start_ns: u64::try_from(self.started_at.get()).unwrap_or(0) * 1_000_000,
            duration,
            attributes,
            status: self.status.as_u16(),
        }
    }

    /// Who has signed in.
    fn principal(&self) -> Option<&str> {
        self.principal.as_ref().map(|SignedIn(name)| &**name)
    }

    /// What was asked for: path and query, the beginning of them; of routes with a record's key only the template, as keys
    /// may be personal.
    fn shown<'a>(&'a self, route: &'a str) -> &'a str {
        if route.contains("{key}") {
            return route;
        }
        let target = self.uri.path_and_query().map_or(route, |target| target.as_str());
        &target[..target.floor_char_boundary(SHOWN_BYTES)]
    }
}

/// Writes a line for the refused changes that got none of their own, if a while of many has ended. To be called often.
pub(super) fn tell_left_out(refused: &Sparing, now: Monotonic) {
    if let Some(left_out) = refused.left_out(now) {
        tracing::info!(
            left_out = left_out.events,
            most_from = %left_out.from(),
            "more changes were asked for and refused, which have no line of their own"
        );
    }
}

/// Gives a problem the id of its request, and an answer of 500 a line in the log.
pub(super) fn problem(requests: &Requests, slot: Slot, request_id: RequestId, response: &mut Response) {
    if response.status().as_u16() < 400 {
        return;
    }
    set_id(response, request_id);
    if response.status() == StatusCode::INTERNAL_SERVER_ERROR {
        let (route, method) = requests.labels(slot);
        tracing::error!(%request_id, method, route, "a request was answered 500: the lines before say why");
    }
}

fn set_id(response: &mut Response, request_id: RequestId) {
    let id = HeaderValue::try_from(request_id.to_string());
    let id = id.expect("digits and dashes are visible ASCII");
    response.headers_mut().insert(X_REQUEST_ID, id);
}
