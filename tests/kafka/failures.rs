//! What strangers cause in the log.

use serde_json::Value;

use super::sasl::closed;
use super::*;

/// The lines that have all of these words.
pub(crate) fn lines<'a>(log: &'a str, words: &[&str]) -> Vec<&'a str> {
    let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
    log.lines().filter(has_all).collect()
}

/// The events of this message and listener in a log: those with a line each, and those that others count.
fn told(log: &str, one: &str, more: &str, listener: &str) -> (usize, u64) {
    let rest = lines(log, &[more, listener]);
    let left_out = rest.iter().map(|line| {
        assert!(line.contains("most_from=127.0.0.1 ("), "{line}");
        let count = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("left_out="));
        let count = count.and_then(|count| count.parse::<u64>().ok());
        count.unwrap_or_else(|| panic!("no number in {line}"))
    });
    (lines(log, &[one, listener]).len(), left_out.sum())
}

pub(crate) fn wait_until(mut is_so: impl FnMut() -> bool, what: impl Fn() -> String) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{}", what());
        std::thread::yield_now();
    }
}

#[test]
fn a_flood_of_strangers_is_counted_and_does_not_fill_the_log() {
    const FLOOD: usize = 200;
    let fixture = closed(&[]);
    let path = format!("/v1/topics/{}", "x".repeat(5000));
    for _ in 0..FLOOD {
        let mut client = fixture.client();
        client.ask(17, 1, Out::new().text("SCRAM-SHA-256"));
        assert_eq!(client.ask(36, 1, Out::new().bytes(b"none")).i16(), 58);
        let answer = fixture.http("wrong", "GET", "/v1/topics", &Value::Null);
        answer.problem(401, "unauthenticated");
        let mut connection = fixture.server.connect();
        let answer = connection.request("DELETE", &path, "", b"").expect("an answer");
        answer.problem(401, "unauthenticated");
    }
    let metrics = fixture.http(super::sasl::ADMIN, "GET", "/metrics", &Value::Null);
    let counted = format!("quipu_failed_sign_ins_total {}", 2 * FLOOD);
    assert!(metrics.text().contains(&counted));
    let sign_ins = ("a sign-in failed", "more sign-ins failed");
    let changes = (
        "a change was asked for",
        "more changes were asked for and refused",
    );
    let (kafka, http) = ("listener=\"kafka\"", "listener=\"http\"");
    for ((one, more), listener) in [(sign_ins, kafka), (sign_ins, http), (changes, "")] {
        let told = || told(&fixture.server.log(), one, more, listener);
        let are_all = || {
            let (lines, left_out) = told();
            lines as u64 + left_out == FLOOD as u64
        };
        wait_until(are_all, || format!("{one}, {listener}: {:?}", told()));
        let (lines, left_out) = told();
        assert!(lines >= 10 && left_out > 0, "{lines} lines, {left_out} left out");
    }
    let log = fixture.server.log();
    let longest = log.lines().map(str::len).max();
    assert!(longest < Some(3000), "a stranger writes {longest:?} bytes a line");
    // Whoever comes later has lines again.
    let mut client = fixture.client();
    client.ask(17, 1, Out::new().text("SCRAM-SHA-256"));
    assert_eq!(client.ask(36, 1, Out::new().bytes(b"none")).i16(), 58);
    let (lines, left_out) = told(&fixture.server.log(), sign_ins.0, sign_ins.1, kafka);
    assert_eq!(lines as u64 + left_out, FLOOD as u64 + 1);
}
