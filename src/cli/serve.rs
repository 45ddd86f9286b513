//! `quipu serve`: runs the service until a signal stops it.
//!
//! The flags are made from the table of settings, so that each is described once. The first SIGTERM or SIGINT stops in
//! order, a SIGINT after that at once; the log recovers from that as from a crash. SIGHUP reads again what can change while the
//! server runs; if the process was started on a terminal it stops, because then it means that the terminal has closed.

use std::io::{self, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::LazyLock;

use anyhow::{Context, ensure};
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use quipu::server::{self, Server, notify};
use quipu::settings::{Config, SETTINGS, Setting, Unit};

use super::logging::Logging;
use super::signal::{HANGUP, Signals};

/// The flag of each setting, in the order of the table.
static FLAGS: LazyLock<Vec<String>> =
    LazyLock::new(|| SETTINGS.iter().map(|setting| setting.flag_name()).collect());

/// The settings that were given as flags, and the file that has others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Args {
    config: Option<PathBuf>,
    settings: Vec<(&'static str, String)>,
}

const EXAMPLES: &str = "Sizes and durations may have units, as 64MiB or 30s.

Examples:
  quipu serve --data /var/lib/quipu
  quipu serve --config quipu.toml --drain-timeout-ms 30s";

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        let default = Config::default();
        let flag = |(setting, flag): (&Setting, &'static String)| {
            let default = match setting.show(&default) {
                none if none.is_empty() => none,
                shown => format!(" [default: {shown}]"),
            };
            let help = format!("{} [env: {}]{default}", setting.help, setting.env_name());
            let flag = Arg::new(setting.name).long(flag.as_str()).action(ArgAction::Set);
            let flag = flag.value_name(setting.unit.placeholder()).help(help);
            match setting.unit {
                Unit::Switch => flag
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("on"),
                _ => flag,
            }
        };
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .env("QUIPU_CONFIG");
        let config = config
            .value_parser(clap::value_parser!(PathBuf))
            .help("A TOML file with any of these settings, named as their variables are, in lower case");
        // Of a repeated flag the last one counts, so that a wrapper's flags can be overridden.
        let command = command.args_override_self(true).arg(config).after_help(EXAMPLES);
        command.args(SETTINGS.iter().zip(FLAGS.iter()).map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut settings = Vec::new();
        for setting in SETTINGS {
            if let Some(value) = matches.get_one::<String>(setting.name) {
                let checked = setting.check(&format!("--{}", setting.flag_name()), value);
                checked.map_err(|error| {
                    clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{error}\n"))
                })?;
                settings.push((setting.name, value.clone()));
            }
        }
        Ok(Self {
            config: matches.get_one::<PathBuf>("config").cloned(),
            settings,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args {
    /// The settings in force: defaults, file, environment, flags.
    #[allow(clippy::disallowed_methods, reason = "the settings come before the disk")]
    fn load(&self) -> anyhow::Result<Config> {
        let read = |path: &PathBuf| {
            let (name, text) = (path.display().to_string(), std::fs::read_to_string(path));
            let text = text.with_context(|| format!("cannot read the settings in {name}"))?;
            anyhow::Ok((name, text))
        };
        let file = self.config.as_ref().map(read).transpose()?;
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os() {
            // Ignore variables whose name is not UTF-8: they are not settings.
            let Ok(name) = name.into_string() else { continue };
            let is_setting = SETTINGS.iter().any(|setting| setting.env_name() == name);
            ensure!(!is_setting || value.to_str().is_some(), "{name} is not UTF-8");
            environment.push((name, value.to_string_lossy().into_owned()));
        }
        let file = file.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
        Ok(Config::load(file, environment, &self.settings)?)
    }
}

/// The settings that a server would have here with this file: those of the file and the environment.
/// Errors: The file cannot be read, or a setting is wrong.
pub(crate) fn settings(file: Option<PathBuf>) -> anyhow::Result<Config> {
    let args = Args {
        config: file,
        settings: Vec::new(),
    };
    args.load()
}

/// Runs the service.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let config = args.load()?;
    let logging = Logging::start(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(serve(&args, config, &logging));
    // What still runs belongs to connections that were cut; the log is closed, or recovers.
    runtime.shutdown_background();
    result
}

async fn serve(args: &Args, config: Config, logging: &Logging) -> anyhow::Result<()> {
    // Before anything is opened, so that a signal during recovery is not the default one that kills.
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    // When the terminal has closed it can no longer be asked for.
    let stops_on_hangup = has_terminal();
    let data = config.data.display().to_string();
    let server = server::start(config.clone()).await?;
    announce(&format!(
        "quipu listens on {}://{}",
        server.scheme(),
        server.addr()
    ));
    if let Some(addr) = server.kafka_addr() {
        announce(&format!("quipu listens for Kafka clients on {addr}"));
        tracing::info!(address = %addr, "Kafka clients are listened to");
    }
    notify::tell(notify::State::Ready);
    tracing::info!(address = %server.addr(), data, version = env!("CARGO_PKG_VERSION"), "the server is ready");

    let reloads = || reload(args, &config, &server, logging);
    let name = tokio::select! {
        name = asked_to_stop(&mut signals, stops_on_hangup, reloads) => name,
        () = server.failed() => {
            tracing::error!("appends have failed: the server stops, so that whoever supervises it starts it again");
            notify::tell(notify::State::Stopping);
            // It cannot be clean: the next start recovers.
            let _ = server.shutdown().await;
            anyhow::bail!("stopped because appends have failed (on_log_failed=exit); the next start recovers");
        }
    };
    tracing::info!(signal = name, "the server stops; Ctrl-C now stops it at once");
    notify::tell(notify::State::Stopping);
    tokio::select! {
        result = server.shutdown() => result?,
        () = signals.interrupted() => {
            anyhow::bail!("stopped at once by Ctrl-C; the next start recovers");
        }
    }
    tracing::info!("the server has stopped");
    Ok(())
}

/// Waits for a signal to stop, and returns its name. Reloads at every SIGHUP before, unless that stops, too. A reload may have
/// to wait for an issuer; a signal to stop does not wait for the reload.
async fn asked_to_stop(signals: &mut Signals, stops_on_hangup: bool, reload: impl AsyncFn()) -> &'static str {
    let stops = |name: &str| name != HANGUP || stops_on_hangup;
    loop {
        let name = signals.next().await;
        if stops(name) {
            return name;
        }
        let mut is_wanted = true;
        while is_wanted {
            is_wanted = false;
            let mut reloading = pin!(reload());
            loop {
                tokio::select! {
                    () = &mut reloading => break,
                    name = signals.next() => match stops(name) {
                        true => return name,
                        // What has changed since this reload has read it.
                        false => is_wanted = true,
                    },
                }
            }
        }
    }
}

/// Reads again what can change while the server runs: the log's level, and the files that settings name.
async fn reload(args: &Args, config: &Config, server: &Server, logging: &Logging) {
    notify::tell(notify::State::Reloading);
    let mut kept = Vec::new();
    match args.load() {
        Ok(new) => {
            logging.set_level(new.log_level);
            let others = SETTINGS.iter().filter(|setting| setting.name != "log_level");
            for setting in others.filter(|setting| setting.show(config) != setting.show(&new)) {
                tracing::warn!(
                    setting = setting.name,
                    "the setting has another value by now; a restart puts it in force"
                );
            }
        }
        Err(error) => {
            tracing::error!(
                error = format!("{error:#}"),
                "the settings cannot be read again, so the log's level stays"
            );
            kept.push("log_level");
        }
    }
    kept.extend(server.reload().await);
    if kept.is_empty() {
        tracing::info!(signal = HANGUP, "the server has read its files again");
    } else {
        tracing::warn!(
            signal = HANGUP,
            kept = kept.join(","),
            "the server has read its files again, and some are wrong: the former contents stay in force"
        );
    }
    notify::tell(notify::State::Ready);
}

/// Whether the process has a controlling terminal.
#[allow(clippy::disallowed_methods, reason = "a terminal is no storage")]
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Prints the line that says that the server is ready. Standard output may be closed or full: that stops nothing.
fn announce(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
