//! The server's own log on standard error, whose level can change while it runs.

use std::io;

use quipu::settings::{Config, LogFormat, LogLevel};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};

/// The log of this process.
pub(crate) struct Logging(reload::Handle<LevelFilter, Registry>);

impl Logging {
    /// Begins to log, as the settings say. May be called once.
    pub(crate) fn start(config: &Config) -> Self {
        let (filter, handle) = reload::Layer::new(filter_of(config.log_level));
        // A failing standard error must not end the process, as reporting that on standard error would.
        let lines = fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .log_internal_errors(false);
        let registry = tracing_subscriber::registry().with(filter);
        match config.log_format {
            LogFormat::Text => registry.with(lines.with_target(false)).init(),
            LogFormat::Json => registry.with(lines.json()).init(),
        }
        Self(handle)
    }

    /// Logs messages of this level and above from now on.
    pub(crate) fn set_level(&self, level: LogLevel) {
        // It fails only if there is no log any more.
        let _ = self.0.reload(filter_of(level));
    }
}

fn filter_of(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
