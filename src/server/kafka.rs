//! The listener for clients of Kafka's protocol: its sockets, their limits, and its part of the ordered stop.
//!
//! Connections count in the same limit as those of HTTP, and leave a few places of it free. Above it, a connection is closed at once: the protocol has no
//! answer to a request that was not sent. What the bytes of a connection mean is in [`crate::kafka`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::certificate;
use super::connection::Connections;
use super::mistakes::Mistake;
use super::next;
use super::socket::{Socket, say_and_close};
use super::tls::{self, Tls};
use crate::kafka::{Kafka, Peer, TO_HTTP};
use crate::metrics::KafkaCounters;

/// A running listener.
pub(super) struct KafkaListener {
    addr: SocketAddr,
    accepting: JoinHandle<()>,
    cut: watch::Sender<bool>,
}

impl KafkaListener {
    /// Accepts connections until `stopped`; their places are taken from `connections`.
    pub(super) fn start(
        (listener, addr): (TcpListener, SocketAddr),
        kafka: Kafka,
        connections: Arc<Connections>,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let cut = watch::Sender::new(false);
        let shared = Shared {
            kafka,
            connections,
            cut: cut.subscribe(),
            next_id: AtomicU64::new(0),
        };
        Self {
            addr,
            accepting: tokio::spawn(accept(listener, Arc::new(shared), stopped)),
            cut,
        }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns when no more connections are accepted; open ones go on.
    pub(super) async fn accepted(&mut self) -> Result<(), tokio::task::JoinError> {
        (&mut self.accepting).await
    }

    /// Closes every connection at once.
    pub(super) fn cut(&self) {
        self.cut.send_replace(true);
    }
}

struct Shared {
    kafka: Kafka,
    connections: Arc<Connections>,
    cut: watch::Receiver<bool>,
    next_id: AtomicU64,
}

impl Shared {
    fn counters(&self) -> &KafkaCounters {
        &self.connections.metrics().kafka
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    while let Some(stream) = next(&listener, &mut stopped).await {
        let Some(permit) = shared.connections.permit_beside_http() else {
            shared.counters().refused_connections.fetch_add(1, Relaxed);
            continue;
        };
        shared.counters().connections.fetch_add(1, Relaxed);
        shared.counters().accepted_connections.fetch_add(1, Relaxed);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut cut = shared.cut.clone();
            tokio::select! {
                () = serve(&shared, stream) => {}
                // An error means that the server is gone.
                _ = cut.wait_for(|cut| *cut) => {}
            }
            shared.counters().connections.fetch_sub(1, Relaxed);
            drop(permit);
        });
    }
}

async fn serve(shared: &Shared, stream: TcpStream) {
    let Ok(reached) = stream.local_addr() else { return };
    let address = stream.peer_addr().ok();
    let socket = match shared.connections.tls() {
        None => Some(Socket::Plain(stream)),
        Some(tls) => shake_hands(shared, tls, stream).await,
    };
    let Some(socket) = socket else { return };
    let certificate = match &socket {
        Socket::Tls(stream) => certificate::of_client(stream),
        Socket::Plain(_) => None,
    };
    let peer = Peer {
        address,
        reached,
        is_private: matches!(socket, Socket::Tls(_)) || shared.connections.is_behind_tls(address),
        certificate,
        life: shared.connections.life(),
        connection: shared.next_id.fetch_add(1, Relaxed),
    };
    if let Some(mistake) = shared.kafka.serve(socket, peer).await {
        shared.connections.note(mistake.into(), address);
    }
}

/// The stream after the TLS handshake; `None`: there is none, and the connection is over.
async fn shake_hands(shared: &Shared, tls: &Tls, stream: TcpStream) -> Option<Socket> {
    let mut stopping = shared.connections.stopping();
    let limit = shared.connections.config().header_read_timeout;
    let address = stream.peer_addr().ok();
    let handshake = async {
        let mut first = [0];
        match stream.peek(&mut first).await? {
            // Probes of the port connect, and send nothing.
            0 => return Ok(None),
            _ if tls::is_plain_http(first[0]) => {
                shared.connections.note(Mistake::HttpToKafka, address);
                let said = say_and_close(stream, TO_HTTP.as_bytes()).await;
                return said.and(Err(io::Error::other("plain HTTP instead of TLS")));
            }
            _ if first[0] == 0 => shared.connections.note(Mistake::PlainToKafka, address),
            _ => {}
        }
        let stream = tls.acceptor().accept(stream).await?;
        Ok(Some(Socket::Tls(Box::new(stream))))
    };
    let shaken = tokio::select! {
        shaken = timeout(limit, handshake) => shaken,
        _ = stopping.wait_for(|stopping| *stopping) => return None,
    };
    let error = match shaken {
        Ok(Ok(socket)) => return socket,
        Ok(Err(error)) => error,
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    shared
        .connections
        .metrics()
        .failed_handshakes
        .fetch_add(1, Relaxed);
    tls::log_failure(&error);
    None
}
