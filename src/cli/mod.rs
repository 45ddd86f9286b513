//! The command line: one file or folder a command, and the only place with `anyhow`.
//!
//! A command ends with 0, or with 1 and one clear line on standard error; wrong usage ends with 2. A closed pipe on
//! standard output is a clean end: its reader has had enough.

#![allow(
    clippy::disallowed_methods,
    reason = "clients run on the real clock and read the user's own files; the seams are the engine's"
)]

mod api;
mod bench;
mod client;
mod completions;
mod connect;
mod consume;
mod damage;
mod deliver;
mod demo;
mod failure;
mod group;
mod group_move;
mod history;
mod input;
mod inspect;
mod lag;
mod lag_watch;
mod output;
mod position;
mod produce;
mod replay;
mod route;
mod serve;
mod shape;
mod signal;
mod sse;
mod stdout;
mod stream;
mod topic;
mod trend;
mod verify;

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// A partitioned, append-only event log that you talk to over HTTP.
#[derive(Debug, Parser)]
#[command(name = "quipu", version, about, max_term_width = 110)]
struct Cli {
    /// Also here, so that they may stand before the subcommand; each command that talks to a server has its own.
    #[command(flatten)]
    _connect: connect::Connect,
    #[command(flatten)]
    _output: output::Output,
    #[command(subcommand)]
    command: Command,
}

/// What to do; one variant a command.
#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the service
    Serve(serve::Args),
    /// Starts a server with bundled flight events and tells what it does with them
    Demo(demo::Args),
    /// Creates, lists, describes, changes, trims and deletes topics
    Topic(topic::Args),
    /// Appends NDJSON records from a file or standard input, each once, even when the connection breaks
    Produce(produce::Args),
    /// Prints records, and with a group remembers how far
    Consume(consume::Args),
    /// Prints a stretch of history again, at its own pace times X, or sends it to a topic or an address
    Replay(replay::Args),
    /// Lists, describes, moves and deletes consumer groups
    Group(group::Args),
    /// Shows how far groups are behind, the worst first
    Lag(lag::Args),
    /// Puts load on a server and measures how long its answers take
    Bench(bench::Args),
    /// Checks every byte of a data directory, offline, and repairs what loses nothing
    Verify(verify::Args),
    /// Prints what a segment, an index or a journal file has in it, offline
    Inspect(inspect::Args),
    /// Names servers, so that --context NAME stands for address and token
    Context(connect::Args),
    /// Prints a completion script for a shell
    Completions(completions::Args),
    #[command(hide = true)]
    Complete(completions::Words),
}

/// Commands that talk to no server, or to one of their own: the help of these does not show how to choose one.
const OFFLINE: [&str; 6] = ["serve", "demo", "verify", "inspect", "completions", "complete"];

/// The parser of the command line.
fn command() -> clap::Command {
    let command = Cli::command();
    let flags: Vec<clap::Arg> = command
        .get_arguments()
        .map(|flag| flag.clone().hide(true))
        .collect();
    let mut command = OFFLINE.iter().fold(command, |command, name| {
        command.mut_subcommand(*name, |subcommand| {
            // A subcommand's own flag of that name stays as it is.
            let own: Vec<clap::Id> = subcommand
                .get_arguments()
                .map(|arg| arg.get_id().clone())
                .collect();
            subcommand.args(flags.iter().filter(|flag| !own.contains(flag.get_id())))
        })
    });
    // Hands the flags that are left down to the other subcommands.
    command.build();
    command
}

/// Runs the command that the process was started with.
pub(crate) fn run() -> ExitCode {
    match Cli::from_arg_matches(&command().get_matches()) {
        Ok(cli) => end(cli.command.run()),
        Err(error) => error.exit(),
    }
}

/// Wrong usage that shows only when all flags are seen together: ends with 2, as clap's own errors do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

impl Command {
    /// Runs the command to its end.
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Serve(args) => serve::run(args),
            Self::Demo(args) => demo::run(args),
            Self::Topic(args) => topic::run(args),
            Self::Produce(args) => produce::run(args),
            Self::Consume(args) => consume::run(args),
            Self::Replay(args) => replay::run(args),
            Self::Group(args) => group::run(args),
            Self::Lag(args) => lag::run(args),
            Self::Verify(args) => verify::run(args),
            Self::Bench(args) => bench::run(args),
            Self::Inspect(args) => inspect::run(args),
            Self::Context(args) => connect::run(args),
            Self::Completions(args) => completions::run(&args, command()),
            Self::Complete(words) => completions::complete(&words, &command()),
        }
    }
}

/// Turns a command's result into the process's exit code, with the one line that says what went wrong.
fn end(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed too; there is then nobody to tell.
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("quipu: {}\n", one_line(&error)));
            if error.is::<Usage>() {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// The error and what it came from; a cause that the text already says is not said again.
fn one_line(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| {
        let cause = cause.to_string();
        match text.as_str() {
            "" => cause,
            said if said.contains(&cause) => text,
            _ => format!("{text}: {cause}"),
        }
    })
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
