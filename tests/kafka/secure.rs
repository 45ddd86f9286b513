//! The Kafka listener under TLS: what may be sent then, and certificates that sign in.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::Ordering::Relaxed;

use quipu::settings::{Auth, Secret};
use serde_json::json;

use super::*;
use crate::authority::{self, Authority, Pair};
use crate::tls_server::{Secure, client, connect};

const ADMIN: &str = "the-first-administrators-token";

/// A server with TLS for both protocols, on which everybody has to sign in.
pub(crate) fn server(issuer: &Authority) -> Secure {
    let authorities = issuer.pem.clone();
    Secure::with(|config, dir| {
        config.auth = Auth::Tokens;
        config.admin_token = Secret::of(ADMIN);
        config.kafka_listen = Some(([127, 0, 0, 1], 0).into());
        config.tls_client_ca = Some(authority::write(dir, "clients.pem", &authorities));
    })
}

/// A connection under TLS, with a certificate or without.
struct Under(rustls::StreamOwned<rustls::ClientConnection, TcpStream>);

impl Under {
    fn to(secure: &Secure, own: Option<&Pair>) -> Self {
        let config = client(&secure.authority.pem, own, rustls::ALL_VERSIONS);
        let address = secure.server.kafka_addr().expect("it listens");
        Self(connect(address, config).expect("a handshake").0)
    }

    fn ask(&mut self, key: i16, version: i16, body: Out) -> In {
        self.0.write_all(&body.frame(key, version, 1)).expect("it reads");
        let mut length = [0; 4];
        self.0.read_exact(&mut length).expect("an answer");
        let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut bytes).expect("a whole answer");
        let mut answer = In::of(bytes);
        assert_eq!(answer.i32(), 1);
        answer
    }

    /// The code of PLAIN.
    fn plain(&mut self, name: &str, token: &str) -> i16 {
        let mut answer = self.ask(17, 1, Out::new().text("PLAIN"));
        assert_eq!(answer.i16(), 0);
        let message = format!("\0{name}\0{token}");
        self.ask(36, 1, Out::new().bytes(message.as_bytes())).i16()
    }

    /// How many topics it sees; `None`: the connection is closed.
    fn topics(&mut self) -> Option<i32> {
        self.0.write_all(&Out::new().i32(-1).frame(METADATA, 1, 1)).ok()?;
        let mut length = [0; 4];
        self.0.read_exact(&mut length).ok()?;
        let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut bytes).ok()?;
        let mut answer = In::of(bytes);
        answer.bytes(4 + 8);
        answer.text();
        answer.bytes(4 + 2 + 4);
        Some(answer.i32())
    }
}

/// A call over HTTPS with the administrator's token.
pub(crate) fn http(secure: &Secure, method: &str, path: &str, body: &str) -> String {
    let config = client(&secure.authority.pem, None, rustls::ALL_VERSIONS);
    let mut stream = connect(secure.address(), config).expect("a handshake");
    let kind = format!("application/json\r\nAuthorization: Bearer {ADMIN}");
    stream
        .call(method, path, &kind, body.as_bytes())
        .expect("an answer")
}

#[test]
fn a_token_is_sent_with_plain_under_tls() {
    let secure = server(&Authority::new("clients"));
    http(&secure, "PUT", "/v1/topics/t", r#"{"partitions":1}"#);
    let mut client = Under::to(&secure, None);
    assert_eq!(client.plain("admin", ADMIN), 0);
    assert_eq!(client.topics(), Some(1));
    for (name, token) in [("admin", "wrong"), ("other", ADMIN), ("", ADMIN)] {
        let mut client = Under::to(&secure, None);
        assert_eq!(client.plain(name, token), 58, "{name} {token}");
        assert_eq!(client.topics(), None);
    }
    // Without TLS there is no answer.
    let address = secure.server.kafka_addr().expect("it listens");
    let mut plain = Client::to(address);
    plain.send(&Out::new().frame(API_VERSIONS, 0, 1));
    let mut bytes = Vec::new();
    let _ = plain.stream.read_to_end(&mut bytes);
    // An alert of TLS at most.
    assert!(bytes.len() < 16, "{bytes:?}");
    secure.stop();
}

#[test]
fn a_certificate_signs_in_and_a_token_outranks_it() {
    let issuer = Authority::new("clients");
    let secure = server(&issuer);
    for topic in ["orders", "secret"] {
        http(
            &secure,
            "PUT",
            &format!("/v1/topics/{topic}"),
            r#"{"partitions":1}"#,
        );
    }
    let rules = json!([{"allow": ["describe"], "topics": ["orders"]}]);
    let principal = json!({"match": {"cert": "billing.example"}, "rules": rules}).to_string();
    http(&secure, "PUT", "/v1/principals/billing", &principal);
    let own = issuer.sign_with(&["billing.example"], |_| {});
    let mut client = Under::to(&secure, Some(&own));
    assert_eq!(client.topics(), Some(1));
    assert_eq!(client.plain("admin", ADMIN), 0);
    assert_eq!(client.topics(), Some(2));
    // Who matches no principal is nobody, and may sign in.
    let stranger = issuer.sign_with(&["somebody.example"], |_| {});
    let mut client = Under::to(&secure, Some(&stranger));
    assert_eq!(client.topics(), None);
    let mut client = Under::to(&secure, Some(&stranger));
    assert_eq!(client.plain("admin", ADMIN), 0);
    assert_eq!(client.topics(), Some(2));
    // The end of a principal ends its connections.
    let mut client = Under::to(&secure, Some(&own));
    assert_eq!(client.topics(), Some(1));
    http(&secure, "DELETE", "/v1/principals/billing", "");
    let mut byte = [0];
    assert!(!matches!(client.0.read(&mut byte), Ok(1)), "it is closed");
    secure.stop();
}

#[test]
fn a_client_that_reads_nothing_is_closed_as_without_tls() {
    let secure = Secure::with(|config, _| {
        config.kafka_listen = Some(([127, 0, 0, 1], 0).into());
        config.write_idle_timeout = std::time::Duration::from_millis(200);
    });
    let mut stream = secure.connect().expect("a handshake");
    let made = stream.call(
        "PUT",
        "/v1/topics/t",
        "application/json",
        br#"{"partitions":1000}"#,
    );
    made.expect("an answer");
    // Each answer is less than TLS takes at once, all of them are far more than the kernel does.
    let mut client = Under::to(&secure, None);
    let requests = Out::new().i32(-1).frame(METADATA, 1, 1).repeat(2000);
    client.0.write_all(&requests).expect("it reads");
    let stalled = &secure.server.app().metrics.kafka.stalled_connections;
    let begin = Instant::now();
    while stalled.load(Relaxed) != 1 {
        assert!(begin.elapsed() < PATIENCE, "it is still open");
        std::thread::yield_now();
    }
    secure.stop();
}

/// The beginning of a handshake: half of what a client says first.
fn half_a_hello(secure: &Secure) -> Vec<u8> {
    let config = client(&secure.authority.pem, None, rustls::ALL_VERSIONS);
    let name = "localhost".try_into().expect("a name");
    let mut connection = rustls::ClientConnection::new(config, name).expect("a client");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("memory");
    hello.truncate(hello.len() / 2);
    hello
}

/// Connections that send nothing, or half of what a handshake begins with.
fn hang(secure: &Secure, count: usize) -> Vec<TcpStream> {
    let address = secure.server.kafka_addr().expect("it listens");
    let half = half_a_hello(secure);
    let begin = |number: usize| {
        let mut stream = TcpStream::connect(address).expect("a connection");
        if number.is_multiple_of(2) {
            // It may be closed already.
            let _ = stream.write_all(&half);
        }
        stream
    };
    (0..count).map(begin).collect()
}

#[test]
fn handshakes_that_hang_are_bounded_and_keep_nobody_out() {
    const MOST: usize = 1000;
    let secure = Secure::with(|config, _| {
        config.auth = Auth::Tokens;
        config.admin_token = Secret::of(ADMIN);
        config.kafka_listen = Some(([127, 0, 0, 1], 0).into());
        config.limits.max_connections = MOST;
        config.header_read_timeout = std::time::Duration::from_secs(3600);
        config.idle_timeout = std::time::Duration::from_secs(3600);
    });
    http(&secure, "PUT", "/v1/topics/t", r#"{"partitions":1}"#);
    let _hanging = hang(&secure, MOST / 2);
    let mut client = Under::to(&secure, None);
    assert_eq!(client.plain("admin", ADMIN), 0);
    assert_eq!(client.topics(), Some(1));
    // Above the limit they are closed at once, and an administrator still gets in.
    let mut more = hang(&secure, MOST);
    let mut closed = 0;
    for stream in more.iter_mut().rev().take(MOST / 2 - 10) {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        closed += usize::from(!matches!(stream.read(&mut [0]), Ok(1..)));
    }
    assert_eq!(closed, MOST / 2 - 10);
    let metrics = http(&secure, "GET", "/metrics", "");
    let mut lines = metrics.lines();
    let refused =
        lines.find(|line| line.starts_with("quipu_refused_connections_total") && line.contains("kafka"));
    assert!(refused.is_some_and(|line| !line.ends_with(" 0")), "{metrics}");
    assert_eq!(client.topics(), Some(1), "who is in stays");
    secure.stop();
}

#[test]
fn handshakes_that_hang_end_after_their_time() {
    let secure = Secure::with(|config, _| {
        config.kafka_listen = Some(([127, 0, 0, 1], 0).into());
        config.header_read_timeout = std::time::Duration::from_millis(200);
    });
    let mut hanging = hang(&secure, 100);
    for stream in &mut hanging {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut bytes = Vec::new();
        // An alert of TLS at most.
        let ended = stream.read_to_end(&mut bytes);
        assert!(bytes.len() < 16, "{bytes:?}");
        let is_late = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!is_late, "it was not closed");
    }
    // Each is counted just after it is closed.
    let begin = Instant::now();
    while secure.failed_handshakes() < 100 {
        assert!(begin.elapsed() < PATIENCE, "{}", secure.failed_handshakes());
        std::thread::yield_now();
    }
    secure.stop();
}
