//! Routes for operators and supervisors: health, metrics, and information about the server.
//!
//! Clients see no paths: an answer describes a failure in general words, and the server's own log has the details.

use std::sync::Arc;

use axum::extract::RawQuery;
use axum::response::IntoResponse;
use http::HeaderMap;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::accept::choose;
use super::params::Params;
use super::path::NoQuery;
use super::problem::Problem;
use super::{Share, exact, fresh, ok};
use crate::broker::caller::Caller;
use crate::broker::engine::{Health, Log};
use crate::broker::refusal::Reason;
use crate::broker::topics::skips;
use crate::http::Answer;
use crate::http::app::App;
use crate::metrics::{self, Format, Sources};

/// The version of the data directory's layout that this version writes.
const DATA_FORMAT: u32 = 1;

/// The features of this version, for clients that know several; a new feature adds its name.
const FEATURES: &str = "topics produce-json produce-ndjson produce-raw produce-cloudevents produce-record-batch \
    produce-several-topics request-gzip request-zstd ack-written expected-offset idempotency-key producer-sequence \
    fetch-json fetch-ndjson fetch-cloudevents fetch-record-batch fetch-wait history-etag stream-ndjson stream-sse \
    header-patterns browse damage-skip group-offsets group-reset group-members group-shared lag lag-history lag-svg backups";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(live))
        .routes(routes!(ready))
        .routes(routes!(metrics_text))
        .routes(routes!(info))
}

/// Whether the process answers.
#[derive(Debug, Serialize, ToSchema)]
struct LiveBody {
    /// `live`.
    #[schema(pattern = "^(live)$")]
    status: &'static str,
}

/// Whether the server takes requests, and its faults.
#[derive(Debug, Serialize, ToSchema)]
struct ReadyBody {
    /// `ready`, or `degraded`: some requests fail.
    #[schema(pattern = "^(ready|degraded)$")]
    status: &'static str,
    /// The faults.
    degraded: Vec<Degraded>,
}

/// A fault.
#[derive(Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Degraded {
    /// `log-failed`, `storage-full`, `partition-failed`, `damage`.
    #[schema(pattern = "^(log-failed|storage-full|partition-failed|damage)$")]
    what: &'static str,
    /// The fault in words.
    detail: String,
    /// The partition, as `topic/partition`.
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<String>,
    /// The first unreadable offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged_offset: Option<u64>,
    /// One past the last unreadable offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged_until_offset: Option<u64>,
    /// Whether consumers skip the range.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<bool>,
}

impl Degraded {
    fn new(what: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self {
            what,
            detail,
            ..Self::default()
        }
    }
}

/// The most damaged ranges that are listed one by one; further ones are only counted.
const MAX_DAMAGE: usize = 100;

/// Information about the server.
#[derive(Debug, Serialize, ToSchema)]
struct InfoBody {
    /// The server's version.
    version: &'static str,
    /// The version of the data directory's layout.
    data_format: u32,
    /// Milliseconds since the server started.
    uptime_ms: u64,
    /// Its features.
    features: Vec<&'static str>,
    /// The limits of one client, by setting.
    #[schema(value_type = Value)]
    limits: Map<String, Value>,
}

/// Whether the process answers
#[utoipa::path(get, path = "/health/live", tag = "operating",
    responses((status = 200, description = "The process answers", body = LiveBody)))]
async fn live(_: NoQuery) -> Answer {
    ok(&LiveBody { status: "live" })
}

/// Whether the server has recovered and takes requests
///
/// It is ready when it has recovered. `degraded` lists what is wrong while the rest works: reads go on when appends have
/// failed, or the disk is full. With `for=writes` it is not ready then.
#[utoipa::path(get, path = "/health/ready", tag = "operating",
    params(("for" = Option<String>, Query, pattern = "^(writes)$", description = "`writes`: only ready if it takes appends too")),
    responses((status = 200, description = "The server takes requests; `degraded` lists its faults", body = ReadyBody),
        (status = 503, description = "`shutting-down`; with `for=writes` also `log-failed`"),
        (status = 507, description = "With `for=writes`: `storage-full`")))]
async fn ready(app: App, caller: Caller, RawQuery(query): RawQuery) -> Answer {
    let params = Params::parse(query.as_deref(), &["for"], &[])?;
    let for_writes = params.choice("for", &[("writes", true)])?.unwrap_or(false);
    if app.is_stopping() {
        return Err(Problem::new(Reason::ShuttingDown, "the server is stopping"));
    }
    let health = app.log.health();
    // Others get a word: what is wrong names topics.
    let degraded = if caller.sees_all() {
        faults(&app.log, &health)
    } else {
        Vec::new()
    };
    let is_degraded = !degraded.is_empty() || (!caller.sees_all() && !faults(&app.log, &health).is_empty());
    if for_writes && health.log_failed.is_some() {
        let detail = "appends stopped after a failed write, until a restart";
        return Err(Problem::new(Reason::LogFailed, detail).with("degraded", json!(degraded)));
    }
    if for_writes && health.storage_full {
        let detail = "the disk is full: appends go on by themselves when there is space";
        return Err(Problem::new(Reason::StorageFull, detail).with("degraded", json!(degraded)));
    }
    let status = if is_degraded { "degraded" } else { "ready" };
    ok(&ReadyBody { status, degraded })
}

/// Every metric, for Prometheus
///
/// In Prometheus' classic text format, or in OpenMetrics if `Accept` asks for it.
#[utoipa::path(get, path = "/metrics", tag = "operating",
    responses((status = 200, description = "Metrics as text", content(
        (String = "text/plain"), (String = "application/openmetrics-text")))))]
async fn metrics_text(app: App, headers: HeaderMap, _: NoQuery) -> Answer {
    // A client that accepts neither gets the classic format: it asked for metrics.
    let formats = [
        ("text/plain", Format::Classic),
        ("application/openmetrics-text", Format::OpenMetrics),
    ];
    let format = choose(&headers, &formats).unwrap_or(Format::Classic);
    let from = Sources {
        log: app.log.clone(),
        counters: Arc::clone(&app.counters),
        lags: app.lags.clone(),
        metrics: Arc::clone(&app.metrics),
        uptime: app.uptime(),
        failed_sign_ins: app.access.failed_sign_ins(),
        body_bytes: app.body_bytes_in_flight(),
        max_partitions: app.config.metrics_partitions,
    };
    let encode = move || metrics::encode(&from, format);
    let text = app.blocking.run(Share::Report, encode).await?;
    let headers = fresh(format.content_type());
    Ok((headers, exact(text.into_bytes())).into_response())
}

/// The server's version, and its limits
#[utoipa::path(get, path = "/v1/info", tag = "operating",
    responses((status = 200, description = "Version, format of the data directory, uptime, features, limits",
        body = InfoBody)))]
async fn info(app: App, _: NoQuery) -> Answer {
    ok(&InfoBody {
        version: env!("CARGO_PKG_VERSION"),
        data_format: DATA_FORMAT,
        uptime_ms: u64::try_from(app.uptime().as_millis()).unwrap_or(u64::MAX),
        features: FEATURES.split(' ').collect(),
        limits: app.config.limits_json(),
    })
}

/// Every fault.
pub(super) fn faults(log: &Log, health: &Health) -> Vec<Degraded> {
    let mut faults = degraded(health);
    faults.extend(damaged(log));
    faults
}

fn degraded(health: &Health) -> Vec<Degraded> {
    let log_failed = "a write or a sync of the journal failed: every append is refused until a restart";
    let storage_full = "the disk is full: appends go on by themselves when there is space";
    let partition_failed =
        "a write or a sync of its segment failed: appends to it are refused until a restart";
    let mut degraded = Vec::new();
    if health.log_failed.is_some() {
        degraded.push(Degraded::new("log-failed", log_failed));
    }
    if health.storage_full {
        degraded.push(Degraded::new("storage-full", storage_full));
    }
    for (partition, _) in &health.failed_partitions {
        let fault = Degraded::new("partition-failed", partition_failed);
        let partition = Some(partition.clone());
        degraded.push(Degraded { partition, ..fault });
    }
    let places = health.damage.len();
    if places > 0 {
        let found = "found at the start: the server's log names them, run quipu verify";
        let detail = format!("{places} damaged place(s) beside the records, {found}");
        degraded.push(Degraded::new("damage", detail));
    }
    degraded
}

/// The faults for unreadable records: one for each range, up to a limit.
fn damaged(log: &Log) -> Vec<Degraded> {
    let rows = skips::all(log).into_iter();
    let mut rows: Vec<Degraded> = rows
        .map(|(_, partition, row)| damaged_row(partition.name(), row))
        .collect();
    let left_out = rows.len().saturating_sub(MAX_DAMAGE);
    rows.truncate(MAX_DAMAGE);
    if left_out > 0 {
        let detail = format!("{left_out} more damaged ranges: /v1/damage lists them all");
        rows.push(Degraded::new("damage", detail));
    }
    rows
}

fn damaged_row(partition: &str, row: skips::Row) -> Degraded {
    let skips::Gap { from, until } = row.range;
    let what = match row.skipped {
        true => "they are skipped, consumers go on behind them",
        false => "consumers stop there: restore the file from a backup, or skip them (quipu topic skip)",
    };
    Degraded {
        what: "damage",
        detail: format!("offsets {from} to {until} (exclusive) cannot be read; {what}"),
        partition: Some(partition.to_owned()),
        damaged_offset: Some(from.get()),
        damaged_until_offset: Some(until.get()),
        skipped: Some(row.skipped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_without_a_path() {
        assert!(degraded(&Health::default()).is_empty());
        let health = Health {
            log_failed: Some("/data/journal/0 failed".into()),
            storage_full: true,
            failed_partitions: vec![("orders/3".into(), "/data/topics/orders/3 failed".into())],
            damage: vec!["/data/topics/orders/0/00.log at byte 7".into()],
            damaged_ranges: Vec::new(),
        };
        let all = degraded(&health);
        let what: Vec<_> = all.iter().map(|d| d.what).collect();
        assert_eq!(what, ["log-failed", "storage-full", "partition-failed", "damage"]);
        assert_eq!(all[2].partition.as_deref(), Some("orders/3"));
        assert!(!serde_json::to_string(&all).unwrap().contains("/data"));
    }
}
