//! `quipu group reset` and `seek` move a group's offsets; `redrive` gives its dead letters back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ArgGroup;
use clap::builder::NonEmptyStringValueParser;
use http::Method;
use serde_json::{Value, json};

use super::api::{Committed, CommittedOffset, group_route};
use super::client::Client;
use super::group_reset::show;
use super::output;

/// Where `quipu group seek` takes the offsets from.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("source").required(true).args(["to_group", "to_file"])))]
pub(crate) struct SeekTo {
    /// The group whose offsets are taken
    #[arg(long, value_name = "OTHER", value_parser = NonEmptyStringValueParser::new())]
    to_group: Option<String>,
    /// A file with a line `TOPIC PARTITION OFFSET` for each partition, or the JSON of …/groups/GROUP/offsets; `-` for
    /// standard input
    #[arg(long, value_name = "FILE")]
    to_file: Option<PathBuf>,
    /// Take only this topic's offsets; may be repeated [default: all]
    #[arg(long, value_name = "TOPIC")]
    topic: Vec<String>,
    /// Change nothing, only show what would change
    #[arg(long)]
    dry_run: bool,
}

/// Commits for a group the offsets of another, or of a file.
pub(crate) fn seek(client: &Client, group: &str, seek: &SeekTo, is_json: bool) -> anyhow::Result<()> {
    let (mut offsets, source) = match (&seek.to_group, &seek.to_file) {
        (Some(other), _) => (Committed::of(client, other)?.offsets, format!("group {other}")),
        (None, Some(path)) => (read(path)?, path.display().to_string()),
        (None, None) => (Vec::new(), String::new()),
    };
    let all = seek.topic.is_empty();
    offsets.retain(|row| all || seek.topic.contains(&row.topic));
    if offsets.is_empty() {
        let chosen = if all { "" } else { " in these topics" };
        bail!("{source} has no offsets{chosen}");
    }
    let before = Committed::of(client, group)?.offsets;
    let before = before
        .iter()
        .map(|row| ((&*row.topic, row.partition), row.offset));
    let before: BTreeMap<_, _> = before.collect();
    let old = |row: &CommittedOffset| before.get(&(&*row.topic, row.partition)).copied();
    let commit =
        |row: &CommittedOffset| json!({"topic": row.topic, "partition": row.partition, "offset": row.offset});
    let moved = |row: &CommittedOffset| json!({"topic": row.topic, "partition": row.partition, "old_offset": old(row), "new_offset": row.offset});
    if !seek.dry_run {
        let body = json!({"offsets": offsets.iter().map(commit).collect::<Vec<_>>()});
        client.send(&Method::PUT, &group_route(group, &["offsets"]), Some(&body))?;
    }
    let rows = Value::from(offsets.iter().map(moved).collect::<Vec<_>>());
    match is_json {
        true => Ok(output::json(&json!({"dry_run": seek.dry_run, "offsets": rows}))?),
        false => show(&rows, seek.dry_run),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<CommittedOffset>> {
    let text = if path == Path::new("-") {
        io::read_to_string(io::stdin()).context("cannot read standard input")?
    } else {
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
    };
    parse(&text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
}

fn parse(text: &str) -> Result<Vec<CommittedOffset>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('{') {
        let committed: Result<Committed, _> = serde_json::from_str(text);
        let wrong = |line| {
            let example = r#"{"offsets":[{"topic":"orders","partition":0,"offset":7}]}"#;
            format!("line {line}: this is not the JSON of a group's offsets, as {example}")
        };
        let offsets = committed.map(|committed| committed.offsets);
        return offsets.map_err(|error| wrong(error.line()));
    }
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [topic, partition, offset] = words[..] else {
            return None;
        };
        let (topic, partition, offset) = (topic.to_owned(), partition.parse().ok()?, offset.parse().ok()?);
        Some(CommittedOffset {
            metadata: None,
            topic,
            partition,
            offset,
        })
    };
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let wrong = |line, number| format!("line {number}: {line:?} is not TOPIC PARTITION OFFSET");
    lines
        .map(|(line, number)| row(line).ok_or_else(|| wrong(line, number)))
        .collect()
}

/// The most records of one redrive request.
const REDRIVE_RECORDS: u64 = 1000;

/// Which dead letters to redrive, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct RedriveArgs {
    /// Take only the dead letters in this topic, as orders.dlq [default: all of the group]
    #[arg(long, value_name = "TOPIC", value_parser = NonEmptyStringValueParser::new())]
    topic: Option<String>,
    /// Take only the dead letter at this place in --topic, as 0:17; may be repeated [default: all]
    #[arg(long, value_name = "PARTITION:OFFSET", value_parser = parse_place, requires = "topic")]
    offset: Vec<(u32, u64)>,
    /// Take at most this many dead letters [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// Take only dead letters whose reason begins with this
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Discard them: they are not given back
    #[arg(long)]
    discard: bool,
    /// Only say how many there are
    #[arg(long)]
    dry_run: bool,
}

fn parse_place(text: &str) -> Result<(u32, u64), String> {
    let place = text
        .split_once(':')
        .and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
    place.ok_or_else(|| "a dead letter is named by its partition and its offset, as 0:17".to_owned())
}

/// Gives dead letters back to their group or discards them, in several requests so that others need not wait long.
pub(crate) fn redrive(
    client: &Client,
    group: &str,
    wanted: &RedriveArgs,
    is_json: bool,
) -> anyhow::Result<()> {
    let mut taken = 0;
    let (at_end, passed_over) = loop {
        let most = match wanted.dry_run {
            // Nothing changes, so a further request would count the same ones.
            true => 1_000_000,
            false => REDRIVE_RECORDS,
        };
        let mut body = json!({
            "max_records": wanted.max.map_or(most, |max| (max - taken).min(most)),
            "discard": wanted.discard, "dry_run": wanted.dry_run,
        });
        for (name, value) in [("dead_letter_topic", &wanted.topic), ("reason", &wanted.reason)] {
            if let Some(value) = value {
                body[name] = value.as_str().into();
            }
        }
        if !wanted.offset.is_empty() {
            let place = |(partition, offset): &(u32, u64)| json!({"partition": partition, "offset": offset});
            body["offsets"] = wanted.offset.iter().map(place).collect();
        }
        let answer = client.send(&Method::POST, &group_route(group, &["redrive"]), Some(&body));
        let answer = answer.map_err(|failure| match taken {
            0 => anyhow::Error::from(failure),
            _ => anyhow::anyhow!("{failure}; {taken} were taken before"),
        })?;
        let now = answer["redriven"].as_u64().unwrap_or(0) + answer["discarded"].as_u64().unwrap_or(0);
        taken += now;
        // They still wait, so each request counts them again.
        let passed_over = answer["passed_over"].as_u64().unwrap_or(0);
        let at_end = answer["at_end"] == true;
        // A server that takes nothing and never reports the end would be asked for ever.
        if at_end || now == 0 || wanted.dry_run || wanted.max.is_some_and(|max| taken >= max) {
            break (at_end, passed_over);
        }
    };
    let left = if at_end { "" } else { "; there may be more" };
    let count = output::counted(taken, "dead letter");
    let left = match passed_over {
        0 => left.to_owned(),
        _ => format!("; {passed_over} passed over, which this server has not made or which are copies{left}"),
    };
    let would = if wanted.dry_run { " would be" } else { "" };
    let text = match wanted.discard {
        true => format!("{count}{would} discarded{left}"),
        false => format!("{count}{would} given back to {group}{left}"),
    };
    let (redriven, discarded) = if wanted.discard { (0, taken) } else { (taken, 0) };
    let mut done = json!({
        "redriven": redriven, "discarded": discarded, "at_end": at_end, "dry_run": wanted.dry_run,
    });
    if passed_over > 0 {
        done["passed_over"] = passed_over.into();
    }
    output::done(&done, &text, is_json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_lines_or_the_json_of_the_api() {
        let json = r#"{"offsets":[{"topic":"t","partition":1,"offset":7,"metadata":null}]}"#;
        let marked = format!("\u{feff}{json}");
        for text in ["t 1 7\n", "\n t\t1 7", "\u{feff}t 1 7", json, &marked] {
            let rows = parse(text).unwrap();
            let row = &rows[0];
            assert_eq!(&*row.topic, "t", "{text}");
            assert_eq!(row.partition, 1, "{text}");
            assert_eq!(row.offset, 7, "{text}");
            assert_eq!(rows.len(), 1, "{text}");
        }
        let found = parse("t 1 7\nt x 7").unwrap_err();
        assert_eq!(found, "line 2: \"t x 7\" is not TOPIC PARTITION OFFSET");
        for wrong in ["{", r#"{"offset":[]}"#, r#"{"offsets":[{"topic":"t"}]}"#] {
            let found = parse(wrong).unwrap_err();
            let expected = "line 1: this is not the JSON of a group's offsets, as {\"offsets\":";
            assert!(found.starts_with(expected), "{found}");
        }
        assert!(parse("t 1").is_err());
    }
}
