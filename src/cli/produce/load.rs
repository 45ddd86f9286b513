//! The saved state of `quipu produce FILE`: how far the load is, and the key of its next request.
//!
//! A load is one file into one topic. Its state is a small JSON file in `$XDG_STATE_HOME/quipu/loads`, replaced as a
//! whole (and synced) before each request is sent, and removed when the load is done. A later run of the same command
//! skips the acknowledged lines, and sends the request in doubt under its old key: the input's bytes alone decide where
//! requests end, so it is the same request. A state older than the truth does no harm: the server repeats the answers
//! of later requests. A lock file beside it is held while the load runs, and removed with it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cli::files;
use crate::cli::output::millis;

/// The only version of the state's format that this program writes and reads.
const VERSION: u32 = 1;
/// A state has some hundred bytes; a larger file is none.
const MAX_STATE_BYTES: u64 = 1 << 20;
/// The bound on the counts of a state: a wrong one must not overflow further counting.
const MAX_COUNT: u64 = 1 << 60;

/// The saved state of a load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    version: u32,
    /// The prefix of its requests' keys.
    pub(super) key: String,
    /// The server, for people: the topic's id identifies it.
    pub(super) server: String,
    pub(super) topic: String,
    /// The file as it was when the load began.
    pub(super) source: Source,
    /// The options that turn its lines into records and requests.
    pub(super) options: Vec<String>,
    /// The acknowledged part.
    pub(super) done: Done,
    /// When the next request may first have stored something, in milliseconds since the Unix epoch; none if it was not
    /// sent.
    sent_ms: Option<u64>,
}

/// A file's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Source {
    /// Its absolute path.
    pub(super) path: PathBuf,
    /// Its size in bytes, before decompression.
    pub(super) bytes: u64,
    /// When it was last changed, nanoseconds since the Unix epoch.
    modified_ns: i128,
}

/// The acknowledged beginning of a load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Done {
    /// Answered requests: the next one has the following number.
    pub(super) requests: u64,
    pub(super) lines: u64,
    pub(super) records: u64,
    /// CRC-32 of the sent lines: a file that has changed must still begin with them.
    pub(super) crc: u32,
    /// The number of these bytes.
    pub(super) bytes: u64,
}

impl Done {
    /// Counts lines as acknowledged.
    pub(super) fn add(&mut self, bytes: &[u8], lines: u64, records: u64) {
        self.look(bytes);
        self.lines += lines;
        self.records += records;
    }

    /// Adds these bytes to the checksum.
    pub(super) fn look(&mut self, bytes: &[u8]) {
        let mut crc = crc32fast::Hasher::new_with_initial_len(self.crc, self.bytes);
        crc.update(bytes);
        self.crc = crc.finalize();
        self.bytes += bytes.len() as u64;
    }
}

impl Source {
    /// The file at `path` now.
    /// Errors: The file's metadata cannot be read.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let path = fs::canonicalize(path)?;
        let metadata = fs::metadata(&path)?;
        Ok(Self {
            path,
            bytes: metadata.len(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        })
    }
}

impl State {
    /// A load without sent requests.
    pub(super) fn new(key: String, server: &str, topic: &str, source: Source, options: Vec<String>) -> Self {
        Self {
            version: VERSION,
            key,
            server: server.to_owned(),
            topic: topic.to_owned(),
            source,
            options,
            done: Done::default(),
            sent_ms: None,
        }
    }

    /// Since when the next request may have stored something.
    pub(super) fn doubt(&self) -> Option<SystemTime> {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(self.sent_ms?))
    }

    /// Notes since when the next request may have stored something.
    pub(super) fn set_doubt(&mut self, since: Option<SystemTime>) {
        self.sent_ms =
            since.map(|since| millis(since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()));
    }
}

/// Another process runs this load; in brackets which one, if it says so.
#[derive(Debug, thiserror::Error)]
#[error("this load is running already{0}")]
pub(super) struct Busy(String);

/// The place of a load's state, locked.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) path: PathBuf,
    lock_path: PathBuf,
    /// Held until the process ends.
    _lock: File,
}

/// `$XDG_STATE_HOME/quipu/loads`, or the same in `~/.local/state`; none if neither is known.
pub(super) fn directory() -> Option<PathBuf> {
    Some(files::directory("XDG_STATE_HOME", ".local/state")?.join("loads"))
}

impl Load {
    /// Locks the load of `source` into the topic with this id, and reads its saved state.
    /// Errors: [`Busy`], or a directory that cannot be used. With an error of the state the load is locked all the same, and can start
    /// again with [`Load::forget`].
    pub(super) fn open(
        directory: &Path,
        topic_id: &str,
        source: &Path,
    ) -> Result<(Self, Result<Option<State>>)> {
        let name = name(topic_id, source);
        let path = directory.join(format!("{name}.json"));
        let lock_path = directory.join(format!("{name}.lock"));
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        let _lock = lock(&lock_path)?;
        let load = Self {
            path,
            lock_path,
            _lock,
        };
        let state = load.read(source).with_context(|| load.path.display().to_string());
        Ok((load, state))
    }

    /// Replaces the saved state. A crash leaves the old or the new one.
    pub(super) fn save(&self, state: &State) -> Result<()> {
        let saved = files::replace(&self.path, "new", serde_json::to_string(state)?.as_bytes());
        saved.with_context(|| self.path.display().to_string())
    }

    /// Removes the state: the load is done, stored nothing, or starts again.
    pub(super) fn forget(&self) -> Result<()> {
        let removed = match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::open(self.path.parent().unwrap_or(&self.path)).and_then(|parent| parent.sync_all()),
        };
        removed.with_context(|| self.path.display().to_string())
    }

    fn read(&self, source: &Path) -> Result<Option<State>> {
        let mut text = String::new();
        match File::open(&self.path) {
            Ok(file) => file.take(MAX_STATE_BYTES).read_to_string(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let state: State = serde_json::from_str(&text).context("it does not say how far a load is")?;
        let (version, done, path) = (state.version, state.done, &state.source.path);
        let counts = [done.requests, done.lines, done.records, done.bytes];
        if version != VERSION {
            bail!("it is of version {version}, this quipu reads {VERSION}");
        }
        if counts.iter().any(|count| *count >= MAX_COUNT) {
            bail!("it counts more than any load has");
        }
        if path != source {
            bail!("it is of {}", path.display());
        }
        Ok(Some(state))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Still locked: a process that waits for the old file finds that its name has another file now.
        let _ = fs::remove_file(&self.lock_path);
    }
}

fn lock(path: &Path) -> Result<File> {
    loop {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.mode(0o600).open(path);
        let mut file = file.with_context(|| path.display().to_string())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut process = String::new();
                let _ = file.read_to_string(&mut process);
                bail!(Busy(match process.trim() {
                    "" => String::new(),
                    process => format!(" (process {process})"),
                }));
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| path.display().to_string()),
        }
        let held = file.metadata()?;
        let found = fs::metadata(path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == (held.dev(), held.ino())) {
            // For people, in the message above.
            let emptied = file.set_len(0);
            let _ = emptied.and_then(|()| writeln!(file, "{}", std::process::id()));
            return Ok(file);
        }
        // Its last holder has removed it since it was opened.
    }
}

/// The name of a load's files: the topic's id, and the FNV-1a hash of the path, which no update may change.
fn name(topic_id: &str, source: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let path = source.as_os_str().as_bytes();
    let hash = path.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    let topic: String = topic_id.chars().filter(is_plain).take(64).collect();
    format!("{topic}-{hash:016x}")
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn state(source: &Path) -> State {
        let (source, options) = (Source::of(source).unwrap(), vec!["--raw".to_owned()]);
        State::new("k".to_owned(), "http://s", "t", source, options)
    }

    fn place() -> (TempDir, PathBuf, PathBuf) {
        let dir = TempDir::new().unwrap();
        let file = fs::canonicalize(dir.path()).unwrap().join("file");
        fs::write(&file, "1\n").unwrap();
        let states = dir.path().join("a/b");
        (dir, file, states)
    }

    #[test]
    fn a_saved_load_is_found_until_it_is_forgotten() {
        let (_dir, file, states) = place();
        let mut saved = state(&file);
        saved.done.add(b"1\n", 1, 1);
        let doubt = Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_234));
        saved.set_doubt(doubt);
        {
            let (load, found) = Load::open(&states, "d-1", &file).unwrap();
            assert_eq!(found.unwrap(), None);
            load.save(&state(&file)).unwrap();
            load.save(&saved).unwrap();
        }
        let (load, found) = Load::open(&states, "d-1", &file).unwrap();
        let found = found.unwrap().unwrap();
        assert_eq!((&found, found.doubt()), (&saved, doubt));
        let (_other, other) = Load::open(&states, "d-2", &file).unwrap();
        assert_eq!(other.unwrap(), None, "another topic is another load");
        load.forget().unwrap();
        load.forget().unwrap();
        drop((load, _other));
        // Nothing is left behind.
        assert_eq!(fs::read_dir(&states).unwrap().count(), 0);
    }

    #[test]
    fn a_load_runs_once_at_a_time() {
        let (_dir, file, states) = place();
        let first = Load::open(&states, "d-1", &file).unwrap();
        let busy = Load::open(&states, "d-1", &file).unwrap_err();
        let Busy(process) = busy.downcast_ref().unwrap();
        assert_eq!(*process, format!(" (process {})", std::process::id()));
        drop(first);
        Load::open(&states, "d-1", &file).unwrap().1.unwrap();
    }

    #[test]
    fn an_unreadable_state_is_never_taken_for_a_missing_one() {
        let (_dir, file, states) = place();
        let (load, _) = Load::open(&states, "d-1", &file).unwrap();
        let good = serde_json::to_string(&state(&file)).unwrap();
        let other = good.replace("/file", "/elsewhere");
        let endless = good.replace("\"lines\":0", &format!("\"lines\":{}", u64::MAX));
        let (cut, newer) = (&good[..good.len() - 1], good.replace(":1,", ":2,"));
        for text in ["", "{}", "null", cut, &newer, &other, &endless] {
            fs::write(&load.path, text).unwrap();
            assert!(load.read(&file).is_err(), "{text}");
        }
        fs::write(&load.path, good).unwrap();
        assert!(load.read(&file).unwrap().is_some());
    }

    #[test]
    fn a_saved_checksum_continues() {
        let (mut parts, mut whole) = (Done::default(), Done::default());
        parts.look(b"one\n");
        parts.look(b"two\nthree\n");
        whole.look(b"one\ntwo\nthree\n");
        assert_eq!(parts, whole);
        assert_ne!(parts.crc, 0);
    }

    #[test]
    fn the_names_of_loads_are_the_same_for_ever() {
        let name = name("0123456789abcdef-2a", Path::new("/a/b"));
        assert_eq!(name, "0123456789abcdef-2a-363e289cb38ee0cc");
    }
}
