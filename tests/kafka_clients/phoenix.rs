//! A server that is killed and comes back, and addresses that nobody else takes.

use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::SeqCst;

use super::*;

/// An address of the loopback that only this process takes, with a port that no outgoing connection gets: while nobody
/// listens there, nobody else must have it.
pub(super) fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let pid = std::process::id();
    let host = [127, 77, (pid >> 8) as u8, pid as u8];
    SocketAddr::from((host, NEXT.fetch_add(1, SeqCst)))
}

/// A server that comes back at the address that Kafka's clients know.
pub(super) struct Phoenix {
    pub(super) directory: TempDir,
    pub(super) kafka: SocketAddr,
    server: Option<Server>,
}

impl Phoenix {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut phoenix = Self {
            directory,
            kafka: own_address(),
            server: None,
        };
        phoenix.rise();
        phoenix
    }

    pub(super) fn rise(&mut self) {
        let address = self.kafka.to_string();
        let settings = [
            ("QUIPU_KAFKA_LISTEN", address.as_str()),
            ("QUIPU_JOURNAL_FILE_BYTES", "37748736"),
        ];
        self.server = Some(Server::start_with_settings(
            &self.directory.path().join("data"),
            &settings,
        ));
    }

    pub(super) fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }

    pub(super) fn kill(&mut self) {
        self.server.take().expect("it runs").kill();
    }
}
