//! `/v1/audit`: what was changed, by whom, and from where.

use axum::extract::RawQuery;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ok;
use super::params::Params;
use super::problem::Problem;
use crate::broker::audit::Entry;
use crate::broker::engine::Offset;
use crate::http::Answer;
use crate::http::app::App;

/// The default and the largest number of entries in a page.
const LISTED: u64 = 100;
const MOST_LISTED: u64 = 1000;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(audit))
}

/// Entries, the newest first.
#[derive(Debug, Serialize, ToSchema)]
struct AuditBody {
    entries: Vec<AuditEntryBody>,
    /// There are more: pass this as `after`.
    next: Option<String>,
}

/// What somebody has changed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditEntry)]
struct AuditEntryBody {
    /// When, in milliseconds since the Unix epoch.
    time: i64,
    /// Who had signed in; null: nobody had to.
    principal: Option<String>,
    /// Where the request came from; null if that is unknown.
    address: Option<String>,
    /// The answer's `X-Request-Id`.
    request_id: String,
    /// What was done, as `topic.delete`.
    action: String,
    /// What it was done to: a path of this API without `/v1/`.
    resource: String,
    /// More about it, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl From<Entry> for AuditEntryBody {
    fn from(entry: Entry) -> Self {
        Self {
            time: entry.time,
            principal: entry.principal,
            address: entry.address,
            request_id: entry.request_id,
            action: entry.action,
            resource: entry.resource,
            detail: entry.detail,
        }
    }
}

/// The audit log
///
/// Every change of topics, groups, offsets and damage that somebody has made, the newest first. Entries are stored with what
/// they tell of, kept for ever, and changed by nobody.
#[utoipa::path(get, path = "/v1/audit", tag = "operating",
    params(("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "The largest number of entries (default 100)"),
        ("after" = Option<String>, Query, description = "Older entries: `next` of the last answer")),
    responses((status = 200, description = "The entries", body = AuditBody)))]
async fn audit(app: App, RawQuery(query): RawQuery) -> Answer {
    let params = Params::parse(query.as_deref(), &["limit", "after"], &[])?;
    let limit = params.number("limit", 1, MOST_LISTED)?.unwrap_or(LISTED) as usize;
    let before = params.get("after").map(position).transpose()?;
    let page = app.audit.page(limit, before).await?;
    ok(&AuditBody {
        entries: page.entries.into_iter().map(AuditEntryBody::from).collect(),
        next: page.next.map(|at| format!("before:{at}")),
    })
}

fn position(text: &str) -> Result<Offset, Problem> {
    let offset = text
        .strip_prefix("before:")
        .and_then(|offset| offset.parse().ok());
    offset
        .and_then(Offset::try_new)
        .ok_or_else(|| Problem::invalid("after", "it is not the next of a list"))
}
