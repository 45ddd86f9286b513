//! Standard output for records, where a reader that does not read holds up neither Ctrl-C nor the end.
//!
//! A thread of its own writes. Whoever prints waits for it, looks at the [`Interrupt`] meanwhile, and after a signal waits
//! no longer than [`GRACE`]: a pipe that nobody empties would take a write for ever.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::output::named;
use super::signal::{Interrupt, Stop, spawn};

/// How often the interrupt is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long a write may go on after a signal.
const GRACE: Duration = Duration::from_secs(1);

/// The way to standard output.
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

    /// Writes all of it; false if it was interrupted and the reader has not taken it.
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
