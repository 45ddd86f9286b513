//! `application/x-ndjson`: reads the lines of a body as they arrive, and gives them to an [`Upload`].
//!
//! Lines are read in place, in the chunk that the connection delivered; only a line that spans two chunks is copied. If
//! a client is faster than the disk, TCP slows it down.

use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::body::Incoming;
use super::{TopicCall, replayed};
use crate::broker::budget::Budget;
use crate::broker::produce::upload::{Stop, Upload};
use crate::http::Answer;
use crate::http::json_answer;
use crate::http::problem::Problem;

/// The records that an upload stored.
#[derive(Serialize, ToSchema)]
#[schema(as = StreamProduced)]
pub(super) struct StreamDoc {
    /// The number of records, in all partitions.
    records: u64,
    /// The partitions that got records. If others write too, offsets between the first and the last may be theirs.
    partitions: Vec<PartitionDoc>,
}

/// The records that an upload stored in one partition.
#[derive(Serialize, ToSchema)]
#[schema(as = StreamProducedPartition)]
struct PartitionDoc {
    /// The partition.
    partition: u32,
    /// The first record's offset.
    first_offset: u64,
    /// The last record's offset.
    last_offset: u64,
    /// The number of records.
    records: u64,
}

/// Why an upload ends early.
enum End {
    Upload(Stop),
    Body(Problem),
}

impl From<Stop> for End {
    fn from(stop: Stop) -> Self {
        Self::Upload(stop)
    }
}

impl From<Problem> for End {
    fn from(problem: Problem) -> Self {
        Self::Body(problem)
    }
}

pub(super) async fn produce(call: &TopicCall<'_>, body: &mut Incoming<'_>) -> Answer {
    let (params, options) = call.params(&["ack", "expected_offset", "repartition"])?;
    let key = call.key(&params, None)?;
    let producer = call.producer;
    let mut upload = Upload::begin(producer, &call.target, options, call.extra_headers(), key).await?;
    let mut budget = body.budget();
    let end = match read(&mut upload, &mut budget, body).await {
        Ok(()) => None,
        Err(End::Upload(stop)) if stop.is_wrong_line() => {
            // The lines before the wrong one form the last unit. If storing that fails, its error is reported first.
            let rest = upload.cut(|| budget.take()).await;
            Some(End::Upload(rest.err().unwrap_or(stop)))
        }
        Err(end) => Some(end),
    };
    let settled = upload.settle().await;
    // If the unit in flight fails, that error is reported before the reason why no other unit follows.
    match settled.err().map(End::Upload).or(end) {
        None => Ok(answer(&upload)),
        Some(End::Upload(stop)) => Err(upload.refuse(stop).into()),
        Some(End::Body(problem)) => Err(problem
            .with("accepted", upload.accepted())
            .outcome(upload.outcome())),
    }
}

/// Reads the body to its end and appends all of it; only the last unit's answer is still open.
async fn read(upload: &mut Upload<'_>, budget: &mut Budget<'_>, body: &mut Incoming<'_>) -> Result<(), End> {
    // The beginning of a line whose end has not arrived.
    let mut tail: Vec<u8> = Vec::new();
    let mut stopping = upload.stopping();
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = body.next(budget) => chunk?,
            _ = stopping.wait_for(|stopping| *stopping) => return Err(upload.stop().into()),
        };
        let Some(chunk) = chunk else { break };
        let mut rest = &chunk[..];
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            // A line that spans two chunks is put together in `tail`.
            let whole = if tail.is_empty() {
                line
            } else {
                tail.extend_from_slice(line);
                &tail[..]
            };
            if upload.is_full(whole) {
                upload.cut(|| budget.take()).await?;
            }
            upload.line(whole)?;
            tail.clear();
            rest = after;
        }
        upload.check_length(tail.len() + rest.len())?;
        tail.extend_from_slice(rest);
        let held = upload.unit_bytes() + tail.len();
        if !budget.try_cover(held) {
            // An upload must not wait for memory that its own unit in flight holds.
            upload.settle().await?;
            let covered = budget.cover_beside(body.covered(), held).await;
            covered.map_err(Problem::from)?;
        }
    }
    if !tail.is_empty() {
        if upload.is_full(&tail) {
            upload.cut(|| budget.take()).await?;
        }
        upload.line(&tail)?;
    }
    Ok(upload.cut(|| budget.take()).await?)
}

fn answer(upload: &Upload<'_>) -> Response {
    let partitions = upload.stored().iter().map(|(partition, stored)| PartitionDoc {
        partition: *partition,
        first_offset: stored.first_offset.get(),
        last_offset: stored.last_offset.get(),
        records: stored.records,
    });
    let answer = StreamDoc {
        records: upload.accepted(),
        partitions: partitions.collect(),
    };
    replayed(upload.is_replayed(), json_answer(StatusCode::OK, &answer))
}
