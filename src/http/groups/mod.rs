//! `/v1/groups`: groups, what they have committed, and their members.

mod members;
mod offsets;
mod work;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::json_answer;
use super::params::Params;
use super::problem::Problem;
use crate::broker::groups;
use crate::broker::groups::live::GroupType;
use crate::broker::groups::shared::settings::GroupValue;
use crate::broker::names;
use crate::broker::refusal::Reason;
use crate::http::app::App;
use members::MemberBody;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_groups))
        .routes(routes!(describe_group, delete_group))
        .merge(offsets::routes())
        .merge(members::routes())
        .merge(work::routes())
}

/// A group in a list.
#[derive(Debug, Serialize, ToSchema)]
struct GroupRow {
    /// The group's name.
    group: String,
    /// `empty` without members, `stable`, or `rebalancing` while partitions wait for their owners to give them up.
    state: &'static str,
    /// `ordered`: each partition is read by one member, in order; `shared`: a work queue.
    r#type: &'static str,
    /// How many members it has.
    members: usize,
}

/// Groups, sorted by name.
#[derive(Debug, Serialize, ToSchema)]
struct GroupList {
    /// The groups.
    groups: Vec<GroupRow>,
    /// There is more: give it as `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A group.
#[derive(Debug, Serialize, ToSchema)]
struct GroupBody {
    /// The group's name.
    group: String,
    /// `empty` without members, `stable`, or `rebalancing` while partitions wait for their owners to give them up.
    state: &'static str,
    /// `ordered`: each partition is read by one member, in order; `shared`: a work queue.
    r#type: &'static str,
    /// The members, sorted by name.
    members: Vec<MemberBody>,
    /// Of a shared group: what its first member chose for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<SettingsBody>,
}

/// The settings of a shared group.
#[derive(Debug, Serialize, ToSchema)]
struct SettingsBody {
    /// How long a record is leased, in milliseconds.
    lease_ms: u32,
    /// How often a record is delivered unsettled before it goes to the dead letters.
    max_deliveries: u32,
    /// Where dead letters go; null: to `{topic}.dlq`.
    dead_letter_topic: Option<String>,
}

/// Groups, sorted by name
#[utoipa::path(get, path = "/v1/groups", tag = "groups",
    params(("limit" = Option<u64>, Query, description = "The most groups (100)"),
        ("after" = Option<String>, Query, description = "Groups after this name")),
    responses((status = 200, description = "The groups", body = GroupList)))]
async fn list_groups(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let (names, next) = page_of_names(&app, query.as_deref())?;
    let groups = names
        .into_iter()
        .map(|group| {
            let live = app.groups.live(&group).unwrap_or_default();
            GroupRow {
                state: live.state.name(),
                r#type: kind_of(&app, &group).name(),
                members: live.members,
                group,
            }
        })
        .collect();
    Ok(json_answer(StatusCode::OK, &GroupList { groups, next }))
}

/// A group with its members
#[utoipa::path(get, path = "/v1/groups/{group}", tag = "groups",
    params(("group" = String, Path, description = "The group's name")),
    responses((status = 200, description = "The group", body = GroupBody),
        (status = 404, description = "`unknown-group`")))]
async fn describe_group(
    State(app): State<App>,
    group: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    Params::parse(query.as_deref(), &[], &[])?;
    let group = known_group(&app, group)?;
    let live = app.groups.live(&group).unwrap_or_default();
    let body = GroupBody {
        state: live.state.name(),
        r#type: kind_of(&app, &group).name(),
        members: members::describe(&app, &group),
        settings: match app.groups.value_of(&group) {
            Ok(Some(GroupValue::Shared(settings))) => Some(SettingsBody {
                lease_ms: settings.lease_ms,
                max_deliveries: settings.max_deliveries,
                dead_letter_topic: settings.dead_letter_topic,
            }),
            _ => None,
        },
        group,
    };
    Ok(json_answer(StatusCode::OK, &body))
}

/// Deletes a group with what it has committed
#[utoipa::path(delete, path = "/v1/groups/{group}", tag = "groups",
    params(("group" = String, Path, description = "The group's name")),
    responses((status = 204, description = "It is gone"), (status = 404, description = "`unknown-group`"),
        (status = 409, description = "`group-active`: it has members")))]
async fn delete_group(
    State(app): State<App>,
    group: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    Params::parse(query.as_deref(), &[], &[])?;
    let group = valid_group(group)?;
    let guard = app.groups.alone().await;
    if !app.groups.exists(&group) {
        return Err(unknown_group(&group));
    }
    let outside = no_members(&app, &group)?;
    app.groups.delete((guard, outside), &group).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The group's name out of the path.
///
/// # Errors
/// 400 for what cannot be a group's name.
pub(super) fn valid_group(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let Path(group) = path.map_err(|error| Problem::invalid("group", error.body_text()))?;
    names::GROUP.check(&group)?;
    Ok(group)
}

/// The name of a group that exists.
///
/// # Errors
/// 400 for what cannot be a name, 404 for a group that nobody made.
pub(super) fn known_group(app: &App, path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let group = valid_group(path)?;
    if app.groups.exists(&group) {
        Ok(group)
    } else {
        Err(unknown_group(&group))
    }
}

/// The names that a list with `limit` and `after` asks for, and what comes as `next`.
///
/// # Errors
/// 400 for other parameters or wrong values.
pub(super) fn page_of_names(
    app: &App,
    query: Option<&str>,
) -> Result<(Vec<String>, Option<String>), Problem> {
    let params = Params::parse(query, &["limit", "after"], &[])?;
    let limit = params.number("limit", 1, 10_000)?.unwrap_or(100) as usize;
    let mut names = app.groups.names();
    if let Some(after) = params.get("after") {
        names.retain(|name| name.as_str() > after);
    }
    let is_more = names.len() > limit;
    names.truncate(limit);
    let next = names.last().filter(|_| is_more).cloned();
    Ok((names, next))
}

/// How a group is shared; one that cannot be read counts as ordered, and nobody can join it.
fn kind_of(app: &App, group: &str) -> GroupType {
    let value = app.groups.value_of(group).ok().flatten();
    value.map_or(GroupType::Ordered, |value| value.kind())
}

/// Refuses what members would not know of; nobody joins while the answer is held.
fn no_members(app: &App, group: &str) -> Result<groups::Outside, Problem> {
    app.groups.begin_outside(group).ok_or_else(|| {
        let detail =
            format!("the group {group} has live members: have them leave, or wait until their sessions end");
        Problem::new(Reason::GroupActive, detail)
    })
}

fn unknown_group(group: &str) -> Problem {
    Problem::new(Reason::UnknownGroup, format!("the group {group} does not exist"))
}
