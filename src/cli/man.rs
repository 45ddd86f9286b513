//! `quipu man DIR`: writes the man pages, one for each command. Hidden: packages are made with it.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the pages are written to, made if missing
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Writes `quipu.1`, `quipu-serve.1` and so on. Errors: the directory cannot be written to.
pub(crate) fn run(args: &Args, command: clap::Command) -> anyhow::Result<()> {
    let dir = args.dir.display();
    let cannot = || format!("cannot write man pages to {dir}");
    fs::create_dir_all(&args.dir).with_context(cannot)?;
    clap_mangen::generate_to(command, &args.dir).with_context(cannot)
}
