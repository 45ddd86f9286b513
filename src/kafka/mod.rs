//! Kafka's protocol, a wire over the broker like `http`: parse, call, render. It decides nothing about topics, records
//! and groups.
//!
//! - [`wire`] encodes messages, [`messages`] declares them, [`header`] what stands before them.
//! - [`frames`] cuts a connection's bytes into requests, [`connection`] answers them in order, and [`backlog`] counts
//!   what a client has not read yet.
//! - [`apis`] is the table of what is offered; each API has its handler in a file here, and gets a [`call::Call`].
//! - [`admin`] has the APIs for administrators; [`changes`] notes in the log what they change.
//! - [`session`] knows who a connection's client is, [`sasl`] how it signs in, [`quotas`] what it may use.
//! - [`errors`] maps a refusal's reason to Kafka's code.
//!
//! The node is alone: it has id 0, leads every partition in epoch 0 and coordinates every group. The cluster's id is that
//! of the data directory, a topic's id is the directory's id followed by the topic's number in it.

mod admin;
mod api_versions;
mod apis;
mod backlog;
mod call;
mod changes;
mod connection;
mod consumers;
mod coordinator;
mod errors;
mod fetch;
mod frames;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod group_offsets;
mod groups;
mod header;
mod members;
mod messages;
mod metadata;
mod offsets;
mod produce;
mod quotas;
mod sasl;
mod session;
mod wire;

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use self::changes::Changes;
use self::session::{Session, Sessions};
use crate::broker::Broker;
use crate::broker::budget::Pool;
use crate::broker::rights::grant::Certificate;
use crate::metrics::Metrics;
use crate::settings::{Config, host_and_port};

/// The service as Kafka's clients see it. Cheap to clone.
#[derive(Clone)]
pub struct Kafka(Arc<Inner>);

/// The parts of [`Kafka`].
pub struct Inner {
    pub(crate) broker: Broker,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) settings: Settings,
    /// The memory for large answers, from when they are made until their clients have read them.
    pub(crate) answers: Pool,
    /// The memory for batches that are stored in another compression than they came in, until the log has queued them.
    pub(crate) rebuilt: Pool,
    changes: Changes,
    sessions: Sessions,
}

/// As much as HTTP has for answers that are rendered whole.
const ANSWERS_BYTES: u64 = 64 << 20;
/// As much as the largest batch takes.
const REBUILT_BYTES: u64 = 32 << 20;

/// The settings that this wire needs.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The host and the port that clients are told; `None`: those that they have reached.
    pub(crate) advertise: Option<(String, u16)>,
    /// Whether a topic is created when a client asks for it by its name.
    pub(crate) auto_create: bool,
    /// The partitions of a topic that is created without a number of them.
    pub(crate) partitions: u32,
    /// Whether a topic with several replicas may be asked for; it has one.
    pub(crate) any_replication: bool,
    /// How long a connection may be idle.
    pub(crate) idle_timeout: Duration,
    /// How long a client may pause within a request.
    pub(crate) pause_timeout: Duration,
    /// How long a client may not read its answer.
    pub(crate) write_timeout: Duration,
    /// How long a client that has to sign in may take for that in all.
    pub(crate) sign_in_timeout: Duration,
}

/// What a client got wrong that is no Kafka client, or is not set up for this listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// It speaks HTTP.
    Http,
    /// It speaks TLS, below which there is none or other TLS.
    Tls,
    /// It has sent a request before it has signed in.
    NotSignedIn,
}

/// The answer to HTTP.
pub const TO_HTTP: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
    cache-control: no-store\r\nconnection: close\r\ncontent-length: 60\r\n\r\n\
    this port speaks Kafka's protocol: HTTP is at another port\r\n";

/// A connection, as the listener knows it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client's address.
    pub address: Option<SocketAddr>,
    /// The address that it has reached.
    pub reached: SocketAddr,
    /// Whether nobody can overhear the connection: it is under TLS, here or before a trusted proxy.
    pub is_private: bool,
    /// The certificate that the client has presented; the listener has verified it.
    pub certificate: Option<Arc<Certificate>>,
    /// A random number of this process.
    pub life: u32,
    /// The connection's number.
    pub connection: u64,
}

impl Kafka {
    /// The wire over a broker.
    #[must_use]
    pub fn new(broker: Broker, config: &Config, metrics: Arc<Metrics>) -> Self {
        metrics.kafka.register(apis::APIS.iter().map(|api| api.name));
        Self(Arc::new(Inner {
            settings: Settings {
                advertise: config
                    .kafka_advertise
                    .as_deref()
                    .and_then(host_and_port)
                    .map(|(host, port)| (host.to_owned(), port)),
                auto_create: config.kafka_auto_create,
                partitions: config.kafka_partitions,
                any_replication: config.kafka_any_replication,
                idle_timeout: config.idle_timeout,
                pause_timeout: config.body_idle_timeout,
                write_timeout: config.write_idle_timeout,
                sign_in_timeout: config.header_read_timeout.min(config.idle_timeout),
            },
            broker,
            metrics,
            answers: Pool::new(ANSWERS_BYTES),
            rebuilt: Pool::new(REBUILT_BYTES),
            changes: Changes::default(),
            sessions: Sessions::default(),
        }))
    }

    /// Answers the requests of a connection until it ends, or until the server stops: then what was begun is answered.
    /// Returns what the client got wrong, if nothing could be answered for that.
    pub async fn serve<S: AsyncRead + AsyncWrite>(&self, stream: S, peer: Peer) -> Option<Mistake> {
        let session = Arc::new(Session::new(&self.broker.access, &peer));
        // Nobody's session ends if nobody has to sign in.
        let _open = self
            .broker
            .access
            .is_on()
            .then(|| self.sessions.open(peer.connection, &session));
        connection::serve(self, stream, &session, (peer.life, peer.connection)).await
    }

    /// Closes the connections whose token, JWT or certificate is not valid any more.
    pub fn end_grants(&self) {
        self.sessions.end(&self.broker.access);
    }
}

impl Deref for Kafka {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}
