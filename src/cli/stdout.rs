//! Standard output for records: a reader that stops reading does not delay Ctrl-C.
//!
//! A separate thread writes. The caller waits for it and checks the [`Interrupt`] meanwhile; after a signal it waits at
//! most [`GRACE`], because a write to a pipe that nobody reads never ends.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::output::named;
use super::signal::{Interrupt, Stop, spawn};

/// How often the interrupt is checked.
const LOOK: Duration = Duration::from_millis(20);
/// How long a write may go on after a signal.
const GRACE: Duration = Duration::from_secs(1);

/// Writes to standard output.
pub(crate) struct Stdout {
    writes: SyncSender<Vec<u8>>,
    /// The result of each write.
    written: Receiver<io::Result<()>>,
    interrupt: Interrupt,
}

impl Stdout {
    /// Starts the writer.
    /// Errors: The system refuses a thread.
    pub(crate) fn new(interrupt: &Interrupt) -> io::Result<Self> {
        let (writes, todo) = sync_channel::<Vec<u8>>(1);
        let (done, written) = sync_channel(1);
        let run = move || {
            let mut out = io::stdout().lock();
            while let Ok(bytes) = todo.recv() {
                let result = out.write_all(&bytes).and_then(|()| out.flush());
                if done.send(result).is_err() {
                    return;
                }
            }
        };
        spawn("print", run)?;
        Ok(Self {
            writes,
            written,
            interrupt: interrupt.clone(),
        })
    }

    /// Writes `bytes`; false if it was interrupted before the reader had taken them.
    /// Errors: Standard output is closed or full.
    pub(crate) fn write(&self, bytes: Vec<u8>) -> io::Result<bool> {
        if bytes.is_empty() {
            return Ok(true);
        }
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        self.writes.send(bytes).map_err(|_| gone())?;
        let mut end = None;
        loop {
            match self.written.recv_timeout(LOOK) {
                Ok(result) => return result.map(|()| true).map_err(named),
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
                Err(RecvTimeoutError::Timeout) if self.interrupt.get() == Some(Stop::Asked) => {
                    if Instant::now() >= *end.get_or_insert_with(|| Instant::now() + GRACE) {
                        return Ok(false);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}
