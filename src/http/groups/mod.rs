//! `/v1/groups`: groups, their committed offsets, and their members.

mod members;
mod offsets;
mod outputs;
mod reset;
mod settings;
mod work;

use axum::extract::RawQuery;
use axum::response::IntoResponse;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::params::{self, Params};
use super::path::{AtGroup, GroupName, NoQuery};
use super::problem::Problem;
use super::{Share, ok};
use crate::broker::caller::Caller;
use crate::broker::engine::TimestampMs;
use crate::broker::groups::Groups;
use crate::broker::groups::live::GroupType;
use crate::broker::names;
use crate::broker::topics::lookup::Start;
use crate::http::Answer;
use crate::http::app::App;
use members::MemberBody;
use settings::SettingsBody;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_groups))
        .routes(routes!(describe_group, delete_group, settings::alter_group))
        .merge(offsets::routes())
        .merge(reset::routes())
        .merge(members::routes())
        .merge(work::routes())
}

/// A group in a list.
#[derive(Debug, Serialize, ToSchema)]
struct GroupRow {
    /// The group's name.
    group: String,
    /// `empty`: no members; `stable`; or `rebalancing`: partitions wait until their owners give them up.
    #[schema(pattern = "^(empty|stable|rebalancing)$")]
    state: &'static str,
    /// `ordered`: each partition is read by one member, in order; `shared`: a work queue; `classic`: Kafka's client-side
    /// protocol, in which the members assign the partitions to each other.
    #[schema(pattern = "^(ordered|shared|classic)$")]
    r#type: &'static str,
    /// The number of members.
    members: usize,
}

/// Groups, sorted by name.
#[derive(Debug, Serialize, ToSchema)]
struct GroupList {
    /// The groups.
    groups: Vec<GroupRow>,
    /// There are more groups: pass this as `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A group.
#[derive(Debug, Serialize, ToSchema)]
struct GroupBody {
    /// The group's name.
    group: String,
    /// `empty`: no members; `stable`; or `rebalancing`: partitions wait until their owners give them up.
    #[schema(pattern = "^(empty|stable|rebalancing)$")]
    state: &'static str,
    /// `ordered`: each partition is read by one member, in order; `shared`: a work queue; `classic`: Kafka's client-side
    /// protocol, in which the members assign the partitions to each other.
    #[schema(pattern = "^(ordered|shared|classic)$")]
    r#type: &'static str,
    /// The topics that the group has subscribed to, and its patterns of topics, with and without members; sorted. A topic
    /// that a pattern brings is named once a member has joined since.
    topics: Vec<String>,
    /// The members, sorted by name.
    members: Vec<MemberBody>,
    /// The settings that the first member chose for all, or that were changed since.
    #[schema(value_type = settings::SettingsDoc)]
    settings: SettingsBody,
    /// Shared groups: what the queue holds, over all partitions.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<QueueBody>,
}

/// The unsettled records of a shared group, as far as the server has looked.
#[derive(Debug, Serialize, ToSchema)]
struct QueueBody {
    /// Records that are leased.
    leased: u64,
    /// Records that wait for their time.
    delayed: u64,
    /// Other unsettled records, those that nobody has looked at included.
    waiting: u64,
    /// Dead letters that wait to be redriven or discarded. After a start the server reads the topics of dead letters
    /// once, and counts what it has read so far.
    dead_letters: u64,
    /// A bound is reached: a partition remembers 1,000,000 unsettled records, or all queues together
    /// `max_queue_records`. Records beyond are looked at when others are settled.
    full: bool,
}

/// Groups, sorted by name
#[utoipa::path(get, path = "/v1/groups", tag = "groups",
    params(("limit" = Option<u64>, Query, minimum = 1, maximum = 10000, description = "The largest number of groups (default 100)"),
        ("after" = Option<String>, Query, description = "Groups after this name")),
    responses((status = 200, description = "The groups", body = GroupList)))]
async fn list_groups(app: App, caller: Caller, RawQuery(query): RawQuery) -> Answer {
    let (names, next) = page_of_names(&caller, &app.groups, query.as_deref())?;
    let row = |group: String| {
        let overview = app.groups.overview(&group);
        GroupRow {
            state: overview.state.name(),
            r#type: overview.kind.name(),
            members: overview.members,
            group,
        }
    };
    let groups = names.into_iter().map(row).collect();
    ok(&GroupList { groups, next })
}

/// A group with its members
#[utoipa::path(get, path = "/v1/groups/{group}", tag = "groups",
    responses((status = 200, description = "The group", body = GroupBody)))]
async fn describe_group(app: App, caller: Caller, _: NoQuery, AtGroup(group): AtGroup) -> Answer {
    ok(&described(&app, &caller, group).await?)
}

async fn described(app: &App, caller: &Caller, group: String) -> Result<GroupBody, Problem> {
    let overview = app.groups.overview(&group);
    let queue = match overview.kind {
        GroupType::Ordered | GroupType::Classic => None,
        GroupType::Shared => {
            let (lags, name, caller) = (app.lags.clone(), group.clone(), caller.clone());
            let lag = move || lags.seen_by(&caller, &name);
            let lag = app.blocking.run(Share::Report, lag).await?;
            let total = lag.total.lag;
            Some(QueueBody {
                leased: total.leased.unwrap_or(0),
                delayed: total.delayed.unwrap_or(0),
                waiting: total.waiting().unwrap_or(total.lag),
                dead_letters: lag.dead_letters.unwrap_or(0),
                full: app.groups.progress(&group).values().any(|queue| queue.is_full),
            })
        }
    };
    Ok(GroupBody {
        queue,
        state: overview.state.name(),
        r#type: overview.kind.name(),
        topics: app.groups.subscribed(caller, &group),
        members: members::described(caller, &app.groups, &group, app.clock.now()),
        settings: SettingsBody::of(caller, &overview.value),
        group,
    })
}

/// Deletes a group with its committed offsets
#[utoipa::path(delete, path = "/v1/groups/{group}", tag = "groups",
    responses((status = 204, description = "The group is deleted"), (status = 409, description = "`group-active`: it has members")))]
async fn delete_group(app: App, caller: Caller, _: NoQuery, GroupName(group): GroupName) -> Answer {
    app.groups.delete(&caller, &group).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The target of `"earliest"`, `"latest"` or a time; `None` for anything else.
fn start_of(value: &Value) -> Option<Start> {
    match value.as_str() {
        Some(text) => params::start(text),
        None => {
            let millis = value.as_i64().filter(|millis| *millis >= 0)?;
            Some(Start::Time(TimestampMs(millis)))
        }
    }
}

/// The page of names of groups that the caller may describe that a request with `limit` and `after` gets, and the value of `next`.
///
/// # Errors
/// 400 for other parameters or wrong values.
pub(super) fn page_of_names(
    caller: &Caller,
    groups: &Groups,
    query: Option<&str>,
) -> Result<(Vec<String>, Option<String>), Problem> {
    let params = Params::parse(query, &["limit", "after"], &[])?;
    let limit = params.number("limit", 1, 10_000)?.unwrap_or(100) as usize;
    let mut all = groups.names();
    all.retain(|name| caller.sees_group(name));
    let (shown, next) = names::page(&all, String::as_str, params.get("after"), limit);
    Ok((shown.to_vec(), next.map(str::to_owned)))
}
