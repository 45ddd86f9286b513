//! `quipu demo`: a server in this process, and a story told with it.
//!
//! Everything goes over HTTP, as a client's requests would, and steps show the command that does the same from another
//! terminal. On a terminal there is a pause after each step. With `--data` the story can be told again: records that are
//! stored stay, and are not stored twice.

mod flights;
mod narrator;
mod story;

use std::io::{self, IsTerminal};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use quipu::server::{self, ServeError, Server};
use quipu::settings::Config;
use tokio::runtime::Runtime;

use super::client::Client;
use super::signal::{Interrupt, Stop};
use narrator::Narrator;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quipu demo
  quipu demo --data demo-data --listen 127.0.0.1:7421")]
pub(crate) struct Args {
    /// Data directory, kept for the next time [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address to listen on [default: 127.0.0.1:7420, or a free port if that one is taken]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Let anybody reach an address beyond loopback, without TLS and without signing in
    #[arg(long)]
    insecure: bool,
    /// End after the story instead of serving on
    #[arg(long)]
    exit: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let interrupt = Interrupt::watch()?;
    let temporary;
    let data = match &args.data {
        Some(data) => data,
        None => {
            let made = TemporaryDirectory::make();
            temporary = made.context("cannot make a temporary directory; give --data DIR")?;
            &temporary.0
        }
    };
    let runtime = Runtime::new().context("cannot start the server's threads")?;
    let (server, taken) = start(&runtime, data, (args.listen, args.insecure))?;
    let result = tell(&server, data, args.data.is_none(), taken, args.exit, &interrupt);
    let stopped = runtime.block_on(server.shutdown());
    // If the user stopped the demo or closed its output, do not report a failure.
    match interrupt.get() {
        Some(Stop::Asked | Stop::Unread) => {}
        None => result?,
    }
    stopped.map_err(|error| anyhow!("{error}"))
}

/// Starts the server; also returns the default address if another process has it.
fn start(
    runtime: &Runtime,
    data: &Path,
    (listen, insecure): (Option<SocketAddr>, bool),
) -> anyhow::Result<(Server, Option<SocketAddr>)> {
    let mut config = Config {
        data: data.to_owned(),
        insecure,
        ..Config::default()
    };
    let default = config.listen;
    config.listen = listen.unwrap_or(default);
    let mut started = runtime.block_on(server::start(config.clone()));
    let mut taken = None;
    if let Err(ServeError::Listen { source, .. }) = &started
        && listen.is_none()
        && source.kind() == io::ErrorKind::AddrInUse
    {
        taken = Some(default);
        config.listen.set_port(0);
        started = runtime.block_on(server::start(config));
    }
    // The error's message already contains its cause.
    Ok((started.map_err(|error| anyhow!("{error}"))?, taken))
}

fn tell(
    server: &Server,
    data: &Path,
    temporary: bool,
    taken: Option<SocketAddr>,
    exit: bool,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let client = Client::new(&format!("http://{}", reachable(server.addr())), None)?;
    let pauses = (io::stdout().is_terminal() && !exit).then(|| interrupt.clone());
    let narrator = Narrator::new(pauses);
    narrator.title(format_args!("quipu demo: a server on {}", client.base()))?;
    if let Some(taken) = taken {
        narrator.say(format_args!(
            "({taken} is taken by another process, so this is a free port.)"
        ))?;
    }
    let fate = match temporary {
        true => "removed at the end; --data DIR keeps it",
        false => "kept for the next time",
    };
    narrator.say(format_args!("Data in {}, {fate}.", data.display()))?;
    story::tell(&client, narrator, interrupt)?;
    if exit || interrupt.get().is_some() {
        return Ok(());
    }
    Narrator::new(None).closing("Serving until Ctrl-C.")?;
    interrupt.wait_for_ever();
    Ok(())
}

/// The address for clients on this machine: the loopback address if the server listens on all of them.
fn reachable(mut addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        addr.set_ip(match addr.is_ipv4() {
            true => Ipv4Addr::LOCALHOST.into(),
            false => Ipv6Addr::LOCALHOST.into(),
        });
    }
    addr
}

/// A directory of this process alone, removed when dropped.
struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    fn make() -> io::Result<Self> {
        let parent = std::env::temp_dir();
        let process = std::process::id();
        for attempt in 0..100 {
            let path = parent.join(format!("quipu-demo-{process}-{attempt}"));
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => return result.map(|()| Self(path)),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        // Nobody is left to tell if that fails, and the system clears such directories in time.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
