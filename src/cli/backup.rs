//! `quipu backup` has a server copy its data; `quipu restore` makes a data directory of a copy, and `quipu verify` checks
//! a copy, both offline.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::bail;
use clap::builder::NonEmptyStringValueParser;
use http::Method;
use indicatif::{ProgressBar, ProgressStyle};
use quipu_segments::{IfDamaged, Progress};
use serde_json::{Value, json};

use super::api::patiently;
use super::client::Route;
use super::connect::Connect;
use super::output;
use super::signal::Interrupt;
use super::verify::{found, sentence};

/// How often the state of a backup is asked for.
const INTERVAL: Duration = Duration::from_millis(200);

const EXAMPLES: &str = "The server makes the copy below its setting backup_dir, while everything goes on.

Examples:
  quipu backup monday
  quipu restore /backups/monday --data ./quipu-data";

/// What to copy.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The name of the new backup
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Return as soon as the backup has begun
    #[arg(long)]
    no_wait: bool,
}

/// What to restore.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quipu restore /backups/monday --data ./quipu-data
  quipu serve --data ./quipu-data

quipu verify DIR checks a backup and restores nothing.")]
pub(crate) struct RestoreArgs {
    /// The backup: a directory below backup_dir, or a copy of one
    #[arg(value_name = "DIR")]
    backup: PathBuf,
    /// The new data directory, which must be empty or missing
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Restore what is left of a damaged backup, and say what is lost
    #[arg(long)]
    damaged: bool,
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar
}

/// Begins a backup and waits for its end. Errors: those of the server; the backup has failed.
pub(crate) fn run(args: &Args, connect: &Connect, is_json: bool) -> anyhow::Result<()> {
    let client = connect.client()?;
    let interrupt = Interrupt::watch()?;
    let body = json!({"name": args.name});
    let mut backup = client.send(&Method::POST, &Route::new(&["v1", "backups"]), Some(&body))?;
    let route = Route::new(&["v1", "backups", &args.name]);
    let bar = spinner();
    while !args.no_wait && backup["state"] == "running" {
        let bytes = output::bytes(backup["bytes"].as_u64().unwrap_or_default());
        bar.set_message(format!("{bytes} in the backup"));
        bar.tick();
        if interrupt.wait(INTERVAL).is_some() {
            bar.finish_and_clear();
            bail!("the backup {} goes on in the server", args.name);
        }
        backup = patiently(&interrupt, true, || client.get::<Value>(&route))?;
    }
    bar.finish_and_clear();
    if backup["state"] == "failed" {
        let why = backup["error"].as_str().unwrap_or("the server's log says why");
        bail!("the backup {} has failed: {why}", args.name);
    }
    let bytes = |name: &str| output::bytes(backup[name].as_u64().unwrap_or_default());
    let text = match args.no_wait {
        true => format!("the backup {} has begun", args.name),
        false => format!(
            "the backup {} is done: {}, of which {} are new{}",
            args.name,
            bytes("bytes"),
            bytes("copied_bytes"),
            damaged(&backup)
        ),
    };
    output::done(&backup, &text, is_json)
}

/// What is said about damaged and missing files in a backup.
fn damaged(backup: &Value) -> String {
    match backup["damaged_files"].as_u64() {
        None | Some(0) => String::new(),
        Some(count) => format!(
            "; {} in the log {} damaged or missing (the server's log says which), and in the backup as well",
            output::counted(count, "file"),
            if count == 1 { "is" } else { "are" }
        ),
    }
}

/// Runs long work on files, and shows how far it is.
fn watched<T: Send>(
    what: &str,
    work: impl FnOnce(&Progress) -> quipu_segments::Result<T> + Send,
) -> anyhow::Result<T> {
    let progress = Progress::default();
    let bar = spinner();
    let result = thread::scope(|scope| {
        let working = scope.spawn(|| work(&progress));
        while !working.is_finished() {
            bar.set_message(format!("{} {what}", output::bytes(progress.bytes())));
            bar.tick();
            thread::sleep(Duration::from_millis(20));
        }
        working.join()
    });
    bar.finish_and_clear();
    Ok(result.map_err(|_| anyhow::anyhow!("the work ended unexpectedly"))??)
}

/// Checks the files of a backup; returns an error if one is damaged.
pub(crate) fn verify(backup: &Path, is_json: bool) -> anyhow::Result<()> {
    let verified = watched("checked", |progress| {
        quipu_segments::verify_backup(backup, progress)
    })?;
    let findings = &verified.findings;
    let damaged = findings.iter().filter(|finding| finding.is_damage).count();
    let dir = backup.display();
    if is_json {
        output::json(&json!({
            "started": verified.taken.get(),
            "topics": verified.topics,
            "files": verified.files,
            "bytes": verified.bytes,
            "damaged": damaged > 0,
            "findings": findings.iter().map(|finding| found(finding, false)).collect::<Vec<_>>(),
        }))?;
    } else {
        for finding in findings {
            output::line(sentence(finding, false))?;
        }
        output::line(format_args!(
            "{dir}: a backup of {}, as of {}: {} with {} bytes checked",
            output::counted(verified.topics as u64, "topic"),
            output::time_ms(Some(verified.taken.get())),
            output::counted(verified.files, "file"),
            verified.bytes
        ))?;
    }
    match (damaged, findings.len()) {
        (0, 0) => Ok(()),
        (0, faulty) => bail!("{dir} has {faulty} faulty files, and nothing is lost"),
        _ => bail!("{dir} is damaged in {damaged} places"),
    }
}

/// Makes a data directory of a backup. Errors: those of the engine; nothing usable is left then.
pub(crate) fn restore(args: &RestoreArgs, is_json: bool) -> anyhow::Result<()> {
    let if_damaged = match args.damaged {
        true => IfDamaged::Take,
        false => IfDamaged::Refuse,
    };
    let restored = watched("checked and copied", |progress| {
        quipu_segments::restore(&args.backup, &args.data, if_damaged, progress)
    })?;
    if !is_json {
        for finding in &restored.findings {
            output::line(sentence(finding, false))?;
        }
    }
    let answer = json!({
        "directory_id": restored.directory_id,
        "started": restored.taken.get(),
        "topics": restored.topics,
        "files": restored.files,
        "bytes": restored.bytes,
        "findings": restored.findings.iter().map(|finding| found(finding, false)).collect::<Vec<_>>(),
    });
    let text = format!(
        "restored {} ({}) as of {} to {}: start it with quipu serve --data {}",
        output::counted(restored.topics as u64, "topic"),
        output::bytes(restored.bytes),
        output::time_ms(Some(restored.taken.get())),
        args.data.display(),
        args.data.display()
    );
    output::done(&answer, &text, is_json)
}
