//! The server, which is killed and started again, and a client that goes on over that.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::{Answer, Connection, PATIENCE, Server};

const SETTINGS: [(&str, &str); 3] = [
    ("QUIPU_JOURNAL_FILE_BYTES", "4194304"),
    ("QUIPU_MAX_REQUEST_BYTES", "2097152"),
    ("QUIPU_LOG_LEVEL", "warn"),
];
/// The pause between two checks of something that changes by itself, to leave the processor to those that change it.
const PACE: Duration = Duration::from_millis(2);

/// A server on one data directory, in one life after another, and the counter that orders the clients' events.
pub struct World {
    data: PathBuf,
    server: Mutex<Option<Server>>,
    /// The address, and the number of the server's life.
    at: Mutex<Option<(SocketAddr, u32)>>,
    lives: AtomicU64,
    events: AtomicU64,
    is_over: AtomicBool,
    _directory: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let world = Self {
            data: directory.path().join("data"),
            server: Mutex::default(),
            at: Mutex::default(),
            lives: AtomicU64::new(0),
            events: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            _directory: directory,
        };
        world.start();
        world.open();
        world
    }

    /// Starts the server; clients cannot reach it before [`World::open`].
    pub fn start(&self) {
        let server = Server::start_with_settings(&self.data, &SETTINGS);
        *lock(&self.server) = Some(server);
        self.lives.fetch_add(1, Ordering::SeqCst);
    }

    /// Lets clients reach it.
    pub fn open(&self) {
        let address = lock(&self.server).as_ref().expect("it runs").address;
        *lock(&self.at) = Some((address, self.life()));
    }

    /// `kill -9`.
    pub fn kill(&self) {
        *lock(&self.at) = None;
        let server = lock(&self.server).take().expect("it runs");
        assert!(!server.log().contains("panicked"), "{}", server.log());
        server.kill();
    }

    /// `kill -9`, and a new start.
    pub fn restart(&self) {
        self.kill();
        self.start();
        self.open();
    }

    pub fn life(&self) -> u32 {
        u32::try_from(self.lives.load(Ordering::SeqCst)).expect("few lives")
    }

    pub fn log(&self) -> String {
        lock(&self.server).as_ref().map(Server::log).unwrap_or_default()
    }

    /// A connection to the server before it is open to others.
    pub fn early(&self) -> Client<'_> {
        let address = lock(&self.server).as_ref().expect("it runs").address;
        let connection = Connection::open(address).ok();
        Client {
            world: self,
            connection: connection.map(|connection| (self.life(), connection)),
        }
    }

    pub fn client(&self) -> Client<'_> {
        Client {
            world: self,
            connection: None,
        }
    }

    /// The next number: larger than all before it.
    pub fn tick(&self) -> u64 {
        self.events.fetch_add(1, Ordering::SeqCst)
    }

    /// Ends the run of all threads.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    pub fn data(&self) -> &Path {
        &self.data
    }
}

/// Ends the world if the thread that holds this panics: otherwise the others would wait for it for ever.
pub struct EndOnPanic<'w>(pub &'w World);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end();
        }
    }
}

/// A keep-alive connection to the present life of the server.
pub struct Client<'w> {
    world: &'w World,
    connection: Option<(u32, Connection)>,
}

/// An answer, and the life of the server that gave it.
pub struct Answered {
    pub life: u32,
    pub answer: Answer,
}

impl Answered {
    /// Whether this answers a poll that no newer one has replaced.
    pub fn is_newest(&self) -> bool {
        if self.answer.status == 409 {
            let problem = self.answer.problem(409, "poll-superseded");
            // Whether its acknowledgement was stored.
            assert!(
                problem["outcome"] == "none" || problem["outcome"] == "partial",
                "{problem}"
            );
        }
        self.answer.status != 409
    }
}

impl Client<'_> {
    fn connection(&mut self) -> Option<&mut (u32, Connection)> {
        let begin = Instant::now();
        while self.connection.is_none() {
            if self.world.is_over() {
                return None;
            }
            assert!(begin.elapsed() < PATIENCE, "no server: {}", self.world.log());
            let at = *lock(&self.world.at);
            match at.and_then(|(address, life)| Some((life, Connection::open(address).ok()?))) {
                Some(open) => self.connection = Some(open),
                None => std::thread::sleep(PACE),
            }
        }
        self.connection.as_mut()
    }

    /// Sends one request; `None` if it was not answered.
    pub fn call(&mut self, method: &str, path: &str, body: &Value) -> Option<Answered> {
        self.call_with(method, path, "", body)
    }

    /// The same with more headers, each with its line break.
    pub fn call_with(&mut self, method: &str, path: &str, headers: &str, body: &Value) -> Option<Answered> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (life, connection) = self.connection()?;
        let life = *life;
        match connection.request_with(method, path, "application/json", headers, body.as_bytes()) {
            Ok(answer) => {
                assert!(answer.status != 500, "{method} {path} {body}: {}", answer.text());
                Some(Answered { life, answer })
            }
            Err(error) => {
                assert!(
                    !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                    "{method} {path} is not answered; the log says:\n{}",
                    self.world.log()
                );
                self.connection = None;
                None
            }
        }
    }

    /// Sends a request and does not read its answer.
    pub fn send(&mut self, method: &str, path: &str, body: &Value) {
        let body = body.to_string();
        if let Some((_, connection)) = self.connection() {
            // The server may be killed meanwhile.
            let _ = connection.send_request_with(method, path, "application/json", "", body.as_bytes());
        }
    }

    /// Reads the answer to [`Client::send`].
    pub fn read(&mut self) -> Option<Answered> {
        let (life, connection) = self.connection.as_mut()?;
        let life = *life;
        match connection.answer() {
            Ok(answer) => Some(Answered { life, answer }),
            Err(_) => {
                self.connection = None;
                None
            }
        }
    }

    /// Hangs up.
    pub fn hang_up(&mut self) {
        self.connection = None;
    }

    /// Repeats the request until the answer has this status; `None` at the end of the world.
    pub fn insist(&mut self, status: u16, method: &str, path: &str, body: &Value) -> Option<Value> {
        loop {
            if let Some(answered) = self.call(method, path, body) {
                let answer = answered.answer;
                assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.text());
                return Some(answer.json_or_null());
            }
            if self.world.is_over() {
                return None;
            }
        }
    }

    /// Repeats the request until the answer is 200.
    pub fn get(&mut self, path: &str) -> Value {
        let answer = self.insist(200, "GET", path, &Value::Null);
        answer.expect("the world goes on")
    }

    /// Repeats the request until the answer is as wanted.
    pub fn until(&mut self, path: &str, mut is_so: impl FnMut(&Answer) -> bool) {
        let begin = Instant::now();
        while !self.world.is_over() {
            if let Some(answered) = self.call("GET", path, &Value::Null)
                && is_so(&answered.answer)
            {
                return;
            }
            let log = self.world.log();
            assert!(
                begin.elapsed() < PATIENCE,
                "{path} does not change; the log says:\n{log}"
            );
            std::thread::sleep(PACE);
        }
    }

    /// Waits until a group no longer has this member: its session has ended, or the server with it.
    pub fn until_gone(&mut self, group: &str, member: &str) {
        self.until(&format!("/v1/groups/{group}"), |answer| {
            answer.status != 200 || {
                let described = answer.json();
                let members = described["members"].as_array().expect("members");
                !members.iter().any(|one| one["member_id"] == member)
            }
        });
    }
}

/// A record's place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub topic: String,
    pub partition: u32,
    pub offset: u64,
    /// How often it was redriven: each time it is delivered anew.
    pub round: u64,
}

/// A number in an answer.
#[track_caller]
pub fn number(value: &Value, name: &str) -> u64 {
    let number = value[name].as_u64();
    number.unwrap_or_else(|| panic!("no {name}: {value}"))
}

impl Place {
    pub fn of(value: &Value) -> Self {
        Self::within(value["topic"].as_str().expect("a topic"), value)
    }

    /// The place of an answer that does not name its topic.
    pub fn within(topic: &str, value: &Value) -> Self {
        let partition = number(value, "partition") as u32;
        let place = Self::in_lane(&(topic.to_owned(), partition), number(value, "offset"));
        place.in_round(value["redriven"].as_u64().unwrap_or(0))
    }

    pub fn in_round(self, round: u64) -> Self {
        Self { round, ..self }
    }

    /// Where it is stored.
    pub fn first(&self) -> Self {
        self.clone().in_round(0)
    }

    pub fn in_lane(lane: &(String, u32), offset: u64) -> Self {
        let (topic, partition) = lane.clone();
        Self {
            topic,
            partition,
            offset,
            round: 0,
        }
    }

    pub fn next(&self) -> Self {
        Self::in_lane(&self.lane(), self.offset + 1)
    }

    /// Whether it lies in the same partition, before the other.
    pub fn is_before(&self, other: &Self) -> bool {
        self.lane() == other.lane() && self.offset < other.offset
    }

    pub fn json(&self) -> Value {
        json!({"topic": self.topic, "partition": self.partition, "offset": self.offset})
    }

    pub fn json_with(&self, name: &str, value: Value) -> Value {
        let mut row = self.json();
        row[name] = value;
        row
    }

    pub fn lane(&self) -> (String, u32) {
        (self.topic.clone(), self.partition)
    }
}

/// The wall time in milliseconds, from the server's clock.
pub fn wall_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("it is past 1970").as_millis() as i64
}

pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A thread that panicked reports it itself, so poisoning is ignored.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
