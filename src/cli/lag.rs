//! `quipu lag`: how far groups are behind, the worst first.

use std::cmp::Reverse;

use clap::builder::NonEmptyStringValueParser;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Usage;
use super::api::{self, group_route};
use super::client::{Client, Connect, Route};
use super::output::{self, Column, Output, Tone, bytes, count, plain, span_ms};

/// What `quipu lag` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show this group's partitions instead of all groups
    #[arg(value_name = "GROUP", value_parser = NonEmptyStringValueParser::new())]
    group: Option<String>,
    /// Keep the table up to date
    #[arg(long, hide = true)]
    watch: bool,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

/// A group's lag; in the list of all groups without its topics.
#[derive(Debug, Deserialize)]
struct GroupLag {
    group: String,
    #[serde(default)]
    state: String,
    lag: u64,
    #[serde(default)]
    lag_ms: u64,
    #[serde(default)]
    lag_bytes: u64,
    status: String,
    #[serde(default)]
    topics: Vec<TopicLag>,
}

#[derive(Debug, Deserialize)]
struct TopicLag {
    topic: String,
    partitions: Vec<PartitionLag>,
}

#[derive(Debug, Deserialize)]
struct PartitionLag {
    partition: u32,
    #[serde(default)]
    committed_offset: Option<u64>,
    end_offset: u64,
    lag: u64,
    #[serde(default)]
    lag_ms: u64,
    #[serde(default)]
    lag_bytes: u64,
    #[serde(default)]
    member_id: Option<String>,
    status: String,
}

/// Does it.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    if args.watch {
        let text = "lag --watch is not supported by this version; `watch quipu lag` does the same";
        return Err(Usage(text.to_owned()).into());
    }
    let client = args.connect.client()?;
    match (&args.group, args.output.is_json()) {
        (Some(group), true) => Ok(output::json(
            &client.get::<Value>(&group_route(group, &["lag"]))?,
        )?),
        (Some(group), false) => print_group(&client, group).map(|_| ()),
        (None, is_json) => print_all(&client, is_json),
    }
}

fn print_all(client: &Client, is_json: bool) -> anyhow::Result<()> {
    let groups = api::list(client, &Route::new(&["v1", "lag"]), "groups")?;
    if is_json {
        return Ok(output::json(&json!({"groups": groups}))?);
    }
    let mut groups: Vec<GroupLag> = serde_json::from_value(groups.into())?;
    groups.sort_by_key(|g| (Reverse((severity(&g.status), g.lag_ms, g.lag)), g.group.clone()));
    let rows = groups.iter().map(|group| {
        vec![
            plain(&group.group),
            plain(&group.state),
            plain(count(group.lag)),
            plain(span_ms(group.lag_ms)),
            plain(bytes(group.lag_bytes)),
            (group.status.clone(), tone(&group.status)),
        ]
    });
    let columns = [
        Column::Text("GROUP"),
        Column::Text("STATE"),
        Column::Number("LAG"),
        Column::Number("BEHIND BY"),
        Column::Number("BYTES"),
        Column::Text("STATUS"),
    ];
    Ok(output::table(&columns, rows.collect())?)
}

/// Prints a group's lag by partition; false if there is nothing to print.
///
/// # Errors
/// The server or standard output.
pub(crate) fn print_group(client: &Client, group: &str) -> anyhow::Result<bool> {
    let lag: GroupLag = client.get(&group_route(group, &["lag"]))?;
    let mut partitions: Vec<(&str, &PartitionLag)> = lag
        .topics
        .iter()
        .flat_map(|t| t.partitions.iter().map(|p| (&*t.topic, p)))
        .collect();
    if partitions.is_empty() {
        return Ok(false);
    }
    partitions.sort_by_key(|(topic, p)| {
        (
            Reverse((severity(&p.status), p.lag_ms, p.lag)),
            *topic,
            p.partition,
        )
    });
    let rows = partitions.iter().map(|(topic, p)| {
        vec![
            plain(topic),
            plain(p.partition),
            plain(
                p.committed_offset
                    .map_or_else(|| "-".to_owned(), |offset| offset.to_string()),
            ),
            plain(p.end_offset),
            plain(count(p.lag)),
            plain(span_ms(p.lag_ms)),
            plain(bytes(p.lag_bytes)),
            plain(p.member_id.as_deref().unwrap_or("-")),
            (p.status.clone(), tone(&p.status)),
        ]
    });
    let columns = [
        Column::Text("TOPIC"),
        Column::Number("PARTITION"),
        Column::Number("COMMITTED"),
        Column::Number("END"),
        Column::Number("LAG"),
        Column::Number("BEHIND BY"),
        Column::Number("BYTES"),
        Column::Text("MEMBER"),
        Column::Text("STATUS"),
    ];
    output::table(&columns, rows.collect())?;
    output::line(format_args!(
        "\ngroup {}: {} records behind, the oldest by {}, {}: {}",
        lag.group,
        count(lag.lag),
        span_ms(lag.lag_ms),
        bytes(lag.lag_bytes),
        lag.status
    ))?;
    Ok(true)
}

fn severity(status: &str) -> u8 {
    match status {
        "ok" => 0,
        "behind" => 1,
        "stalled" => 2,
        // A status of a newer server is worth a look.
        _ => 3,
    }
}

fn tone(status: &str) -> Tone {
    match severity(status) {
        0 => Tone::Good,
        1 => Tone::Warn,
        _ => Tone::Bad,
    }
}
