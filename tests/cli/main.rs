//! The real binary, command by command: its output, its exit status, and its requests to a server.

#![allow(clippy::disallowed_methods, reason = "they prepare files for a real process")]

mod backup;
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
mod transfer;
mod transfer_groups;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::PATIENCE;
use tempfile::TempDir;

/// The words of a command line; text between single quotes is one word.
pub(crate) fn words(line: &str) -> Vec<&str> {
    let parts = line.split('\'').enumerate();
    parts
        .flat_map(|(index, part)| match index % 2 {
            0 => part.split_whitespace().collect(),
            _ => vec![part],
        })
        .collect()
}

/// `quipu` with these words, without the caller's settings.
pub(crate) fn command(line: &str) -> Command {
    const DIRECTORY: &str = env!("CARGO_TARGET_TMPDIR");
    let mut command = Command::new(env!("CARGO_BIN_EXE_quipu"));
    for variable in ["QUIPU_SERVER", "QUIPU_TOKEN", "QUIPU_CONTEXT"] {
        command.env_remove(variable);
    }
    command
        .args(words(line))
        .env("XDG_CONFIG_HOME", format!("{DIRECTORY}/no-config"))
        .env("XDG_STATE_HOME", format!("{DIRECTORY}/state"));
    command
}

/// The same for a test that waits for the end of the command, for a limited time.
pub(crate) fn quipu(line: &str) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::from_std(command(line));
    command.timeout(Duration::from_secs(120));
    command
}

/// Runs a command against the server at `url`.
pub(crate) fn run(url: &str, line: &str) -> Ended {
    ended(quipu(line).env("QUIPU_SERVER", url))
}

/// Runs a command that needs no server.
pub(crate) fn run_offline(line: &str) -> Ended {
    ended(&mut quipu(line))
}

pub(crate) fn ended(command: &mut assert_cmd::Command) -> Ended {
    command.output().unwrap().into()
}

/// Runs a command until this is all that it prints. For one that waits for the server only for a short time, and prints
/// something else then: on a slow machine it has to be run again.
#[track_caller]
pub(crate) fn in_the_end(expected: &str, run: impl Fn() -> Ended) -> Ended {
    let begin = std::time::Instant::now();
    loop {
        let ended = run();
        if format!("{}{}", ended.out, ended.err) == expected {
            return ended;
        }
        assert!(begin.elapsed() < PATIENCE, "{ended:?} instead of {expected:?}");
    }
}

/// How a command ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code();
        Self {
            code,
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

impl Ended {
    /// Checks that it succeeded; returns its standard output.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.err);
        self.out
    }

    /// The same, and standard error must be empty.
    #[track_caller]
    pub(crate) fn quiet(self) -> String {
        assert_eq!((self.code, &*self.err), (Some(0), ""));
        self.out
    }

    /// Checks that it ended with 1 and one line on standard error; returns that line.
    #[track_caller]
    pub(crate) fn failed(&self) -> &str {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "one clear line: {}", self.err);
        &self.err
    }

    /// The same, and the line must be this.
    #[track_caller]
    pub(crate) fn fails_as(&self, text: &str) {
        assert_eq!(self.failed(), text);
    }

    /// The same, and the line must contain this.
    #[track_caller]
    pub(crate) fn fails_with(&self, part: &str) {
        let text = self.failed();
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

/// A command that runs, and what it prints.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) out: BufReader<ChildStdout>,
}

impl Running {
    /// Starts a command against the server at `url`.
    pub(crate) fn start(url: &str, line: &str) -> Self {
        Self::of(command(line).env("QUIPU_SERVER", url))
    }

    pub(crate) fn of(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// The next line of its output; empty at the end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    pub(crate) fn lines(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }

    /// Asks it to stop, as Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// Waits for its end; returns the rest of its output.
    pub(crate) fn end(mut self) -> Ended {
        let mut out = Vec::new();
        drop(self.child.stdin.take());
        self.out.read_to_end(&mut out).unwrap();
        Output {
            stdout: out,
            ..self.child.wait_with_output().unwrap()
        }
        .into()
    }

    /// Asks it to stop, and waits for its end.
    pub(crate) fn stop(self) -> Ended {
        self.interrupt();
        self.end()
    }

    /// Waits for its end while nobody reads its output.
    pub(crate) fn end_unread(self) -> Ended {
        let Self { child, out: _out } = self;
        child.wait_with_output().unwrap().into()
    }

    /// Closes the pipe of its output, and waits for its end.
    pub(crate) fn hang_up(self) -> Ended {
        drop(self.out);
        self.child.wait_with_output().unwrap().into()
    }
}

/// Writes a file; returns its path.
pub(crate) fn file(dir: &TempDir, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}
