//! `quipu verify`: checks every byte of a data directory that no server has open, and changes none.

use std::path::PathBuf;

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use quipu_segments::{Finding, Verified, verify};
use serde_json::{Value, json};

use super::output::{self, Output};

/// What `quipu verify` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The data directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// Does it; ends with 1 where data is lost.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let bar = ProgressBar::new_spinner();
    bar.set_style(
        ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    let verified = verify(&args.dir, &mut |so_far| {
        bar.set_message(format!(
            "{} segments, {} records",
            so_far.segments, so_far.records
        ));
        bar.tick();
    });
    bar.finish_and_clear();
    let verified = verified?;
    if args.output.is_json() {
        output::json(&report(&verified))?;
    } else {
        for finding in &verified.findings {
            output::line(sentence(finding))?;
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
    let damaged = verified
        .findings
        .iter()
        .filter(|finding| finding.is_damage)
        .count();
    if damaged > 0 {
        bail!(
            "{} is damaged in {damaged} places; nothing was changed",
            args.dir.display()
        );
    }
    Ok(())
}

fn sentence(finding: &Finding) -> String {
    let kind = if finding.is_damage { "damage" } else { "note" };
    let position = finding
        .position
        .map_or_else(String::new, |position| format!(" at byte {position}"));
    let offsets = finding.offsets.map_or_else(String::new, |(from, until)| {
        format!(" (offsets {from} to {until}, exclusive)")
    });
    let Finding {
        path, what, advice, ..
    } = finding;
    format!(
        "{kind}: {}{position}{offsets}: {what}; what to do: {advice}",
        path.display()
    )
}

fn report(verified: &Verified) -> Value {
    let findings: Vec<Value> = verified
        .findings
        .iter()
        .map(|finding| {
            json!({
                "damage": finding.is_damage,
                "path": finding.path.display().to_string(),
                "position": finding.position.map(|position| position.get()),
                "from_offset": finding.offsets.map(|(from, _)| from.get()),
                "until_offset": finding.offsets.map(|(_, until)| until.get()),
                "what": finding.what,
                "advice": finding.advice,
            })
        })
        .collect();
    json!({
        "topics": verified.topics,
        "partitions": verified.partitions,
        "segments": verified.segments,
        "batches": verified.batches,
        "records": verified.records,
        "bytes": verified.bytes,
        "damaged": verified.is_damaged(),
        "findings": findings,
    })
}
