//! The command line: one file or folder a command, and the only place with `anyhow`.
//!
//! A command ends with 0, or with 1 and one clear line on standard error; wrong usage ends with 2. A closed pipe on
//! standard output is a clean end: its reader has had enough.

#![allow(clippy::disallowed_methods, reason = "clients use the real clock and files")]

mod api;
mod backup;
mod bench;
mod client;
mod completions;
mod connect;
mod consume;
mod damage;
mod deliver;
mod demo;
mod failure;
mod files;
mod group;
mod group_move;
mod group_reset;
mod health;
mod history;
mod input;
mod inspect;
mod lag;
mod logging;
mod man;
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
mod token;
mod topic;
mod transfer;
mod trust;
mod verify;

use std::io;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::connect::Connect;
use self::output::Output;

const EXAMPLES: &str = "Examples:
  quipu demo
  quipu serve --data quipu-data
  quipu topic create orders --partitions 6
  quipu consume orders --group billing --follow";

/// A partitioned, append-only event log that you talk to over HTTP.
#[derive(Debug, Parser)]
#[command(name = "quipu", version, about, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

/// What to do; one variant a command.
#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the service
    Serve(serve::Args),
    /// Starts a server, loads bundled flight events, and explains each step
    Demo(demo::Args),
    /// Creates, lists, describes, changes, trims and deletes topics
    #[command(subcommand, after_help = topic::EXAMPLES)]
    Topic(topic::Action),
    /// Appends NDJSON records from a file or standard input, each once, even when the connection breaks
    Produce(produce::Args),
    /// Prints records; with --group, commits how far it has printed
    Consume(consume::Args),
    /// Prints past records, or sends them to a topic or an address, as fast as possible or at X times the original pace
    Replay(replay::Args),
    /// Lists, describes, moves and deletes consumer groups
    #[command(subcommand, after_help = group::EXAMPLES)]
    Group(group::Action),
    /// Makes, lists, rotates and revokes the tokens that programs sign in with
    #[command(subcommand, after_help = token::EXAMPLES)]
    Token(token::Action),
    /// Shows how far groups are behind, the worst first
    Lag(lag::Args),
    /// Puts load on a server and measures how long its answers take
    #[command(subcommand, after_help = bench::EXAMPLES)]
    Bench(bench::Action),
    /// Has the server copy its data below its backup_dir, and waits until that is done
    Backup(backup::Args),
    /// Makes a data directory of a backup, offline
    Restore(backup::RestoreArgs),
    /// Writes topics with their records and groups' offsets to standard output
    Export(transfer::ExportArgs),
    /// Makes on a server what a file of `quipu export` has; can be repeated
    Import(transfer::ImportArgs),
    /// Asks the server whether it is ready: ends with 0 if it is
    Health(health::Args),
    /// Checks every byte of a data directory, offline; with --repair, makes the repairs that lose no records
    Verify(verify::Args),
    /// Prints the contents of a segment, an index or a journal file, offline
    Inspect(inspect::Args),
    /// Names servers, so that --context NAME stands for address and token
    #[command(subcommand, after_help = connect::EXAMPLES)]
    Context(connect::Action),
    /// Prints a completion script for a shell
    Completions(completions::Args),
    #[command(hide = true)]
    Complete(completions::Words),
    /// Writes the man pages
    #[command(hide = true)]
    Man(man::Args),
}

/// Commands that use no server, or start their own: they take no flags that choose a server, and their help hides them.
const OFFLINE: [&str; 8] = [
    "serve",
    "demo",
    "restore",
    "verify",
    "inspect",
    "completions",
    "complete",
    "man",
];

/// Whether a command takes this flag of [`Connect`] or [`Output`].
fn takes(command: &str, flag: &str) -> bool {
    let prints_results = ["restore", "verify", "inspect"].contains(&command);
    !OFFLINE.contains(&command) || (prints_results && flag == "output")
}

/// The parser of the command line. The flags of [`Connect`] and [`Output`] may stand before or after any subcommand.
fn command() -> clap::Command {
    let mut command = unbuilt();
    // Hands the flags down to the other subcommands.
    command.build();
    command
}

/// The same before the flags are handed down to all subcommands.
fn unbuilt() -> clap::Command {
    let command = Cli::command();
    let flags: Vec<clap::Arg> = command.get_arguments().cloned().collect();
    OFFLINE.iter().fold(command, |command, name| {
        let hidden = flags.iter().filter(|flag| !takes(name, flag.get_id().as_str()));
        command.mut_subcommand(*name, |subcommand| {
            subcommand.args(hidden.map(|flag| flag.clone().hide(true)))
        })
    })
}

/// Runs the command that the process was started with.
pub(crate) fn run() -> ExitCode {
    let matches = command().get_matches();
    match Cli::from_arg_matches(&matches) {
        Ok(cli) => end(check(&matches).and_then(|()| cli.run())),
        Err(error) => error.exit(),
    }
}

/// Refuses a flag that was given to a command that does not take it.
fn check(matches: &ArgMatches) -> anyhow::Result<()> {
    let name = matches.subcommand_name().unwrap_or_default();
    for flag in ["server", "token", "context", "output"] {
        if !takes(name, flag) && matches.value_source(flag) == Some(ValueSource::CommandLine) {
            return Err(Usage(format!("quipu {name} takes no --{flag}; leave it out")).into());
        }
    }
    Ok(())
}

/// Wrong usage that shows only when all flags are seen together: ends with 2, as clap's own errors do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

impl Usage {
    pub(crate) fn of(text: &str) -> anyhow::Error {
        Self(text.to_owned()).into()
    }
}

impl Cli {
    /// Runs the command to its end.
    fn run(self) -> anyhow::Result<()> {
        let (connect, is_json) = (self.connect, self.output.is_json());
        match self.command {
            Command::Serve(args) => serve::run(args),
            Command::Demo(args) => demo::run(args),
            Command::Topic(action) => topic::run(action, &connect, is_json),
            Command::Produce(args) => produce::run(args, &connect, is_json),
            Command::Consume(args) => consume::run(args, &connect),
            Command::Replay(args) => replay::run(args, &connect, is_json),
            Command::Group(action) => group::run(action, &connect, is_json),
            Command::Token(action) => token::run(action, &connect, is_json),
            Command::Lag(args) => lag::run(args, &connect, is_json),
            Command::Bench(action) => bench::run(action, &connect, is_json),
            Command::Backup(args) => backup::run(&args, &connect, is_json),
            Command::Restore(args) => backup::restore(&args, is_json),
            Command::Export(args) => transfer::export(&args, &connect),
            Command::Import(args) => transfer::import(&args, &connect, is_json),
            Command::Health(args) => health::run(&args, &connect, is_json),
            Command::Verify(args) => verify::run(args, is_json),
            Command::Inspect(args) => inspect::run(args, is_json),
            Command::Context(action) => connect::run(action, connect, is_json),
            Command::Completions(args) => completions::run(&args, command()),
            Command::Complete(words) => completions::complete(&words, &command()),
            Command::Man(args) => man::run(&args, unbuilt()),
        }
    }
}

/// Turns a command's result into the process's exit code, with the one line that says what went wrong.
fn end(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Err(error) if !is_closed_pipe(&error) => {
            output::note(one_line(&error));
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
        _ => ExitCode::SUCCESS,
    }
}

/// The error and its causes; a cause whose text is already there is left out.
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
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
