//! Damage at rest, systematically: every kind of file × every kind of damage × places in it.
//!
//! Each case damages a copy of a directory that was made once, and then asks of everything that follows:
//! - `verify` changes nothing, and calls it damage if (and only if) records are lost;
//! - the log opens, or refuses by name where nothing else is right;
//! - what is read is what was written, at its offset; what is lost is only what may be, and is reported by its range,
//!   while the log is open and in what it says of its health;
//! - appends go on, at an offset that was never given;
//! - a second start finds no more lost than the first, and the damaged bytes are still there;
//! - `repair` loses nothing, mends what it says, and has nothing to do the second time.

#![allow(clippy::disallowed_methods, reason = "tests damage files on purpose")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quipu_segments::batch::{BatchBuilder, Batches, Records as BatchRecords};
use quipu_segments::{
    AppendRequest, Error, Log, Offset, Options, Part, Partition, ReadRequest, Records, StateChange,
    TimestampMs, TopicSettings, TopicSpec, repair, verify,
};

const JOURNAL_BYTES: u64 = 256 << 10;
const PARTITIONS: [(&str, u32); 3] = [("orders", 0), ("orders", 1), ("flights", 0)];

/// Offsets, by partition, that a case may lose.
type Lost = BTreeMap<(&'static str, u32), BTreeSet<u64>>;

fn options() -> Options {
    Options {
        journal_file_bytes: JOURNAL_BYTES,
        max_request_bytes: 32 << 10,
        background: false,
        ..Options::default()
    }
}

/// In memory where that is possible: syncs are not what is tested here, and there are many.
fn temp() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a temporary directory")
}

/// What is in a directory.
#[derive(Clone, Default)]
struct Model {
    records: BTreeMap<(&'static str, u32), Vec<Vec<u8>>>,
    state: Vec<u8>,
}

/// Directories as they were left at some moments of one history.
struct History {
    _dir: tempfile::TempDir,
    /// Closed cleanly, early on.
    early: PathBuf,
    /// Closed cleanly at the end.
    closed: PathBuf,
    /// The process was killed at the end: the last records are in the journal, and in the segments.
    killed: PathBuf,
    /// Another directory, killed.
    foreign: PathBuf,
    model: Model,
}

fn value(topic: &str, partition: u32, number: usize) -> Vec<u8> {
    // Of a different length in each partition, so that batches lie elsewhere.
    format!(
        "{topic}/{partition}/{number:0width$}",
        width = 150 + 7 * partition as usize + topic.len()
    )
    .into_bytes()
}

fn append(log: &Log, partition: &Arc<Partition>, value: &[u8], state: Option<&[u8]>) -> Result<u64, Error> {
    let mut builder = BatchBuilder::new();
    builder.push(TimestampMs(1), None, Some(value), &[]);
    let part = Part {
        partition: Arc::clone(partition),
        records: Records::Loose(builder),
        expected_offset: None,
        json_lines: false,
    };
    let state = state.map(|value| StateChange {
        key: b"group".to_vec(),
        value: Some(value.to_vec()),
    });
    let ticket = log.append(AppendRequest {
        parts: vec![part],
        state: state.into_iter().collect(),
        ..Default::default()
    })?;
    log.run_round()?;
    Ok(ticket.wait()?.base_offsets[0].get())
}

fn open(dir: &Path) -> Result<Log, Error> {
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
        let settings = TopicSettings {
            segment_bytes: 12 << 10,
            ..TopicSettings::default()
        };
        let spec = TopicSpec {
            partitions,
            settings,
            properties: BTreeMap::new(),
        };
        log.create_topic(topic, spec).unwrap();
    }
    log.close().unwrap();
}

impl History {
    fn new() -> Self {
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
        // Long enough for journal files to be used again: what is in an early checkpoint's reach is gone.
        let log = open(&live).unwrap();
        fill(&log, &mut model, 60);
        // A new file, and room in it for all that follows: the spare one behind it proves that it is there.
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
}

fn copy(from: &Path, to: &Path) {
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
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
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

/// The offsets that cannot be read, each checked to be named by an error; the rest is compared with the model.
fn read(log: &Log, model: &Model, problems: &mut Vec<String>) -> Lost {
    let mut lost = Lost::new();
    for (key, records) in &model.records {
        let (topic, index) = *key;
        let missing = lost.entry(*key).or_default();
        let Some(partition) = log.topic(topic).and_then(|topic| topic.partition(index)) else {
            missing.extend(0..records.len() as u64);
            continue;
        };
        let end = partition.positions().end_offset;
        if end.get() < records.len() as u64 {
            problems.push(format!("{topic}/{index} ends at {end}, not at {}", records.len()));
        }
        let mut from = partition.positions().log_start_offset;
        if from > Offset::ZERO {
            problems.push(format!("{topic}/{index} begins at {from}"));
        }
        while from < end {
            let request = ReadRequest {
                from,
                until: None,
                max_bytes: 1000,
            };
            match partition.read(request) {
                Ok(fetched) => {
                    let mut expected = from.get();
                    for run in &fetched.runs {
                        for batch in Batches::new(&run.bytes) {
                            for record in BatchRecords::new(batch.unwrap().1).unwrap() {
                                let record = record.unwrap();
                                let offset = record.offset.get();
                                if offset < from.get() {
                                    continue;
                                }
                                if offset != expected {
                                    problems
                                        .push(format!("{topic}/{index}: {offset} follows, not {expected}"));
                                }
                                expected = offset + 1;
                                let written = records.get(offset as usize).map(|value| &value[..]);
                                if written.is_some() && record.value != written {
                                    problems
                                        .push(format!("{topic}/{index}: offset {offset} is another record"));
                                }
                            }
                        }
                    }
                    if fetched.next_offset <= from {
                        problems.push(format!("{topic}/{index}: stuck at {from}"));
                        break;
                    }
                    from = fetched.next_offset;
                }
                Err(Error::Damaged {
                    damaged_from,
                    damaged_until,
                    ..
                }) => {
                    if damaged_from > from || damaged_until <= from || damaged_until > end {
                        problems.push(format!(
                            "{topic}/{index}: a read at {from} names {damaged_from} to {damaged_until} of {end}"
                        ));
                        break;
                    }
                    missing.extend(from.get()..damaged_until.get());
                    from = damaged_until;
                }
                Err(other) => {
                    problems.push(format!("{topic}/{index}: {other}"));
                    break;
                }
            }
        }
        // Health knows the same.
        let known: BTreeSet<u64> = partition
            .damaged_ranges()
            .iter()
            .flat_map(|range| range.from.get()..range.until.get())
            .collect();
        if known != *missing {
            problems.push(format!(
                "{topic}/{index}: lost {missing:?}, and known to be lost {known:?}"
            ));
        }
    }
    lost.retain(|_, offsets| !offsets.is_empty());
    lost
}

/// What is expected of a case.
#[derive(Clone, Default)]
struct Expect {
    /// Offsets that may be lost.
    may_lose: Lost,
    /// The state may be lost.
    may_lose_state: bool,
    /// `verify` has nothing to say, or only what a crash leaves.
    is_harmless: bool,
    /// A topic that may not be served.
    not_served: Option<&'static str>,
    /// A file whose damaged bytes must be found after opening: in place, or aside.
    evidence: Option<PathBuf>,
}

/// Runs one case; returns what is wrong.
fn run(base: &Path, model: &Model, expect: &Expect, damage: &dyn Fn(&Path)) -> Vec<String> {
    let dir = temp();
    let dir = dir.path();
    copy(base, dir);
    damage(dir);
    let mut problems = Vec::new();
    let before = contents(dir);
    let verified = verify(dir, &mut |_| {});
    if contents(dir) != before {
        problems.push("verify has changed something".into());
    }
    let evidence = expect.evidence.as_ref().and_then(|path| before.get(path));

    let repaired = temp();
    let repaired = repaired.path();
    let is_repaired = verified
        .as_ref()
        .is_ok_and(|verified| !verified.findings.is_empty());
    if is_repaired {
        copy(dir, repaired);
    }

    let log = match open(dir) {
        Ok(log) => log,
        Err(error) => {
            problems.push(format!("does not open: {error}"));
            return problems;
        }
    };
    let lost = read(&log, model, &mut problems);
    for ((topic, index), offsets) in &lost {
        let allowed = expect.may_lose.get(&(*topic, *index));
        let is_allowed = |offset: &u64| allowed.is_some_and(|allowed| allowed.contains(offset));
        if expect.not_served != Some(*topic) && !offsets.iter().all(is_allowed) {
            problems.push(format!(
                "{topic}/{index} has lost {offsets:?}, and may lose {allowed:?}"
            ));
        }
    }
    let state = log.state_get(b"group");
    if !expect.may_lose_state && state.as_deref() != Some(&model.state[..]) {
        problems.push(format!(
            "the state went back to {:?}",
            state.clone().map(|s| String::from_utf8_lossy(&s).into_owned())
        ));
    }
    let health = log.health();
    let is_whole = lost.is_empty() && state.as_deref() == Some(&model.state[..]);
    match &verified {
        Ok(verified) => {
            let found = verified
                .findings
                .iter()
                .any(|finding| finding.is_damage || finding.is_fault);
            if !found && !expect.is_harmless {
                problems.push(format!("verify finds nothing: {:?}", verified.findings));
            }
            if !is_whole && !verified.is_damaged() {
                problems.push(format!("records are lost, verify says {:?}", verified.findings));
            }
            for finding in &verified.findings {
                if finding.advice.is_empty() {
                    problems.push(format!("no advice: {finding:?}"));
                }
            }
        }
        Err(error) => problems.push(format!("verify: {error}")),
    }
    if !is_whole && health.damage.is_empty() && health.damaged_ranges.is_empty() {
        problems.push("records are lost, and health says nothing".into());
    }
    if let Some(evidence) = evidence {
        let kept = contents(dir).values().any(|bytes| bytes.starts_with(evidence));
        if !is_whole && !kept {
            problems.push(format!("the damaged bytes of {:?} are gone", expect.evidence));
        }
    }
    // Appends go on.
    let mut longer = model.clone();
    for (topic, index) in PARTITIONS {
        let Some(partition) = log.topic(topic).and_then(|topic| topic.partition(index)) else {
            continue;
        };
        let records = longer.records.get_mut(&(topic, index)).unwrap();
        let bytes = value(topic, index, records.len());
        match append(&log, &partition, &bytes, None) {
            Ok(offset) if offset == records.len() as u64 => records.push(bytes),
            Ok(offset) => problems.push(format!("{topic}/{index}: appended at {offset}")),
            Err(error) => problems.push(format!("{topic}/{index}: an append failed: {error}")),
        }
    }
    let lost_then = read(&log, &longer, &mut problems);
    drop(log);
    // Killed, and started again.
    {
        match open(dir) {
            Ok(log) => {
                let lost_now = read(&log, &longer, &mut problems);
                let more = lost_now
                    .iter()
                    .any(|(key, offsets)| lost_then.get(key).is_none_or(|then| !offsets.is_subset(then)));
                if more {
                    problems.push(format!(
                        "the next start has lost more: {lost_now:?}, not {lost_then:?}"
                    ));
                }
                if log.state_get(b"group") != state {
                    problems.push("the state is another at the next start".into());
                }
                log.close().unwrap();
            }
            Err(error) => problems.push(format!("does not open again: {error}")),
        }
    }

    if !is_repaired {
        return problems;
    }
    // Repair loses nothing, and has nothing to do the second time.
    match repair(repaired, &mut |_| {}) {
        Ok(first) => {
            match repair(repaired, &mut |_| {}) {
                Ok(second) if second.mended.is_empty() && second.verified == first.verified => {}
                Ok(second) => problems.push(format!("repaired again: {:?}", second.mended)),
                Err(error) => problems.push(format!("repairing again: {error}")),
            }
            if lost.is_empty() && first.verified.findings.iter().any(|finding| finding.is_fault) {
                problems.push(format!("repair left {:?}", first.verified.findings));
            }
        }
        Err(error) => problems.push(format!("repair: {error}")),
    }
    match open(repaired) {
        Ok(log) => {
            let lost_now = read(&log, model, &mut problems);
            let more = lost_now
                .iter()
                .any(|(key, offsets)| lost.get(key).is_none_or(|then| !offsets.is_subset(then)));
            if more {
                problems.push(format!("repair has lost {lost_now:?}, without it {lost:?}"));
            }
            if log.state_get(b"group") != state {
                problems.push("repair has changed the state".into());
            }
        }
        Err(error) => problems.push(format!("does not open after repair: {error}")),
    }
    problems
}

/// Cases with their names; all are run, and all that are wrong are shown.
struct Cases<'a> {
    history: &'a History,
    failed: Vec<String>,
    count: usize,
}

impl<'a> Cases<'a> {
    fn new(history: &'a History) -> Self {
        Self {
            history,
            failed: Vec::new(),
            count: 0,
        }
    }

    fn case(&mut self, base: &Path, name: &str, expect: &Expect, damage: &dyn Fn(&Path)) {
        self.count += 1;
        let problems = run(base, &self.history.model, expect, damage);
        if !problems.is_empty() {
            let base = base.file_name().unwrap().to_string_lossy().into_owned();
            let failed = format!("{base}, {name}:\n    {}", problems.join("\n    "));
            eprintln!("{failed}");
            self.failed.push(failed);
        }
    }

    #[track_caller]
    fn end(self, least: usize) {
        assert!(
            self.failed.is_empty(),
            "{} of {} cases failed\n{}",
            self.failed.len(),
            self.count,
            self.failed.join("\n")
        );
        assert!(self.count >= least, "only {} cases were run", self.count);
    }
}

fn files(base: &Path, extension: &str) -> Vec<PathBuf> {
    contents(base)
        .into_keys()
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}

/// The first and the last file of each partition: a sealed segment, and the active one.
fn ends(files: Vec<PathBuf>) -> Vec<PathBuf> {
    let is_end = |at: usize| {
        let dir = |path: Option<&PathBuf>| path.and_then(|path| path.parent().map(Path::to_path_buf));
        let own = dir(files.get(at));
        dir(at.checked_sub(1).and_then(|at| files.get(at))) != own || dir(files.get(at + 1)) != own
    };
    (0..files.len())
        .filter(|at| is_end(*at))
        .map(|at| files[at].clone())
        .collect()
}

fn change(dir: &Path, path: &Path, with: impl Fn(&mut Vec<u8>)) {
    let path = dir.join(path);
    let mut bytes = fs::read(&path).unwrap();
    with(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// A kind of damage within a file.
type Harm = Box<dyn Fn(&mut Vec<u8>)>;

/// Kinds of damage at places of a file of so many bytes, each with the bytes that it touches.
fn harms(length: usize, bits: &[usize]) -> Vec<(String, std::ops::Range<usize>, Harm)> {
    let mut all: Vec<(String, std::ops::Range<usize>, Harm)> = Vec::new();
    for &at in bits {
        if at < length {
            let flip = move |bytes: &mut Vec<u8>| bytes[at] ^= 1 << (at % 8);
            all.push((format!("bit flipped at {at}"), at..at + 1, Box::new(flip)));
        }
    }
    let mut blocks = vec![
        0,
        length / 2 / 4096 * 4096,
        length.saturating_sub(1) / 4096 * 4096,
    ];
    blocks.dedup();
    for start in blocks {
        let end = (start + 4096).min(length);
        let zero = move |bytes: &mut Vec<u8>| bytes[start..end].fill(0);
        all.push((format!("zeroed {start}..{end}"), start..end, Box::new(zero)));
    }
    for cut in [0, length / 2, length.saturating_sub(1)] {
        let truncate = move |bytes: &mut Vec<u8>| bytes.truncate(cut);
        all.push((format!("cut to {cut}"), cut..length, Box::new(truncate)));
    }
    all
}

/// The offsets of the batches of a log file that meet a range of bytes.
fn offsets_in(bytes: &[u8], range: &std::ops::Range<usize>) -> BTreeSet<u64> {
    let mut position = 0;
    let mut offsets = BTreeSet::new();
    for batch in Batches::new(bytes) {
        let (header, batch) = batch.unwrap();
        let end = position + batch.len();
        if position < range.end && end > range.start {
            offsets.extend(header.base_offset.get()..header.next_offset().get());
        }
        position = end;
    }
    offsets
}

/// The partition of a file, by its path.
fn partition_of(path: &Path) -> (&'static str, u32) {
    let parts: Vec<&str> = path.iter().map(|part| part.to_str().unwrap()).collect();
    let topic = if parts[1] == "orders" { "orders" } else { "flights" };
    (topic, parts[2].parse().unwrap())
}

#[test]
fn the_directories_are_what_the_cases_need() {
    let history = History::new();
    for base in [&history.closed, &history.killed] {
        let problems = run(
            base,
            &history.model,
            &Expect {
                is_harmless: true,
                ..Expect::default()
            },
            &|_| {},
        );
        assert_eq!(problems, Vec::<String>::new());
        assert!(files(base, "log").len() >= 6, "{:?}", files(base, "log"));
        assert!(files(base, "index").len() >= 3);
    }
}

#[test]
fn a_damaged_log_costs_the_records_that_it_touches_and_no_other() {
    let history = History::new();
    let mut cases = Cases::new(&history);
    for base in [&history.closed, &history.killed] {
        for path in ends(files(base, "log")) {
            let bytes = fs::read(base.join(&path)).unwrap();
            let lengths: Vec<usize> = Batches::new(&bytes).map(|batch| batch.unwrap().1.len()).collect();
            let (first, last) = (lengths[0], bytes.len() - lengths[lengths.len() - 1]);
            let middle: usize = lengths[..lengths.len() / 2].iter().sum();
            // In headers (base offset, length, magic, checksum, count), in records, and at the ends.
            let mut bits: Vec<usize> = [0, middle, last]
                .iter()
                .flat_map(|start| [0, 7, 11, 16, 23, 70].map(|at| start + at))
                .collect();
            bits.extend([first - 1, bytes.len() / 2, bytes.len() - 1]);
            for (name, range, harm) in harms(bytes.len(), &bits) {
                let expect = Expect {
                    may_lose: Lost::from([(partition_of(&path), offsets_in(&bytes, &range))]),
                    // What the journal still has is written again: a power cut leaves the same.
                    evidence: (base == &history.closed).then(|| path.clone()),
                    is_harmless: base == &history.killed,
                    ..Expect::default()
                };
                let name = format!("{}: {name}", path.display());
                cases.case(base, &name, &expect, &|dir| change(dir, &path, &harm));
            }
            let expect = Expect {
                may_lose: Lost::from([(partition_of(&path), offsets_in(&bytes, &(0..bytes.len())))]),
                is_harmless: base == &history.killed,
                ..Expect::default()
            };
            cases.case(base, &format!("{}: missing", path.display()), &expect, &|dir| {
                fs::remove_file(dir.join(&path)).unwrap();
            });
        }
    }
    cases.end(200);
}

#[test]
fn a_log_of_another_segment_is_never_served() {
    let history = History::new();
    let mut cases = Cases::new(&history);
    for base in [&history.closed, &history.killed] {
        let logs = files(base, "log");
        for path in &ends(logs.clone()) {
            let bytes = fs::read(base.join(path)).unwrap();
            // A batch does not say of which partition it is: one of another partition with fitting offsets cannot be told.
            let is_other = |other: &&PathBuf| *other != path && other.parent() == path.parent();
            for other in logs.iter().filter(is_other) {
                let expect = Expect {
                    may_lose: Lost::from([(partition_of(path), offsets_in(&bytes, &(0..bytes.len())))]),
                    is_harmless: base == &history.killed,
                    ..Expect::default()
                };
                let name = format!("{} is a copy of {}", path.display(), other.display());
                cases.case(base, &name, &expect, &|dir| {
                    fs::copy(dir.join(other), dir.join(path)).unwrap();
                });
            }
        }
    }
    cases.end(12);
}

#[test]
fn a_damaged_missing_or_foreign_index_costs_nothing() {
    let history = History::new();
    let mut cases = Cases::new(&history);
    // What a killed process leaves of its indexes is no different.
    {
        let base = &history.closed;
        for extension in ["index", "timeindex"] {
            let all = files(base, extension);
            for path in &ends(all.clone()) {
                let bytes = fs::read(base.join(path)).unwrap();
                let expect = Expect::default();
                let bits: Vec<usize> = [0, 8, 13, 17, 25, 33, 41, 50, 64, bytes.len() - 1]
                    .into_iter()
                    .collect();
                for (name, _, harm) in harms(bytes.len(), &bits) {
                    // Zeros and nothing are what a power cut leaves of a file that is not synced.
                    let expect = Expect {
                        is_harmless: name.starts_with("zeroed") || name == "cut to 0",
                        ..Expect::default()
                    };
                    let name = format!("{}: {name}", path.display());
                    cases.case(base, &name, &expect, &|dir| change(dir, path, &harm));
                }
                let missing = Expect {
                    is_harmless: true,
                    ..Expect::default()
                };
                cases.case(base, &format!("{}: missing", path.display()), &missing, &|dir| {
                    fs::remove_file(dir.join(path)).unwrap();
                });
                for other in all.iter().filter(|other| *other != path) {
                    let name = format!("{} is a copy of {}", path.display(), other.display());
                    // One of the same base may fit in every field that it has.
                    let same_base = other.file_name() == path.file_name();
                    let expect = Expect {
                        is_harmless: same_base,
                        ..expect.clone()
                    };
                    cases.case(base, &name, &expect, &|dir| {
                        fs::copy(dir.join(other), dir.join(path)).unwrap();
                    });
                }
            }
        }
    }
    cases.end(150);
}

#[test]
fn a_damaged_checkpoint_or_state_costs_nothing_while_one_slot_is_whole() {
    let history = History::new();
    let mut cases = Cases::new(&history);
    for base in [&history.closed, &history.killed] {
        for name in ["checkpoint.0", "checkpoint.1", "state.0", "state.1"] {
            let path = PathBuf::from(name);
            let bytes = fs::read(base.join(&path)).unwrap();
            let expect = Expect::default();
            let bits: Vec<usize> = (0..48).step_by(5).chain([8, 9]).collect();
            for (harm_name, range, harm) in harms(bytes.len(), &bits) {
                // What lies behind the payload means nothing.
                let expect = Expect {
                    is_harmless: range.start >= 4096,
                    ..expect.clone()
                };
                cases.case(base, &format!("{name}: {harm_name}"), &expect, &|dir| {
                    change(dir, &path, &harm)
                });
            }
            cases.case(base, &format!("{name}: missing"), &expect, &|dir| {
                fs::remove_file(dir.join(&path)).unwrap();
            });
        }
        let both = ["checkpoint.0", "checkpoint.1"];
        cases.case(base, "no checkpoint", &Expect::default(), &|dir| {
            both.iter()
                .for_each(|name| fs::remove_file(dir.join(name)).unwrap());
        });
        cases.case(
            base,
            "a damaged checkpoint in both slots",
            &Expect::default(),
            &|dir| {
                both.iter()
                    .for_each(|name| change(dir, Path::new(name), |bytes| bytes[40] ^= 1));
            },
        );
        for (name, from) in [
            ("an old", &history.early),
            ("another directory's", &history.foreign),
        ] {
            let name = format!("{name} checkpoint in both slots");
            let expect = Expect {
                evidence: Some(both[0].into()),
                ..Expect::default()
            };
            cases.case(base, &name, &expect, &|dir| {
                for name in &both {
                    fs::copy(from.join(name), dir.join(name)).unwrap();
                }
            });
            let name = format!("{name} of two");
            cases.case(
                base,
                &name,
                &Expect {
                    is_harmless: true,
                    ..Expect::default()
                },
                &|dir| {
                    fs::copy(from.join(both[0]), dir.join(both[0])).unwrap();
                },
            );
        }
        let lost = Expect {
            may_lose_state: true,
            ..Expect::default()
        };
        for damage in ["missing", "damaged"] {
            cases.case(
                base,
                &format!("both slots of the state {damage}"),
                &lost,
                &|dir| {
                    for name in ["state.0", "state.1"] {
                        if damage == "missing" {
                            fs::remove_file(dir.join(name)).unwrap();
                        } else {
                            change(dir, Path::new(name), |bytes| bytes[33] ^= 1);
                        }
                    }
                },
            );
        }
    }
    cases.end(150);
}

#[test]
fn a_damaged_journal_costs_nothing_that_the_segments_have_and_a_foreign_one_is_not_replayed() {
    let history = History::new();
    let mut cases = Cases::new(&history);
    for base in [&history.closed, &history.killed] {
        for path in files(base, "journal") {
            let bytes = fs::read(base.join(&path)).unwrap();
            let used = bytes
                .chunks(4096)
                .take_while(|block| block.iter().any(|byte| *byte != 0))
                .count()
                * 4096;
            let bits = [
                0,
                9,
                20,
                33,
                4096,
                4100,
                4105,
                4130,
                used.saturating_sub(4000),
                used / 2 / 4096 * 4096 + 40,
            ];
            for (name, _, harm) in harms(bytes.len(), &bits) {
                // A file that holds nothing any more, and the last round, which was never acknowledged for all that is
                // known, are not damage.
                let expect = Expect {
                    is_harmless: true,
                    may_lose_state: base == &history.killed,
                    ..Expect::default()
                };
                let name = format!("{}: {name}", path.display());
                cases.case(base, &name, &expect, &|dir| change(dir, &path, &harm));
            }
            let expect = Expect {
                is_harmless: true,
                may_lose_state: base == &history.killed,
                ..Expect::default()
            };
            cases.case(base, &format!("{}: missing", path.display()), &expect, &|dir| {
                fs::remove_file(dir.join(&path)).unwrap();
            });
            if base == &history.killed {
                // Nothing but the checkpoint, or the end mark in the file before, says then that it was in use.
                for length in [None, Some(0), Some(40), Some(4096)] {
                    let name = format!("{} and all behind it: cut to {length:?}", path.display());
                    cases.case(base, &name, &expect, &|dir| {
                        for later in files(base, "journal").iter().filter(|later| **later > path) {
                            fs::remove_file(dir.join(later)).unwrap();
                        }
                        match length {
                            None => fs::remove_file(dir.join(&path)).unwrap(),
                            Some(length) => {
                                let bytes = fs::read(dir.join(&path)).unwrap();
                                fs::write(dir.join(&path), &bytes[..length]).unwrap();
                            }
                        }
                    });
                }
            }
            let next = base.join("journal/00000000000000000900.journal");
            let next = next.strip_prefix(base).unwrap();
            cases.case(
                base,
                &format!("{}: there twice", path.display()),
                &expect,
                &|dir| {
                    fs::copy(dir.join(&path), dir.join(next)).unwrap();
                },
            );
        }
        let old = files(&history.early, "journal");
        for path in old {
            let harmless = Expect {
                is_harmless: true,
                ..Expect::default()
            };
            cases.case(
                base,
                &format!("an old {} came back", path.display()),
                &harmless,
                &|dir| {
                    if !dir.join(&path).exists() {
                        fs::copy(history.early.join(&path), dir.join(&path)).unwrap();
                    }
                },
            );
        }
        for path in files(&history.foreign, "journal") {
            let expect = Expect {
                is_harmless: true,
                ..Expect::default()
            };
            cases.case(
                base,
                &format!("{} of another directory", path.display()),
                &expect,
                &|dir| {
                    if !dir.join(&path).exists() {
                        fs::copy(history.foreign.join(&path), dir.join(&path)).unwrap();
                    }
                },
            );
        }
    }
    cases.end(40);
}

#[test]
fn a_damaged_format_or_description_is_written_again_from_what_says_the_same() {
    let history = History::new();
    let mut cases = Cases::new(&history);
    for base in [&history.closed, &history.killed] {
        for name in [
            "FORMAT",
            "topics/orders/topic.json",
            "topics/orders/topic.copy.json",
        ] {
            let path = PathBuf::from(name);
            let bytes = fs::read(base.join(&path)).unwrap();
            let expect = Expect {
                evidence: (!name.contains("copy")).then(|| path.clone()),
                ..Expect::default()
            };
            let bits: Vec<usize> = (0..bytes.len())
                .step_by(13)
                .chain([11, 33, 34, bytes.len() - 1])
                .collect();
            for (harm_name, range, harm) in harms(bytes.len(), &bits) {
                // The line break at the end may be another white space, or none.
                let expect = Expect {
                    is_harmless: range.start + 1 == bytes.len(),
                    ..expect.clone()
                };
                cases.case(base, &format!("{name}: {harm_name}"), &expect, &|dir| {
                    change(dir, &path, &harm)
                });
            }
            // A directory of an earlier build has no copy, and is as good.
            let missing = Expect {
                is_harmless: name.contains("copy"),
                ..Expect::default()
            };
            cases.case(base, &format!("{name}: missing"), &missing, &|dir| {
                fs::remove_file(dir.join(&path)).unwrap();
            });
        }
        cases.case(
            base,
            "the FORMAT of another directory",
            &Expect::default(),
            &|dir| {
                fs::copy(history.foreign.join("FORMAT"), dir.join("FORMAT")).unwrap();
            },
        );
        cases.case(
            base,
            "the description of another topic",
            &Expect::default(),
            &|dir| {
                fs::copy(
                    dir.join("topics/flights/topic.json"),
                    dir.join("topics/orders/topic.json"),
                )
                .unwrap();
            },
        );
        let not_served = Expect {
            not_served: Some("orders"),
            ..Expect::default()
        };
        cases.case(base, "no description at all", &not_served, &|dir| {
            fs::remove_file(dir.join("topics/orders/topic.json")).unwrap();
            fs::remove_file(dir.join("topics/orders/topic.copy.json")).unwrap();
        });
        cases.case(base, "no directory of a topic", &not_served, &|dir| {
            fs::remove_dir_all(dir.join("topics/orders")).unwrap();
        });
        let all: BTreeSet<u64> = (0..history.model.records[&("orders", 1)].len() as u64).collect();
        let partition = Expect {
            may_lose: Lost::from([(("orders", 1), all)]),
            ..Expect::default()
        };
        cases.case(base, "no directory of a partition", &partition, &|dir| {
            fs::remove_dir_all(dir.join("topics/orders/1")).unwrap();
        });
    }
    cases.end(120);
}

#[test]
fn a_description_that_is_restored_brings_its_topic_back_with_all_of_its_records() {
    let history = History::new();
    for base in [&history.closed, &history.killed] {
        let dir = temp();
        let dir = dir.path();
        copy(base, dir);
        let paths = ["topic.json", "topic.copy.json"].map(|name| dir.join("topics/orders").join(name));
        let description = fs::read(&paths[0]).unwrap();
        paths.iter().for_each(|path| fs::write(path, b"{}").unwrap());
        let log = open(dir).unwrap();
        assert!(log.topic("orders").is_none());
        assert!(!log.health().damage.is_empty());
        assert!(matches!(
            log.create_topic(
                "orders",
                TopicSpec {
                    partitions: 1,
                    settings: TopicSettings::default(),
                    properties: BTreeMap::new()
                }
            ),
            Err(Error::Directory(_))
        ));
        let flights = log.topic("flights").unwrap().partition(0).unwrap();
        let mut model = history.model.clone();
        let records = model.records.get_mut(&("flights", 0)).unwrap();
        records.push(value("flights", 0, records.len()));
        append(&log, &flights, records.last().unwrap(), None).unwrap();
        log.close().unwrap();
        drop(log);
        fs::write(&paths[0], description).unwrap();
        let log = open(dir).unwrap();
        let mut problems = Vec::new();
        assert_eq!(read(&log, &model, &mut problems), Lost::new());
        assert_eq!(problems, Vec::<String>::new());
    }
}
