//! `quipu topic`: creates, lists, describes, changes and deletes topics.

use std::io::{self, IsTerminal};

use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;
use http::{Method, StatusCode};
use quipu::formats::units;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Usage;
use super::api::{self, Topic, partition_route, topic_route};
use super::client::{Client, Route};
use super::connect::Connect;
use super::damage;
use super::output::{self, Table, Tone, count, or_none, records, time_ms};
use super::position::Position;

pub(crate) const EXAMPLES: &str = "Examples:
  quipu topic create orders --partitions 6 --config retention_ms=7d --config segment_bytes=64MiB
  quipu topic trim orders --before -30d --dry-run";

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Creates a topic; repeating it is harmless
    #[command(after_help = "Examples:\n  quipu topic create orders --partitions 6 --config retention_ms=7d")]
    Create {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        changes: Changes,
    },
    /// Lists all topics
    #[command(after_help = "Examples:\n  quipu topic list")]
    List,
    /// Shows a topic's settings and partitions
    #[command(after_help = "Examples:\n  quipu topic describe orders")]
    Describe(Name),
    /// Adds partitions, changes settings
    #[command(after_help = "Examples:\n  quipu topic alter orders --partitions 12 --unset retention_ms")]
    Alter {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        changes: Changes,
        /// A setting that goes back to its default; may be repeated
        #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
        unset: Vec<String>,
        #[command(flatten)]
        care: Care,
    },
    /// Lists offsets that are known to be damaged
    #[command(after_help = "Examples:\n  quipu topic damage orders")]
    Damage(Name),
    /// Makes consumers continue after damaged offsets, or undoes that
    #[command(after_help = "Examples:\n  quipu topic skip orders --partition 0 --from 100 --until 120")]
    Skip {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        range: damage::Range,
    },
    /// Deletes the oldest records: moves the log start up
    #[command(after_help = "Examples:\n  quipu topic trim orders --before -30d --dry-run")]
    Trim(Trim),
    /// Deletes a topic, its records and the offsets that groups have in it
    ///
    /// On a terminal it says what would go and asks first.
    #[command(
        after_help = "Examples:\n  quipu topic delete orders --dry-run\n  quipu topic delete orders --yes"
    )]
    Delete {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        care: Care,
    },
}

/// How carefully something is taken away.
#[derive(Debug, clap::Args)]
pub(crate) struct Care {
    /// Change nothing, only show what would go
    #[arg(long)]
    dry_run: bool,
    /// Do not ask on a terminal
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Name {
    /// Name of the topic
    #[arg(value_name = "TOPIC", value_parser = NonEmptyStringValueParser::new())]
    topic: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Changes {
    /// Number of partitions; a topic that exists can only get more
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    /// A setting, as retention_ms=7d or segment_bytes=64MiB; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
    config: Vec<(String, Value)>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Trim {
    #[command(flatten)]
    name: Name,
    /// The first record that stays: offset:N, a time (2013-07-01T12:00, a date, -30d) or `latest`
    #[arg(long, value_name = "WHERE", value_parser = Position::parse_until, allow_hyphen_values = true)]
    before: Position,
    /// Trim only this partition; may be repeated [default: all]
    #[arg(long, value_name = "P")]
    partition: Vec<u32>,
    #[command(flatten)]
    care: Care,
}

pub(crate) fn run(action: Action, connect: &Connect, is_json: bool) -> anyhow::Result<()> {
    let client = connect.client()?;
    match action {
        Action::Create { name, changes } => {
            let body = changes.body(Vec::new())?;
            let route = topic_route(&name.topic);
            let (status, answer) = client.send_for_status(&Method::PUT, &route, Some(&body.into()))?;
            let with = match answer.get("partition_count").and_then(Value::as_u64) {
                Some(1) => " with 1 partition".to_owned(),
                Some(partitions) => format!(" with {partitions} partitions"),
                None => String::new(),
            };
            let what = match status {
                StatusCode::CREATED => "is made",
                _ => "exists already",
            };
            output::done(&answer, &format!("topic {}{with} {what}", name.topic), is_json)
        }
        Action::List => list(&client, is_json),
        Action::Describe(name) => describe(&client, &name.topic, is_json),
        Action::Alter {
            name,
            changes,
            unset,
            care,
        } => {
            let body = changes.body(unset)?;
            if body.is_empty() {
                let wrong = "nothing to change: give --partitions, --config or --unset";
                return Err(Usage::of(wrong));
            }
            let (route, body) = (topic_route(&name.topic), Value::from(body));
            let question = format!("Change topic {}?", name.topic);
            let change = (&Method::PATCH, route, Some(&body));
            let Some(route) = care.allows(&client, &name.topic, change, &question, is_json)? else {
                return Ok(());
            };
            let answer = client.send(&Method::PATCH, &route, Some(&body))?;
            output::done(&answer, &format!("topic {} is changed", name.topic), is_json)
        }
        Action::Damage(name) => damage::list(&client, &name.topic, is_json),
        Action::Skip { name, range } => damage::skip(&client, &name.topic, range, is_json),
        Action::Trim(trim) => trim.run(&client, is_json),
        Action::Delete { name, care } => {
            let route = topic_route(&name.topic);
            let question = format!("Delete topic {}?", name.topic);
            let change = (&Method::DELETE, route, None);
            let Some(route) = care.allows(&client, &name.topic, change, &question, is_json)? else {
                return Ok(());
            };
            client.send(&Method::DELETE, &route, None)?;
            let answer = json!({"deleted": name.topic});
            output::done(&answer, &format!("topic {} is deleted", name.topic), is_json)
        }
    }
}

/// What a change would take away.
#[derive(Debug, Deserialize)]
struct DryRun {
    records: u64,
    size_bytes: u64,
    groups: Vec<String>,
}

impl DryRun {
    /// In words.
    fn told(&self) -> String {
        let size = output::bytes(self.size_bytes);
        let gone = format!("{} ({size}) would go", records(self.records));
        match self.groups.len() {
            0 => format!("{gone}; no group reads them"),
            1 => format!("{gone}; the group {} reads them", self.groups[0]),
            _ => format!("{gone}; groups that read them: {}", self.groups.join(", ")),
        }
    }
}

impl Care {
    /// Whether somebody sits at a terminal who has not said yes yet.
    fn is_asked(&self) -> bool {
        !self.yes && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Shows what a change would take away, if that is wanted or somebody can be asked, and asks; returns where the change
    /// is to be sent, or nothing if it is not to be made. If it was shown, it is made to that very topic only.
    fn allows(
        &self,
        client: &Client,
        name: &str,
        (method, route, body): (&Method, Route, Option<&Value>),
        question: &str,
        is_json: bool,
    ) -> anyhow::Result<Option<Route>> {
        if !self.dry_run && !self.is_asked() {
            return Ok(Some(route));
        }
        let topic = Topic::describe(client, name)?;
        let route = route.with("if_id", &topic.id);
        let answer = client.send(method, &route.clone().with("dry_run", true), body)?;
        let gone: DryRun = serde_json::from_value(answer.clone())?;
        if self.dry_run {
            output::done(
                &answer,
                &format!("{}; nothing was changed (--dry-run)", gone.told()),
                is_json,
            )?;
            return Ok(None);
        }
        // Only what takes something away is asked about.
        if *method != Method::DELETE && gone.records == 0 {
            return Ok(Some(route));
        }
        confirm(&format!("{}. {question}", gone.told()))?;
        Ok(Some(route))
    }
}

/// Asks on the terminal.
/// Errors: Anything but a yes.
fn confirm(question: &str) -> anyhow::Result<()> {
    eprint!("quipu: {question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    let is_yes = matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    anyhow::ensure!(is_yes, "nothing was changed");
    Ok(())
}

impl Trim {
    /// Trims partitions, and says what goes or went.
    fn run(&self, client: &Client, is_json: bool) -> anyhow::Result<()> {
        let name = &self.name.topic;
        let topic = Topic::describe(client, name)?;
        // All are looked up before the first one is trimmed: a place that is wrong for one changes none.
        let mut moves = Vec::new();
        for partition in topic.choose(&self.partition)? {
            let to = self.before.resolve(client, name, partition)?;
            let from = partition.log_start_offset;
            moves.push((partition.partition, from, to.max(from)));
        }
        let gone: u64 = moves.iter().map(|(_, from, to)| to - from).sum();
        if self.care.is_asked() && !self.care.dry_run && gone > 0 {
            confirm(&format!(
                "{} of topic {name} would go. Delete them?",
                records(gone)
            ))?;
        }
        for (partition, from, to) in &moves {
            if !self.care.dry_run && to > from {
                let route = partition_route(name, *partition, &["records"]).with("before", to);
                let route = route.with("if_id", &topic.id);
                client.send(&Method::DELETE, &route, None)?;
            }
        }
        if is_json {
            let rows = moves.iter().map(|(partition, from, to)| {
                json!({"partition": partition, "old_log_start_offset": from, "log_start_offset": to, "records": to - from})
            });
            let rows: Vec<Value> = rows.collect();
            let answer = json!({"topic": name, "dry_run": self.care.dry_run, "partitions": rows});
            return Ok(output::json(&answer)?);
        }
        Table::of(moves)
            .number("PARTITION", |(partition, ..)| *partition)
            .number("OLD START", |(_, from, _)| *from)
            .number("NEW START", |(.., to)| *to)
            .number("DELETED", |(_, from, to)| count(to - from))
            .print(&["OLD START"])?;
        if self.care.dry_run {
            output::line("nothing was deleted (--dry-run)")?;
        }
        Ok(())
    }
}

/// `retention_ms=1000`: a value is JSON if it is a number, `true`, `false` or `null`, and a word otherwise. Milliseconds
/// and bytes may have a unit, or be `none`.
fn parse_setting(text: &str) -> Result<(String, Value), String> {
    let parts = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = parts.ok_or("a setting is written KEY=VALUE")?;
    let wrong = |what| format!("{key} takes {what}, not {value:?}");
    let value = match serde_json::from_str(value) {
        Ok(json @ (Value::Number(_) | Value::Bool(_) | Value::Null)) => json,
        // As `quipu topic describe` shows it.
        _ if value == "none" && (key.ends_with("_ms") || key.ends_with("_bytes")) => Value::Null,
        _ if key.ends_with("_ms") => {
            let ms = units::parse_duration(value).and_then(|span| u64::try_from(span.as_millis()).ok());
            Value::from(ms.ok_or_else(|| wrong("a duration as 7d, 12h or 500ms, or milliseconds"))?)
        }
        _ if key.ends_with("_bytes") => {
            let bytes = units::parse_bytes(value);
            Value::from(bytes.ok_or_else(|| wrong("a size as 64MiB or 10GB, or bytes"))?)
        }
        _ => Value::from(value),
    };
    Ok((key.to_owned(), value))
}

impl Changes {
    /// The body of a request that makes or changes a topic; a setting that goes back to its default is null.
    fn body(self, unset: Vec<String>) -> Result<Map<String, Value>, Usage> {
        let mut settings = Map::new();
        let unset = unset.into_iter().map(|key| (key, Value::Null));
        for (key, value) in self.config.into_iter().chain(unset) {
            if settings.insert(key.clone(), value).is_some() {
                return Err(Usage(format!("the setting {key} is given twice")));
            }
        }
        let partitions = self.partitions.map(Value::from);
        let settings = Some(Value::from(settings)).filter(|settings| *settings != json!({}));
        let members = [("partitions", partitions), ("config", settings)].into_iter();
        let given = members.filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Ok(given.collect())
    }
}

fn list(client: &Client, is_json: bool) -> anyhow::Result<()> {
    let topics = api::list(
        client,
        &Route::new(&["v1", "topics"]).with("limit", 1000),
        "topics",
    )?;
    if is_json {
        return Ok(output::json(&json!({"topics": topics}))?);
    }
    let rows: Result<Vec<ListedTopic>, _> = topics.into_iter().map(serde_json::from_value).collect();
    Table::of(&rows?)
        .text("TOPIC", |topic| &topic.name)
        .number("PARTITIONS", |topic| topic.partition_count)
        .number("RECORDS", |topic| count(topic.records))
        .number("SIZE", |topic| output::bytes(topic.size_bytes))
        .number("RECORDS/S", |topic| count(topic.produce_rate.round() as u64))
        .number("GROUPS", |topic| topic.groups.len())
        .text("LAST RECORD", |topic| time_ms(topic.last_timestamp))
        .optional_toned("DAMAGE", |topic| match topic.damaged {
            false => ("-".to_owned(), Tone::Plain),
            true => ("yes".to_owned(), Tone::Bad),
        })
        .print(&["LAST RECORD", "GROUPS", "RECORDS/S", "SIZE", "PARTITIONS"])
}

/// A topic as the list of topics has it.
#[derive(Debug, Deserialize)]
struct ListedTopic {
    name: String,
    partition_count: u32,
    records: u64,
    size_bytes: u64,
    produce_rate: f64,
    groups: Vec<String>,
    last_timestamp: Option<i64>,
    damaged: bool,
}

fn describe(client: &Client, name: &str, is_json: bool) -> anyhow::Result<()> {
    let answer: Value = client.get(&topic_route(name))?;
    if is_json {
        return Ok(output::json(&answer)?);
    }
    let topic: Topic = serde_json::from_value(answer)?;
    let (name, records) = (&topic.name, records(topic.records()));
    output::line(format_args!("topic {name}: {records}\n"))?;
    let member = |setting: &Value, name| or_none(setting.get(name).map(word));
    Table::of(topic.config.as_object().into_iter().flatten())
        .text("SETTING", |(key, _)| *key)
        .number("VALUE", |(_, setting)| member(setting, "value"))
        .number("DEFAULT", |(_, setting)| member(setting, "default"))
        .text("SOURCE", |(_, setting)| member(setting, "source"))
        .print(&["DEFAULT", "SOURCE"])?;
    output::line("")?;
    Table::of(&topic.partitions)
        .number("PARTITION", |p| p.partition)
        .number("START", |p| p.log_start_offset)
        .number("END", |p| p.end_offset)
        .number("SIZE", |p| or_none(p.size_bytes.map(output::bytes)))
        .number("SEGMENTS", |p| output::count_of(p.segments))
        .text("FIRST RECORD", |p| time_ms(p.first_timestamp))
        .text("LAST RECORD", |p| time_ms(p.last_timestamp))
        .optional_toned("DAMAGE", |p| match p.damaged_offset {
            None => ("-".to_owned(), Tone::Plain),
            Some(offset) => (format!("at {offset}"), Tone::Bad),
        })
        .print(&["FIRST RECORD", "SEGMENTS", "LAST RECORD", "SIZE"])
}

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_numbers_with_units_or_words() {
        for (text, value) in [
            ("retention_ms=5", json!(5)),
            ("retention_ms=7d", json!(604_800_000)),
            ("retention_ms=null", Value::Null),
            ("retention_bytes=none", Value::Null),
            ("segment_bytes=64MiB", json!(64 << 20)),
            ("ack=written", json!("written")),
        ] {
            assert_eq!(parse_setting(text).unwrap().1, value, "{text}");
        }
        for wrong in "retention_ms=soon retention_ms=64MiB segment_bytes=64M segment_bytes= ack =5".split(' ')
        {
            assert!(parse_setting(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_setting_is_given_once() {
        let (partitions, config) = (None, vec![("ack".to_owned(), json!("written"))]);
        let twice = Changes { partitions, config }.body(vec!["ack".to_owned()]);
        assert!(twice.is_err());
    }
}
