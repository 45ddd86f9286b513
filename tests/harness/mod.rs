//! A service over a data directory of its own, asked through its router as a connection would.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use quipu::app::App;
use quipu::settings::Config;
use quipu_segments::batch::BatchBuilder;
use quipu_segments::{
    AppendRequest, Clock, Log, Offset, Options, Part, Partition, Records, SystemClock, TimestampMs,
};
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;

/// The headers of a call with a JSON body.
pub const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

pub type Headers<'a> = &'a [(&'a [u8], Option<&'a [u8]>)];

/// A record to append: timestamp, key, value, headers.
pub type Sample<'a> = (i64, Option<&'a [u8]>, Option<&'a [u8]>, Headers<'a>);

pub struct Service {
    pub app: App,
    pub router: Router,
    dir: Arc<TempDir>,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Service {
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock::new()))
    }

    /// The same with a clock of the test's own; the engine has the system's.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::over(
            Arc::new(tempfile::tempdir().expect("a temporary directory")),
            clock,
        )
    }

    fn over(dir: Arc<TempDir>, clock: Arc<dyn Clock>) -> Self {
        // Journal files are written out when they are made: small ones, for there are many services here.
        let options = Options {
            max_request_bytes: 2 << 20,
            journal_file_bytes: 4 << 20,
            journal_files: 2,
            ..Options::default()
        };
        let log = Log::open(dir.path(), options).expect("the directory is ours");
        let app = App::new(log, Config::default(), clock);
        Self {
            router: quipu::http::router(app.clone()),
            app,
            dir,
        }
    }

    /// Stops it, lets `change` do what it wants to the data directory, and starts another one over it.
    pub fn restarted(self, change: impl FnOnce(&std::path::Path)) -> Self {
        self.app.log.close().expect("nothing is wrong with it");
        let (dir, clock) = (Arc::clone(&self.dir), Arc::clone(&self.app.clock));
        drop(self);
        change(dir.path());
        Self::over(dir, clock)
    }

    pub async fn send(
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
        let request = request.body(body.into()).expect("a request of a test");
        let response = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("a router does not fail");
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: body
                .collect()
                .await
                .expect("the body is whole")
                .to_bytes()
                .to_vec(),
        }
    }

    pub async fn get(&self, uri: &str) -> Answer {
        self.send(Method::GET, uri, &[], Body::empty()).await
    }

    pub async fn get_as(&self, uri: &str, media_type: &str) -> Answer {
        self.send(Method::GET, uri, &[("accept", media_type)], Body::empty())
            .await
    }

    pub async fn put(&self, uri: &str, body: Value) -> Answer {
        self.send(Method::PUT, uri, JSON, body.to_string()).await
    }

    pub async fn post(&self, uri: &str, body: Value) -> Answer {
        self.send(Method::POST, uri, JSON, body.to_string()).await
    }

    pub async fn patch(&self, uri: &str, body: Value) -> Answer {
        self.send(Method::PATCH, uri, JSON, body.to_string()).await
    }

    pub async fn delete(&self, uri: &str) -> Answer {
        self.send(Method::DELETE, uri, &[], Body::empty()).await
    }

    pub fn partition(&self, topic: &str, index: u32) -> Arc<Partition> {
        let topic = self.app.log.topic(topic).expect("the test made it");
        topic.partition(index).expect("the test made it")
    }

    /// Appends the records as one batch, durably; returns the first one's offset.
    pub fn append(&self, topic: &str, index: u32, json_lines: bool, samples: &[Sample<'_>]) -> Offset {
        let mut batch = BatchBuilder::new();
        for (timestamp, key, value, headers) in samples {
            batch.push(TimestampMs(*timestamp), *key, *value, headers);
        }
        let part = Part {
            partition: self.partition(topic, index),
            records: Records::Loose(batch),
            expected_offset: None,
            json_lines,
        };
        let request = AppendRequest {
            parts: vec![part],
            ..AppendRequest::default()
        };
        let appended = self
            .app
            .log
            .append(request)
            .and_then(|ticket| ticket.wait())
            .expect("the disk works");
        appended.base_offsets[0]
    }

    /// Appends `count` records, each with the value `{"n":…}` from `first` on and the timestamp 1000 times that.
    pub fn append_numbers(&self, topic: &str, index: u32, first: u64, count: u64) {
        let values: Vec<String> = (first..first + count).map(|n| format!("{{\"n\":{n}}}")).collect();
        let samples: Vec<Sample<'_>> = values
            .iter()
            .zip(first..)
            .map(|(value, n)| (n as i64 * 1000, None, Some(value.as_bytes()), &[][..]))
            .collect();
        self.append(topic, index, true, &samples);
    }
}

impl Answer {
    #[track_caller]
    pub fn with_status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    /// Checks that it is this problem; returns it.
    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Value {
        let answer = self.with_status(status);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let problem = answer.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        problem
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("it is text")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| value.to_str().expect("it is ASCII"))
    }
}
