//! `quipu health`: ends with 0 when the server is ready, for probes where there is no shell and no curl.

use std::time::Duration;

use clap::ValueEnum;
use serde_json::Value;

use super::client::Route;
use super::connect::Connect;
use super::failure::one_line;
use super::output;

/// Longest wait for the whole answer: whoever probes asks again soon.
const PATIENCE: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "Ends with 0 when the server is ready, else with 1 and one line that says why.

Examples:
  quipu health
  quipu health --for writes --server http://127.0.0.1:7420";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Be ready only if the server takes appends too
    #[arg(long = "for", value_name = "WHAT", value_enum)]
    purpose: Option<Purpose>,
}

/// What a server must be ready for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Purpose {
    /// Appends
    Writes,
}

/// Asks the server once. Errors: it does not answer, or it is not ready.
pub(crate) fn run(args: &Args, connect: &Connect, is_json: bool) -> anyhow::Result<()> {
    let client = connect.client()?.within(PATIENCE);
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
