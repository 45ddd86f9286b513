//! `/v1/groups/{group}/offsets`: what a group has committed, without membership.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{known_group, no_members, unknown_group, valid_group};
use crate::broker::engine::{Log, Offset, Partition, TimestampMs};
use crate::broker::groups::{Commit, MAX_METADATA_BYTES};
use crate::broker::topics::{self, catalog, skips};
use crate::formats::time::parse_time;
use crate::http::app::App;
use crate::http::body::read_json;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::{Work, blocking, json_answer};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(read_offsets, commit_offsets))
        .routes(routes!(reset_offsets))
}

/// A committed offset.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OffsetBody {
    /// The topic.
    pub(super) topic: String,
    /// The partition.
    pub(super) partition: u32,
    /// The next record to be read; at most the partition's `end_offset`.
    pub(super) offset: u64,
    /// What the consumer notes with it, at most 4096 bytes.
    #[serde(default)]
    pub(super) metadata: Option<String>,
}

/// Committed offsets.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OffsetsBody {
    /// One for each partition.
    pub(super) offsets: Vec<OffsetBody>,
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
    /// `"earliest"`, `"latest"`, a time, `{"offset":N}`, or `{"shift":N}` from where each partition is.
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
    for (id, committed) in app.groups.committed(&group) {
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
        (status = 404, description = "`unknown-topic`, `unknown-partition`: nothing was committed"),
        (status = 409, description = "`group-active`: it has members, who alone commit for it; nothing was committed")))]
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
    let outside = no_members(&app, &group)?;
    let commits = check_commits(&app.log, &body.offsets)?;
    app.groups.commit((guard, outside), &group, commits).await?;
    Ok(json_answer(StatusCode::OK, &body))
}

/// Sets a group's offsets in one topic
#[utoipa::path(post, path = "/v1/groups/{group}/offsets/reset", tag = "groups", request_body = ResetBody,
    params(("group" = String, Path, description = "The group's name")),
    responses((status = 200, description = "Old and new offset of each partition", body = ResetAnswer),
        (status = 404, description = "`unknown-group`, `unknown-topic`, `unknown-partition`"),
        (status = 409, description = "`group-active`: it has members, and this is no dry run; nothing was changed")))]
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
    if !app.groups.exists(&group) {
        return Err(unknown_group(&group));
    }
    let outside = match body.dry_run {
        true => None,
        false => Some(no_members(&app, &group)?),
    };
    let dry_run = body.dry_run;
    let (commits, offsets) = {
        let (app, group) = (app.clone(), group.clone());
        blocking(app.blocking.clone(), Work::Read, move || {
            plan_reset(&app, &group, &body, to)
        })
        .await?
    };
    if !dry_run {
        app.groups.commit((guard, outside), &group, commits).await?;
    }
    Ok(json_answer(StatusCode::OK, &ResetAnswer { dry_run, offsets }))
}

pub(super) fn check_commits(log: &Log, offsets: &[OffsetBody]) -> Result<Vec<Commit>, Problem> {
    let mut seen = BTreeSet::new();
    let mut commits = Vec::with_capacity(offsets.len());
    for (i, row) in offsets.iter().enumerate() {
        let topic =
            catalog::find(log, &row.topic).map_err(|refusal| refusal.at(format!("/offsets/{i}/topic")))?;
        let partition = topics::partition(&topic, row.partition)
            .map_err(|refusal| refusal.at(format!("/offsets/{i}/partition")))?;
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
                skips::offset_for_time(log, partition, time)?.map_or(end, |(offset, _)| offset)
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
    app: &App,
    group: &str,
    body: &ResetBody,
    to: Target,
) -> Result<(Vec<Commit>, Vec<ResetRow>), Problem> {
    let log = &app.log;
    let topic = catalog::find(log, &body.topic).map_err(|refusal| refusal.at("/topic"))?;
    let committed = app.groups.committed(group);
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
                let found = topics::partition(&topic, *index).map_err(|refusal| refusal.at(pointer()))?;
                partitions.push(found);
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
