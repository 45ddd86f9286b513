//! A server that answers as a test tells it to, to show the client what a real one hardly ever does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as it arrived.
#[derive(Clone, Debug)]
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
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What the server does with a request.
pub(crate) enum Reply {
    /// Answers with that status, those header lines and that body.
    Answer(u16, &'static str, String),
    /// Promises more body than it sends, then closes.
    CutShort(&'static str, String),
    /// Begins an answer of that type with that body, which goes on for ever and says nothing more.
    Stays(&'static str, String),
    /// Closes without a word.
    Nothing,
}

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
                // A client that has gone is not this thread's problem.
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

    /// The same, for a client of topic `t` with one partition, which is described by itself: `reply` answers the rest.
    pub(crate) fn of_topic(
        dedupe_window_ms: u64,
        reply: impl Fn(&Request, usize) -> Reply + Send + 'static,
    ) -> Self {
        let described = std::sync::atomic::AtomicUsize::new(0);
        let fake = Self::start(move |request, before| {
            if request.line == "GET /v1/topics/t" {
                described.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let partition = r#"{"partition":0,"log_start_offset":0,"end_offset":1}"#;
                let config = format!(r#"{{"dedupe_window_ms":{{"value":{dedupe_window_ms}}}}}"#);
                let body = format!(
                    r#"{{"name":"t","id":"fake-1","partition_count":1,"partitions":[{partition}],"config":{config}}}"#
                );
                return Reply::Answer(200, "", body);
            }
            reply(
                request,
                before - described.load(std::sync::atomic::Ordering::Relaxed),
            )
        });
        Self {
            is_topic: true,
            ..fake
        }
    }

    /// Every request so far; of [`Fake::of_topic`] those that it was asked about.
    pub(crate) fn requests(&self) -> Vec<Request> {
        let mut requests = self.requests.lock().unwrap().clone();
        requests.retain(|request| !self.is_topic || request.line != "GET /v1/topics/t");
        requests
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let mut request = Request {
        line,
        headers,
        body: Vec::new(),
    };
    let length = request
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    request.body.resize(length, 0);
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}

fn answer(mut stream: &TcpStream, reply: Reply) -> std::io::Result<()> {
    let (status, headers, body, length) = match reply {
        Reply::Nothing => return Ok(()),
        Reply::Stays(kind, body) => {
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 200 X\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n"
            )?;
            return stream.flush();
        }
        Reply::Answer(status, headers, body) => {
            let length = body.len();
            (status, headers, body, length)
        }
        Reply::CutShort(headers, body) => {
            let length = body.len() + 1;
            (200, headers, body, length)
        }
    };
    write!(
        stream,
        "HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    stream.flush()
}
