//! `quipu lag`: how far groups are behind, the worst first.

use std::cmp::Reverse;

use clap::builder::NonEmptyStringValueParser;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Usage;
use super::api::{self, group_route};
use super::client::{Client, Connect, Route};
use super::output::{self, Column, Output, Tone, bytes, count, plain, records, span_ms};

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
    #[serde(default)]
    status: Option<String>,
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
    #[serde(default)]
    status: Option<String>,
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
        (Some(group), false) => {
            if !print_group(&client, group)? {
                output::line(format_args!("group {group} has committed no offsets"))?;
            }
            Ok(())
        }
        (None, is_json) => print_all(&client, is_json),
    }
}

fn print_all(client: &Client, is_json: bool) -> anyhow::Result<()> {
    let groups = api::list(client, &Route::new(&["v1", "lag"]), "groups")?;
    if is_json {
        return Ok(output::json(&json!({"groups": groups}))?);
    }
    let mut groups: Vec<GroupLag> = serde_json::from_value(groups.into())?;
    groups.sort_by_key(|g| {
        (
            Reverse((severity(g.status.as_deref()), g.lag_ms, g.lag)),
            g.group.clone(),
        )
    });
    let rows = groups.iter().map(|group| {
        vec![
            plain(&group.group),
            plain(&group.state),
            plain(count(group.lag)),
            plain(span_ms(group.lag_ms)),
            plain(bytes(group.lag_bytes)),
            status(group.status.as_deref()),
        ]
    });
    let columns = [
        Column::Text("GROUP"),
        Column::Text("STATE"),
        Column::Number("LAG"),
        Column::Number("BEHIND BY"),
        Column::Number("BYTES"),
        Column::Optional("STATUS"),
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
            Reverse((severity(p.status.as_deref()), p.lag_ms, p.lag)),
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
            status(p.status.as_deref()),
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
        Column::Optional("MEMBER"),
        Column::Optional("STATUS"),
    ];
    output::table(&columns, rows.collect())?;
    output::line(format_args!(
        "\ngroup {}: {} behind, {}; the oldest is {} old",
        lag.group,
        records(lag.lag),
        bytes(lag.lag_bytes),
        span_ms(lag.lag_ms)
    ))?;
    Ok(true)
}

fn severity(status: Option<&str>) -> u8 {
    match status {
        None | Some("ok") => 0,
        Some("behind") => 1,
        Some("stalled") => 2,
        // A status of a newer server is worth a look.
        Some(_) => 3,
    }
}

/// The cell of a status; servers that keep no history have none.
fn status(status: Option<&str>) -> (String, Tone) {
    let tone = match (status, severity(status)) {
        (None, _) => Tone::Plain,
        (_, 0) => Tone::Good,
        (_, 1) => Tone::Warn,
        _ => Tone::Bad,
    };
    (status.unwrap_or("-").to_owned(), tone)
}
