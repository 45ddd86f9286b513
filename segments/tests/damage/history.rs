//! Directories to damage: made once, and copied for each case.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quipu_segments::{Error, Log, Options, Partition};

use super::support::{self, NOW, change, of_parts, part, records, spec, store};

pub(crate) const PARTITIONS: [(&str, u32); 3] = [("orders", 0), ("orders", 1), ("flights", 0)];

fn options() -> Options {
    Options {
        journal_files: 3,
        max_request_bytes: 32 << 10,
        ..support::options()
    }
}

/// In memory if possible: there are many syncs, and they are not tested here.
pub(crate) fn temp() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a temporary directory")
}

/// The expected contents of a directory.
#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) records: BTreeMap<(&'static str, u32), Vec<Vec<u8>>>,
    pub(crate) state: Vec<u8>,
}

/// Directories as they were left at some moments of one history.
pub(crate) struct History {
    _dir: tempfile::TempDir,
    /// Closed cleanly, early on.
    pub(crate) early: PathBuf,
    /// Closed cleanly at the end.
    pub(crate) closed: PathBuf,
    /// The process was killed at the end: the last records are in the journal, and in the segments.
    pub(crate) killed: PathBuf,
    /// Another directory, killed.
    pub(crate) foreign: PathBuf,
    pub(crate) model: Model,
}

pub(crate) fn value(topic: &str, partition: u32, number: usize) -> Vec<u8> {
    // A different length in each partition, so that batches have different positions.
    format!(
        "{topic}/{partition}/{number:0width$}",
        width = 150 + 7 * partition as usize + topic.len()
    )
    .into_bytes()
}

pub(crate) fn append(
    log: &Log,
    partition: &Arc<Partition>,
    value: &[u8],
    state: Option<&[u8]>,
) -> Result<u64, Error> {
    let mut request = of_parts(vec![part(Arc::clone(partition), records(NOW, &[value]))]);
    request.state = state.map(|value| change("group", value)).into_iter().collect();
    Ok(store(log, request)?.base_offsets[0].get())
}

pub(crate) fn open(dir: &Path) -> Result<Log, Error> {
    Log::open(dir, options())
}

fn fill(log: &Log, model: &mut Model, count: usize) {
    for number in 0..count {
        for (topic, index) in PARTITIONS {
            if topic == "flights" && number % 3 > 0 {
                continue;
            }
            let partition = log.topic(topic).unwrap().partition(index).unwrap();
            let records = model.records.entry((topic, index)).or_default();
            let bytes = value(topic, index, records.len());
            model.state = format!("{topic} {}", records.len()).into_bytes();
            let offset = append(log, &partition, &bytes, Some(&model.state)).unwrap();
            assert_eq!(offset as usize, records.len());
            records.push(bytes);
        }
    }
}

fn make(dir: &Path) {
    let log = open(dir).unwrap();
    for (topic, partitions) in [("orders", 2), ("flights", 1)] {
        log.create_topic(topic, spec(partitions, 12 << 10)).unwrap();
    }
    log.close().unwrap();
}

impl History {
    pub(crate) fn new() -> Self {
        let dir = temp();
        let path = |name: &str| dir.path().join(name);
        let live = path("live");
        let mut model = Model::default();
        make(&live);
        let log = open(&live).unwrap();
        fill(&log, &mut model, 60);
        log.close().unwrap();
        drop(log);
        copy(&live, &path("early"));
        // Enough rounds for journal files to be reused: the rounds that the early checkpoint needs are gone.
        let log = open(&live).unwrap();
        fill(&log, &mut model, 60);
        // A new journal file with room for everything that follows: the spare one behind it proves that it existed.
        log.sync_segments().unwrap();
        fill(&log, &mut model, 12);
        drop(log);
        copy(&live, &path("killed"));
        let log = open(&live).unwrap();
        log.close().unwrap();
        drop(log);
        copy(&live, &path("closed"));
        let foreign = path("foreign");
        make(&foreign);
        let log = open(&foreign).unwrap();
        fill(&log, &mut Model::default(), 60);
        drop(log);
        Self {
            early: path("early"),
            closed: path("closed"),
            killed: path("killed"),
            foreign,
            model,
            _dir: dir,
        }
    }

    /// The two that are damaged.
    pub(crate) fn bases(&self) -> [&PathBuf; 2] {
        [&self.closed, &self.killed]
    }

    /// Whether a directory was left by a killed process: then the journal still has its last records.
    pub(crate) fn is_killed(&self, base: &Path) -> bool {
        base == self.killed
    }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    for (path, bytes) in contents(from) {
        let target = to.join(path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, bytes).unwrap();
    }
    // Directories without files are part of it.
    for name in ["journal", "staging", "deleted", "topics"] {
        fs::create_dir_all(to.join(name)).unwrap();
    }
}

/// Every file with its bytes, by its path in the directory.
pub(crate) fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                found.insert(
                    path.strip_prefix(root).unwrap().to_path_buf(),
                    fs::read(&path).unwrap(),
                );
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, dir, &mut found);
    found
}
