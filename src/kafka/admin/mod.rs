//! APIs for administrators: topics, configurations, and what a node says about itself.
//!
//! - [`topics`]: created, deleted, given more partitions; [`records`]: the oldest ones deleted.
//! - [`configs`]: described and changed. [`topic_configs`] is the table of Kafka's names for topics, [`node_configs`] that of
//!   the node.
//! - [`cluster`]: the node, its topics and its disk. [`operations`]: what the caller may do with them.
//! - [`producers`]: those that number their records.
//! - [`absent`]: access control lists and transactions, which this server does not have.
//!
//! What may be done, and what becomes of it, the broker decides. Each item of a request has its own result.

pub(crate) mod absent;
pub(crate) mod cluster;
pub(crate) mod configs;
mod node_configs;
pub(crate) mod operations;
pub(crate) mod producers;
pub(crate) mod records;
mod topic_configs;
pub(crate) mod topics;

use std::collections::HashSet;
use std::hash::Hash;

use super::call::Call;
use super::errors::ErrorCode;
use super::wire::Text;
use crate::broker::refusal::Refusal;

/// Why an item of a request is not done.
#[derive(Clone, Debug)]
struct Failure {
    code: ErrorCode,
    /// A sentence; empty: none.
    why: String,
}

impl Failure {
    fn new(code: ErrorCode, why: impl Into<String>) -> Self {
        Self {
            code,
            why: why.into(),
        }
    }

    /// The code and the message in an answer; counts the code.
    fn answer(self, call: &Call) -> (i16, Option<Text>) {
        let message = (!self.why.is_empty()).then(|| self.why.into());
        (call.failed(self.code), message)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(ErrorCode::from(&refusal), refusal.detail)
    }
}

/// The code and the message of a result in an answer; counts the code.
fn answer(call: &Call, result: Result<(), Failure>) -> (i16, Option<Text>) {
    match result {
        Ok(()) => (0, None),
        Err(failure) => failure.answer(call),
    }
}

/// Those that stand in a request more than once.
pub(crate) fn repeated<T: Eq + Hash + Clone>(all: impl Iterator<Item = T>) -> HashSet<T> {
    let mut seen = HashSet::new();
    all.filter(|one| !seen.insert(one.clone())).collect()
}
