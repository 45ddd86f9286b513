//! `POST /v1/groups/{group}/offsets/reset`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::start_of;
use crate::broker::caller::Caller;
use crate::broker::engine::TimestampMs;
use crate::broker::groups::reset::{Moved, NamedTopic, Reset, Target};
use crate::http::Answer;
use crate::http::app::App;
use crate::http::body::JsonBody;
use crate::http::openapi::shapes;
use crate::http::path::{GroupName, NoQuery};
use crate::http::problem::Problem;
use crate::http::{dry, ok};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(reset_offsets))
}

/// Where to set a group's offsets.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ResetBody {
    /// The topics; by default all that the group has subscribed to or committed in.
    #[serde(default)]
    #[schema(min_items = 1)]
    topics: Option<Vec<String>>,
    /// One topic, instead of `topics`.
    #[serde(default)]
    topic: Option<String>,
    /// The partitions, of one topic; by default all.
    #[serde(default)]
    #[schema(min_items = 1)]
    partitions: Option<Vec<u32>>,
    /// `"earliest"`, `"latest"`, a time, `{"offset":N}`, or `{"shift":N}` from the committed offset (or the log start).
    #[schema(value_type = shapes::ResetTarget)]
    to: Value,
    /// Change nothing; only answer with what a reset would do. Works with live members too.
    #[serde(default)]
    dry_run: bool,
    /// The `preview` of a dry run: refuse the reset if it would move a partition from or to another offset by now.
    #[serde(default)]
    preview: Option<String>,
    /// Reset the group although it has live members. They are fenced: their next poll answers `lost` with every partition
    /// of theirs that moved, and reads from the new offsets.
    #[serde(default)]
    while_active: bool,
}

/// The result of a reset.
#[derive(Debug, Serialize, ToSchema)]
struct ResetAnswer {
    /// Whether nothing was changed.
    dry_run: bool,
    /// Stands for the old and new offsets of all rows: send the one of a dry run back with the real call.
    preview: String,
    /// One for each partition, by topic and partition.
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
    /// The timestamp of the record that would have been read next, in milliseconds since the Unix epoch; null at the end.
    old_timestamp: Option<i64>,
    /// The timestamp of the record that is read next; null at the end.
    new_timestamp: Option<i64>,
    /// Records that were left to do before.
    old_lag: u64,
    /// Records that are left to do now.
    new_lag: u64,
}

impl From<Moved> for ResetRow {
    fn from(moved: Moved) -> Self {
        Self {
            topic: moved.topic.to_string(),
            partition: moved.partition.index,
            old_offset: moved.old.map(|old| old.offset.get()),
            new_offset: moved.new.get(),
            old_timestamp: moved.old_timestamp.map(TimestampMs::get),
            new_timestamp: moved.new_timestamp.map(TimestampMs::get),
            old_lag: moved.old_lag,
            new_lag: moved.new_lag,
        }
    }
}

/// Sets a group's offsets in one append over all its topics
///
/// A work queue forgets what it knew of these partitions: from the new offset on nothing is settled, and leases end. Who
/// holds a record from before the reset can no longer settle it: it is `lost`, until it is leased again.
#[utoipa::path(post, path = "/v1/groups/{group}/offsets/reset", tag = "groups", request_body = ResetBody,
    responses((status = 200, description = "Each partition before and after", body = ResetAnswer),
        (status = 404, description = "`unknown-group`, `unknown-topic`, `unknown-partition`"),
        (status = 409, description = "`group-active`: the group has members, this is not a dry run, and `while_active` is not set; nothing was changed"),
        (status = 412, description = "`preview-outdated`: a row would differ from the preview's by now; nothing was changed")))]
async fn reset_offsets(
    app: App,
    caller: Caller,
    _: NoQuery,
    GroupName(group): GroupName,
    JsonBody(body): JsonBody<ResetBody>,
) -> Answer {
    let dry_run = body.dry_run;
    let reset = Reset {
        to: target_of(&body.to)?,
        topics: topics_of(body.topics, body.topic)?,
        partitions: body.partitions,
        dry_run,
        while_active: body.while_active,
        preview: body.preview,
    };
    let plan = app.groups.reset(&caller, &group, reset).await;
    let answer = plan.map(|plan| ResetAnswer {
        dry_run,
        preview: plan.preview,
        offsets: plan.moved.into_iter().map(ResetRow::from).collect(),
    });
    match dry_run {
        true => dry(answer),
        false => ok(&answer?),
    }
}

fn topics_of(several: Option<Vec<String>>, one: Option<String>) -> Result<Option<Vec<NamedTopic>>, Problem> {
    let named = |name, field: String| NamedTopic { name, field };
    match (several, one) {
        (Some(_), Some(_)) => Err(Problem::invalid("/topic", "name topics, or one topic, not both")),
        (None, Some(name)) => Ok(Some(vec![named(name, "/topic".to_owned())])),
        (Some(names), None) => {
            let rows = names.into_iter().enumerate();
            Ok(Some(
                rows.map(|(i, name)| named(name, format!("/topics/{i}")))
                    .collect(),
            ))
        }
        (None, None) => Ok(None),
    }
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
