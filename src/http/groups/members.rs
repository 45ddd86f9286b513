//! `/v1/groups/{group}/members`: join, poll, and the other calls of members.

use std::time::Duration;

use axum::extract::RawQuery;
use axum::response::IntoResponse;
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::offsets::OffsetBody;
use super::outputs::{ProducedBody, outputs_of};
use super::settings::{FilterBody, order_of};
use super::start_of;
use super::work::PlaceBody;
use crate::broker::caller::{Caller, Shown};
use crate::broker::engine::TimestampMs;
use crate::broker::engine::batch::BatchError;
use crate::broker::fetch::unreadable;
use crate::broker::groups::Groups;
use crate::broker::groups::live::GroupType;
use crate::broker::groups::membership::{Described, Join};
use crate::broker::groups::outputs::Produced;
use crate::broker::groups::outside::NamedCommit;
use crate::broker::groups::patterns::{self, is_pattern};
use crate::broker::groups::poll::{Delivered, Polled, Wanted};
use crate::broker::groups::settle::Place;
use crate::broker::names::MEMBER;
use crate::broker::topics::lookup::Start;
use crate::formats::render::{Layout, RecordRenderer};
use crate::http::Answer;
use crate::http::app::App;
use crate::http::body::{HeldJson, JsonBody, OptionalJson};
use crate::http::chunks::{self, CHUNK_BYTES, Chunks, chunk_capacity};
use crate::http::openapi::shapes;
use crate::http::params::Params;
use crate::http::path::{GroupName, MemberName, NoQuery};
use crate::http::problem::Problem;
use crate::http::{fresh, json_answer, links, ok};

const SESSION_TIMEOUT_MS: u64 = 30_000;
const LEAST_SESSION_TIMEOUT_MS: u64 = 100;
const MOST_SESSION_TIMEOUT_MS: u64 = 24 * 3_600_000;
const MAX_TOPICS: usize = 1000;
const MOST_RECORDS: u64 = 100_000;
const MAX_BYTES: u64 = 1 << 20;
const MOST_BYTES: u64 = 32 << 20;
const WAIT_MS: u64 = 5000;
const MOST_WAIT_MS: u64 = 60_000;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(join_group))
        .routes(routes!(leave_group))
        .routes(routes!(poll))
        .routes(routes!(heartbeat))
        .routes(routes!(commit))
}

/// A partition that a member reads.
#[derive(Debug, Serialize, ToSchema)]
struct AssignedBody {
    /// The topic.
    topic: String,
    /// The partition.
    partition: u32,
}

/// A member of a group.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemberBody {
    /// The member's name in its group.
    member_id: String,
    /// The name that the client gives itself.
    client_id: Option<String>,
    /// The network address from which it joined.
    address: Option<String>,
    /// Its epoch.
    epoch: u64,
    /// The time of its last call, in milliseconds since the Unix epoch; the current time while it waits in a poll.
    last_contact: i64,
    /// Milliseconds since its last call.
    idle_ms: u64,
    /// Whether it waits in a poll.
    polling: bool,
    /// The partitions that it reads; empty in a shared group.
    assignment: Vec<AssignedBody>,
    /// In a shared group: the number of records that are leased to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    leased: Option<usize>,
}

/// Declares a body that has the fields of a join, and fields of its own.
macro_rules! with_fields_of_a_join {
    ($(#[$about:meta])* struct $name:ident { topics: [$($topics:tt)+] as $doc:ty, $($own:tt)* }) => {
        $(#[$about])*
        #[derive(Debug, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        struct $name {
            /// The topics to read, 1 to 1000: names of topics, which must exist, or patterns. In a pattern, `*` stands for
            /// one word between dots and `#` for any number of words: `orders.*`. A pattern also brings topics that are
            /// made later, from their beginning, but no dead-letter topics. It may match nothing yet.
            #[schema(value_type = $doc, min_items = 1, max_items = 1000)]
            topics: $($topics)+,
            /// `ordered` (the default): each partition is read by one member, in order. `shared`: a work queue, in
            /// which each record is leased to one member.
            r#type: Option<String>,
            /// The member's name, 1 to 255 visible ASCII characters; by default the server makes one. In a poll the
            /// path names the member, so this must be the same name.
            member_id: Option<String>,
            /// A name for the client, shown in descriptions of the group.
            client_id: Option<String>,
            /// How long the member may be silent before its partitions and leases go to others, in milliseconds:
            /// default 30000; from 100 to 86400000. While a poll waits, the member is not silent.
            #[schema(minimum = 100, maximum = 86_400_000)]
            session_timeout_ms: Option<u64>,
            /// Where to begin in a topic without committed offsets: `earliest` (the default), `latest` or a time.
            #[serde(default)]
            #[schema(value_type = Option<shapes::Start>)]
            start: Option<Value>,
            /// Shared groups: how long a record is leased, in milliseconds: default 30000; from 100 to 43200000.
            #[schema(minimum = 100, maximum = 43_200_000)]
            lease_ms: Option<u32>,
            /// Shared groups: unsettled deliveries before a record becomes a dead letter: default 5; from 1 to 1000.
            #[schema(minimum = 1, maximum = 1000)]
            max_deliveries: Option<u32>,
            /// Shared groups: the topic of dead letters, created when first needed; default `{topic}.dlq`.
            dead_letter_topic: Option<String>,
            /// Shared groups: `key`: within a partition a key's next record is leased only when the one before it is
            /// settled, while other keys and records without key go on. By default there is no order.
            #[schema(pattern = "^(key)$")]
            order: Option<String>,
            /// The group gets only records for which every field matches one of its patterns:
            /// `{"header.type":["order.*","invoice.paid"],"key":["c7"]}`. In a pattern, `*` stands for one word between
            /// dots and `#` for any number of words. At most 100 patterns. By default the group gets all records.
            #[schema(value_type = Option<shapes::GroupFilter>)]
            filter: Option<FilterBody>,
            /// The process, by any name that it chose when it started: 1 to 255 visible ASCII characters. If a process
            /// with another `instance` joins or polls under this member's name, the older one is refused with 409
            /// `member-superseded`, and stops.
            instance: Option<String>,
            $($own)*
        }
    };
}

with_fields_of_a_join! {
    /// A member that joins.
    struct JoinBody { topics: [Vec<String>] as Vec<shapes::TopicOrPattern>, }
}

with_fields_of_a_join! {
    /// A poll. If it has `topics` (and other fields of a join) and the member is unknown, it joins first.
    struct PollBody {
        topics: [Option<Vec<String>>] as Option<Vec<shapes::TopicOrPattern>>,
        /// The `poll_id` of the answer whose records the member has finished. Their offsets are committed; in a shared
        /// group, those of its records that are not settled are accepted. Null: nothing is acknowledged.
        ack: Option<String>,
        /// Most records in the answer: default 500; from 1 to 100000 (a larger value counts as 100000). In a shared group:
        /// default 16, but no more than what waits divided by the members; at most 1000.
        #[schema(minimum = 1)]
        max_records: Option<u64>,
        /// The largest number of stored bytes in the answer: default 1048576; from 1 to 33554432 (a larger value counts
        /// as that). One record is always delivered, whatever its size.
        #[schema(minimum = 1)]
        max_bytes: Option<u64>,
        /// How long to wait for a record, in milliseconds: default 5000; from 0 to 60000.
        #[schema(maximum = 60000)]
        wait_ms: Option<u64>,
        /// Records that came of those that `ack` acknowledges, each with its `topic`; at most 100000. They are appended
        /// with the acknowledgement: after a crash both are there, or neither.
        #[schema(value_type = Option<Vec<shapes::NewTopicRecord>>, max_items = 100_000)]
        produce: Option<Box<RawValue>>,
    }
}

/// The answer to a join.
#[derive(Debug, Serialize, ToSchema)]
struct JoinedBody {
    /// The member's name.
    member_id: String,
    /// Its epoch: `commit` and `heartbeat` take it.
    epoch: u64,
    /// The partitions that it reads now. A partition that another member still has is added in a later poll.
    assignment: Vec<AssignedBody>,
}

/// The answer to a poll.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is written by hand")]
struct PolledBody {
    /// Names this answer: after finishing its records, send this as `ack` in the next poll.
    poll_id: String,
    /// The member's epoch.
    epoch: u64,
    /// The partitions that the member reads; empty in a shared group, where every member reads all.
    assignment: Vec<AssignedBody>,
    /// Records as in a fetch, each with its `topic`; within a partition in the order of their offsets. In a shared
    /// group each record also has `delivery_count` (1 the first time) and `lease_expires` (the time at which this
    /// member's lease ends, in milliseconds since the Unix epoch), and one that was redriven has `redriven` (how often).
    #[schema(value_type = Vec<shapes::DeliveredRecord>)]
    records: Vec<Value>,
    /// Damaged offsets that the operator has skipped; left out if there are none.
    gaps: Option<Vec<GapBody>>,
    /// For whom `ack` did not count; left out if there are none. Ordered groups: the partitions in which it could no longer
    /// commit, because they are another member's by now or the group was reset; their records are delivered again, to
    /// whoever has the partition. Shared groups: the records, with their `offset`, that another member holds now, or that were leased
    /// before a reset.
    lost: Option<Vec<LostBody>>,
    /// Shared groups: records for which `ack` did not count, because they were settled before; left out if there are
    /// none.
    settled: Option<Vec<PlaceBody>>,
    /// Where the records of `produce` are, in its order.
    produced: Option<Vec<PlaceBody>>,
    /// `true` if an earlier poll with this `ack` has stored them: `produced` is of that poll.
    replayed: Option<bool>,
}

/// Offsets that a poll passes over.
#[derive(ToSchema)]
#[schema(as = PolledGap)]
#[expect(dead_code, reason = "describes what is written by hand")]
struct GapBody {
    /// The topic.
    topic: String,
    /// The partition.
    partition: u32,
    /// The first offset.
    offset: u64,
    /// One past the last offset.
    until_offset: u64,
    /// Why they are passed over.
    #[schema(pattern = "^(damaged)$")]
    reason: String,
}

/// A partition or a record for which an acknowledgement did not count.
#[derive(ToSchema)]
#[schema(as = LostPlace)]
#[expect(dead_code, reason = "describes what is written by hand")]
struct LostBody {
    /// The topic.
    topic: String,
    /// The partition.
    partition: u32,
    /// Shared groups: the record's offset.
    #[schema(nullable = false)]
    offset: Option<u64>,
}

/// A heartbeat.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct HeartbeatBody {
    /// The member's epoch: a stale one is refused.
    #[serde(default)]
    epoch: Option<u64>,
    /// The process, as in its polls.
    #[serde(default)]
    instance: Option<String>,
    /// Shared groups: begin all leases of the member anew.
    #[serde(default)]
    extend: bool,
}

/// The answer to a heartbeat.
#[derive(Debug, Serialize, ToSchema)]
struct HeartbeatAnswer {
    /// The member's epoch.
    epoch: u64,
    /// `stable`; or `rebalancing`: others wait for partitions, so poll as soon as you have finished your records.
    #[schema(pattern = "^(stable|rebalancing)$")]
    state: &'static str,
}

/// A commit by a member.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CommitBody {
    /// The member's epoch.
    epoch: u64,
    /// One for each partition; the member must have all of these partitions.
    offsets: Vec<OffsetBody>,
    /// The process, as in its polls.
    #[serde(default)]
    instance: Option<String>,
    /// Records that came of those below these offsets, each with its `topic`; at most 100000. They are appended with the
    /// commit: after a crash both are there, or neither.
    #[serde(default)]
    #[schema(value_type = Option<Vec<shapes::NewTopicRecord>>, max_items = 100_000)]
    produce: Option<Box<RawValue>>,
}

/// The answer to a commit by a member.
#[derive(Debug, Serialize, ToSchema)]
struct CommittedBody {
    /// The committed offsets, one for each partition of the request.
    offsets: Vec<OffsetBody>,
    #[serde(flatten)]
    outputs: ProducedBody,
}

/// Joins a group
///
/// The server assigns the partitions: each is read by one member, and all members have about the same number. A
/// partition that another member has is handed over when that member polls. A join with the name of a member replaces
/// that member: records that were delivered to it and not acknowledged are delivered again.
///
/// In a group of the type `shared` nothing is assigned: every member reads all partitions, and each record is leased to
/// one member. The first member chooses the type and the settings for the whole group.
#[utoipa::path(post, path = "/v1/groups/{group}/members", tag = "groups", request_body = JoinBody,
    params(("group" = String, Path, description = "The group's name; the group is created if it does not exist")),
    responses((status = 201, description = "The member has joined", body = JoinedBody),
        (status = 404, description = "`unknown-topic`"),
        (status = 409, description = "`group-type-mismatch`, `group-settings-differ`; `group-active`: the group has members of Kafka's classic protocol; `member-superseded`: another `instance` has taken the member over")))]
async fn join_group(
    app: App,
    caller: Caller,
    _: NoQuery,
    GroupName(group): GroupName,
    JsonBody(body): JsonBody<JoinBody>,
) -> Answer {
    let member = body.member_id.clone();
    if let Some(member) = &member {
        MEMBER.check(member).map_err(|refusal| refusal.at("/member_id"))?;
    }
    let join = join_of(body, &caller)?;
    let joined = app.groups.join(&caller, &group, member.as_deref(), join).await?;
    let body = JoinedBody {
        member_id: joined.member.to_string(),
        epoch: joined.epoch,
        assignment: assigned(joined.assignment),
    };
    Ok(json_answer(StatusCode::CREATED, &body))
}

/// Acknowledges the last answer and gets the next records
///
/// First the server durably commits the records that the poll named by `ack` delivered. Then it delivers records, or
/// waits for some. An `ack` that is not the last `poll_id` means that the last answer was lost: its records are
/// delivered again, before any others. A poll is also a heartbeat. A newer poll of the same member replaces one that
/// waits.
///
/// Records in `produce` are stored with what `ack` acknowledges, all or nothing. If the answer is lost, send the same
/// `ack` again: the outputs are not stored twice.
///
/// With `topics` in its body, a poll joins first if the member is unknown. So a consumer can be a loop of this one
/// call, also when the server restarts.
///
/// A poll that fails after the server has stored what `ack` acknowledges says so: its problem has the `outcome`
/// `partial`.
///
/// In a shared group the records are leased to the member. `settle` accepts, releases or rejects single records; `ack`
/// accepts the rest, also after the leases have ended, unless somebody else holds them. Records of a lost answer are
/// delivered again when their leases end.
#[utoipa::path(post, path = "/v1/groups/{group}/members/{member}/poll", tag = "groups", request_body = PollBody,
    responses((status = 200, description = "The records; none if the wait has ended or the assignment has changed", body = PolledBody),
        (status = 404, description = "`unknown-member`; `unknown-topic`: it does not exist, or a topic that the member reads was deleted (poll with other `topics`)"),
        (status = 409, description = "`poll-superseded`: a newer poll of this member has replaced this one, or `ack` was acknowledged before the last one, so this is a late duplicate; it delivers nothing. `member-superseded`: a newer process polls under this member's name; this one must stop. `fenced`: with `produce`, `ack` can no longer acknowledge all of its records, which `lost` and `settled` name, and nothing is stored. `group-type-mismatch`, `group-settings-differ`"),
        (status = 410, description = "`poll-expired`: `ack` is of a poll from before the server was restored from a backup"),
        (status = 500, description = "`corrupt-data`: only damaged records are left to read")))]
async fn poll(
    app: App,
    caller: Caller,
    _: NoQuery,
    MemberName { group, member }: MemberName,
    HeldJson(body, held): HeldJson<PollBody>,
) -> Answer {
    if body.member_id.as_ref().is_some_and(|name| *name != member) {
        return Err(Problem::invalid("/member_id", "the path names another member"));
    }
    let wait_ms = body.wait_ms.unwrap_or(WAIT_MS);
    if wait_ms > MOST_WAIT_MS {
        let detail = format!("wait_ms is at most {MOST_WAIT_MS}");
        return Err(Problem::invalid("/wait_ms", detail));
    }
    let wanted = Wanted {
        ack: body.ack,
        max_records: match body.max_records {
            None => None,
            given => Some(within(given, "/max_records", 1, MOST_RECORDS)?),
        },
        max_bytes: within(body.max_bytes, "/max_bytes", MAX_BYTES, MOST_BYTES)?,
        wait: Duration::from_millis(wait_ms),
        instance: instance_of(body.instance.clone())?,
    };
    let outputs = outputs_of(&app, &caller, body.produce, held).await?;
    let joining = match body.topics {
        Some(topics) => {
            let fields = JoinBody {
                topics,
                r#type: body.r#type,
                member_id: None,
                client_id: body.client_id,
                session_timeout_ms: body.session_timeout_ms,
                start: body.start,
                lease_ms: body.lease_ms,
                max_deliveries: body.max_deliveries,
                dead_letter_topic: body.dead_letter_topic,
                order: body.order,
                filter: body.filter,
                instance: body.instance,
            };
            Some(join_of(fields, &caller)?)
        }
        None => {
            let fields = [
                ("/type", body.r#type.is_some()),
                ("/client_id", body.client_id.is_some()),
                ("/session_timeout_ms", body.session_timeout_ms.is_some()),
                ("/start", body.start.is_some()),
                ("/lease_ms", body.lease_ms.is_some()),
                ("/max_deliveries", body.max_deliveries.is_some()),
                ("/dead_letter_topic", body.dead_letter_topic.is_some()),
                ("/order", body.order.is_some()),
                ("/filter", body.filter.is_some()),
            ];
            refuse_given(&fields, "this is a field of a join, which needs topics as well")?;
            None
        }
    };
    let polled = app
        .groups
        .poll(&caller, &group, &member, &wanted, outputs, joining);
    let polled = polled.await?;
    let links = links::of(&app, polled.pages.iter().map(Delivered::page));
    let mut response = answer(polled)?;
    links::set(&mut response, links);
    Ok(response)
}

/// Keeps a member alive during long work
///
/// In a shared group `extend` begins all of its leases anew; `extend` of `settle` does so for single records.
#[utoipa::path(post, path = "/v1/groups/{group}/members/{member}/heartbeat", tag = "groups", request_body = Option<HeartbeatBody>,
    responses((status = 200, description = "The member is alive", body = HeartbeatAnswer),
        (status = 409, description = "`fenced`: the epoch is stale, or a process of that `instance` has not polled; `member-superseded`; `group-type-mismatch`: `extend` in an ordered group")))]
async fn heartbeat(
    app: App,
    caller: Caller,
    _: NoQuery,
    MemberName { group, member }: MemberName,
    OptionalJson(body): OptionalJson<HeartbeatBody>,
) -> Answer {
    let HeartbeatBody {
        epoch,
        instance,
        extend,
    } = body.unwrap_or_default();
    let instance = instance_of(instance)?;
    let (epoch, state) =
        app.groups
            .heartbeat(&caller, &group, &member, epoch, instance.as_deref(), extend)?;
    let state = state.name();
    ok(&HeartbeatAnswer { epoch, state })
}

/// Commits offsets of a member
///
/// For commits finer than whole polls. It never moves a committed offset back; the answer has the current ones.
#[utoipa::path(post, path = "/v1/groups/{group}/members/{member}/commit", tag = "groups", request_body = CommitBody,
    responses((status = 200, description = "The offsets that are now committed, durably", body = CommittedBody),
        (status = 404, description = "`unknown-member`, `unknown-topic`, `unknown-partition`"),
        (status = 409, description = "`fenced`: the epoch is stale, or the member does not have one of the partitions; with `produce` also if an offset is committed already, or is not of what the member was delivered last; `member-superseded`; nothing was committed or stored")))]
async fn commit(
    app: App,
    caller: Caller,
    _: NoQuery,
    MemberName { group, member }: MemberName,
    HeldJson(body, held): HeldJson<CommitBody>,
) -> Answer {
    let instance = instance_of(body.instance)?;
    let (epoch, mut offsets) = (body.epoch, body.offsets);
    let commits: Vec<NamedCommit> = offsets.iter().map(NamedCommit::from).collect();
    let outputs = outputs_of(&app, &caller, body.produce, held).await?;
    let committed = app.groups.commit_as(
        &caller,
        &group,
        &member,
        (epoch, instance.as_deref()),
        &commits,
        outputs,
    );
    let (committed, produced) = committed.await?;
    for (row, offset) in offsets.iter_mut().zip(committed) {
        row.offset = offset.get();
    }
    ok(&CommittedBody {
        offsets,
        outputs: produced.into(),
    })
}

/// Leaves a group
///
/// Its partitions and leases go to others at once. Records that were delivered to it, and neither committed nor
/// settled, are delivered again.
#[utoipa::path(delete, path = "/v1/groups/{group}/members/{member}", tag = "groups",
    params(("ack" = Option<String>, Query, description = "The `poll_id` of the answer whose records the member has finished: they are committed (in a shared group: accepted) before it leaves")),
    responses((status = 204, description = "The member has left"),
        (status = 410, description = "`poll-expired`: `ack` is of a poll from before the server was restored from a backup"),
        (status = 409, description = "`member-superseded`: `ack` is of an older process under the member's name")))]
async fn leave_group(
    app: App,
    caller: Caller,
    RawQuery(query): RawQuery,
    MemberName { group, member }: MemberName,
) -> Answer {
    let params = Params::parse(query.as_deref(), &["ack"], &[])?;
    app.groups
        .leave(&caller, &group, &member, params.get("ack"))
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The members of a group.
pub(super) fn described(caller: &Caller, groups: &Groups, group: &str, now: TimestampMs) -> Vec<MemberBody> {
    let now = now.get();
    let body = |member: Described| MemberBody {
        member_id: member.member.to_string(),
        client_id: member.client_id,
        address: member.address,
        epoch: member.epoch,
        last_contact: now.saturating_sub(i64::try_from(member.last_contact_ms).unwrap_or(i64::MAX)),
        idle_ms: member.last_contact_ms,
        polling: member.is_polling,
        leased: member.leased,
        assignment: assigned(seen(caller, member.assignment)),
    };
    groups.describe(group).into_iter().map(body).collect()
}

/// Those in topics that the caller may describe.
fn seen(caller: &Caller, mut assignment: Vec<(std::sync::Arc<str>, u32)>) -> Vec<(std::sync::Arc<str>, u32)> {
    assignment.retain(|(topic, _)| caller.sees_topic(topic));
    assignment
}

fn assigned(assignment: Vec<(std::sync::Arc<str>, u32)>) -> Vec<AssignedBody> {
    let row = |(topic, partition): (std::sync::Arc<str>, u32)| AssignedBody {
        topic: topic.to_string(),
        partition,
    };
    assignment.into_iter().map(row).collect()
}

/// A limit: 0 is refused, and a value above `most` counts as `most`.
fn within(given: Option<u64>, pointer: &str, default: u64, most: u64) -> Result<u64, Problem> {
    match given {
        Some(0) => Err(Problem::invalid(pointer, "it is at least 1")),
        _ => Ok(given.unwrap_or(default).min(most)),
    }
}

fn join_of(body: JoinBody, caller: &Caller) -> Result<Join, Problem> {
    let kind = match body.r#type.as_deref() {
        None | Some("ordered") => GroupType::Ordered,
        Some("shared") => GroupType::Shared,
        Some(_) => return Err(Problem::invalid("/type", "type is ordered or shared")),
    };
    if kind == GroupType::Ordered {
        let fields = [
            ("/lease_ms", body.lease_ms.is_some()),
            ("/max_deliveries", body.max_deliveries.is_some()),
            ("/dead_letter_topic", body.dead_letter_topic.is_some()),
            ("/order", body.order.is_some()),
        ];
        refuse_given(&fields, "this is a setting of groups of the type shared")?;
    }
    if body.topics.is_empty() || body.topics.len() > MAX_TOPICS {
        let detail = format!("name 1 to {MAX_TOPICS} topics");
        return Err(Problem::invalid("/topics", detail));
    }
    for (i, topic) in body.topics.iter().enumerate() {
        if is_pattern(topic) {
            let checked = patterns::check(topic);
            checked.map_err(|refusal| refusal.at(format!("/topics/{i}")))?;
        }
    }
    if let Some(client_id) = &body.client_id {
        let checked = MEMBER.check(client_id);
        checked.map_err(|refusal| refusal.at("/client_id"))?;
    }
    let session_timeout = body.session_timeout_ms.unwrap_or(SESSION_TIMEOUT_MS);
    if !(LEAST_SESSION_TIMEOUT_MS..=MOST_SESSION_TIMEOUT_MS).contains(&session_timeout) {
        let detail =
            format!("session_timeout_ms is from {LEAST_SESSION_TIMEOUT_MS} to {MOST_SESSION_TIMEOUT_MS}");
        return Err(Problem::invalid("/session_timeout_ms", detail));
    }
    let start = body.start.map_or(Ok(Start::default()), |value| {
        let detail = || format!(r#"start is "earliest", "latest" or a time, not {value}"#);
        start_of(&value).ok_or_else(|| Problem::invalid("/start", detail()))
    })?;
    Ok(Join {
        topics: body.topics.into_iter().collect(),
        client_id: body.client_id,
        address: caller.address.map(|address| Shown(address).to_string()),
        session_timeout,
        start,
        kind,
        lease_ms: body.lease_ms,
        max_deliveries: body.max_deliveries,
        dead_letter_topic: body.dead_letter_topic,
        order: body.order.as_deref().map(order_of).transpose()?,
        filter: body.filter.as_ref().map(FilterBody::parse).transpose()?,
        instance: instance_of(body.instance)?,
    })
}

/// Checks the name of a process, if it is given.
pub(super) fn instance_of(instance: Option<String>) -> Result<Option<String>, Problem> {
    if let Some(instance) = &instance {
        let checked = MEMBER.check(instance);
        checked.map_err(|refusal| refusal.at("/instance"))?;
    }
    Ok(instance)
}

/// Refuses the first of these fields that is given.
fn refuse_given(fields: &[(&str, bool)], detail: &str) -> Result<(), Problem> {
    let given = fields.iter().find(|(_, is_given)| *is_given);
    given.map_or(Ok(()), |(pointer, _)| Err(Problem::invalid(*pointer, detail)))
}

fn answer(polled: Polled) -> Answer {
    let head = json!({
        "poll_id": polled.poll_id, "epoch": polled.epoch, "assignment": assigned(polled.assignment),
    });
    let mut before = head.to_string();
    before.pop();
    before.push_str(",\"records\":[");
    let mut gaps = Vec::new();
    for page in &polled.pages {
        gaps.extend(page.gaps().iter().map(|gap| {
            json!({
                "topic": &*page.topic, "partition": page.partition.index,
                "offset": gap.from.get(), "until_offset": gap.until.get(), "reason": "damaged",
            })
        }));
    }
    let mut after = "]".to_owned();
    let uncounted = &polled.uncounted;
    let lost = match polled.lost_partitions.is_empty() {
        true => rows(&uncounted.lost),
        false => assigned(polled.lost_partitions)
            .iter()
            .map(|row| json!(row))
            .collect(),
    };
    let produced = polled.produced;
    let lists = [
        ("gaps", gaps, false),
        ("lost", lost, false),
        ("settled", rows(&uncounted.settled), false),
        ("produced", produced_rows(produced.as_ref()), produced.is_some()),
    ];
    if produced.is_some_and(|produced| produced.is_replayed) {
        after.push_str(",\"replayed\":true");
    }
    for (name, list, always) in lists {
        if always || !list.is_empty() {
            after.push_str(&format!(",\"{name}\":{}", Value::from(list)));
        }
    }
    after.push_str("}\n");
    let (pages, lease_expires) = (polled.pages, polled.lease_expires);
    let body = chunks::body(|chunks| write(before, pages, lease_expires, after, chunks));
    Ok((fresh("application/json"), body.map_err(unreadable)?).into_response())
}

fn produced_rows(produced: Option<&Produced>) -> Vec<Value> {
    let rows = produced.into_iter().flat_map(|produced| &produced.rows);
    rows.map(|row| json!(PlaceBody::from(row))).collect()
}

fn rows(places: &[Place]) -> Vec<Value> {
    let row = |place: &Place| json!(PlaceBody::from(place));
    places.iter().map(row).collect()
}

/// The last fields of each record in a shared group: its delivery count, and when its lease ends.
fn lease_fields(delivered: &Delivered, lease_expires: Option<TimestampMs>) -> String {
    let fields = delivered.deliveries.zip(lease_expires);
    let text = fields.map(|(deliveries, expires)| {
        let expires = expires.get();
        let mut text = format!(",\"delivery_count\":{deliveries},\"lease_expires\":{expires}");
        if let Some(redriven) = delivered.redriven {
            text.push_str(&format!(",\"redriven\":{redriven}"));
        }
        text.push('}');
        text
    });
    text.unwrap_or_default()
}

async fn write(
    before: String,
    pages: Vec<Delivered>,
    lease_expires: Option<TimestampMs>,
    after: String,
    mut chunks: Chunks,
) -> Result<Bytes, BatchError> {
    let stored: u64 = pages.iter().map(|delivered| delivered.page.stored_bytes).sum();
    let capacity = chunk_capacity(stored) + before.len();
    let mut out = Vec::with_capacity(capacity);
    out.extend_from_slice(before.as_bytes());
    let mut between: &[u8] = b"";
    for delivered in &pages {
        let index = delivered.partition.index;
        let renderer = RecordRenderer::new(Some(&delivered.topic), index, Layout::Document);
        let added = lease_fields(delivered, lease_expires);
        for record in delivered.page.records() {
            let (record, json_lines) = record?;
            out.extend_from_slice(between);
            between = b",";
            renderer.push(&mut out, &record, json_lines);
            if !added.is_empty() {
                out.pop();
                out.extend_from_slice(added.as_bytes());
            }
            if out.len() >= CHUNK_BYTES {
                chunks.send(Bytes::from(std::mem::take(&mut out))).await;
                out.reserve(capacity);
            }
        }
    }
    out.extend_from_slice(after.as_bytes());
    Ok(Bytes::from(out))
}
