//! Loads that are cut in every way, against a server that loses answers: every line is stored once, or named.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use crate::client::{file, problem, stored};
use crate::fake::{Fake, Reply, Request};
use crate::{failed, quipu, stderr, stdout};

const WINDOW_MS: u64 = 600_000;

/// What the fake does with a request that it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    /// Not stored, and the connection closes.
    LostBefore,
    /// Stored, and the connection closes.
    LostAfter,
    Overloaded,
    /// A first part is stored and said to be.
    Partial,
    InUse,
    /// A proxy answers in its own words.
    Gateway,
}

/// A topic that remembers keys, unit by unit as the real one does; a unit is a line here.
#[derive(Debug, Default)]
struct Store {
    lines: Vec<Vec<u8>>,
    /// How many lines of a key are stored, and its body.
    keys: HashMap<String, (usize, Vec<u8>)>,
}

impl Store {
    fn take(&mut self, request: &Request, fate: Fate) -> Reply {
        let key = request
            .header("idempotency-key")
            .expect("every request has a key")
            .to_owned();
        let lines: Vec<&[u8]> = request.body.split_inclusive(|byte| *byte == b'\n').collect();
        let (done, body) = self.keys.entry(key).or_default();
        if *done > 0 && *body != request.body {
            return problem(
                422,
                r#""code":"idempotency-key-reused","detail":"another body","outcome":"none""#,
            );
        }
        body.clone_from(&request.body);
        let most = match fate {
            Fate::Fine | Fate::LostAfter => lines.len(),
            Fate::Partial => lines.len() / 2,
            _ => *done,
        };
        for line in lines.iter().take(most).skip(*done) {
            self.lines.push(line.to_vec());
        }
        *done = most.max(*done);
        let accepted = *done;
        match fate {
            Fate::Fine => stored(lines.len()),
            Fate::LostBefore | Fate::LostAfter => Reply::Nothing,
            Fate::Overloaded => problem(503, r#""code":"overloaded","outcome":"none""#),
            Fate::Partial => problem(
                503,
                &format!(r#""code":"overloaded","outcome":"partial","accepted":{accepted}"#),
            ),
            Fate::InUse => problem(409, r#""code":"idempotency-key-in-use","outcome":"none""#),
            Fate::Gateway => Reply::Answer(502, "Content-Type: text/html\r\n", "<html>".to_owned()),
        }
    }
}

/// A fake with a store, whose n-th request has the n-th fate, and the ones after these are fine.
fn serve(window_ms: u64, fates: &'static [Fate]) -> (Fake, Arc<Mutex<Store>>) {
    let store = Arc::new(Mutex::new(Store::default()));
    let shared = Arc::clone(&store);
    let fake = Fake::of_topic(window_ms, move |request, before| {
        let fate = fates.get(before).copied().unwrap_or(Fate::Fine);
        shared.lock().unwrap().take(request, fate)
    });
    (fake, store)
}

/// A command whose states are in `dir`.
fn produce(fake: &Fake, dir: &TempDir, args: &[&str]) -> assert_cmd::Command {
    let mut command = quipu(&[&["produce", "t"], args].concat());
    command
        .env("QUIPU_SERVER", &fake.url)
        .env("XDG_STATE_HOME", dir.path().join("state"));
    command
}

/// The states in `dir`.
fn states(dir: &TempDir) -> Vec<PathBuf> {
    match std::fs::read_dir(dir.path().join("state/quipu/loads")) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(_) => Vec::new(),
    }
}

/// Three requests' worth of numbered lines.
fn numbered() -> Vec<u8> {
    let filler = "x".repeat(1000);
    (0..20_000)
        .flat_map(|n| format!("{{\"value\":\"{n} {filler}\"}}\n").into_bytes())
        .collect()
}

#[track_caller]
fn succeeded(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
}

#[test]
fn whatever_becomes_of_requests_and_answers_every_line_is_stored_once() {
    const FATES: [Fate; 9] = [
        Fate::LostAfter,
        Fate::Fine,
        Fate::LostBefore,
        Fate::Partial,
        Fate::LostAfter,
        Fate::Overloaded,
        Fate::Fine,
        Fate::InUse,
        Fate::Gateway,
    ];
    let dir = TempDir::new().unwrap();
    let content = numbered();
    let path = file(&dir, "f", &content);
    let (fake, store) = serve(WINDOW_MS, &FATES);
    let output = produce(&fake, &dir, &[&path, "--output", "json"])
        .output()
        .unwrap();
    succeeded(&output);
    assert!(
        stdout(&output).contains("\"records\":20000"),
        "{}",
        stdout(&output)
    );
    assert_eq!(fake.requests().len(), 10);
    assert!(
        store.lock().unwrap().lines.concat() == content,
        "every line once, in order"
    );
    assert_eq!(
        states(&dir),
        Vec::<PathBuf>::new(),
        "a load that is done is forgotten"
    );

    // A pipe has no state, and a key all the same.
    let (fake, store) = serve(WINDOW_MS, &FATES);
    succeeded(
        &produce(&fake, &dir, &[])
            .write_stdin(content.clone())
            .output()
            .unwrap(),
    );
    assert!(
        store.lock().unwrap().lines.concat() == content,
        "every line once, in order"
    );
}

/// Runs the command until its request `number` has arrived at the fake and kills it; the request is stored or not.
fn kill_at(dir: &TempDir, path: &str, number: usize, is_stored: bool, store: &Arc<Mutex<Store>>) {
    let shared = Arc::clone(store);
    let (arrived, arrival) = std::sync::mpsc::channel();
    let fake = Fake::of_topic(WINDOW_MS, move |request, before| {
        if before + 1 < number || is_stored {
            let reply = shared.lock().unwrap().take(request, Fate::Fine);
            if before + 1 < number {
                return reply;
            }
        }
        let _ = arrived.send(());
        // The answer never comes.
        loop {
            std::thread::park();
        }
    });
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_quipu"))
        .args(["produce", "t", path, "--server", &fake.url])
        .env("XDG_STATE_HOME", dir.path().join("state"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    arrival.recv().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_command_that_is_killed_is_gone_on_with_whether_its_request_was_stored_or_not() {
    for (number, is_stored) in [(1, false), (1, true), (2, true), (3, false)] {
        let dir = TempDir::new().unwrap();
        let content = numbered();
        let path = file(&dir, "f", &content);
        let store = Arc::new(Mutex::new(Store::default()));
        kill_at(&dir, &path, number, is_stored, &store);
        // And once more, before anything new was acknowledged.
        kill_at(&dir, &path, 1, is_stored, &store);

        let shared = Arc::clone(&store);
        let fake = Fake::of_topic(WINDOW_MS, move |request, _| {
            shared.lock().unwrap().take(request, Fate::Fine)
        });
        let output = produce(&fake, &dir, &[&path]).output().unwrap();
        succeeded(&output);
        let first = std::str::from_utf8(&fake.requests()[0].body)
            .unwrap()
            .split([' ', '"'])
            .nth(3)
            .unwrap()
            .to_owned();
        let line: usize = first.parse().unwrap();
        assert_eq!(line == 0, number == 1, "{line}");
        assert_eq!(
            stderr(&output),
            format!(
                "quipu: going on with the load of {path} into topic t that was cut at line {}\n",
                line + 1
            )
        );
        assert!(
            store.lock().unwrap().lines.concat() == content,
            "{number} {is_stored}: every line once, in order"
        );
        assert_eq!(states(&dir).len(), 0);
    }
}

#[test]
fn a_request_that_the_topic_may_have_forgotten_is_not_sent_again() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "f", b"{\"value\":1}\n{\"value\":2}\n");
    let (fake, store) = serve(1, &[Fate::LostAfter]);
    let text = failed(&produce(&fake, &dir, &[&path]).output().unwrap());
    let doubt = format!("quipu: lines 1-2 of {path} may or may not be stored: they were first sent ");
    assert!(text.starts_with(&doubt), "{text}");
    assert!(
        text.contains("topic t knows a request again for 1 ms (dedupe_window_ms)"),
        "{text}"
    );
    assert!(text.contains("from 1 on, or from 3 if they are there"), "{text}");

    // The next run knows it too, and says the same without sending anything.
    let again = failed(
        &produce(&fake, &dir, &[&path])
            .output()
            .map(without_notes)
            .unwrap(),
    );
    assert!(again.starts_with(&doubt), "{again}");
    assert_eq!((fake.requests().len(), store.lock().unwrap().lines.len()), (1, 2));

    succeeded(&produce(&fake, &dir, &[&path, "--restart"]).output().unwrap());
    assert_eq!(
        store.lock().unwrap().lines.len(),
        4,
        "whoever asks for it gets it"
    );
    assert_eq!(states(&dir).len(), 0);
}

/// The output without the lines that say what goes on.
fn without_notes(mut output: Output) -> Output {
    let text = stderr(&output);
    let is_note = |line: &&str| line.contains("; trying again") || line.contains("going on with the load");
    let rest: Vec<&str> = text.lines().filter(|line| !is_note(line)).collect();
    output.stderr = format!("{}\n", rest.join("\n")).into_bytes();
    output
}

#[test]
fn a_bad_line_is_named_as_the_file_counts_it_and_the_mended_file_goes_on_there() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "f", b"\n{\"value\":1}\nnonsense\n{\"value\":3}\n");
    let fake = Fake::of_topic(WINDOW_MS, |_, _| {
        let rest =
            r#""code":"invalid-request","detail":"not JSON","line":3,"accepted":1,"outcome":"partial""#;
        problem(400, rest)
    });
    let text = failed(&produce(&fake, &dir, &[&path]).output().unwrap());
    assert_eq!(
        text,
        format!(
            "quipu: line 3 of {path}: invalid-request: not JSON; 1 record was stored; once it is mended, the same \
             command goes on there\n"
        )
    );
    file(&dir, "f", b"\n{\"value\":1}\n{\"value\":2}\n{\"value\":3}\n");
    let (fake, store) = serve(WINDOW_MS, &[]);
    let output = produce(&fake, &dir, &[&path]).output().unwrap();
    succeeded(&output);
    assert!(
        stderr(&output).contains("cut at line 3; the file has changed since"),
        "{}",
        stderr(&output)
    );
    assert!(
        stdout(&output).contains("after 1 record of earlier runs"),
        "{}",
        stdout(&output)
    );
    assert_eq!(
        store.lock().unwrap().lines.concat(),
        b"{\"value\":2}\n{\"value\":3}\n"
    );
    let key = fake.requests()[0].header("idempotency-key").unwrap().to_owned();
    assert!(
        key.ends_with("-2"),
        "another request than the one that failed: {key}"
    );
}

#[test]
fn a_file_whose_stored_lines_have_changed_is_not_gone_on_with() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "f", b"{\"value\":1}\nnonsense\n");
    let fake = Fake::of_topic(WINDOW_MS, |_, _| {
        problem(
            400,
            r#""code":"invalid-request","line":2,"accepted":1,"outcome":"partial""#,
        )
    });
    failed(&produce(&fake, &dir, &[&path]).output().unwrap());
    let (fake, _) = serve(WINDOW_MS, &[]);
    for other in [&b"{\"value\":9}\n{\"value\":2}\n"[..], b"{\"value\": 1}\n", b""] {
        file(&dir, "f", other);
        let text = failed(&without_notes(produce(&fake, &dir, &[&path]).output().unwrap()));
        assert!(
            text.contains(&format!("the first line of {path} is not what")),
            "{text}"
        );
    }
    assert_eq!(fake.requests().len(), 0);
    // The line is the same with and without its break.
    file(&dir, "f", b"{\"value\":1}");
    succeeded(&produce(&fake, &dir, &[&path]).output().unwrap());
    assert_eq!(
        (fake.requests().len(), states(&dir).len()),
        (0, 0),
        "there is nothing left to do"
    );
}

#[test]
fn other_options_would_make_other_records_of_the_same_lines() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "f", &numbered());
    kill_at(&dir, &path, 2, true, &Arc::default());
    let (fake, _) = serve(WINDOW_MS, &[]);
    let text = failed(&produce(&fake, &dir, &[&path, "--raw"]).output().unwrap());
    assert!(
        text.contains("was cut at line ") && text.contains("with no such options"),
        "{text}"
    );
    file(&dir, "f", b"{}\n");
    let text = failed(&produce(&fake, &dir, &[&path]).output().unwrap());
    assert!(
        text.contains("has changed since its load into topic t was cut"),
        "{text}"
    );
    assert_eq!(fake.requests().len(), 0);
    assert_eq!(
        states(&dir).len(),
        1,
        "nothing is forgotten, and no lock is left behind"
    );
}

#[test]
fn two_runs_of_one_load_are_one_too_many() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "f", b"{\"value\":1}\n");
    let (arrived, arrival) = std::sync::mpsc::channel();
    let (go_on, gone_on) = std::sync::mpsc::channel();
    let fake = Fake::of_topic(WINDOW_MS, move |request, _| {
        let _ = arrived.send(());
        let _ = gone_on.recv();
        stored(request.lines())
    });
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_quipu"))
        .args(["produce", "t", &path, "--server", &fake.url])
        .env("XDG_STATE_HOME", dir.path().join("state"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    arrival.recv().unwrap();
    let (other, _) = serve(WINDOW_MS, &[]);
    let text = failed(&produce(&other, &dir, &[&path]).output().unwrap());
    let busy = format!(
        "quipu: this load is running already (process {}): {path} into topic t;",
        child.id()
    );
    assert!(text.starts_with(&busy), "{text}");
    go_on.send(()).unwrap();
    succeeded(&child.wait_with_output().unwrap());
    assert_eq!(other.requests().len(), 0);
}

#[test]
fn a_state_that_cannot_be_kept_is_a_note_and_the_load_goes_on_without() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "f", b"{\"value\":1}\n");
    file(&dir, "state", b"no directory");
    let (fake, store) = serve(WINDOW_MS, &[Fate::LostAfter]);
    let output = produce(&fake, &dir, &[&path]).output().unwrap();
    succeeded(&output);
    assert!(
        stderr(&output).starts_with("quipu: cannot remember how far this load is ("),
        "{}",
        stderr(&output)
    );
    assert_eq!(store.lock().unwrap().lines.len(), 1);
    let output = produce(&fake, &dir, &[&path])
        .env_remove("XDG_STATE_HOME")
        .env_remove("HOME")
        .output()
        .unwrap();
    succeeded(&output);
    assert!(
        stderr(&output).contains("neither XDG_STATE_HOME nor HOME is set"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_state_that_can_no_longer_be_written_does_not_outlive_its_load() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "f", &numbered());
    let loads = dir.path().join("state/quipu/loads");
    let is_state = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "json");
    let fake = Fake::of_topic(WINDOW_MS, move |request, before| {
        if before == 0 {
            // Nobody can write a directory, as if the disk were full from now on.
            let files = std::fs::read_dir(&loads).unwrap();
            let state = files.map(|entry| entry.unwrap().path()).find(is_state).unwrap();
            std::fs::create_dir(state.with_extension("new")).unwrap();
        }
        stored(request.lines())
    });
    let output = produce(&fake, &dir, &[&path]).output().unwrap();
    succeeded(&output);
    assert_eq!(fake.requests().len(), 3);
    let text = stderr(&output);
    assert!(
        text.starts_with("quipu: cannot remember how far this load is ("),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "said once: {text}");
    let left: Vec<PathBuf> = states(&dir).into_iter().filter(is_state).collect();
    assert_eq!(left, [] as [PathBuf; 0], "the load is done");
}

#[test]
fn a_load_that_is_not_remembered_promises_nothing_when_it_is_cut() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "f", b"{\"value\":1}\nnonsense\n");
    let name = {
        let fake = Fake::of_topic(WINDOW_MS, |_, _| {
            problem(400, r#""code":"x","outcome":"partial""#)
        });
        produce(&fake, &dir, &[&path]).output().unwrap();
        states(&dir).pop().unwrap()
    };
    std::fs::remove_file(&name).unwrap();
    std::fs::create_dir(name.with_extension("new")).unwrap();
    let fake = Fake::of_topic(WINDOW_MS, |_, _| {
        let rest =
            r#""code":"invalid-request","detail":"not JSON","line":2,"accepted":1,"outcome":"partial""#;
        problem(400, rest)
    });
    let output = produce(&fake, &dir, &[&path]).output().unwrap();
    let text = stderr(&output);
    assert!(
        text.ends_with(&format!(
            "quipu: line 2 of {path}: invalid-request: not JSON; 1 record was stored\n"
        )),
        "{text}"
    );
}

#[test]
fn a_named_pipe_that_nobody_writes_does_not_hold_up_the_end() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("pipe").to_str().unwrap().to_owned();
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let (described, description) = std::sync::mpsc::channel();
    let fake = Fake::start(move |_, _| {
        let _ = described.send(());
        let body = r#"{"name":"t","id":"fake-1","partition_count":1,"partitions":[],"config":{"dedupe_window_ms":{"value":1}}}"#;
        Reply::Answer(200, "", body.to_owned())
    });
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_quipu"))
        .args(["produce", "t", &path, "--server", &fake.url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    description.recv().unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || ended.send(child.wait_with_output().unwrap()));
    match end.recv_timeout(Duration::from_secs(60)) {
        Ok(output) => succeeded(&output),
        Err(_) => {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            panic!("it is still waiting for somebody to write");
        }
    }
}

#[test]
fn a_state_that_nobody_can_read_stops_the_load_until_it_is_forgotten() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "f", &numbered());
    kill_at(&dir, &path, 2, true, &Arc::default());
    let state = states(&dir)
        .into_iter()
        .find(|path| path.extension().unwrap() == "json")
        .unwrap();
    std::fs::write(&state, "{").unwrap();
    let (fake, store) = serve(WINDOW_MS, &[]);
    let text = failed(&produce(&fake, &dir, &[&path]).output().unwrap());
    assert!(
        text.contains(state.to_str().unwrap()) && text.contains("--restart forgets it"),
        "{text}"
    );
    succeeded(&produce(&fake, &dir, &[&path, "--restart"]).output().unwrap());
    assert_eq!(store.lock().unwrap().lines.len(), 20_000);
}

#[test]
fn a_load_that_is_named_is_the_same_load_from_a_pipe_too() {
    let dir = TempDir::new().unwrap();
    let content = numbered();
    let path = file(&dir, "f", &content);
    let (fake, store) = serve(WINDOW_MS, &[]);
    let named = ["--idempotency-key", "load-7"];
    succeeded(
        &produce(&fake, &dir, &[&named[..], &[&path]].concat())
            .output()
            .unwrap(),
    );
    succeeded(
        &produce(&fake, &dir, &named)
            .write_stdin(content.clone())
            .output()
            .unwrap(),
    );
    let keys: Vec<_> = fake
        .requests()
        .iter()
        .map(|request| request.header("idempotency-key").unwrap().to_owned())
        .collect();
    assert_eq!(
        keys,
        [
            "load-7-1", "load-7-2", "load-7-3", "load-7-1", "load-7-2", "load-7-3"
        ]
    );
    assert!(
        store.lock().unwrap().lines.concat() == content,
        "the second one stored nothing"
    );
    assert_eq!(states(&dir).len(), 0, "and nothing is kept outside");

    let text = failed(&produce(&fake, &dir, &named).write_stdin("{}\n").output().unwrap());
    assert!(
        text.contains("idempotency-key-reused: another body; the key names other records"),
        "{text}"
    );
}

#[test]
fn a_load_of_which_nothing_was_stored_is_no_load() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "f", b"{\"value\":1}\n");
    let fake = Fake::of_topic(WINDOW_MS, |_, _| {
        problem(413, r#""code":"record-too-large","outcome":"none""#)
    });
    failed(&produce(&fake, &dir, &[&path]).output().unwrap());
    assert_eq!(states(&dir).len(), 0);
}
