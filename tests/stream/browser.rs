//! A browser's own `EventSource` against a server that is killed and started again, from a page of another origin.
//!
//! Needs Chromium; without it the test says so and passes.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use crate::support::{PATIENCE, Server, skipped};
use axum::response::Html;
use axum::routing::{get, post};
use serde_json::{Value, json};

/// Follows `t`, replays `s`, and reports everything that happens.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>events</title><script>
const state = {live: [], opened: 0, replayed: 0, ended: 0, closed: false};
const report = () => fetch("/report", {method: "POST", body: JSON.stringify(state)});
const live = new EventSource("SERVER/v1/topics/t/records?follow=true");
live.onopen = () => { state.opened++; report(); };
live.addEventListener("record", event => {
  const record = JSON.parse(event.data);
  state.live.push([record.partition, record.offset, record.value]);
  report();
});
const replay = new EventSource("SERVER/v1/topics/s/records");
replay.addEventListener("record", () => { state.replayed++; });
replay.addEventListener("end", () => { state.ended++; report(); });
replay.onerror = () => { state.closed = replay.readyState === EventSource.CLOSED; report(); };
</script>"#;

fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    std::env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|path| path.is_file())
}

/// Ends the browser however the test ends.
struct Browser(Child);

impl Browser {
    fn open(chromium: &Path, profile: &Path, url: &str) -> Self {
        let child = Command::new(chromium)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            // Keeps the browser open after the page has loaded.
            .arg("--remote-debugging-port=0")
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it is there");
        Self(child)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves the page, and hands over what it reports.
fn serve_page(listener: TcpListener, page: String) -> Receiver<Value> {
    let (sender, reports) = channel();
    let report = move |report: String| {
        // The receiver is gone when the test ends.
        let _ = sender.send(serde_json::from_str(&report).expect("JSON"));
        std::future::ready(())
    };
    let router = axum::Router::new()
        .route("/", get(move || std::future::ready(Html(page.clone()))))
        .route("/report", post(report));
    std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            listener.set_nonblocking(true).expect("a socket");
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            axum::serve(listener, router).await
        })
    });
    reports
}

/// Starts the server at the address that the page expects, for a page of this origin.
fn start(data: &Path, address: SocketAddr, origin: &str) -> Server {
    let settings = [
        ("QUIPU_CORS_ORIGINS", origin),
        ("QUIPU_MAX_REQUEST_BYTES", "1048576"),
        ("QUIPU_JOURNAL_FILE_BYTES", "4194304"),
    ];
    Server::start_with_flags(data, &format!("--listen {address}"), &settings)
}

fn produce(server: &Server, topic: &str, values: std::ops::Range<u64>) {
    for value in values {
        let path = format!("/v1/topics/{topic}/records");
        let body =
            json!({"records": [{"key": format!("k{value}"), "value": format!("naïve 漢字 🦀 {value}")}]});
        let body = body.to_string();
        server.expect(200, "POST", &path, "application/json", body.as_bytes());
    }
}

/// The first report for which this holds.
#[track_caller]
fn wait_for(reports: &Receiver<Value>, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    loop {
        match reports.recv_timeout(PATIENCE) {
            Ok(report) if holds(&report) => return report,
            Ok(report) => last = report,
            Err(error) => panic!("{what}: {error}; the last report is {last}"),
        }
    }
}

fn count(report: &Value, name: &str) -> usize {
    report[name].as_array().map_or(0, Vec::len)
}

#[test]
fn a_browsers_event_source_goes_on_where_it_was_when_the_server_was_killed_or_stopped() {
    let Some(chromium) = chromium() else {
        skipped("no chromium in PATH");
        return;
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let origin = format!("http://{}", listener.local_addr().expect("it listens"));
    // An address of the loopback that only this process takes, and a port that no outgoing connection gets: while the
    // server is down nobody else must have it.
    let pid = std::process::id();
    let host = std::net::Ipv4Addr::new(127, 78, (pid >> 8) as u8, pid as u8);
    let mut addresses = (20_000..30_000).map(|port| SocketAddr::from((host, port)));
    let address = addresses.find(|address| TcpListener::bind(address).is_ok());
    let address = address.expect("a free port");
    let mut server = start(&data, address, &origin);
    server.create_topic("t", 3);
    server.create_topic("s", 2);
    produce(&server, "t", 0..5);
    produce(&server, "s", 0..7);
    let reports = serve_page(listener, PAGE.replace("SERVER", &format!("http://{address}")));
    let browser = Browser::open(&chromium, &dir.path().join("profile"), &format!("{origin}/"));
    wait_for(&reports, "the first records", |report| count(report, "live") == 5);
    produce(&server, "t", 5..10);
    wait_for(&reports, "live ones", |report| count(report, "live") == 10);
    // A replay that has got everything asks once more, and is told to stop asking.
    let report = wait_for(&reports, "the replay's end", |report| report["closed"] == true);
    assert_eq!((&report["replayed"], &report["ended"]), (&json!(7), &json!(1)));
    for (restart, last) in [(false, 15), (true, 20)] {
        if restart {
            server.stop();
        } else {
            server.kill();
        }
        server = start(&data, address, &origin);
        produce(&server, "t", last - 5..last);
        wait_for(&reports, "what came meanwhile", |report| {
            count(report, "live") as u64 == last
        });
    }
    produce(&server, "t", 20..21);
    let report = wait_for(&reports, "the last one", |report| count(report, "live") == 21);
    drop(browser);
    assert_eq!(report["opened"], 3, "{report}");
    let mut got: Vec<(u64, u64, String)> = serde_json::from_value(report["live"].clone()).expect("triples");
    got.sort_unstable();
    let mut wanted = Vec::new();
    for partition in 0..3 {
        let page = server.get(&format!("/v1/topics/t/partitions/{partition}/records?offset=0"));
        for record in page["records"].as_array().expect("a list") {
            let value = record["value"].as_str().expect("text").to_owned();
            wanted.push((partition, record["offset"].as_u64().expect("a number"), value));
        }
    }
    assert_eq!(got, wanted, "each once");
    server.stop();
}
