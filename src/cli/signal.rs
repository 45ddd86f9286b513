//! When a long command should stop: Ctrl-C, SIGTERM, or nobody reading standard output any more.
//!
//! Two threads wait for these and set a flag that the command looks at between its steps, so what was begun is
//! finished: a request gets its answer, a printed record its commit. A second Ctrl-C does not wait (exit 130).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Why to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Ctrl-C or SIGTERM.
    Asked,
    /// The reader of standard output is gone.
    Unread,
}

/// The flag; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<(Mutex<Option<Stop>>, Condvar)>);

impl Interrupt {
    /// Begins to watch; from now on Ctrl-C no longer ends the process by itself.
    ///
    /// # Errors
    /// The system refuses a thread or a signal handler.
    pub(crate) fn watch() -> io::Result<Self> {
        let interrupt = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (asked, ended) = {
            let _context = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let watcher = interrupt.clone();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(watcher.run(asked, ended)))?;
        let watcher = interrupt.clone();
        std::thread::Builder::new()
            .name("stdout".to_owned())
            .spawn(move || {
                if wait_until_unread().is_ok() {
                    watcher.set(Stop::Unread);
                }
            })?;
        Ok(interrupt)
    }

    /// Why to stop, if there is a reason.
    pub(crate) fn get(&self) -> Option<Stop> {
        *self.0.0.lock()
    }

    /// Waits for a reason to stop, no longer than `limit`.
    pub(crate) fn wait(&self, limit: Duration) -> Option<Stop> {
        let mut stop = self.0.0.lock();
        self.0.1.wait_while_for(&mut stop, |stop| stop.is_none(), limit);
        *stop
    }

    /// Waits for a reason to stop, however long that takes.
    pub(crate) fn wait_for_ever(&self) -> Stop {
        let mut stop = self.0.0.lock();
        loop {
            if let Some(stop) = *stop {
                return stop;
            }
            self.0.1.wait(&mut stop);
        }
    }

    /// Says that the command should stop; the first reason counts.
    pub(crate) fn set(&self, reason: Stop) {
        self.0.0.lock().get_or_insert(reason);
        self.0.1.notify_all();
    }

    async fn run(self, mut asked: Signal, mut ended: Signal) {
        tokio::select! {
            _ = asked.recv() => {}
            _ = ended.recv() => {}
        }
        self.set(Stop::Asked);
        tokio::select! {
            _ = asked.recv() => {}
            _ = ended.recv() => {}
        }
        std::process::exit(130);
    }
}

/// Returns when standard output is a pipe and its reader has gone; waits for ever at a file.
///
/// A writer that has nothing to write would never learn it: `quipu consume --follow | head -1` must end.
fn wait_until_unread() -> Result<(), Errno> {
    let output = io::stdout();
    loop {
        // Errors and hang-ups are always told; nothing else is asked for.
        let mut output = [PollFd::new(&output, PollFlags::empty())];
        match poll(&mut output, None) {
            Ok(_) if output[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => return Ok(()),
            Ok(_) => return Err(Errno::INVAL),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
