//! `/v1/backups`: copies of the data directory, made while the server works.

use axum::extract::RawQuery;
use axum::response::IntoResponse;
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::JsonBody;
use super::params::Params;
use super::path::{BackupName, NoQuery};
use super::{Share, json_answer, ok};
use crate::broker::caller::Caller;
use crate::broker::engine::{Backup, BackupState};
use crate::http::Answer;
use crate::http::app::App;

/// The default and the largest number of backups in a page.
const LISTED: u64 = 100;
const MOST_LISTED: u64 = 1000;
/// The longest body that names a backup.
const MOST_BODY_BYTES: usize = 4 << 10;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_backups, create_backup))
        .routes(routes!(describe_backup, delete_backup))
}

/// A new backup.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewBackup {
    /// Its name, which is also the name of its directory.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*$",
        example = "monday"
    )]
    name: String,
}

/// A backup.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Backup)]
struct BackupBody {
    name: String,
    /// `running`, `done` (whole and durable), or `failed`.
    #[schema(pattern = "^(running|done|failed)$")]
    state: &'static str,
    /// The bytes of its files; of a running one, those that are in it so far.
    bytes: u64,
    /// The bytes that were written for it: the others are shared with the data directory or an earlier backup.
    copied_bytes: u64,
    /// How many files of the log were found damaged, missing or too short, and are so in the backup. The server's log names
    /// them.
    damaged_files: u64,
    /// When it was begun, in milliseconds since the Unix epoch. It holds all that was acknowledged as durable before.
    started: i64,
    /// When it was done or failed; null while it runs, and if it was interrupted.
    finished: Option<i64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl From<Backup> for BackupBody {
    fn from(backup: Backup) -> Self {
        Self {
            state: match backup.state {
                BackupState::Running => "running",
                BackupState::Done => "done",
                BackupState::Failed => "failed",
            },
            name: backup.name,
            bytes: backup.bytes,
            copied_bytes: backup.copied_bytes,
            damaged_files: backup.damaged_files,
            started: backup.started.get(),
            finished: backup.finished.map(|time| time.get()),
            error: backup.error,
        }
    }
}

/// Backups by name.
#[derive(Debug, Serialize, ToSchema)]
struct BackupList {
    backups: Vec<BackupBody>,
    /// Pass this as `after` to get the next page; left out in the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Begins a backup
///
/// A consistent copy below the setting `backup_dir`, while everything goes on. What has not changed since the newest backup is
/// not copied again. One is made at a time; a name of a failed backup can be used again.
#[utoipa::path(post, path = "/v1/backups", tag = "operating", request_body = NewBackup,
    responses((status = 202, description = "It has begun; `Location` says where to ask for its state", body = BackupBody),
        (status = 409, description = "`backup-running`: another one is; `backup-exists`"),
        (status = 501, description = "`not-supported`: the server has no `backup_dir`")))]
async fn create_backup(
    app: App,
    caller: Caller,
    _: NoQuery,
    JsonBody(body): JsonBody<NewBackup, MOST_BODY_BYTES>,
) -> Answer {
    let backups = app.backups.clone();
    let start = move || backups.start(&caller, &body.name);
    let backup = app.blocking.attempt(Share::Change, start).await?;
    // The name has no character that needs to be encoded.
    let location = HeaderValue::try_from(format!("/v1/backups/{}", backup.name));
    let mut answer = json_answer(StatusCode::ACCEPTED, &BackupBody::from(backup));
    if let Ok(location) = location {
        answer.headers_mut().insert(header::LOCATION, location);
    }
    Ok(answer)
}

/// The backups
#[utoipa::path(get, path = "/v1/backups", tag = "operating",
    params(("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "The largest number of backups (default 100)"),
        ("after" = Option<String>, Query, description = "`next` of the last answer")),
    responses((status = 200, description = "The backups by name", body = BackupList),
        (status = 501, description = "`not-supported`: the server has no `backup_dir`")))]
async fn list_backups(app: App, RawQuery(query): RawQuery) -> Answer {
    let params = Params::parse(query.as_deref(), &["limit", "after"], &[])?;
    let limit = params.number("limit", 1, MOST_LISTED)?.unwrap_or(LISTED) as usize;
    let after = params.get("after").map(str::to_owned);
    let backups = app.backups.clone();
    let mut all = app
        .blocking
        .attempt(Share::Report, move || backups.list())
        .await?;
    all.retain(|backup| after.as_ref().is_none_or(|after| backup.name > *after));
    let has_more = all.len() > limit;
    all.truncate(limit);
    let next = all.last().map(|backup| backup.name.clone()).filter(|_| has_more);
    ok(&BackupList {
        backups: all.into_iter().map(BackupBody::from).collect(),
        next,
    })
}

/// Describes a backup
#[utoipa::path(get, path = "/v1/backups/{name}", tag = "operating",
    params(("name" = String, Path, min_length = 1, max_length = 100, pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*$", description = "The backup's name")),
    responses((status = 200, description = "The backup", body = BackupBody),
        (status = 404, description = "`unknown-backup`"),
        (status = 501, description = "`not-supported`: the server has no `backup_dir`")))]
async fn describe_backup(app: App, BackupName(name): BackupName, _: NoQuery) -> Answer {
    let backups = app.backups.clone();
    let find = move || backups.find(&name);
    ok(&BackupBody::from(
        app.blocking.attempt(Share::Report, find).await?,
    ))
}

/// Deletes a backup
///
/// Other backups lose nothing, although they may share files with it.
#[utoipa::path(delete, path = "/v1/backups/{name}", tag = "operating",
    params(("name" = String, Path, min_length = 1, max_length = 100, pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*$", description = "The backup's name")),
    responses((status = 204, description = "Deleted"),
        (status = 404, description = "`unknown-backup`"),
        (status = 409, description = "`backup-running`: none is deleted while one is made"),
        (status = 501, description = "`not-supported`: the server has no `backup_dir`")))]
async fn delete_backup(app: App, caller: Caller, BackupName(name): BackupName, _: NoQuery) -> Answer {
    let backups = app.backups.clone();
    let remove = move || backups.remove(&caller, &name);
    app.blocking.attempt(Share::Change, remove).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
