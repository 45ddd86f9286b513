//! Says what a test leaves out because something is missing on this machine.

use std::io::Write as _;

/// Prints `skipped: ` and what is left out and why, past the test harness, which keeps what passing tests print.
pub(crate) fn skipped(what: &str) {
    // In one write, so that lines of tests that run at the same time do not mix.
    let _ = std::io::stderr().write_all(format!("skipped: {what}\n").as_bytes());
}
