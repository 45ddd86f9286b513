//! Writes topics, their records and groups to standard output.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::VERSION;
use super::groups::{Exported, Part, in_order};
use crate::cli::api::{self, Topic};
use crate::cli::client::{Client, Route};
use crate::cli::connect::Connect;
use crate::cli::history::{FETCH_BYTES, MAX_RECORDS, Partition, Size};
use crate::cli::output::{note, records};
use crate::cli::signal::Interrupt;
use crate::cli::stdout::Stdout;

const EXAMPLES: &str =
    "The file has the topics with their settings, their records, and the groups that read them: type, settings, subscriptions, committed offsets and dead letters.

Examples:
  quipu export > all.ndjson
  quipu export --topics orders,payments --groups billing | gzip > orders.ndjson.gz
  quipu export --topics orders | quipu import --server http://other:7420";

/// What to export.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only these topics, separated by commas [default: all]
    #[arg(long, value_name = "TOPICS", value_delimiter = ',')]
    topics: Vec<String>,
    /// Only these groups, separated by commas [default: all that have committed in these topics or subscribed to them]
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    groups: Vec<String>,
    /// No groups
    #[arg(long, conflicts_with = "groups")]
    no_groups: bool,
}

/// Runs the command. Errors: those of the server; it was interrupted. The file is not whole then, and says so by its missing end.
pub(crate) fn run(args: &Args, connect: &Connect) -> anyhow::Result<()> {
    let client = connect.client()?;
    let interrupt = Interrupt::watch()?;
    let out = Stdout::new(&interrupt)?;
    let topics = match args.topics.is_empty() {
        true => names(&client, "topics")?,
        false => {
            let mut seen = BTreeSet::new();
            let topics = args.topics.iter().filter(|topic| seen.insert(*topic));
            topics.cloned().collect()
        }
    };
    // First, so that no offset is above the records that are read later.
    let chosen: BTreeSet<&str> = topics.iter().map(String::as_str).collect();
    let groups = groups(&client, args, &chosen)?;
    let mut export = Export {
        client: &client,
        interrupt: &interrupt,
        out: &out,
        bar: spinner(),
        records: 0,
    };
    let made = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    export.line(&json!({"export": VERSION, "made": made.as_millis() as u64}))?;
    for part in in_order(&topics, &groups) {
        match part {
            Part::Topic(name) => export.topic(name)?,
            Part::Group(group) => export.line(&group.line)?,
        }
    }
    export.line(&json!({"end": true, "records": export.records}))?;
    export.bar.finish_and_clear();
    Ok(())
}

pub(super) fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar
}

/// The names in a list of the API.
fn names(client: &Client, list: &str) -> anyhow::Result<Vec<String>> {
    let rows = api::list(client, &Route::new(&["v1", list]).with("limit", 1000), list)?;
    let name = |row: &Value| {
        let name = row.get("name").or_else(|| row.get("group")).unwrap_or(row);
        name.as_str().map(str::to_owned)
    };
    Ok(rows.iter().filter_map(name).collect())
}

/// The groups that are to be written.
fn groups(client: &Client, args: &Args, topics: &BTreeSet<&str>) -> anyhow::Result<Vec<Exported>> {
    let all = match (args.no_groups, args.groups.is_empty()) {
        (true, _) => Vec::new(),
        (false, true) => names(client, "groups")?,
        (false, false) => args.groups.clone(),
    };
    let has_all = args.topics.is_empty();
    let mut found = Vec::new();
    for group in all {
        match Exported::read(client, &group, topics, has_all)? {
            Some(group) => found.push(group),
            None if !args.groups.is_empty() => {
                bail!(
                    "the group {group} has committed nothing in these topics, and has not subscribed to them"
                )
            }
            None if has_all => note(format_args!("the group {group} has no topic, and is left out")),
            None => {}
        }
    }
    Ok(found)
}

struct Export<'a> {
    client: &'a Client,
    interrupt: &'a Interrupt,
    out: &'a Stdout,
    bar: ProgressBar,
    records: u64,
}

impl Export<'_> {
    fn write(&self, bytes: Vec<u8>) -> anyhow::Result<()> {
        if self.interrupt.get().is_some() || !self.out.write(bytes)? {
            bail!("interrupted: the file is not whole");
        }
        Ok(())
    }

    fn line(&self, line: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.write(text)
    }

    /// Writes a topic with all records that it has now.
    fn topic(&mut self, name: &str) -> anyhow::Result<()> {
        let topic = Topic::describe_patiently(self.client, name, self.interrupt)?;
        let settings = topic.config.as_object().into_iter().flatten();
        let own = settings.filter(|(_, setting)| setting["source"] == "topic");
        let config: Map<String, Value> = own
            .map(|(key, setting)| (key.clone(), setting["value"].clone()))
            .collect();
        self.line(&json!({"make_topic": name, "partitions": topic.partition_count, "config": config}))?;
        let head = format!("{{\"topic\":{},", Value::from(name));
        for partition in &topic.partitions {
            let (from, until) = (partition.log_start_offset, partition.end_offset);
            let mut reader = Partition::new(self.client, name, partition.partition, from, Some(until));
            while !reader.is_done() {
                let size = Size {
                    records: MAX_RECORDS,
                    bytes: FETCH_BYTES,
                    wait: Duration::ZERO,
                };
                let chunk = reader.fetch(size, self.interrupt)?;
                let mut text = Vec::with_capacity(chunk.lines.len() + (64 << 10));
                for line in chunk.lines.split_inclusive(|byte| *byte == b'\n') {
                    let Some(rest) = line.strip_prefix(b"{") else {
                        bail!("the server sent a line that is no record");
                    };
                    text.extend_from_slice(head.as_bytes());
                    text.extend_from_slice(rest);
                    self.records += 1;
                }
                self.write(text)?;
                self.bar.set_message(format!("{} written", records(self.records)));
                self.bar.tick();
            }
        }
        Ok(())
    }
}
