//! A server where everybody has to sign in, and calls with a token.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::Server;
use crate::support::client::{Answer, Connection};

/// The first administrator's token.
pub(crate) const ADMIN: &str = "the-first-administrators-token";

/// A running server with its data.
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) dir: TempDir,
}

pub(crate) const SMALL: &str = "--journal-file-bytes 4194304 --max-request-bytes 1048576";

impl World {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// The same with more flags.
    pub(crate) fn with(flags: &str) -> Self {
        Self::over(tempfile::tempdir().expect("a directory"), flags)
    }

    fn over(dir: TempDir, flags: &str) -> Self {
        let settings = [("QUIPU_AUTH", "tokens"), ("QUIPU_ADMIN_TOKEN", ADMIN)];
        let flags = format!("{SMALL} {flags}");
        let server = Server::start_with_flags(&dir.path().join("data"), &flags, &settings);
        Self { server, dir }
    }

    /// Stops the server and starts it again on the same data.
    pub(crate) fn restart(self) -> Self {
        self.server.stop();
        Self::over(self.dir, "")
    }

    /// A call with a token, or with none; with a JSON body unless it is null.
    pub(crate) fn call(&self, token: &str, method: &str, path: &str, body: &Value) -> Answer {
        self.call_with(token, method, path, "", body)
    }

    /// The same with more headers, each with its line break.
    pub(crate) fn call_with(
        &self,
        token: &str,
        method: &str,
        path: &str,
        headers: &str,
        body: &Value,
    ) -> Answer {
        let mut connection = self.server.connect();
        let headers = format!("{}{headers}", bearer(token));
        let (media, text) = match body {
            Value::Null => ("", String::new()),
            body => ("application/json", body.to_string()),
        };
        let answer = connection.request_with(method, path, media, &headers, text.as_bytes());
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// A call of the administrator that must succeed.
    #[track_caller]
    pub(crate) fn admin(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.call(ADMIN, method, path, body);
        assert!(
            (200..300).contains(&answer.status),
            "{method} {path}: {} {}",
            answer.status,
            answer.text()
        );
        answer.json_or_null()
    }

    #[track_caller]
    pub(crate) fn get(&self, token: &str, path: &str) -> Answer {
        self.call(token, "GET", path, &Value::Null)
    }

    /// Makes a token, and returns its secret.
    #[track_caller]
    pub(crate) fn token(&self, name: &str, rules: Value) -> String {
        let made = self.admin("POST", "/v1/tokens", &json!({"name": name, "rules": rules}));
        made["token"].as_str().expect("a secret").to_owned()
    }

    /// Makes a topic with some records.
    #[track_caller]
    pub(crate) fn topic(&self, name: &str, records: usize) {
        self.admin("PUT", &format!("/v1/topics/{name}"), &json!({"partitions": 1}));
        if records > 0 {
            let record = |i| json!({"key": format!("k{i}"), "value": i});
            let body = json!({"records": (0..records).map(record).collect::<Vec<_>>()});
            self.admin("POST", &format!("/v1/topics/{name}/records"), &body);
        }
    }

    /// A connection on which a request of a token has begun.
    pub(crate) fn begin(&self, token: &str, method: &str, path: &str, headers: &str) -> Connection {
        let mut connection = self.server.connect();
        connection.begin(method, path, &format!("{}{headers}", bearer(token)));
        connection
    }
}

pub(crate) fn bearer(token: &str) -> String {
    match token {
        "" => String::new(),
        token => format!("Authorization: Bearer {token}\r\n"),
    }
}

/// A rule.
pub(crate) fn rule(allow: &str, topics: &str, groups: &str) -> Value {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    json!({"allow": words(allow), "topics": words(topics), "groups": words(groups)})
}
