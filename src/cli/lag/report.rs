//! The lag of groups and of their partitions as the server answers it, and as tables.

use std::cmp::Reverse;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::api::{self, group_route};
use crate::cli::client::{Client, Failure, Route};
use crate::cli::output::{self, Table, Tone, brief_ms, bytes, count, or_none, records, span_ms};

/// What is asked for: one group's partitions, or all groups.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    Group(String),
    All,
}

/// A row of a table: a partition of a topic, or a group.
pub(crate) type Key = (String, Option<u32>);

/// A group's lag; in the list of all groups without its topics.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct GroupLag {
    pub(crate) group: String,
    #[serde(default)]
    state: String,
    #[serde(flatten)]
    total: Total,
    /// Of a queue: the dead letters that wait.
    dead_letters: Option<u64>,
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
    committed_offset: Option<u64>,
    end_offset: u64,
    member_id: Option<String>,
    #[serde(flatten)]
    total: Total,
}

/// The members that partitions and groups share; older servers send fewer.
#[derive(Clone, Debug, Deserialize)]
struct Total {
    lag: u64,
    #[serde(default)]
    lag_ms: u64,
    #[serde(default)]
    lag_bytes: u64,
    consume_rate: Option<f64>,
    produce_rate: Option<f64>,
    drain_ms: Option<u64>,
    expires_ms: Option<u64>,
    /// Of a queue: its leased and its delayed records.
    leased: Option<u64>,
    delayed: Option<u64>,
    status: Option<String>,
}

/// Columns that a narrow terminal leaves out, the least important first.
const SPARE: [&str; 15] = [
    "EXPIRES IN",
    "BYTES",
    "END",
    "COMMITTED",
    "STATE",
    "IN/S",
    "OUT/S",
    "DELAYED",
    "MEMBER",
    "DRAINS IN",
    "LEASED",
    "WAITING",
    "LAST 5 MIN",
    "BEHIND BY",
    "DEAD",
];

impl Subject {
    /// The current lag as the server answers it; the pages of a list are joined.
    /// Errors: The server's, and its connection's.
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
    /// Errors: An answer of another shape.
    pub(crate) fn groups_of(&self, answer: &Value) -> anyhow::Result<Vec<GroupLag>> {
        Ok(match self {
            Self::Group(_) => vec![GroupLag::deserialize(answer)?],
            Self::All => Vec::deserialize(&answer["groups"])?,
        })
    }

    /// The rows of these groups, the worst first. `trend` draws how a row's lag changed.
    pub(crate) fn table(&self, groups: &[GroupLag], trend: &dyn Fn(&Key) -> Option<String>) -> String {
        match self {
            Self::Group(group) => groups
                .first()
                .and_then(|lag| lag.table(trend))
                .unwrap_or_else(|| format!("group {group} has committed no offsets")),
            Self::All => groups_table(groups, trend),
        }
    }

    /// The lag of each row.
    pub(crate) fn lags(&self, groups: &[GroupLag]) -> Vec<(Key, u64)> {
        let rows = groups.iter().flat_map(GroupLag::rows);
        match self {
            Self::Group(_) => rows.map(|row| (row.key(), row.1.total.lag)).collect(),
            Self::All => groups.iter().map(|lag| (lag.key(), lag.total.lag)).collect(),
        }
    }
}

/// Prints a group's lag by partition; false if there is nothing to print.
/// Errors: The server or standard output.
pub(crate) fn print_group(client: &Client, group: &str) -> anyhow::Result<bool> {
    let lag: GroupLag = client.get(&group_route(group, &["lag"]))?;
    match lag.table(&|_| None) {
        Some(text) => output::line(text).map(|()| true).map_err(Into::into),
        None => Ok(false),
    }
}

fn groups_table(groups: &[GroupLag], trend: &dyn Fn(&Key) -> Option<String>) -> String {
    let mut groups: Vec<&GroupLag> = groups.iter().collect();
    groups.sort_by_key(|lag| (Reverse(lag.total.badness()), &lag.group));
    let table = Table::of(groups)
        .text("GROUP", |lag| &lag.group)
        .text("STATE", |lag| &lag.state);
    with_totals(table, |lag| &lag.total)
        .optional_number("DEAD", |lag| lag.dead_letters)
        .optional("LAST 5 MIN", |lag| or_none(trend(&lag.key())))
        .optional_toned("STATUS", |lag| lag.total.status())
        .into_text(&SPARE)
}

/// A partition, and its topic.
struct Row<'a>(&'a str, &'a PartitionLag);

impl Row<'_> {
    fn key(&self) -> Key {
        (self.0.to_owned(), Some(self.1.partition))
    }
}

impl GroupLag {
    fn key(&self) -> Key {
        (self.group.clone(), None)
    }

    /// How many records it is behind, and how old the next one is, in milliseconds.
    pub(crate) fn lag(&self) -> (u64, u64) {
        (self.total.lag, self.total.lag_ms)
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.topics.iter().flat_map(|topic| {
            let partitions = topic.partitions.iter();
            partitions.map(|partition| Row(&topic.topic, partition))
        })
    }

    /// Its partitions, the worst first, and a sentence about all of them; `None` without any.
    fn table(&self, trend: &dyn Fn(&Key) -> Option<String>) -> Option<String> {
        let mut rows: Vec<Row<'_>> = self.rows().collect();
        if rows.is_empty() {
            return None;
        }
        rows.sort_by_key(|Row(topic, row)| (Reverse(row.total.badness()), *topic, row.partition));
        let table = Table::of(rows)
            .text("TOPIC", |row| row.0)
            .number("PARTITION", |row| row.1.partition)
            .number("COMMITTED", |row| or_none(row.1.committed_offset))
            .number("END", |row| row.1.end_offset);
        let table = with_totals(table, |row| &row.1.total)
            .optional("LAST 5 MIN", |row| or_none(trend(&row.key())))
            .optional("MEMBER", |row| or_none(row.1.member_id.as_ref()))
            .optional_toned("STATUS", |row| row.1.total.status())
            .into_text(&SPARE);
        Some(format!("{table}\n\n{}", output::wrapped(&self.sentence())))
    }

    fn sentence(&self) -> String {
        let Self { group, total, .. } = self;
        let mut text = format!("group {group}: {} behind", records(total.lag));
        if total.lag > 0 {
            let (bytes, age) = (bytes(total.lag_bytes), span_ms(total.lag_ms));
            text += &format!(", {bytes}; the oldest is {age} old");
        }
        match self.dead_letters {
            None => text,
            Some(waiting) => format!("{text}; dead letters that wait: {}", count(waiting)),
        }
    }
}

/// Adds the columns of [`Total`] but for the status.
fn with_totals<R>(table: Table<R>, total: impl Fn(&R) -> &Total) -> Table<R> {
    table
        .number("LAG", |row| count(total(row).lag))
        .optional_number("LEASED", |row| total(row).leased)
        .optional_number("DELAYED", |row| total(row).delayed)
        .optional_number("WAITING", |row| total(row).waiting())
        .number("BEHIND BY", |row| brief_ms(total(row).lag_ms))
        .number("BYTES", |row| bytes(total(row).lag_bytes))
        .number("IN/S", |row| rate(total(row).produce_rate))
        .number("OUT/S", |row| rate(total(row).consume_rate))
        .optional("DRAINS IN", |row| total(row).drains())
        .optional("EXPIRES IN", |row| or_none(total(row).expires_ms.map(brief_ms)))
}

impl Total {
    /// Of a queue: its records that are neither leased nor delayed.
    fn waiting(&self) -> Option<u64> {
        Some(self.lag.saturating_sub(self.leased? + self.delayed?))
    }

    fn drains(&self) -> String {
        match (self.drain_ms, self.consume_rate) {
            _ if self.lag == 0 => none(),
            (Some(ms), _) => brief_ms(ms),
            (None, Some(_)) => "never".to_owned(),
            (None, None) => none(),
        }
    }

    fn badness(&self) -> (u8, u64, u64) {
        (self.severity(), self.lag_ms, self.lag)
    }

    fn severity(&self) -> u8 {
        match self.status.as_deref() {
            None | Some("ok") => 0,
            Some("behind") => 1,
            Some("stalled") => 2,
            // A status of a newer server is worth a look.
            Some(_) => 3,
        }
    }

    /// The cell of its status; servers that keep no history send none.
    fn status(&self) -> (String, Tone) {
        let tone = match (&self.status, self.severity()) {
            (None, _) => Tone::Plain,
            (_, 0) => Tone::Good,
            (_, 1) => Tone::Warn,
            _ => Tone::Bad,
        };
        (or_none(self.status.as_ref()), tone)
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn group(name: &str, status: &str, lag_ms: u64) -> GroupLag {
        let text = json!({"group": name, "state": "empty", "lag": 1, "lag_ms": lag_ms, "status": status,
            "consume_rate": 0.0, "produce_rate": 3.25, "drain_ms": null});
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn the_worst_group_comes_first_and_a_lag_that_never_drains_says_so() {
        let groups = [
            group("fine", "ok", 90_000),
            group("slow", "behind", 5),
            group("gone", "losing", 0),
            group("dead", "stalled", 7),
        ];
        let table = Subject::All.table(&groups, &|_| None);
        let rows = table.lines().skip(1);
        let names: Vec<&str> = rows.filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(names, ["gone", "dead", "slow", "fine"]);
        for part in ["never", "3.2", " 1.5 min "] {
            assert!(table.contains(part), "{part}: {table}");
        }
        assert!(!table.contains("EXPIRES") && !table.contains("5 MIN"), "{table}");
        let drawn = Subject::All.table(&groups, &|_| Some("▁▂█".to_owned()));
        assert!(drawn.contains("▁▂█"));
    }

    #[test]
    fn a_queue_shows_what_is_leased_delayed_waiting_and_dead_and_other_groups_have_no_such_columns() {
        let plain = group("plain", "ok", 0);
        let mut queue = json!({"group": "work", "lag": 60, "leased": 20, "delayed": 7, "dead_letters": 1234});
        let columns = ["LEASED", "DELAYED", "WAITING", "DEAD"];
        let table = Subject::All.table(std::slice::from_ref(&plain), &|_| None);
        assert!(columns.iter().all(|column| !table.contains(column)), "{table}");
        let work: GroupLag = serde_json::from_value(queue.clone()).unwrap();
        let table = Subject::All.table(&[plain, work], &|_| None);
        let words: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
        let shown = words.iter().position(|word| *word == "LEASED").unwrap();
        assert_eq!(words[shown..shown + 3], columns[..3]);
        let row = table.lines().find(|line| line.starts_with("work")).unwrap();
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert!(
            cells.windows(4).any(|cells| cells == ["60", "20", "7", "33"]),
            "{row}"
        );
        assert!(cells.contains(&"1,234"), "{row}");
        let partition = json!({"partition": 0, "end_offset": 9, "lag": 60, "leased": 20, "delayed": 7});
        queue["topics"] = json!([{"topic": "t", "partitions": [partition]}]);
        let work: GroupLag = serde_json::from_value(queue).unwrap();
        let table = work.table(&|_| None).unwrap();
        let (lag, words) = ("60 records behind", "dead letters that wait: 1,234");
        assert!(table.contains("WAITING") && table.contains(lag), "{table}");
        assert!(table.replace('\n', " ").contains(words), "{table}");
    }

    #[test]
    fn an_older_server_is_shown_as_far_as_it_answers() {
        let partition = json!({"partition": 0, "committed_offset": 1, "end_offset": 4, "lag": 3});
        let topics = json!([{"topic": "t", "partitions": [partition]}]);
        let old = json!({"group": "g", "lag": 3, "topics": topics});
        let old: GroupLag = serde_json::from_value(old).unwrap();
        let table = old.table(&|_| None).unwrap();
        assert!(table.contains("group g: 3 records behind"), "{table}");
        assert!(!table.contains("DRAINS"), "{table}");
    }
}
