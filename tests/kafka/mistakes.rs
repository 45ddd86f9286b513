//! Clients that speak something else than the listener does: they are told, or the log says what is wrong.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::failures::{lines, wait_until};
use super::sasl::closed;
use super::*;
use crate::authority::Authority;

/// What is answered to these bytes until the connection is closed.
fn answer(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a stream");
    stream.write_all(bytes).expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

fn is_logged(fixture: &Fixture, words: &str) {
    let count = || lines(&fixture.server.log(), &["WARN", words, "127.0.0.1:"]).len();
    wait_until(|| count() == 1, || fixture.server.log());
}

const GET: &[u8] = b"GET /v1/topics HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// The beginning of a TLS handshake.
const HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

#[test]
fn http_at_the_address_for_kafka_clients_is_told_so() {
    let fixture = Fixture::new();
    let answer = answer(fixture.kafka, GET);
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(
        answer.ends_with("this port speaks Kafka's protocol: HTTP is at another port\r\n"),
        "{answer}"
    );
    is_logged(&fixture, "speaks HTTP to the address for Kafka clients");
}

#[test]
fn tls_at_an_address_for_kafka_clients_without_it_is_logged() {
    let fixture = Fixture::new();
    assert_eq!(answer(fixture.kafka, HELLO), "");
    is_logged(
        &fixture,
        "speaks TLS to the address for Kafka clients, which has none",
    );
}

#[test]
fn a_kafka_client_at_the_address_for_http_is_logged() {
    let fixture = Fixture::new();
    let request = Out::new().frame(18, 0, 1);
    assert!(answer(fixture.server.address, &request).starts_with("HTTP/1.1 400 "));
    is_logged(&fixture, "a Kafka client has connected to the address for HTTP");
    // A client of HTTP that makes a mistake is not.
    answer(fixture.server.address, b"get / HTTP/9.9\r\n\r\n");
    assert!(lines(&fixture.server.log(), &["WARN"]).len() == 1);
}

#[test]
fn tls_at_an_address_for_http_without_it_is_logged() {
    let fixture = Fixture::new();
    answer(fixture.server.address, HELLO);
    is_logged(&fixture, "speaks TLS to the address for HTTP, which has none");
}

#[test]
fn a_request_before_signing_in_is_logged() {
    let fixture = closed(&[]);
    assert_eq!(
        answer(fixture.kafka, &Out::new().i32(-1).frame(METADATA, 1, 1)),
        ""
    );
    is_logged(&fixture, "has sent a request before it has signed in");
}

/// A length that is none in a later frame is not taken for another protocol.
#[test]
fn garbage_later_in_a_connection_is_not_logged() {
    let fixture = Fixture::new();
    let mut bytes = Out::new().frame(18, 0, 1);
    bytes.extend_from_slice(GET);
    let answer = answer(fixture.kafka, &bytes);
    assert!(!answer.contains("HTTP"), "{answer}");
    assert!(
        lines(&fixture.server.log(), &["WARN"]).is_empty(),
        "{}",
        fixture.server.log()
    );
}

#[test]
fn http_at_an_address_for_kafka_clients_with_tls_is_told_so() {
    let secure = super::secure::server(&Authority::new("mistakes"));
    let address = secure.server.kafka_addr().expect("it listens");
    let answer = answer(address, GET);
    assert!(
        answer.ends_with("this port speaks Kafka's protocol: HTTP is at another port\r\n"),
        "{answer}"
    );
    secure.stop();
}
