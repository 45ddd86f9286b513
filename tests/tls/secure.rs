//! A server with TLS in this process, and a client for it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use quipu::server::{self, Server};
use quipu::settings::Config;
use quipu_segments::{Clock, RealDisk, SystemClock};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::authority::{Authority, Pair, write};
use crate::support::PATIENCE;

/// A running server, whose certificate the authority has signed.
pub(crate) struct Secure {
    pub(crate) authority: Authority,
    pub(crate) server: Server,
    runtime: Runtime,
    dir: TempDir,
}

impl Secure {
    pub(crate) fn start() -> Self {
        Self::with(|_, _| {})
    }

    /// The same with settings; the closure also gets the directory of the files.
    pub(crate) fn with(set: impl FnOnce(&mut Config, &Path)) -> Self {
        Self::at(Arc::new(SystemClock::new()), set)
    }

    /// The same with a clock.
    pub(crate) fn at(clock: Arc<dyn Clock>, set: impl FnOnce(&mut Config, &Path)) -> Self {
        let authority = Authority::new("the servers' authority");
        let dir = tempfile::tempdir().expect("a temporary directory");
        write_pair(dir.path(), &authority.sign());
        let mut config = Config {
            data: dir.path().join("data"),
            listen: ([127, 0, 0, 1], 0).into(),
            journal_file_bytes: 4 << 20,
            tls_cert: Some(dir.path().join("cert.pem")),
            tls_key: Some(dir.path().join("key.pem")),
            ..Config::default()
        };
        config.limits.max_request_bytes = 1 << 20;
        set(&mut config, dir.path());
        let runtime = Runtime::new().expect("threads");
        let starting = server::start_on(config, Arc::new(RealDisk::new()), clock);
        let server = runtime.block_on(starting).expect("it starts");
        Self {
            authority,
            server,
            runtime,
            dir,
        }
    }

    /// Where the files are.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.addr()
    }

    /// The authority's certificate in a file.
    pub(crate) fn ca_file(&self) -> PathBuf {
        write(self.dir(), "ca.pem", &self.authority.pem)
    }

    pub(crate) fn replace(&self, pair: &Pair) {
        write_pair(self.dir(), pair);
    }

    pub(crate) fn reload(&self) {
        self.runtime.block_on(self.server.reload());
    }

    pub(crate) fn expires_ms(&self) -> i64 {
        self.server.app().metrics.certificate_expires_ms.load(Relaxed)
    }

    pub(crate) fn failed_handshakes(&self) -> u64 {
        self.server.app().metrics.failed_handshakes.load(Relaxed)
    }

    /// A client that trusts the authority and shows no certificate.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        client(&self.authority.pem, None, rustls::ALL_VERSIONS)
    }

    pub(crate) fn connect(&self) -> io::Result<Stream> {
        connect(self.address(), self.client())
    }

    pub(crate) fn stop(self) {
        let stopped = self.runtime.block_on(self.server.shutdown());
        stopped.expect("it stops cleanly");
    }
}

fn write_pair(dir: &Path, pair: &Pair) {
    write(dir, "cert.pem", &pair.cert);
    write(dir, "key.pem", &pair.key);
}

/// A client that trusts one authority.
pub(crate) fn client(
    authority: &str,
    own: Option<&Pair>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.as_bytes()).expect("PEM");
    roots.add(root).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    Arc::new(match own {
        None => config.with_no_client_auth(),
        Some(pair) => {
            let chain = vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("PEM")];
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
            config.with_client_auth_cert(chain, key).expect("a pair")
        }
    })
}

/// A connection with TLS.
pub(crate) struct Stream(pub(crate) StreamOwned<ClientConnection, TcpStream>);

/// Connects and shakes hands, as far as the client can see it.
pub(crate) fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Stream> {
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(config, name).expect("a configuration");
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(connection, socket);
    stream.conn.complete_io(&mut stream.sock)?;
    Ok(Stream(stream))
}

impl Stream {
    /// Sends a request and reads the head of its answer; returns it with the body as far as `content-length` says.
    pub(crate) fn call(&mut self, method: &str, path: &str, kind: &str, body: &[u8]) -> io::Result<String> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.0.write_all(head.as_bytes())?;
        self.0.write_all(body)?;
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte)?;
            answer.push(byte[0]);
        }
        let head = String::from_utf8(answer).expect("text");
        let length = head.to_ascii_lowercase();
        let length = length
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.parse().expect("a number"));
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(head + &String::from_utf8(body).expect("text"))
    }

    pub(crate) fn get(&mut self, path: &str) -> io::Result<String> {
        self.call("GET", path, "text/plain", b"")
    }

    /// The certificate that the server has shown.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        let chain = self.0.conn.peer_certificates();
        chain
            .and_then(|chain| chain.first())
            .expect("a certificate")
            .to_vec()
    }
}
