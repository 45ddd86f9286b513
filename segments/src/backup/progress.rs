//! How far a long copy has come, and the wish to end it, for another thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Shared by the thread that copies and those that watch it. Plain atomics: nothing depends on their order.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    is_cancelled: AtomicBool,
}

impl Progress {
    /// The bytes of files that are in the copy so far, copied or linked.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Makes the copy end with [`Error::Cancelled`] soon.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self.is_cancelled.load(Ordering::Relaxed) {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }
}
