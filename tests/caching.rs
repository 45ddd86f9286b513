//! Closed ranges behind a caching proxy: the real binary behind a real nginx, which stores closed ranges and asks
//! whether they are still valid. Without nginx the tests print that they are skipped.
#![allow(clippy::disallowed_methods, reason = "it tests the real binary")]

mod support;

use std::fs;
use std::io::BufRead;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use support::{Answer, Connection, PATIENCE, Server};
use tempfile::TempDir;

const FORMS: [&str; 4] = [
    "application/json",
    "application/x-ndjson",
    "application/cloudevents-batch+json",
    "application/vnd.apache.kafka.record-batch",
];

/// A proxy that is killed when dropped.
struct Proxy {
    child: Child,
    address: SocketAddr,
}

/// The server's answers are for one client each (`private, no-cache`). A proxy that is trusted with them may store
/// answers that have a tag; this one revalidates an answer that is older than a second, which is nginx's shortest time.
fn configuration(dir: &Path, modules: &str, listen: SocketAddr, upstream: SocketAddr) -> String {
    let dir = dir.display();
    // The directories of the operating system may not be writable.
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .filter(|name| !modules.contains(&format!("--without-http_{name}_module")))
        .map(|name| format!("{name}_temp_path {dir}/{name};\n"))
        .collect();
    format!(
        "daemon off;
        master_process off;
        pid {dir}/pid;
        error_log stderr;
        events {{}}
        http {{
            access_log off;
            {temporary}
            proxy_cache_path {dir}/cache keys_zone=history:1m;
            map $upstream_http_etag $has_no_tag {{ default 0; '' 1; }}
            server {{
                listen {listen};
                location / {{
                    proxy_pass http://{upstream};
                    proxy_http_version 1.1;
                    proxy_set_header Connection '';
                    proxy_cache history;
                    proxy_cache_key $request_uri;
                    proxy_ignore_headers Cache-Control Expires;
                    proxy_no_cache $has_no_tag;
                    proxy_cache_valid 200 1s;
                    proxy_cache_revalidate on;
                    add_header X-Cache-Status $upstream_cache_status always;
                }}
                location /plain/ {{ proxy_pass http://{upstream}/; }}
                location /named/ {{
                    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                    proxy_pass http://{upstream}/;
                }}
            }}
        }}"
    )
}

impl Proxy {
    /// `None` if nginx is not installed.
    fn start(dir: &Path, upstream: SocketAddr) -> Option<Self> {
        let about = Command::new("nginx").arg("-V").output().ok()?;
        let modules = String::from_utf8_lossy(&about.stderr).into_owned();
        let dir = dir.join("nginx");
        fs::create_dir(&dir).expect("a directory");
        let begin = Instant::now();
        loop {
            // nginx cannot report a port that it chose: it gets one that is free now, and another if that is taken.
            let listener = TcpListener::bind("127.0.0.1:0");
            let address = listener.and_then(|listener| listener.local_addr());
            let address = address.expect("a port");
            let path = dir.join("nginx.conf");
            fs::write(&path, configuration(&dir, &modules, address, upstream)).expect("a file");
            let log = fs::File::create(dir.join("log")).expect("a file");
            let child = Command::new("nginx")
                .args(["-e", "stderr", "-c"])
                .arg(&path)
                .stdin(Stdio::null())
                .stderr(log)
                .spawn()
                .expect("it said what it is");
            let mut proxy = Self { child, address };
            loop {
                if Connection::open(address).is_ok_and(|mut c| c.get("/health/live").status == 200) {
                    return Some(proxy);
                }
                assert!(begin.elapsed() < PATIENCE, "nginx does not answer");
                if proxy.child.try_wait().expect("it was started here").is_some() {
                    let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
                    let is_taken = log.contains("Address already in use");
                    assert!(is_taken, "nginx does not start: {log}");
                    break;
                }
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Fixture {
    server: Server,
    proxy: Proxy,
    _directory: TempDir,
}

impl Fixture {
    /// A server and a proxy, with a topic `t` of so many records; `None` (and a message) if there is no nginx.
    fn start(records: usize) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let server = Server::start(&directory.path().join("data"));
        let Some(proxy) = Proxy::start(directory.path(), server.address) else {
            support::skipped("nginx is not installed");
            return None;
        };
        server.create_topic("t", 1);
        let fixture = Self {
            server,
            proxy,
            _directory: directory,
        };
        if records > 0 {
            fixture.produce(records, "first");
        }
        Some(fixture)
    }

    fn produce(&self, count: usize, word: &str) {
        let line =
            |n| format!("{{\"key\":\"k{n}\",\"value\":{{\"{word}\":{n}}},\"headers\":{{\"h\":\"x\"}}}}\n");
        let lines: String = (0..count).map(line).collect();
        let (server, path, ndjson) = (&self.server, "/v1/topics/t/records", "application/x-ndjson");
        server.expect(200, "POST", path, ndjson, lines.as_bytes());
    }

    fn through(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        get(self.proxy.address, path, headers)
    }

    fn direct(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        get(self.server.address, path, headers)
    }

    /// Asks through the proxy until the answer is as wanted: the proxy's answer depends on the age of its stored copy.
    fn until(&self, path: &str, headers: &[(&str, &str)], wanted: impl Fn(&Answer) -> bool) -> Answer {
        let begin = Instant::now();
        loop {
            let answer = self.through(path, headers);
            if wanted(&answer) {
                return answer;
            }
            assert!(begin.elapsed() < PATIENCE, "the proxy goes on with {answer:?}");
            std::thread::yield_now();
        }
    }

    /// Records that the server has sent, not counting answers without a body.
    fn fetched_records(&self) -> u64 {
        let metrics = self.direct("/metrics", &[]);
        let mut lines = metrics.text().lines();
        let line = lines.find_map(|line| line.strip_prefix("quipu_fetched_records_total "));
        line.expect("the metric is there").parse().expect("a number")
    }
}

fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    let headers: String = lines.collect();
    let mut connection = Connection::open(address).expect("it listens");
    connection.begin("GET", path, &headers);
    connection.answered()
}

fn status(answer: &Answer) -> &str {
    answer.header("x-cache-status").unwrap_or("none")
}

const CLOSED: &str = "/v1/topics/t/partitions/0/records?offset=0&until_offset=1500&max_records=1500";

#[test]
fn closed_ranges_are_stored_in_every_form_and_revalidated_without_a_body() {
    let Some(fixture) = Fixture::start(2000) else {
        return;
    };
    let mut tags = Vec::new();
    for form in FORMS {
        let accept = [("Accept", form)];
        let direct = fixture.direct(CLOSED, &accept);
        let found = (direct.status, direct.header("vary"));
        assert_eq!(found, (200, Some("accept")), "{form}");
        let first = fixture.through(CLOSED, &accept);
        assert_eq!((first.status, status(&first)), (200, "MISS"), "{form}");
        let bodies = fixture.fetched_records();
        let again = fixture.until(CLOSED, &accept, |answer| status(answer) == "REVALIDATED");
        let kept = fixture.until(CLOSED, &accept, |answer| status(answer) == "HIT");
        let now = fixture.fetched_records();
        assert_eq!(now, bodies, "{form}: it is stored, and the server sends no body");
        for answer in [first, again, kept] {
            assert_eq!(answer.status, 200);
            assert!(answer.body == direct.body, "{form}: the proxy gives other bytes");
            for name in ["etag", "content-type", "next-offset", "vary", "cache-control"] {
                assert_eq!(answer.header(name), direct.header(name), "{form}: {name}");
            }
        }
        tags.push(direct.header("etag").expect("a tag").to_owned());
    }
    // The proxy confirms a client's own copy, with or without asking the server, but never a copy in another form.
    for (form, tag) in FORMS.iter().zip(&tags) {
        let mine = [("Accept", *form), ("If-None-Match", tag)];
        for wanted in ["HIT", "REVALIDATED"] {
            let answer = fixture.until(CLOSED, &mine, |answer| status(answer) == wanted);
            assert_eq!((answer.status, answer.body.len()), (304, 0), "{form}");
        }
        for other in tags.iter().filter(|other| *other != tag) {
            let theirs = [("Accept", *form), ("If-None-Match", other)];
            assert_eq!(fixture.through(CLOSED, &theirs).status, 200, "{form}");
        }
    }
    fixture.server.stop();
}

#[test]
fn an_open_range_is_never_stored_and_a_closed_one_stays_what_it_was() {
    let Some(fixture) = Fixture::start(1500) else {
        return;
    };
    let open = [
        "/v1/topics/t/partitions/0/records?offset=1400",
        "/v1/topics/t/partitions/0/records?offset=1400&until_offset=100000",
        "/v1/topics/t/partitions/0/records?offset=latest",
        "/v1/topics/t",
    ];
    for path in open {
        for _ in 0..3 {
            assert_eq!(status(&fixture.through(path, &[])), "MISS", "{path}");
        }
    }
    let closed = fixture.through(CLOSED, &[]);
    assert_eq!(closed.json()["records"].as_array().expect("records").len(), 1500);
    fixture.produce(500, "second");
    for path in open {
        let answer = fixture.through(path, &[]);
        assert_eq!((answer.status, status(&answer)), (200, "MISS"));
        assert!(answer.body == fixture.direct(path, &[]).body, "{path}");
    }
    let again = fixture.until(CLOSED, &[], |answer| status(answer) == "REVALIDATED");
    assert!(again.body == closed.body && again.header("etag") == closed.header("etag"));
    assert!(fixture.direct(CLOSED, &[]).body == closed.body);
    fixture.server.stop();
}

#[test]
fn a_topic_made_again_under_the_same_name_is_not_taken_for_the_old_one() {
    let Some(fixture) = Fixture::start(1500) else {
        return;
    };
    let old = fixture.through(CLOSED, &[]);
    let tag = old.header("etag").expect("a tag");
    fixture.server.expect(204, "DELETE", "/v1/topics/t", "", b"");
    let gone = fixture.until(CLOSED, &[], |answer| status(answer) != "HIT");
    gone.refusal(404, "unknown-topic", "none");
    fixture.server.create_topic("t", 1);
    fixture.produce(1500, "other");
    for headers in [&[][..], &[("If-None-Match", tag)]] {
        let is_new = |answer: &Answer| status(answer) != "HIT" || answer.status == 200;
        let answer = fixture.until(CLOSED, headers, is_new);
        assert_eq!(answer.status, 200);
        assert_ne!(answer.header("etag"), Some(tag));
        assert!(answer.body == fixture.direct(CLOSED, &[]).body);
        assert!(answer.body != old.body);
    }
    fixture.server.stop();
}

#[test]
fn live_records_pass_a_proxy_with_its_defaults_as_they_come() {
    let Some(fixture) = Fixture::start(0) else { return };
    for form in ["application/x-ndjson", "text/event-stream"] {
        for query in ["follow=true", "follow=true&from=earliest&speed=1000"] {
            let mut reader = Connection::open(fixture.proxy.address).expect("it listens");
            let path = format!("/plain/v1/topics/t/records?{query}");
            let accept = format!("Accept: {form}\r\n");
            reader.send_head("GET", &path, &accept).expect("it listens");
            assert_eq!(reader.answer_head().expect("before any record").status, 200);
            for word in ["first", "second"] {
                fixture.produce(1, word);
                let mut line = String::new();
                while !line.contains(word) {
                    line.clear();
                    let read = reader.stream.read_line(&mut line);
                    let read = read.expect("the record as it comes");
                    assert!(read > 0, "{form} {query} ends before {word}");
                }
            }
        }
    }
    fixture.server.stop();
}

#[test]
fn a_proxy_that_says_that_it_is_one_is_refused_where_nobody_signs_in() {
    let Some(fixture) = Fixture::start(1) else { return };
    let refused = fixture.through("/named/v1/topics", &[]);
    refused.refusal(403, "forbidden", "none");
    assert_eq!(fixture.through("/plain/v1/topics", &[]).status, 200);
    fixture.server.stop();
}

#[test]
fn what_was_trimmed_is_gone_once_the_proxy_asks() {
    let Some(fixture) = Fixture::start(1500) else {
        return;
    };
    let stored = fixture.until(CLOSED, &[], |answer| status(answer) == "REVALIDATED");
    let tag = stored.header("etag").expect("a tag");
    let trim = "/v1/topics/t/partitions/0/records?before=10";
    fixture.server.expect(200, "DELETE", trim, "", b"");
    for headers in [&[][..], &[("If-None-Match", tag)]] {
        let answer = fixture.until(CLOSED, headers, |answer| status(answer) != "HIT");
        answer.refusal(410, "offset-trimmed", "none");
    }
    fixture.server.stop();
}
