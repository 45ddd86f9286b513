//! `…/members/{member}/settle`, `…/redrive`, `…/dead-letters` and `…/leases`: the calls that only shared groups have.

use std::collections::BTreeMap;

use axum::extract::RawQuery;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::members::instance_of;
use super::outputs::{ProducedBody, outputs_of};
use crate::broker::caller::Caller;
use crate::broker::engine::batch::Record;
use crate::broker::engine::{Offset, TimestampMs};
use crate::broker::groups::dead_letters::{Lease, Position, Redrive, WantedLetters};
use crate::broker::groups::repeats::Row;
use crate::broker::groups::settle::{Place, Release, Settling};
use crate::broker::groups::shared::letters::Fate;
use crate::formats::render::{Layout, RecordRenderer};
use crate::http::Answer;
use crate::http::app::App;
use crate::http::body::{HeldJson, JsonBody};
use crate::http::fetch::JsonRecord;
use crate::http::openapi::shapes;
use crate::http::params::{Params, VALUE_LIMIT};
use crate::http::path::{GroupName, MemberName, NoQuery};
use crate::http::problem::Problem;
use crate::http::{dry, ok};

/// The largest number of records in one settle, all its lists together.
const MOST_PLACES: usize = 100_000;
/// The default number of rows in a list.
const LISTED: u64 = 100;
const MOST_LISTED: u64 = 10_000;
const MOST_REDRIVEN: u64 = 1_000_000;
const MOST_DELAY_MS: u64 = 24 * 3_600_000;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(settle_records))
        .routes(routes!(redrive_group))
        .routes(routes!(list_dead_letters))
        .routes(routes!(list_leases))
}

/// A record that was delivered.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PlaceBody {
    /// The topic.
    topic: String,
    /// The partition.
    partition: u32,
    /// The offset.
    offset: u64,
}

impl From<&Row> for PlaceBody {
    fn from((topic, partition, offset): &Row) -> Self {
        Self {
            topic: topic.to_string(),
            partition: *partition,
            offset: offset.get(),
        }
    }
}

impl From<&Place> for PlaceBody {
    fn from(place: &Place) -> Self {
        Self {
            topic: place.topic.clone(),
            partition: place.partition,
            offset: place.offset.get(),
        }
    }
}

/// A record to deliver again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReleaseBody {
    /// The topic.
    topic: String,
    /// The partition.
    partition: u32,
    /// The offset.
    offset: u64,
    /// The shortest time until it is delivered again, in milliseconds: default 0; from 0 to 86400000.
    #[serde(default)]
    #[schema(maximum = 86_400_000)]
    delay_ms: u64,
    /// Whether the lease that ends counts as a delivery; default true.
    #[serde(default = "counts")]
    count: bool,
}

const fn counts() -> bool {
    true
}

/// A record to reject: it becomes a dead letter.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RejectBody {
    /// The topic.
    topic: String,
    /// The partition.
    partition: u32,
    /// The offset.
    offset: u64,
    /// The reason; default `rejected`. The dead letter's header `dlq_reason` has its first 1024 bytes.
    #[serde(default)]
    reason: Option<String>,
}

/// How records are settled; at most 100000 in all lists together.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SettleBody {
    /// Accept: these records are done.
    #[serde(default)]
    #[schema(max_items = 100_000)]
    accept: Vec<PlaceBody>,
    /// Release: deliver these records again.
    #[serde(default)]
    #[schema(max_items = 100_000)]
    release: Vec<ReleaseBody>,
    /// Reject: make these records dead letters.
    #[serde(default)]
    #[schema(max_items = 100_000)]
    reject: Vec<RejectBody>,
    /// Extend the leases of these records: they end `lease_ms` from now. A lease that has ended begins again.
    #[serde(default)]
    #[schema(max_items = 100_000)]
    extend: Vec<PlaceBody>,
    /// The process, as in its polls. One from which a newer process has taken the member over is refused.
    #[serde(default)]
    instance: Option<String>,
    /// Records that came of what is accepted and rejected, each with its `topic`; at most 100000. They are appended with
    /// that: after a crash both are there, or neither.
    #[serde(default)]
    #[schema(value_type = Option<Vec<shapes::NewTopicRecord>>, max_items = 100_000)]
    produce: Option<Box<RawValue>>,
}

/// The answer to a settle.
#[derive(Debug, Serialize, ToSchema)]
struct SettledBody {
    /// Records that another member holds now, or that do not exist: nothing changed.
    lost: Vec<PlaceBody>,
    /// Records that were settled before: nothing changed.
    settled: Vec<PlaceBody>,
    #[serde(flatten)]
    outputs: ProducedBody,
}

/// Which dead letters to redrive.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RedriveBody {
    /// The topic of dead letters; by default all topics that the group's dead letters go to.
    #[serde(default)]
    dead_letter_topic: Option<String>,
    /// The largest number of dead letters: default 1000000; from 1 to 1000000.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1_000_000)]
    max_records: Option<u64>,
    /// Only these dead letters, which needs `dead_letter_topic`; by default all.
    #[serde(default)]
    offsets: Option<Vec<LetterPlace>>,
    /// Only dead letters whose reason begins with this.
    #[serde(default)]
    reason: Option<String>,
    /// Discard the dead letters: they are settled, and not given back.
    #[serde(default)]
    discard: bool,
    /// Only count them.
    #[serde(default)]
    dry_run: bool,
}

/// Where a dead letter lies in its topic.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LetterPlace {
    /// The partition.
    partition: u32,
    /// The offset.
    offset: u64,
}

/// The result of a redrive.
#[derive(Debug, Serialize, ToSchema)]
struct RedrivenBody {
    /// Dead letters that were given back to the group, durably.
    redriven: u64,
    /// Dead letters that were discarded, durably.
    discarded: u64,
    /// Dead letters that were not given back because this server has not made them, or because they are copies; left out if there are none.
    #[serde(skip_serializing_if = "is_zero")]
    passed_over: u64,
    /// All that were asked for were found; otherwise there are more than `max_records`.
    at_end: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The record that a dead letter came from.
#[derive(Debug, Serialize, ToSchema)]
struct OriginBody {
    /// The topic.
    topic: String,
    /// The partition.
    partition: u32,
    /// The offset.
    offset: u64,
}

/// A dead letter.
#[derive(Debug, Serialize, ToSchema)]
struct DeadLetterBody {
    /// The topic of dead letters that it is in.
    dead_letter_topic: String,
    /// The partition there.
    partition: u32,
    /// The offset there.
    offset: u64,
    /// `waiting`, `redriven` or `discarded`.
    #[schema(pattern = "^(waiting|redriven|discarded)$")]
    state: &'static str,
    /// Why it died.
    reason: String,
    /// How often it had been delivered.
    deliveries: u32,
    /// When it died, in milliseconds since the Unix epoch; null for dead letters of version 0.1.0.
    died_at: Option<i64>,
    /// Where its record was first.
    origin: OriginBody,
    /// The dead letter as it is stored, as in a fetch.
    #[schema(value_type = JsonRecord)]
    record: Box<RawValue>,
}

/// Dead letters, by topic, partition and offset.
#[derive(Debug, Serialize, ToSchema)]
struct DeadLettersBody {
    /// The dead letters.
    dead_letters: Vec<DeadLetterBody>,
    /// How many in this state have each reason, on all pages; at most 1,000 reasons.
    reasons: BTreeMap<String, u64>,
    /// How many have reasons that `reasons` has no room for; left out if there are none.
    #[serde(skip_serializing_if = "is_zero")]
    other_reasons: u64,
    /// There are more: pass this as `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A lease.
#[derive(Debug, Serialize, ToSchema)]
struct LeaseBody {
    /// The topic.
    topic: String,
    /// The partition.
    partition: u32,
    /// The offset.
    offset: u64,
    /// The member that holds it.
    member_id: String,
    /// How often the record was delivered, this time included.
    delivery_count: u32,
    /// When it ends, in milliseconds since the Unix epoch.
    lease_expires: i64,
}

/// Leases, by topic, partition and offset.
#[derive(Debug, Serialize, ToSchema)]
struct LeasesBody {
    /// The leases.
    leases: Vec<LeaseBody>,
    /// There are more: pass this as `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Settles records: accepted, released, rejected or extended
///
/// It counts for every unsettled record that no other member holds, also after the lease or the member's session has
/// ended, and after a restart of the server; the member need not be known. The result is durable before the answer: accepted records never come again, rejected ones are in the dead letter
/// topic.
#[utoipa::path(post, path = "/v1/groups/{group}/members/{member}/settle", tag = "groups", request_body = SettleBody,
    responses((status = 200, description = "All records are settled, except those in `lost` and `settled`", body = SettledBody),
        (status = 404, description = "`unknown-group`, `unknown-topic`, `unknown-partition`"),
        (status = 409, description = "`group-type-mismatch`: the group is ordered; `member-superseded`: a newer process has taken the member over. `fenced`: with `produce`, it would not count for all that is accepted and rejected; `lost` and `settled` name the others, and nothing is done")))]
async fn settle_records(
    app: App,
    caller: Caller,
    _: NoQuery,
    MemberName { group, member }: MemberName,
    HeldJson(body, held): HeldJson<SettleBody>,
) -> Answer {
    let count = body.accept.len() + body.release.len() + body.reject.len() + body.extend.len();
    if count > MOST_PLACES {
        let detail = format!("a settle names at most {MOST_PLACES} records, not {count}");
        return Err(Problem::invalid("", detail));
    }
    let mut settling = Settling {
        instance: instance_of(body.instance)?,
        ..Settling::default()
    };
    for (list, places, into) in [
        ("accept", body.accept, &mut settling.accept),
        ("extend", body.extend, &mut settling.extend),
    ] {
        for (i, row) in places.into_iter().enumerate() {
            into.push(place(list, i, row.topic, row.partition, row.offset)?);
        }
    }
    for (i, row) in body.release.into_iter().enumerate() {
        if row.delay_ms > MOST_DELAY_MS {
            let detail = format!("delay_ms is at most {MOST_DELAY_MS}");
            return Err(Problem::invalid(format!("/release/{i}/delay_ms"), detail));
        }
        let place = place("release", i, row.topic, row.partition, row.offset)?;
        settling.release.push(Release {
            place,
            delay_ms: row.delay_ms,
            counts: row.count,
        });
    }
    for (i, row) in body.reject.into_iter().enumerate() {
        let reason = row.reason.unwrap_or_else(|| "rejected".to_owned());
        let place = place("reject", i, row.topic, row.partition, row.offset)?;
        settling.reject.push((place, reason));
    }
    let outputs = outputs_of(&app, &caller, body.produce, held).await?;
    let settled = app.groups.settle(&caller, &group, &member, settling, outputs);
    let (uncounted, produced) = settled.await?;
    let rows = |places: &[Place]| places.iter().map(PlaceBody::from).collect();
    ok(&SettledBody {
        lost: rows(&uncounted.lost),
        settled: rows(&uncounted.settled),
        outputs: produced.into(),
    })
}

/// Gives dead letters back to their shared group, or discards them
///
/// The oldest come first. No record is appended to a topic: only this group is given the records again, with their first
/// topic, partition and offset. A further call finds nothing twice.
#[utoipa::path(post, path = "/v1/groups/{group}/redrive", tag = "groups", request_body = RedriveBody,
    responses((status = 200, description = "They are given back or discarded, durably", body = RedrivenBody),
        (status = 404, description = "`unknown-group`; `unknown-topic`: the topic of dead letters, or the topic that a record came from (`redriven` counts the records before it)"),
        (status = 409, description = "`group-type-mismatch`: the group is ordered")))]
async fn redrive_group(
    app: App,
    caller: Caller,
    _: NoQuery,
    GroupName(group): GroupName,
    JsonBody(body): JsonBody<RedriveBody>,
) -> Answer {
    let most = body.max_records.unwrap_or(MOST_REDRIVEN);
    if !(1..=MOST_REDRIVEN).contains(&most) {
        let detail = format!("max_records is from 1 to {MOST_REDRIVEN}");
        return Err(Problem::invalid("/max_records", detail));
    }
    if body.offsets.is_some() && body.dead_letter_topic.is_none() {
        let detail = "offsets are those of a topic: name it as dead_letter_topic";
        return Err(Problem::invalid("/offsets", detail));
    }
    let offset = |(i, row): (usize, LetterPlace)| {
        let pointer = format!("/offsets/{i}/offset");
        let offset = Offset::try_new(row.offset);
        let offset =
            offset.ok_or_else(|| Problem::invalid(pointer, format!("there is no offset {}", row.offset)))?;
        Ok::<_, Problem>((row.partition, offset))
    };
    let offsets = body
        .offsets
        .map(|rows| rows.into_iter().enumerate().map(offset).collect());
    let redrive = Redrive {
        dead_letter_topic: body.dead_letter_topic,
        max_records: most,
        offsets: offsets.transpose()?,
        reason: body.reason,
        discard: body.discard,
        dry_run: body.dry_run,
    };
    let done = app.groups.redrive(&caller, &group, redrive).await;
    let answer = done.map(|done| RedrivenBody {
        redriven: done.redriven,
        discarded: done.discarded,
        passed_over: done.passed_over,
        at_end: done.at_end,
    });
    match body.dry_run {
        true => dry(answer),
        false => ok(&answer?),
    }
}

/// The dead letters of a shared group
///
/// An answer has at most 32 MiB of them, counted as they are sent, and one in any case: `next` says that there are more.
#[utoipa::path(get, path = "/v1/groups/{group}/dead-letters", tag = "groups",
    params(("state" = Option<String>, Query, pattern = "^(waiting|redriven|discarded)$", description = "`waiting` (the default), `redriven` or `discarded`"),
        ("reason" = Option<String>, Query, description = "Only those whose reason begins with this"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 10000, description = "The largest number of dead letters (default 100)"),
        ("value_limit" = Option<u64>, Query, description = "Of a longer value only its first bytes, as `value_text`, with `value_bytes` and `truncated`"),
        ("after" = Option<String>, Query, description = "Dead letters behind this one: `next` of the last answer")),
    responses((status = 200, description = "The dead letters", body = DeadLettersBody),
        (status = 409, description = "`group-type-mismatch`: the group is ordered")))]
async fn list_dead_letters(
    app: App,
    caller: Caller,
    RawQuery(query): RawQuery,
    GroupName(group): GroupName,
) -> Answer {
    let allowed = ["state", "reason", "limit", "after", VALUE_LIMIT];
    let params = Params::parse(query.as_deref(), &allowed, &[])?;
    let value_limit = params.value_limit()?;
    let fate = match params.get("state") {
        None => Fate::Waiting,
        Some(name) => Fate::named(name)
            .ok_or_else(|| Problem::invalid("state", "state is waiting, redriven or discarded"))?,
    };
    let wanted = WantedLetters {
        fate,
        reason: params.get("reason").map(str::to_owned),
        limit: params.number("limit", 1, MOST_LISTED)?.unwrap_or(LISTED) as usize,
        after: params.get("after").map(position).transpose()?,
    };
    let render = move |record: &Record<'_>, partition: u32| {
        let renderer = RecordRenderer::new(None, partition, Layout::Document).cutting(value_limit);
        let mut out = Vec::new();
        renderer.push(&mut out, record, false);
        String::from_utf8(out).expect("JSON is UTF-8")
    };
    let list = app.groups.dead_letters(&caller, &group, wanted, render).await?;
    let letters = list.letters.into_iter().map(|letter| {
        let (topic, partition, offset) = letter.origin;
        DeadLetterBody {
            record: RawValue::from_string(letter.record).expect("a record is JSON"),
            dead_letter_topic: letter.at.topic,
            partition: letter.at.partition,
            offset: letter.at.offset.get(),
            state: fate.name(),
            reason: letter.reason,
            deliveries: letter.deliveries,
            died_at: letter.died_at.map(TimestampMs::get),
            origin: OriginBody {
                topic,
                partition,
                offset: offset.get(),
            },
        }
    });
    ok(&DeadLettersBody {
        dead_letters: letters.collect(),
        reasons: list.reasons,
        other_reasons: list.other_reasons,
        next: list
            .next
            .map(|at| format!("{}:{}:{}", at.topic, at.partition, at.offset)),
    })
}

/// The leases of a shared group
#[utoipa::path(get, path = "/v1/groups/{group}/leases", tag = "groups",
    params(("limit" = Option<u64>, Query, minimum = 1, maximum = 10000, description = "The largest number of leases (default 100)"),
        ("after" = Option<String>, Query, description = "Leases behind this one: `next` of the last answer")),
    responses((status = 200, description = "The leases", body = LeasesBody),
        (status = 409, description = "`group-type-mismatch`: the group is ordered")))]
async fn list_leases(
    app: App,
    caller: Caller,
    RawQuery(query): RawQuery,
    GroupName(group): GroupName,
) -> Answer {
    let params = Params::parse(query.as_deref(), &["limit", "after"], &[])?;
    let limit = params.number("limit", 1, MOST_LISTED)?.unwrap_or(LISTED) as usize;
    let after = params.get("after").map(position).transpose()?;
    let (leases, next) = app.groups.leases(&caller, &group, limit, after.as_ref())?;
    let row = |lease: Lease| LeaseBody {
        topic: lease.at.topic,
        partition: lease.at.partition,
        offset: lease.at.offset.get(),
        member_id: lease.member.to_string(),
        delivery_count: lease.deliveries,
        lease_expires: lease.expires.get(),
    };
    ok(&LeasesBody {
        leases: leases.into_iter().map(row).collect(),
        next: next.map(|at| format!("{}:{}:{}", at.topic, at.partition, at.offset)),
    })
}

/// What `next` of a list says. A topic's name has no colon.
fn position(text: &str) -> Result<Position, Problem> {
    let wrong = || Problem::invalid("after", "it is not the next of a list");
    let mut parts = text.split(':');
    let (Some(topic), Some(partition), Some(offset), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong());
    };
    Ok(Position {
        topic: topic.to_owned(),
        partition: partition.parse().map_err(|_| wrong())?,
        offset: offset.parse().ok().and_then(Offset::try_new).ok_or_else(wrong)?,
    })
}

fn place(list: &str, index: usize, topic: String, partition: u32, offset: u64) -> Result<Place, Problem> {
    let pointer = || format!("/{list}/{index}/offset");
    let found = Offset::try_new(offset);
    let offset = found.ok_or_else(|| Problem::invalid(pointer(), format!("there is no offset {offset}")))?;
    Ok(Place {
        topic,
        partition,
        offset,
    })
}
