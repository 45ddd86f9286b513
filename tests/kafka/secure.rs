//! The Kafka listener under TLS: what may be sent then, and certificates that sign in.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

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
