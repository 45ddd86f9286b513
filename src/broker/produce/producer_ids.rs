//! The ids of idempotent producers that ask the server for one.
//!
//! ```text
//! key    'i'
//! value  version=1 next:u64                       the first id that no block has    (big-endian)
//! ```
//!
//! Ids are taken from a block of [`BLOCK`] in memory. A block is made durable before an id of it is given out, so no
//! id is given twice; a crash leaves out what its block still had. They begin at [`FIRST`]: producers that choose their own
//! ids, as over HTTP, take smaller ones.

use std::ops::Range;

use super::Producer;
use crate::broker::blocking::Share;
use crate::broker::caller::Caller;
use crate::broker::engine::{AppendRequest, Log, StateChange};
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::rights::Right;
use crate::broker::state_keys::PRODUCER_IDS;

/// The first id that is given out.
pub const FIRST: u64 = 1 << 40;
/// Ids of a block.
const BLOCK: u64 = 1000;
const VERSION: u8 = 1;

/// The ids that can be given out without asking the log.
#[derive(Debug, Default)]
pub struct ProducerIds(tokio::sync::Mutex<Range<u64>>);

impl Producer {
    /// An id that no producer has been given before.
    ///
    /// # Errors
    /// [`Reason::Forbidden`]: it may not write to any topic; [`Reason::Unauthenticated`]; those of an append.
    pub async fn new_producer_id(&self, caller: &Caller) -> Result<i64, Refusal> {
        caller.check_some_topic(Right::Write)?;
        let mut block = self.ids.0.lock().await;
        if block.is_empty() {
            let log = self.log.clone();
            *block = self
                .blocking
                .attempt(Share::Change, move || take_block(&log))
                .await?;
        }
        let id = block.next().unwrap_or(FIRST);
        Ok(i64::try_from(id).unwrap_or(i64::MAX))
    }
}

/// Takes the next block, durably. Blocks.
fn take_block(log: &Log) -> Result<Range<u64>, Refusal> {
    let key = vec![PRODUCER_IDS];
    let first = match log.state_get(&key) {
        None => FIRST,
        Some(value) => decode(&value).ok_or_else(|| {
            tracing::error!("the state has producer ids that this version cannot read");
            Refusal::new(
                Reason::Internal,
                "producer ids cannot be read; the server's log says why",
            )
        })?,
    };
    let next = first + BLOCK;
    let value = [&[VERSION][..], &next.to_be_bytes()].concat();
    let request = AppendRequest {
        state: vec![StateChange {
            key,
            value: Some(value),
        }],
        ..AppendRequest::default()
    };
    log.append(request)?.wait()?;
    Ok(first..next)
}

fn decode(value: &[u8]) -> Option<u64> {
    let next = value.strip_prefix(&[VERSION])?;
    Some(u64::from_be_bytes(next.try_into().ok()?)).filter(|next| (FIRST..1 << 62).contains(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_of_this_version_are_read() {
        let value = [&[VERSION][..], &(FIRST + 5).to_be_bytes()].concat();
        assert_eq!(decode(&value), Some(FIRST + 5));
        assert_eq!(decode(&value[..8]), None);
        assert_eq!(decode(&[2, 0, 0, 1, 0, 0, 0, 0, 0]), None);
        assert_eq!(decode(&[1, 0xff, 0, 1, 0, 0, 0, 0, 0]), None);
    }
}
