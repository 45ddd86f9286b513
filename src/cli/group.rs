//! `quipu group`: lists, describes, moves and deletes consumer groups.

use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;
use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::api::{self, Committed, group_route};
use super::client::{Client, Connect, Route};
use super::lag;
use super::output::{self, Column, Output, count_of, plain};
use super::position::ResetTo;

/// What `quipu group` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists all groups
    List,
    /// Shows a group's state, members and offsets
    Describe {
        #[command(flatten)]
        name: Name,
    },
    /// Moves a group's committed offsets
    Reset {
        #[command(flatten)]
        name: Name,
        /// Topic whose offsets move
        #[arg(long, value_name = "TOPIC", value_parser = NonEmptyStringValueParser::new())]
        topic: String,
        /// Partition whose offset moves; may be repeated [default: all]
        #[arg(long, value_name = "P")]
        partition: Vec<u32>,
        /// `earliest`, `latest`, an offset, a time (2013-07-01T00:00:00Z, a date, time:1372636800000) or shift:-100
        #[arg(long, value_name = "WHERE", value_parser = ResetTo::parse)]
        to: ResetTo,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Deletes a group without members, and its offsets
    Delete {
        #[command(flatten)]
        name: Name,
    },
}

#[derive(Debug, clap::Args)]
struct Name {
    /// Name of the group
    #[arg(value_name = "GROUP", value_parser = NonEmptyStringValueParser::new())]
    group: String,
}

/// Does it.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let client = args.connect.client()?;
    let is_json = args.output.is_json();
    match args.action {
        Action::List => list(&client, is_json),
        Action::Describe { name } => describe(&client, &name.group, is_json),
        Action::Reset {
            name,
            topic,
            partition,
            to,
            dry_run,
        } => {
            let mut body = Map::new();
            body.insert("topic".to_owned(), topic.into());
            if !partition.is_empty() {
                body.insert("partitions".to_owned(), partition.into());
            }
            body.insert("to".to_owned(), to.to_json());
            body.insert("dry_run".to_owned(), dry_run.into());
            reset(&client, &name.group, &body.into(), is_json)
        }
        Action::Delete { name } => {
            client.send(&Method::DELETE, &group_route(&name.group, &[]), None)?;
            let text = format!("group {} is deleted", name.group);
            output::done(&json!({"deleted": name.group}), &text, is_json)
        }
    }
}

fn list(client: &Client, is_json: bool) -> anyhow::Result<()> {
    let groups = api::list(client, &Route::new(&["v1", "groups"]), "groups")?;
    if is_json {
        return Ok(output::json(&json!({"groups": groups}))?);
    }
    let text = |group: &Value, name: &str| group.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    let rows = groups.iter().map(|group| {
        vec![
            plain(text(group, "group")),
            plain(text(group, "state")),
            plain(text(group, "type")),
        ]
    });
    let columns = [Column::Text("GROUP"), Column::Text("STATE"), Column::Text("TYPE")];
    Ok(output::table(&columns, rows.collect())?)
}

fn describe(client: &Client, group: &str, is_json: bool) -> anyhow::Result<()> {
    let answer: Value = client.get(&group_route(group, &[]))?;
    if is_json {
        return Ok(output::json(&answer)?);
    }
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    output::line(format_args!("group {group}: {}\n", text(&answer, "state")))?;
    let members = answer
        .get("members")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    if !members.is_empty() {
        let rows = members.iter().map(|member| {
            vec![
                plain(text(member, "member_id")),
                plain(text(member, "client_id")),
                plain(text(member, "address")),
                plain(output::time_ms(
                    member.get("last_contact").and_then(Value::as_i64),
                )),
            ]
        });
        let columns = [
            Column::Text("MEMBER"),
            Column::Text("CLIENT"),
            Column::Text("ADDRESS"),
            Column::Text("LAST CONTACT"),
        ];
        output::table(&columns, rows.collect())?;
        output::line("")?;
    }
    if lag::print_group(client, group)? {
        return Ok(());
    }
    let rows = Committed::of(client, group)?.offsets;
    let rows = rows
        .iter()
        .map(|row| vec![plain(&row.topic), plain(row.partition), plain(row.offset)]);
    let columns = [
        Column::Text("TOPIC"),
        Column::Number("PARTITION"),
        Column::Number("COMMITTED"),
    ];
    Ok(output::table(&columns, rows.collect())?)
}

/// One partition of an answer to a reset.
#[derive(Debug, Deserialize)]
struct Moved {
    #[serde(default)]
    topic: Option<String>,
    partition: u32,
    #[serde(default)]
    old_offset: Option<u64>,
    #[serde(default)]
    new_offset: Option<u64>,
}

fn reset(client: &Client, group: &str, body: &Value, is_json: bool) -> anyhow::Result<()> {
    let answer = client.send(
        &Method::POST,
        &group_route(group, &["offsets", "reset"]),
        Some(body),
    )?;
    if is_json {
        return Ok(output::json(&answer)?);
    }
    let moved: Vec<Moved> = serde_json::from_value(answer.get("offsets").cloned().unwrap_or_default())?;
    let topic = body.get("topic").and_then(Value::as_str).unwrap_or_default();
    let rows = moved.iter().map(|moved| {
        vec![
            plain(moved.topic.as_deref().unwrap_or(topic)),
            plain(moved.partition),
            plain(count_of(moved.old_offset)),
            plain(count_of(moved.new_offset)),
        ]
    });
    let columns = [
        Column::Text("TOPIC"),
        Column::Number("PARTITION"),
        Column::Number("OLD"),
        Column::Number("NEW"),
    ];
    output::table(&columns, rows.collect())?;
    if body.get("dry_run") == Some(&Value::Bool(true)) {
        output::line("nothing was changed (--dry-run)")?;
    }
    Ok(())
}
