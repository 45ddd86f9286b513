//! The command line: one file a command, and the only place with `anyhow`.
//!
//! A command ends with 0, or with 1 and one clear line on standard error; wrong usage ends with 2 (clap's). A closed
//! pipe on standard output is a clean end: whoever read it has had enough.

mod serve;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A partitioned, append-only event log that you talk to over HTTP.
#[derive(Debug, Parser)]
#[command(name = "quipu", version, about, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do; one variant a command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the service
    Serve(serve::Args),
}

impl Command {
    /// Runs the command to its end.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Serve(args) => serve::run(args),
        }
    }
}

/// Turns a command's result into the process's exit code, with the one line that says what went wrong.
pub(crate) fn end(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed too; there is then nobody to tell.
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("quipu: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
