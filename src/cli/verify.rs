//! `quipu verify`: checks every byte of a data directory that no server has open, and changes none. With `--repair` it
//! makes repairs that lose no records, and skips the offsets that are named. Of a backup it checks the files, and
//! repairs nothing.
//!
//! Exits 1 if it finds damage, or a difference that loses nothing; with `--repair` if some of it is left. Skipped
//! offsets are only noted, and do not cause exit 1: an operator has decided on them, and they must not hide new damage.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use quipu::broker::caller::Caller;
use quipu::broker::limits::Limits;
use quipu::broker::topics::Topics;
use quipu::broker::topics::skips::{Gap, Skips};
use quipu_segments::{
    Clock, Finding, Log, Mended, Offset, Options, SystemClock, Verified, is_backup, repair, verify,
};
use serde_json::{Value, json};

use super::{backup, output};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quipu verify quipu-data
  quipu verify quipu-data --repair --skip orders/3:100-250
  quipu verify /backups/monday")]
pub(crate) struct Args {
    /// The data directory, or a backup
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Make repairs that lose no records: indexes, descriptions, a damaged slot of the checkpoint or the state, bytes that the journal still has
    #[arg(long)]
    repair: bool,
    /// Skip these damaged offsets, the second exclusive: consumers continue after them, with a warning. Nothing is
    /// deleted; may be repeated
    #[arg(long, value_name = "TOPIC/PARTITION:FROM-UNTIL", requires = "repair", value_parser = Skip::parse)]
    skip: Vec<Skip>,
}

/// Offsets to skip.
#[derive(Clone, Debug)]
struct Skip {
    topic: String,
    partition: u32,
    range: Gap,
}

impl Skip {
    fn parse(text: &str) -> Result<Self, String> {
        let parts = || {
            let (place, range) = text.rsplit_once(':')?;
            let (topic, partition) = place.rsplit_once('/')?;
            let (from, until) = range.split_once('-')?;
            let offset = |text: &str| Offset::try_new(text.parse().ok()?);
            Some(Self {
                topic: Some(topic.to_owned()).filter(|topic| !topic.is_empty())?,
                partition: partition.parse().ok()?,
                range: Gap {
                    from: offset(from)?,
                    until: offset(until)?,
                },
            })
        };
        let skip = parts().ok_or("written TOPIC/PARTITION:FROM-UNTIL, as orders/3:100-250")?;
        if skip.range.from >= skip.range.until {
            return Err("the second offset is exclusive and must be above the first".to_owned());
        }
        Ok(skip)
    }

    fn name(&self) -> String {
        format!("{}/{}", self.topic, self.partition)
    }

    fn covers(&self, finding: &Finding) -> bool {
        let is_within = |(from, until)| self.range.from <= from && self.range.until >= until;
        finding.partition.as_deref() == Some(&*self.name()) && finding.offsets.is_some_and(is_within)
    }
}

/// Runs the command; returns 1 if something is wrong.
pub(crate) fn run(args: Args, is_json: bool) -> anyhow::Result<()> {
    if is_backup(&args.dir) {
        if args.repair {
            bail!(
                "{} is a backup, and nothing writes to a backup",
                args.dir.display()
            );
        }
        return backup::verify(&args.dir, is_json);
    }
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    let mut progress = |so_far: &Verified| {
        let (segments, records) = (so_far.segments, so_far.records);
        bar.set_message(format!("{segments} segments, {records} records"));
        bar.tick();
    };
    let result = if args.repair {
        repair(&args.dir, &mut progress).map(|repaired| (repaired.mended, repaired.verified))
    } else {
        verify(&args.dir, &mut progress).map(|verified| (Vec::new(), verified))
    };
    bar.finish_and_clear();
    let (mended, verified) = result?;
    let findings = verified.findings.iter();
    let skipped_before: Vec<bool> = findings.map(|finding| is_skipped(finding, &verified)).collect();
    if !is_json {
        for Mended { path, what } in &mended {
            output::line(format_args!("repaired: {}: {what}", path.display()))?;
        }
        for (finding, is_skipped) in verified.findings.iter().zip(&skipped_before) {
            output::line(sentence(finding, *is_skipped))?;
        }
        output::line(format_args!(
            "{}: {} topics, {} partitions, {} segments, {} batches, {} records, {} bytes checked",
            args.dir.display(),
            verified.topics,
            verified.partitions,
            verified.segments,
            verified.batches,
            verified.records,
            verified.bytes
        ))?;
    }
    let skipped = match args.skip.is_empty() {
        true => Ok(()),
        false => skip(&args.dir, &args.skip),
    };
    if is_json {
        output::json(&report(&mended, &verified, &skipped_before))?;
    }
    skipped?;
    if !is_json {
        for skip in &args.skip {
            let Gap { from, until } = skip.range;
            output::line(format_args!(
                "skipped: {}: offsets {from} to {until} (exclusive): consumers continue after them; their bytes stay where \
                 they are",
                skip.name()
            ))?;
        }
    }
    let findings = verified.findings.iter().zip(skipped_before);
    let is_left = |(finding, is_skipped): &(&Finding, bool)| {
        !is_skipped && !args.skip.iter().any(|skip| skip.covers(finding))
    };
    let left: Vec<&Finding> = findings.filter(is_left).map(|(finding, _)| finding).collect();
    let damaged = left.iter().filter(|finding| finding.is_damage).count();
    let faulty = left.iter().filter(|finding| finding.is_fault).count();
    let changed = match (args.repair, mended.len()) {
        (false, _) => "nothing was changed".to_owned(),
        (true, count) => format!("{count} repairs were made"),
    };
    let dir = args.dir.display();
    match (damaged, faulty) {
        (0, 0) => Ok(()),
        (0, _) => bail!("{dir} has {faulty} faulty files, and nothing is lost; {changed}"),
        _ => bail!("{dir} is damaged in {damaged} places; {changed}"),
    }
}

/// Opens the log like a server, which recovers it, and skips the ranges; deletes nothing.
fn skip(dir: &Path, skips: &[Skip]) -> anyhow::Result<()> {
    let mut options = Options::default();
    // Keep the journal's length: it is the server's setting.
    let entries = std::fs::read_dir(dir.join("journal"));
    let entries = entries.into_iter().flatten().flatten();
    let is_journal = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "journal");
    let journals = entries.map(|entry| entry.path()).filter(is_journal);
    let lengths = journals.filter_map(|path| Some(path.metadata().ok()?.len()));
    if let Some(length) = lengths.max() {
        options.journal_file_bytes = length;
        let half = usize::try_from(length / 2).unwrap_or(usize::MAX);
        options.max_request_bytes = options.max_request_bytes.min(half);
    }
    let log = Log::open(dir, options)?;
    let topics = Topics::new(log.clone(), &Limits::default());
    let now = SystemClock::new().now();
    for skip in skips {
        let (name, index) = (&skip.topic, skip.partition);
        let topic = log.topic(name);
        let topic = topic.with_context(|| format!("there is no topic {name}"))?;
        let partition = topic.partition(index);
        let partition = partition.with_context(|| format!("topic {name} has no partition {index}"))?;
        let skipped = topics.skip(&Caller::default(), &partition, skip.range, now);
        skipped.map_err(|refusal| anyhow::anyhow!("{}: {}", skip.name(), refusal.detail))?;
    }
    log.close()?;
    Ok(())
}

/// Whether all lost records of a finding were skipped before.
fn is_skipped(finding: &Finding, verified: &Verified) -> bool {
    let (Some(partition), Some((from, until))) = (finding.partition_id, finding.offsets) else {
        return false;
    };
    Skips::among(&verified.state, partition).covers(Gap { from, until })
}

/// A finding in words.
pub(super) fn sentence(finding: &Finding, is_skipped: bool) -> String {
    let kind = match (finding.is_damage, finding.is_fault) {
        (true, _) if !is_skipped => "damage",
        (false, true) => "fault",
        _ => "note",
    };
    let position = finding.position.map(|position| format!(" at byte {position}"));
    let position = position.unwrap_or_default();
    let range = |(from, until)| format!(" (offsets {from} to {until}, exclusive)");
    let offsets = finding.offsets.map(range).unwrap_or_default();
    let (path, what, advice) = (&finding.path, &finding.what, &finding.advice);
    let next = match is_skipped {
        true => "skipped on purpose: consumers continue after it".to_owned(),
        false => format!("what to do: {advice}"),
    };
    format!("{kind}: {}{position}{offsets}: {what}; {next}", path.display())
}

/// A finding in JSON.
pub(super) fn found(finding: &Finding, is_skipped: bool) -> Value {
    json!({
        "damage": finding.is_damage,
        "skipped": is_skipped,
        "fault": finding.is_fault,
        "partition": finding.partition,
        "path": finding.path.display().to_string(),
        "position": finding.position.map(|position| position.get()),
        "from_offset": finding.offsets.map(|(from, _)| from.get()),
        "until_offset": finding.offsets.map(|(_, until)| until.get()),
        "what": finding.what,
        "advice": finding.advice,
    })
}

/// `damage`: the finding loses data; `skipped`: an operator has decided on it; `damaged` counts the others.
fn report(mended: &[Mended], verified: &Verified, skipped_before: &[bool]) -> Value {
    let all = || verified.findings.iter().zip(skipped_before);
    let is_damaged = all().any(|(finding, is_skipped)| finding.is_damage && !is_skipped);
    let findings = all().map(|(finding, is_skipped)| found(finding, *is_skipped));
    let repaired = |Mended { path, what }: &Mended| json!({"path": path.display().to_string(), "what": what});
    json!({
        "repaired": mended.iter().map(repaired).collect::<Vec<_>>(),
        "topics": verified.topics,
        "partitions": verified.partitions,
        "segments": verified.segments,
        "batches": verified.batches,
        "records": verified.records,
        "bytes": verified.bytes,
        "damaged": is_damaged,
        "findings": findings.collect::<Vec<_>>(),
    })
}
