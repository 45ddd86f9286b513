//! `/v1/groups/{group}/offsets`: committed offsets, without membership.

use axum::extract::RawQuery;
use axum::response::IntoResponse;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::start_of;
use crate::broker::groups::outside::{Moved, NamedCommit, Reset, Target};
use crate::broker::names::TOPIC;
use crate::http::Answer;
use crate::http::app::App;
use crate::http::body::JsonBody;
use crate::http::ok;
use crate::http::params::Params;
use crate::http::path::{AtGroup, GroupName, NoQuery};
use crate::http::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(read_offsets, commit_offsets, forget_topic))
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
    /// The offset of the next record to read; at most the partition's `end_offset`.
    pub(super) offset: u64,
    /// A note of the consumer, stored with the offset: at most 4096 bytes.
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
    /// The partitions; by default all of the topic's.
    #[serde(default)]
    partitions: Option<Vec<u32>>,
    /// `"earliest"`, `"latest"`, a time, `{"offset":N}`, or `{"shift":N}` from the committed offset (or the log start).
    #[schema(value_type = Value)]
    to: Value,
    /// Change nothing; only answer with what a reset would do.
    #[serde(default)]
    dry_run: bool,
}

/// The result of a reset.
#[derive(Debug, Serialize, ToSchema)]
struct ResetAnswer {
    /// Whether nothing was changed.
    dry_run: bool,
    /// One for each partition.
    offsets: Vec<ResetRow>,
}

/// The result of a reset in one partition.
#[derive(Debug, Serialize, ToSchema)]
struct ResetRow {
    /// The topic.
    topic: String,
    /// The partition.
    partition: u32,
    /// The committed offset before; null: none.
    old_offset: Option<u64>,
    /// The committed offset now.
    new_offset: u64,
}

/// Lists the committed offsets of a group
#[utoipa::path(get, path = "/v1/groups/{group}/offsets", tag = "groups",
    responses((status = 200, description = "Sorted by topic and partition", body = OffsetsBody)))]
async fn read_offsets(app: App, _: NoQuery, AtGroup(group): AtGroup) -> Answer {
    let committed = app.groups.committed_by_name(&group);
    let offsets = committed.into_iter().map(OffsetBody::from).collect();
    ok(&OffsetsBody { offsets })
}

/// Commits offsets without membership, all or none; creates the group if it does not exist
#[utoipa::path(put, path = "/v1/groups/{group}/offsets", tag = "groups", request_body = OffsetsBody,
    responses((status = 200, description = "The committed offsets; they are durable", body = OffsetsBody),
        (status = 404, description = "`unknown-topic`, `unknown-partition`: nothing was committed"),
        (status = 409, description = "`group-active`: the group has members, and only they may commit; nothing was committed")))]
async fn commit_offsets(
    app: App,
    _: NoQuery,
    GroupName(group): GroupName,
    JsonBody(body): JsonBody<OffsetsBody>,
) -> Answer {
    let offsets: Vec<NamedCommit> = body.offsets.iter().map(NamedCommit::from).collect();
    app.groups.commit_outside(&group, &offsets).await?;
    ok(&body)
}

/// Forgets a topic that the group has given up
///
/// Removes the group's committed offsets and its subscription there, and what it knows of the topic as a work queue: its
/// lag no longer counts the topic, and a member that joins later begins there anew.
#[utoipa::path(delete, path = "/v1/groups/{group}/offsets", tag = "groups",
    params(("topic" = String, Query, description = "The topic's name")),
    responses((status = 204, description = "The topic is forgotten, durably"),
        (status = 404, description = "`unknown-group`; `unknown-topic`: the group knows nothing of the topic"),
        (status = 409, description = "`group-active`: a live member subscribes to it")))]
async fn forget_topic(app: App, RawQuery(query): RawQuery, GroupName(group): GroupName) -> Answer {
    let params = Params::parse(query.as_deref(), &["topic"], &[])?;
    let Some(topic) = params.get("topic") else {
        return Err(Problem::invalid("topic", "name the topic to forget"));
    };
    TOPIC.check(topic)?;
    app.groups.forget_topic(&group, topic).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Sets a group's offsets in one topic
#[utoipa::path(post, path = "/v1/groups/{group}/offsets/reset", tag = "groups", request_body = ResetBody,
    responses((status = 200, description = "Old and new offset of each partition", body = ResetAnswer),
        (status = 404, description = "`unknown-group`, `unknown-topic`, `unknown-partition`"),
        (status = 409, description = "`group-active`: the group has members, and this is not a dry run; nothing was changed")))]
async fn reset_offsets(
    app: App,
    _: NoQuery,
    GroupName(group): GroupName,
    JsonBody(body): JsonBody<ResetBody>,
) -> Answer {
    let reset = Reset {
        to: target_of(&body.to)?,
        topic: body.topic.clone(),
        partitions: body.partitions,
        dry_run: body.dry_run,
    };
    let row = |moved: Moved| ResetRow {
        topic: body.topic.clone(),
        partition: moved.partition.index,
        old_offset: moved.old.map(|old| old.offset.get()),
        new_offset: moved.new.get(),
    };
    let moved = app.groups.reset(&group, reset).await?;
    let (dry_run, offsets) = (body.dry_run, moved.into_iter().map(row).collect());
    ok(&ResetAnswer { dry_run, offsets })
}

fn target_of(value: &Value) -> Result<Target, Problem> {
    let field = |name| {
        value
            .get(name)
            .filter(|_| value.as_object().is_some_and(|map| map.len() == 1))
    };
    let offset = field("offset").and_then(Value::as_u64).map(Target::Offset);
    let shift = field("shift").and_then(Value::as_i64).map(Target::Shift);
    let found = start_of(value).map(Target::At).or(offset).or(shift);
    found.ok_or_else(|| {
        let forms = r#""earliest", "latest", a time, {"offset":N} or {"shift":N}"#;
        Problem::invalid("/to", format!(r#""to" must be {forms}, not {value}"#))
    })
}

impl From<NamedCommit> for OffsetBody {
    fn from(row: NamedCommit) -> Self {
        Self {
            topic: row.topic,
            partition: row.partition,
            offset: row.offset,
            metadata: row.metadata,
        }
    }
}

impl From<&OffsetBody> for NamedCommit {
    fn from(row: &OffsetBody) -> Self {
        Self {
            topic: row.topic.clone(),
            partition: row.partition,
            offset: row.offset,
            metadata: row.metadata.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::broker::engine::TimestampMs;
    use crate::broker::topics::lookup::Start;

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
            assert_eq!(target_of(&value).unwrap(), target);
        }
    }

    #[test]
    fn any_other_target_is_refused_at_its_place() {
        let wrong = json!(["begin", -1, 1.5, null, {}, {"offset": -1}, {"shift": "x"}, {"offset": 1, "shift": 1},
            {"ofset": 1}, [1]]);
        for wrong in wrong.as_array().unwrap() {
            let problem = target_of(wrong).unwrap_err();
            assert_eq!(problem.to_json()["pointer"], "/to", "{wrong}");
        }
    }
}
