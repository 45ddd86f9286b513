//! A server whose answers a test chooses, to show the client answers that a real server hardly ever gives.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use serde_json::json;

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// Method, path and query.
    pub(crate) line: String,
    /// Headers, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The body's lines.
    pub(crate) fn lines(&self) -> usize {
        self.body.iter().filter(|byte| **byte == b'\n').count()
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(found, _)| found == name)?;
        Some(value)
    }
}

/// What the server does with a request.
pub(crate) enum Reply {
    /// Answers with this status, these header lines and this body.
    Answer(u16, &'static str, String),
    /// Promises more body than it sends, then closes.
    CutShort(&'static str, String),
    /// Begins an answer of this type with this body, then stays open and sends nothing more.
    Stays(&'static str, String),
    /// Closes without a word.
    Nothing,
}

/// 200 with this body.
pub(crate) fn fine(body: impl Into<String>) -> Reply {
    Reply::Answer(200, "", body.into())
}

/// The answer to a produce request of so many records.
pub(crate) fn stored(records: usize) -> Reply {
    let partitions = match records.checked_sub(1) {
        None => json!([]),
        Some(last) => json!([{"partition": 0, "first_offset": 0, "last_offset": last, "records": records}]),
    };
    fine(json!({"records": records, "partitions": partitions}).to_string())
}

/// A problem with these members.
pub(crate) fn problem(status: u16, members: &str) -> Reply {
    let body = format!(r#"{{"type":"/problems/x","title":"T","status":{status},{members}}}"#);
    Reply::Answer(status, "Content-Type: application/problem+json\r\n", body)
}

/// A topic `t` whose requests wait: the first channel says that one has arrived, the second lets one through, or all
/// once it is dropped.
pub(crate) fn holding() -> (Fake, Receiver<()>, Sender<()>) {
    let (arrived, arrival) = channel();
    let (go_on, gone_on) = channel();
    let fake = Fake::of_topic(move |request, _| {
        let _ = arrived.send(());
        let _ = gone_on.recv();
        stored(request.lines())
    });
    (fake, arrival, go_on)
}

const DESCRIBES: &str = "GET /v1/topics/t";

/// The server; its thread ends with the process.
pub(crate) struct Fake {
    /// `http://…`
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    is_topic: bool,
}

impl Fake {
    /// Starts a server that answers with `reply`, which is given the request and how many came before it.
    pub(crate) fn start(reply: impl Fn(&Request, usize) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let Some(request) = read(&stream) else { continue };
                let before = seen.lock().unwrap().len();
                let reply = reply(&request, before);
                seen.lock().unwrap().push(request);
                let stays = matches!(reply, Reply::Stays(..));
                // The client may have gone away.
                let _ = answer(&stream, reply);
                if stays {
                    open.push(stream);
                }
            }
        });
        Self {
            url,
            requests,
            is_topic: false,
        }
    }

    /// The same for topic `t` with one partition: the fake describes the topic, and `reply` answers the rest.
    pub(crate) fn of_topic(reply: impl Fn(&Request, usize) -> Reply + Send + 'static) -> Self {
        Self::of_topic_with_window(600_000, reply)
    }

    /// The same, for a topic that remembers keys for so long.
    pub(crate) fn of_topic_with_window(
        window_ms: u64,
        reply: impl Fn(&Request, usize) -> Reply + Send + 'static,
    ) -> Self {
        let described = AtomicUsize::new(0);
        let mut fake = Self::start(move |request, before| {
            if request.line == DESCRIBES {
                described.fetch_add(1, Ordering::Relaxed);
                let partition = json!({"partition": 0, "log_start_offset": 0, "end_offset": 1});
                let config = json!({"dedupe_window_ms": {"value": window_ms}});
                let topic = json!({"name": "t", "id": "fake-1", "partition_count": 1, "partitions": [partition], "config": config});
                return fine(topic.to_string());
            }
            reply(request, before - described.load(Ordering::Relaxed))
        });
        fake.is_topic = true;
        fake
    }

    /// Every request so far; for [`Fake::of_topic`], without those that describe the topic.
    pub(crate) fn requests(&self) -> Vec<Request> {
        let mut requests = self.requests.lock().unwrap().clone();
        requests.retain(|request| !self.is_topic || request.line != DESCRIBES);
        requests
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut request = Request {
        line: line.trim_end().trim_end_matches(" HTTP/1.1").to_owned(),
        ..Request::default()
    };
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else {
            break;
        };
        let header = (name.to_ascii_lowercase(), value.to_owned());
        request.headers.push(header);
    }
    let length = request.header("content-length").unwrap_or("0");
    request.body.resize(length.parse().unwrap(), 0);
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}

fn answer(mut stream: &TcpStream, reply: Reply) -> std::io::Result<()> {
    let (status, headers, body, missing) = match reply {
        Reply::Nothing => return Ok(()),
        Reply::Stays(kind, body) => {
            let head = format!("HTTP/1.1 200 X\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n");
            write!(stream, "{head}\r\n{:x}\r\n{body}\r\n", body.len())?;
            return stream.flush();
        }
        Reply::Answer(status, headers, body) => (status, headers, body, 0),
        Reply::CutShort(headers, body) => (200, headers, body, 1),
    };
    let length = body.len() + missing;
    let head = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\n");
    write!(stream, "{head}Connection: close\r\n\r\n{body}")?;
    stream.flush()
}
