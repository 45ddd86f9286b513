//! The client side of a test: a connection over a bare socket, and an answer, from a socket or from a router.
//!
//! The connection is a bare socket, so that a test can also hang up, stall, and send what no client library would send.

use std::borrow::Borrow;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::PATIENCE;

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| value.to_str().expect("the header is ASCII"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    /// The start of the body, for messages.
    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(2000).collect()
    }

    /// The body, which is JSON that a line break ends.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.body.last(), Some(&b'\n'), "{}", self.shown());
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.shown()))
    }

    /// Null for an empty body.
    #[track_caller]
    pub fn json_or_null(&self) -> Value {
        if self.body.is_empty() {
            Value::Null
        } else {
            self.json()
        }
    }

    #[track_caller]
    pub fn with_status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.shown());
        self
    }

    /// Checks for 200 and JSON that no cache keeps; returns the JSON.
    #[track_caller]
    pub fn ok(&self) -> Value {
        self.json_with_status(200)
    }

    /// The same, for a request that the service has not answered before.
    #[track_caller]
    pub fn appended(&self) -> Value {
        assert_eq!(self.header("idempotency-replayed"), None);
        self.ok()
    }

    /// The same, for a request that the service has answered before.
    #[track_caller]
    pub fn replayed(&self) -> Value {
        assert_eq!(self.header("idempotency-replayed"), Some("true"));
        self.ok()
    }

    /// The same for 201.
    #[track_caller]
    pub fn created(&self) -> Value {
        self.json_with_status(201)
    }

    /// Checks the status, the type, and that no cache keeps it.
    #[track_caller]
    fn check_head(&self, status: u16, content_type: &str) {
        assert_eq!(self.status, status, "{}", self.shown());
        let found = self.header("content-type");
        assert_eq!(found, Some(content_type), "{}", self.shown());
        assert_eq!(self.header("cache-control"), Some("no-store"));
    }

    #[track_caller]
    fn json_with_status(&self, status: u16) -> Value {
        self.check_head(status, "application/json");
        self.json()
    }

    /// Checks that this is a problem with that status and code; returns it.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        self.check_head(status, "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["type"], format!("/problems/{code}"), "{problem}");
        let detail = problem["detail"].as_str();
        assert!(detail.is_some_and(|detail| detail.len() > 10), "{problem}");
        problem
    }

    /// The same with its outcome.
    #[track_caller]
    pub fn refusal(&self, status: u16, code: &str, outcome: &str) -> Value {
        let problem = self.problem(status, code);
        assert_eq!(problem["outcome"], outcome, "{problem}");
        problem
    }

    /// Checks that this is a 400 that names this parameter, header or field.
    #[track_caller]
    pub fn invalid(&self, pointer: &str) -> Value {
        let problem = self.problem(400, "invalid-request");
        assert_eq!(problem["pointer"], pointer, "{problem}");
        problem
    }
}

/// Checks that a JSON object has all members of another one, with the same values.
#[track_caller]
pub fn has(found: &Value, expected: impl Borrow<Value>) {
    for (name, value) in expected.borrow().as_object().expect("an object") {
        assert_eq!(&found[name], value, "{name} in {found}");
    }
}

#[track_caller]
pub fn contains(text: &str, part: &str) {
    assert!(text.contains(part), "no {part} in {text}");
}

/// Checks that a problem's detail has these words.
#[track_caller]
pub fn says(problem: &Value, words: &str) {
    contains(problem["detail"].as_str().expect("a detail"), words);
}

/// A keep-alive connection.
pub struct Connection {
    pub stream: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::with_capacity(64 << 10, stream),
        })
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.call("GET", path, "", b"")
    }

    pub fn request(&mut self, method: &str, path: &str, media: &str, body: &[u8]) -> io::Result<Answer> {
        self.request_with(method, path, media, "", body)
    }

    /// The same with more headers, each with its line break.
    pub fn request_with(
        &mut self,
        method: &str,
        path: &str,
        media: &str,
        headers: &str,
        body: &[u8],
    ) -> io::Result<Answer> {
        self.send_request_with(method, path, media, headers, body)?;
        self.answer()
    }

    /// Sends a request whose answer is read later, or never.
    pub fn send_request_with(
        &mut self,
        method: &str,
        path: &str,
        media: &str,
        headers: &str,
        body: &[u8],
    ) -> io::Result<()> {
        let mut headers = headers.to_owned();
        if !media.is_empty() {
            headers += &format!("Content-Type: {media}\r\n");
        }
        if method != "GET" {
            headers += &format!("Content-Length: {}\r\n", body.len());
        }
        self.send_head(method, path, &headers)?;
        self.send(body)
    }

    /// A GET with the value of `Accept`.
    pub fn get_as(&mut self, path: &str, accept: &str) -> io::Result<Answer> {
        self.send_head("GET", path, &format!("Accept: {accept}\r\n"))?;
        self.answer()
    }

    pub fn send_head(&mut self, method: &str, path: &str, headers: &str) -> io::Result<()> {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes())
    }

    /// Asks for `path` and leaves the answer unread.
    pub fn ask(&mut self, path: &str) {
        self.send_head("GET", path, "").expect("it listens");
    }

    /// Reads one answer, which must come.
    pub fn answered(&mut self) -> Answer {
        self.answer().expect("an answer")
    }

    /// Reads the head of one answer, which must be a 200; its body follows.
    pub fn answering(&mut self) -> Answer {
        self.reply_head().with_status(200)
    }

    /// Ends the sending half: the server sees the end of the request.
    pub fn hang_up(&self) {
        let _ = self.stream.get_ref().shutdown(Shutdown::Write);
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends the head of a request; its body may follow.
    pub fn begin(&mut self, method: &str, path: &str, headers: &str) {
        self.send_head(method, path, headers).expect("it listens");
    }

    /// Sends a part of a body.
    pub fn say(&mut self, bytes: &[u8]) {
        self.send(bytes).expect("it reads on");
    }

    /// Sends one chunk of a chunked body; an empty one ends the body.
    pub fn chunk(&mut self, bytes: &[u8]) {
        let size = format!("{:x}\r\n", bytes.len());
        for part in [size.as_bytes(), bytes, b"\r\n"] {
            self.say(part);
        }
    }

    /// One request, which is answered.
    pub fn call(&mut self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Answer {
        let answer = self.request(method, path, content_type, body);
        answer.expect("an answer")
    }

    /// A GET with the value of `Accept`, which is answered.
    pub fn ask_as(&mut self, path: &str, accept: &str) -> Answer {
        self.get_as(path, accept).expect("an answer")
    }

    /// Reads the head of one answer, which must come; its body follows.
    pub fn reply_head(&mut self) -> Answer {
        self.answer_head().expect("an answer")
    }

    /// Reads one answer.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let mut answer = self.answer_head()?;
        answer.body = self.answer_body(&answer)?;
        Ok(answer)
    }

    /// Reads the body that belongs to a head.
    pub fn answer_body(&mut self, head: &Answer) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if head.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(self.line()?.trim(), 16).map_err(|_| bad("chunk size"))?;
                (&mut self.stream).take(size as u64).read_to_end(&mut body)?;
                if self.line()? != "\r\n" {
                    return Err(bad("chunk end"));
                }
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = head.header("content-length") {
            let length = length.parse().map_err(|_| bad("content length"))?;
            (&mut self.stream).take(length).read_to_end(&mut body)?;
            if body.len() as u64 != length {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(body)
    }

    /// Reads the head of an answer; its body follows in `stream`.
    pub fn answer_head(&mut self) -> io::Result<Answer> {
        let status_line = self.line()?;
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| bad(&status_line))?;
        let mut headers = HeaderMap::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                return Ok(Answer {
                    status,
                    headers,
                    body: Vec::new(),
                });
            };
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad(&line))?;
            headers.append(name, HeaderValue::from_str(value.trim()).map_err(|_| bad(&line))?);
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("not HTTP: {what:?}"))
}
/// A stored record from an NDJSON fetch, with the bytes of its value as they are.
#[derive(serde::Deserialize)]
pub struct Fetched {
    pub partition: u32,
    pub offset: u64,
    pub timestamp: i64,
    pub key: Option<String>,
    /// `null` if it is not JSON.
    #[serde(default)]
    pub value: Box<serde_json::value::RawValue>,
}

/// Reads a partition from `offset` to its end as NDJSON and passes on each record.
pub fn read_partition(
    connection: &mut Connection,
    topic: &str,
    partition: u32,
    mut offset: u64,
    mut each: impl FnMut(Fetched),
) {
    loop {
        let path = format!(
            "/v1/topics/{topic}/partitions/{partition}/records?offset={offset}&max_records=100000&max_bytes=8388608"
        );
        let answer = connection.ask_as(&path, "application/x-ndjson");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        for line in answer.body.split_inclusive(|byte| *byte == b'\n') {
            assert_eq!(line.last(), Some(&b'\n'), "an unfinished line");
            let record: Fetched = serde_json::from_slice(line)
                .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(line)));
            let found = record.offset;
            assert!(found >= offset, "offset {found} comes after {offset}");
            assert_eq!(record.partition, partition);
            offset = record.offset + 1;
            each(record);
        }
        let number = |name| answer.header(name).and_then(|text| text.parse::<u64>().ok());
        let number = |name| number(name).expect("a position");
        let next = number("next-offset");
        assert!(next >= offset, "next offset {next} is before {offset}");
        let at_end = next >= number("end-offset");
        let is_empty = answer.body.is_empty();
        assert!(at_end || !is_empty, "an empty page before the end, at {next}");
        offset = next;
        if at_end {
            return;
        }
    }
}
