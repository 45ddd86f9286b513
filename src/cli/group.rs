//! `quipu group`: lists, describes, moves and deletes consumer groups.

use std::collections::{BTreeMap, HashMap};

use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;
use http::Method;
use serde_json::{Map, Value, json};

use super::Usage;
use super::api::{self, Committed, group_route};
use super::client::{Client, Failure, Route};
use super::connect::Connect;
use super::group_move::{self, RedriveArgs, SeekTo};
use super::group_reset::{self, ResetArgs};
use super::lag::report::print_group;
use super::output::{self, Table, count_of, span_s};

pub(crate) const EXAMPLES: &str = "Examples:
  quipu group reset billing --topic orders --to -1h --dry-run
  quipu group seek billing-test --to-group billing
  quipu group redrive billing --topic orders.dlq";

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Lists all groups
    #[command(after_help = "Examples:\n  quipu group list")]
    List,
    /// Shows a group's state, members and offsets
    #[command(after_help = "Examples:\n  quipu group describe billing")]
    Describe(Name),
    /// Changes a group's settings
    #[command(
        after_help = "Examples:\n  quipu group alter billing --filter header.type=order.* --filter header.type=invoice.paid\n  quipu group alter resize --lease-ms 60000 --unset filter"
    )]
    Alter {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        changes: Changes,
    },
    /// Moves a group's committed offsets, of live groups too
    #[command(
        after_help = "Examples:\n  quipu group reset billing --topic orders --to -1h --dry-run\n  quipu group reset billing --all-topics --to earliest --while-active --yes"
    )]
    Reset {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        reset: ResetArgs,
    },
    /// Commits offsets for a group, taken from another group or a file
    #[command(after_help = "Examples:\n  quipu group seek billing-test --to-group billing")]
    Seek {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        seek: SeekTo,
    },
    /// Gives the dead letters of a work queue back to it, or discards them
    #[command(
        after_help = "Examples:\n  quipu group redrive billing\n  quipu group redrive billing --reason 'bad date' --discard --dry-run\n  quipu group redrive billing --topic orders.dlq --offset 0:17 --offset 2:5"
    )]
    Redrive {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        redrive: RedriveArgs,
    },
    /// Removes a member from its group; records that it has not acknowledged go to other members
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
    Delete(Name),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Name {
    /// Name of the group
    #[arg(value_name = "GROUP", value_parser = NonEmptyStringValueParser::new())]
    group: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Changes {
    /// How long new leases last, in milliseconds (work queues)
    #[arg(long, value_name = "MS")]
    lease_ms: Option<u32>,
    /// Deliveries before a record becomes a dead letter (work queues)
    #[arg(long, value_name = "N")]
    max_deliveries: Option<u32>,
    /// Topic of later dead letters (work queues)
    #[arg(long, value_name = "TOPIC", value_parser = NonEmptyStringValueParser::new())]
    dead_letter_topic: Option<String>,
    /// `key`: a key's records one after the other; only without members (work queues)
    #[arg(long, value_name = "ORDER", value_parser = ["key"])]
    order: Option<String>,
    /// Records that the group gets: a pattern of the key or of a header; may be repeated
    #[arg(long, value_name = "FIELD=PATTERN", value_parser = parse_pattern)]
    filter: Vec<(String, String)>,
    /// A setting that goes back to its default, as filter or lease_ms; may be repeated
    #[arg(long, value_name = "SETTING", value_parser = NonEmptyStringValueParser::new())]
    unset: Vec<String>,
}

impl Changes {
    /// The body of the request; a setting that goes back to its default is null.
    fn body(self) -> Result<Map<String, Value>, Usage> {
        let mut filter: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (field, pattern) in self.filter {
            filter.entry(field).or_default().push(pattern);
        }
        let filter = (!filter.is_empty()).then(|| json!(filter));
        let given = [
            ("lease_ms", self.lease_ms.map(Value::from)),
            ("max_deliveries", self.max_deliveries.map(Value::from)),
            ("dead_letter_topic", self.dead_letter_topic.map(Value::from)),
            ("order", self.order.map(Value::from)),
            ("filter", filter),
        ];
        let given = given
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let mut body = Map::new();
        for (name, value) in given.chain(self.unset.into_iter().map(|name| (name, Value::Null))) {
            if body.insert(name.clone(), value).is_some() {
                return Err(Usage(format!("the setting {name} is given twice")));
            }
        }
        Ok(body)
    }
}

fn parse_pattern(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(field, _)| !field.is_empty());
    let (field, pattern) = parts.ok_or("write it as key=PATTERN or header.NAME=PATTERN")?;
    Ok((field.to_owned(), pattern.to_owned()))
}

pub(crate) fn run(action: Action, connect: &Connect, is_json: bool) -> anyhow::Result<()> {
    let client = connect.client()?;
    match action {
        Action::List => list(&client, is_json),
        Action::Describe(Name { group }) => describe(&client, &group, is_json),
        Action::Alter { name, changes } => {
            let group = name.group;
            let body = changes.body()?;
            if body.is_empty() {
                return Err(Usage::of("nothing to change: give a setting or --unset"));
            }
            let answer = client.send(&Method::PATCH, &group_route(&group, &[]), Some(&body.into()));
            let answer = answer.map_err(|failure| explain(failure.into(), &group))?;
            output::done(&answer, &format!("group {group} is changed"), is_json)
        }
        Action::Reset {
            name: Name { group },
            reset,
        } => group_reset::run(&client, &group, &reset, is_json),
        Action::Seek {
            name: Name { group },
            seek,
        } => group_move::seek(&client, &group, &seek, is_json).map_err(|error| explain(error, &group)),
        Action::Redrive { name, redrive } => group_move::redrive(&client, &name.group, &redrive, is_json),
        Action::Kick { name, member } => {
            let group = name.group;
            let kicked = client.send(&Method::DELETE, &group_route(&group, &["members", &member]), None);
            kicked.map_err(|failure| match failure.code() {
                Some("unknown-member") => anyhow::anyhow!(
                    "unknown-member: group {group} has no member {member}; quipu group describe {group} shows its members"
                ),
                _ => failure.into(),
            })?;
            let text = format!("member {member} of group {group} is gone");
            output::done(&json!({"group": group, "kicked": member}), &text, is_json)
        }
        Action::Delete(Name { group }) => {
            let deleted = client.send(&Method::DELETE, &group_route(&group, &[]), None);
            deleted.map_err(|failure| explain(failure.into(), &group))?;
            let text = format!("group {group} is deleted");
            output::done(&json!({"deleted": group}), &text, is_json)
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
    Table::of(&groups)
        .text("GROUP", |group| text(group, "group"))
        .text("STATE", |group| text(group, "state"))
        .text("TYPE", |group| text(group, "type"))
        .number("MEMBERS", |group| count_of(group["members"].as_u64()))
        .number("LAG", |group| count_of(lags.get(text(group, "group")).copied()))
        .print(&["TYPE", "MEMBERS", "STATE"])
}

/// A member of an answer that is a text; `-` for none.
fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or("-")
}

/// A member of an answer that is an array; empty for none.
fn rows_of<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
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
        let Some((topic, partition)) = row["topic"].as_str().zip(row["partition"].as_u64()) else {
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
    if member["polling"] == true {
        return "polling".to_owned();
    }
    match member["idle_ms"].as_u64() {
        Some(idle_ms) => format!("{} ago", span_s(idle_ms / 1000)),
        None => output::time_ms(member["last_contact"].as_i64()),
    }
}

/// What a queue holds.
fn queue_line(queue: &Value) -> String {
    let number = |name: &str| count_of(queue[name].as_u64());
    let (leased, delayed, waiting) = (number("leased"), number("delayed"), number("waiting"));
    let full = match queue["full"] == true {
        true => "; as many unsettled records as the server may remember: it looks at no further ones",
        false => "",
    };
    let dead_letters = number("dead_letters");
    format!(
        "{leased} leased, {delayed} delayed, {waiting} waiting; dead letters that wait: {dead_letters}{full}"
    )
}

fn describe(client: &Client, group: &str, is_json: bool) -> anyhow::Result<()> {
    let answer: Value = client.get(&group_route(group, &[]))?;
    if is_json {
        return Ok(output::json(&answer)?);
    }
    let kind = text(&answer, "type");
    output::line(format_args!("group {group}: {kind}, {}", text(&answer, "state")))?;
    let settings = &answer["settings"];
    if let Some(lease_ms) = settings["lease_ms"].as_u64() {
        let dead_letters = settings["dead_letter_topic"].as_str().unwrap_or("TOPIC.dlq");
        let deliveries = settings["max_deliveries"].as_u64().unwrap_or_default();
        output::line(format_args!(
            "leases of {lease_ms} ms, at most {deliveries} deliveries, then to {dead_letters}"
        ))?;
    }
    if let Some(order) = settings["order"].as_str() {
        output::line(format_args!("in order of each {order}"))?;
    }
    if !settings["filter"].is_null() {
        output::line(format_args!("only records that match {}", settings["filter"]))?;
    }
    if let Some(queue) = answer.get("queue") {
        output::line(output::wrapped(&queue_line(queue)))?;
    }
    output::line("")?;
    let members = rows_of(&answer, "members");
    if !members.is_empty() {
        Table::of(members)
            .text("MEMBER", |member| text(member, "member_id"))
            .optional("CLIENT", |member| text(member, "client_id"))
            .optional("ADDRESS", |member| text(member, "address"))
            .text("LAST CONTACT", |member| last_contact(member))
            .optional("PARTITIONS", |member| partitions(rows_of(member, "assignment")))
            .optional("LEASED", |member| count_of(member["leased"].as_u64()))
            .print(&["ADDRESS", "CLIENT", "LEASED", "LAST CONTACT"])?;
        output::line("")?;
    }
    if print_group(client, group)? {
        return Ok(());
    }
    Table::of(Committed::of(client, group)?.offsets)
        .text("TOPIC", |row| row.topic.clone())
        .number("PARTITION", |row| row.partition)
        .number("COMMITTED", |row| row.offset)
        .print(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_in_a_row_are_a_range_and_each_topic_is_named_once() {
        let row = |topic: &str, partition: u32| json!({"topic": topic, "partition": partition});
        let orders = [0, 1, 2, 5, 7, 8].map(|partition| row("orders", partition));
        let assignment = [&orders[..], &[row("payments", 1)]].concat();
        assert_eq!(partitions(&assignment), "orders 0-2,5,7-8 payments 1");
        assert_eq!(partitions(&[]), "-");
    }

    #[test]
    fn a_queue_says_what_it_holds_also_one_of_an_older_server() {
        let queue = json!({"leased": 3, "delayed": 0, "waiting": 12_000, "dead_letters": 4, "full": false});
        let text = "3 leased, 0 delayed, 12,000 waiting; dead letters that wait: 4";
        assert_eq!(queue_line(&queue), text);
        let older = json!({"leased": 3, "delayed": 0, "waiting": 1, "full": true});
        let text = queue_line(&older);
        assert!(
            text.contains("dead letters that wait: -; as many unsettled records"),
            "{text}"
        );
    }

    #[test]
    fn a_contact_is_so_long_ago_by_the_servers_clock_or_goes_on() {
        let text = |idle_ms: u64| last_contact(&json!({"idle_ms": idle_ms, "polling": false}));
        for (idle_ms, ago) in [
            (3_400, "3 s ago"),
            (125_000, "2 min 5 s ago"),
            (7_260_000, "2 h 1 min ago"),
        ] {
            assert_eq!(text(idle_ms), ago);
        }
        assert_eq!(last_contact(&json!({"idle_ms": 0, "polling": true})), "polling");
        let at = json!({"last_contact": 1_357_035_420_000_i64});
        assert_eq!(last_contact(&at), "2013-01-01T10:17:00Z");
    }
}
