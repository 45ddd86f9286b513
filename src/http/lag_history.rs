//! `GET /v1/groups/{group}/lag/history` and `GET /v1/groups/{group}/lag.svg`: a group's past lag as numbers, and as a
//! chart of the same numbers.

use std::sync::Arc;

use axum::extract::RawQuery;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::lag_chart::{self, Picture, Theme};
use super::params::Params;
use super::path::AtGroup;
use super::problem::Problem;
use super::{Share, fresh, ok};
use crate::broker::caller::Caller;
use crate::broker::engine::{Log, PartitionId, TopicId};
use crate::broker::lag::plot::{self, By, Line, Metric, Plot, Request, Value};
use crate::broker::lag::report::{Lags, Total};
use crate::broker::rights::Right;
use crate::broker::topics::{self, catalog};
use crate::http::Answer;
use crate::http::app::App;

/// The default length of the window.
pub(super) const WINDOW_MS: u64 = 3_600_000;
pub(super) const MIN_WINDOW_MS: u64 = 60_000;
pub(super) const MAX_WINDOW_MS: u64 = 86_400_000;
/// The most steps of a series.
pub(super) const MAX_STEPS: u64 = 360;
/// The least bound on the steps of a series, whatever the number of series.
const MIN_STEPS: u64 = 60;
/// The most steps of all series together, roughly.
pub(super) const MAX_POINTS: u64 = 100_000;
/// The most series in an answer.
pub(super) const MAX_SERIES: usize = 1000;

const WHAT: &[&str] = &["window_ms", "topic", "partition", "by"];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(lag_history))
        .routes(routes!(lag_svg))
}

/// The past lag of a group. All lists have one entry for each of `times`: the largest value of that step, null if the
/// server took no sample. They begin with the first sample in the window.
#[derive(Debug, Serialize, ToSchema)]
struct HistoryBody {
    /// The group.
    group: String,
    /// The length of a step in milliseconds.
    step_ms: u64,
    /// When each step begins.
    times: Vec<i64>,
    /// All requested partitions together.
    total: Columns,
    /// One series each, the largest lag first.
    series: Vec<SeriesBody>,
    /// Series beyond the 1,000 worst.
    series_left_out: usize,
}

/// One of the requested series.
#[derive(Debug, Serialize, ToSchema)]
struct SeriesBody {
    /// The topic; left out for `by=group`.
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    /// The partition; left out for `by=group` and `by=topic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<u32>,
    #[serde(flatten)]
    columns: Columns,
}

/// The values of each step.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Columns {
    /// Records to read.
    lag: Vec<Option<u64>>,
    /// The age in milliseconds of the oldest next record.
    lag_ms: Vec<Option<u64>>,
    /// Stored bytes to read.
    lag_bytes: Vec<Option<u64>>,
}

/// A group's lag over up to 24 hours
#[utoipa::path(get, path = "/v1/groups/{group}/lag/history", tag = "lag",
    params(("window_ms" = Option<u64>, Query, minimum = 60000, maximum = 86400000, description = "How far back (3600000; 60000 to 86400000)"),
        ("by" = Option<String>, Query, pattern = "^(group|topic|partition)$", description = "A series for each `partition` (the default), `topic`, or the `group`"),
        ("topic" = Option<String>, Query, description = "Only this topic"),
        ("partition" = Option<u32>, Query, description = "Only this partition of `topic`")),
    responses((status = 200, description = "The history of up to 24 hours, over restarts; it has a gap while the server was down", body = HistoryBody),
        (status = 404, description = "`unknown-group`, `unknown-topic`, `unknown-partition`")))]
async fn lag_history(app: App, caller: Caller, RawQuery(query): RawQuery, AtGroup(group): AtGroup) -> Answer {
    let params = Params::parse(query.as_deref(), WHAT, &[])?;
    let asked = Asked::of(&app.log, caller, &params)?;
    let (lags, log) = (app.lags.clone(), app.log.clone());
    let history = move || {
        let plot = asked.plot((&lags, &log), &group, Metric::Lag, MAX_SERIES);
        let first = plot.total.iter().take_while(|value| value.is_none()).count();
        let series = plot.lines.iter().map(|line| SeriesBody {
            topic: line.topic.map(|topic| topic_name(&log, topic)),
            partition: line.partition,
            columns: Columns::of(&line.values[first..]),
        });
        HistoryBody {
            series: series.collect(),
            step_ms: plot.step_ms,
            times: plot.times[first..].iter().map(|time| time.get()).collect(),
            total: Columns::of(&plot.total[first..]),
            series_left_out: plot.left_out,
            group,
        }
    };
    ok(&app.blocking.run(Share::Report, history).await?)
}

/// A chart of a group's lag
#[utoipa::path(get, path = "/v1/groups/{group}/lag.svg", tag = "lag",
    params(("window_ms" = Option<u64>, Query, minimum = 60000, maximum = 86400000, description = "How far back (3600000; 60000 to 86400000)"),
        ("metric" = Option<String>, Query, pattern = "^(lag|lag_ms|lag_bytes)$", description = "`lag` (the default), `lag_ms` or `lag_bytes`"),
        ("by" = Option<String>, Query, pattern = "^(group|topic|partition)$", description = "A line for each `partition` (the default), `topic`, or the `group`"),
        ("topic" = Option<String>, Query, description = "Only this topic"),
        ("partition" = Option<u32>, Query, description = "Only this partition of `topic`"),
        ("theme" = Option<String>, Query, pattern = "^(auto|light|dark)$", description = "`auto` (the default: as the reader's system is), `light` or `dark`")),
    responses((status = 200, description = "The worst eight lines, and the others together", body = String,
            content_type = "image/svg+xml"),
        (status = 404, description = "`unknown-group`, `unknown-topic`, `unknown-partition`")))]
async fn lag_svg(app: App, caller: Caller, RawQuery(query): RawQuery, AtGroup(group): AtGroup) -> Answer {
    let params = Params::parse(query.as_deref(), &[WHAT, &["metric", "theme"]].concat(), &[])?;
    let asked = Asked::of(&app.log, caller, &params)?;
    let metrics = [
        ("lag", Metric::Lag),
        ("lag_ms", Metric::LagMs),
        ("lag_bytes", Metric::LagBytes),
    ];
    let metric = params.choice("metric", &metrics)?.unwrap_or_default();
    let themes = [
        ("auto", Theme::Auto),
        ("light", Theme::Light),
        ("dark", Theme::Dark),
    ];
    let theme = params.choice("theme", &themes)?.unwrap_or_default();
    let (lags, log) = (app.lags.clone(), app.log.clone());
    let picture = move || asked.picture(&lags, &log, &group, metric, theme);
    let svg = app.blocking.run(Share::Report, picture).await?;
    Ok((fresh("image/svg+xml"), svg).into_response())
}

/// The requested part of a history.
struct Asked {
    /// Sees only topics that it may describe.
    caller: Caller,
    window_ms: u64,
    by: By,
    topic: Option<(Arc<str>, TopicId)>,
    partition: Option<u32>,
}

impl Asked {
    fn of(log: &Log, caller: Caller, params: &Params) -> Result<Self, Problem> {
        let choices = [
            ("group", By::Group),
            ("topic", By::Topic),
            ("partition", By::Partition),
        ];
        let window_ms = params.number("window_ms", MIN_WINDOW_MS, MAX_WINDOW_MS)?;
        let partition = params.number("partition", 0, u64::from(u32::MAX))?;
        let partition = partition.and_then(|index| u32::try_from(index).ok());
        let mut asked = Self {
            caller,
            window_ms: window_ms.unwrap_or(WINDOW_MS),
            by: params.choice("by", &choices)?.unwrap_or(By::Partition),
            topic: None,
            partition,
        };
        let Some(name) = params.get("topic") else {
            if partition.is_some() {
                let detail = "partition goes with topic: name the topic whose partition it is";
                return Err(Problem::invalid("partition", detail));
            }
            return Ok(asked);
        };
        let checked = asked.caller.check_topic(Right::Describe, name);
        checked.map_err(|refusal| refusal.at("topic"))?;
        let topic = catalog::find(log, name).map_err(|refusal| refusal.at("topic"))?;
        if let Some(index) = partition {
            topics::partition(&topic, index).map_err(|refusal| refusal.at("partition"))?;
        }
        asked.topic = Some((topic.name().into(), topic.id()));
        Ok(asked)
    }

    fn is_wanted(&self, log: &Log, id: PartitionId) -> bool {
        sees_partition(&self.caller, log, id)
            && self.topic.as_ref().is_none_or(|(_, topic)| *topic == id.topic)
            && self.partition.is_none_or(|index| index == id.index)
    }

    fn plot(&self, (lags, log): (&Lags, &Log), group: &str, metric: Metric, max_lines: usize) -> Plot {
        let mut request = Request {
            until: lags.now(),
            window_ms: self.window_ms,
            by: self.by,
            metric,
            max_lines,
            max_steps: MAX_STEPS,
        };
        let since = plot::since(&request);
        let recording = lags.history.recording(group, since, |id| self.is_wanted(log, id));
        let lines = recording.series.len().clamp(1, max_lines) as u64;
        request.max_steps = (MAX_POINTS / lines).clamp(MIN_STEPS, MAX_STEPS);
        Plot::of(&recording, &request)
    }

    fn picture(&self, lags: &Lags, log: &Log, group: &str, metric: Metric, theme: Theme) -> String {
        let plot = self.plot((lags, log), group, metric, lag_chart::MAX_LINES);
        let lag = lags.seen_by(&self.caller, group);
        let topics = lag.topics.iter();
        let topics = topics.filter(|topic| self.topic.as_ref().is_none_or(|(name, _)| *name == topic.topic));
        let rows = topics.flat_map(|topic| &topic.partitions);
        let rows = rows.filter(|row| self.partition.is_none_or(|index| index == row.partition));
        let now = rows.fold(Total::default(), |now, row| now.and(row.total));
        // With one topic the heading has its name, and the lines need not repeat it.
        let mut topics: Vec<TopicId> = plot.lines.iter().filter_map(|line| line.topic).collect();
        topics.dedup();
        let only = match (&self.topic, &*topics) {
            (Some((name, _)), _) => Some(name.to_string()),
            (None, [topic]) if plot.left_out == 0 => Some(topic_name(log, *topic)),
            _ => None,
        };
        let name = |line: &Line| match (line.topic, line.partition) {
            (Some(_), Some(index)) if only.is_some() => format!("partition {index}"),
            (Some(topic), Some(index)) => format!("{}/{index}", topic_name(log, topic)),
            (Some(topic), None) => topic_name(log, topic),
            (None, _) => group.to_owned(),
        };
        let names: Vec<String> = plot.lines.iter().map(name).collect();
        let partition = self
            .partition
            .map_or_else(String::new, |index| format!("/{index}"));
        let place = only.as_ref().map(|topic| format!(" in {topic}{partition}"));
        let title = format!("Lag of {group}{}", place.unwrap_or_default());
        lag_chart::draw(&Picture {
            title: &title,
            each: match self.by {
                By::Group => "",
                By::Topic => ", by topic",
                By::Partition => ", by partition",
            },
            metric,
            plot: &plot,
            names: &names,
            until: lags.now(),
            now: Value {
                lag: now.lag.lag,
                lag_ms: now.lag.lag_ms,
                lag_bytes: now.lag.lag_bytes,
            },
            status: now.status,
            theme,
        })
    }
}

impl Columns {
    pub(super) fn of(values: &[Option<Value>]) -> Self {
        let value = |metric, it: &Option<Value>| it.map(|it| it.get(metric));
        let column = |metric| values.iter().map(|it| value(metric, it)).collect();
        Self {
            lag: column(Metric::Lag),
            lag_ms: column(Metric::LagMs),
            lag_bytes: column(Metric::LagBytes),
        }
    }
}

/// Whether the caller may describe the topic of a partition. One that is deleted has no name that could be checked.
pub(super) fn sees_partition(caller: &Caller, log: &Log, id: PartitionId) -> bool {
    caller.sees_all()
        || log
            .topic_by_id(id.topic)
            .is_some_and(|topic| caller.sees_topic(topic.name()))
}

/// A topic deleted a moment ago has no known name.
fn topic_name(log: &Log, topic: TopicId) -> String {
    let found = log.topic_by_id(topic).map(|topic| topic.name().to_owned());
    found.unwrap_or_else(|| format!("topic {}", topic.0))
}
