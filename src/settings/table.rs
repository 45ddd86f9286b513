//! The table of settings: one row each.

use std::path::PathBuf;
use std::time::Duration;

use super::ConfigError;
use super::config::{Auth, Config, LogFormat, LogLevel, OnLogFailed, Secret, TlsEnd};
use super::texts::{host_and_port, is_host, is_key_source, is_origin, parse_network};
use crate::formats::units;

/// The unit of a setting's number, or the kind of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Milliseconds,
    /// A plain count.
    Count,
    /// A text, with its kind for the help.
    Text(&'static str),
    /// `on` or `off`; as a flag without a value it is `on`.
    Switch,
}

impl Unit {
    /// The placeholder of a value in the help.
    #[must_use]
    pub const fn placeholder(self) -> &'static str {
        match self {
            Self::Bytes => "BYTES",
            Self::Milliseconds => "MS",
            Self::Count => "N",
            Self::Text(name) => name,
            Self::Switch => "ON",
        }
    }

    /// The number in `text`: plain, or with a unit if the setting has one.
    fn parse(self, text: &str) -> Option<u64> {
        match self {
            Self::Bytes => text.parse().ok().or_else(|| units::parse_bytes(text)),
            Self::Milliseconds => {
                let with_unit = || units::parse_duration(text).map(millis);
                text.parse().ok().or_else(with_unit)
            }
            Self::Count | Self::Text(_) | Self::Switch => text.parse().ok(),
        }
    }
}

pub(super) enum Access {
    Number {
        low: u64,
        high: u64,
        get: fn(&Config) -> u64,
        set: fn(&mut Config, u64),
    },
    Text {
        allowed: &'static str,
        get: fn(&Config) -> String,
        /// Returns false if the text is not allowed.
        set: fn(&mut Config, &str) -> bool,
    },
    /// Texts separated by commas; the file may have them as an array.
    List {
        allowed: &'static str,
        get: fn(&mut Config) -> &mut Vec<String>,
        fits: fn(&str) -> bool,
    },
}

/// One row of [`SETTINGS`].
pub struct Setting {
    /// The key in the file; the environment and the flags derive theirs from it.
    pub name: &'static str,
    /// The type of its value.
    pub unit: Unit,
    /// One sentence for the help.
    pub help: &'static str,
    /// Whether `/v1/info` shows it to clients.
    pub is_limit: bool,
    pub(super) access: Access,
}

/// A row of [`SETTINGS`]: its kind and name, the unit and the bounds of a number or the placeholder and the allowed
/// values of a text, the field (in milliseconds, or as a number of a type) or how it is read and set, and the help.
macro_rules! row {
    (number $($row:tt)+) => { row!(@ false, $($row)+) };
    (limit $($row:tt)+) => { row!(@ true, $($row)+) };
    (@ $is_limit:literal, $name:ident: $unit:ident $bounds:tt, $($field:ident).+ as millis, $help:literal) => {
        row!(@ $is_limit, $name: $unit $bounds, $help,
            |c| millis(c.$($field).+), |c, v| c.$($field).+ = Duration::from_millis(v))
    };
    (@ $is_limit:literal, $name:ident: $unit:ident $bounds:tt, $($field:ident).+ as $type:ty, $help:literal) => {
        row!(@ $is_limit, $name: $unit $bounds, $help, |c| c.$($field).+ as u64, |c, v| c.$($field).+ = v as $type)
    };
    (@ $is_limit:literal, $name:ident: $unit:ident ($low:expr, $high:expr), $help:literal, $get:expr, $set:expr) => {
        row!(@ $name, Unit::$unit, $is_limit, $help, Access::Number { low: $low, high: $high, get: $get, set: $set })
    };
    (text $name:ident: $placeholder:ident $allowed:literal, $help:literal, $get:expr, $set:expr) => {
        row!(@ $name, Unit::Text(stringify!($placeholder)), false, $help,
            Access::Text { allowed: $allowed, get: $get, set: $set })
    };
    (optional $name:ident: $placeholder:ident $allowed:literal, $help:literal, $fits:expr) => {
        row!(@ $name, Unit::Text(stringify!($placeholder)), false, $help, Access::Text {
            allowed: $allowed,
            get: |c| c.$name.clone().unwrap_or_default(),
            set: |c, v| set_to(&mut c.$name, Some(v.to_owned()).filter(|v| !v.is_empty())) && $fits(v),
        })
    };
    (path $name:ident: $help:literal) => {
        row!(@ $name, Unit::Text("FILE"), false, $help, Access::Text {
            allowed: "the path of a file, or nothing",
            get: |c| c.$name.as_ref().map_or_else(String::new, |path| path.display().to_string()),
            set: |c, v| set_to(&mut c.$name, Some(v).filter(|v| !v.is_empty()).map(PathBuf::from)),
        })
    };
    (switch $name:ident, $help:literal) => {
        row!(@ $name, Unit::Switch, false, $help, Access::Text {
            allowed: "on or off",
            get: |c| name_in(&SWITCH, c.$name),
            set: |c, v| set_by_name(&mut c.$name, &SWITCH, v),
        })
    };
    (list $name:ident: $placeholder:ident $allowed:literal, $help:literal, $fits:expr) => {
        row!(@ $name, Unit::Text(stringify!($placeholder)), false, $help,
            Access::List { allowed: $allowed, get: |c| &mut c.$name, fits: $fits })
    };
    (@ $name:ident, $unit:expr, $is_limit:expr, $help:literal, $access:expr) => {
        Setting { name: stringify!($name), unit: $unit, help: $help, is_limit: $is_limit, access: $access }
    };
}

const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const DAY_MS: u64 = 86_400_000;

/// Every setting, in the order of the help.
pub static SETTINGS: &[Setting] = &[
    row!(text data: DIR "a directory", "The data directory, created if missing",
        |c| c.data.display().to_string(), |c, v| set_to(&mut c.data, v.into()) && !v.is_empty()),
    row!(text listen: ADDR "an IP address and a port, as in 127.0.0.1:7420 or [::1]:7420",
        "The address to listen on; port 0 picks a free one",
        |c| c.listen.to_string(), |c, v| v.parse().map(|listen| c.listen = listen).is_ok()),
    row!(text kafka_listen: ADDR "an IP address and a port, as in 127.0.0.1:9092 or [::1]:9092, or nothing",
        "The address to listen on for clients of Kafka's protocol; none unless set",
        |c| c.kafka_listen.map_or_else(String::new, |listen| listen.to_string()),
        |c, v| set_to(&mut c.kafka_listen, v.parse().ok()) && (v.is_empty() || c.kafka_listen.is_some())),
    row!(optional kafka_advertise: HOST "a host and a port as in log.example.org:9092, or nothing",
        "The host and port that Kafka clients are told to connect to; unless set, those that they have reached",
        |v: &str| v.is_empty() || host_and_port(v).is_some()),
    row!(switch kafka_auto_create,
        "Whether a topic that a Kafka client asks for by its name is created, if the client wants that"),
    row!(number kafka_partitions: Count (1, 1_000_000), kafka_partitions as u32,
        "Partitions of a topic that a Kafka client creates without a number of them; at most max_partitions"),
    row!(switch kafka_any_replication,
        "Whether a Kafka client may ask for several replicas of a topic; it has one all the same"),
    row!(text auth: WHO "none or tokens", "Who may call: none asks nobody who he is, tokens asks everybody",
        |c| name_in(&AUTHS, c.auth), |c, v| set_by_name(&mut c.auth, &AUTHS, v)),
    row!(text admin_token: TOKEN "8 to 256 visible ASCII characters, or nothing",
        "The first administrator's token; in the environment or in a file, as others see flags",
        |c| c.admin_token.as_ref().map_or_else(String::new, |_| HIDDEN.to_owned()), set_admin_token),
    row!(text admin_token_file: FILE "a file, or nothing", "The file that has the first administrator's token",
        |c| c.admin_token_file.as_ref().map_or_else(String::new, |path| path.display().to_string()),
        |c, v| set_to(&mut c.admin_token_file, Some(v.into()).filter(|_| !v.is_empty()))),
    row!(switch insecure,
        "Whether anybody may reach an address beyond loopback, without TLS and without signing in"),
    row!(text tls: WHERE "here or proxy",
        "Where the TLS of clients ends: here, or at a proxy in front that trusted_proxies names",
        |c| name_in(&TLS_ENDS, c.tls), |c, v| set_by_name(&mut c.tls, &TLS_ENDS, v)),
    row!(path tls_cert: "The server's certificate chain in PEM, read again every 10 s; with it the server speaks TLS"),
    row!(path tls_key: "The private key of tls_cert in PEM, read again every 10 s"),
    row!(path tls_client_ca: "Certificates in PEM of the authorities whose client certificates are accepted"),
    row!(optional jwt_issuer: URL "the issuer as tokens name it, or nothing",
        "The issuer (iss) whose JWTs are accepted; with jwt_audience and jwt_keys", |_| true),
    row!(optional jwt_audience: NAME "the audience as tokens name it, or nothing",
        "The audience (aud) that a JWT must be for", |_| true),
    row!(optional jwt_keys: SOURCE "a file, or a URL with https:// (http:// only on this machine), or nothing",
        "The issuer's keys: a file with a JWK set, or its URL", is_key_source),
    row!(list trusted_proxies: ADDRESSES "IP addresses and networks as in 10.0.0.0/8 separated by commas",
        "Proxies whose Forwarded or X-Forwarded-For header says where a request comes from, separated by commas",
        |text| parse_network(text).is_some()),
    row!(text log_format: FORMAT "text or json", "Format of the server's own log on standard error: text or json",
        |c| name_in(&LOG_FORMATS, c.log_format), |c, v| set_by_name(&mut c.log_format, &LOG_FORMATS, v)),
    row!(text log_level: LEVEL "error, warn, info, debug or trace",
        "The least severe messages to log: error, warn, info, debug or trace",
        |c| name_in(&LOG_LEVELS, c.log_level), |c, v| set_by_name(&mut c.log_level, &LOG_LEVELS, v)),
    row!(limit max_request_bytes: Bytes (KIB, GIB), limits.max_request_bytes as usize,
        "Largest decoded body of a request, except NDJSON"),
    row!(limit max_request_head_bytes: Bytes (8 * KIB, MIB), limits.max_request_head_bytes as usize,
        "Largest request line and headers of a request"),
    row!(limit max_key_bytes: Bytes (1, MIB), limits.max_key_bytes as usize, "Largest key of a record"),
    row!(limit max_record_headers: Count (0, 10_000), limits.max_headers_per_record as usize,
        "Most headers of a record"),
    row!(limit max_header_bytes: Bytes (0, MIB), limits.max_header_bytes as usize,
        "Largest sum of names and values of a record's headers"),
    row!(limit max_connections: Count (1, 1_000_000), limits.max_connections as usize,
        "Most open connections; further ones are answered 503 and closed"),
    row!(limit max_in_flight_bytes: Bytes (MIB, 1 << 40), limits.max_in_flight_bytes as u64,
        "Most bytes of request bodies in memory; at least max_request_bytes"),
    row!(limit max_partitions: Count (1, 1_000_000), limits.max_partitions as u32,
        "Most partitions of a topic"),
    row!(limit max_queue_records: Count (1000, 1_000_000_000), limits.max_queue_records as usize,
        "Most records of work queues that are leased, released, delayed or passed over"),
    row!(number journal_file_bytes: Bytes (4 * MIB, 4 * GIB - 4096), journal_file_bytes as u64,
        "Size of each journal file; at least max_request_bytes and 2 MiB more"),
    row!(number journal_files: Count (2, 1000), journal_files as u32, "Journal files kept"),
    row!(number queue_bytes: Bytes (MIB, 1 << 40), queue_bytes as u64,
        "Bytes waiting for the disk above which appends are refused as overloaded"),
    row!(number max_idempotency_bytes: Bytes (MIB, 1 << 40), max_idempotency_bytes as u64,
        "Memory for idempotency keys; above it requests with new keys are refused as overloaded"),
    row!(number header_read_timeout_ms: Milliseconds (1, DAY_MS), header_read_timeout as millis,
        "Time a client has to send the head of a request"),
    row!(number body_idle_timeout_ms: Milliseconds (1, DAY_MS), body_idle_timeout as millis,
        "Longest pause of a client within the body of a request"),
    row!(number write_idle_timeout_ms: Milliseconds (1, DAY_MS), write_idle_timeout as millis,
        "Longest pause of a client while it reads its answer"),
    row!(number idle_timeout_ms: Milliseconds (1, DAY_MS), idle_timeout as millis,
        "Shortest time that an idle connection stays open"),
    row!(number drain_timeout_ms: Milliseconds (0, DAY_MS), drain_timeout as millis,
        "Time a stop waits for running requests"),
    row!(number max_open_segments: Count (16, 1_000_000), max_open_segments as usize,
        "Most segments mapped for reading"),
    row!(number metrics_partitions: Count (0, 1_000_000), metrics_partitions as usize,
        "Most rows of metrics by partition; above it only partitions with lag have rows, all others are in sums by topic"),
    row!(text access_log: ON "on or off", "Whether each request is a line in the server's own log",
        |c| name_in(&SWITCH, c.access_log), |c, v| set_by_name(&mut c.access_log, &SWITCH, v)),
    row!(text otlp_endpoint: URL
        "http:// and a host, perhaps with a port and a path, as in http://localhost:4318; or nothing",
        "The OpenTelemetry collector that traces are sent to, by OTLP over HTTP",
        |c| c.otlp_endpoint.clone().unwrap_or_default(), set_otlp_endpoint),
    row!(text backup_dir: DIR "a directory outside of the data directory, or nothing",
        "Where POST /v1/backups and quipu backup make copies of the data, created if missing; on another disk than the data",
        |c| c.backup_dir.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default(),
        |c, v| set_to(&mut c.backup_dir, (!v.is_empty()).then(|| v.into()))),
    row!(number retention_interval_ms: Milliseconds (10, DAY_MS), retention_interval as millis,
        "How often retention looks for segments to delete"),
    row!(text on_log_failed: WORD "stay or exit",
        "When appends are refused until a restart: stay for reads, or exit so that a supervisor restarts it",
        |c| name_in(&ON_LOG_FAILED, c.on_log_failed), |c, v| set_by_name(&mut c.on_log_failed, &ON_LOG_FAILED, v)),
    row!(number offsets_retention_ms: Milliseconds (0, 36_525 * DAY_MS),
        "Time a group without members keeps its offsets after its last commit; 0: for ever",
        |c| c.offsets_retention.map_or(0, millis),
        |c, v| c.offsets_retention = (v > 0).then(|| Duration::from_millis(v))),
    row!(list cors_origins: ORIGINS "origins as in https://example.org separated by commas, or *",
        "Origins whose pages may call the API from a browser, separated by commas (*: any, to read only); none unless set",
        |origin| origin == "*" || is_origin(origin)),
    row!(list allowed_hosts: HOSTS "host names separated by commas, without scheme, port and path, as in log.example.org",
        "Names besides localhost and IP addresses that clients may call the server by, separated by commas", is_host),
    row!(text public_url: URL
        "http:// or https:// and a host, without user, path, query and fragment, as in https://log.example.org; or nothing",
        "The URL at which browsers reach the server through a proxy",
        |c| c.public_url.clone().unwrap_or_default(), set_public_url),
];

impl Setting {
    /// The variable of this setting in the environment.
    #[must_use]
    pub fn env_name(&self) -> String {
        format!("QUIPU_{}", self.name.to_ascii_uppercase())
    }

    /// The flag of this setting, without its dashes.
    #[must_use]
    pub fn flag_name(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The allowed values, in words.
    #[must_use]
    pub fn allowed(&self) -> String {
        match self.access {
            Access::Number { low, high, .. } => {
                let unit = match self.unit {
                    Unit::Bytes => " (bytes, or with a unit as in 64MiB)",
                    Unit::Milliseconds => " (milliseconds, or with a unit as in 30s)",
                    Unit::Count | Unit::Text(_) | Unit::Switch => "",
                };
                format!("a whole number from {low} to {high}{unit}")
            }
            Access::Text { allowed, .. } | Access::List { allowed, .. } => allowed.to_owned(),
        }
    }

    /// The value in `config`, as text.
    #[must_use]
    pub fn show(&self, config: &Config) -> String {
        match self.access {
            Access::Number { get, .. } => get(config).to_string(),
            Access::Text { get, .. } => get(config),
            Access::List { get, .. } => get(&mut config.clone()).join(","),
        }
    }

    /// Whether `value`, found at `place`, is valid for this setting.
    ///
    /// # Errors
    /// [`ConfigError::Value`] if it is not.
    pub fn check(&self, place: &str, value: &str) -> Result<(), ConfigError> {
        self.set(&mut Config::default(), place, value)
    }

    pub(super) fn set(&self, config: &mut Config, place: &str, value: &str) -> Result<(), ConfigError> {
        let fits = match self.access {
            Access::Number { low, high, set, .. } => {
                let number = self.unit.parse(value);
                let fitting = number.filter(|number| (low..=high).contains(number));
                fitting.map(|number| set(config, number)).is_some()
            }
            Access::Text { set, .. } => set(config, value),
            Access::List { get, fits, .. } => {
                let items = value.split(',').map(|item| item.trim().to_owned());
                *get(config) = items.filter(|_| !value.trim().is_empty()).collect();
                get(config).iter().all(|item| fits(item))
            }
        };
        fits.then_some(()).ok_or_else(|| self.wrong(place, value))
    }

    pub(super) fn wrong(&self, place: &str, found: &str) -> ConfigError {
        ConfigError::Value {
            place: place.to_owned(),
            name: self.name,
            found: if self.name == "admin_token" { HIDDEN } else { found }.to_owned(),
            allowed: self.allowed(),
        }
    }
}

fn set_to<T>(field: &mut T, value: T) -> bool {
    *field = value;
    true
}

const LOG_FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
const ON_LOG_FAILED: [(&str, OnLogFailed); 2] = [("stay", OnLogFailed::Stay), ("exit", OnLogFailed::Exit)];
const AUTHS: [(&str, Auth); 2] = [("none", Auth::None), ("tokens", Auth::Tokens)];
/// What is shown in place of a secret.
const HIDDEN: &str = "…";
const TLS_ENDS: [(&str, TlsEnd); 2] = [("here", TlsEnd::Here), ("proxy", TlsEnd::Proxy)];
const LOG_LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

const SWITCH: [(&str, bool); 2] = [("off", false), ("on", true)];

fn name_in<T: PartialEq>(names: &[(&str, T)], value: T) -> String {
    let found = names.iter().find(|(_, other)| *other == value);
    found.map_or("", |(name, _)| name).to_owned()
}

fn set_by_name<T: Copy>(field: &mut T, names: &[(&str, T)], text: &str) -> bool {
    let found = names.iter().find(|(name, _)| *name == text);
    found.is_some_and(|(_, value)| set_to(field, *value))
}

fn set_admin_token(config: &mut Config, text: &str) -> bool {
    config.admin_token = Secret::of(text);
    text.is_empty() || config.admin_token.is_some()
}

fn set_public_url(config: &mut Config, text: &str) -> bool {
    let url = text.strip_suffix('/').unwrap_or(text);
    config.public_url = (!url.is_empty()).then(|| url.to_owned());
    text.is_empty() || is_origin(url)
}

fn set_otlp_endpoint(config: &mut Config, text: &str) -> bool {
    let url = text.strip_suffix('/').unwrap_or(text);
    config.otlp_endpoint = (!url.is_empty()).then(|| url.to_owned());
    let rest = url.strip_prefix("http://").unwrap_or_default();
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let is_path = path.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b));
    text.is_empty() || (is_path && is_origin(&format!("http://{host}")))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
