//! The place of a torture test: a directory that is removed afterwards, and servers that die with the test.
//!
//! Everything lies in `target/tmp/torture-{process}-{number}` (or under `QUIPU_TEST_DIR`). A test that ends removes its
//! directory; the next test removes what a killed one left. Servers are started by `setpriv --pdeathsig KILL`, so that
//! none outlives its test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Answer, PATIENCE, Server, skipped};

/// Small files, so that segments roll, journal files are recycled and retention deletes all the time.
pub const SMALL: &[(&str, &str)] = &[
    ("QUIPU_JOURNAL_FILE_BYTES", "4194304"),
    ("QUIPU_MAX_REQUEST_BYTES", "2097152"),
    ("QUIPU_RETENTION_INTERVAL_MS", "20"),
    ("QUIPU_MAX_OPEN_SEGMENTS", "16"),
    ("QUIPU_LOG_LEVEL", "warn"),
    ("QUIPU_KAFKA_LISTEN", "127.0.0.1:0"),
];

/// A directory of this test's own.
pub struct Ground {
    dir: PathBuf,
}

impl Ground {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let root = std::env::var_os("QUIPU_TEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
        fs::create_dir_all(&root).expect("the directory for tests can be made");
        for entry in fs::read_dir(&root).expect("it was made").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let process = name
                .strip_prefix("torture-")
                .and_then(|rest| rest.split('-').next());
            if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = root.join(format!("torture-{}-{number}", std::process::id()));
        fs::create_dir(&dir).expect("it is this process's own");
        Self { dir }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Starts the server; `Err` with its log if it ends before it is ready.
    pub fn try_start(&self, data: &Path, inject: Option<&Injection>) -> Result<Server, String> {
        self.try_start_with(data, inject, &[])
    }

    fn try_start_with(
        &self,
        data: &Path,
        inject: Option<&Injection>,
        settings: &[(&str, &str)],
    ) -> Result<Server, String> {
        // Emptied, not removed: it may be a link to another disk.
        let _ = fs::write(data.with_extension("log"), b"");
        let mut words: Vec<String> = Vec::new();
        if *HAS_SETPRIV {
            words.extend(["setpriv", "--pdeathsig", "KILL"].map(str::to_owned));
        }
        if let Some(inject) = inject {
            let _ = fs::remove_file(self.trace());
            words.extend(["strace", "-D", "-f", "-y", "-qq"].map(str::to_owned));
            if !inject.action.contains("signal") {
                words.push("--seccomp-bpf".into());
            }
            words.extend(inject.arguments());
            words.extend(["-o".into(), self.trace().display().to_string()]);
        }
        words.push(env!("CARGO_BIN_EXE_quipu").into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(SMALL.iter().copied());
        command.envs(settings.iter().copied());
        Server::try_start(data, command)
    }

    pub fn start(&self, data: &Path) -> Server {
        self.start_with(data, &[])
    }

    /// The same with settings, named as in the environment.
    pub fn start_with(&self, data: &Path, settings: &[(&str, &str)]) -> Server {
        self.try_start_with(data, None, settings)
            .unwrap_or_else(|log| panic!("no start; the log says:\n{log}"))
    }

    /// Attaches strace to one thread of a running server, or to all its threads.
    pub fn attach(&self, server: &Server, thread: Option<&str>, inject: &Injection) -> Tracer {
        let _ = fs::remove_file(self.trace());
        let task = thread.map_or(server.pid(), |thread| thread_of(server.pid(), thread));
        let mut command = Command::new("strace");
        if thread.is_none() {
            command.arg("-f");
        }
        let child = command
            .args(["-y", "-qq"])
            .args(inject.arguments())
            .args(["-p", &task.to_string(), "-o"])
            .arg(self.trace())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace was there before");
        let mut tracer = Tracer { child };
        until("strace is attached", || {
            // If this fails, strace has ended.
            assert!(tracer.child.try_wait().expect("our child").is_none());
            let tasks = Path::new("/proc").join(server.pid().to_string()).join("task");
            let mut names = names(&tasks);
            names.retain(|name| thread.is_none() || *name == task.to_string());
            names.into_iter().all(|name| {
                let status = fs::read_to_string(tasks.join(name).join("status")).unwrap_or_default();
                let mut lines = status.lines();
                lines.any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
            })
        });
        tracer
    }

    fn trace(&self) -> PathBuf {
        self.dir.join("trace")
    }

    /// The lines of strace about injected calls: these were not carried out.
    pub fn injected(&self) -> Vec<String> {
        let text = fs::read(self.trace()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines();
        lines
            .clone()
            .filter(|line| line.ends_with("(INJECTED)") || line.ends_with(" = ?"))
            .map(|line| {
                // If another thread's call came between, the beginning and the end of a call are on two lines.
                let begun = line.split_once(" <... ").and_then(|(thread, _)| {
                    let is_begun =
                        |line: &&str| line.starts_with(thread) && line.ends_with("<unfinished ...>");
                    lines.clone().rfind(is_begun)
                });
                format!("{}{line}", begun.unwrap_or_default())
            })
            .collect()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("QUIPU_TEST_KEEP").is_some() {
            println!("kept for a look: {}", self.dir.display());
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// What strace does to a process.
#[derive(Clone, Debug)]
pub struct Injection {
    /// Names of system calls, separated by commas.
    pub calls: String,
    /// `signal=KILL` or `error=…`.
    pub action: String,
    /// The number of the call, counted by thread; with a plus, that call and all that follow.
    pub when: String,
    /// If not empty, only calls on these files.
    pub paths: Vec<PathBuf>,
}

impl Injection {
    pub fn new(calls: &str, action: &str, when: impl Into<String>) -> Self {
        Self {
            calls: calls.into(),
            action: action.into(),
            when: when.into(),
            paths: Vec::new(),
        }
    }

    pub fn on(mut self, paths: Vec<PathBuf>) -> Self {
        self.paths = paths;
        self
    }

    fn arguments(&self) -> Vec<String> {
        // Calls that this architecture does not have are fine.
        let calls: Vec<String> = self.calls.split(',').map(|call| format!("?{call}")).collect();
        let calls = calls.join(",");
        let inject = format!("inject={calls}:{}:when={}", self.action, self.when);
        let mut arguments = vec!["-e".into(), format!("trace={calls}"), "-e".into(), inject];
        for path in &self.paths {
            arguments.extend(["-P".into(), path.display().to_string()]);
        }
        arguments
    }
}

/// A strace that is attached to a thread; it detaches when dropped.
pub struct Tracer {
    child: Child,
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number of a thread by its name, which Linux cuts after 15 bytes.
fn thread_of(process: u32, name: &str) -> u32 {
    let name = &name[..name.len().min(15)];
    let tasks = Path::new("/proc").join(process.to_string()).join("task");
    let mut found = None;
    // A thread sets its name some time after it has started.
    until("the thread has its name", || {
        found = names(&tasks).into_iter().find(|task| {
            let comm = fs::read_to_string(tasks.join(task).join("comm")).unwrap_or_default();
            comm.trim_end() == name
        });
        found.is_some()
    });
    let number = found.expect("it was found").parse();
    number.expect("a task's directory is a number")
}

/// The names in a directory, in no order.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory that is there").flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// One request with JSON, on a connection of its own.
pub fn request(server: &Server, method: &str, path: &str, body: &str) -> Answer {
    let mut connection = server.connect();
    connection.call(method, path, "application/json", body.as_bytes())
}

/// Whether strace can inject here; prints a message if it cannot.
pub static HAS_STRACE: LazyLock<bool> = LazyLock::new(|| {
    let works = runs("strace -D -f -qq -o /dev/null -e inject=getppid:error=EIO true");
    if !works {
        skipped("strace does not work here, so no call is made to fail and no kill is aimed");
    }
    works
});

static HAS_SETPRIV: LazyLock<bool> = LazyLock::new(|| runs("setpriv --pdeathsig KILL true"));

/// Whether this command can be started and succeeds.
fn runs(words: &str) -> bool {
    let mut words = words.split(' ');
    let output = Command::new(words.next().expect("a program"))
        .args(words)
        .output();
    output.is_ok_and(|output| output.status.success())
}

/// Waits for a condition, with a limit that only ends a test that hangs.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// `quipu verify` finds nothing.
pub fn verify(data: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quipu"));
    let output = command.arg("verify").arg(data).output().expect("it starts");
    let said = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "quipu verify: {text}");
}
