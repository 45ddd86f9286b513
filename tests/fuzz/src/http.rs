//! Requests to the whole service, over an engine on a simulated disk.
//!
//! No request of a client is answered 500. An answer of type JSON is JSON, a problem has the status that it names, and
//! each line of NDJSON is a record that could be produced again.

use axum::Router;
use axum::body::Body;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use quipu::formats::cloudevents::parse_events;
use quipu::formats::json::{RecordError, parse_record};
use quipu_segments::{TopicSettings, TopicSpec};
use serde::de::IgnoredAny;
use serde_json::Value;
use tower::ServiceExt as _;

use super::input::Input;
use super::service::Service;

const METHODS: [Method; 7] = [
    Method::POST,
    Method::GET,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::HEAD,
    Method::OPTIONS,
];

const PATHS: [&str; 13] = [
    "/v1/topics/t/records",
    "/v1/topics/t/partitions/0/records",
    "/v1/topics/t/partitions/1/records",
    "/v1/topics/t",
    "/v1/topics/",
    "/v1/topics",
    "/v1/groups",
    "/v1/groups/g/offsets",
    "/v1/groups/",
    "/v1/topics/t/partitions/0/",
    "/v1/info",
    "/metrics",
    "/",
];

const HEADERS: [HeaderName; 8] = [
    header::CONTENT_TYPE,
    header::ACCEPT,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::IF_MATCH,
    header::EXPECT,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("idempotency-key"),
];

const VALUES: [&str; 10] = [
    "application/json",
    "application/x-ndjson",
    "application/vnd.apache.kafka.record-batch",
    "text/plain",
    "gzip",
    "zstd",
    "*/*",
    "application/json; charset=",
    "application/cloudevents+json",
    "application/cloudevents-batch+json",
];

/// The service is created once, because creating its routes takes long; each run empties it first.
struct Routed {
    service: Service,
    router: Router,
}

pub fn run(data: &[u8]) {
    thread_local! {
        static ROUTED: Routed = {
            let service = Service::new(|_| {});
            // So that no request waits for records that nobody will send.
            service.app.stopping.send_replace(true);
            let router = quipu::http::router(service.app.clone());
            Routed { service, router }
        };
    }
    ROUTED.with(|Routed { service, router }| {
        service.empty();
        service.create_topic("t", TopicSpec::new(2, TopicSettings::default()));
        service.run(requests(router, data));
    });
}

async fn requests(router: &Router, data: &[u8]) {
    let mut input = Input::new(data);
    for _ in 0..4 {
        if input.is_empty() {
            break;
        }
        let Some(request) = request(&mut input) else {
            continue;
        };
        let is_head = request.method() == Method::HEAD;
        check(ask(router, request).await, is_head).await;
    }
    for partition in 0..2 {
        let uri = format!("/v1/topics/t/partitions/{partition}/records?offset=earliest");
        let request = Request::get(uri).header(header::ACCEPT, "application/x-ndjson");
        let request = request.body(Body::empty()).expect("a request");
        check(ask(router, request).await, false).await;
    }
}

async fn ask(router: &Router, request: Request<Body>) -> http::Response<Body> {
    router.clone().oneshot(request).await.expect("an answer")
}

fn request(input: &mut Input<'_>) -> Option<Request<Body>> {
    let method = METHODS[usize::from(input.u8()) % METHODS.len()].clone();
    let path = PATHS[usize::from(input.u8()) % PATHS.len()];
    let rest = input.short().unwrap_or_default().iter();
    let rest: String = rest.map(|byte| *byte as char).filter(char::is_ascii).collect();
    let uri: Uri = format!("{path}{rest}").parse().ok()?;
    let mut request = Request::builder().method(method).uri(uri);
    for _ in 0..input.u8() % 4 {
        let name = HEADERS[usize::from(input.u8()) % HEADERS.len()].clone();
        let value = VALUES.get(usize::from(input.u8())).copied().unwrap_or_default();
        let value = [value.as_bytes(), input.short().unwrap_or_default()].concat();
        request = request.header(name, HeaderValue::from_bytes(&value).ok()?);
    }
    request.body(Body::from(input.part().to_vec())).ok()
}

async fn check(answer: http::Response<Body>, is_head: bool) {
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    assert_ne!(parts.status, StatusCode::INTERNAL_SERVER_ERROR, "{body:?}");
    if is_head || parts.status == StatusCode::NOT_MODIFIED {
        return;
    }
    let media_type = parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    match media_type {
        Some(b"application/problem+json") => {
            let problem: Value = serde_json::from_slice(&body).expect("a problem is JSON");
            assert_eq!(problem["status"], parts.status.as_u16(), "{problem}");
        }
        Some(b"application/json") => {
            serde_json::from_slice::<IgnoredAny>(&body).expect("JSON");
        }
        Some(b"application/cloudevents-batch+json") if body != "[]"[..] => {
            parse_events(&body, |_, _| Ok::<(), RecordError>(())).expect("events");
        }
        Some(b"application/x-ndjson") => {
            for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                if let Err(error) = parse_record(line) {
                    // Batches may bring times that a record in JSON cannot name.
                    assert_eq!(error.pointer, "/timestamp", "{error}");
                }
            }
        }
        _ => {}
    }
}
