//! A server in this process that has something in every metric, and its metrics, read as Prometheus reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;

use http::Method;
use quipu::server::{self, Server};
use quipu::settings::Config;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::Connection;

pub(crate) struct Running {
    pub(crate) server: Server,
    _dir: TempDir,
}

/// A family of metrics: its type, and the labels of its rows.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) labels: BTreeSet<String>,
    pub(crate) rows: usize,
}

impl Running {
    /// A server with topics, an ordered group that is behind, a queue with a lease, and what other parts set.
    pub(crate) async fn start(mut config: Config) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        config.data = dir.path().join("data");
        config.listen = ([127, 0, 0, 1], 0).into();
        config.kafka_listen = Some(([127, 0, 0, 1], 0).into());
        config.journal_file_bytes = 40 << 20;
        config.journal_files = 2;
        let server = server::start(config).await.expect("it starts");
        let running = Self { server, _dir: dir };
        running
            .call(
                Method::PUT,
                "/v1/topics/orders",
                r#"{"partitions":4,"config":{"retention_ms":1000000000}}"#,
            )
            .await;
        running
            .call(
                Method::POST,
                "/v1/topics/orders/records",
                r#"{"records":[{"value":1,"partition":2},{"value":2,"partition":3}]}"#,
            )
            .await;
        let offsets = r#"{"offsets":[{"topic":"orders","partition":2,"offset":1}]}"#;
        running
            .call(Method::PUT, "/v1/groups/billing/offsets", offsets)
            .await;
        let poll = r#"{"topics":["orders"],"type":"shared","max_records":1,"dead_letter_topic":"dead"}"#;
        running
            .call(Method::PUT, "/v1/topics/dead", r#"{"partitions":1}"#)
            .await;
        running
            .call(Method::POST, "/v1/groups/work/members/m/poll", poll)
            .await;
        running.ask_for_a_version_that_is_too_new().await;
        let app = running.server.app();
        app.metrics
            .certificate_expires_ms
            .store(1_900_000_000_000, Relaxed);
        app.counters.last_backup_ms.store(1_700_000_000_000, Relaxed);
        running
    }

    /// A request of Kafka's protocol whose answer is an error: ApiVersions, version 99.
    async fn ask_for_a_version_that_is_too_new(&self) {
        let address = self.server.kafka_addr().expect("it listens");
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
        let request = [0, 0, 0, 10, 0, 18, 0, 99, 0, 0, 0, 1, 0xff, 0xff];
        stream.write_all(&request).await.expect("it reads");
        let length = stream.read_u32().await.expect("it answers");
        assert!(length > 0);
    }

    /// A call that must be answered with 2xx.
    pub(crate) async fn call(&self, method: Method, path: &'static str, body: &'static str) -> String {
        let address = self.server.addr();
        let call = move || {
            let mut connection = Connection::open(address).expect("it listens");
            let answer = connection.call(method.as_str(), path, "application/json", body.as_bytes());
            assert!((200..300).contains(&answer.status), "{path}: {}", answer.text());
            answer.text().to_owned()
        };
        tokio::task::spawn_blocking(call)
            .await
            .expect("it does not panic")
    }

    /// `/metrics`, in the classic format.
    pub(crate) async fn metrics(&self) -> String {
        self.call(Method::GET, "/metrics", "").await
    }
}

/// The families by name, as the classic format names them.
pub(crate) fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            let family = Family {
                kind: kind.to_owned(),
                ..Family::default()
            };
            assert!(
                families.insert(name.to_owned(), family).is_none(),
                "{name} is there twice"
            );
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().expect("a name");
            let name = name_of_family(name, &families).unwrap_or_else(|| panic!("no type of {line}"));
            let family = families.get_mut(&name).expect("it was found");
            family.rows += 1;
            family.labels.extend(labels_of(line));
        }
    }
    families
}

/// The family of a row: histograms have rows with suffixes.
pub(crate) fn name_of_family(name: &str, families: &BTreeMap<String, Family>) -> Option<String> {
    let suffixes = ["_bucket", "_sum", "_count"];
    let bare = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
    let is_histogram = |name: &&str| {
        families
            .get(*name)
            .is_some_and(|family| family.kind == "histogram")
    };
    let bare = bare.filter(is_histogram);
    bare.or(Some(name).filter(|name| families.contains_key(*name)))
        .map(str::to_owned)
}

/// The names of labels within the first braces of a selector or a row; none without braces.
pub(crate) fn labels_of(text: &str) -> Vec<String> {
    let Some((_, inside)) = text.split_once('{') else {
        return Vec::new();
    };
    let (mut labels, mut name, mut is_quoted, mut is_value) = (Vec::new(), String::new(), false, false);
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if is_quoted => drop(chars.next()),
            '"' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            '}' => break,
            ',' => is_value = false,
            '=' | '!' if !is_value => {
                labels.push(name.trim().to_owned());
                (name, is_value) = (String::new(), true);
            }
            c if !is_value => name.push(c),
            _ => {}
        }
    }
    labels
}
