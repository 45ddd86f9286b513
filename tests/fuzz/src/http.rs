//! Requests to the whole service, over an engine on a simulated disk.
//!
//! No request of a client is answered 500. An answer of type JSON is JSON, a problem has the status that it names, and
//! each line of NDJSON is a record that could be produced again.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use quipu::formats::cloudevents::parse_events;
use quipu::formats::json::{RecordError, parse_record};
use quipu::http::app::App;
use quipu::settings::Config;
use quipu_segments::sim::{SimClock, SimDisk};
use quipu_segments::{AppendRequest, Log, Options, StateChange, TimestampMs, TopicSettings, TopicSpec};
use serde::de::IgnoredAny;
use serde_json::Value;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

use super::input::Input;

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
struct Service {
    runtime: Runtime,
    app: App,
    router: Router,
}

pub fn run(data: &[u8]) {
    thread_local! {
        static SERVICE: Service = {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(1)
                .build()
                .expect("a runtime");
            let app = app();
            let router = quipu::http::router(app.clone());
            Service { runtime, app, router }
        };
    }
    SERVICE.with(|service| {
        empty(&service.app);
        let requests = requests(&service.app, &service.router, data);
        service.runtime.block_on(requests);
    });
}

/// Removes what the last run left: topics, groups, unsynced segments.
fn empty(app: &App) {
    for topic in app.log.topics() {
        app.log.delete_topic(topic.name(), Vec::new()).expect("deleted");
    }
    let state = app.log.state_prefix(b"").into_iter();
    let removes = state.map(|(key, _)| StateChange::remove(key.into_vec()));
    let state: Vec<StateChange> = removes.collect();
    if !state.is_empty() {
        let request = AppendRequest::of_state(state);
        let ticket = app.log.append(request).expect("queued");
        app.log.run_round().expect("the disk is healthy");
        ticket.wait().expect("durable");
    }
    let spec = TopicSpec::new(2, TopicSettings::default());
    app.log.create_topic("t", spec).expect("made");
    app.log.sync_segments().expect("the disk is healthy");
}

async fn requests(app: &App, router: &Router, data: &[u8]) {
    let mut input = Input::new(data);
    for _ in 0..4 {
        if input.is_empty() {
            break;
        }
        let Some(request) = request(&mut input) else {
            continue;
        };
        let is_head = request.method() == Method::HEAD;
        check(ask(app, router, request).await, is_head).await;
    }
    for partition in 0..2 {
        let uri = format!("/v1/topics/t/partitions/{partition}/records?offset=earliest");
        let request = Request::get(uri).header(header::ACCEPT, "application/x-ndjson");
        let request = request.body(Body::empty()).expect("a request");
        check(ask(app, router, request).await, false).await;
    }
}

/// Sends a request, and meanwhile runs the rounds of the engine, which has no threads of its own.
async fn ask(app: &App, router: &Router, request: Request<Body>) -> http::Response<Body> {
    let rounds = async {
        loop {
            if app.log.run_round().expect("the disk is healthy") {
                app.log.sync_segments().expect("the disk is healthy");
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        answer = router.clone().oneshot(request) => answer.expect("an answer"),
        () = rounds => unreachable!("rounds go on until there is an answer"),
    }
}

fn app() -> App {
    let clock = Arc::new(SimClock::new(TimestampMs(1_700_000_000_000)));
    let options = Options {
        journal_file_bytes: 192 << 10,
        journal_files: 2,
        max_request_bytes: 128 << 10,
        background: false,
        ..Options::default()
    };
    let disk = Arc::new(SimDisk::new(1));
    let log = Log::open_with(disk, clock.clone(), Path::new("/data"), options).expect("a new directory");
    let mut config = Config::default();
    config.limits.max_request_bytes = 64 << 10;
    config.limits.max_partitions = 16;
    let app = App::new(log, config, clock);
    // So that no request waits for records that nobody will send.
    app.stopping.send_replace(true);
    app
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
