//! The files in `deploy/` and the packages are true: what they name exists, and what they run starts.
//!
//! Tools that check them by their own rules (systemd-analyze, kubernetes-validate) are used where they are; where one is
//! not, its test says that it is skipped.
#![allow(
    clippy::disallowed_methods,
    reason = "these tests read the repository and start processes"
)]

mod debian;
mod image;
mod kubernetes;
#[path = "../support/skipped.rs"]
mod skipped;
mod systemd;

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use quipu::settings::SETTINGS;
use rustix::process::{Pid, Signal, kill_process};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Where a program is, if it is installed.
fn found(program: &str) -> Option<PathBuf> {
    let path: OsString = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Whether a variable is that of a setting.
fn is_setting(variable: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.env_name() == variable)
}

/// The command `quipu` with these arguments and nothing of a server or a client in its environment.
fn quipu(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quipu"));
    command.env_clear().args(args).stdin(Stdio::null());
    command
}

/// A server that runs; it is killed when dropped.
struct Running {
    child: Child,
    address: SocketAddr,
    /// As it is printed: `http://…` or `https://…`.
    url: String,
}

impl Running {
    /// Starts the command and waits for the line that says where it listens.
    #[track_caller]
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("standard output can be read");
        let url = line.split_whitespace().find(|word| word.contains("://"));
        let Some(url) = url.map(str::to_owned) else {
            panic!("it ended with {:?}: {line}", child.wait());
        };
        let address = url.split("://").nth(1).expect("an address").parse();
        Self {
            child,
            address: address.expect("an address"),
            url,
        }
    }

    /// SIGTERM; it must end with 0.
    #[track_caller]
    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
        let status = self.child.wait().expect("it was started here");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
