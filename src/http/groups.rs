//! `/v1/groups`: groups and what they have committed, without membership.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use quipu_segments::{Log, Offset, Partition, TimestampMs, Topic};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::read_json;
use super::json_answer;
use super::params::{Params, parse_time};
use super::problem::{Code, Problem};
use super::{Work, blocking};
use crate::app::App;
use crate::groups::{self, Commit, MAX_METADATA_BYTES};

/// What a group without members is; the state and the type that the contract gives it.
const STATE: &str = "empty";
const TYPE: &str = "ordered";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_groups))
        .routes(routes!(describe_group, delete_group))
        .routes(routes!(read_offsets, commit_offsets))
        .routes(routes!(reset_offsets))
}

/// A group in a list.
#[derive(Debug, Serialize, ToSchema)]
struct GroupRow {
    /// The group's name.
    group: String,
    /// `empty`: it has no members.
    state: &'static str,
    /// `ordered`: each partition is read in order.
    r#type: &'static str,
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
    /// `empty`: it has no members.
    state: &'static str,
    /// `ordered`: each partition is read in order.
    r#type: &'static str,
    /// The members.
    members: Vec<Value>,
}

/// A committed offset.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OffsetBody {
    /// The topic.
    topic: String,
    /// The partition.
    partition: u32,
    /// The next record to be read; at most the partition's `end_offset`.
    offset: u64,
    /// What the consumer notes with it, at most 4096 bytes.
    #[serde(default)]
    metadata: Option<String>,
}

/// Committed offsets.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OffsetsBody {
    /// One for each partition.
    offsets: Vec<OffsetBody>,
}

/// Where to set a group's offsets.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ResetBody {
    /// The topic.
    topic: String,
    /// The partitions; all of the topic's unless given.
    #[serde(default)]
    partitions: Option<Vec<u32>>,
    /// `"earliest"`, `"latest"`, a time, `{"offset":N}` or `{"shift":N}`.
    #[schema(value_type = Value)]
    to: Value,
    /// Only say what would be done.
    #[serde(default)]
    dry_run: bool,
}

/// What a reset did.
#[derive(Debug, Serialize, ToSchema)]
struct ResetAnswer {
    /// Whether nothing was changed.
    dry_run: bool,
    /// One for each partition.
    offsets: Vec<ResetRow>,
}

/// What a reset did to a partition.
#[derive(Debug, Serialize, ToSchema)]
struct ResetRow {
    /// The topic.
    topic: String,
    /// The partition.
    partition: u32,
    /// What was committed; null: nothing.
    old_offset: Option<u64>,
    /// What is now.
    new_offset: u64,
}

/// Groups, sorted by name
#[utoipa::path(get, path = "/v1/groups", tag = "groups",
    params(("limit" = Option<u64>, Query, description = "Groups at most (100)"),
        ("after" = Option<String>, Query, description = "Groups after this name")),
    responses((status = 200, description = "The groups", body = GroupList)))]
async fn list_groups(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let (names, next) = page_of_names(&app, query.as_deref())?;
    let groups = names
        .into_iter()
        .map(|group| GroupRow {
            group,
            state: STATE,
            r#type: TYPE,
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
    let body = GroupBody {
        group,
        state: STATE,
        r#type: TYPE,
        members: Vec::new(),
    };
    Ok(json_answer(StatusCode::OK, &body))
}

/// Deletes a group with what it has committed
#[utoipa::path(delete, path = "/v1/groups/{group}", tag = "groups",
    params(("group" = String, Path, description = "The group's name")),
    responses((status = 204, description = "It is gone"), (status = 404, description = "`unknown-group`")))]
async fn delete_group(
    State(app): State<App>,
    group: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    Params::parse(query.as_deref(), &[], &[])?;
    let group = valid_group(group)?;
    let guard = app.groups.alone().await;
    if !groups::exists(&app.log, &group) {
        return Err(unknown_group(&group));
    }
    groups::delete(&app.log, guard, &group).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What a group has committed
#[utoipa::path(get, path = "/v1/groups/{group}/offsets", tag = "groups",
    params(("group" = String, Path, description = "The group's name")),
    responses((status = 200, description = "Sorted by topic and partition", body = OffsetsBody),
        (status = 404, description = "`unknown-group`")))]
async fn read_offsets(
    State(app): State<App>,
    group: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    Params::parse(query.as_deref(), &[], &[])?;
    let group = known_group(&app, group)?;
    let mut offsets = Vec::new();
    for (id, committed) in groups::committed(&app.log, &group) {
        if let Some(topic) = app.log.topic_by_id(id.topic) {
            offsets.push(OffsetBody {
                topic: topic.name().to_owned(),
                partition: id.index,
                offset: committed.offset.get(),
                metadata: committed.metadata,
            });
        }
    }
    offsets.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    Ok(json_answer(StatusCode::OK, &OffsetsBody { offsets }))
}

/// Commits offsets with no membership, all or none, and makes the group
#[utoipa::path(put, path = "/v1/groups/{group}/offsets", tag = "groups", request_body = OffsetsBody,
    params(("group" = String, Path, description = "The group's name")),
    responses((status = 200, description = "What was committed, durably", body = OffsetsBody),
        (status = 404, description = "`unknown-topic`, `unknown-partition`: nothing was committed")))]
async fn commit_offsets(
    State(app): State<App>,
    group: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::parse(query.as_deref(), &[], &[])?;
    let group = valid_group(group)?;
    let body: OffsetsBody = read_json(&app, &headers, body).await?;
    let guard = app.groups.commits().await;
    let commits = check_commits(&app.log, &body)?;
    groups::commit(&app.log, guard, &group, commits, app.clock.now()).await?;
    Ok(json_answer(StatusCode::OK, &body))
}

/// Sets a group's offsets in one topic
#[utoipa::path(post, path = "/v1/groups/{group}/offsets/reset", tag = "groups", request_body = ResetBody,
    params(("group" = String, Path, description = "The group's name")),
    responses((status = 200, description = "Old and new offset of each partition", body = ResetAnswer),
        (status = 404, description = "`unknown-group`, `unknown-topic`, `unknown-partition`")))]
async fn reset_offsets(
    State(app): State<App>,
    group: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::parse(query.as_deref(), &[], &[])?;
    let group = valid_group(group)?;
    let body: ResetBody = read_json(&app, &headers, body).await?;
    let to = Target::parse(&body.to)?;
    let guard = app.groups.alone().await;
    if !groups::exists(&app.log, &group) {
        return Err(unknown_group(&group));
    }
    let dry_run = body.dry_run;
    let (commits, offsets) = {
        let (app, group) = (app.clone(), group.clone());
        blocking(Work::Read, move || plan_reset(&app.log, &group, &body, to)).await?
    };
    if !dry_run {
        groups::commit(&app.log, guard, &group, commits, app.clock.now()).await?;
    }
    Ok(json_answer(StatusCode::OK, &ResetAnswer { dry_run, offsets }))
}

fn check_commits(log: &Log, body: &OffsetsBody) -> Result<Vec<Commit>, Problem> {
    let mut seen = BTreeSet::new();
    let mut commits = Vec::with_capacity(body.offsets.len());
    for (i, row) in body.offsets.iter().enumerate() {
        let topic = known_topic(log, &row.topic, || format!("/offsets/{i}/topic"))?;
        let partition = known_partition(&topic, row.partition, || format!("/offsets/{i}/partition"))?;
        if !seen.insert(partition.id()) {
            return Err(Problem::invalid(
                format!("/offsets/{i}/partition"),
                format!("partition {} of {} is given twice", row.partition, row.topic),
            ));
        }
        let end = partition.positions().end_offset;
        let offset = Offset::try_new(row.offset)
            .filter(|offset| *offset <= end)
            .ok_or_else(|| {
                Problem::invalid(
                    format!("/offsets/{i}/offset"),
                    format!(
                        "offset {} is above the end of {}/{}, {end}",
                        row.offset, row.topic, row.partition
                    ),
                )
            })?;
        let metadata_bytes = row.metadata.as_ref().map_or(0, String::len);
        if metadata_bytes > MAX_METADATA_BYTES {
            return Err(Problem::invalid(
                format!("/offsets/{i}/metadata"),
                format!("metadata is at most {MAX_METADATA_BYTES} bytes, not {metadata_bytes}"),
            ));
        }
        commits.push(Commit {
            partition: partition.id(),
            offset,
            metadata: row.metadata.clone(),
        });
    }
    Ok(commits)
}

/// Where a reset goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Earliest,
    Latest,
    Time(TimestampMs),
    Offset(u64),
    Shift(i64),
}

impl Target {
    fn parse(value: &Value) -> Result<Self, Problem> {
        let wrong = || {
            Problem::invalid(
                "/to",
                format!(
                    r#""to" must be "earliest", "latest", a time, {{"offset":N}} or {{"shift":N}}, not {value}"#
                ),
            )
        };
        match value {
            Value::String(text) => match text.as_str() {
                "earliest" => Ok(Self::Earliest),
                "latest" => Ok(Self::Latest),
                text => parse_time(text).map(Self::Time).ok_or_else(wrong),
            },
            Value::Number(number) => match number.as_i64() {
                Some(millis) if millis >= 0 => Ok(Self::Time(TimestampMs(millis))),
                _ => Err(wrong()),
            },
            Value::Object(map) if map.len() == 1 => {
                let offset = map.get("offset").and_then(Value::as_u64).map(Self::Offset);
                let shift = map.get("shift").and_then(Value::as_i64).map(Self::Shift);
                offset.or(shift).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        }
    }

    /// The offset in a partition, within `log_start_offset..=end_offset`. May block.
    fn resolve(self, log: &Log, partition: &Partition, old: Option<Offset>) -> Result<Offset, Problem> {
        let positions = partition.positions();
        let (start, end) = (positions.log_start_offset, positions.end_offset);
        let wanted = match self {
            Self::Earliest => start,
            Self::Latest => end,
            Self::Time(time) => {
                crate::damage::offset_for_time(log, partition, time)?.map_or(end, |(offset, _)| offset)
            }
            Self::Offset(offset) => Offset::try_new(offset).unwrap_or(Offset::MAX),
            Self::Shift(by) => {
                let from = old.unwrap_or(start).get();
                Offset::try_new(from.saturating_add_signed(by)).unwrap_or(Offset::MAX)
            }
        };
        Ok(wanted.clamp(start, end))
    }
}

fn plan_reset(
    log: &Log,
    group: &str,
    body: &ResetBody,
    to: Target,
) -> Result<(Vec<Commit>, Vec<ResetRow>), Problem> {
    let topic = known_topic(log, &body.topic, || "/topic".to_owned())?;
    let committed = groups::committed(log, group);
    let partitions = match &body.partitions {
        None => topic.partitions().to_vec(),
        Some(indexes) if indexes.is_empty() => {
            return Err(Problem::invalid(
                "/partitions",
                "name a partition, or leave partitions out for all",
            ));
        }
        Some(indexes) => {
            let mut partitions: Vec<Arc<Partition>> = Vec::with_capacity(indexes.len());
            let mut seen = BTreeSet::new();
            for (i, index) in indexes.iter().enumerate() {
                let pointer = || format!("/partitions/{i}");
                partitions.push(known_partition(&topic, *index, pointer)?);
                if !seen.insert(*index) {
                    return Err(Problem::invalid(
                        pointer(),
                        format!("partition {index} is given twice"),
                    ));
                }
            }
            partitions
        }
    };
    let mut commits = Vec::with_capacity(partitions.len());
    let mut rows = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let old = committed.get(&partition.id());
        let offset = to.resolve(log, &partition, old.map(|old| old.offset))?;
        rows.push(ResetRow {
            topic: body.topic.clone(),
            partition: partition.id().index,
            old_offset: old.map(|old| old.offset.get()),
            new_offset: offset.get(),
        });
        let metadata = old.and_then(|old| old.metadata.clone());
        commits.push(Commit {
            partition: partition.id(),
            offset,
            metadata,
        });
    }
    Ok((commits, rows))
}

/// The group's name out of the path.
///
/// # Errors
/// 400 for what cannot be a group's name.
pub(super) fn valid_group(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let Path(group) = path.map_err(|error| Problem::invalid("group", error.body_text()))?;
    if groups::is_valid_name(&group) {
        return Ok(group);
    }
    Err(Problem::invalid(
        "group",
        format!(
            "a group's name is 1 to 249 of A-Z a-z 0-9 . _ -, not . or .., and does not begin with __; not {group:?}"
        ),
    ))
}

/// The name of a group that exists.
///
/// # Errors
/// 400 for what cannot be a name, 404 for a group that nobody made.
pub(super) fn known_group(app: &App, path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let group = valid_group(path)?;
    if groups::exists(&app.log, &group) {
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
    let mut names = groups::names(&app.log);
    if let Some(after) = params.get("after") {
        names.retain(|name| name.as_str() > after);
    }
    let is_more = names.len() > limit;
    names.truncate(limit);
    let next = names.last().filter(|_| is_more).cloned();
    Ok((names, next))
}

fn unknown_group(group: &str) -> Problem {
    Problem::new(Code::UnknownGroup, format!("the group {group} does not exist"))
}

fn known_topic(log: &Log, name: &str, pointer: impl FnOnce() -> String) -> Result<Arc<Topic>, Problem> {
    log.topic(name).ok_or_else(|| {
        Problem::new(Code::UnknownTopic, format!("the topic {name} does not exist"))
            .with("pointer", pointer())
    })
}

fn known_partition(
    topic: &Topic,
    index: u32,
    pointer: impl FnOnce() -> String,
) -> Result<Arc<Partition>, Problem> {
    topic.partition(index).ok_or_else(|| {
        let detail = format!(
            "{} has {} partitions, and none numbered {index}",
            topic.name(),
            topic.partition_count()
        );
        Problem::new(Code::UnknownPartition, detail).with("pointer", pointer())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reset_goes_to_an_end_a_time_an_offset_or_by_a_shift() {
        assert_eq!(Target::parse(&json!("earliest")).unwrap(), Target::Earliest);
        assert_eq!(Target::parse(&json!("latest")).unwrap(), Target::Latest);
        assert_eq!(
            Target::parse(&json!(1000)).unwrap(),
            Target::Time(TimestampMs(1000))
        );
        assert_eq!(
            Target::parse(&json!("1970-01-01T00:00:01Z")).unwrap(),
            Target::Time(TimestampMs(1000))
        );
        assert_eq!(Target::parse(&json!({"offset": 7})).unwrap(), Target::Offset(7));
        assert_eq!(
            Target::parse(&json!({"shift": -100})).unwrap(),
            Target::Shift(-100)
        );
    }

    #[test]
    fn any_other_target_is_refused_at_its_place() {
        for wrong in [
            json!("begin"),
            json!(-1),
            json!(1.5),
            json!(null),
            json!({}),
            json!({"offset": -1}),
            json!({"shift": "x"}),
            json!({"offset": 1, "shift": 1}),
            json!({"ofset": 1}),
            json!([1]),
        ] {
            let problem = Target::parse(&wrong).unwrap_err();
            assert_eq!(problem.to_json()["pointer"], "/to", "{wrong}");
        }
    }
}
