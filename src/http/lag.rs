//! `GET /v1/groups/{group}/lag`: how far a group is behind.

use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::path::{AtGroup, NoQuery};
use super::{Share, ok};
use crate::broker::caller::Caller;
use crate::broker::engine::{Offset, TimestampMs};
use crate::broker::lag::report::{GroupLag, PartitionLag, Total};
use crate::http::Answer;
use crate::http::app::App;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(group_lag))
}

/// The lag of a group.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GroupLagBody {
    /// The group.
    group: String,
    /// `empty`: no members; `stable`: every member has its final assignment; `rebalancing`.
    #[schema(pattern = "^(empty|stable|rebalancing)$")]
    state: &'static str,
    /// Its members.
    members: usize,
    #[serde(flatten)]
    total: TotalBody,
    /// Shared groups: how many dead letters wait to be redriven or discarded. After a start the server reads the topics
    /// of dead letters once, and counts what it has read so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letters: Option<u64>,
    /// By topic, sorted by name; left out in the summary of all groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    topics: Option<Vec<TopicLagBody>>,
}

/// The lag of a group in one topic.
#[derive(Debug, Serialize, ToSchema)]
struct TopicLagBody {
    /// The topic.
    topic: String,
    #[serde(flatten)]
    total: TotalBody,
    /// By partition, for all of the topic's partitions.
    partitions: Vec<PartitionLagBody>,
}

/// The lag of a group in one partition.
#[derive(Debug, Serialize, ToSchema)]
struct PartitionLagBody {
    /// The partition.
    partition: u32,
    /// The committed offset: the next record to read, unless it was deleted. Null: nothing is committed, the group
    /// starts at the log start.
    committed_offset: Option<u64>,
    /// One past the last durable record.
    end_offset: u64,
    /// The first stored record.
    log_start_offset: u64,
    #[serde(flatten)]
    total: TotalBody,
    /// The member that reads it.
    member_id: Option<String>,
    /// When the group last committed here.
    last_commit: Option<i64>,
}

/// The lag of a group in one partition or several.
#[derive(Debug, Serialize, ToSchema)]
struct TotalBody {
    /// Records to read: `end_offset` less the larger of `committed_offset` and `log_start_offset`.
    lag: u64,
    /// The age of the next record in milliseconds, by its own timestamp; for several partitions the oldest; 0 if there
    /// is nothing to read.
    lag_ms: u64,
    /// Stored bytes to read.
    lag_bytes: u64,
    /// Records a second that the group read and committed in the last 10 s; 0 during the server's first second.
    consume_rate: f64,
    /// Records a second appended in the last 10 s; 0 during the server's first second.
    produce_rate: f64,
    /// Milliseconds until everything is read if both rates stay; null if never.
    drain_ms: Option<u64>,
    /// Milliseconds until retention deletes unread records; null without such retention.
    expires_ms: Option<u64>,
    /// Shared groups: how many of the records are leased.
    #[serde(skip_serializing_if = "Option::is_none")]
    leased: Option<u64>,
    /// Shared groups: how many of the records wait for their time, as far as the server has looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    delayed: Option<u64>,
    /// Over the last 60 s: `ok`; `behind`: the lag grew throughout; `stalled`: there were records to read throughout
    /// and nothing was committed; `losing`: unread records were deleted. Of several partitions the worst.
    #[schema(pattern = "^(ok|behind|stalled|losing)$")]
    status: &'static str,
}

/// How far a group is behind, by topic and partition
#[utoipa::path(get, path = "/v1/groups/{group}/lag", tag = "lag",
    responses((status = 200, description = "The lag", body = GroupLagBody)))]
async fn group_lag(app: App, caller: Caller, _: NoQuery, AtGroup(group): AtGroup) -> Answer {
    let lags = app.lags.clone();
    let lag = move || group_body(lags.seen_by(&caller, &group), group, true);
    ok(&app.blocking.run(Share::Report, lag).await?)
}

pub(super) fn group_body(lag: GroupLag, group: String, with_topics: bool) -> GroupLagBody {
    GroupLagBody {
        group,
        state: lag.state.name(),
        members: lag.members,
        total: lag.total.into(),
        dead_letters: lag.dead_letters,
        topics: with_topics.then(|| {
            let topics = lag.topics.into_iter().map(|topic| TopicLagBody {
                topic: topic.topic.to_string(),
                total: topic.total.into(),
                partitions: topic.partitions.into_iter().map(PartitionLagBody::from).collect(),
            });
            topics.collect()
        }),
    }
}

impl From<PartitionLag> for PartitionLagBody {
    fn from(row: PartitionLag) -> Self {
        Self {
            partition: row.partition,
            committed_offset: row.committed_offset.map(Offset::get),
            end_offset: row.positions.end_offset.get(),
            log_start_offset: row.positions.log_start_offset.get(),
            total: row.total.into(),
            member_id: row.member.map(|member| member.to_string()),
            last_commit: row.last_commit.map(TimestampMs::get),
        }
    }
}

impl From<Total> for TotalBody {
    fn from(total: Total) -> Self {
        Self {
            lag: total.lag.lag,
            lag_ms: total.lag.lag_ms,
            lag_bytes: total.lag.lag_bytes,
            consume_rate: tenths(total.rates.consume),
            produce_rate: tenths(total.rates.produce),
            drain_ms: total.drain_ms,
            expires_ms: total.lag.expires_ms,
            leased: total.lag.leased,
            delayed: total.lag.delayed,
            status: total.status.name(),
        }
    }
}

/// An average over seconds has no more significant digits.
fn tenths(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}
