//! Runs work that may block on threads of its own, so that it does not hold up an async worker.
//!
//! Each kind of work has a share of those 512 threads (parsing has the rest), so work that waits for a disk that does
//! not answer holds up only its own kind. Only requests wait for a thread, so no more wait than there are connections.

use std::num::NonZero;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::refusal::{Outcome, Reason, Refusal};

/// A kind of work.
#[derive(Clone, Copy, Debug)]
pub enum Share {
    /// Reads what is not in memory.
    Read,
    /// Looks through records for those that are wanted: work for a core, not for the disk.
    Search,
    /// Inflates compressed batches: work for a core, which takes the memory that they inflate to.
    Inflate,
    /// Makes a report, which may be large.
    Report,
    /// Waits until the log has changed something.
    Change,
    /// Parses a body: bounded by what bodies may hold.
    Parse,
}

impl Share {
    /// Whether work of this kind never stores anything, so that its failure leaves nothing behind.
    #[must_use]
    pub fn only_reads(self) -> bool {
        matches!(self, Self::Read | Self::Search | Self::Inflate | Self::Report)
    }
}

/// The shares of the blocking threads. Cheap to clone; clones share.
#[derive(Clone, Debug)]
pub struct Blocking {
    reads: Arc<Semaphore>,
    searches: Arc<Semaphore>,
    inflates: Arc<Semaphore>,
    reports: Arc<Semaphore>,
    changes: Arc<Semaphore>,
}

impl Default for Blocking {
    fn default() -> Self {
        let share = |threads| Arc::new(Semaphore::new(threads));
        // Half of the cores: other requests find one however many search.
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            reads: share(256),
            searches: share((cores / 2).max(1)),
            // As many as there are cores: more would only take more memory at once.
            inflates: share(cores),
            reports: share(4),
            changes: share(64),
        }
    }
}

impl Blocking {
    /// Runs `work` on a thread of its kind's share, and waits for it. A caller that goes away does not stop it.
    ///
    /// # Errors
    /// [`Reason::Internal`] if the work panicked; the outcome is unknown unless the work only reads.
    pub async fn run<T: Send + 'static>(
        &self,
        kind: Share,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let share = match kind {
            Share::Read => Some(&self.reads),
            Share::Search => Some(&self.searches),
            Share::Inflate => Some(&self.inflates),
            Share::Report => Some(&self.reports),
            Share::Change => Some(&self.changes),
            Share::Parse => None,
        };
        let permit = match share {
            // The semaphores are never closed.
            Some(share) => Arc::clone(share).acquire_owned().await.ok(),
            None => None,
        };
        let result = tokio::task::spawn_blocking(move || {
            // The thread gives it back: a caller that goes away does not free it.
            let _permit = permit;
            work()
        });
        result.await.map_err(|error| {
            tracing::error!(%error, "a request's work on a blocking thread failed");
            let refusal = Refusal::new(Reason::Internal, "the server could not do it; its log says why");
            if kind.only_reads() {
                refusal
            } else {
                refusal.outcome(Outcome::Unknown)
            }
        })
    }

    /// The same for work that may be refused.
    ///
    /// # Errors
    /// As [`Blocking::run`], and those of `work`.
    pub async fn attempt<T: Send + 'static>(
        &self,
        kind: Share,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let result = self.run(kind, work).await?;
        result.map_err(|refusal| {
            if kind.only_reads() {
                refusal.outcome(Outcome::None)
            } else {
                refusal
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_only_reads_stores_nothing_when_it_fails() {
        let fails = || Err(Refusal::new(Reason::Internal, "").outcome(Outcome::Unknown));
        for (kind, outcome) in [
            (Share::Read, Outcome::None),
            (Share::Search, Outcome::None),
            (Share::Inflate, Outcome::None),
            (Share::Report, Outcome::None),
            (Share::Change, Outcome::Unknown),
        ] {
            let refused = Blocking::default().attempt::<()>(kind, fails).await.unwrap_err();
            assert_eq!(refused.outcome, outcome, "{kind:?}");
            let answer = Blocking::default().run(kind, || panic!("on purpose")).await;
            let panicked = answer.unwrap_err();
            assert_eq!(panicked.outcome, outcome, "{kind:?}");
        }
    }
}
