//! One connection: a task that answers its requests, and watches that its client makes progress.
//!
//! A client may keep a connection without a request for `idle_timeout`, take `header_read_timeout` to send a request's
//! head, pause for `body_idle_timeout` within a body, and read nothing of its answer for `write_idle_timeout`. Bodies
//! and answers have no time limit while they make progress: a long poll writes nothing and is not watched, and a slow
//! reader is not closed. Timers cost, and almost no request needs one, so a request that is answered without a wait
//! sets none: the connection's *phase* is an atomic, and its one timer is set only if a poll ends in a phase that has a
//! limit and the timer is not already set for it. When the timer fires, it checks for progress since it was set; a
//! limit therefore takes effect between one and two times its length.
//!
//! While everybody has to sign in, each request passes the door (`http::access`), and the connection keeps what it was given
//! there. If that is revoked, changed or expires meanwhile, the request ends: a handler that still works is answered for with
//! 401, a stream breaks off ([`Connections::end_grants`]). Quotas slow bodies in both directions ([`Pacing`]).
//!
//! Answers that are rendered whole before they are sent (mostly reports: records come in chunks) share
//! [`ANSWER_BYTES`]. If that is used up, the server closes connections whose clients have long read nothing of such an
//! answer; if that is not enough, the answer is `overloaded`. The server closes the same connections if bodies wait for
//! memory that a producer's long answer holds.
//!
//! [`BUFFER_BYTES`] in each direction and one chunk of an answer bound the memory of a connection. Only hyper's parser
//! decides where a request ends. A request that hyper accepts but a proxy in front may frame otherwise is refused and
//! the connection closed ([`misframed`]), so that no part of a body is ever taken for a request.
//!
//! Closing a connection with unread bytes (after an answer of 413, say) would reset it, and the answer could be lost.
//! So it is closed for writing first, and the client's remaining bytes are read and dropped for a while.

mod bodies;
mod stream;

use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tower::Service;

use self::bodies::{AnswerBody, RequestBody};
use self::stream::Stream;
use super::certificate;
use super::mistakes::{Mistake, Mistakes};
use super::observe::{self, Noted};
use super::pacing::{Pacing, Slowed};
use super::socket::{Socket, say_and_close};
use super::tls::{self, Tls};
use crate::broker::access::again::Again;
use crate::broker::budget::relieved;
use crate::broker::caller::{Caller, RequestId};
use crate::broker::refusal::{Outcome, Reason};
use crate::broker::rights::grant::{Certificate, Grant};
use crate::broker::sparing::Sparing;
use crate::http::access::{Door, InFlight, Kind};
use crate::http::app::App;
use crate::http::browsers::CrossOrigin;
use crate::http::forwarded::Proxies;
use crate::http::problem::Problem;
use crate::http::{HoldsBodies, Mapped, SignedIn, browsers, not_found};
use crate::metrics::{Metrics, Requests, Slot, UNMATCHED};
use crate::settings::{Config, TlsEnd};

/// The largest buffer of a connection in each direction, in bytes. An idle connection keeps its buffer, and thousands
/// of slow readers fill theirs: so it is no larger than a fast upload needs. (A chunk beyond it may be buffered whole.)
const BUFFER_BYTES: usize = 64 << 10;
/// A larger answer that was rendered whole takes a share of [`ANSWER_BYTES`].
const SMALL_ANSWER_BYTES: u64 = 64 << 10;
/// The most bytes of all answers that were rendered whole; a larger one takes all of it.
const ANSWER_BYTES: usize = 64 << 20;
/// The most answers that wait for a share; further ones are refused.
const WAITING_ANSWERS: usize = 4;
/// How long an answer waits for its share.
const ANSWER_WAIT: Duration = Duration::from_secs(4);
/// A client that has read nothing for this long is closed if an answer waits.
const ANSWER_PATIENCE_MS: u64 = 2000;
/// The most places that connections of other protocols leave free.
const MAX_KEPT_FOR_HTTP: usize = 8;
/// How long a client may continue to send after its request was refused.
const LINGER: Duration = Duration::from_secs(10);
/// How long a request without its body may take to answer.
const LATE_ANSWER: Duration = Duration::from_secs(1);

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// The state that all connections share.
pub(super) struct Connections {
    app: App,
    router: Router,
    requests: Arc<Requests>,
    door: Door,
    proxies: Proxies,
    /// `None`: connections are plain.
    tls: Option<Arc<Tls>>,
    permits: Arc<Semaphore>,
    max: u32,
    /// A random number of this process, for the ids of requests.
    life: u32,
    /// [`ANSWER_BYTES`], in permits of a KiB.
    answers: Arc<Semaphore>,
    /// [`WAITING_ANSWERS`].
    waiting: Semaphore,
    stage: AtomicU8,
    next_id: AtomicU64,
    /// Which changes that are refused have a line in the log.
    refused_changes: Sparing,
    /// The same of clients that speak something else.
    mistakes: Mistakes,
    /// Every open connection, to be woken when the stage changes.
    open: Mutex<HashMap<u64, Arc<Connection>>>,
}

/// Stages of [`Connections`], in order.
const RUNNING: u8 = 0;
const DRAINING: u8 = 1;
const CUT: u8 = 2;

/// Phases of a [`Connection`]: between requests, within a head, answering, waiting for a part of a body. In any phase
/// the timer sees `WRITING` while the socket accepts no more bytes.
const IDLE: u8 = 0;
const HEAD: u8 = 1;
const ANSWERING: u8 = 2;
const BODY: u8 = 3;
const WRITING: u8 = 4;

/// The state that the parts of one connection share.
struct Connection {
    id: u64,
    caller: Caller,
    /// What the client has presented in the handshake.
    certificate: OnceLock<Arc<Certificate>>,
    /// How many requests it had.
    requests: AtomicU32,
    /// The bytes of the last request's body that were read.
    received_bytes: AtomicU64,
    shared: Arc<Connections>,
    /// The task's waker; it never changes, so the first poll sets it.
    waker: OnceLock<Waker>,
    phase: AtomicU8,
    /// The first byte of the connection, once it has arrived.
    first_byte: OnceLock<u8>,
    /// Raised by received bytes, and by bytes sent after a wait; a timer that finds it unchanged saw no progress.
    progress: AtomicU32,
    /// The socket accepts no more bytes: the client does not read.
    is_blocked: AtomicBool,
    /// Since when it is blocked, in milliseconds of the monotonic clock.
    blocked_since_ms: AtomicU64,
    /// The answer holds a share of the answers' or the bodies' bytes until the client has read it.
    has_answer: AtomicBool,
    /// Others need its share: it closes.
    is_evicted: AtomicBool,
    /// A body's next read fails: its client paused for too long.
    is_late: AtomicBool,
    /// A body was dropped before its end.
    is_unread: AtomicBool,
    /// What the request that is being answered was signed in with; only while everybody has to sign in.
    grant: Mutex<Option<Arc<Grant>>>,
    /// The token that was valid last.
    again: Again,
    /// That is over: the request ends.
    is_over: AtomicBool,
    /// The quota of the grant counts the request's body.
    counts_body: AtomicBool,
    /// It slows it, too.
    slows_body: AtomicBool,
}

impl Connection {
    /// Notes whether the socket accepted the written bytes.
    fn note_write<T>(&self, written: &Poll<io::Result<T>>) {
        let is_blocked = written.is_pending();
        if is_blocked == self.is_blocked.load(Relaxed) {
            return;
        }
        if is_blocked {
            self.blocked_since_ms.store(self.shared.now_ms(), Relaxed);
        } else {
            self.progress.fetch_add(1, Relaxed);
        }
        self.is_blocked.store(is_blocked, Relaxed);
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

impl Connections {
    pub(super) fn new(app: App, router: Router, tls: Option<Arc<Tls>>) -> Self {
        let max = u32::try_from(app.config.limits.max_connections).unwrap_or(u32::MAX);
        // The router has created the rows already.
        let requests = app.metrics.requests(Vec::new);
        Self {
            door: Door::new(&app, &requests),
            requests,
            router,
            proxies: Proxies::of(&app.config),
            tls,
            permits: Arc::new(Semaphore::new(max as usize)),
            max,
            life: RandomState::new().hash_one(0u8) as u32,
            answers: Arc::new(Semaphore::new(ANSWER_BYTES / 1024)),
            waiting: Semaphore::new(WAITING_ANSWERS),
            stage: AtomicU8::new(RUNNING),
            next_id: AtomicU64::new(0),
            refused_changes: Sparing::default(),
            mistakes: Mistakes::default(),
            open: Mutex::default(),
            app,
        }
    }

    /// Answers a connection in a task of its own; returns it above the limit.
    pub(super) fn spawn(self: &Arc<Self>, stream: TcpStream) -> Result<(), TcpStream> {
        let Some(permit) = self.permit() else {
            return Err(stream);
        };
        let connection = Arc::new(Connection {
            id: self.next_id.fetch_add(1, Relaxed),
            caller: Caller {
                address: stream.peer_addr().ok(),
                ..Caller::default()
            },
            certificate: OnceLock::new(),
            requests: AtomicU32::new(0),
            received_bytes: AtomicU64::new(0),
            shared: self.clone(),
            waker: OnceLock::new(),
            phase: AtomicU8::new(HEAD),
            first_byte: OnceLock::new(),
            progress: AtomicU32::new(0),
            is_blocked: AtomicBool::new(false),
            blocked_since_ms: AtomicU64::new(0),
            has_answer: AtomicBool::new(false),
            is_evicted: AtomicBool::new(false),
            is_late: AtomicBool::new(false),
            is_unread: AtomicBool::new(false),
            grant: Mutex::default(),
            again: Again::default(),
            is_over: AtomicBool::new(false),
            counts_body: AtomicBool::new(false),
            slows_body: AtomicBool::new(false),
        });
        self.open.lock().insert(connection.id, connection.clone());
        self.app.metrics.connections.fetch_add(1, Relaxed);
        self.app.metrics.accepted_connections.fetch_add(1, Relaxed);
        let registered = Registered {
            connection,
            _permit: permit,
        };
        tokio::spawn(serve(stream, registered));
        Ok(())
    }

    /// The place of a connection of another protocol; `None`: all are taken, but a few that are kept for HTTP, so that
    /// an administrator gets in.
    pub(super) fn permit_beside_http(&self) -> Option<OwnedSemaphorePermit> {
        let kept = (self.max as usize / 100).clamp(1, MAX_KEPT_FOR_HTTP);
        let permit = self.permit()?;
        (self.permits.available_permits() >= kept).then_some(permit)
    }

    /// The place of one connection; `None`: all are taken.
    pub(super) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    /// A random number of this process.
    pub(super) fn life(&self) -> u32 {
        self.life
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.app.metrics
    }

    pub(super) fn config(&self) -> &Config {
        &self.app.config
    }

    /// Whether a connection from there comes from a trusted proxy that ends TLS before this server.
    pub(super) fn is_behind_tls(&self, peer: Option<SocketAddr>) -> bool {
        let is_trusted = peer.is_some_and(|peer| self.proxies.trusts(peer.ip()));
        self.app.config.tls == TlsEnd::Proxy && is_trusted
    }

    pub(super) fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    pub(super) fn count_refused(&self) {
        self.app.metrics.refused_connections.fetch_add(1, Relaxed);
    }

    /// Every connection answers its running request and closes.
    pub(super) fn drain(&self) {
        self.enter(DRAINING);
    }

    /// Closes every connection at once.
    pub(super) fn cut(&self) {
        self.enter(CUT);
    }

    /// Returns when no connection is open; none may be spawned meanwhile.
    pub(super) async fn all_closed(&self) {
        // The semaphore is never closed.
        let _ = self.permits.acquire_many(self.max).await;
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.app.clock.monotonic().0.as_millis()).unwrap_or(u64::MAX)
    }

    /// A share of the answers' bytes for an answer of `bytes`; `None` if there is none.
    async fn hold_answer(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let permits = bytes.div_ceil(1024).min(ANSWER_BYTES as u64 / 1024) as u32;
        if let Ok(permit) = self.answers.clone().try_acquire_many_owned(permits) {
            return Some(permit);
        }
        // Waiting answers are in memory too.
        let _waiting = self.waiting.try_acquire().ok()?;
        let acquired = self.answers.clone().acquire_many_owned(permits);
        relieved(ANSWER_WAIT, acquired, || self.evict_stalled())
            .await?
            .ok()
    }

    /// Closes the connections with whole answers whose clients have long read nothing.
    pub(super) fn evict_stalled(&self) {
        let now_ms = self.now_ms();
        for connection in self.open.lock().values() {
            let blocked_ms = now_ms.saturating_sub(connection.blocked_since_ms.load(Relaxed));
            if connection.has_answer.load(Relaxed)
                && connection.is_blocked.load(Relaxed)
                && blocked_ms >= ANSWER_PATIENCE_MS
            {
                connection.is_evicted.store(true, SeqCst);
                connection.wake();
            }
        }
    }

    /// Becomes true when the server begins to stop.
    pub(super) fn stopping(&self) -> watch::Receiver<bool> {
        self.app.stopping.subscribe()
    }

    /// Ends the requests whose token, JWT or certificate is not valid any more.
    pub(super) fn end_grants(&self) {
        for connection in self.open.lock().values() {
            let is_over = |grant: &Arc<Grant>| self.app.access.is_over(grant);
            if connection.grant.lock().as_ref().is_some_and(is_over) && !connection.is_over.swap(true, SeqCst)
            {
                connection.wake();
            }
        }
    }

    /// Writes the lines that say what got no line of its own.
    pub(super) fn tell_left_out(&self) {
        self.app.access.tell_left_out();
        let now = self.app.clock.monotonic();
        observe::tell_left_out(&self.refused_changes, now);
        self.mistakes.tell_left_out(now);
    }

    /// Notes what a client got wrong.
    pub(super) fn note(&self, mistake: Mistake, address: Option<SocketAddr>) {
        self.mistakes.note(self.app.clock.monotonic(), mistake, address);
    }

    fn enter(&self, stage: u8) {
        self.stage.store(stage, SeqCst);
        self.open.lock().values().for_each(|connection| connection.wake());
    }
}

/// An open connection; dropping it removes it from the list.
struct Registered {
    connection: Arc<Connection>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let shared = &self.connection.shared;
        shared.open.lock().remove(&self.connection.id);
        shared.app.metrics.connections.fetch_sub(1, Relaxed);
    }
}

async fn serve(stream: TcpStream, registered: Registered) {
    let connection = registered.connection.clone();
    let shared = connection.shared.clone();
    let socket = match &shared.tls {
        None => Socket::Plain(stream),
        // Boxed, so that it takes no memory when it is over.
        Some(tls) => match Box::pin(shake_hands(stream, tls, &connection)).await {
            Some(stream) => Socket::Tls(stream),
            None => return,
        },
    };
    let io = TokioIo::new(Stream {
        stream: socket,
        connection: connection.clone(),
        linger: None,
        is_shut: false,
    });
    let service = {
        let connection = connection.clone();
        service_fn(move |request| answer(connection.clone(), request))
    };
    let head_bytes = shared.app.config.limits.max_request_head_bytes;
    let serving = http1::Builder::new()
        .header_read_timeout(None)
        .max_header_size(head_bytes)
        .max_buf_size(BUFFER_BYTES.max(head_bytes))
        .serve_connection(io, service);
    let mut serving = pin!(serving);
    let mut watch = Watch::new(&connection);
    let mut stage = RUNNING;
    std::future::poll_fn(|cx| {
        // Before the stage is read, so that no change is missed.
        connection.waker.get_or_init(|| cx.waker().clone());
        loop {
            // Poll the connection first: a request that has arrived is answered even if the server stops. Errors are
            // the client's: a broken connection or a malformed request, which hyper has answered.
            if let Poll::Ready(served) = serving.as_mut().poll(cx) {
                let is_no_request = served.is_err_and(|error| error.is_parse());
                let first = connection.first_byte.get().filter(|_| is_no_request);
                if let Some(mistake) = first.and_then(|first| Mistake::at_http(*first)) {
                    shared.note(mistake, connection.caller.address);
                }
                return Poll::Ready(());
            }
            let now = shared.stage.load(SeqCst);
            if now == CUT {
                return Poll::Ready(());
            }
            // Nothing of its stream would reach the client's eyes, so it cannot break off in order.
            if connection.is_over.load(SeqCst) && connection.is_blocked.load(Relaxed) {
                return Poll::Ready(());
            }
            if connection.is_evicted.load(SeqCst) {
                shared.app.metrics.stalled_connections.fetch_add(1, Relaxed);
                return Poll::Ready(());
            }
            if now != stage {
                stage = now;
                serving.as_mut().graceful_shutdown();
                continue;
            }
            match watch.look(cx, &connection) {
                Verdict::Fine => return Poll::Pending,
                Verdict::Again => {}
                Verdict::Close => return Poll::Ready(()),
            }
        }
    })
    .await;
}

/// The stream after the TLS handshake; `None`: there is none, and the connection is over. A client has as much time for
/// all of it as for the head of a request.
async fn shake_hands(
    stream: TcpStream,
    tls: &Tls,
    connection: &Connection,
) -> Option<Box<TlsStream<TcpStream>>> {
    let shared = &*connection.shared;
    let timeout = shared.app.config.header_read_timeout;
    let handshake = async {
        let mut first = [0];
        match stream.peek(&mut first).await {
            // Probes of the port connect, and send nothing.
            Ok(0) | Err(_) => return Ok(None),
            Ok(_) if first[0] == 0 => shared.note(Mistake::KafkaToHttp, connection.caller.address),
            Ok(_) if tls::is_plain_http(first[0]) => {
                let said = say_and_close(stream, tls::PLAIN_HTTP.as_bytes()).await;
                return said.and(Err(io::Error::other("plain HTTP instead of TLS")));
            }
            Ok(_) => {}
        }
        let stream = tls.acceptor().accept(stream).await?;
        Ok(Some(Box::new(stream)))
    };
    let mut handshake = pin!(tokio::time::timeout(timeout, handshake));
    let ended = std::future::poll_fn(|cx| {
        // Before the stage is read, so that no change is missed.
        connection.waker.get_or_init(|| cx.waker().clone());
        match handshake.as_mut().poll(cx) {
            Poll::Pending if shared.stage.load(SeqCst) != RUNNING => Poll::Ready(None),
            ended => ended.map(Some),
        }
    });
    let error = match ended.await? {
        Ok(Ok(stream)) => {
            if let Some(certificate) = stream.as_deref().and_then(certificate::of_client) {
                let _ = connection.certificate.set(certificate);
            }
            return stream;
        }
        Ok(Err(error)) => error,
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    shared.app.metrics.failed_handshakes.fetch_add(1, Relaxed);
    tls::log_failure(&error);
    None
}

/// Answers one request: counts it, and turns a panic into an answer.
async fn answer(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    connection.phase.store(ANSWERING, Relaxed);
    connection.progress.fetch_add(1, Relaxed);
    connection.is_unread.store(false, Relaxed);
    let shared = &*connection.shared;
    let is_sign_in_needed = shared.app.access.is_on();
    if is_sign_in_needed {
        // What is refused before it is looked at is not in the name of whoever came before.
        *connection.grant.lock() = None;
    }
    let started = shared.app.clock.monotonic();
    let slot = shared.requests.find(request.method(), request.uri().path());
    let is_safe = request.method().is_safe();
    let request_id = RequestId {
        life: shared.life,
        connection: connection.id,
        number: connection.requests.fetch_add(1, Relaxed),
    };
    let peer = connection.caller.address;
    let client = shared.proxies.client(peer, request.headers());
    let page = CrossOrigin::of(&shared.app.config, request.headers());
    let address = *client.as_ref().unwrap_or(&peer);
    let who = (address, request_id);
    let mut noted = Noted::begin(&shared.app, &shared.requests, slot, &request, who, started);
    connection.received_bytes.store(0, Relaxed);
    let mut request = request.map(|body| match body.is_end_stream() {
        true => Body::empty(),
        false => Body::new(RequestBody {
            body,
            is_ended: false,
            bytes: 0,
            pacing: None,
            connection: connection.clone(),
        }),
    });
    let caller = Caller {
        address,
        request_id,
        certificate: connection.certificate.get().cloned(),
        ..connection.caller.clone()
    };
    let expects_continue = request.headers().contains_key(header::EXPECT);
    let mut in_flight = None;
    let mut response = if let Some(problem) = misframed(request.headers()) {
        refuse(problem, request)
    } else if let Err(problem) = client.and_then(|_| browsers::check(&shared.app.config, &request)) {
        drop(request);
        problem.into_response()
    } else if let Some(preflight) = page.as_ref().and_then(|page| page.preflight(&request)) {
        drop(request);
        preflight
    } else {
        match admit(&connection, slot, &mut request, caller).await {
            // The router would take nothing between two slashes for a name, on a route that the door has not looked at.
            Ok(_) if slot == UNMATCHED => {
                let uri = request.uri().clone();
                drop(request);
                not_found(uri).await.into_response()
            }
            Ok(admitted) => {
                in_flight = admitted;
                let answering = shared.router.clone().call(request);
                let answering = until_over(&connection, AssertUnwindSafe(answering).catch_unwind());
                match answering.await {
                    Some(Ok(Ok(response))) => response,
                    Some(Ok(Err(never))) => match never {},
                    Some(Err(panic)) => answer_panic(&*panic),
                    None => over(is_safe),
                }
            }
            Err(problem) => {
                drop(request);
                problem.into_response()
            }
        }
    };
    let grant = match is_sign_in_needed {
        true => connection.grant.lock().clone(),
        false => None,
    };
    if let (Some(_), Some(grant)) = (&noted, &grant) {
        let name = SignedIn(Arc::clone(&grant.principal.name));
        response.extensions_mut().insert(name);
    }
    // A client may send its body without being asked for it: close the connection, and say so in the answer.
    if expects_continue && connection.is_unread.load(Relaxed) {
        response.headers_mut().insert(header::CONNECTION, CLOSE);
    }
    let holds_bodies = response.extensions().get::<HoldsBodies>().is_some();
    if holds_bodies {
        connection.has_answer.store(true, Relaxed);
    }
    let (mut response, held) = hold(&connection, response, is_safe).await;
    browsers::expose(&shared.app.config, page, response.headers_mut());
    observe::problem(&shared.requests, slot, request_id, &mut response);
    let now = shared.app.clock.monotonic();
    if let Some(noted) = &mut noted {
        noted.answered(&shared.requests, (&shared.refused_changes, now), &mut response);
    }
    let duration = now.since(started);
    shared.requests.observe(slot, response.status(), duration);
    let is_stream = response.body().size_hint().exact().is_none();
    let pacing = in_flight.as_ref().and_then(|in_flight| {
        let how = match in_flight.kind {
            Kind::Poll => Slowed::FromTheFirst,
            Kind::Other if is_stream => Slowed::AfterTheFirst,
            Kind::Acknowledgement | Kind::Other => Slowed::Never,
        };
        Pacing::begin(&in_flight.quota, &shared.app.clock, how)
    });
    Ok(response.map(|body| AnswerBody {
        ends_with_grant: grant.is_some() && is_stream,
        pacing,
        _in_flight: in_flight,
        body,
        held,
        holds_bodies,
        noted,
        is_whole: false,
        connection: connection.clone(),
    }))
}

/// Lets a request in, with its caller completed; a request that a quota counts comes with its count. While nobody has to sign
/// in, this is one branch.
async fn admit(
    connection: &Connection,
    slot: Slot,
    request: &mut Request<Body>,
    mut caller: Caller,
) -> Result<Option<InFlight>, Problem> {
    let shared = &connection.shared;
    let mut in_flight = None;
    if shared.app.access.is_on() {
        let head = (request.uri().path(), request.headers());
        let entered = shared
            .door
            .enter(slot, head, &mut caller, &connection.again)
            .await;
        // Before anything else happens, so that nothing runs with a grant that nobody watches.
        *connection.grant.lock() = caller.grant().cloned();
        connection.is_over.store(false, SeqCst);
        in_flight = entered?;
        let kind = in_flight.as_ref().map(|in_flight| in_flight.kind);
        connection.counts_body.store(kind.is_some(), Relaxed);
        connection.slows_body.store(kind == Some(Kind::Other), Relaxed);
    }
    request.extensions_mut().insert(caller);
    Ok(in_flight)
}

/// What `work` comes to; `None` if what the request was signed in with is over before.
async fn until_over<F: Future>(connection: &Connection, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| {
        if connection.is_over.load(Relaxed) {
            return Poll::Ready(None);
        }
        work.as_mut().poll(cx).map(Some)
    })
    .await
}

/// The answer to a request that ends with what it was signed in with.
fn over(is_safe: bool) -> Response {
    let detail = "the token was revoked or changed, or has expired, while the request was answered";
    let outcome = if is_safe { Outcome::None } else { Outcome::Unknown };
    Problem::new(Reason::Unauthenticated, detail)
        .outcome(outcome)
        .into_response()
}

/// Why a parsed request is refused: its body has a transfer coding besides `chunked`, or several. Nothing here decodes
/// them, and a proxy may have seen the body end elsewhere.
fn misframed(headers: &HeaderMap) -> Option<Problem> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let first = codings.next()?;
    if first.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none() {
        return None;
    }
    let detail = "the only transfer-encoding that is supported is chunked, once";
    Some(Problem::new(Reason::NotSupported, detail).with("pointer", "transfer-encoding"))
}

/// Refuses a request whose end is in doubt: no later bytes of the connection are read as a request.
fn refuse(problem: Problem, request: Request<Body>) -> Response {
    drop(request);
    let mut response = problem.into_response();
    response.headers_mut().insert(header::CONNECTION, CLOSE);
    response
}

/// Takes an answer's share of the answers' bytes.
async fn hold(
    connection: &Connection,
    response: Response,
    is_safe: bool,
) -> (Response, Option<OwnedSemaphorePermit>) {
    let bytes = response.body().size_hint().exact().unwrap_or(0);
    if bytes <= SMALL_ANSWER_BYTES || response.extensions().get::<Mapped>().is_some() {
        return (response, None);
    }
    let Some(permit) = connection.shared.hold_answer(bytes).await else {
        let outcome = if is_safe { Outcome::None } else { Outcome::Unknown };
        let problem = Problem::new(Reason::Overloaded, "too many answers are being sent; try again");
        return (problem.outcome(outcome).into_response(), None);
    };
    connection.has_answer.store(true, Relaxed);
    (response, Some(permit))
}

fn answer_panic(panic: &(dyn Any + Send)) -> Response {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let what = text.unwrap_or("no message");
    tracing::error!(panic = what, "a request panicked");
    Problem::new(Reason::Internal, "the server could not do it; its log says why")
        .outcome(Outcome::Unknown)
        .into_response()
}

enum Verdict {
    Fine,
    /// Poll the connection again: its body's next read fails.
    Again,
    Close,
}

/// The one timer of a connection.
struct Watch {
    sleep: Pin<Box<Sleep>>,
    /// The phase that the timer is set for, and the progress at that time.
    set_for: Option<(u8, u32)>,
}

impl Watch {
    fn new(connection: &Connection) -> Self {
        let timeout = connection.shared.app.config.header_read_timeout;
        Self {
            sleep: Box::pin(tokio::time::sleep(timeout)),
            set_for: None,
        }
    }

    fn look(&mut self, cx: &mut Context<'_>, connection: &Connection) -> Verdict {
        let is_blocked = connection.is_blocked.load(Relaxed);
        let phase = if is_blocked {
            WRITING
        } else {
            connection.phase.load(Relaxed)
        };
        let progress = connection.progress.load(Relaxed);
        let config = &connection.shared.app.config;
        let timeout = match phase {
            IDLE => config.idle_timeout,
            HEAD => config.header_read_timeout,
            BODY => config.body_idle_timeout,
            WRITING => config.write_idle_timeout,
            _ => return Verdict::Fine,
        };
        if let Some((set_phase, set_progress)) = self.set_for
            && set_phase == phase
        {
            if !self.sleep.is_elapsed() {
                return Verdict::Fine;
            }
            if set_progress == progress {
                return self.expire(cx, phase, connection);
            }
        }
        self.arm(cx, timeout, (phase, progress));
        Verdict::Fine
    }

    fn expire(&mut self, cx: &mut Context<'_>, phase: u8, connection: &Connection) -> Verdict {
        if phase == BODY && !connection.is_late.swap(true, Relaxed) {
            let progress = connection.progress.load(Relaxed);
            self.arm(cx, LATE_ANSWER, (phase, progress));
            return Verdict::Again;
        }
        if phase == WRITING {
            let metrics = &connection.shared.app.metrics;
            metrics.stalled_connections.fetch_add(1, Relaxed);
        }
        Verdict::Close
    }

    fn arm(&mut self, cx: &mut Context<'_>, timeout: Duration, set_for: (u8, u32)) {
        let deadline = Instant::now() + timeout;
        self.sleep.as_mut().reset(deadline);
        self.set_for = Some(set_for);
        if self.sleep.as_mut().poll(cx).is_ready() {
            // It fired while it was being set: check again as soon as possible.
            cx.waker().wake_by_ref();
        }
    }
}
