//! `quipu lag`: how far groups are behind, the worst first; `--watch` keeps looking (see [`super::lag_watch`]).

use std::cmp::Reverse;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use quipu::formats::units;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{self, group_route};
use super::client::{Client, Failure, Route};
use super::connect::Connect;
use super::lag_watch;
use super::output::{self, Column, Output, Tone, brief_ms, bytes, count, plain, records, span_ms};

/// The flags and arguments of `quipu lag`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quipu lag billing --watch
  quipu lag --fail-above 1000 --fail-above-time 5m    # ends with 1 if a group is further behind")]
pub(crate) struct Args {
    /// Show this group's partitions instead of all groups
    #[arg(value_name = "GROUP", value_parser = NonEmptyStringValueParser::new())]
    group: Option<String>,
    /// Keep looking, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// End with 1 if a group is more than so many records behind
    #[arg(long, value_name = "N", conflicts_with = "watch")]
    fail_above: Option<u64>,
    /// End with 1 if a group's next record is older than this, as 5m or 1h
    #[arg(long, value_name = "SPAN", conflicts_with = "watch", value_parser = span)]
    fail_above_time: Option<Duration>,
    /// How often to look, as in 2s, 500ms or 1m
    #[arg(long, value_name = "SPAN", default_value = "2s", requires = "watch", value_parser = interval)]
    interval: Duration,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

/// What is asked for: one group's partitions, or all groups.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    /// The partitions of a group.
    Group(String),
    /// Every group.
    All,
}

/// A group's lag; in the list of all groups without its topics.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct GroupLag {
    /// The group.
    pub(crate) group: String,
    #[serde(default)]
    state: String,
    #[serde(flatten)]
    total: Total,
    #[serde(default)]
    topics: Vec<TopicLag>,
}

#[derive(Clone, Debug, Deserialize)]
struct TopicLag {
    topic: String,
    partitions: Vec<PartitionLag>,
}

#[derive(Clone, Debug, Deserialize)]
struct PartitionLag {
    partition: u32,
    #[serde(default)]
    committed_offset: Option<u64>,
    end_offset: u64,
    #[serde(default)]
    member_id: Option<String>,
    #[serde(flatten)]
    total: Total,
}

/// What partitions and groups have in common; older servers tell less.
#[derive(Clone, Debug, Deserialize)]
struct Total {
    lag: u64,
    #[serde(default)]
    lag_ms: u64,
    #[serde(default)]
    lag_bytes: u64,
    #[serde(default)]
    consume_rate: Option<f64>,
    #[serde(default)]
    produce_rate: Option<f64>,
    #[serde(default)]
    drain_ms: Option<u64>,
    #[serde(default)]
    expires_ms: Option<u64>,
    #[serde(default)]
    status: Option<String>,
}

/// Runs `quipu lag`.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let client = args.connect.client()?;
    let subject = args.group.map_or(Subject::All, Subject::Group);
    let is_json = args.output.is_json();
    if args.watch {
        return lag_watch::run(client, subject, args.interval, is_json);
    }
    let answer = subject.ask(&client)?;
    let groups = subject.groups_of(&answer)?;
    if is_json {
        output::json(&answer)?;
    } else {
        output::line(match &subject {
            Subject::Group(group) => groups
                .first()
                .and_then(|lag| lag.table(&|_, _| None))
                .unwrap_or_else(|| format!("group {group} has committed no offsets")),
            Subject::All => groups_table(&groups, &|_| None),
        })?;
    }
    check(&groups, args.fail_above, args.fail_above_time)
}

/// Fails with the groups that are further behind than that.
fn check(groups: &[GroupLag], records_most: Option<u64>, time_most: Option<Duration>) -> anyhow::Result<()> {
    let time_most = time_most.map(|most| u64::try_from(most.as_millis()).unwrap_or(u64::MAX));
    let behind: Vec<String> = groups
        .iter()
        .filter_map(|GroupLag { group, total, .. }| {
            let too_many = records_most.is_some_and(|most| total.lag > most);
            let too_old = time_most.is_some_and(|most| total.lag_ms > most);
            let by = match (too_many, too_old) {
                (false, false) => return None,
                (true, false) => records(total.lag),
                (false, true) => brief_ms(total.lag_ms),
                (true, true) => format!("{}, {}", records(total.lag), brief_ms(total.lag_ms)),
            };
            Some(format!("{group} by {by}"))
        })
        .collect();
    if behind.is_empty() {
        return Ok(());
    }
    let mosts = [records_most.map(records), time_most.map(brief_ms)];
    let most: Vec<String> = mosts.into_iter().flatten().collect();
    anyhow::bail!(
        "too far behind (more than {}): {}",
        most.join(" or "),
        behind.join("; ")
    )
}

impl Subject {
    /// The lag as of now, as the server answers it; a list that comes in pages is put together.
    ///
    /// # Errors
    /// The server's, and its connection's.
    pub(crate) fn ask(&self, client: &Client) -> Result<Value, Failure> {
        match self {
            Self::Group(group) => client.get(&group_route(group, &["lag"])),
            Self::All => {
                let groups = api::list(client, &Route::new(&["v1", "lag"]), "groups")?;
                Ok(json!({ "groups": groups }))
            }
        }
    }

    /// The groups of an answer.
    ///
    /// # Errors
    /// An answer of another shape.
    pub(crate) fn groups_of(&self, answer: &Value) -> anyhow::Result<Vec<GroupLag>> {
        Ok(match self {
            Self::Group(_) => vec![GroupLag::deserialize(answer)?],
            Self::All => Vec::deserialize(&answer["groups"])?,
        })
    }
}

/// Prints a group's lag by partition; false if there is nothing to print.
///
/// # Errors
/// The server or standard output.
pub(crate) fn print_group(client: &Client, group: &str) -> anyhow::Result<bool> {
    let lag: GroupLag = client.get(&group_route(group, &["lag"]))?;
    let Some(text) = lag.table(&|_, _| None) else {
        return Ok(false);
    };
    output::line(text)?;
    Ok(true)
}

/// All groups, the worst first. `trend` draws how a group's lag went.
pub(crate) fn groups_table(groups: &[GroupLag], trend: &dyn Fn(&str) -> Option<String>) -> String {
    let mut groups: Vec<&GroupLag> = groups.iter().collect();
    groups.sort_by_key(|group| (Reverse(group.total.badness()), &group.group));
    let rows: Vec<_> = groups
        .iter()
        .map(|group| {
            let mut row = vec![plain(&group.group), plain(&group.state)];
            row.extend(group.total.cells());
            row.insert(row.len() - 1, plain(trend(&group.group).unwrap_or_else(none)));
            row
        })
        .collect();
    let columns = [&[Column::Text("GROUP"), Column::Text("STATE")], &TOTALS[..]].concat();
    output::fitting_table(
        &columns,
        &rows,
        &[
            "EXPIRES IN",
            "BYTES",
            "STATE",
            "IN/S",
            "OUT/S",
            "DRAINS IN",
            "LAST 5 MIN",
            "BEHIND BY",
        ],
    )
}

impl GroupLag {
    /// Its partitions, the worst first, and a sentence about all of them; `None` without any. `trend` draws how a
    /// partition's lag went.
    pub(crate) fn table(&self, trend: &dyn Fn(&str, u32) -> Option<String>) -> Option<String> {
        let mut partitions: Vec<(&str, &PartitionLag)> = self
            .topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|row| (&*topic.topic, row)))
            .collect();
        if partitions.is_empty() {
            return None;
        }
        partitions.sort_by_key(|(topic, row)| (Reverse(row.total.badness()), *topic, row.partition));
        let rows: Vec<_> = partitions
            .iter()
            .map(|(topic, partition)| {
                let committed = partition.committed_offset;
                let mut row = vec![
                    plain(topic),
                    plain(partition.partition),
                    plain(committed.map_or_else(none, |offset| offset.to_string())),
                    plain(partition.end_offset),
                ];
                row.extend(partition.total.cells());
                let status = row.len() - 1;
                row.insert(status, plain(partition.member_id.as_deref().unwrap_or("-")));
                row.insert(
                    status,
                    plain(trend(topic, partition.partition).unwrap_or_else(none)),
                );
                row
            })
            .collect();
        let mut columns = vec![
            Column::Text("TOPIC"),
            Column::Number("PARTITION"),
            Column::Number("COMMITTED"),
            Column::Number("END"),
        ];
        columns.extend(TOTALS);
        columns.insert(columns.len() - 1, Column::Optional("MEMBER"));
        let spare = [
            "EXPIRES IN",
            "BYTES",
            "END",
            "COMMITTED",
            "IN/S",
            "OUT/S",
            "MEMBER",
            "DRAINS IN",
            "LAST 5 MIN",
            "BEHIND BY",
        ];
        let table = output::fitting_table(&columns, &rows, &spare);
        Some(format!("{table}\n\n{}", self.sentence()))
    }

    fn sentence(&self) -> String {
        format!(
            "group {}: {} behind, {}; the oldest is {} old",
            self.group,
            records(self.total.lag),
            bytes(self.total.lag_bytes),
            span_ms(self.total.lag_ms)
        )
    }

    /// The lag of each partition.
    pub(crate) fn lags(&self) -> impl Iterator<Item = (&str, u32, u64)> {
        let topics = self.topics.iter();
        topics.flat_map(|topic| {
            topic
                .partitions
                .iter()
                .map(|row| (&*topic.topic, row.partition, row.total.lag))
        })
    }

    /// The lag of all of it.
    pub(crate) fn lag(&self) -> u64 {
        self.total.lag
    }
}

/// The columns of [`Total::cells`], with the trend that goes before the status.
const TOTALS: [Column; 9] = [
    Column::Number("LAG"),
    Column::Number("BEHIND BY"),
    Column::Number("BYTES"),
    Column::Number("IN/S"),
    Column::Number("OUT/S"),
    Column::Optional("DRAINS IN"),
    Column::Optional("EXPIRES IN"),
    Column::Optional("LAST 5 MIN"),
    Column::Optional("STATUS"),
];

impl Total {
    fn cells(&self) -> Vec<(String, Tone)> {
        let drains = match (self.drain_ms, self.consume_rate) {
            _ if self.lag == 0 => none(),
            (Some(ms), _) => brief_ms(ms),
            (None, Some(_)) => "never".to_owned(),
            (None, None) => none(),
        };
        vec![
            plain(count(self.lag)),
            plain(span_ms(self.lag_ms)),
            plain(bytes(self.lag_bytes)),
            plain(rate(self.produce_rate)),
            plain(rate(self.consume_rate)),
            plain(drains),
            plain(self.expires_ms.map_or_else(none, brief_ms)),
            status(self.status.as_deref()),
        ]
    }

    fn badness(&self) -> (u8, u64, u64) {
        (severity(self.status.as_deref()), self.lag_ms, self.lag)
    }
}

fn none() -> String {
    "-".to_owned()
}

/// Whole records where there are many.
fn rate(rate: Option<f64>) -> String {
    match rate {
        None => none(),
        Some(rate) if rate > 0.0 && rate < 10.0 => format!("{rate:.1}"),
        Some(rate) => count(rate.round() as u64),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = || text.parse().ok().map(Duration::from_secs);
    match units::parse_duration(text).or_else(seconds) {
        None => Err("give it as 2s, 500ms or 1m".to_owned()),
        Some(span) if (100..=3_600_000).contains(&span.as_millis()) => Ok(span),
        Some(_) => Err("it is from 100ms to 60m".to_owned()),
    }
}

fn span(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).ok_or_else(|| format!("{text:?} is not a span like 90s, 5m or 1h30m"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_units_and_bounds() {
        for (text, ms) in [
            ("2s", 2000),
            ("2", 2000),
            ("500ms", 500),
            ("1.5s", 1500),
            ("1m", 60_000),
        ] {
            assert_eq!(interval(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in [
            "", "s", "0", "10ms", "2h", "-1s", "61m", "NaN", "inf", "1e9", "ein s",
        ] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }

    fn group(name: &str, status: &str, lag_ms: u64) -> GroupLag {
        let text = json!({"group": name, "state": "empty", "lag": 1, "lag_ms": lag_ms, "status": status,
            "consume_rate": 0.0, "produce_rate": 3.25, "drain_ms": null});
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_check_names_the_groups_that_are_further_behind() {
        let groups = [group("a", "ok", 5_000), group("b", "ok", 60_000)];
        let minute = Duration::from_secs(60);
        assert!(check(&groups, Some(1), Some(minute)).is_ok() && check(&groups, None, None).is_ok());
        for (records, time, text) in [
            (
                Some(0),
                None,
                "too far behind (more than 0 records): a by 1 record; b by 1 record",
            ),
            (
                None,
                Some(minute / 2),
                "too far behind (more than 30.0 s): b by 1.0 min",
            ),
            (
                Some(0),
                Some(minute / 2),
                "too far behind (more than 0 records or 30.0 s): a by 1 record; b by 1 record, 1.0 min",
            ),
        ] {
            assert_eq!(check(&groups, records, time).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn the_worst_group_comes_first_and_what_never_drains_says_so() {
        let groups = [
            group("fine", "ok", 99_000),
            group("slow", "behind", 5),
            group("gone", "losing", 0),
            group("dead", "stalled", 7),
        ];
        let table = groups_table(&groups, &|_| None);
        let names: Vec<&str> = table
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().next().unwrap())
            .collect();
        assert_eq!(names, ["gone", "dead", "slow", "fine"]);
        assert!(table.contains("never") && table.contains("3.2"), "{table}");
        assert!(!table.contains("EXPIRES") && !table.contains("5 MIN"), "{table}");
        assert!(groups_table(&groups, &|_| Some("▁▂█".to_owned())).contains("▁▂█"));
    }

    #[test]
    fn an_older_server_is_shown_as_far_as_it_tells() {
        let old: GroupLag = serde_json::from_value(json!({"group": "g", "lag": 3, "topics": [{"topic": "t",
            "partitions": [{"partition": 0, "committed_offset": 1, "end_offset": 4, "lag": 3}]}]}))
        .unwrap();
        let table = old.table(&|_, _| None).unwrap();
        assert!(
            table.contains("group g: 3 records behind") && !table.contains("DRAINS"),
            "{table}"
        );
    }
}
