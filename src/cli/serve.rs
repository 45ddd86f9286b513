//! `quipu serve`: runs the service until it is told to stop.

/// The settings, as flags.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the service.
pub(crate) fn run(_args: Args) -> anyhow::Result<()> {
    Ok(())
}
