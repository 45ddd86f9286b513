//! `quipu backup` has a server copy its data; `quipu restore` makes a data directory of a copy, offline.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::bail;
use clap::builder::NonEmptyStringValueParser;
use http::Method;
use indicatif::{ProgressBar, ProgressStyle};
use quipu_segments::Progress;
use serde_json::{Value, json};

use super::api::patiently;
use super::client::Route;
use super::connect::Connect;
use super::output;
use super::signal::Interrupt;

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
  quipu serve --data ./quipu-data")]
pub(crate) struct RestoreArgs {
    /// The backup: a directory below backup_dir, or a copy of one
    #[arg(value_name = "DIR")]
    backup: PathBuf,
    /// The new data directory, which must be empty or missing
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
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
            "the backup {} is done: {}, of which {} are new",
            args.name,
            bytes("bytes"),
            bytes("copied_bytes")
        ),
    };
    output::done(&backup, &text, is_json)
}

/// Makes a data directory of a backup. Errors: those of the engine; nothing usable is left then.
pub(crate) fn restore(args: &RestoreArgs, is_json: bool) -> anyhow::Result<()> {
    let progress = Progress::default();
    let bar = spinner();
    let restored = thread::scope(|scope| {
        let restoring = scope.spawn(|| quipu_segments::restore(&args.backup, &args.data, &progress));
        while !restoring.is_finished() {
            bar.set_message(format!("{} checked and copied", output::bytes(progress.bytes())));
            bar.tick();
            thread::sleep(Duration::from_millis(20));
        }
        restoring.join()
    });
    bar.finish_and_clear();
    let restored = restored.map_err(|_| anyhow::anyhow!("the restore ended unexpectedly"))??;
    let answer = json!({
        "directory_id": restored.directory_id,
        "started": restored.taken.get(),
        "topics": restored.topics,
        "files": restored.files,
        "bytes": restored.bytes,
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
