//! `GET /v1/groups/{group}/lag` and `GET /v1/lag`: how far groups are behind.
//!
//! The scope of a group without members is the partitions that it has committed in. Rates, `drain_ms`, `status` and
//! `member_id` need members and a history, and are left out rather than made up.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::groups::{known_group, page_of_names};
use super::json_answer;
use super::params::Params;
use super::problem::Problem;
use super::{Work, blocking};
use crate::app::App;
use crate::groups::report::{self, GroupLag, PartitionLag};
use crate::lag::Lag;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(group_lag))
        .routes(routes!(all_lags))
}

/// The lag of a group.
#[derive(Debug, Serialize, ToSchema)]
struct GroupLagBody {
    /// The group.
    group: String,
    /// `empty`: it has no members.
    state: &'static str,
    /// Records to be read, over all topics.
    lag: u64,
    /// The age in milliseconds of the oldest record to be read next, over all partitions; 0 with nothing to read.
    lag_ms: u64,
    /// Stored bytes to be read.
    lag_bytes: u64,
    /// Milliseconds until retention deletes unread data; null without such retention.
    expires_ms: Option<u64>,
    /// By topic, sorted by name; left out in the summary of all groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    topics: Option<Vec<TopicLagBody>>,
}

/// The lag of a group in one topic.
#[derive(Debug, Serialize, ToSchema)]
struct TopicLagBody {
    /// The topic.
    topic: String,
    /// Records to be read.
    lag: u64,
    /// The age in milliseconds of the oldest record to be read next.
    lag_ms: u64,
    /// Stored bytes to be read.
    lag_bytes: u64,
    /// Milliseconds until retention deletes unread data; null without such retention.
    expires_ms: Option<u64>,
    /// By partition.
    partitions: Vec<PartitionLagBody>,
}

/// The lag of a group in one partition.
#[derive(Debug, Serialize, ToSchema)]
struct PartitionLagBody {
    /// The partition.
    partition: u32,
    /// What the group committed: the next record to be read, unless it has been deleted.
    committed_offset: u64,
    /// One past the last durable record.
    end_offset: u64,
    /// The first record that is kept.
    log_start_offset: u64,
    /// `end_offset` less the larger of `committed_offset` and `log_start_offset`.
    lag: u64,
    /// The age in milliseconds of the next record to be read.
    lag_ms: u64,
    /// Stored bytes to be read.
    lag_bytes: u64,
    /// When the group last committed here.
    last_commit: i64,
    /// Milliseconds until retention deletes unread data; null without such retention.
    expires_ms: Option<u64>,
}

/// The lag of many groups.
#[derive(Debug, Serialize, ToSchema)]
struct LagsBody {
    /// A summary each, sorted by name.
    groups: Vec<GroupLagBody>,
    /// There is more: give it as `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// How far a group is behind, by topic and partition
#[utoipa::path(get, path = "/v1/groups/{group}/lag", tag = "lag",
    params(("group" = String, Path, description = "The group's name")),
    responses((status = 200, description = "The lag", body = GroupLagBody),
        (status = 404, description = "`unknown-group`")))]
async fn group_lag(
    State(app): State<App>,
    group: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    Params::parse(query.as_deref(), &[], &[])?;
    let group = known_group(&app, group)?;
    let body = blocking(Work::Report, move || {
        let lag = report::lag_of(&app.log, &group, app.clock.now());
        let topics = topics_body(&lag);
        Ok(group_body(group, lag.total, Some(topics)))
    })
    .await?;
    Ok(json_answer(StatusCode::OK, &body))
}

/// How far every group is behind, a summary each
#[utoipa::path(get, path = "/v1/lag", tag = "lag",
    params(("limit" = Option<u64>, Query, description = "Groups at most (100)"),
        ("after" = Option<String>, Query, description = "Groups after this name")),
    responses((status = 200, description = "The lags", body = LagsBody)))]
async fn all_lags(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let (names, next) = page_of_names(&app, query.as_deref())?;
    let groups = blocking(Work::Report, move || {
        let summary = |group: String| {
            let total = report::lag_of(&app.log, &group, app.clock.now()).total;
            group_body(group, total, None)
        };
        Ok(names.into_iter().map(summary).collect())
    })
    .await?;
    Ok(json_answer(StatusCode::OK, &LagsBody { groups, next }))
}

fn group_body(group: String, total: Lag, topics: Option<Vec<TopicLagBody>>) -> GroupLagBody {
    let Lag {
        lag,
        lag_ms,
        lag_bytes,
        expires_ms,
    } = total;
    GroupLagBody {
        group,
        state: "empty",
        lag,
        lag_ms,
        lag_bytes,
        expires_ms,
        topics,
    }
}

fn topics_body(lag: &GroupLag) -> Vec<TopicLagBody> {
    let topics = lag.topics.iter().map(|topic| {
        let Lag {
            lag,
            lag_ms,
            lag_bytes,
            expires_ms,
        } = topic.total;
        TopicLagBody {
            topic: topic.topic.to_string(),
            lag,
            lag_ms,
            lag_bytes,
            expires_ms,
            partitions: topic.partitions.iter().map(partition_body).collect(),
        }
    });
    topics.collect()
}

fn partition_body(row: &PartitionLag) -> PartitionLagBody {
    let Lag {
        lag,
        lag_ms,
        lag_bytes,
        expires_ms,
    } = row.lag;
    PartitionLagBody {
        partition: row.partition,
        committed_offset: row.committed_offset.get(),
        end_offset: row.positions.end_offset.get(),
        log_start_offset: row.positions.log_start_offset.get(),
        lag,
        lag_ms,
        lag_bytes,
        last_commit: row.last_commit.get(),
        expires_ms,
    }
}
