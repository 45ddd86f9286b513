//! Planned faults: I/O calls are counted, some fail, and the machine stops at one of them.

use std::collections::BTreeMap;
use std::io;

/// The kinds of I/O calls that are counted and can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IoKind {
    /// Opening a file that exists.
    Open,
    /// Making a file or a directory.
    Create,
    /// Reading a file, or populating a mapping.
    Read,
    /// Writing a file.
    Write,
    /// Syncing a file.
    Sync,
    /// Cutting or extending a file.
    SetLen,
    /// Renaming a file or a directory.
    Rename,
    /// Removing a file or a directory.
    Remove,
    /// Syncing a directory.
    SyncDir,
    /// Listing, looking for a name, asking for a length, mapping, locking.
    Look,
}

/// How a failing call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// EIO: the medium failed.
    Io,
    /// ENOSPC: no space is left.
    Full,
    /// EMFILE: the limit of open files is reached.
    Handles,
}

impl FaultError {
    pub(super) fn error(self) -> io::Error {
        match self {
            Self::Io => rustix::io::Errno::IO.into(),
            Self::Full => rustix::io::Errno::NOSPC.into(),
            Self::Handles => rustix::io::Errno::MFILE.into(),
        }
    }
}

/// A call that fails.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which kind of call.
    pub kind: IoKind,
    /// Only calls whose path contains this.
    pub path_contains: Option<String>,
    /// How many such calls still succeed.
    pub after: u64,
    /// How it fails.
    pub error: FaultError,
    /// Whether all later ones fail too.
    pub onwards: bool,
}

impl Fault {
    /// The `after + 1`st call of the kind fails with EIO, once.
    pub const fn once(kind: IoKind, after: u64) -> Self {
        Self {
            kind,
            path_contains: None,
            after,
            error: FaultError::Io,
            onwards: false,
        }
    }

    /// The same, with another error.
    #[must_use]
    pub const fn with(mut self, error: FaultError) -> Self {
        self.error = error;
        self
    }

    /// The same, and all later calls too.
    #[must_use]
    pub const fn onwards(mut self) -> Self {
        self.onwards = true;
        self
    }

    /// The same, only of files and directories whose path contains `text`.
    #[must_use]
    pub fn on(mut self, text: &str) -> Self {
        self.path_contains = Some(text.to_owned());
        self
    }
}

/// A call that has failed as planned.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Which kind of call.
    pub kind: IoKind,
    /// The path of the file or directory.
    pub path: String,
    /// How.
    pub error: FaultError,
}

/// A sync that reports success and does nothing: to check that the tests notice a missing sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Every sync of a file whose path contains this.
    Sync(String),
    /// The first sync of a directory after a rename in or out of it.
    SyncDirAfterRename,
}

/// What happens to a call.
pub(super) enum Verdict {
    Go,
    Fail(FaultError),
    /// The machine stops in this call, which may still be done.
    Stop,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) off: bool,
    pub(super) calls: u64,
    pub(super) by_kind: BTreeMap<IoKind, u64>,
    pub(super) stop_at: Option<u64>,
    pub(super) planned: Vec<Fault>,
    /// While it is set, planned failures do not happen; a planned stop still does.
    pub(super) paused: bool,
    pub(super) failed: Vec<Failed>,
}

impl Faults {
    pub(super) fn begin(&mut self, kind: IoKind, path: &str) -> io::Result<Verdict> {
        if self.off {
            return Err(io::Error::other("the simulated machine is off"));
        }
        self.calls += 1;
        *self.by_kind.entry(kind).or_default() += 1;
        if self.stop_at == Some(self.calls) {
            self.off = true;
            return Ok(Verdict::Stop);
        }
        if self.paused || self.planned.is_empty() {
            return Ok(Verdict::Go);
        }
        let mut failing = None;
        self.planned.retain_mut(|fault| {
            if fault.kind != kind
                || !fault
                    .path_contains
                    .as_ref()
                    .is_none_or(|part| path.contains(part))
            {
                return true;
            }
            if fault.after > 0 {
                fault.after -= 1;
                return true;
            }
            failing = Some(fault.error);
            fault.onwards
        });
        Ok(match failing {
            Some(error) => {
                let path = path.to_owned();
                self.failed.push(Failed { kind, path, error });
                Verdict::Fail(error)
            }
            None => Verdict::Go,
        })
    }

    pub(super) fn stopped() -> io::Error {
        io::Error::other("the simulated machine stopped in this call")
    }
}
