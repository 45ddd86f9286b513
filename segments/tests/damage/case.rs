//! Runs a case: checks everything that follows damage.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quipu_segments::{Error, Log, Verified, repair, verify};

use super::harm::{change, harms};
use super::history::{History, Model, PARTITIONS, append, contents, copy, open, temp, value};
use super::read::{Lost, is_more, read};

/// What is expected of a case.
#[derive(Clone, Default)]
pub(crate) struct Expect {
    /// Offsets that may be lost.
    pub(crate) may_lose: Lost,
    /// The state may be lost.
    pub(crate) may_lose_state: bool,
    /// `verify` reports nothing, or only what a crash leaves.
    pub(crate) is_harmless: bool,
    /// A topic that may not be served.
    pub(crate) not_served: Option<&'static str>,
    /// A file whose damaged bytes must still exist after opening: in place, or kept aside.
    pub(crate) evidence: Option<PathBuf>,
}

impl Expect {
    pub(crate) fn harmless() -> Self {
        Self {
            is_harmless: true,
            ..Self::default()
        }
    }
}

/// What a log holds after damage.
struct Left {
    lost: Lost,
    state: Option<Arc<[u8]>>,
    /// Whether nothing is lost.
    is_whole: bool,
}

/// Runs one case; returns what is wrong.
pub(crate) fn run(base: &Path, model: &Model, expect: &Expect, damage: &dyn Fn(&Path)) -> Vec<String> {
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
    let left = look(&log, model, expect, &mut problems);
    check_told(&log, &verified, expect, &left, &mut problems);
    let evidence = expect.evidence.as_ref().and_then(|path| before.get(path));
    if let Some(evidence) = evidence {
        let kept = contents(dir).values().any(|bytes| bytes.starts_with(evidence));
        if !left.is_whole && !kept {
            problems.push(format!("the damaged bytes of {:?} are gone", expect.evidence));
        }
    }
    let longer = append_to_each(&log, model, &mut problems);
    let lost_then = read(&log, &longer, &mut problems);
    // The process is killed.
    drop(log);
    start_again(dir, &longer, &lost_then, &left, &mut problems);
    if is_repaired {
        check_repair(repaired, model, &left, &mut problems);
    }
    problems
}

/// Reads what is left: it must be everything except what may be lost.
fn look(log: &Log, model: &Model, expect: &Expect, problems: &mut Vec<String>) -> Left {
    let lost = read(log, model, problems);
    for ((topic, index), offsets) in &lost {
        let allowed = expect.may_lose.get(&(*topic, *index));
        let is_allowed = |offset: &u64| allowed.is_some_and(|allowed| allowed.contains(offset));
        if expect.not_served != Some(*topic) && !offsets.iter().all(is_allowed) {
            let lost = format!("{topic}/{index} has lost {offsets:?}");
            problems.push(format!("{lost}, and may lose {allowed:?}"));
        }
    }
    let state = log.state_get(b"group");
    let has_state = state.as_deref() == Some(&model.state[..]);
    if !expect.may_lose_state && !has_state {
        let state = state.as_deref().map(String::from_utf8_lossy);
        problems.push(format!("the state went back to {state:?}"));
    }
    let is_whole = lost.is_empty() && has_state;
    Left {
        lost,
        state,
        is_whole,
    }
}

/// Checks that `verify` and the log's health report what is lost, and that `verify` says what to do.
fn check_told(
    log: &Log,
    verified: &Result<Verified, Error>,
    expect: &Expect,
    left: &Left,
    problems: &mut Vec<String>,
) {
    match verified {
        Ok(verified) => {
            let mut findings = verified.findings.iter();
            let found = findings.any(|finding| finding.is_damage || finding.is_fault);
            if !found && !expect.is_harmless {
                problems.push(format!("verify finds nothing: {:?}", verified.findings));
            }
            if !left.is_whole && !verified.is_damaged() {
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
    let health = log.health();
    if !left.is_whole && health.damage.is_empty() && health.damaged_ranges.is_empty() {
        problems.push("records are lost, and health says nothing".into());
    }
}

/// Appends to each partition; returns the model with these records.
fn append_to_each(log: &Log, model: &Model, problems: &mut Vec<String>) -> Model {
    let mut longer = model.clone();
    for (topic, index) in PARTITIONS {
        let Some(partition) = log.topic(topic).and_then(|topic| topic.partition(index)) else {
            continue;
        };
        let records = longer.records.get_mut(&(topic, index)).unwrap();
        let bytes = value(topic, index, records.len());
        match append(log, &partition, &bytes, None) {
            Ok(offset) if offset == records.len() as u64 => records.push(bytes),
            Ok(offset) => problems.push(format!("{topic}/{index}: appended at {offset}")),
            Err(error) => problems.push(format!("{topic}/{index}: an append failed: {error}")),
        }
    }
    longer
}

/// Checks that the next start finds no more lost than the first.
fn start_again(dir: &Path, longer: &Model, lost_then: &Lost, left: &Left, problems: &mut Vec<String>) {
    match open(dir) {
        Ok(log) => {
            let lost_now = read(&log, longer, problems);
            if is_more(&lost_now, lost_then) {
                let lost = format!("{lost_now:?}, not {lost_then:?}");
                problems.push(format!("the next start has lost more: {lost}"));
            }
            if log.state_get(b"group") != left.state {
                problems.push("the state is another at the next start".into());
            }
            log.close().unwrap();
        }
        Err(error) => problems.push(format!("does not open again: {error}")),
    }
}

/// Checks that a repair loses nothing, and has nothing to do the second time.
fn check_repair(dir: &Path, model: &Model, left: &Left, problems: &mut Vec<String>) {
    match repair(dir, &mut |_| {}) {
        Ok(first) => {
            match repair(dir, &mut |_| {}) {
                Ok(second) if second.mended.is_empty() && second.verified == first.verified => {}
                Ok(second) => problems.push(format!("repaired again: {:?}", second.mended)),
                Err(error) => problems.push(format!("repairing again: {error}")),
            }
            if left.lost.is_empty() && first.verified.findings.iter().any(|finding| finding.is_fault) {
                problems.push(format!("repair left {:?}", first.verified.findings));
            }
        }
        Err(error) => problems.push(format!("repair: {error}")),
    }
    match open(dir) {
        Ok(log) => {
            let lost_now = read(&log, model, problems);
            if is_more(&lost_now, &left.lost) {
                let without = &left.lost;
                problems.push(format!("repair has lost {lost_now:?}, without it {without:?}"));
            }
            if log.state_get(b"group") != left.state {
                problems.push("repair has changed the state".into());
            }
        }
        Err(error) => problems.push(format!("does not open after repair: {error}")),
    }
}

/// Cases with their names: all are run, and all that fail are shown.
pub(crate) struct Cases<'a> {
    history: &'a History,
    failed: Vec<String>,
    count: usize,
}

impl<'a> Cases<'a> {
    pub(crate) fn new(history: &'a History) -> Self {
        Self {
            history,
            failed: Vec::new(),
            count: 0,
        }
    }

    pub(crate) fn case(&mut self, base: &Path, name: &str, expect: &Expect, damage: &dyn Fn(&Path)) {
        self.count += 1;
        let problems = run(base, &self.history.model, expect, damage);
        if !problems.is_empty() {
            let base = base.file_name().unwrap().to_string_lossy().into_owned();
            let failed = format!("{base}, {name}:\n    {}", problems.join("\n    "));
            eprintln!("{failed}");
            self.failed.push(failed);
        }
    }

    /// Runs every kind of damage to a file; flips bits at the given bytes.
    pub(crate) fn harms(
        &mut self,
        base: &Path,
        path: &Path,
        bits: &[usize],
        expect: impl Fn(&str, &Range<usize>) -> Expect,
    ) {
        let length = fs::read(base.join(path)).unwrap().len();
        for (harm_name, range, harm) in harms(length, bits) {
            let name = format!("{}: {harm_name}", path.display());
            let expect = expect(&harm_name, &range);
            self.case(base, &name, &expect, &|dir| change(dir, path, &harm));
        }
    }

    pub(crate) fn missing(&mut self, base: &Path, path: &Path, expect: &Expect) {
        let name = format!("{}: missing", path.display());
        self.case(base, &name, expect, &|dir| {
            fs::remove_file(dir.join(path)).unwrap();
        });
    }

    /// Replaces a file by another one of the same directory.
    pub(crate) fn exchanged(&mut self, base: &Path, path: &Path, other: &Path, expect: &Expect) {
        let name = format!("{} is a copy of {}", path.display(), other.display());
        self.case(base, &name, expect, &|dir| {
            fs::copy(dir.join(other), dir.join(path)).unwrap();
        });
    }

    #[track_caller]
    pub(crate) fn end(self, least: usize) {
        let (failed, count, all) = (self.failed.len(), self.count, self.failed.join("\n"));
        assert_eq!(failed, 0, "of {count} cases failed\n{all}");
        assert!(self.count >= least, "only {} cases were run", self.count);
    }
}
