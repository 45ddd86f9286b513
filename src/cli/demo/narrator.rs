//! The demo's voice: headings, sentences and commands to paste, coloured on a terminal only.

use std::fmt;
use std::io::{self, Write};

use super::super::output::colours;

/// Tells the story on standard output.
#[derive(Debug)]
pub(crate) struct Narrator {
    colours: bool,
    steps: u32,
}

impl Narrator {
    /// One that knows whether standard output takes colours.
    pub(crate) fn new() -> Self {
        Self {
            colours: colours(),
            steps: 0,
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
    pub(crate) fn step(&mut self, title: impl fmt::Display) -> io::Result<()> {
        self.steps += 1;
        let number = self.steps;
        self.print(format_args!(
            "\n{}\n",
            self.paint("1", format_args!("{number}. {title}"))
        ))
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

    /// An empty line.
    pub(crate) fn gap(&self) -> io::Result<()> {
        self.print(format_args!("\n"))
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
