//! `quipu completions`: prints a completion script for a shell.

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;

/// What `quipu completions` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Does it.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "quipu", &mut script);
    let mut out = std::io::stdout().lock();
    std::io::Write::write_all(&mut out, &script)?;
    Ok(std::io::Write::flush(&mut out)?)
}
