//! `quipu group reset`: moves a group's committed offsets.
//!
//! At a terminal it first shows what would change, and asks. The answer `y` sends the preview back with the real call: if the
//! group has moved in between, nothing is changed.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::bail;
use clap::ArgGroup;
use clap::builder::NonEmptyStringValueParser;
use http::Method;
use serde_json::{Value, json};

use super::api::group_route;
use super::client::{Client, Failure};
use super::output::{self, Table, count_of, time_ms};
use super::position::ResetTo;

/// What `quipu group reset` moves, and where to.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("which").required(true).args(["topic", "all_topics"])))]
pub(crate) struct ResetArgs {
    /// Topic whose offsets move; may be repeated
    #[arg(long, value_name = "TOPIC", value_parser = NonEmptyStringValueParser::new())]
    topic: Vec<String>,
    /// Move the offsets of all topics that the group reads
    #[arg(long)]
    all_topics: bool,
    /// Partition whose offset moves, of one topic; may be repeated [default: all]
    #[arg(long, value_name = "P", conflicts_with = "all_topics")]
    partition: Vec<u32>,
    /// `earliest`, `latest`, offset:N, a time (2013-07-01T12:00, a date, -1h) or shift:-100
    #[arg(long, value_name = "WHERE", value_parser = ResetTo::parse, allow_hyphen_values = true)]
    to: ResetTo,
    /// Also while members are reading: they go on from the new offsets
    #[arg(long)]
    while_active: bool,
    /// Do not ask
    #[arg(long, short = 'y', conflicts_with = "dry_run")]
    yes: bool,
    /// Change nothing, only show what would change
    #[arg(long)]
    dry_run: bool,
}

impl ResetArgs {
    fn body(&self, dry_run: bool) -> Value {
        // What is not asked for is left out: an older server does not know it.
        let mut body = json!({"to": self.to.to_json(), "dry_run": dry_run});
        match &self.topic[..] {
            [] => {}
            [topic] => body["topic"] = json!(topic),
            topics => body["topics"] = json!(topics),
        }
        if self.while_active {
            body["while_active"] = true.into();
        }
        if !self.partition.is_empty() {
            body["partitions"] = json!(self.partition);
        }
        body
    }
}

/// Shows what a reset does, and does it.
pub(crate) fn run(client: &Client, group: &str, args: &ResetArgs, is_json: bool) -> anyhow::Result<()> {
    let route = group_route(group, &["offsets", "reset"]);
    let send = |body: &Value| client.send(&Method::POST, &route, Some(body));
    let asks =
        !args.dry_run && !args.yes && !is_json && io::stdin().is_terminal() && io::stderr().is_terminal();
    let mut body = args.body(args.dry_run);
    if asks {
        let plan = send(&args.body(true)).map_err(|failure| explain(failure, group))?;
        show(&plan["offsets"], false)?;
        if !is_yes(&format!("Move {group} to there?"))? {
            bail!("nothing was changed");
        }
        body["preview"] = plan["preview"].clone();
    }
    let answer = send(&body).map_err(|failure| explain(failure, group))?;
    match is_json {
        true => Ok(output::json(&answer)?),
        false if asks => Ok(output::line(format_args!("group {group} is moved"))?),
        false => show(&answer["offsets"], args.dry_run),
    }
}

/// Asks at the terminal; anything but `y` or `yes` is a no.
fn is_yes(question: &str) -> io::Result<bool> {
    let mut out = io::stderr().lock();
    write!(out, "{question} [y/N] ").and_then(|()| out.flush())?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Says what to do about what is in the way.
fn explain(failure: Failure, group: &str) -> anyhow::Error {
    match failure.code() {
        Some("group-active") => anyhow::anyhow!(
            "group-active: group {group} has live members: add --while-active, so that they go on from the new offsets; or stop \
             them first; quipu group describe {group} shows who they are"
        ),
        Some("preview-outdated") => anyhow::anyhow!(
            "preview-outdated: the group or its topics have moved since the table was made; nothing was changed. Try again"
        ),
        _ => failure.into(),
    }
}

/// Shows rows with `topic`, `partition`, `old_offset` and `new_offset`; an offset is none where nothing is committed. Rows of
/// a server also have the times and lags before and after.
pub(crate) fn show(rows: &Value, dry_run: bool) -> anyhow::Result<()> {
    let time = |row: &Value, name: &str| time_ms(row[name].as_i64());
    Table::of(rows.as_array().into_iter().flatten())
        .text("TOPIC", |row| row["topic"].as_str().unwrap_or("-").to_owned())
        .number("PARTITION", |row| count_of(row["partition"].as_u64()))
        .number("OLD", |row| count_of(row["old_offset"].as_u64()))
        .number("NEW", |row| count_of(row["new_offset"].as_u64()))
        .optional("OLD TIME", |row| time(row, "old_timestamp"))
        .optional("NEW TIME", |row| time(row, "new_timestamp"))
        .optional_number("OLD LAG", |row| row["old_lag"].as_u64())
        .optional_number("NEW LAG", |row| row["new_lag"].as_u64())
        .print(&["OLD TIME", "OLD LAG", "OLD", "NEW TIME"])?;
    if dry_run {
        output::line("nothing was changed (--dry-run)")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ResetArgs,
    }

    fn parse(line: &str) -> Result<ResetArgs, clap::Error> {
        let words = ["reset"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args)
    }

    #[test]
    fn a_reset_names_its_topics_or_says_all() {
        let body = parse("--topic a --topic b --to latest").unwrap().body(true);
        assert_eq!(
            body,
            json!({"topics": ["a", "b"], "to": "latest", "dry_run": true})
        );
        let body = parse("--topic a --partition 3 --to latest").unwrap().body(true);
        assert_eq!(
            body,
            json!({"topic": "a", "partitions": [3], "to": "latest", "dry_run": true})
        );
        let body = parse("--all-topics --to shift:-5 --while-active --yes")
            .unwrap()
            .body(false);
        assert_eq!(
            body,
            json!({"to": {"shift": -5}, "dry_run": false, "while_active": true})
        );
        for wrong in [
            "--to latest",
            "--topic a --all-topics --to latest",
            "--all-topics --partition 0 --to latest",
            "--topic a --to latest --yes --dry-run",
            "--topic a",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
