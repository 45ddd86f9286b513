//! The service over the router, with a clock that the tests move.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt as _;
use quipu::app::App;
use quipu::settings::Config;
use quipu_segments::{Clock, Error, Log, Monotonic, RealDisk, TimestampMs};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::requests::Sent;
use crate::support::PATIENCE;

pub(crate) const NOW: i64 = 1_700_000_000_000;

/// The clock of service and log, which stands still until a test moves it.
struct ManualClock(AtomicI64);

impl Clock for ManualClock {
    fn now(&self) -> TimestampMs {
        TimestampMs(self.0.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Monotonic {
        let passed = self.0.load(Ordering::SeqCst) - NOW;
        Monotonic(Duration::from_millis(passed.unsigned_abs()))
    }
}

pub(crate) struct Service {
    app: App,
    router: Router,
    clock: Arc<ManualClock>,
    dir: tempfile::TempDir,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::with(Config::default()).await
    }

    /// With a topic `t` of four partitions.
    pub(crate) async fn with(mut config: Config) -> Self {
        config.journal_file_bytes = 8 << 20;
        config.limits.max_request_bytes = 4 << 20;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let clock = Arc::new(ManualClock(AtomicI64::new(NOW)));
        let service = Self::over(dir, config, clock);
        service.topic("t", 4).await;
        service
    }

    fn over(dir: tempfile::TempDir, config: Config, clock: Arc<ManualClock>) -> Self {
        let begin = std::time::Instant::now();
        let log = loop {
            let disk = Arc::new(RealDisk::new());
            match Log::open_with(disk, clock.clone(), dir.path(), config.log_options()) {
                Ok(log) => break log,
                // A process that another test is starting has the lock of the log before, until it becomes another program.
                Err(Error::Directory(what)) if begin.elapsed() < PATIENCE => {
                    assert!(what.contains("in use"), "{what}");
                    std::thread::yield_now();
                }
                Err(error) => panic!("the log does not open: {error}"),
            }
        };
        let app = App::new(log, config, clock.clone());
        Self {
            router: quipu::http::router(app.clone()),
            app,
            clock,
            dir,
        }
    }

    pub(crate) fn restart(self) -> Self {
        let Self {
            app,
            router,
            clock,
            dir,
        } = self;
        app.log.close().expect("nothing is wrong with it");
        let config = app.config.clone();
        drop((app, router));
        Self::over(dir, config, clock)
    }

    pub(crate) fn pass(&self, time: Duration) {
        let millis = i64::try_from(time.as_millis()).expect("not so long");
        self.clock.0.fetch_add(millis, Ordering::SeqCst);
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).expect("a request");
        let response = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("a router does not fail");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        }
    }

    pub(crate) async fn topic(&self, name: &str, partitions: u32) {
        let spec = json!({"partitions": partitions}).to_string();
        let answer = self
            .send(Method::PUT, &format!("/v1/topics/{name}"), &[], spec)
            .await;
        assert_eq!(answer.status, 201, "{}", answer.body);
    }

    pub(crate) async fn configure(&self, change: Value) {
        let answer = self
            .send(Method::PATCH, "/v1/topics/t", &[], change.to_string())
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    pub(crate) async fn post(&self, request: &Sent) -> Answer {
        let headers: Vec<_> = request
            .headers
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        self.send(Method::POST, &request.uri, &headers, request.body.clone())
            .await
    }

    /// How many records there are in all partitions.
    pub(crate) async fn count(&self, topic: &str) -> u64 {
        let about = self
            .send(Method::GET, &format!("/v1/topics/{topic}"), &[], "")
            .await;
        let partitions = about.body["partitions"].as_array().expect("partitions");
        partitions
            .iter()
            .map(|partition| partition["end_offset"].as_u64().expect("an offset"))
            .sum()
    }

    /// Waits until there are so many: what was acknowledged as written is readable a moment later.
    pub(crate) async fn await_count(&self, expected: u64) {
        let begin = std::time::Instant::now();
        while self.count("t").await < expected {
            assert!(begin.elapsed() < PATIENCE, "there never are {expected} records");
            tokio::task::yield_now().await;
        }
        assert_eq!(self.count("t").await, expected);
    }

    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let request = Request::get("/metrics").body(Body::empty()).expect("a request");
        let response = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("a router does not fail");
        let text = response.into_body().collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(text.to_vec()).expect("text");
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("{name} is not in {text}"))
            .parse()
            .expect("a number")
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn appended(&self) -> &Value {
        assert_eq!(self.status, 200, "{}", self.body);
        assert_eq!(self.headers.get("idempotency-replayed"), None);
        &self.body
    }

    #[track_caller]
    pub(crate) fn replayed(&self) -> &Value {
        assert_eq!(self.status, 200, "{}", self.body);
        assert_eq!(self.headers["idempotency-replayed"], "true");
        &self.body
    }

    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> &Value {
        assert_eq!(
            (self.status, &self.body["code"]),
            (status, &code.into()),
            "{}",
            self.body
        );
        &self.body
    }
}
