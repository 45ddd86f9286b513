//! The listener: from an address to answered requests, and an ordered stop.
//!
//! [`start`] binds the address first, so that an address in use is reported before the log is touched; it listens only
//! once the log has recovered. Each connection is one task (see `connection`). A semaphore limits connections: above
//! the limit a connection is answered `overloaded` and closed, by a bounded number of tasks. If the system still runs
//! out of descriptors, accepting pauses and continues.
//!
//! [`Server::shutdown`]: accept no connections; set `App::stopping`, so that long polls end; let every connection
//! answer its running request and close; cut the remaining ones after the drain timeout; close the log. The sampler of
//! the groups' lag ends by itself. A crash at any point is like any other: the log recovers.

pub mod admin_token;
mod certificate;
mod connection;
mod exposure;
mod jwt_source;
mod kafka;
mod mistakes;
pub mod notify;
mod observe;
mod pacing;
mod socket;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::broker::engine::{Clock, Disk, Error, Log, RealDisk, SystemClock};
use crate::broker::limits::Limits;
use crate::broker::refusal::Reason;
use crate::broker::{groups, lag, overview};
use crate::http;
use crate::http::app::App;
use crate::kafka::Kafka;
use crate::metrics::Metrics;
use crate::settings::{Config, OnLogFailed, Secret};
use connection::Connections;
use kafka::KafkaListener;
use socket::say_and_close;
use tls::Tls;

/// Connections in the kernel's queue until they are accepted.
const BACKLOG: u32 = 4096;
/// Connections above the limit that get an answer at once; further ones are closed without one.
const REFUSERS: usize = 64;
/// How long answering a refused connection may take.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the log is asked whether it has failed.
const FAILED_INTERVAL: Duration = Duration::from_millis(500);
/// How often open connections are asked whether what they were signed in with is over: requests end within a second.
const GRANTS_INTERVAL: Duration = Duration::from_millis(200);
/// How often the log says what got no line of its own in a while that has ended.
const LEFT_OUT_INTERVAL: Duration = Duration::from_secs(1);
/// How long cut connections may take to drop their requests.
const CUT_TIMEOUT: Duration = Duration::from_secs(2);
/// The most unsent bytes that the kernel buffers for a connection. By default it buffers megabytes for each client that
/// does not read, and some hundreds of those use up the machine's memory for connections.
const UNSENT_BYTES: u32 = 128 << 10;
/// How long a connection is silent before the kernel probes the client; it takes as long again to give up.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long accepting pauses after an error: errors of one connection pass, a lack of descriptors lasts for a while.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why the server did not start, or did not stop cleanly. Its message is for the operator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address would let in more than anybody has asked for; the message says what to set.
    #[error("{0}")]
    Exposed(String),
    /// The token of the first administrator cannot be used.
    #[error(transparent)]
    AdminToken(#[from] admin_token::AdminTokenError),
    /// Everybody has to sign in, and nobody could.
    #[error(
        "nobody could sign in: auth=tokens needs admin_token (QUIPU_ADMIN_TOKEN), admin_token_file, or a token that this data directory has"
    )]
    NobodyCanSignIn,
    /// The address cannot be used: choose another, or stop the process that uses it.
    #[error("cannot listen on {addr}: {}", why_not(source))]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The operating system's error.
        source: io::Error,
    },
    /// The keys for JWTs cannot be used.
    #[error("{0}")]
    JwtKeys(String),
    /// The certificate, its key or the authorities of client certificates cannot be used.
    #[error("{0}")]
    Tls(String),
    /// The data directory cannot be opened.
    #[error("cannot open the data directory {}: {source}{}", dir.display(), hint(source, *journal_bytes))]
    Open {
        /// The directory.
        dir: PathBuf,
        /// The size of the journal on disk, in bytes.
        journal_bytes: u64,
        /// The engine's error.
        source: Error,
    },
    /// The log did not close cleanly: it recovers at the next start.
    #[error("the log did not close cleanly, it will recover at the next start: {0}")]
    Close(Error),
    /// A thread of the server's own failed.
    #[error("a part of the server failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Why an address cannot be used, and what to do about it.
fn why_not(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there; stop it, or choose another address with --listen".to_owned()
        }
        _ => source.to_string(),
    }
}

/// A hint for a disk that is too small.
fn hint(source: &Error, journal_bytes: u64) -> String {
    let mib = journal_bytes >> 20;
    let needs = format!("the journal needs {mib} MiB (journal_files times journal_file_bytes)");
    match source {
        Error::StorageFull => format!("; beside the records, {needs}"),
        _ => String::new(),
    }
}

/// A running server. Dropping it does not stop it: call [`Server::shutdown`].
pub struct Server {
    addr: SocketAddr,
    app: App,
    tls: Option<Arc<Tls>>,
    issuer: Option<Arc<jwt_source::Issuer>>,
    connections: Arc<Connections>,
    stop_accepting: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    /// For clients of Kafka's protocol, if an address is set for them.
    kafka: Option<KafkaListener>,
    /// Feeds the history of the groups' lag.
    sampling: JoinHandle<()>,
}

/// Opens the log, recovers it, and then answers requests in tasks of the current runtime.
///
/// # Errors
/// [`ServeError::Exposed`], [`ServeError::Tls`], [`ServeError::JwtKeys`], [`ServeError::Listen`] and [`ServeError::Open`]: nothing runs, and only recovery has changed anything.
pub async fn start(config: Config) -> Result<Server, ServeError> {
    start_on(config, Arc::new(RealDisk::new()), Arc::new(SystemClock::new())).await
}

/// The same on any disk and clock.
///
/// # Errors
/// As for [`start`].
pub async fn start_on(
    mut config: Config,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
) -> Result<Server, ServeError> {
    exposure::check(&config).map_err(ServeError::Exposed)?;
    let admin_token = admin_token::read(&config)?;
    let metrics = Arc::new(Metrics::new());
    let tls = Tls::load(&config, metrics.clone()).map_err(ServeError::Tls)?;
    let tls = tls.map(Arc::new);
    let issuer = jwt_source::Issuer::open(&config, clock.clone()).map_err(ServeError::JwtKeys)?;
    let issuer = issuer.map(Arc::new);
    let files = Files::share(crate::broker::engine::raise_file_limit());
    config.limits.max_connections = files.limit_connections(config.limits.max_connections);
    let listen = config.listen;
    let socket = bind(listen)?;
    let kafka_socket = config.kafka_listen.map(bind).transpose()?;

    let (dir, options) = (config.data.clone(), config.log_options());
    let options = crate::broker::engine::Options {
        max_open_files: Some(files.segments),
        ..options
    };
    let journal_bytes = config.journal_file_bytes * u64::from(config.journal_files);
    let engine_clock = clock.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let opened = Log::open_with(disk, engine_clock, &dir, options);
        opened.map_err(|source| ServeError::Open {
            dir,
            journal_bytes,
            source,
        })
    });
    let log = opened.await??;

    let app = App::with_metrics(log, config, clock, metrics);
    app.access
        .set_admin_token(admin_token.as_ref().map(Secret::reveal));
    if let Some(issuer) = issuer.clone() {
        app.access.set_verifier(issuer);
    }
    if app.access.is_on()
        && !app
            .access
            .could_anybody_sign_in(app.config.tls_client_ca.is_some())
    {
        close(&app).await?;
        return Err(ServeError::NobodyCanSignIn);
    }
    let listening = socket
        .listen()
        .and_then(|http| Ok((http, kafka_socket.map(Bound::listen).transpose()?)));
    let ((listener, addr), kafka_listener) = match listening {
        Ok(listening) => listening,
        Err(error) => {
            close(&app).await?;
            return Err(error);
        }
    };
    let router = http::router(app.clone());
    let connections = Arc::new(Connections::new(app.clone(), router, tls.clone()));
    let stalled = Arc::downgrade(&connections);
    app.bodies.set_relief(move || {
        if let Some(connections) = stalled.upgrade() {
            connections.evict_stalled();
        }
    });
    // These end by themselves when the server stops.
    drop(tokio::spawn(app.groups.clone().end_sessions()));
    drop(tokio::spawn(groups::repeats::run(app.groups.clone())));
    let backups = app.backups.clone();
    let look_back = move || backups.look_back();
    drop(tokio::task::spawn_blocking(look_back));
    drop(tokio::spawn(app.audit.clone().run(app.stopping.subscribe())));
    let expiry = groups::expiry::run(app.groups.clone(), app.offsets_retention);
    drop(tokio::spawn(expiry));
    drop(tokio::spawn(overview::traffic::run(
        app.traffic.clone(),
        app.stopping.subscribe(),
    )));
    if let Some(issuer) = issuer.clone() {
        drop(tokio::spawn(issuer.watch(app.stopping.subscribe())));
    }
    if let Some(tls) = tls.clone() {
        drop(tokio::spawn(tls::watch(tls, app.stopping.subscribe())));
    }
    let (stop_accepting, stopped) = watch::channel(false);
    let kafka_wire = || Kafka::new(app.broker.clone(), &app.config, app.metrics.clone());
    let kafka_listener = kafka_listener.map(|listening| (listening, kafka_wire()));
    let kafka = kafka_listener.as_ref().map(|(_, kafka)| kafka.clone());
    drop(tokio::spawn(tell_left_out(connections.clone(), kafka.clone())));
    if app.access.is_on() {
        drop(tokio::spawn(end_grants(connections.clone(), kafka)));
    }
    let kafka = kafka_listener.map(|(listening, kafka)| {
        KafkaListener::start(listening, kafka, connections.clone(), stopped.clone())
    });
    let accepting = tokio::spawn(accept(listener, connections.clone(), files.refusals, stopped));
    let sampling = tokio::spawn(lag::sampler::run(app.lags.clone(), app.stopping.subscribe()));
    Ok(Server {
        addr,
        app,
        tls,
        issuer,
        connections,
        stop_accepting,
        accepting,
        kafka,
        sampling,
    })
}

impl Server {
    /// The address in use, with the chosen port for port 0.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address in use for clients of Kafka's protocol, if they are listened to.
    pub fn kafka_addr(&self) -> Option<SocketAddr> {
        self.kafka.as_ref().map(KafkaListener::addr)
    }

    /// The scheme of the server's addresses.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Reads again the files that settings name, now rather than at their next look: the administrator's token, the
    /// certificate with its key, the authorities of client certificates, the keys for JWTs. What is wrong with them is
    /// logged, and the old stays in force. Returns the settings of which that is so.
    ///
    /// The keys for JWTs may be waited for: dropping the future ends the wait, and the files are read all the same.
    pub async fn reload(&self) -> Vec<&'static str> {
        let (app, tls, issuer) = (self.app.clone(), self.tls.clone(), self.issuer.clone());
        let read = move || {
            let mut kept = Vec::new();
            if let Err(error) = admin_token::reload(&app) {
                tracing::error!(%error, "the former token of the administrator stays in force");
                kept.push("admin_token_file");
            }
            if tls.is_some_and(|tls| !tls.reload()) {
                kept.push("tls_cert");
            }
            if issuer.is_some_and(|issuer| !issuer.read()) {
                kept.push("jwt_keys");
            }
            kept
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// Returns when the log refuses appends until a restart, if that is to end the server (`on_log_failed=exit`).
    pub async fn failed(&self) {
        let log = self.app.log.clone();
        while self.app.config.on_log_failed == OnLogFailed::Stay || !log.is_failed() {
            tokio::time::sleep(FAILED_INTERVAL).await;
        }
    }

    /// The service's state.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Stops in order: accepts no more, answers running requests for at most the drain timeout, closes the log.
    ///
    /// # Errors
    /// [`ServeError::Close`]: everything acknowledged is safe, and the next start recovers.
    pub async fn shutdown(mut self) -> Result<(), ServeError> {
        self.stop_accepting.send_replace(true);
        self.app.stopping.send_replace(true);
        self.accepting.await?;
        if let Some(kafka) = &mut self.kafka {
            kafka.accepted().await?;
        }
        self.connections.drain();
        let drain_timeout = self.app.config.drain_timeout;
        let drained = tokio::time::timeout(drain_timeout, self.connections.all_closed());
        if drained.await.is_err() {
            let metrics = &self.app.metrics;
            let connections = metrics.connections.load(Relaxed) + metrics.kafka.connections.load(Relaxed);
            tracing::warn!(connections, "the drain timeout is over: what is left is cut");
            self.connections.cut();
            if let Some(kafka) = &self.kafka {
                kafka.cut();
            }
            let _ = tokio::time::timeout(CUT_TIMEOUT, self.connections.all_closed()).await;
        }
        if let Some(tracer) = self.app.tracer.is_some().then(|| self.app.clone()) {
            let flush = move || tracer.tracer.as_ref().map(|tracer| tracer.flush(CUT_TIMEOUT));
            let _ = tokio::task::spawn_blocking(flush).await;
        }
        let backups = self.app.backups.clone();
        let stop = tokio::task::spawn_blocking(move || backups.stop());
        let _ = tokio::time::timeout(CUT_TIMEOUT, stop).await;
        // This ends at once, unless it waits for a disk that does not answer.
        let _ = tokio::time::timeout(CUT_TIMEOUT, self.sampling).await;
        close(&self.app).await
    }
}

/// Ends the requests of whoever may no longer call, until the server stops.
async fn end_grants(connections: Arc<Connections>, kafka: Option<Kafka>) {
    let mut stopping = connections.stopping();
    loop {
        tokio::select! {
            () = tokio::time::sleep(GRANTS_INTERVAL) => {
                connections.end_grants();
                if let Some(kafka) = &kafka {
                    kafka.end_grants();
                }
            }
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// Has the log say what got no line of its own, until the server stops.
async fn tell_left_out(connections: Arc<Connections>, kafka: Option<Kafka>) {
    let mut stopping = connections.stopping();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LEFT_OUT_INTERVAL) => {
                connections.tell_left_out();
                if let Some(kafka) = &kafka {
                    kafka.tell_left_out();
                }
            }
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

async fn close(app: &App) -> Result<(), ServeError> {
    let log = app.log.clone();
    let closed = tokio::task::spawn_blocking(move || log.close());
    closed.await?.map_err(ServeError::Close)
}

/// A socket that has an address, and does not listen yet.
struct Bound {
    addr: SocketAddr,
    socket: TcpSocket,
}

impl Bound {
    /// Listens; returns the address in use, too.
    fn listen(self) -> Result<(TcpListener, SocketAddr), ServeError> {
        let listening = self.socket.listen(BACKLOG);
        let listening = listening.and_then(|listener| Ok((listener.local_addr()?, listener)));
        match listening {
            Ok((addr, listener)) => Ok((listener, addr)),
            Err(source) => Err(ServeError::Listen {
                addr: self.addr,
                source,
            }),
        }
    }
}

fn bind(addr: SocketAddr) -> Result<Bound, ServeError> {
    let bind = || {
        let socket = match addr {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        Ok(socket)
    };
    match bind() {
        Ok(socket) => Ok(Bound { addr, socket }),
        Err(source) => Err(ServeError::Listen { addr, source }),
    }
}

/// Sets the options of an accepted connection.
fn prepare(stream: &TcpStream) {
    // Without it a small answer may wait for the acknowledgement of the previous one.
    let _ = stream.set_nodelay(true);
    // A follower may wait for days: without this a machine that disappears would go unnoticed.
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive());
    // If it cannot be set, the kernel's own limits apply.
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES);
}

/// The next connection to a listener; `None`: the server stops.
async fn next(listener: &TcpListener, stopped: &mut watch::Receiver<bool>) -> Option<TcpStream> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // An error means that the server is gone, which also ends this task.
            _ = stopped.wait_for(|stopped| *stopped) => return None,
        };
        match accepted {
            Ok((stream, _)) => {
                prepare(&stream);
                return Some(stream);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept(
    listener: TcpListener,
    connections: Arc<Connections>,
    refusals: usize,
    mut stopped: watch::Receiver<bool>,
) {
    let refusers = Arc::new(Semaphore::new(refusals));
    while let Some(stream) = next(&listener, &mut stopped).await {
        if let Err(stream) = connections.spawn(stream) {
            connections.count_refused();
            if let Ok(permit) = refusers.clone().try_acquire_owned() {
                let tls = connections.tls().cloned();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, refuse(stream, tls)).await;
                    drop(permit);
                });
            }
        }
    }
}

/// When the kernel probes the other end of a silent connection.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE / 4)
        .with_retries(4)
}

/// Answers `overloaded` to any request, and closes such that the client can read it.
async fn refuse(stream: TcpStream, tls: Option<Arc<Tls>>) -> io::Result<()> {
    let detail = "the server has as many connections as it takes; try again";
    let problem = http::problem::Problem::new(Reason::Overloaded, detail);
    let body = format!("{}\n", problem.to_json());
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n\
         retry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = head + &body;
    match tls {
        None => say_and_close(stream, answer.as_bytes()).await,
        Some(tls) => {
            let stream = tls.acceptor().accept(stream).await?;
            say_and_close(stream, answer.as_bytes()).await
        }
    }
}

/// How the process's open files are shared out.
///
/// Connections never take the log's share: a segment that cannot be opened for lack of a descriptor would be a failed
/// write, and end appends to its partition. So connections beyond their share are refused before the process runs out
/// of descriptors.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    /// Segment files open for writing.
    segments: usize,
    connections: usize,
    /// Connections that are refused with an answer at the same time; further ones are closed without one.
    refusals: usize,
}

impl Files {
    /// A quarter for segments open for writing; an eighth (at most 1,024) for files opened briefly, by reads, snapshots
    /// and refusals (a quarter of it at most), and for the process's standard files; the rest for connections.
    fn share(limit: u64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let spare = (limit / 8).min(1024);
        let segments = (limit / 4).max(1);
        let connections = (limit - spare).saturating_sub(segments);
        Self {
            segments,
            connections: connections.max(1),
            refusals: (spare / 4).clamp(1, REFUSERS),
        }
    }

    fn limit_connections(&self, max_connections: usize) -> usize {
        if self.connections < max_connections {
            let connections = self.connections;
            let what = "the limit of open files (ulimit -n) allows fewer connections than max_connections";
            // The default was not chosen, so it needs no warning.
            if max_connections == Limits::default().max_connections {
                tracing::debug!(max_connections, connections, "{what}");
            } else {
                tracing::warn!(max_connections, connections, "{what}");
            }
        }
        max_connections.min(self.connections)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_the_log_its_files_whatever_the_limit() {
        for limit in [16, 64, 256, 1024, 4096, 20_000, 1 << 20, u64::MAX] {
            let files = Files::share(limit);
            let spare = limit as usize - files.segments - files.connections;
            assert!(spare >= (limit as usize / 8).min(1024), "{limit}: {files:?}");
            assert!(files.segments >= limit as usize / 4, "{limit}: {files:?}");
            assert!(files.refusals <= (spare / 4).max(1), "{limit}: {files:?}");
        }
        assert_eq!(Files::share(1024).limit_connections(20_000), 640);
        assert_eq!(Files::share(40_000).limit_connections(20_000), 20_000);
    }
}
