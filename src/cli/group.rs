//! `quipu group`: lists, describes, moves and deletes consumer groups.

use std::collections::HashMap;

use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;
use http::Method;
use serde_json::{Map, Value, json};

use super::api::{self, Committed, group_route};
use super::client::{Client, Failure, Route};
use super::connect::Connect;
use super::group_move::{self, SeekTo};
use super::lag;
use super::output::{self, Column, Output, count_of, plain};
use super::position::ResetTo;

/// The flags and arguments of `quipu group`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quipu group reset billing --topic orders --to -1h --dry-run
  quipu group seek billing-test --to-group billing
  quipu group redrive billing --topic orders.dlq")]
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
    #[command(after_help = "Examples:\n  quipu group list")]
    List,
    /// Shows a group's state, members and offsets
    #[command(after_help = "Examples:\n  quipu group describe billing")]
    Describe {
        #[command(flatten)]
        name: Name,
    },
    /// Moves a group's committed offsets
    #[command(after_help = "Examples:\n  quipu group reset billing --topic orders --to -1h --dry-run")]
    Reset {
        #[command(flatten)]
        name: Name,
        /// Topic whose offsets move
        #[arg(long, value_name = "TOPIC", value_parser = NonEmptyStringValueParser::new())]
        topic: String,
        /// Partition whose offset moves; may be repeated [default: all]
        #[arg(long, value_name = "P")]
        partition: Vec<u32>,
        /// `earliest`, `latest`, offset:N, a time (2013-07-01T12:00, a date, -1h) or shift:-100
        #[arg(long, value_name = "WHERE", value_parser = ResetTo::parse, allow_hyphen_values = true)]
        to: ResetTo,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Commits for a group what another group, or a file, has
    #[command(after_help = "Examples:\n  quipu group seek billing-test --to-group billing")]
    Seek {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        seek: SeekTo,
    },
    /// Gives a work queue its dead letters back
    #[command(after_help = "Examples:\n  quipu group redrive billing --topic orders.dlq --max 100")]
    Redrive {
        #[command(flatten)]
        name: Name,
        /// The topic of dead letters, as orders.dlq
        #[arg(long, value_name = "TOPIC", value_parser = NonEmptyStringValueParser::new())]
        topic: String,
        /// Give back at most so many [default: all]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        max: Option<u64>,
    },
    /// Ends a member's membership; what it has not acknowledged goes to others
    #[command(after_help = "Examples:\n  quipu group kick billing MEMBER")]
    Kick {
        #[command(flatten)]
        name: Name,
        /// Id of the member, as `quipu group describe` shows it
        #[arg(value_name = "MEMBER", value_parser = NonEmptyStringValueParser::new())]
        member: String,
    },
    /// Deletes a group without members, and its offsets
    #[command(after_help = "Examples:\n  quipu group delete billing")]
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

/// Runs `quipu group`.
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
            group_move::reset(&client, &name.group, &body.into(), is_json)
                .map_err(|error| explain(error, &name.group))
        }
        Action::Seek { name, seek } => group_move::seek(&client, &name.group, &seek, is_json)
            .map_err(|error| explain(error, &name.group)),
        Action::Redrive { name, topic, max } => {
            group_move::redrive(&client, &name.group, &topic, max, is_json)
        }
        Action::Kick { name, member } => {
            client.send(
                &Method::DELETE,
                &group_route(&name.group, &["members", &member]),
                None,
            )?;
            let text = format!("member {member} of group {} is gone", name.group);
            output::done(&json!({"group": name.group, "kicked": member}), &text, is_json)
        }
        Action::Delete { name } => {
            client
                .send(&Method::DELETE, &group_route(&name.group, &[]), None)
                .map_err(|failure| explain(failure.into(), &name.group))?;
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
    let lags = api::list(client, &Route::new(&["v1", "lag"]), "groups")?;
    let lags: HashMap<&str, u64> = lags
        .iter()
        .filter_map(|row| Some((row.get("group")?.as_str()?, row.get("lag")?.as_u64()?)))
        .collect();
    let rows = groups.iter().map(|group| {
        let name = text(group, "group");
        let lag = lags.get(&*name).copied();
        vec![
            plain(&name),
            plain(text(group, "state")),
            plain(text(group, "type")),
            plain(count_of(group.get("members").and_then(Value::as_u64))),
            plain(count_of(lag)),
        ]
    });
    let columns = [
        Column::Text("GROUP"),
        Column::Text("STATE"),
        Column::Text("TYPE"),
        Column::Number("MEMBERS"),
        Column::Number("LAG"),
    ];
    Ok(output::table(
        &columns,
        rows.collect(),
        &["TYPE", "MEMBERS", "STATE"],
    )?)
}

/// A member of an answer that is a text; `-` for none.
fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or("-").to_owned()
}

/// A member of an answer that is an array; empty for none.
fn rows_of<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value
        .get(name)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Says what to do about members that are in the way.
fn explain(error: anyhow::Error, group: &str) -> anyhow::Error {
    match error.downcast_ref::<Failure>().and_then(Failure::code) {
        Some("group-active") => anyhow::anyhow!(
            "group-active: group {group} has live members, which would not notice: stop them first, or wait until their \
             sessions end; quipu group describe {group} shows who they are"
        ),
        _ => error,
    }
}

/// The partitions of an assignment: `orders 0-2,5 payments 1`.
pub(crate) fn partitions(assignment: &[Value]) -> String {
    let mut topics: Vec<(&str, Vec<u64>)> = Vec::new();
    for row in assignment {
        let place = row.get("topic").and_then(Value::as_str);
        let Some((topic, partition)) = place.zip(row.get("partition").and_then(Value::as_u64)) else {
            continue;
        };
        match topics.last_mut() {
            Some((last, partitions)) if *last == topic => partitions.push(partition),
            _ => topics.push((topic, vec![partition])),
        }
    }
    let of_topic = |(topic, partitions): &(&str, Vec<u64>)| format!("{topic} {}", ranges(partitions));
    match topics.is_empty() {
        true => "-".to_owned(),
        false => topics.iter().map(of_topic).collect::<Vec<_>>().join(" "),
    }
}

/// Sorted numbers, with those in a row as `first-last`.
fn ranges(numbers: &[u64]) -> String {
    let rows = numbers.chunk_by(|a, b| a + 1 == *b).map(|row| match row {
        [first, .., last] => format!("{first}-{last}"),
        row => row.iter().map(u64::to_string).collect(),
    });
    rows.collect::<Vec<_>>().join(",")
}

/// How long ago a member was heard from.
fn last_contact(member: &Value) -> String {
    if member.get("polling") == Some(&Value::Bool(true)) {
        return "polling".to_owned();
    }
    match member.get("idle_ms").and_then(Value::as_u64) {
        Some(idle_ms) => format!("{} ago", ago(idle_ms)),
        None => output::time_ms(member.get("last_contact").and_then(Value::as_i64)),
    }
}

/// A short span: `3 s`, `2 min 5 s`.
fn ago(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        s if s < 60 => format!("{s} s"),
        s if s < 3600 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

fn describe(client: &Client, group: &str, is_json: bool) -> anyhow::Result<()> {
    let answer: Value = client.get(&group_route(group, &[]))?;
    if is_json {
        return Ok(output::json(&answer)?);
    }
    let kind = text(&answer, "type");
    output::line(format_args!("group {group}: {kind}, {}", text(&answer, "state")))?;
    if let Some(settings) = answer.get("settings") {
        let number = |name: &str| settings.get(name).and_then(Value::as_u64).unwrap_or_default();
        let dead_letters = match settings.get("dead_letter_topic").and_then(Value::as_str) {
            Some(topic) => topic.to_owned(),
            None => "TOPIC.dlq".to_owned(),
        };
        output::line(format_args!(
            "leases of {} ms, at most {} deliveries, then to {dead_letters}",
            number("lease_ms"),
            number("max_deliveries"),
        ))?;
    }
    output::line("")?;
    let members = rows_of(&answer, "members");
    if !members.is_empty() {
        let rows = members.iter().map(|member| {
            vec![
                plain(text(member, "member_id")),
                plain(text(member, "client_id")),
                plain(text(member, "address")),
                plain(last_contact(member)),
                plain(partitions(rows_of(member, "assignment"))),
                plain(count_of(member.get("leased").and_then(Value::as_u64))),
            ]
        });
        let columns = [
            Column::Text("MEMBER"),
            Column::Optional("CLIENT"),
            Column::Optional("ADDRESS"),
            Column::Text("LAST CONTACT"),
            Column::Optional("PARTITIONS"),
            Column::Optional("LEASED"),
        ];
        let spare = ["ADDRESS", "CLIENT", "LEASED", "LAST CONTACT"];
        output::table(&columns, rows.collect(), &spare)?;
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
    Ok(output::table(&columns, rows.collect(), &[])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_in_a_row_are_a_range_and_each_topic_is_named_once() {
        let row = |topic: &str, partition: u32| json!({"topic": topic, "partition": partition});
        let assignment: Vec<Value> = [0, 1, 2, 5, 7, 8]
            .map(|partition| row("orders", partition))
            .into_iter()
            .chain([row("payments", 1)])
            .collect();
        assert_eq!(partitions(&assignment), "orders 0-2,5,7-8 payments 1");
        assert_eq!(partitions(&[]), "-");
    }

    #[test]
    fn a_contact_is_so_long_ago_by_the_servers_clock_or_goes_on() {
        let text = |idle_ms: u64| last_contact(&json!({"idle_ms": idle_ms, "polling": false}));
        assert_eq!(text(3_400), "3 s ago");
        assert_eq!(text(125_000), "2 min 5 s ago");
        assert_eq!(text(7_260_000), "2 h 1 min ago");
        assert_eq!(last_contact(&json!({"idle_ms": 0, "polling": true})), "polling");
        assert_eq!(
            last_contact(&json!({"last_contact": 1_357_035_420_000_i64})),
            "2013-01-01T10:17:00Z"
        );
    }
}
