//! The real binary on addresses beyond loopback, and behind a proxy.

use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::{Server, contains};

/// Small sizes, so that a log is created fast.
pub(crate) const SMALL: &str = "--journal-file-bytes 4194304 --max-request-bytes 1048576";

pub(crate) fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Starts a server with these flags.
pub(crate) fn started(flags: &str) -> (TempDir, Server) {
    let dir = temporary();
    let flags = format!("{SMALL} {flags}");
    let server = Server::start_with_flags(&dir.path().join("data"), &flags, &[]);
    (dir, server)
}

/// Runs a server that must not start; returns the one line that says why.
#[track_caller]
pub(crate) fn refusal(flags: &str, settings: &[(&str, &str)]) -> String {
    let dir = temporary();
    let mut command = Command::new(env!("CARGO_BIN_EXE_quipu"));
    command.env_clear().envs(settings.iter().copied());
    command.args(["serve", "--data"]).arg(dir.path().join("data"));
    command.args(SMALL.split(' ')).args(flags.split_whitespace());
    let output = command.stdin(Stdio::null()).output().expect("the binary runs");
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(output.stdout.is_empty(), "{:?}", output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!dir.path().join("data").exists(), "{text}: nothing is made");
    text
}

#[test]
fn an_address_beyond_loopback_refuses_to_start_and_insecure_lifts_that() {
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let line = refusal(&format!("--listen {listen}"), &[]);
        contains(
            &line,
            "which is not a loopback address: nobody would have to sign in there",
        );
        contains(&line, "--insecure");
        refusal("", &[("QUIPU_LISTEN", listen)]);
        let off = format!("--listen {listen} --insecure=off");
        refusal(&off, &[("QUIPU_INSECURE", "on")]);
    }
    let (_dir, server) = started("--listen 0.0.0.0:0 --insecure");
    assert!(server.address.ip().is_unspecified());
    server.get("/v1/info");
    server.stop();
    let (_dir, server) = started("--listen [::1]:0");
    server.get("/v1/info");
    server.stop();
}

#[test]
fn what_a_proxy_passed_on_is_refused_where_nobody_signs_in() {
    for (flags, expected) in [("", 403), ("--insecure", 200)] {
        let (_dir, server) = started(flags);
        for header in [
            "Forwarded: for=192.0.2.7",
            "Via: 1.1 proxy",
            "X-Forwarded-For: 192.0.2.7",
            "X-Forwarded-Proto: https",
            "x-real-ip: 192.0.2.7",
        ] {
            for path in ["/v1/topics", "/health/ready", "/"] {
                let mut connection = server.connect();
                connection.begin("GET", path, &format!("{header}\r\n"));
                let answer = connection.answer().expect("an answer");
                match expected {
                    403 => drop(answer.problem(403, "forbidden")),
                    _ => drop(answer.with_status(expected)),
                }
            }
        }
        server.get("/v1/topics");
        server.stop();
    }
}

#[test]
fn a_member_behind_a_trusted_proxy_has_its_own_address_and_others_cannot_choose_one() {
    let join = br#"{"topics":["t"]}"#;
    for (trusted, expected) in [("127.0.0.0/8", "192.0.2.7"), ("192.0.2.0/24", "127.0.0.1:")] {
        let (_dir, server) = started(&format!("--insecure --trusted-proxies {trusted}"));
        server.create_topic("t", 1);
        let mut connection = server.connect();
        let headers = format!(
            "X-Forwarded-For: 1.1.1.1, 192.0.2.7\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            join.len()
        );
        connection.begin("POST", "/v1/groups/g/members", &headers);
        connection.say(join);
        connection.answer().expect("an answer").with_status(201);
        let group = server.get("/v1/groups/g");
        let address = group["members"][0]["address"].as_str().expect("an address");
        assert!(address.starts_with(expected), "{trusted}: {address}");
        assert!(!trusted.starts_with("127") || address == expected, "{address}");
        server.stop();
    }
}
