//! `GET /v1/lag` and `GET /v1/lag/history`: how far all groups are behind, and were.

use axum::extract::RawQuery;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::lag::{GroupLagBody, group_body};
use super::lag_history::{
    Columns, MAX_POINTS, MAX_SERIES, MAX_STEPS, MAX_WINDOW_MS, MIN_WINDOW_MS, WINDOW_MS, sees_partition,
};
use super::openapi::shapes;
use super::params::Params;
use super::problem::Problem;
use super::{Share, ok};
use crate::broker::caller::Caller;
use crate::broker::lag::overview::{After, Sort, Wanted};
use crate::broker::lag::plot::{self, By, Groups, Metric, Request};
use crate::broker::lag::window::Status;
use crate::broker::rights::Right;
use crate::broker::topics::catalog;
use crate::http::Answer;
use crate::http::app::App;

/// The default number of steps in the history of all groups.
const STEPS: u64 = 60;
const MOST_LISTED: u64 = 10_000;
/// The orders, by their names.
const SORTS: [(&str, Sort); 4] = [
    ("name", Sort::Name),
    ("lag", Sort::Lag),
    ("lag_ms", Sort::LagMs),
    ("expires_ms", Sort::ExpiresMs),
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(all_lags))
        .routes(routes!(all_histories))
}

/// The lag of many groups.
#[derive(Debug, Serialize, ToSchema)]
struct LagsBody {
    /// A summary for each group, in the requested order.
    groups: Vec<GroupLagBody>,
    /// There are more groups: pass this as `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The past lag of all groups. All lists of a group have one entry for each of `times`: the largest value of that step,
/// null if the server took no sample. They begin with the first sample in the window.
#[derive(Debug, Serialize, ToSchema)]
struct HistoriesBody {
    /// The length of a step in milliseconds.
    step_ms: u64,
    /// When each step begins.
    times: Vec<i64>,
    /// One series for each group, the largest lag first.
    series: Vec<GroupSeriesBody>,
    /// Groups that have no series here.
    series_left_out: usize,
}

/// The past lag of a group.
#[derive(Debug, Serialize, ToSchema)]
struct GroupSeriesBody {
    /// The group.
    group: String,
    #[serde(flatten)]
    columns: Columns,
}

/// How far every group is behind, with a summary of each
#[utoipa::path(get, path = "/v1/lag", tag = "lag",
    params(("topic" = Option<String>, Query, description = "Only groups that have subscribed to this topic, or committed in it"),
        ("status" = Option<Vec<shapes::LagStatus>>, Query, style = Form, explode = false, description = "Only groups with this status: `ok`, `behind`, `stalled` or `losing`; several with commas"),
        ("q" = Option<String>, Query, description = "Only groups with this in their names, in large or small letters"),
        ("sort" = Option<String>, Query, pattern = "^(name|lag|lag_ms|expires_ms)$", description = "`lag` (the most records first), `lag_ms` (the oldest first) or `expires_ms` (what expires soonest first); by default by name"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 10000, description = "The largest number of groups (default 100)"),
        ("after" = Option<String>, Query, description = "Groups behind this place: `next` of the last answer")),
    responses((status = 200, description = "The lags", body = LagsBody),
        (status = 404, description = "`unknown-topic`")))]
async fn all_lags(app: App, caller: Caller, RawQuery(query): RawQuery) -> Answer {
    let allowed = ["topic", "status", "q", "sort", "limit", "after"];
    let params = Params::parse(query.as_deref(), &allowed, &[])?;
    let sort = params.choice("sort", &SORTS)?.unwrap_or_default();
    let topic = params.get("topic").map(|name| {
        caller.check_topic(Right::Describe, name)?;
        catalog::find(&app.log, name)
    });
    let topic = topic.transpose().map_err(|refusal| refusal.at("topic"))?;
    let limit = params.number("limit", 1, MOST_LISTED)?.unwrap_or(100);
    let wanted = Wanted {
        topic: topic.map(|topic| topic.id()),
        statuses: params.get("status").map_or(Ok(Vec::new()), statuses_of)?,
        name: params.get("q").map(str::to_owned),
        sort,
        after: params.get("after").map(|text| after_of(text, sort)).transpose()?,
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let lags = app.lags.clone();
    let page = app
        .blocking
        .run(Share::Report, move || lags.overview(&caller, &wanted))
        .await?;
    let groups = page.groups.into_iter();
    ok(&LagsBody {
        groups: groups.map(|(name, lag)| group_body(lag, name, false)).collect(),
        next: page.next.map(|after| text_of(after, sort)),
    })
}

/// The lag of all groups over up to 24 hours
#[utoipa::path(get, path = "/v1/lag/history", tag = "lag",
    params(("steps" = Option<u64>, Query, minimum = 2, maximum = 360, description = "The largest number of steps (60; 2 to 360)"),
        ("window_ms" = Option<u64>, Query, minimum = 60000, maximum = 86400000, description = "How far back (3600000; 60000 to 86400000)")),
    responses((status = 200, description = "The history, a series for each group", body = HistoriesBody)))]
async fn all_histories(app: App, caller: Caller, RawQuery(query): RawQuery) -> Answer {
    let params = Params::parse(query.as_deref(), &["steps", "window_ms"], &[])?;
    let steps = params.number("steps", 2, MAX_STEPS)?.unwrap_or(STEPS);
    let window_ms = params.number("window_ms", MIN_WINDOW_MS, MAX_WINDOW_MS)?;
    let (lags, log) = (app.lags.clone(), app.log.clone());
    let history = move || {
        let most = usize::try_from(MAX_POINTS / steps).unwrap_or(usize::MAX);
        let request = Request {
            until: lags.now(),
            window_ms: window_ms.unwrap_or(WINDOW_MS),
            by: By::Group,
            metric: Metric::Lag,
            max_lines: most.min(MAX_SERIES),
            max_steps: steps,
        };
        let is_group = |name: &str| caller.sees_group(name);
        let is_partition = |id| sees_partition(&caller, &log, id);
        let (recording, groups, without) =
            lags.history
                .recordings(plot::since(&request), is_group, is_partition);
        let plot = Groups::of(&recording, &groups, &request);
        let series = plot.lines.iter().map(|(group, values)| GroupSeriesBody {
            group: group.to_string(),
            columns: Columns::of(values),
        });
        HistoriesBody {
            step_ms: plot.step_ms,
            times: plot.times.iter().map(|time| time.get()).collect(),
            series: series.collect(),
            series_left_out: plot.left_out + without,
        }
    };
    ok(&app.blocking.run(Share::Report, history).await?)
}

fn statuses_of(text: &str) -> Result<Vec<Status>, Problem> {
    let all = [Status::Ok, Status::Behind, Status::Stalled, Status::Losing];
    let status = |name: &str| {
        let found = all.into_iter().find(|status| status.name() == name);
        found.ok_or_else(|| {
            let detail = format!("status must be ok, behind, stalled or losing, not {name:?}");
            Problem::invalid("status", detail)
        })
    };
    text.split(',').map(status).collect()
}

/// A place as clients send it: the order, the figure that sorts it, and a name. In another order the place is another one.
fn after_of(text: &str, sort: Sort) -> Result<After, Problem> {
    let place = text.split_once('.').and_then(|(order, place)| {
        let (figure, name) = place.split_once('.')?;
        (order == word_of(sort)).then_some(After(figure.parse().ok()?, name.to_owned()))
    });
    place.ok_or_else(|| {
        let detail = "after must be next of an answer to the same request";
        Problem::invalid("after", detail)
    })
}

fn text_of(After(figure, name): After, sort: Sort) -> String {
    format!("{}.{figure}.{name}", word_of(sort))
}

fn word_of(sort: Sort) -> &'static str {
    let found = SORTS.into_iter().find(|(_, known)| *known == sort);
    found.map_or("", |(word, _)| word)
}
