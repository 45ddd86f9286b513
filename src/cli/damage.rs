//! `quipu topic damage` and `quipu topic skip`: list unreadable records, and skip them.

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Usage;
use super::api::Topic;
use super::client::{Client, Route};
use super::output::{self, Column, Tone, count, plain};

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
        let mut answer: Value = client.get(&route(topic, partition, &[]))?;
        let damage = answer["damage"].take();
        for row in damage.as_array().into_iter().flatten() {
            let mut row = row.clone();
            row["partition"] = partition.into();
            answers.push(row);
        }
        let known: Vec<Row> = serde_json::from_value(damage)?;
        rows.extend(known.into_iter().map(|row| {
            vec![
                plain(partition),
                plain(row.damaged_offset),
                plain(row.damaged_until_offset),
                plain(count(row.damaged_until_offset.saturating_sub(row.damaged_offset))),
                if row.skipped {
                    ("yes".to_owned(), Tone::Warn)
                } else {
                    ("no".to_owned(), Tone::Bad)
                },
            ]
        }));
    }
    if is_json {
        return Ok(output::json(&json!({"topic": topic, "damage": answers}))?);
    }
    if rows.is_empty() {
        return Ok(output::line(format_args!(
            "topic {topic} has no known damage (quipu verify reads everything, with the server stopped)"
        ))?);
    }
    let columns = [
        Column::Number("PARTITION"),
        Column::Number("FROM"),
        Column::Number("UNTIL"),
        Column::Number("OFFSETS"),
        Column::Text("SKIPPED"),
    ];
    Ok(output::table(&columns, rows, &["OFFSETS"])?)
}

/// Skips a range, or undoes that.
pub(crate) fn skip(client: &Client, topic: &str, range: Range, is_json: bool) -> anyhow::Result<()> {
    let Range {
        partition,
        from,
        until,
        undo,
    } = range;
    if from >= until {
        return Err(Usage(format!(
            "--until is exclusive and must be above --from: {until} is not above {from}"
        ))
        .into());
    }
    let route = route(topic, partition, &["skip"]);
    let what = format!("offsets {from} to {until} (exclusive) of {topic}/{partition}");
    if undo {
        let route = route
            .with("damaged_offset", from)
            .with("damaged_until_offset", until);
        let answer = client.send(&Method::DELETE, &route, None)?;
        return output::done(&answer, &format!("{what} are not skipped"), is_json);
    }
    let body = json!({"damaged_offset": from, "damaged_until_offset": until});
    let answer = client.send(&Method::POST, &route, Some(&body))?;
    let text = format!("{what} are skipped: consumers go on behind them and are told");
    output::done(&answer, &text, is_json)
}

fn route(topic: &str, partition: u32, rest: &[&str]) -> Route {
    let partition = partition.to_string();
    let mut segments = vec!["v1", "topics", topic, "partitions", &partition, "damage"];
    segments.extend(rest);
    Route::new(&segments)
}
