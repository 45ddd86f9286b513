//! The real binary, command by command: what it prints, how it ends, and what it asks of a server.

#![allow(
    clippy::disallowed_methods,
    reason = "these tests prepare files for a real process"
)]

mod client;
mod commands;
mod damage;
mod demo;
mod fake;
mod kills;
mod load;
mod proxy;
mod service;
mod stream;
#[path = "../support/mod.rs"]
mod support;

use std::process::Output;
use std::time::Duration;

use assert_cmd::Command;

/// The binary, without the caller's settings, and never for ever.
pub(crate) fn quipu(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quipu"));
    command
        .args(args)
        .env_remove("QUIPU_SERVER")
        .env_remove("QUIPU_TOKEN")
        .env_remove("QUIPU_CONTEXT")
        .env(
            "XDG_CONFIG_HOME",
            concat!(env!("CARGO_TARGET_TMPDIR"), "/no-config"),
        )
        .env("XDG_STATE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/state"))
        .timeout(Duration::from_secs(120));
    command
}

/// Runs it against the server at `url`.
pub(crate) fn run(url: &str, args: &[&str]) -> Output {
    quipu(args).env("QUIPU_SERVER", url).output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// It ended with 1 and one line, which is returned.
pub(crate) fn failed(output: &Output) -> String {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "one clear line: {text}");
    text
}
