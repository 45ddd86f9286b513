//! `/v1/groups/{group}/offsets`: committed offsets, without membership.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{no_members, start_of};
use crate::broker::engine::{Log, Offset, Partition};
use crate::broker::groups::membership::Start;
use crate::broker::groups::{Commit, MAX_METADATA_BYTES};
use crate::broker::topics::{self, catalog, skips};
use crate::http::Answer;
use crate::http::app::App;
use crate::http::body::JsonBody;
use crate::http::path::{AtGroup, GroupName, NoQuery, check_exists};
use crate::http::problem::Problem;
use crate::http::{Work, ok};

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
    responses((status = 200, description = "Sorted by topic and partition", body = OffsetsBody)))]
async fn read_offsets(app: App, _: NoQuery, AtGroup(group): AtGroup) -> Answer {
    let committed = app.groups.committed(&group).into_iter();
    let rows = committed.filter_map(|(id, committed)| {
        Some(OffsetBody {
            topic: app.log.topic_by_id(id.topic)?.name().to_owned(),
            partition: id.index,
            offset: committed.offset.get(),
            metadata: committed.metadata,
        })
    });
    let mut offsets: Vec<OffsetBody> = rows.collect();
    offsets.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    ok(&OffsetsBody { offsets })
}

/// Commits offsets with no membership, all or none, and makes the group
#[utoipa::path(put, path = "/v1/groups/{group}/offsets", tag = "groups", request_body = OffsetsBody,
    responses((status = 200, description = "What was committed, durably", body = OffsetsBody),
        (status = 404, description = "`unknown-topic`, `unknown-partition`: nothing was committed"),
        (status = 409, description = "`group-active`: it has members, who alone commit for it; nothing was committed")))]
async fn commit_offsets(
    app: App,
    _: NoQuery,
    GroupName(group): GroupName,
    JsonBody(body): JsonBody<OffsetsBody>,
) -> Answer {
    let guard = app.groups.commits().await;
    let outside = no_members(&app, &group)?;
    let commits = check_commits(&app.log, &body.offsets)?;
    app.groups.commit((guard, outside), &group, commits).await?;
    ok(&body)
}

/// Sets a group's offsets in one topic
#[utoipa::path(post, path = "/v1/groups/{group}/offsets/reset", tag = "groups", request_body = ResetBody,
    responses((status = 200, description = "Old and new offset of each partition", body = ResetAnswer),
        (status = 404, description = "`unknown-group`, `unknown-topic`, `unknown-partition`"),
        (status = 409, description = "`group-active`: it has members, and this is no dry run; nothing was changed")))]
async fn reset_offsets(
    app: App,
    _: NoQuery,
    GroupName(group): GroupName,
    JsonBody(body): JsonBody<ResetBody>,
) -> Answer {
    let to = Target::parse(&body.to)?;
    let guard = app.groups.alone().await;
    check_exists(&app, &group)?;
    let dry_run = body.dry_run;
    let outside = (!dry_run).then(|| no_members(&app, &group)).transpose()?;
    let name = group.clone();
    let plan = move |app: &App| plan_reset(app, &name, &body, to);
    let (commits, offsets) = app.work(Work::Read, plan).await?;
    if !dry_run {
        app.groups.commit((guard, outside), &group, commits).await?;
    }
    ok(&ResetAnswer { dry_run, offsets })
}

pub(super) fn check_commits(log: &Log, offsets: &[OffsetBody]) -> Result<Vec<Commit>, Problem> {
    let mut seen = BTreeSet::new();
    let mut commits = Vec::with_capacity(offsets.len());
    for (i, row) in offsets.iter().enumerate() {
        let at = |field: &str| format!("/offsets/{i}/{field}");
        let topic = catalog::find(log, &row.topic).map_err(|refusal| refusal.at(at("topic")))?;
        let partition = topics::partition(&topic, row.partition);
        let partition = partition.map_err(|refusal| refusal.at(at("partition")))?;
        if !seen.insert(partition.id()) {
            let detail = format!("partition {} of {} is given twice", row.partition, row.topic);
            return Err(Problem::invalid(at("partition"), detail));
        }
        let end = partition.positions().end_offset;
        let Some(offset) = Offset::try_new(row.offset).filter(|offset| *offset <= end) else {
            let name = partition.name();
            let detail = format!("offset {} is above the end of {name}, {end}", row.offset);
            return Err(Problem::invalid(at("offset"), detail));
        };
        let bytes = row.metadata.as_ref().map_or(0, String::len);
        if bytes > MAX_METADATA_BYTES {
            let detail = format!("metadata is at most {MAX_METADATA_BYTES} bytes, not {bytes}");
            return Err(Problem::invalid(at("metadata"), detail));
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
    At(Start),
    Offset(u64),
    Shift(i64),
}

impl Target {
    fn parse(value: &Value) -> Result<Self, Problem> {
        let field = |name| {
            value
                .get(name)
                .filter(|_| value.as_object().is_some_and(|map| map.len() == 1))
        };
        let offset = field("offset").and_then(Value::as_u64).map(Self::Offset);
        let shift = field("shift").and_then(Value::as_i64).map(Self::Shift);
        let found = start_of(value).map(Self::At).or(offset).or(shift);
        found.ok_or_else(|| {
            let forms = r#""earliest", "latest", a time, {"offset":N} or {"shift":N}"#;
            Problem::invalid("/to", format!(r#""to" must be {forms}, not {value}"#))
        })
    }

    /// The offset in a partition, within `log_start_offset..=end_offset`. May block.
    fn resolve(self, log: &Log, partition: &Partition, old: Option<Offset>) -> Result<Offset, Problem> {
        let positions = partition.positions();
        let (start, end) = (positions.log_start_offset, positions.end_offset);
        let wanted = match self {
            Self::At(Start::Earliest) => start,
            Self::At(Start::Latest) => end,
            Self::At(Start::Time(time)) => {
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
            let detail = "name a partition, or leave partitions out for all";
            return Err(Problem::invalid("/partitions", detail));
        }
        Some(indexes) => {
            let mut partitions: Vec<Arc<Partition>> = Vec::with_capacity(indexes.len());
            let mut seen = BTreeSet::new();
            for (i, index) in indexes.iter().enumerate() {
                let pointer = format!("/partitions/{i}");
                if !seen.insert(*index) {
                    let detail = format!("partition {index} is given twice");
                    return Err(Problem::invalid(pointer, detail));
                }
                let found = topics::partition(&topic, *index);
                partitions.push(found.map_err(|refusal| refusal.at(pointer))?);
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
    use crate::broker::engine::TimestampMs;

    #[test]
    fn a_reset_goes_to_an_end_a_time_an_offset_or_by_a_shift() {
        let time = Target::At(Start::Time(TimestampMs(1000)));
        for (value, target) in [
            (json!("earliest"), Target::At(Start::Earliest)),
            (json!("latest"), Target::At(Start::Latest)),
            (json!(1000), time),
            (json!("1970-01-01T00:00:01Z"), time),
            (json!({"offset": 7}), Target::Offset(7)),
            (json!({"shift": -100}), Target::Shift(-100)),
        ] {
            assert_eq!(Target::parse(&value).unwrap(), target);
        }
    }

    #[test]
    fn any_other_target_is_refused_at_its_place() {
        let wrong = json!(["begin", -1, 1.5, null, {}, {"offset": -1}, {"shift": "x"}, {"offset": 1, "shift": 1},
            {"ofset": 1}, [1]]);
        for wrong in wrong.as_array().unwrap() {
            let problem = Target::parse(wrong).unwrap_err();
            assert_eq!(problem.to_json()["pointer"], "/to", "{wrong}");
        }
    }
}
