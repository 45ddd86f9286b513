//! A small collector of traces: takes OTLP over HTTP, and remembers the spans.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use serde_json::Value;

use super::support::{PATIENCE, Server};

pub(crate) struct Collector {
    pub(crate) endpoint: String,
    spans: Receiver<Value>,
}

impl Collector {
    /// Listens in a thread that ends with the process.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let (sender, spans) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let sender = sender.clone();
                std::thread::spawn(move || serve(stream, &sender));
            }
        });
        Self { endpoint, spans }
    }

    /// The spans that have come.
    pub(crate) fn spans(&self) -> Vec<Value> {
        self.spans.try_iter().collect()
    }

    /// Waits for so many spans, stops the server, and returns all: a stop waits only for a short time for those that are not
    /// sent yet.
    pub(crate) fn spans_until_stopped(&self, server: Server, count: usize) -> Vec<Value> {
        let next = || self.spans.recv_timeout(PATIENCE).expect("one more span comes");
        let mut spans: Vec<Value> = (0..count).map(|_| next()).collect();
        server.stop();
        spans.extend(self.spans());
        spans
    }
}

fn serve(stream: TcpStream, spans: &Sender<Value>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            match stream.read_line(&mut line) {
                Ok(n) if n > 0 => {}
                _ => return,
            }
            if line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_ascii_lowercase());
        }
        assert_eq!(head[0], "post /v1/traces http/1.1");
        assert!(
            head.contains(&"content-type: application/json".to_owned()),
            "{head:?}"
        );
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: "));
        let length: u64 = length.expect("a length").parse().expect("a number");
        let mut body = Vec::new();
        let taken = (&mut stream).take(length).read_to_end(&mut body);
        taken.expect("the body comes");
        let request: Value = serde_json::from_slice(&body).expect("JSON");
        let of_resource = &request["resourceSpans"][0];
        let service = &of_resource["resource"]["attributes"][0];
        assert_eq!(service["value"]["stringValue"], "quipu");
        for span in of_resource["scopeSpans"][0]["spans"].as_array().expect("spans") {
            let _ = spans.send(span.clone());
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        if stream.get_mut().write_all(answer).is_err() {
            return;
        }
    }
}
