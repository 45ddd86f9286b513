//! SIGHUP: files are read again, unless the process has a terminal, whose end it then means.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::authority::{Authority, write};
use crate::open::{SMALL, temporary};
use crate::secure::{client, connect};
use crate::support::{PATIENCE, contains, skipped};

/// A process that is killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts a server without a terminal, with `quipu.toml` in this directory; its log and its data are there, too.
    fn detached(dir: &Path) -> (Self, SocketAddr) {
        let mut command = Command::new("setsid");
        command.env_clear().arg(env!("CARGO_BIN_EXE_quipu"));
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(SMALL.split(' '));
        command.arg("--config").arg(dir.join("quipu.toml"));
        command.arg("--data").arg(dir.join("data"));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let log = File::create(dir.join("log")).unwrap();
        let mut running = Self(command.stderr(log).spawn().expect("it starts"));
        let mut line = String::new();
        let stdout = running.0.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.trim().rsplit('/').next().unwrap_or_default();
        let address = address.parse().unwrap_or_else(|_| panic!("{line}"));
        (running, address)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

/// Waits until a file has this text; returns all of it.
#[track_caller]
fn until(path: &Path, text: &str) -> String {
    let begin = Instant::now();
    loop {
        let all = std::fs::read_to_string(path).unwrap_or_default();
        if all.contains(text) {
            return all;
        }
        assert!(begin.elapsed() < PATIENCE, "no {text:?} in {all}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn has(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    let has = found.is_ok_and(|status| status.success());
    if !has {
        skipped(&format!("there is no {program}"));
    }
    has
}

/// Whether processes that this one starts ignore SIGHUP, as below nohup.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(ignored.unwrap().trim(), 16).unwrap();
    let ignores = ignored & 1 == 1;
    if ignores {
        skipped("SIGHUP is ignored here");
    }
    ignores
}

#[test]
fn a_hangup_without_a_terminal_reads_the_files_again_and_stops_nothing() {
    if !has("setsid") || ignores_hangup() {
        return;
    }
    let dir = temporary();
    let file = |name: &str, text: &str| write(dir.path(), name, text);
    let authority = Authority::new("an authority");
    let renew = || {
        let pair = authority.sign();
        file("cert.pem", &pair.cert);
        file("key.pem", &pair.key);
    };
    renew();
    let settings = |level: &str, connections: u32| {
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (cert, key) = (path("cert.pem"), path("key.pem"));
        let text = format!(
            "log_level = \"{level}\"\nmax_connections = {connections}\ntls_cert = \"{cert}\"\ntls_key = \"{key}\"\n"
        );
        file("quipu.toml", &text);
    };
    settings("info", 100);
    let (mut running, address) = Running::detached(dir.path());
    let log = dir.path().join("log");
    let ask = || {
        let mut stream = connect(address, client(&authority.pem, None, rustls::ALL_VERSIONS)).unwrap();
        contains(&stream.get("/v1/topics").unwrap(), "HTTP/1.1 200");
        stream.certificate()
    };
    let old = ask();

    renew();
    settings("debug", 200);
    running.signal(Signal::HUP);
    let said = until(&log, "the server has read its files again");
    contains(
        &said,
        "the setting has another value by now; a restart puts it in force setting=\"max_connections\"",
    );
    assert!(!said.contains("setting=\"log_level\""), "{said}");
    contains(&said, "new connections use the new certificate");
    assert_ne!(ask(), old);
    // At this level failed handshakes are logged.
    let stranger = Authority::new("a stranger");
    assert!(connect(address, client(&stranger.pem, None, rustls::ALL_VERSIONS)).is_err());
    until(&log, "a TLS handshake failed");

    // What cannot be read changes nothing, and the last line says so.
    file("quipu.toml", "log_levle = \"info\"\n");
    running.signal(Signal::HUP);
    let said = until(&log, "kept=\"log_level\"");
    contains(&said, "log_levle is not a setting");
    file("key.pem", "no key");
    running.signal(Signal::HUP);
    until(&log, "kept=\"log_level,tls_cert\"");
    settings("debug", 200);
    // Also if the files have been looked at before: they are still wrong.
    running.signal(Signal::HUP);
    until(&log, "kept=\"tls_cert\"");
    assert_eq!(
        until(&log, "")
            .matches(" INFO the server has read its files again")
            .count(),
        1
    );
    ask();
    renew();
    running.signal(Signal::HUP);
    while until(&log, "")
        .matches(" INFO the server has read its files again")
        .count()
        < 2
    {
        std::thread::yield_now();
    }
    running.signal(Signal::TERM);
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
}

/// Stops a server while its reload waits for the issuer's keys; returns whether it has stopped before the wait was over.
fn stops_during_a_reload(signal: Signal) -> bool {
    let dir = temporary();
    let issuer = TcpListener::bind("127.0.0.1:0").unwrap();
    let keys = format!("http://{}/keys", issuer.local_addr().unwrap());
    let text = format!("jwt_issuer = \"https://issuer\"\njwt_audience = \"quipu\"\njwt_keys = \"{keys}\"\n");
    let text = format!("auth = \"tokens\"\nadmin_token = \"a-token-of-a-test\"\n{text}");
    write(dir.path(), "quipu.toml", &text);
    let (mut running, _) = Running::detached(dir.path());
    let (mut first, _) = issuer.accept().unwrap();
    first
        .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        .unwrap();
    let log = dir.path().join("log");
    until(&log, "the keys for JWTs cannot be read");
    running.signal(Signal::HUP);
    // It asks, and gets no answer as long as this connection is there.
    let (unanswered, _) = issuer.accept().unwrap();
    running.signal(signal);
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
    drop(unanswered);
    let said = until(&log, "the server has stopped");
    !said.contains("the server has read its files again")
}

#[test]
fn a_signal_to_stop_does_not_wait_for_a_reload() {
    if !has("setsid") || ignores_hangup() {
        return;
    }
    for signal in [Signal::TERM, Signal::INT] {
        // The wait ends by itself after a while: a machine that stands still for so long proves nothing.
        let attempts = (0..3).map(|_| stops_during_a_reload(signal));
        assert!(attempts.into_iter().any(|is_at_once| is_at_once), "{signal:?}");
    }
}

#[test]
fn a_hangup_on_a_terminal_stops_in_order() {
    if !has("script") || ignores_hangup() {
        return;
    }
    let dir = temporary();
    let (pid, out) = (dir.path().join("pid"), dir.path().join("out"));
    let serve = format!(
        "echo $$ >'{}'; exec '{}' serve --listen 127.0.0.1:0 {SMALL} --data '{}'",
        pid.display(),
        env!("CARGO_BIN_EXE_quipu"),
        dir.path().join("data").display(),
    );
    let mut command = Command::new("script");
    command.args(["-qefc", &serve, "/dev/null"]).env_clear();
    command
        .env("SHELL", "/bin/sh")
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let child = command.stdout(File::create(&out).unwrap()).spawn();
    let mut running = Running(child.expect("it starts"));
    until(&out, "the server is ready");
    let pid = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::HUP).unwrap();
    let status = running.0.wait().unwrap();
    let said = until(&out, "the server has stopped");
    assert_eq!(status.code(), Some(0), "{said}");
}
