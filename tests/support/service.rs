//! A service in this process over a data directory of its own, called through its router as a connection would call it.

use std::borrow::Borrow;
use std::panic::Location;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use quipu::http::app::App;
use quipu::settings::Config;
use quipu_segments::batch::{BatchBuilder, Codec, SealedBatch};
use quipu_segments::{
    AppendRequest, Error, Log, Offset, Options, Part, Partition, RealDisk, Records, StateChange, TimestampMs,
    TopicSettings, TopicSpec,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;

use super::PATIENCE;
use super::client::Answer;
use super::clock::HandClock;

/// The headers of a call with a JSON body.
pub const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

pub type Headers<'a> = &'a [(&'a [u8], Option<&'a [u8]>)];

/// A record to append: timestamp, key, value, headers.
pub type Sample<'a> = (i64, Option<&'a [u8]>, Option<&'a [u8]>, Headers<'a>);

/// A running service.
pub struct Service {
    pub app: App,
    pub router: Router,
    pub clock: Arc<HandClock>,
    dir: TempDir,
}

impl Service {
    /// A service whose clock is the system's until a test sets it.
    pub fn new() -> Self {
        Self::over(temporary(), Config::default(), HandClock::running())
    }

    /// A service whose clock stands still until a test moves it.
    pub fn start() -> Self {
        Self::with(Config::default())
    }

    /// The same with settings.
    pub fn with(config: Config) -> Self {
        Self::over(temporary(), config, HandClock::standing())
    }

    /// The same over an existing data directory.
    pub fn in_dir(dir: TempDir) -> Self {
        Self::over(dir, Config::default(), HandClock::standing())
    }

    fn over(dir: TempDir, config: Config, clock: impl Into<Arc<HandClock>>) -> Self {
        let clock = clock.into();
        let log = open(dir.path(), &config, &clock);
        Self::of(log, dir, config, clock)
    }

    fn of(log: Log, dir: TempDir, config: Config, clock: Arc<HandClock>) -> Self {
        let app = App::new(log, config, clock.clone());
        let router = quipu::http::router(app.clone());
        Self {
            app,
            router,
            clock,
            dir,
        }
    }

    /// Closes the log and opens it again, once tasks of the service have ended that still had it.
    pub async fn restart(self) -> Self {
        self.app.log.close().expect("the log closes");
        let config = self.app.config.clone();
        drop((self.app, self.router));
        let begin = Instant::now();
        let log = loop {
            match try_open(self.dir.path(), &config, &self.clock, begin) {
                Some(log) => break log,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        Self::of(log, self.dir, config, self.clock)
    }

    /// Closes the log, lets `change` change the data directory, and opens the log again. No task of the service may still
    /// have the log.
    pub fn restart_after(self, change: impl FnOnce(&Path)) -> Self {
        self.app.log.close().expect("the log closes");
        let config = self.app.config.clone();
        drop((self.app, self.router));
        change(self.dir.path());
        Self::over(self.dir, config, self.clock)
    }

    /// Sets the wall time, in milliseconds.
    pub fn set_time(&self, now: i64) {
        self.clock.set(now);
    }

    pub fn pass(&self, time: Duration) {
        self.clock.pass(time);
    }

    /// Waits until this member of a group is in a poll, then moves the clock. To be joined with the poll, which waits for
    /// something whose time comes by that.
    pub async fn pass_in_poll(&self, group: &str, member: &str, time: Duration) {
        let path = format!("/v1/groups/{group}");
        let is_polling = |group: &Value| {
            let mut members = group["members"].as_array().into_iter().flatten();
            members.any(|row| row["member_id"] == member && row["polling"] == true)
        };
        let wait = async {
            while !is_polling(&self.get(&path).await.ok()) {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.expect("it polls");
        self.pass(time);
    }

    pub async fn request(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await;
        let (parts, body) = response.expect("a router does not fail").into_parts();
        let body = body.collect().await.expect("the body is whole").to_bytes();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.to_vec(),
        }
    }

    pub async fn send(
        &self,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        self.request(request(method, uri, headers, body)).await
    }

    /// A call with a body that is meant to be JSON.
    pub async fn call(&self, method: Method, uri: &str, body: &str) -> Answer {
        self.send(method, uri, JSON, body.to_owned()).await
    }

    pub async fn get(&self, uri: &str) -> Answer {
        self.get_with(uri, &[]).await
    }

    pub async fn get_as(&self, uri: &str, media_type: &str) -> Answer {
        self.get_with(uri, &[("accept", media_type)]).await
    }

    pub async fn get_with(&self, uri: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(Method::GET, uri, headers, "").await
    }

    pub async fn head(&self, uri: &str) -> Answer {
        self.send(Method::HEAD, uri, &[], "").await
    }

    pub async fn put(&self, uri: &str, body: impl Borrow<Value>) -> Answer {
        self.call(Method::PUT, uri, &body.borrow().to_string()).await
    }

    pub async fn post(&self, uri: &str, body: impl Borrow<Value>) -> Answer {
        self.call(Method::POST, uri, &body.borrow().to_string()).await
    }

    pub async fn patch(&self, uri: &str, body: impl Borrow<Value>) -> Answer {
        self.call(Method::PATCH, uri, &body.borrow().to_string()).await
    }

    pub async fn delete(&self, uri: &str) -> Answer {
        self.send(Method::DELETE, uri, &[], "").await
    }

    /// POST with a body of any type.
    pub async fn post_as(&self, uri: &str, media_type: &str, body: impl Into<Body>) -> Answer {
        let headers = [("content-type", media_type)];
        self.send(Method::POST, uri, &headers, body).await
    }

    /// Makes a topic over the API.
    pub async fn create_topic(&self, name: &str, partitions: u32) -> Value {
        let body = json!({"partitions": partitions});
        self.put(&format!("/v1/topics/{name}"), body).await.created()
    }

    /// Makes a topic in the engine.
    pub fn topic(&self, name: &str, partitions: u32) {
        self.topic_with(name, partitions, TopicSettings::default());
    }

    pub fn topic_with(&self, name: &str, partitions: u32, settings: TopicSettings) {
        let spec = TopicSpec::new(partitions, settings);
        self.app.log.create_topic(name, spec).expect("the topic is made");
    }

    pub fn delete_topic(&self, name: &str, state: Vec<StateChange>) {
        let deleted = self.app.log.delete_topic(name, state);
        deleted.expect("the topic is deleted");
    }

    pub fn partition(&self, topic: &str, index: u32) -> Arc<Partition> {
        let topic = self.app.log.topic(topic).expect("the test made it");
        topic.partition(index).expect("the test made it")
    }

    /// Appends the records as one batch, durably; returns the first one's offset.
    pub fn append(&self, topic: &str, index: u32, json_lines: bool, samples: &[Sample<'_>]) -> Offset {
        self.append_records(topic, index, json_lines, Records::Loose(batch_of(samples)))
    }

    /// The same as a producer compresses them.
    pub fn append_packed(
        &self,
        topic: &str,
        index: u32,
        codec: Option<Codec>,
        samples: &[Sample<'_>],
    ) -> Offset {
        let batch = packed(codec, samples);
        self.append_records(topic, index, false, Records::Sealed(vec![batch]))
    }

    fn append_records(&self, topic: &str, index: u32, json_lines: bool, records: Records) -> Offset {
        let partition = self.partition(topic, index);
        let part = Part::new(partition, records).json_lines(json_lines);
        let request = AppendRequest::of(vec![part]);
        let appended = self.app.log.append(request).and_then(|ticket| ticket.wait());
        appended.expect("the disk works").base_offsets[0]
    }

    /// Appends `count` records with the values `{"n":…}`, counted from `first`, and 1000 times that as timestamps.
    pub fn append_numbers(&self, topic: &str, index: u32, first: u64, count: u64) {
        let values: Vec<String> = (first..first + count).map(|n| format!("{{\"n\":{n}}}")).collect();
        let rows = values.iter().zip(first..);
        let samples = rows.map(|(value, n)| (n as i64 * 1000, None, Some(value.as_bytes()), &[][..]));
        self.append(topic, index, true, &samples.collect::<Vec<Sample<'_>>>());
    }

    /// Appends one record with the value `1` for each timestamp, in one batch.
    pub fn append_at(&self, topic: &str, index: u32, timestamps: &[i64]) {
        let times = timestamps.iter();
        let samples = times.map(|time| (*time, None, Some(&b"1"[..]), &[][..]));
        self.append(topic, index, true, &samples.collect::<Vec<Sample<'_>>>());
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> u64 {
        let answer = self.get("/metrics").await;
        let mut lines = answer.text().lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.unwrap_or_else(|| panic!("{name} is not in {}", answer.text()));
        value.parse().expect("a number")
    }
}

fn batch_of(samples: &[Sample<'_>]) -> BatchBuilder {
    let mut batch = BatchBuilder::new();
    for (timestamp, key, value, headers) in samples {
        batch.push(TimestampMs(*timestamp), *key, *value, headers);
    }
    batch
}

/// The records as one batch, as a producer compresses them.
pub fn packed(codec: Option<Codec>, samples: &[Sample<'_>]) -> SealedBatch {
    let batch = batch_of(samples).seal().with_codec(codec, None);
    batch.expect("there is nothing to inflate")
}

/// A request for a router.
pub fn request(method: Method, uri: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Request<Body> {
    let request = Request::builder().method(method).uri(uri);
    let request = headers
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(body.into()).expect("a request of a test")
}

/// The problem that a call must be answered with.
#[track_caller]
pub fn refused(call: impl Future<Output = Answer>, status: u16, code: &str) -> impl Future<Output = Value> {
    let caller = Location::caller();
    async move {
        println!("a call at {caller}");
        call.await.problem(status, code)
    }
}

/// The same for a 400 that names this parameter, header or field.
#[track_caller]
pub fn invalid(call: impl Future<Output = Answer>, pointer: &str) -> impl Future<Output = Value> {
    let caller = Location::caller();
    async move {
        println!("a call at {caller}");
        call.await.invalid(pointer)
    }
}

/// The answer to a call, which must have this status.
#[track_caller]
pub fn expect(call: impl Future<Output = Answer>, status: u16) -> impl Future<Output = Answer> {
    let caller = Location::caller();
    async move {
        println!("a call at {caller}");
        call.await.with_status(status)
    }
}

fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Opens a log with small journal files: they are written in full when they are created, and the tests open many logs.
fn open(dir: &Path, config: &Config, clock: &Arc<HandClock>) -> Log {
    let begin = Instant::now();
    loop {
        match try_open(dir, config, clock, begin) {
            Some(log) => return log,
            None => std::thread::yield_now(),
        }
    }
}

/// The same; `None`: somebody holds the lock of the earlier log, for [`PATIENCE`] since `begin` at most. A process that
/// another test is starting does so until it runs its program.
fn try_open(dir: &Path, config: &Config, clock: &Arc<HandClock>, begin: Instant) -> Option<Log> {
    let options = Options {
        journal_file_bytes: 8 << 20,
        first_journal_file_bytes: 8 << 20,
        journal_files: 2,
        max_request_bytes: 4 << 20,
        ..config.log_options()
    };
    match Log::open_with(Arc::new(RealDisk::new()), clock.clone(), dir, options) {
        Ok(log) => Some(log),
        Err(Error::Directory(what)) if begin.elapsed() < PATIENCE => {
            assert!(what.contains("in use"), "{what}");
            None
        }
        Err(error) => panic!("the log does not open: {error}"),
    }
}
