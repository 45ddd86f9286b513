//! When a long command should stop: Ctrl-C, SIGTERM, SIGHUP, or the reader of standard output is gone.
//!
//! Two threads wait for these and set a flag. The command checks the flag between its steps, so it finishes each step
//! that it began: a request gets its answer, a printed record its commit. Ctrl-C after that does not wait (exit 130).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The name of the signal that is sent when the terminal closes.
pub(crate) const HANGUP: &str = "SIGHUP";
/// The name of the signal of Ctrl-C.
const INTERRUPT: &str = "SIGINT";

/// Why to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Ctrl-C, SIGTERM, or SIGHUP.
    Asked,
    /// The reader of standard output is gone.
    Unread,
}

/// The flag; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<(Mutex<Option<Stop>>, Condvar)>);

impl Interrupt {
    /// Begins to watch; from now on Ctrl-C no longer ends the process by itself.
    /// Errors: The system refuses a thread or a signal handler.
    pub(crate) fn watch() -> io::Result<Self> {
        let interrupt = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let signals = {
            let _context = runtime.enter();
            Signals::listen()?
        };
        let watcher = interrupt.clone();
        spawn("signals", move || runtime.block_on(watcher.run(signals)))?;
        let watcher = interrupt.clone();
        spawn("stdout", move || {
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
        self.0.1.wait_while(&mut stop, |stop| stop.is_none());
        stop.unwrap_or(Stop::Asked)
    }

    /// Says that the command should stop; the first reason counts.
    pub(crate) fn set(&self, reason: Stop) {
        self.0.0.lock().get_or_insert(reason);
        self.0.1.notify_all();
    }

    async fn run(self, mut signals: Signals) {
        signals.next().await;
        self.set(Stop::Asked);
        signals.interrupted().await;
        std::process::exit(130);
    }
}

/// Starts a thread under a name.
pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map(drop)
}

/// The signals that ask a process to stop; from now on none of them ends it by itself.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Sent when the terminal closes. `None` if the process was started with it ignored, as `nohup` does.
    hangup: Option<Signal>,
}

impl Signals {
    /// Begins to listen, on the runtime that this is called on.
    /// Errors: The system refuses a signal handler.
    pub(crate) fn listen() -> io::Result<Self> {
        let is_kept = !ignores_hangup();
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: is_kept.then(|| signal(SignalKind::hangup())).transpose()?,
        })
    }

    /// Waits for a further Ctrl-C: somebody does not want to wait. Other signals may come twice for one wish to stop, as
    /// SIGTERM does from `timeout`, and SIGHUP when a terminal closes.
    pub(crate) async fn interrupted(&mut self) {
        while self.next().await != INTERRUPT {}
    }

    /// Waits for the next signal; returns its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPT,
            _ = self.terminate.recv() => "SIGTERM",
            _ = hangup => HANGUP,
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "procfs is no storage")]
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The lowest bit is the signal 1, SIGHUP.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

/// Returns when standard output is a pipe and its reader is gone; for a file it never returns.
///
/// A command with nothing to write would not notice that otherwise, and `quipu consume --follow | head -1` must end.
fn wait_until_unread() -> Result<(), Errno> {
    let output = io::stdout();
    loop {
        // Errors and hang-ups are always reported; no other event is requested.
        let mut output = [PollFd::new(&output, PollFlags::empty())];
        match poll(&mut output, None) {
            Ok(_) if output[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => return Ok(()),
            Ok(_) => return Err(Errno::INVAL),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
