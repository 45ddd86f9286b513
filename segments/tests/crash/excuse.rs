//! Which errors are allowed: each must be explained by a planned fault, and by its place.

use quipu_segments::Error;
use quipu_segments::sim::{FaultError, IoKind};

use super::Driver;

impl Driver {
    /// How many calls have failed in this run of the machine, to be able to ask later about the calls after them.
    pub(super) fn failures_so_far(&self) -> usize {
        self.disk.failed_calls() as usize
    }

    /// Checks that `error` is allowed for an operation that began after `since` failures.
    #[track_caller]
    pub(super) fn check_failure(&self, operation: &str, error: &Error, since: usize) {
        say!(self, "{operation} fails: {error}");
        assert!(self.explains(error, since), "{operation}: {error}");
    }

    /// Whether `error` is allowed for an operation that began after `since` failures.
    pub(super) fn explains(&self, error: &Error, since: usize) -> bool {
        if self.disk.is_off() {
            return true;
        }
        let failures = self.disk.failures();
        let new = &failures[since..];
        // Only failures of these files end all appends, or a failed segment sync for which every journal file is kept.
        let of_the_log = |path: &str| {
            ["/journal", "/checkpoint.", "/state."]
                .iter()
                .any(|part| path.contains(part))
        };
        match error {
            Error::StorageFull => self.full || new.iter().any(|failed| failed.error == FaultError::Full),
            Error::Overloaded { .. } => new.iter().any(|failed| failed.path.contains("/topics/")),
            Error::PartitionFailed(_) => failures.iter().any(|failed| failed.path.contains("/topics/")),
            Error::KeysFailed(_) => failures
                .iter()
                .any(|failed| failed.path.contains("/topics/__keys")),
            Error::LogFailed { reason, .. } => {
                failures.iter().any(|failed| of_the_log(&failed.path))
                    || reason.contains("all journal files are kept")
                        && failures.iter().any(|failed| {
                            failed.path.contains("/topics/")
                                && matches!(failed.kind, IoKind::Sync | IoKind::SyncDir | IoKind::Open)
                        })
            }
            // After a failed sync of a directory it is unknown until a restart which names are durable.
            Error::Io { source, .. } if source.to_string().contains("an earlier sync of") => {
                failures.iter().any(|failed| failed.kind == IoKind::SyncDir)
            }
            Error::Io { .. } => !new.is_empty(),
            // An earlier attempt may have left something in the way.
            Error::Directory(_) => !failures.is_empty(),
            _ => false,
        }
    }

    /// What the log reports about its health must be explained, too.
    pub(super) fn check_health(&self) {
        if self.disk.is_off() {
            return;
        }
        let health = self.log().health();
        assert!(
            health.damage.is_empty(),
            "nothing is damaged: {:?}",
            health.damage
        );
        let failures = self.disk.failures();
        for (partition, reason) in &health.failed_partitions {
            let topic = partition.split('/').next().unwrap_or_default();
            let dir = format!("/topics/{topic}");
            assert!(
                failures.iter().any(|failed| failed.path.contains(&dir)),
                "{partition} takes no appends ({reason}), and nothing of it has failed: {failures:?}"
            );
        }
        if let Some(reason) = &health.log_failed {
            let error = Error::LogFailed {
                reason: reason.clone(),
                in_flight: false,
            };
            assert!(self.explains(&error, failures.len()), "{reason}: {failures:?}");
        }
    }
}
