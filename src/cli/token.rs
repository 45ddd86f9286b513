//! `quipu token`: tokens that programs sign in with.

use std::time::Duration;

use clap::Subcommand;
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::api;
use super::connect::Connect;
use super::output::{self, Table};
use super::route::Route;
use quipu::formats::units;

pub(crate) const EXAMPLES: &str = "Examples:
  quipu token create billing --allow read,describe --topics orders --groups billing
  quipu token create ci --allow write --topics 'builds-*' --expires 30d
  quipu token rotate billing --overlap 1h
  quipu token revoke billing";

/// What to do with tokens.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Action {
    /// Makes a token and prints its secret, which is never shown again
    #[command(
        after_help = "Examples:\n  quipu token create billing --allow read,describe --topics 'orders,billing-*' --groups billing --expires 30d"
    )]
    Create {
        /// The token's name
        name: String,
        /// What it allows: read, write, create, delete, configure, describe, or admin for everything
        #[arg(
            long,
            value_name = "RIGHTS",
            value_delimiter = ',',
            default_value = "read,describe"
        )]
        allow: Vec<String>,
        /// Topics, in which * stands for any characters
        #[arg(long, value_name = "TOPICS", value_delimiter = ',')]
        topics: Vec<String>,
        /// Groups, in which * stands for any characters
        #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
        groups: Vec<String>,
        /// How long it is valid, as 30d [default: until it is revoked]
        #[arg(long, value_name = "SPAN", value_parser = span)]
        expires: Option<Duration>,
    },
    /// Lists the tokens, without their secrets
    #[command(after_help = "Examples:\n  quipu token list")]
    List,
    /// Gives a token a new secret, and prints it
    #[command(after_help = "Examples:\n  quipu token rotate billing --overlap 1h")]
    Rotate {
        /// The token's name
        name: String,
        /// How long the former secret stays valid, as 1h [default: not at all]
        #[arg(long, value_name = "SPAN", value_parser = span)]
        overlap: Option<Duration>,
    },
    /// Revokes a token: what runs with it ends within a second
    #[command(after_help = "Examples:\n  quipu token revoke billing")]
    Revoke {
        /// The token's name
        name: String,
    },
}

/// Runs the command.
pub(crate) fn run(action: Action, connect: &Connect, is_json: bool) -> anyhow::Result<()> {
    let client = connect.client()?;
    let all = Route::new(&["v1", "tokens"]);
    let secret_of = |answer: Value| match is_json {
        true => Ok(output::json(&answer)?),
        false => Ok(output::line(answer["token"].as_str().unwrap_or_default())?),
    };
    match action {
        Action::Create {
            name,
            allow,
            topics,
            groups,
            expires,
        } => {
            let ends = |span: Duration| {
                let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
                Timestamp::now().as_millisecond().saturating_add(span)
            };
            let body = json!({
                "name": name,
                "rules": [{"allow": allow, "topics": topics, "groups": groups}],
                "expires": expires.map(ends),
            });
            secret_of(client.send(&Method::POST, &all, Some(&body))?)
        }
        Action::List => {
            let tokens = api::list(&client, &all, "tokens")?;
            if is_json {
                return Ok(output::json(&json!({"tokens": tokens}))?);
            }
            Table::of(tokens)
                .text("NAME", |token| {
                    token["name"].as_str().unwrap_or_default().to_owned()
                })
                .text("EXPIRES", |token| match token["expires"].as_i64() {
                    Some(expires) => output::time_ms(Some(expires)),
                    None => "never".to_owned(),
                })
                .text("RULES", |token| rules(&token["rules"]))
                .print(&["EXPIRES"])
        }
        Action::Rotate { name, overlap } => {
            let route = Route::new(&["v1", "tokens", &name, "rotate"]);
            let overlap_ms = overlap.unwrap_or_default().as_millis() as u64;
            let body = json!({"overlap_ms": overlap_ms});
            secret_of(client.send(&Method::POST, &route, Some(&body))?)
        }
        Action::Revoke { name } => {
            let route = Route::new(&["v1", "tokens", &name]);
            let answer = client.send(&Method::DELETE, &route, None)?;
            output::done(&answer, &format!("token {name} is revoked"), is_json)
        }
    }
}

fn span(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).ok_or_else(|| format!("{text:?} is not a span like 30d or 1h"))
}

/// Rules in a line.
fn rules(rules: &Value) -> String {
    let words = |list: &Value| {
        let words = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        words.collect::<Vec<_>>().join(",")
    };
    let rule = |rule: &Value| {
        let mut text = words(&rule["allow"]);
        for (what, list) in [("topics", &rule["topics"]), ("groups", &rule["groups"])] {
            if list.as_array().is_some_and(|list| !list.is_empty()) {
                text.push_str(&format!(" {what} {}", words(list)));
            }
        }
        text
    };
    let all = rules.as_array().into_iter().flatten();
    all.map(rule).collect::<Vec<_>>().join("; ")
}
