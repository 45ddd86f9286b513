//! `quipu topic damage` and `quipu topic skip`: list unreadable records, and skip them.

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Usage;
use super::api::{Topic, partition_route};
use super::client::Client;
use super::output::{self, Table, Tone, count};

/// The offsets for `quipu topic skip`.
#[derive(Debug, clap::Args)]
pub(crate) struct Range {
    /// The partition
    #[arg(long, value_name = "P")]
    partition: u32,
    /// The first damaged offset
    #[arg(long, value_name = "OFFSET")]
    from: u64,
    /// One past the last damaged offset
    #[arg(long, value_name = "OFFSET")]
    until: u64,
    /// Undo the skip: consumers stop at the damage again
    #[arg(long)]
    undo: bool,
}

/// A damaged range as the HTTP API lists it.
#[derive(Debug, Deserialize)]
struct Row {
    damaged_offset: u64,
    damaged_until_offset: u64,
    skipped: bool,
}

/// Lists the damaged ranges of all partitions.
pub(crate) fn list(client: &Client, topic: &str, is_json: bool) -> anyhow::Result<()> {
    let partitions = Topic::describe(client, topic)?.partition_count;
    let mut answers = Vec::new();
    let mut rows = Vec::new();
    for partition in 0..partitions {
        let mut answer: Value = client.get(&partition_route(topic, partition, &["damage"]))?;
        let damage = answer.get_mut("damage").map(Value::take).unwrap_or_default();
        for row in damage.as_array().into_iter().flatten() {
            let mut row = row.clone();
            row["partition"] = partition.into();
            answers.push(row);
        }
        let known: Vec<Row> = serde_json::from_value(damage)?;
        rows.extend(known.into_iter().map(|row| (partition, row)));
    }
    if is_json {
        return Ok(output::json(&json!({"topic": topic, "damage": answers}))?);
    }
    if rows.is_empty() {
        return Ok(output::line(format_args!(
            "topic {topic} has no known damage (quipu verify reads everything, with the server stopped)"
        ))?);
    }
    let offsets = |row: &Row| row.damaged_until_offset.saturating_sub(row.damaged_offset);
    Table::of(rows)
        .number("PARTITION", |(partition, _)| *partition)
        .number("FROM", |(_, row)| row.damaged_offset)
        .number("UNTIL", |(_, row)| row.damaged_until_offset)
        .number("OFFSETS", |(_, row)| count(offsets(row)))
        .toned("SKIPPED", |(_, row)| match row.skipped {
            true => ("yes".to_owned(), Tone::Warn),
            false => ("no".to_owned(), Tone::Bad),
        })
        .print(&["OFFSETS"])
}

/// Skips a range, or undoes that.
pub(crate) fn skip(client: &Client, topic: &str, range: Range, is_json: bool) -> anyhow::Result<()> {
    let (partition, from, until) = (range.partition, range.from, range.until);
    if from >= until {
        let wrong = format!("--until is exclusive and must be above --from: {until} is not above {from}");
        return Err(Usage(wrong).into());
    }
    let route = partition_route(topic, partition, &["damage", "skip"]);
    let what = format!("offsets {from} to {until} (exclusive) of {topic}/{partition}");
    if range.undo {
        let route = route
            .with("damaged_offset", from)
            .with("damaged_until_offset", until);
        let answer = client.send(&Method::DELETE, &route, None)?;
        return output::done(&answer, &format!("{what} are not skipped"), is_json);
    }
    let body = json!({"damaged_offset": from, "damaged_until_offset": until});
    let answer = client.send(&Method::POST, &route, Some(&body))?;
    let text = format!("{what} are skipped: consumers continue after them, with a warning");
    output::done(&answer, &text, is_json)
}
