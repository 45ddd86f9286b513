//! How a log is opened.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::journal::format::Round;
use crate::journal::replay::Decode;

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Length of each journal file in bytes. It must hold the largest request. Default: 64 MiB.
    pub journal_file_bytes: u64,
    /// Length of the very first journal file, if that is less than `journal_file_bytes`: a new log opens as soon as this
    /// file is written, and the others are made meanwhile. A multiple of 4096, at least 64 KiB. Default: 4 MiB.
    pub first_journal_file_bytes: u64,
    /// Number of journal files, at least 2: one is written while another's segments are synced. Default: 3.
    pub journal_files: u32,
    /// The largest request, in bytes of record batch format. Default: 33 MiB.
    pub max_request_bytes: usize,
    /// Bytes of waiting requests above which more are refused as overloaded. Default: 64 MiB.
    pub queue_bytes: u64,
    /// The most memory for idempotency keys, in bytes. When it is full, requests with new keys are refused until some
    /// keys have expired. Default: 256 MiB, some 1.3 million keys of 40 bytes, whose records are read in one to two
    /// seconds when the log is opened.
    pub key_bytes: u64,
    /// The most segments that are mapped at once. Default: 4,096.
    pub max_open_segments: usize,
    /// The most segment files open for writing at once; `None` (default): half of the process's limit on open files.
    pub max_open_files: Option<usize>,
    /// How often retention looks for segments to delete. Default: 30 s.
    pub retention_interval: Duration,
    /// How long written segments may wait for their sync on a quiet log (a restart replays them). Default: 10 s.
    pub checkpoint_interval: Duration,
    /// Whether the log runs threads of its own: the committer and the syncer. Without them the caller must call
    /// [`Log::run_round`](crate::Log::run_round), [`Log::sync_segments`](crate::Log::sync_segments) and
    /// [`Log::apply_retention`](crate::Log::apply_retention). Default: `true`.
    pub background: bool,
    /// The size in bytes from which the keys' partition is shortened; its segments have half of that. `None`: 8 MiB.
    #[cfg(feature = "simulation")]
    pub key_log_bytes: Option<u64>,
    /// Makes the committer look up no keys, so that requests are appended twice: to prove that the crash tests notice.
    #[cfg(feature = "simulation")]
    pub ignore_keys: bool,
    /// Makes the committer remember keys in memory only: to prove that the crash tests notice.
    #[cfg(feature = "simulation")]
    pub lose_keys: bool,
    /// Makes recovery accept the journal's rounds without checking their checksums, so that records are lost: to prove
    /// that the crash tests notice.
    #[cfg(feature = "simulation")]
    pub trust_torn_rounds: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            journal_file_bytes: 64 << 20,
            first_journal_file_bytes: 4 << 20,
            journal_files: 3,
            max_request_bytes: 33 << 20,
            queue_bytes: 64 << 20,
            key_bytes: 256 << 20,
            max_open_segments: 4096,
            max_open_files: None,
            retention_interval: Duration::from_secs(30),
            checkpoint_interval: Duration::from_secs(10),
            background: true,
            #[cfg(feature = "simulation")]
            key_log_bytes: None,
            #[cfg(feature = "simulation")]
            ignore_keys: false,
            #[cfg(feature = "simulation")]
            lose_keys: false,
            #[cfg(feature = "simulation")]
            trust_torn_rounds: false,
        }
    }
}

/// Room in a journal file beside the largest request: for its header, its end mark and the rounding to whole blocks.
const JOURNAL_SLACK_BYTES: u64 = 64 << 10;

impl Options {
    /// How recovery decodes a round of the journal.
    pub(crate) fn round_decoder(&self) -> Decode {
        #[cfg(feature = "simulation")]
        if self.trust_torn_rounds {
            return |bytes, _| Round::frame(bytes);
        }
        |bytes, sequence| Round::decode(bytes, sequence)
    }

    /// The size in bytes from which the keys' partition is shortened; `None`: the usual one.
    pub(crate) fn long_key_log_bytes(&self) -> Option<u64> {
        #[cfg(feature = "simulation")]
        return self.key_log_bytes;
        #[cfg(not(feature = "simulation"))]
        None
    }

    /// Offsets of the keys' partition that are counted together: few if a test makes it small; `None`: as usual.
    pub(crate) fn key_block_offsets(&self) -> Option<u64> {
        self.long_key_log_bytes().map(|_| 4)
    }

    /// Whether keys are looked up, and whether their entries are stored.
    pub(crate) fn key_precautions(&self) -> (bool, bool) {
        #[cfg(feature = "simulation")]
        return (!self.ignore_keys, !self.lose_keys);
        #[cfg(not(feature = "simulation"))]
        (true, true)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let needed = self.max_request_bytes as u64 + JOURNAL_SLACK_BYTES;
        if self.journal_file_bytes < needed {
            return Err(Error::Invalid(format!(
                "journal_file_bytes is {}, but the largest request needs {needed}",
                self.journal_file_bytes
            )));
        }
        let first = self.first_journal_file_bytes;
        if !first.is_multiple_of(4096) || first < JOURNAL_SLACK_BYTES {
            return Err(Error::Invalid(
                "first_journal_file_bytes must be a multiple of 4096, at least 64 KiB".into(),
            ));
        }
        if !self.journal_file_bytes.is_multiple_of(4096) || self.journal_file_bytes > u64::from(u32::MAX) {
            return Err(Error::Invalid(
                "journal_file_bytes must be a multiple of 4096, below 4 GiB".into(),
            ));
        }
        if self.journal_files < 2 {
            return Err(Error::Invalid("journal_files must be at least 2".into()));
        }
        Ok(())
    }
}
