//! `quipu health`: ends with 0 when the server is ready, for probes where there is no shell and no curl.
//!
//! A probe runs beside its server, in the same container or under the same unit. So if nobody names a server, it asks
//! the one that the settings describe: those in `--config` and in the environment. It sends no token there, and takes
//! any certificate: that is made for the server's name, not for loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use quipu::settings::Config;
use serde_json::Value;

use super::client::{Client, Route};
use super::connect::Connect;
use super::failure::one_line;
use super::output;
use super::serve;
use super::trust::Trust;

/// Longest wait for the whole answer: whoever probes asks again soon.
const PATIENCE: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "Ends with 0 when the server is ready, else with 1 and one line that says why.

Examples:
  quipu health
  quipu health --for writes --server http://127.0.0.1:7420
  quipu health --config /etc/quipu/quipu.toml";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Be ready only if the server takes appends too
    #[arg(long = "for", value_name = "WHAT", value_enum)]
    purpose: Option<Purpose>,
    /// The server's own settings: asks the address that it listens on [env: QUIPU_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What a server must be ready for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Purpose {
    /// Appends
    Writes,
}

/// Asks the server once. Errors: it does not answer, or it is not ready.
pub(crate) fn run(args: &Args, connect: &Connect, is_json: bool) -> anyhow::Result<()> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let file = args.config.clone();
    let file = file.or_else(|| variable("QUIPU_CONFIG").map(PathBuf::from));
    let is_described =
        file.is_some() || variable("QUIPU_LISTEN").is_some() || variable("QUIPU_TLS_CERT").is_some();
    let client = match is_described && !connect.is_named() {
        true => beside(&serve::settings(file)?)?,
        false => connect.client()?,
    };
    let client = client.within(PATIENCE);
    let route = Route::new(&["health", "ready"]);
    let route = match args.purpose {
        None => route,
        Some(Purpose::Writes) => route.with("for", "writes"),
    };
    let body: Value = client.get(&route)?;
    if is_json {
        output::json(&body)?;
        return Ok(());
    }
    let mut text = body["status"].as_str().unwrap_or("ready").to_owned();
    let faults = body["degraded"].as_array().into_iter().flatten();
    let mut faults: Vec<&str> = faults.filter_map(|fault| fault["what"].as_str()).collect();
    faults.dedup();
    if !faults.is_empty() {
        text = format!("{text}: {}", faults.join(", "));
    }
    output::line(one_line(&text))?;
    Ok(())
}

/// A client for the server that runs on this machine with these settings.
fn beside(config: &Config) -> anyhow::Result<Client> {
    let scheme = match config.tls_cert {
        Some(_) => "https",
        None => "http",
    };
    let trust = Trust {
        any: true,
        ..Trust::default()
    };
    let server = format!("{scheme}://{}", reached(config.listen));
    Ok(Client::with(&server, None, &trust)?)
}

/// Where a server that listens there is reached from this machine.
fn reached(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_all_addresses_is_asked_on_loopback() {
        for (listen, expected) in [
            ("0.0.0.0:7420", "127.0.0.1:7420"),
            ("[::]:1", "[::1]:1"),
            ("192.0.2.7:2", "192.0.2.7:2"),
        ] {
            assert_eq!(reached(listen.parse().unwrap()).to_string(), expected);
        }
    }
}
