//! The settings of the server: a file, the environment and flags, in rising precedence.
//!
//! [`SETTINGS`] has one row a setting; `serve --help`, the readers of the file and the environment, and `/v1/info` all
//! use it. A setting `max_request_bytes` is that key in the TOML file, `QUIPU_MAX_REQUEST_BYTES` in the environment and
//! `--max-request-bytes` on the command line.
//!
//! An unknown name or an invalid value stops the start: a typo must never be a silent default. Each message names the
//! place, the setting, the value found and the allowed values.

mod config;
mod table;
mod texts;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

pub use config::{Auth, Config, LogFormat, LogLevel, OnLogFailed, Secret, TlsEnd};
use table::{Access, MIB};
pub use table::{SETTINGS, Setting, Unit};
pub(crate) use texts::{host_and_port, parse_network};

/// Why the settings cannot be used. The message names the place, the setting, what was found, and what is allowed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is not TOML.
    #[error("{place}: {message}")]
    Syntax {
        /// File and line.
        place: String,
        /// The parser's message.
        message: String,
    },
    /// A name that is not a setting.
    #[error("{place}: {name} is not a setting; {hint}")]
    Unknown {
        /// File and line, or the environment.
        place: String,
        /// The name found.
        name: String,
        /// The nearest setting, or all of them.
        hint: String,
    },
    /// An invalid value.
    #[error("{place}: {name} is {found:?}, but it must be {allowed}")]
    Value {
        /// File and line, the variable, or the flag.
        place: String,
        /// The setting.
        name: &'static str,
        /// The value found.
        found: String,
        /// The allowed values.
        allowed: String,
    },
    /// Two values that contradict each other.
    #[error("{0}")]
    Conflict(String),
}

impl Config {
    /// Puts the settings together: the defaults, then the file (its name and its text), then the environment, then
    /// the flags (a setting's name and the value given).
    ///
    /// Variables of the environment that do not begin with `QUIPU_` are ignored, and so are those of the clients
    /// (`QUIPU_SERVER`, `QUIPU_TOKEN`, `QUIPU_CONTEXT`, `QUIPU_CA_FILE`, `QUIPU_CERT`, `QUIPU_CERT_KEY`), `QUIPU_CONFIG`, `QUIPU_TEST_…`, `QUIPU_SEED…`, and those that
    /// Kubernetes sets for a Service named `quipu`.
    ///
    /// # Errors
    /// [`ConfigError`] for the first fault: show it and do not start.
    pub fn load(
        file: Option<(&str, &str)>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(&str, String)],
    ) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if let Some((name, text)) = file {
            config.read_file(name, text)?;
        }
        for (variable, value) in environment {
            config.read_variable(&variable, &value)?;
        }
        for (name, value) in flags {
            let setting = find(name).ok_or_else(|| unknown("command line", name))?;
            setting.set(&mut config, &format!("--{}", setting.flag_name()), value)?;
        }
        config.check()?;
        Ok(config)
    }

    /// The limits that `/v1/info` shows to clients.
    #[must_use]
    pub fn limits_json(&self) -> Map<String, Value> {
        let mut map = Map::new();
        for setting in SETTINGS.iter().filter(|setting| setting.is_limit) {
            if let Access::Number { get, .. } = setting.access {
                map.insert(setting.name.to_owned(), get(self).into());
            }
        }
        map
    }

    /// Whether requests must say who sends them.
    #[must_use]
    pub fn asks_for_tokens(&self) -> bool {
        self.auth == Auth::Tokens
    }

    /// Whether browsers get cookies for TLS only.
    #[must_use]
    pub fn has_secure_cookies(&self) -> bool {
        self.has_certificate() || self.tls == TlsEnd::Proxy
    }

    /// Whether the server speaks TLS itself.
    #[must_use]
    pub fn has_certificate(&self) -> bool {
        self.tls_cert.is_some()
    }

    /// The settings of the engine.
    #[must_use]
    pub fn log_options(&self) -> crate::broker::engine::Options {
        crate::broker::engine::Options {
            journal_file_bytes: self.journal_file_bytes,
            journal_files: self.journal_files,
            max_request_bytes: self.limits.max_request_bytes + (1 << 20),
            queue_bytes: self.queue_bytes,
            key_bytes: self.max_idempotency_bytes,
            max_open_segments: self.max_open_segments,
            retention_interval: self.retention_interval,
            background: true,
            ..crate::broker::engine::Options::default()
        }
    }

    fn read_file(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        use toml::de::{DeTable, DeValue};

        let at = |position: usize| {
            let before = text.get(..position).unwrap_or_default();
            format!("{name} line {}", before.matches('\n').count() + 1)
        };
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            place: at(error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })?;
        for (key, value) in table.get_ref() {
            let place = at(key.span().start);
            let setting = find(key.get_ref()).ok_or_else(|| unknown(&place, key.get_ref()))?;
            let wrong = || setting.wrong(&place, text.get(value.span()).unwrap_or_default());
            let is_number = matches!(setting.access, Access::Number { .. });
            let value = match value.get_ref() {
                DeValue::Integer(number) if is_number && number.radix() == 10 => number.as_str().to_owned(),
                // A quoted number has a unit: without one it is more likely a mistake.
                DeValue::String(string) if !is_number || string.parse::<u64>().is_err() => string.to_string(),
                DeValue::Array(items) if matches!(setting.access, Access::List { .. }) => {
                    let texts = items.iter().map(|item| match item.get_ref() {
                        DeValue::String(text) if !text.trim().is_empty() => Ok(text.to_string()),
                        _ => Err(wrong()),
                    });
                    texts.collect::<Result<Vec<_>, _>>()?.join(",")
                }
                _ => return Err(wrong()),
            };
            setting.set(self, &place, &value)?;
        }
        Ok(())
    }

    fn read_variable(&mut self, variable: &str, value: &str) -> Result<(), ConfigError> {
        let Some(name) = variable.strip_prefix("QUIPU_") else {
            return Ok(());
        };
        let place = format!("environment variable {variable}");
        if let Some(setting) = SETTINGS.iter().find(|setting| setting.env_name() == variable) {
            return setting.set(self, &place, value);
        }
        let is_others = [
            "SERVER", "TOKEN", "CONTEXT", "CA_FILE", "CERT", "CERT_KEY", "CONFIG",
        ]
        .contains(&name)
            || name.starts_with("TEST_")
            || name.starts_with("SEED");
        if is_others || is_of_a_service(name, value) {
            return Ok(());
        }
        Err(unknown(&place, &name.to_ascii_lowercase()))
    }

    /// Checks settings against each other.
    fn check(&self) -> Result<(), ConfigError> {
        if self.admin_token.is_some() && self.admin_token_file.is_some() {
            let message = "admin_token and admin_token_file are both set: choose one";
            return Err(ConfigError::Conflict(message.to_owned()));
        }
        let conflict = match (&self.tls_cert, &self.tls_key, &self.tls_client_ca, self.tls) {
            (Some(_), None, ..) => Some("tls_cert is set, but tls_key is not"),
            (None, Some(_), ..) => Some("tls_key is set, but tls_cert is not"),
            (None, None, Some(_), _) => Some("tls_client_ca is set, but tls_cert and tls_key are not"),
            (Some(_), _, _, TlsEnd::Proxy) => {
                Some("tls=proxy says that the proxy has the certificate, but tls_cert is set")
            }
            _ => None,
        };
        let jwt = [&self.jwt_issuer, &self.jwt_audience, &self.jwt_keys];
        let conflict = conflict.or(match jwt.iter().filter(|setting| setting.is_some()).count() {
            0 => None,
            3 if self.asks_for_tokens() => None,
            3 => Some("jwt_keys is set, but auth is none, so nobody is asked to sign in: set auth=tokens"),
            _ => Some("jwt_issuer, jwt_audience and jwt_keys belong together: set all three or none"),
        });
        if let Some(conflict) = conflict {
            return Err(ConfigError::Conflict(conflict.to_owned()));
        }
        let absolute = |path| std::path::absolute(path).ok();
        if let Some(backups) = self.backup_dir.as_ref().and_then(absolute)
            && absolute(&self.data).is_some_and(|data| backups.starts_with(data))
        {
            let message =
                "backup_dir is in the data directory: choose a directory outside of it, best on another disk";
            return Err(ConfigError::Conflict(message.to_owned()));
        }
        let request = self.limits.max_request_bytes as u64;
        let (in_flight, journal) = (self.limits.max_in_flight_bytes, self.journal_file_bytes);
        // A request grows by its headers in record batch format, and a journal file has its own header.
        let least = request + 2 * MIB;
        let (name, found, needed) = if in_flight < request {
            let needed = format!("at least max_request_bytes, {request}");
            ("max_in_flight_bytes", in_flight, needed)
        } else if !journal.is_multiple_of(4096) {
            ("journal_file_bytes", journal, "a multiple of 4096".to_owned())
        } else if journal < least {
            let needed = format!("at least max_request_bytes and 2 MiB more, {least}");
            ("journal_file_bytes", journal, needed)
        } else {
            return Ok(());
        };
        let message = format!("{name} is {found}, but it must be {needed}");
        Err(ConfigError::Conflict(message))
    }
}

/// Whether Kubernetes sets such a variable for a Service whose name is `quipu` or begins with `quipu-`:
/// `QUIPU_SERVICE_HOST`, `QUIPU_PORT`, `QUIPU_PORT_7420_TCP_ADDR`, `QUIPU_LAB_SERVICE_PORT_HTTP`.
///
/// A `…_PORT` has an address there (`tcp://10.0.0.7:7420`); with anything else it is somebody's mistake.
fn is_of_a_service(name: &str, value: &str) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    let is_port = |words: &[&str]| match words {
        ["PORT"] => value.contains("://"),
        ["PORT", number, protocol, rest @ ..] => {
            let is_protocol = ["TCP", "UDP", "SCTP"].contains(protocol);
            let ends = [&[][..], &["PROTO"], &["PORT"], &["ADDR"]];
            number.parse::<u16>().is_ok() && is_protocol && ends.contains(&rest)
        }
        _ => false,
    };
    let is_service = |words: &[&str]| matches!(words, ["SERVICE", "HOST"] | ["SERVICE", "PORT", ..]);
    (0..words.len()).any(|at| is_port(&words[at..]) || is_service(&words[at..]))
}

fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

fn unknown(place: &str, name: &str) -> ConfigError {
    let names = || SETTINGS.iter().map(|setting| setting.name);
    let nearest = names().map(|known| (distance(known, name), known)).min();
    let hint = match nearest.filter(|(distance, _)| *distance <= 3) {
        Some((_, nearest)) => format!("did you mean {nearest}?"),
        None => format!("settings are {}", names().collect::<Vec<_>>().join(", ")),
    };
    ConfigError::Unknown {
        place: place.to_owned(),
        name: name.to_owned(),
        hint,
    }
}

/// How many letters must be added, removed or changed to turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
