//! The demo's output: headings, sentences and commands to paste; with colours and pauses on a terminal only.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use crate::cli::output::colours;
use crate::cli::signal::Interrupt;

/// Tells the story on standard output.
#[derive(Debug)]
pub(crate) struct Narrator {
    colours: bool,
    /// Set if there is a pause after each step; it ends a pause early.
    pub(crate) pauses: Option<Interrupt>,
    steps: Cell<u32>,
}

/// The pause after a step.
const PAUSE: Duration = Duration::from_secs(4);

impl Narrator {
    /// A narrator with colours if standard output takes them. With `pauses` it pauses after each step.
    pub(crate) fn new(pauses: Option<Interrupt>) -> Self {
        Self {
            colours: colours(),
            pauses,
            steps: Cell::new(0),
        }
    }

    /// The first line.
    pub(crate) fn title(&self, text: impl fmt::Display) -> io::Result<()> {
        self.print(format_args!("{}\n", self.paint("1", text)))
    }

    /// The last line.
    pub(crate) fn closing(&self, text: impl fmt::Display) -> io::Result<()> {
        self.print(format_args!("\n{}\n", self.paint("1", text)))
    }

    /// Begins the next step.
    pub(crate) fn step(&self, title: impl fmt::Display) -> io::Result<()> {
        if let Some(interrupt) = self.pauses.as_ref().filter(|_| self.steps.get() > 0) {
            interrupt.wait(PAUSE);
        }
        let number = self.steps.get() + 1;
        self.steps.set(number);
        let title = self.paint("1", format_args!("{number}. {title}"));
        self.print(format_args!("\n{title}\n"))
    }

    /// A sentence.
    pub(crate) fn say(&self, text: impl fmt::Display) -> io::Result<()> {
        for line in text.to_string().lines() {
            self.print(format_args!("   {line}\n"))?;
        }
        Ok(())
    }

    /// Something that was checked and holds.
    pub(crate) fn check(&self, text: impl fmt::Display) -> io::Result<()> {
        self.print(format_args!("   {} {text}\n", self.paint("32", "✓")))
    }

    /// A command to paste into another terminal; starts at the margin, so that it is selected without blanks.
    pub(crate) fn command(&self, text: impl fmt::Display) -> io::Result<()> {
        self.print(format_args!("{}\n", self.paint("36", text)))
    }

    /// A line of data as it came.
    pub(crate) fn data(&self, line: &[u8]) -> io::Result<()> {
        let text = String::from_utf8_lossy(line);
        self.print(format_args!("   {}\n", self.paint("2", text.trim_end())))
    }

    fn print(&self, text: fmt::Arguments<'_>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_fmt(text)?;
        out.flush()
    }

    fn paint(&self, code: &str, text: impl fmt::Display) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }
}
