//! The quipu binary: a server and its clients, by subcommand.

mod cli;

use std::process::ExitCode;

// The service allocates and frees buffers of every size on all threads; mimalloc keeps that cheap and gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
