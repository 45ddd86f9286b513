//! `quipu topic`: creates, lists, describes, changes and deletes topics.

use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;
use http::Method;
use serde_json::{Map, Value, json};

use super::Usage;
use super::api::{self, Topic, topic_route};
use super::client::{Client, Connect, Route};
use super::damage;
use super::output::{self, Column, Output, Tone, count, plain, records, time_ms};

/// What `quipu topic` is told.
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
    /// Creates a topic; repeating it is harmless
    Create {
        #[command(flatten)]
        name: Name,
        /// Number of partitions
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        partitions: Option<u32>,
        /// A setting, as retention_ms=86400000; may be repeated
        #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
        config: Vec<(String, Value)>,
    },
    /// Lists all topics
    List,
    /// Shows a topic's settings and partitions
    Describe {
        #[command(flatten)]
        name: Name,
    },
    /// Adds partitions, changes settings
    Alter {
        #[command(flatten)]
        name: Name,
        /// New number of partitions, not lower than now
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        partitions: Option<u32>,
        /// A setting, as retention_ms=86400000; may be repeated
        #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
        config: Vec<(String, Value)>,
        /// A setting that goes back to its default; may be repeated
        #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
        unset: Vec<String>,
    },
    /// Lists offsets that are known to be damaged
    Damage {
        #[command(flatten)]
        name: Name,
    },
    /// Has consumers go on behind damaged offsets, or takes that back
    Skip {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        range: damage::Range,
    },
    /// Deletes a topic, its records and the offsets that groups have in it
    Delete {
        #[command(flatten)]
        name: Name,
    },
}

#[derive(Debug, clap::Args)]
struct Name {
    /// Name of the topic
    #[arg(value_name = "TOPIC", value_parser = NonEmptyStringValueParser::new())]
    topic: String,
}

/// Does it.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let client = args.connect.client()?;
    let is_json = args.output.is_json();
    match args.action {
        Action::Create {
            name,
            partitions,
            config,
        } => {
            let body = changes(partitions, config, Vec::new())?;
            let answer = client.send(&Method::PUT, &topic_route(&name.topic), Some(&body.into()))?;
            let text = match answer.get("partition_count").and_then(Value::as_u64) {
                Some(1) => format!("topic {} with 1 partition is there", name.topic),
                Some(partitions) => format!("topic {} with {partitions} partitions is there", name.topic),
                None => format!("topic {} is there", name.topic),
            };
            output::done(&answer, &text, is_json)
        }
        Action::List => list(&client, is_json),
        Action::Describe { name } => describe(&client, &name.topic, is_json),
        Action::Alter {
            name,
            partitions,
            config,
            unset,
        } => {
            let body = changes(partitions, config, unset)?;
            if body.is_empty() {
                return Err(
                    Usage("nothing to change: give --partitions, --config or --unset".to_owned()).into(),
                );
            }
            let answer = client.send(&Method::PATCH, &topic_route(&name.topic), Some(&body.into()))?;
            output::done(&answer, &format!("topic {} is changed", name.topic), is_json)
        }
        Action::Damage { name } => damage::list(&client, &name.topic, is_json),
        Action::Skip { name, range } => damage::skip(&client, &name.topic, range, is_json),
        Action::Delete { name } => {
            client.send(&Method::DELETE, &topic_route(&name.topic), None)?;
            let answer = json!({"deleted": name.topic});
            output::done(&answer, &format!("topic {} is deleted", name.topic), is_json)
        }
    }
}

/// `retention_ms=1000`: a value is JSON if it is a number, `true`, `false` or `null`, and a word otherwise.
fn parse_setting(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text
        .split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .ok_or_else(|| "a setting is written KEY=VALUE".to_owned())?;
    let value = match serde_json::from_str(value) {
        Ok(json @ (Value::Number(_) | Value::Bool(_) | Value::Null)) => json,
        _ => Value::from(value),
    };
    Ok((key.to_owned(), value))
}

/// The body of a request that makes or changes a topic; what is not said is left out.
fn changes(
    partitions: Option<u32>,
    config: Vec<(String, Value)>,
    unset: Vec<String>,
) -> Result<Map<String, Value>, Usage> {
    let mut body = Map::new();
    if let Some(partitions) = partitions {
        body.insert("partitions".to_owned(), partitions.into());
    }
    let settings = settings(config, unset)?;
    if !settings.is_empty() {
        body.insert("config".to_owned(), settings.into());
    }
    Ok(body)
}

/// Settings as the HTTP API takes them; null is the default.
fn settings(config: Vec<(String, Value)>, unset: Vec<String>) -> Result<Map<String, Value>, Usage> {
    let mut settings = Map::new();
    for (key, value) in config
        .into_iter()
        .chain(unset.into_iter().map(|key| (key, Value::Null)))
    {
        if settings.insert(key.clone(), value).is_some() {
            return Err(Usage(format!("the setting {key} is given twice")));
        }
    }
    Ok(settings)
}

fn list(client: &Client, is_json: bool) -> anyhow::Result<()> {
    let topics = api::list(client, &Route::new(&["v1", "topics"]), "topics")?;
    if is_json {
        return Ok(output::json(&json!({"topics": topics}))?);
    }
    let mut rows = Vec::new();
    for topic in topics {
        let name = topic
            .get("name")
            .or(Some(&topic))
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let topic = match serde_json::from_value::<Topic>(topic) {
            Ok(topic) if !topic.partitions.is_empty() => topic,
            _ => match Topic::describe(client, &name) {
                // It was deleted in between.
                Err(failure) if failure.code() == Some("unknown-topic") => continue,
                answer => answer?,
            },
        };
        let size: u64 = topic.partitions.iter().filter_map(|p| p.size_bytes).sum();
        let last = topic.partitions.iter().filter_map(|p| p.last_timestamp).max();
        rows.push(vec![
            plain(&topic.name),
            plain(topic.partition_count),
            plain(count(topic.records())),
            plain(output::bytes(size)),
            plain(time_ms(last)),
        ]);
    }
    let columns = [
        Column::Text("TOPIC"),
        Column::Number("PARTITIONS"),
        Column::Number("RECORDS"),
        Column::Number("SIZE"),
        Column::Text("LAST RECORD"),
    ];
    Ok(output::table(&columns, rows)?)
}

fn describe(client: &Client, name: &str, is_json: bool) -> anyhow::Result<()> {
    let answer: Value = client.get(&topic_route(name))?;
    if is_json {
        return Ok(output::json(&answer)?);
    }
    let topic: Topic = serde_json::from_value(answer)?;
    output::line(format_args!(
        "topic {}: {}\n",
        topic.name,
        records(topic.records())
    ))?;
    let settings = topic
        .config
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, setting)| {
            let member = |name| setting.get(name).map_or_else(|| "-".to_owned(), word);
            vec![
                plain(key),
                plain(member("value")),
                plain(member("default")),
                plain(member("source")),
            ]
        });
    let columns = [
        Column::Text("SETTING"),
        Column::Number("VALUE"),
        Column::Number("DEFAULT"),
        Column::Text("SOURCE"),
    ];
    output::table(&columns, settings.collect())?;
    output::line("")?;
    let partitions = topic.partitions.iter().map(|p| {
        vec![
            plain(p.partition),
            plain(p.log_start_offset),
            plain(p.end_offset),
            plain(p.size_bytes.map_or_else(|| "-".to_owned(), output::bytes)),
            plain(output::count_of(p.segments)),
            plain(time_ms(p.first_timestamp)),
            plain(time_ms(p.last_timestamp)),
            match p.damaged_offset {
                None => plain("-"),
                Some(offset) => (format!("at {offset}"), Tone::Bad),
            },
        ]
    });
    let columns = [
        Column::Number("PARTITION"),
        Column::Number("START"),
        Column::Number("END"),
        Column::Number("SIZE"),
        Column::Number("SEGMENTS"),
        Column::Text("FIRST RECORD"),
        Column::Text("LAST RECORD"),
        Column::Optional("DAMAGE"),
    ];
    Ok(output::table(&columns, partitions.collect())?)
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
    fn settings_are_numbers_or_words() {
        assert_eq!(
            parse_setting("retention_ms=5").unwrap(),
            ("retention_ms".to_owned(), json!(5))
        );
        assert_eq!(parse_setting("retention_ms=null").unwrap().1, Value::Null);
        assert_eq!(parse_setting("ack=written").unwrap().1, json!("written"));
        assert!(parse_setting("ack").is_err());
        assert!(parse_setting("=5").is_err());
    }

    #[test]
    fn a_setting_is_given_once() {
        let twice = settings(vec![("ack".to_owned(), json!("written"))], vec!["ack".to_owned()]);
        assert!(twice.is_err());
    }
}
