//! The settings of the server: a file, the environment and flags, in rising precedence.
//!
//! [`SETTINGS`] has one row a setting; `serve --help`, the readers of the file and the environment, and `/v1/info` all
//! use it. A setting `max_request_bytes` is that key in the TOML file, `QUIPU_MAX_REQUEST_BYTES` in the environment and
//! `--max-request-bytes` on the command line.
//!
//! An unknown name or an invalid value stops the start: a typo must never be a silent default. Each message names the
//! place, the setting, the value found and the allowed values.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::broker::limits::Limits;
use crate::formats::units;
use serde_json::{Map, Value};
pub(crate) use texts::{host_and_port, parse_network};
use texts::{is_host, is_origin};

/// The value of every setting; [`SETTINGS`] describes each one.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the help of a setting says it")]
pub struct Config {
    pub data: PathBuf,
    pub listen: SocketAddr,
    /// The address for Kafka's clients; `None`: they are not listened to.
    pub kafka_listen: Option<SocketAddr>,
    /// The host and the port that Kafka's clients are told.
    pub kafka_advertise: Option<String>,
    pub kafka_auto_create: bool,
    pub kafka_partitions: u32,
    pub kafka_any_replication: bool,
    pub auth: Auth,
    /// The token of the first administrator.
    pub admin_token: Option<Secret>,
    /// The file that has it.
    pub admin_token_file: Option<PathBuf>,
    /// Whether an address beyond loopback may be open to everybody.
    pub insecure: bool,
    pub tls: TlsEnd,
    /// The certificate chain in PEM; with it the server speaks TLS.
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// The authorities of client certificates.
    pub tls_client_ca: Option<PathBuf>,
    /// Who issues JWTs, for whom, and the file or the URL of its keys.
    pub jwt_issuer: Option<String>,
    pub jwt_audience: Option<String>,
    pub jwt_keys: Option<String>,
    /// The addresses of proxies whose word counts for where a request comes from: IP addresses and networks.
    pub trusted_proxies: Vec<String>,
    pub log_format: LogFormat,
    pub log_level: LogLevel,
    /// The limits of one client.
    pub limits: Limits,
    pub journal_file_bytes: u64,
    pub journal_files: u32,
    pub queue_bytes: u64,
    pub max_idempotency_bytes: u64,
    pub header_read_timeout: Duration,
    pub body_idle_timeout: Duration,
    pub write_idle_timeout: Duration,
    pub idle_timeout: Duration,
    pub drain_timeout: Duration,
    pub max_open_segments: usize,
    /// The most rows of metrics by partition.
    pub metrics_partitions: usize,
    /// Whether every request is a line in the log.
    pub access_log: bool,
    /// Where spans are sent to; `None`: requests are not traced.
    pub otlp_endpoint: Option<String>,
    /// Where backups are made; `None`: nowhere.
    pub backup_dir: Option<PathBuf>,
    pub retention_interval: Duration,
    pub on_log_failed: OnLogFailed,
    /// How long a group without members keeps its committed offsets; `None`: for ever.
    pub offsets_retention: Option<Duration>,
    pub cors_origins: Vec<String>,
    /// The names, besides `localhost` and IP addresses, by which clients may address the server (`Host`).
    pub allowed_hosts: Vec<String>,
    /// The origin under which browsers reach the server through a proxy.
    pub public_url: Option<String>,
}

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Everybody.
    None,
    /// Whoever has a token, a JWT or a certificate, and what that allows.
    Tokens,
}

/// A secret that no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret of 8 to 256 visible ASCII characters; `None` for anything else.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        let fits = (8..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(text.to_owned()))
    }

    /// The secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where the TLS of clients ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsEnd {
    /// At this server, if it has a certificate.
    Here,
    /// At a proxy, which passes requests on in plain HTTP.
    Proxy,
}

/// What the server does when the log refuses appends until a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLogFailed {
    /// Goes on with reads.
    Stay,
    /// Ends, so that a supervisor restarts it.
    Exit,
}

/// The format of the server's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The lowest level of messages in the server's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Only failures.
    Error,
    /// Also problems that will soon become failures unless someone acts.
    Warn,
    /// Also events that an operator wants to know about later.
    Info,
    /// Also details for a developer.
    Debug,
    /// Everything.
    Trace,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: "quipu-data".into(),
            listen: ([127, 0, 0, 1], 7420).into(),
            kafka_listen: None,
            kafka_advertise: None,
            kafka_auto_create: true,
            kafka_partitions: 4,
            kafka_any_replication: false,
            auth: Auth::None,
            admin_token: None,
            admin_token_file: None,
            insecure: false,
            tls: TlsEnd::Here,
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
            jwt_issuer: None,
            jwt_audience: None,
            jwt_keys: None,
            trusted_proxies: Vec::new(),
            log_format: LogFormat::Text,
            log_level: LogLevel::Info,
            limits: Limits::default(),
            journal_file_bytes: 64 << 20,
            journal_files: 3,
            queue_bytes: 64 << 20,
            max_idempotency_bytes: 256 << 20,
            header_read_timeout: Duration::from_secs(30),
            body_idle_timeout: Duration::from_secs(60),
            write_idle_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(600),
            drain_timeout: Duration::from_secs(10),
            max_open_segments: 4096,
            metrics_partitions: 2000,
            access_log: false,
            otlp_endpoint: None,
            backup_dir: None,
            retention_interval: Duration::from_secs(10),
            on_log_failed: OnLogFailed::Stay,
            offsets_retention: None,
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            public_url: None,
        }
    }
}

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

enum Access {
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
    access: Access,
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
const MIB: u64 = 1 << 20;
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
        "The issuer's keys: a file with a JWK set, or its URL", texts::is_key_source),
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

    fn set(&self, config: &mut Config, place: &str, value: &str) -> Result<(), ConfigError> {
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

    fn wrong(&self, place: &str, found: &str) -> ConfigError {
        ConfigError::Value {
            place: place.to_owned(),
            name: self.name,
            found: if self.name == "admin_token" { HIDDEN } else { found }.to_owned(),
            allowed: self.allowed(),
        }
    }
}

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

mod texts;

#[cfg(test)]
mod tests;
