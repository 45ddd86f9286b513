//! The suites that Kafka clients bring along, against the real binary: what `docs/internals/kafka-suites.md` lists as in.
//!
//! `scripts/kafka-suites --build` brings a suite from its registry and builds it, which takes minutes. So a suite runs only if
//! `QUIPU_TEST_KAFKA_SUITES` names it, among words that are separated by blanks; `.ci/run` builds those of this file and sets
//! the variable. A suite that is not named is skipped, by name. So is librdkafka's own, which takes too long for every change.
//!
//! A suite runs in a network of its own: nothing comes from outside, and the port that rdkafka's insists on is free. Most of
//! its time it waits, so that several at once take no longer than the longest.
#![allow(
    clippy::disallowed_methods,
    reason = "it runs real programs against the real binary"
)]

#[path = "support/skipped.rs"]
mod skipped;

use std::path::Path;
use std::process::{Command, Stdio};

use skipped::skipped;

#[test]
fn kafka_python_3_passes_its_own_suite() {
    passes("kafka-python");
}

#[test]
fn kafka_python_2_passes_its_own_suite() {
    passes("kafka-python-2");
}

#[test]
fn rskafka_passes_its_own_suite() {
    passes("rskafka");
}

#[test]
fn rdkafka_passes_its_own_suite() {
    passes("rdkafka");
}

#[test]
fn what_is_skipped_is_said_on_the_terminal_although_the_test_passes() {
    let output = Command::new(std::env::current_exe().expect("it runs"))
        .args(["--exact", "rskafka_passes_its_own_suite"])
        .env_remove("QUIPU_TEST_KAFKA_SUITES")
        .output()
        .expect("it starts again");
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("skipped: the suite of rskafka: "), "{said}");
}

fn passes(suite: &str) {
    let built = std::env::var("QUIPU_TEST_KAFKA_SUITES").unwrap_or_default();
    if !built.split_whitespace().any(|name| name == suite) {
        skipped(&format!(
            "the suite of {suite}: QUIPU_TEST_KAFKA_SUITES does not name it as built"
        ));
        return;
    }
    if !in_a_network_of_its_own("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        skipped(&format!(
            "the suite of {suite}: a process cannot have a network of its own here"
        ));
        return;
    }
    let output = in_a_network_of_its_own("exec scripts/kafka-suites --built \"$@\"")
        .args([suite, env!("CARGO_BIN_EXE_quipu")])
        .output()
        .expect("it ran before");
    assert!(
        output.status.success(),
        "the suite of {suite} ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A command of bash that has no network but a loopback of its own, and no setting of a server.
fn in_a_network_of_its_own(command: &str) -> Command {
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--map-root-user", "--net", "bash", "-c"])
        .args([&format!("ip link set lo up && {command}"), "kafka-suites"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .stdin(Stdio::null());
    for (name, _) in std::env::vars() {
        if name.starts_with("QUIPU_") {
            unshare.env_remove(name);
        }
    }
    unshare
}
