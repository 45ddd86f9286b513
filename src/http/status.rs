//! `/v1/status`: what is wrong, how full the disk is, and how much is written and read.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::operate::{Degraded, faults};
use super::path::NoQuery;
use super::{Share, ok};
use crate::http::Answer;
use crate::http::app::App;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(status))
}

/// The server at a glance.
#[derive(Debug, Serialize, ToSchema)]
struct Status {
    /// What is wrong, as in `/health/ready`.
    degraded: Vec<Degraded>,
    disk: DiskStatus,
    /// Milliseconds until the disk is full, at the pace of the last ten minutes; null if that never comes, or in the first
    /// five minutes.
    full_in_ms: Option<u64>,
    rates: ServerRates,
}

/// The disk of the data directory.
#[derive(Debug, Serialize, ToSchema)]
struct DiskStatus {
    /// Free for the server; null if the system does not say.
    free_bytes: Option<u64>,
    /// The size of the file system; null if the system does not say.
    total_bytes: Option<u64>,
    /// The data directory's part: `topics` (records, without indexes), `journal`, `idempotency_keys`, `audit`,
    /// `state` (checkpoints, groups and offsets).
    used_bytes: BTreeMap<&'static str, u64>,
}

/// What is written and read a second, over the last ten seconds.
#[derive(Debug, Serialize, ToSchema)]
struct ServerRates {
    /// Records appended.
    produce_rate: f64,
    /// Stored bytes appended.
    produce_bytes_rate: f64,
    /// Stored bytes given to readers.
    fetch_bytes_rate: f64,
}

/// The server at a glance: what is wrong, the disk, the rates
#[utoipa::path(get, path = "/v1/status", tag = "operating",
    responses((status = 200, description = "The status", body = Status)))]
async fn status(app: App, _: NoQuery) -> Answer {
    let broker = app.broker.clone();
    let look = move || {
        let (log, traffic) = (&broker.log, &broker.traffic);
        let usage = log.disk_usage();
        let rates = traffic.of_server();
        Status {
            degraded: faults(log, &log.health()),
            disk: DiskStatus {
                free_bytes: usage.free_bytes,
                total_bytes: usage.total_bytes,
                used_bytes: BTreeMap::from([
                    ("topics", usage.topics_bytes),
                    ("journal", usage.journal_bytes),
                    ("idempotency_keys", usage.keys_bytes),
                    ("audit", usage.internal_bytes),
                    ("state", usage.state_bytes),
                ]),
            },
            full_in_ms: usage.free_bytes.and_then(|free| traffic.full_in_ms(free)),
            rates: ServerRates {
                produce_rate: rates.produce,
                produce_bytes_rate: rates.produce_bytes,
                fetch_bytes_rate: rates.fetch_bytes,
            },
        }
    };
    ok(&app.blocking.run(Share::Report, look).await?)
}
