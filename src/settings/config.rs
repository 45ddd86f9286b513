//! The value of every setting.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::broker::limits::Limits;

/// The value of every setting; [`SETTINGS`](super::SETTINGS) describes each one.
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
