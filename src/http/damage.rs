//! Lists damaged offsets, of all topics (`/v1/damage`) or of a partition, and lets an operator skip them.

use axum::extract::RawQuery;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::JsonBody;
use super::params::Params;
use super::path::{AtPartition, NoQuery};
use super::problem::Problem;
use super::{Share, ok};
use crate::broker::caller::Caller;
use crate::broker::engine::{Log, Offset, Partition, Topic};
use crate::broker::topics::skips::{self, Gap};
use crate::http::Answer;
use crate::http::app::App;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_all_damage))
        .routes(routes!(list_damage))
        .routes(routes!(skip_damage, take_skip_back))
}

/// The damage of a partition.
#[derive(Debug, Serialize, ToSchema)]
struct DamageBody {
    topic: String,
    partition: u32,
    /// In order of offsets.
    damage: Vec<DamagedRow>,
}

/// The damage of all topics.
#[derive(Debug, Serialize, ToSchema)]
struct AllDamage {
    /// By topic, partition and offset.
    damage: Vec<PlacedRow>,
    /// Pass this as `after` to get the next page; left out in the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Offsets of a topic that cannot be read.
#[derive(Debug, Serialize, ToSchema)]
struct PlacedRow {
    topic: String,
    partition: u32,
    #[serde(flatten)]
    row: DamagedRow,
}

/// Offsets that cannot be read.
#[derive(Debug, Serialize, ToSchema)]
struct DamagedRow {
    /// The first damaged offset.
    damaged_offset: u64,
    /// One past the last damaged offset.
    damaged_until_offset: u64,
    /// Whether a fetch that begins here continues after the damage, and reports the gap.
    skipped: bool,
}

/// Offsets to skip.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SkipBody {
    /// The first offset.
    damaged_offset: u64,
    /// One past the last offset.
    damaged_until_offset: u64,
}

/// Lists the known damage of all topics
#[utoipa::path(get, path = "/v1/damage", tag = "operating",
    params(("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "The largest number of ranges: default 100"),
        ("after" = Option<String>, Query, description = "Only ranges after this place: pass `next` of the page before")),
    responses((status = 200, description = "The damaged ranges", body = AllDamage)))]
async fn list_all_damage(app: App, RawQuery(query): RawQuery) -> Answer {
    let params = Params::parse(query.as_deref(), &["limit", "after"], &[])?;
    let limit = params.number("limit", 1, 1000)?.unwrap_or(100) as usize;
    let wrong = || Problem::invalid("after", "after is not the next of a page; leave it out to begin");
    let after = params
        .get("after")
        .map(|after| place(after).ok_or_else(wrong))
        .transpose()?;
    let mut rows: Vec<PlacedRow> = skips::all(&app.log)
        .into_iter()
        .map(|(topic, partition, row)| PlacedRow {
            topic: topic.name().to_owned(),
            partition: partition.id().index,
            row: row.into(),
        })
        .collect();
    let of = |row: &PlacedRow| (row.topic.clone(), row.partition, row.row.damaged_offset);
    rows.retain(|row| after.as_ref().is_none_or(|after| of(row) > *after));
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| has_more).map(of);
    let next = next.map(|(topic, partition, offset)| format!("{topic}/{partition}/{offset}"));
    ok(&AllDamage { damage: rows, next })
}

/// The place of a range: its topic, its partition, its first offset.
fn place(text: &str) -> Option<(String, u32, u64)> {
    let mut parts = text.rsplitn(3, '/');
    let (offset, partition, topic) = (parts.next()?, parts.next()?, parts.next()?);
    Some((topic.to_owned(), partition.parse().ok()?, offset.parse().ok()?))
}

/// Lists the known damage of a partition
///
/// Reading finds damage: at the start, if files are missing or too short, and later when clients or the server read.
/// `quipu verify` reads everything, while the server is stopped. Offsets that could be read again are not listed.
#[utoipa::path(get, path = "/v1/topics/{topic}/partitions/{partition}/damage", tag = "topics",
    responses((status = 200, description = "The damaged ranges", body = DamageBody)))]
async fn list_damage(app: App, place: AtPartition, _: NoQuery) -> Answer {
    ok(&listed(&app.log, &place.topic, &place.partition))
}

/// Skips damaged offsets
///
/// From then on a fetch that begins in these offsets continues after them and reports the gap. Only damaged offsets can
/// be skipped. Nothing is deleted: records that can be read again (from a restored file) are served. The skip is
/// durable before the answer. Repeating it is harmless.
#[utoipa::path(post, path = "/v1/topics/{topic}/partitions/{partition}/damage/skip", tag = "topics", request_body = SkipBody,
    responses((status = 200, description = "Skipped; the answer lists all known damage", body = DamageBody),
        (status = 409, description = "`not-damaged`: one of these offsets, `healthy_offset`, can be read"),
        (status = 410, description = "`offset-trimmed`: below `log_start_offset`"),
        (status = 416, description = "`offset-out-of-range`: above `end_offset`")))]
async fn skip_damage(
    app: App,
    caller: Caller,
    AtPartition { topic, partition }: AtPartition,
    _: NoQuery,
    JsonBody(body): JsonBody<SkipBody>,
) -> Answer {
    let range = range(body.damaged_offset, body.damaged_until_offset, "/")?;
    let (topics, log, now) = (app.topics.clone(), app.log.clone(), app.clock.now());
    let skip = move || {
        topics.skip(&caller, &partition, range, now)?;
        Ok(listed(&log, &topic, &partition))
    };
    ok(&app.blocking.attempt(Share::Change, skip).await?)
}

/// Takes a skip back
///
/// A fetch that begins in these offsets is answered `corrupt-data` again. Offsets that were not skipped stay as they
/// are, so repeating the call is harmless.
#[utoipa::path(delete, path = "/v1/topics/{topic}/partitions/{partition}/damage/skip", tag = "topics",
    params(("damaged_offset" = u64, Query, description = "The first offset"),
        ("damaged_until_offset" = u64, Query, description = "One past the last offset")),
    responses((status = 200, description = "Taken back; the answer lists all known damage", body = DamageBody)))]
async fn take_skip_back(
    app: App,
    caller: Caller,
    AtPartition { topic, partition }: AtPartition,
    RawQuery(query): RawQuery,
) -> Answer {
    let params = Params::parse(query.as_deref(), &["damaged_offset", "damaged_until_offset"], &[])?;
    let number = |name: &str| {
        let missing = || Problem::invalid(name, format!("say which offsets: {name}=<offset> is missing"));
        params.number(name, 0, Offset::MAX.get())?.ok_or_else(missing)
    };
    let range = range(number("damaged_offset")?, number("damaged_until_offset")?, "")?;
    let (topics, log, now) = (app.topics.clone(), app.log.clone(), app.clock.now());
    let take_back = move || {
        topics.take_back(&caller, partition.id(), range, now)?;
        Ok(listed(&log, &topic, &partition))
    };
    ok(&app.blocking.attempt(Share::Change, take_back).await?)
}

fn listed(log: &Log, topic: &Topic, partition: &Partition) -> DamageBody {
    let rows = skips::known(log, partition).into_iter();
    let rows = rows.map(DamagedRow::from);
    DamageBody {
        topic: topic.name().to_owned(),
        partition: partition.id().index,
        damage: rows.collect(),
    }
}

impl From<skips::Row> for DamagedRow {
    fn from(row: skips::Row) -> Self {
        Self {
            damaged_offset: row.range.from.get(),
            damaged_until_offset: row.range.until.get(),
            skipped: row.skipped,
        }
    }
}

fn range(from: u64, until: u64, pointer: &str) -> Result<Gap, Problem> {
    let offset = |value: u64, name: &str| {
        let detail = || format!("no offset is as large as {value}");
        Offset::try_new(value).ok_or_else(|| Problem::invalid(format!("{pointer}{name}"), detail()))
    };
    let from = offset(from, "damaged_offset")?;
    let until = offset(until, "damaged_until_offset")?;
    if from >= until {
        let detail = format!("it is exclusive and must be above damaged_offset, {from}, not {until}");
        return Err(Problem::invalid(format!("{pointer}damaged_until_offset"), detail));
    }
    Ok(Gap { from, until })
}
