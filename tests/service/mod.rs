//! A service in a directory of its own, asked through its router.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its share")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use quipu::app::App;
use quipu::settings::Config;
use quipu_segments::batch::BatchBuilder;
use quipu_segments::{
    AppendRequest, Clock, Log, Monotonic, Part, Records, StateChange, TimestampMs, TopicSettings, TopicSpec,
};
use serde_json::Value;
use tower::ServiceExt;

/// The service's wall time in these tests until one moves it.
pub const NOW: i64 = 1_700_000_000_000;

/// Settings whose journal is made in no time.
pub fn small() -> Config {
    let mut config = Config {
        journal_file_bytes: 4 << 20,
        ..Config::default()
    };
    config.limits.max_request_bytes = 1 << 20;
    config
}

/// A clock that stands still until it is moved; its monotonic time is what has passed since [`NOW`].
#[derive(Default)]
pub struct ManualClock(AtomicI64);

impl Clock for ManualClock {
    fn now(&self) -> TimestampMs {
        TimestampMs(self.0.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Monotonic {
        let passed = self.0.load(Ordering::SeqCst).saturating_sub(NOW);
        Monotonic(Duration::from_millis(u64::try_from(passed).unwrap_or(0)))
    }
}

/// A running service.
pub struct Service {
    pub app: App,
    pub clock: Arc<ManualClock>,
    router: Router,
    dir: tempfile::TempDir,
}

/// What was answered.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {:?}", self.text))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Asserts a problem with this code, and returns it.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{}",
            self.text
        );
        let problem = self.json();
        assert_eq!(problem["code"], code, "{}", self.text);
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("/problems/{code}"));
        problem
    }

    /// Asserts 200, and returns the body.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        assert_eq!(self.header("content-type"), Some("application/json"));
        self.json()
    }
}

impl Service {
    pub fn start() -> Self {
        Self::with(small())
    }

    pub fn with(config: Config) -> Self {
        Self::in_dir(tempfile::tempdir().expect("a temporary directory"), config)
    }

    fn in_dir(dir: tempfile::TempDir, config: Config) -> Self {
        let log = Log::open(dir.path(), config.log_options()).expect("the log opens");
        let clock = Arc::new(ManualClock(AtomicI64::new(NOW)));
        let app = App::new(log, config, clock.clone());
        Self {
            router: quipu::http::router(app.clone()),
            app,
            clock,
            dir,
        }
    }

    /// Closes the log and opens it again.
    pub fn restart(self) -> Self {
        self.restart_after(|_| {})
    }

    /// Closes the log, lets `change` do something to its directory, and opens it again.
    pub fn restart_after(self, change: impl FnOnce(&std::path::Path)) -> Self {
        let Self { app, router, dir, .. } = self;
        app.log.close().expect("the log closes");
        let config = app.config.clone();
        drop((app, router));
        change(dir.path());
        Self::in_dir(dir, config)
    }

    pub fn set_time(&self, now: i64) {
        self.clock.0.store(now, Ordering::SeqCst);
    }

    pub async fn call(&self, method: Method, uri: &str, body: &str) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("content-type", "application/json")
            .body(Body::from(body.to_owned()));
        self.send(request.expect("a request")).await
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("the router answers");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).expect("text"),
        }
    }

    pub async fn get(&self, uri: &str) -> Answer {
        self.call(Method::GET, uri, "").await
    }

    pub async fn put(&self, uri: &str, body: &Value) -> Answer {
        self.call(Method::PUT, uri, &body.to_string()).await
    }

    pub async fn post(&self, uri: &str, body: &Value) -> Answer {
        self.call(Method::POST, uri, &body.to_string()).await
    }

    pub async fn delete(&self, uri: &str) -> Answer {
        self.call(Method::DELETE, uri, "").await
    }

    pub fn topic(&self, name: &str, partitions: u32) {
        self.topic_with(name, partitions, TopicSettings::default());
    }

    pub fn topic_with(&self, name: &str, partitions: u32, settings: TopicSettings) {
        let spec = TopicSpec {
            partitions,
            settings,
            properties: Default::default(),
        };
        self.app.log.create_topic(name, spec).expect("the topic is made");
    }

    pub fn delete_topic(&self, name: &str, state: Vec<StateChange>) {
        self.app
            .log
            .delete_topic(name, state)
            .expect("the topic is deleted");
    }

    /// Appends one record for each timestamp, in one batch.
    pub fn append(&self, topic: &str, partition: u32, timestamps: &[i64]) {
        let topic = self.app.log.topic(topic).expect("the topic is there");
        let partition = topic.partition(partition).expect("the partition is there");
        let mut builder = BatchBuilder::new();
        for timestamp in timestamps {
            builder.push(TimestampMs(*timestamp), None, Some(b"1"), &[]);
        }
        let part = Part {
            partition,
            records: Records::Loose(builder),
            expected_offset: None,
            json_lines: true,
        };
        let request = AppendRequest {
            parts: vec![part],
            ..AppendRequest::default()
        };
        self.app
            .log
            .append(request)
            .expect("queued")
            .wait()
            .expect("durable");
    }
}
