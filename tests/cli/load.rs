//! Loads that are interrupted in every way, with a server that loses answers: every line is stored once, or named.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::fake::{Fake, Reply, Request, fine, holding, problem, stored};
use crate::{Ended, Running, command, ended, file, quipu};

/// The fate of a request that the fake has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    /// Not stored, and the connection closes.
    LostBefore,
    /// Stored, and the connection closes.
    LostAfter,
    Overloaded,
    /// A first part is stored, and the answer says so.
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

type Shared = Arc<Mutex<Store>>;

impl Store {
    fn take(&mut self, request: &Request, fate: Fate) -> Reply {
        let key = request.header("idempotency-key");
        let key = key.expect("every request has a key");
        let lines: Vec<&[u8]> = request.body.split_inclusive(|byte| *byte == b'\n').collect();
        let (done, body) = self.keys.entry(key.to_owned()).or_default();
        if *done > 0 && *body != request.body {
            let members = r#""code":"idempotency-key-reused","detail":"another body","outcome":"none""#;
            return problem(422, members);
        }
        body.clone_from(&request.body);
        let most = match fate {
            Fate::Fine | Fate::LostAfter => lines.len(),
            Fate::Partial => lines.len() / 2,
            _ => *done,
        };
        let new = lines.iter().take(most).skip(*done);
        self.lines.extend(new.map(|line| line.to_vec()));
        *done = most.max(*done);
        match fate {
            Fate::Fine => stored(lines.len()),
            Fate::LostBefore | Fate::LostAfter => Reply::Nothing,
            Fate::Overloaded => problem(503, r#""code":"overloaded","outcome":"none""#),
            Fate::Partial => problem(
                503,
                &format!(r#""code":"overloaded","outcome":"partial","accepted":{done}"#),
            ),
            Fate::InUse => problem(409, r#""code":"idempotency-key-in-use","outcome":"none""#),
            Fate::Gateway => Reply::Answer(502, "Content-Type: text/html\r\n", "<html>".to_owned()),
        }
    }
}

/// A fake with a store. Its n-th request has the n-th fate; later ones succeed.
fn serve(fates: &'static [Fate]) -> (Fake, Shared) {
    serve_with_window(600_000, fates)
}

fn serve_with_window(window_ms: u64, fates: &'static [Fate]) -> (Fake, Shared) {
    let store = Shared::default();
    let shared = Arc::clone(&store);
    let fake = Fake::of_topic_with_window(window_ms, move |request, before| {
        let fate = fates.get(before).copied().unwrap_or(Fate::Fine);
        shared.lock().unwrap().take(request, fate)
    });
    (fake, store)
}

/// A topic that refuses every request with these members.
fn refusing(status: u16, members: &'static str) -> Fake {
    Fake::of_topic(move |_, _| problem(status, members))
}

/// Runs `quipu produce` with its states in `dir`.
fn produce(fake: &Fake, dir: &TempDir, flags: &str) -> Ended {
    produce_from(fake, dir, flags, Vec::new())
}

fn produce_from(fake: &Fake, dir: &TempDir, flags: &str, input: Vec<u8>) -> Ended {
    let mut command = quipu(&format!("produce t --server {} {flags}", fake.url));
    let command = command.env("XDG_STATE_HOME", dir.path().join("state"));
    ended(command.write_stdin(input))
}

/// Starts the same command without waiting for its end.
fn start(fake: &Fake, dir: &TempDir, path: &str) -> Running {
    let mut command = command(&format!("produce t {path} --server {}", fake.url));
    Running::of(command.env("XDG_STATE_HOME", dir.path().join("state")))
}

/// The states in `dir`.
fn states(dir: &TempDir) -> Vec<PathBuf> {
    match std::fs::read_dir(dir.path().join("state/quipu/loads")) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(_) => Vec::new(),
    }
}

/// A directory, and the path of a file of this content in it.
fn place(content: impl AsRef<[u8]>) -> (TempDir, String) {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "f", content);
    (dir, path)
}

fn is_state(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "json")
}

/// Three requests' worth of numbered lines.
fn numbered() -> Vec<u8> {
    let filler = "x".repeat(1000);
    let line = |n| format!("{{\"value\":\"{n} {filler}\"}}\n");
    (0..20_000).map(line).collect::<String>().into_bytes()
}

#[track_caller]
fn check_whole(store: &Shared, content: &[u8]) {
    let lines = store.lock().unwrap().lines.concat();
    assert!(lines == content, "every line once, in order");
}

#[test]
fn every_line_is_stored_once_when_requests_and_answers_are_lost() {
    use Fate::{Fine, Gateway, InUse, LostAfter, LostBefore, Overloaded, Partial};
    const FATES: [Fate; 9] = [
        LostAfter, Fine, LostBefore, Partial, LostAfter, Overloaded, Fine, InUse, Gateway,
    ];
    let content = numbered();
    let (dir, path) = place(&content);
    let (fake, store) = serve(&FATES);
    let text = produce(&fake, &dir, &format!("{path} --output json")).ok();
    assert!(text.contains("\"records\":20000"), "{text}");
    assert_eq!(fake.requests().len(), 10);
    check_whole(&store, &content);
    assert_eq!(states(&dir).len(), 0, "a load that is done is forgotten");

    // A load from a pipe has no state, but it has a key.
    let (fake, store) = serve(&FATES);
    produce_from(&fake, &dir, "", content.clone()).ok();
    check_whole(&store, &content);
}

/// Runs the command until its request `number` has arrived at the fake and kills it; the request is stored or not.
fn kill_at(dir: &TempDir, path: &str, number: usize, is_stored: bool, store: &Shared) {
    let shared = Arc::clone(store);
    let (arrived, arrival) = std::sync::mpsc::channel();
    let fake = Fake::of_topic(move |request, before| {
        if before + 1 < number || is_stored {
            let reply = shared.lock().unwrap().take(request, Fate::Fine);
            if before + 1 < number {
                return reply;
            }
        }
        let _ = arrived.send(());
        // The fake never answers.
        loop {
            std::thread::park();
        }
    });
    let mut running = start(&fake, dir, path);
    arrival.recv().unwrap();
    running.child.kill().unwrap();
    running.child.wait().unwrap();
}

#[test]
fn a_killed_load_is_continued_whether_its_request_was_stored_or_not() {
    for (number, is_stored) in [(1, false), (1, true), (2, true), (3, false)] {
        let content = numbered();
        let (dir, path) = place(&content);
        let store = Shared::default();
        kill_at(&dir, &path, number, is_stored, &store);
        // Killed once more, before anything new was acknowledged.
        kill_at(&dir, &path, 1, is_stored, &store);

        let shared = Arc::clone(&store);
        let fake = Fake::of_topic(move |request, _| shared.lock().unwrap().take(request, Fate::Fine));
        let ended = produce(&fake, &dir, &path);
        let first = String::from_utf8(fake.requests()[0].body.clone()).unwrap();
        let line: usize = first.split([' ', '"']).nth(3).unwrap().parse().unwrap();
        assert_eq!(line == 0, number == 1, "{line}");
        let expected = format!(
            "quipu: continuing the load of {path} into topic t, which stopped at line {}\n",
            line + 1
        );
        assert_eq!(ended.err, expected);
        ended.ok();
        check_whole(&store, &content);
        assert_eq!(states(&dir).len(), 0);
    }
}

#[test]
fn a_request_that_the_topic_may_have_forgotten_is_not_sent_again() {
    let (dir, path) = place("{\"value\":1}\n{\"value\":2}\n");
    let (fake, store) = serve_with_window(1, &[Fate::LostAfter]);
    let ended = produce(&fake, &dir, &path);
    let text = ended.failed();
    let doubt = format!("quipu: lines 1-2 of {path} may or may not be stored: they were first sent ");
    assert!(text.starts_with(&doubt), "{text}");
    let window = "topic t recognizes a repeated request for 1 ms (dedupe_window_ms)";
    assert!(text.contains(window), "{text}");
    assert!(text.contains("from 1 on, or from 3 if they are there"), "{text}");

    // The next run remembers it, and says the same without sending anything.
    let again = without_notes(produce(&fake, &dir, &path));
    assert!(again.failed().starts_with(&doubt), "{}", again.err);
    assert_eq!((fake.requests().len(), store.lock().unwrap().lines.len()), (1, 2));

    produce(&fake, &dir, &format!("{path} --restart")).ok();
    assert_eq!(store.lock().unwrap().lines.len(), 4, "the user asked for it");
    assert_eq!(states(&dir).len(), 0);
}

/// Removes the lines that only report progress.
fn without_notes(mut ended: Ended) -> Ended {
    let is_note = |line: &str| line.contains("; trying again") || line.contains("continuing the load");
    let rest: Vec<&str> = ended.err.lines().filter(|line| !is_note(line)).collect();
    ended.err = format!("{}\n", rest.join("\n"));
    ended
}

const BAD_LINE: &str =
    r#""code":"invalid-request","detail":"not JSON","line":3,"accepted":1,"outcome":"partial""#;

#[test]
fn a_bad_line_is_named_as_the_file_counts_it_and_the_corrected_file_continues_there() {
    let (dir, path) = place("\n{\"value\":1}\nnonsense\n{\"value\":3}\n");
    let ended = produce(&refusing(400, BAD_LINE), &dir, &path);
    let problem = "invalid-request: not JSON; 1 record was stored";
    let again = "correct the line, then run the same command again to continue there";
    ended.fails_as(&format!("quipu: line 3 of {path}: {problem}; {again}\n"));
    file(&dir, "f", "\n{\"value\":1}\n{\"value\":2}\n{\"value\":3}\n");
    let (fake, store) = serve(&[]);
    let ended = produce(&fake, &dir, &path);
    let note = "stopped at line 3; the file has changed since";
    assert!(ended.err.contains(note), "{}", ended.err);
    let text = ended.ok();
    assert!(text.contains("after 1 record of earlier runs"), "{text}");
    check_whole(&store, b"{\"value\":2}\n{\"value\":3}\n");
    let key = fake.requests()[0].header("idempotency-key").unwrap().to_owned();
    let is_another = key.ends_with("-2");
    assert!(is_another, "not the request that failed: {key}");
}

#[test]
fn a_file_whose_stored_lines_have_changed_is_not_continued() {
    let (dir, path) = place("{\"value\":1}\nnonsense\n");
    let second = r#""code":"invalid-request","line":2,"accepted":1,"outcome":"partial""#;
    produce(&refusing(400, second), &dir, &path).failed();
    let (fake, _) = serve(&[]);
    for other in ["{\"value\":9}\n{\"value\":2}\n", "{\"value\": 1}\n", ""] {
        file(&dir, "f", other);
        without_notes(produce(&fake, &dir, &path))
            .fails_with(&format!("the first line of {path} is not what"));
    }
    assert_eq!(fake.requests().len(), 0);
    // The line is the same with and without its break.
    file(&dir, "f", "{\"value\":1}");
    produce(&fake, &dir, &path).ok();
    let left = (fake.requests().len(), states(&dir).len());
    assert_eq!(left, (0, 0), "nothing is left to do");
}

#[test]
fn other_options_another_file_and_an_unreadable_state_stop_a_load_until_it_is_forgotten() {
    let (dir, path) = place(numbered());
    kill_at(&dir, &path, 2, true, &Arc::default());
    let (fake, store) = serve(&[]);
    let ended = produce(&fake, &dir, &format!("{path} --raw"));
    ended.fails_with("stopped at line ");
    ended.fails_with("with no such options");
    file(&dir, "f", "{}\n");
    let ended = produce(&fake, &dir, &path);
    ended.fails_with("has changed since its load into topic t stopped");
    assert_eq!(fake.requests().len(), 0);
    // Nothing is forgotten, and no lock is left behind.
    let state = &states(&dir)[..];
    assert_eq!(state.len(), 1);

    std::fs::write(&state[0], "{").unwrap();
    let ended = produce(&fake, &dir, &path);
    ended.fails_with(state[0].to_str().unwrap());
    ended.fails_with("--restart forgets it");
    produce(&fake, &dir, &format!("{path} --restart")).ok();
    assert_eq!(store.lock().unwrap().lines.len(), 1);
}

#[test]
fn two_runs_of_one_load_are_one_too_many() {
    let (dir, path) = place("{\"value\":1}\n");
    let (fake, arrival, go_on) = holding();
    let running = start(&fake, &dir, &path);
    arrival.recv().unwrap();
    let (other, _) = serve(&[]);
    let ended = produce(&other, &dir, &path);
    let busy = format!(
        "quipu: this load is running already (process {}): {path} into topic t;",
        running.child.id()
    );
    assert!(ended.failed().starts_with(&busy), "{}", ended.err);
    go_on.send(()).unwrap();
    running.end().ok();
    assert_eq!(other.requests().len(), 0);
}

const NOT_SAVED: &str = "quipu: cannot save the progress of this load (";

#[test]
fn a_state_that_cannot_be_saved_is_a_note_and_the_load_continues_without() {
    let (dir, path) = place("{\"value\":1}\n");
    file(&dir, "state", "no directory");
    let (fake, store) = serve(&[Fate::LostAfter]);
    let first = produce(&fake, &dir, &path);
    assert!(first.err.starts_with(NOT_SAVED), "{}", first.err);
    first.ok();
    assert_eq!(store.lock().unwrap().lines.len(), 1);
    let mut command = quipu(&format!("produce t {path} --server {}", fake.url));
    let without = ended(command.env_remove("XDG_STATE_HOME").env_remove("HOME"));
    let is_said = without.err.contains("neither XDG_STATE_HOME nor HOME is set");
    assert!(is_said, "{}", without.err);
    without.ok();
}

#[test]
fn a_state_that_can_no_longer_be_written_does_not_outlive_its_load() {
    let (dir, path) = place(numbered());
    let loads = dir.path().join("state/quipu/loads");
    let fake = Fake::of_topic(move |request, before| {
        if before == 0 {
            // A directory in place of the new file makes each write fail, as if the disk were full from now on.
            let files = std::fs::read_dir(&loads).unwrap();
            let mut rows = files.map(|entry| entry.unwrap().path());
            let state = rows.find(|path| is_state(path)).unwrap();
            std::fs::create_dir(state.with_extension("new")).unwrap();
        }
        stored(request.lines())
    });
    let ended = produce(&fake, &dir, &path);
    assert_eq!(fake.requests().len(), 3);
    assert!(ended.err.starts_with(NOT_SAVED), "{}", ended.err);
    assert_eq!(ended.err.lines().count(), 1, "said once: {}", ended.err);
    ended.ok();
    // The load is done.
    assert!(!states(&dir).iter().any(|path| is_state(path)));
}

#[test]
fn a_load_that_is_not_remembered_promises_nothing_when_it_is_cut() {
    let (dir, path) = place("\n{\"value\":1}\nnonsense\n");
    produce(&refusing(400, r#""code":"x","outcome":"partial""#), &dir, &path);
    let name = states(&dir).pop().unwrap();
    std::fs::remove_file(&name).unwrap();
    std::fs::create_dir(name.with_extension("new")).unwrap();
    let ended = produce(&refusing(400, BAD_LINE), &dir, &path);
    let end = format!("quipu: line 3 of {path}: invalid-request: not JSON; 1 record was stored\n");
    assert!(ended.err.ends_with(&end), "{}", ended.err);
}

#[test]
fn a_named_pipe_that_nobody_writes_does_not_hold_up_the_end() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("pipe").to_str().unwrap().to_owned();
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let (described, description) = std::sync::mpsc::channel();
    let fake = Fake::start(move |_, _| {
        let _ = described.send(());
        let config = r#"{"dedupe_window_ms":{"value":1}}"#;
        fine(format!(
            r#"{{"name":"t","id":"fake-1","partition_count":1,"config":{config}}}"#
        ))
    });
    let mut command = command(&format!("produce t {path} --server {}", fake.url));
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    description.recv().unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || ended.send(Ended::from(child.wait_with_output().unwrap())));
    match end.recv_timeout(Duration::from_secs(60)) {
        Ok(ended) => drop(ended.ok()),
        Err(_) => {
            kill_process(pid, Signal::KILL).unwrap();
            panic!("it is still waiting for somebody to write");
        }
    }
}

#[test]
fn a_load_that_is_named_is_the_same_load_from_a_pipe_too() {
    let content = numbered();
    let (dir, path) = place(&content);
    let (fake, store) = serve(&[]);
    let named = "--idempotency-key load-7";
    produce(&fake, &dir, &format!("{named} {path}")).ok();
    produce_from(&fake, &dir, named, content.clone()).ok();
    let requests = fake.requests();
    let rows = requests.iter();
    let keys = rows.filter_map(|request| request.header("idempotency-key"));
    let expected = ["load-7-1", "load-7-2", "load-7-3"].repeat(2);
    assert_eq!(keys.collect::<Vec<_>>(), expected);
    check_whole(&store, &content);
    assert_eq!(states(&dir).len(), 0, "and nothing is kept outside");

    let ended = produce_from(&fake, &dir, named, b"{}\n".to_vec());
    let expected = "idempotency-key-reused: another body; the key names other records";
    assert!(ended.failed().contains(expected), "{}", ended.err);
}

#[test]
fn a_load_of_which_nothing_was_stored_is_no_load() {
    let (dir, path) = place("{\"value\":1}\n");
    let fake = refusing(413, r#""code":"record-too-large","outcome":"none""#);
    produce(&fake, &dir, &path).failed();
    assert_eq!(states(&dir).len(), 0);
}
