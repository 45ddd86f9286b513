//! Work that would hold up an async worker, on threads where blocking is fine.
//!
//! Each kind of work has a share of those threads (512; parsing has what is left), so that work that waits for a disk
//! that does not answer holds up its own kind and nothing else. What waits for a turn is a request, so no more wait than
//! there are connections.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::refusal::{Outcome, Reason, Refusal};

/// What a piece of work does.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Reads what is not in memory.
    Read,
    /// Makes a report, which may be large.
    Report,
    /// Waits until the log has changed something.
    Change,
    /// Parses a body: bounded by what bodies may hold.
    Parse,
}

/// The shares of the blocking threads. Cheap to clone; clones share.
#[derive(Clone, Debug)]
pub struct Blocking {
    reads: Arc<Semaphore>,
    reports: Arc<Semaphore>,
    changes: Arc<Semaphore>,
}

impl Default for Blocking {
    fn default() -> Self {
        let share = |threads| Arc::new(Semaphore::new(threads));
        Self {
            reads: share(256),
            reports: share(4),
            changes: share(64),
        }
    }
}

impl Blocking {
    /// Runs `work` on a thread of its kind's share, and waits for it. A caller that goes away does not stop it.
    ///
    /// # Errors
    /// [`Reason::Internal`] where the work panicked, with an unknown outcome: it may have got as far as doing it.
    pub async fn run<T: Send + 'static>(
        &self,
        kind: Work,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let share = match kind {
            Work::Read => Some(&self.reads),
            Work::Report => Some(&self.reports),
            Work::Change => Some(&self.changes),
            Work::Parse => None,
        };
        let permit = match share {
            // They are never closed.
            Some(share) => Arc::clone(share).acquire_owned().await.ok(),
            None => None,
        };
        let result = tokio::task::spawn_blocking(move || {
            // Given back by the thread: a caller that goes away does not free it.
            let _permit = permit;
            work()
        });
        result.await.map_err(|error| {
            tracing::error!(%error, "a request's work on a blocking thread failed");
            Refusal::new(Reason::Internal, "the server could not do it; its log says why")
                .outcome(Outcome::Unknown)
        })
    }

    /// The same for work that may be refused.
    ///
    /// # Errors
    /// As [`Blocking::run`], and those of `work`.
    pub async fn attempt<T: Send + 'static>(
        &self,
        kind: Work,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        self.run(kind, work).await?
    }
}
