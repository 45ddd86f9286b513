//! `…/members/{member}/settle` and `…/redrive`: the calls that only shared groups have.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::broker::engine::Offset;
use crate::broker::groups::settle::{Place, Release, Settling};
use crate::http::Answer;
use crate::http::app::App;
use crate::http::body::JsonBody;
use crate::http::ok;
use crate::http::path::{GroupName, MemberName, NoQuery};
use crate::http::problem::Problem;

/// The largest number of records in one settle, all its lists together.
const MOST_PLACES: usize = 100_000;
/// The default number of dead letters that one redrive appends.
const REDRIVEN: u64 = 1000;
const MOST_REDRIVEN: u64 = 1_000_000;
const MOST_DELAY_MS: u64 = 24 * 3_600_000;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(settle_records))
        .routes(routes!(redrive_group))
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
    accept: Vec<PlaceBody>,
    /// Release: deliver these records again.
    #[serde(default)]
    release: Vec<ReleaseBody>,
    /// Reject: make these records dead letters.
    #[serde(default)]
    reject: Vec<RejectBody>,
    /// Extend the leases of these records: they end `lease_ms` from now. A lease that has ended begins again.
    #[serde(default)]
    extend: Vec<PlaceBody>,
}

/// The answer to a settle.
#[derive(Debug, Serialize, ToSchema)]
struct SettledBody {
    /// Records that another member holds now, or that do not exist: nothing changed.
    lost: Vec<PlaceBody>,
    /// Records that were settled before: nothing changed.
    settled: Vec<PlaceBody>,
}

/// Which dead letters to redrive.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RedriveBody {
    /// The topic of dead letters.
    dead_letter_topic: String,
    /// The largest number of dead letters: default 1000; from 1 to 1000000.
    #[serde(default)]
    max_records: Option<u64>,
}

/// The result of a redrive.
#[derive(Debug, Serialize, ToSchema)]
struct RedrivenBody {
    /// Dead letters of this group that were appended to their original topics, durably.
    redriven: u64,
    /// Records that were passed over: dead letters of other groups, and records that are not dead letters.
    passed: u64,
    /// Whether the whole topic of dead letters was read; otherwise a further call finds more.
    at_end: bool,
}

/// Settles records: accepted, released, rejected or extended
///
/// It counts for every unsettled record that no other member holds, also after the lease or the member's session has
/// ended, and after a restart of the server; the member need not be known. The result is durable before the answer: accepted records never come again, rejected ones are in the dead letter
/// topic.
#[utoipa::path(post, path = "/v1/groups/{group}/members/{member}/settle", tag = "groups", request_body = SettleBody,
    responses((status = 200, description = "All records are settled, except those in `lost` and `settled`", body = SettledBody),
        (status = 404, description = "`unknown-group`, `unknown-topic`, `unknown-partition`"),
        (status = 409, description = "`group-type-mismatch`: the group is ordered")))]
async fn settle_records(
    app: App,
    _: NoQuery,
    MemberName { group, member }: MemberName,
    JsonBody(body): JsonBody<SettleBody>,
) -> Answer {
    let count = body.accept.len() + body.release.len() + body.reject.len() + body.extend.len();
    if count > MOST_PLACES {
        let detail = format!("a settle names at most {MOST_PLACES} records, not {count}");
        return Err(Problem::invalid("", detail));
    }
    let mut settling = Settling::default();
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
    let uncounted = app.groups.settle(&group, &member, settling).await?;
    let rows = |places: &[Place]| places.iter().map(PlaceBody::from).collect();
    ok(&SettledBody {
        lost: rows(&uncounted.lost),
        settled: rows(&uncounted.settled),
    })
}

/// Redrives dead letters of a shared group: appends them to their original topics
///
/// The oldest come first. The same append remembers which ones were sent, so a further call sends nothing twice.
#[utoipa::path(post, path = "/v1/groups/{group}/redrive", tag = "groups", request_body = RedriveBody,
    responses((status = 200, description = "The dead letters are appended, durably", body = RedrivenBody),
        (status = 404, description = "`unknown-group`; `unknown-topic`: the topic of dead letters, or the original topic of a record (`redriven` counts the records before it)"),
        (status = 409, description = "`group-type-mismatch`: the group is ordered")))]
async fn redrive_group(
    app: App,
    _: NoQuery,
    GroupName(group): GroupName,
    JsonBody(body): JsonBody<RedriveBody>,
) -> Answer {
    let most = body.max_records.unwrap_or(REDRIVEN);
    if !(1..=MOST_REDRIVEN).contains(&most) {
        let detail = format!("max_records is from 1 to {MOST_REDRIVEN}");
        return Err(Problem::invalid("/max_records", detail));
    }
    let redriven = app.groups.redrive(&group, &body.dead_letter_topic, most).await?;
    ok(&RedrivenBody {
        redriven: redriven.sent,
        passed: redriven.passed,
        at_end: redriven.at_end,
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
