//! Handshakes, whole and broken.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustls::HandshakeKind;

use crate::authority::{Authority, write};
use crate::open::refusal;
use crate::secure::{Secure, client, connect};
use crate::support::{PATIENCE, contains};

/// Waits for what must become true.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn both_versions_of_tls_are_spoken_and_requests_follow_each_other() {
    let secure = Secure::start();
    assert_eq!(secure.server.scheme(), "https");
    for version in rustls::ALL_VERSIONS {
        let mut config = (*client(&secure.authority.pem, None, &[version])).clone();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut stream = connect(secure.address(), config.into()).expect("a handshake");
        assert_eq!(stream.0.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        for _ in 0..3 {
            let answer = stream.get("/v1/topics").expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
    let metrics = secure.connect().unwrap().get("/metrics").unwrap();
    contains(&metrics, "quipu_failed_handshakes_total 0\n");
    contains(
        &metrics,
        "quipu_certificate_expires_timestamp_seconds 3786912000\n",
    );
    secure.stop();
}

#[test]
fn large_bodies_and_answers_pass_whole() {
    let secure = Secure::start();
    let mut stream = secure.connect().unwrap();
    stream
        .call("PUT", "/v1/topics/t", "application/json", br#"{"partitions":1}"#)
        .unwrap();
    let value = "x".repeat(900_000);
    let body = format!(r#"{{"records":[{{"value":"{value}"}}]}}"#);
    for _ in 0..4 {
        let answer = stream.call(
            "POST",
            "/v1/topics/t/records",
            "application/json",
            body.as_bytes(),
        );
        contains(&answer.unwrap(), "HTTP/1.1 200");
    }
    let path = "/v1/topics/t/partitions/0/records?offset=0&max_bytes=4000000";
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.0.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.0.read_to_end(&mut answer).expect("it is closed in order");
    let count = answer.iter().filter(|byte| **byte == b'x').count();
    assert!((4 * value.len()..4_000_000).contains(&count), "{count}");
    secure.stop();
}

#[test]
fn plain_http_is_answered_with_what_to_use_instead() {
    let secure = Secure::start();
    for request in [
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /v1/records HTTP/1.1\r\n",
    ] {
        let mut stream = TcpStream::connect(secure.address()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it is closed in order");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        contains(head, "HTTP/1.1 400 Bad Request");
        contains(head, "content-type: text/plain");
        contains(head, &format!("content-length: {}", body.len()));
        contains(body, "this port speaks TLS: use https://");
    }
    until("they are counted", || secure.failed_handshakes() == 2);
    secure.stop();
}

#[test]
fn a_handshake_that_is_not_finished_is_ended_and_holds_up_nobody() {
    let secure = Secure::with(|config, _| config.header_read_timeout = Duration::from_secs(3));
    // Nothing at all, the beginning of a record, and what is no handshake.
    let halves: [&[u8]; 3] = [
        b"",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\x00\x00\x00\x00\x00\x00\x00\x00",
    ];
    let mut open = Vec::new();
    for half in halves {
        let mut stream = TcpStream::connect(secure.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(half).unwrap();
        open.push(stream);
    }
    contains(
        &secure.connect().unwrap().get("/v1/topics").unwrap(),
        "HTTP/1.1 200",
    );
    for mut stream in open {
        // An alert may come first.
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        assert!(read.is_ok() || rest.len() < 100, "{read:?}");
    }
    until("they are counted", || secure.failed_handshakes() == 3);
    until("they are gone", || {
        secure.server.app().metrics.connections.load(Relaxed) == 0
    });
    secure.stop();
}

#[test]
fn a_stop_does_not_wait_for_a_handshake() {
    let secure = Secure::with(|config, _| {
        config.header_read_timeout = PATIENCE * 2;
        config.drain_timeout = PATIENCE * 2;
    });
    let stream = TcpStream::connect(secure.address()).unwrap();
    let metrics = secure.server.app().metrics.clone();
    until("it is accepted", || metrics.connections.load(Relaxed) == 1);
    secure.stop();
    drop(stream);
}

#[test]
fn a_client_that_reads_nothing_is_closed_as_without_tls() {
    let secure = Secure::with(|config, _| config.write_idle_timeout = Duration::from_millis(200));
    let mut stream = secure.connect().unwrap();
    stream
        .call("PUT", "/v1/topics/t", "application/json", br#"{"partitions":1}"#)
        .unwrap();
    for _ in 0..30 {
        stream
            .call("POST", "/v1/topics/t/records", "text/plain", &vec![b'x'; 900_000])
            .unwrap();
    }
    let path = "/v1/topics/t/partitions/0/records?offset=0&max_bytes=33554432&max_records=100";
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.0.write_all(request.as_bytes()).unwrap();
    let metrics = secure.server.app().metrics.clone();
    until("it is closed", || metrics.stalled_connections.load(Relaxed) == 1);
    secure.stop();
}

#[test]
fn a_connection_above_the_limit_is_refused_within_tls() {
    let secure = Secure::with(|config, _| config.limits.max_connections = 1);
    let mut first = secure.connect().unwrap();
    first.get("/v1/topics").unwrap();
    let answer = secure.connect().unwrap().get("/v1/topics");
    let answer = answer.expect("an answer");
    contains(&answer, "HTTP/1.1 503");
    contains(&answer, "overloaded");
    drop(first);
    secure.stop();
}

#[test]
fn a_client_certificate_is_optional_but_must_be_good() {
    let clients = Authority::new("the clients' authority");
    let secure = Secure::with(|config, dir| {
        config.tls_client_ca = Some(write(dir, "clients.pem", &clients.pem));
    });
    let good = clients.sign_with(&["billing.example"], |_| {});
    let expired = clients.sign_expired();
    let foreign = Authority::new("the clients' authority").sign();
    for version in rustls::ALL_VERSIONS {
        let ask = |own| {
            let config = client(&secure.authority.pem, own, &[version]);
            connect(secure.address(), config)?.get("/v1/topics")
        };
        for own in [None, Some(&good)] {
            contains(&ask(own).expect("an answer"), "HTTP/1.1 200");
        }
        for own in [&expired, &foreign] {
            assert!(ask(Some(own)).is_err());
        }
    }
    until("they are counted", || secure.failed_handshakes() == 4);
    secure.stop();
}

#[test]
fn a_client_that_shows_certificates_is_asked_for_one_each_time() {
    let clients = Authority::new("the clients' authority");
    let with = Secure::with(|config, dir| {
        config.tls_client_ca = Some(write(dir, "clients.pem", &clients.pem));
    });
    let without = Secure::start();
    let own = clients.sign_with(&["billing.example"], |_| {});
    for version in rustls::ALL_VERSIONS {
        for (secure, expected) in [(&with, HandshakeKind::Full), (&without, HandshakeKind::Resumed)] {
            // The client keeps what it needs to resume a session.
            let config = client(&secure.authority.pem, Some(&own), &[version]);
            let mut kind = None;
            for _ in 0..2 {
                let mut stream = connect(secure.address(), config.clone()).expect("a handshake");
                contains(&stream.get("/v1/topics").expect("an answer"), "HTTP/1.1 200");
                kind = stream.0.conn.handshake_kind();
            }
            assert_eq!(kind, Some(expected), "{version:?}");
        }
    }
    with.stop();
    without.stop();
}

#[test]
fn files_that_do_not_fit_refuse_to_start() {
    let authority = Authority::new("an authority");
    let (one, other) = (authority.sign(), authority.sign());
    let dir = crate::open::temporary();
    let path = |name: &str, text: &str| write(dir.path(), name, text).display().to_string();
    let (cert, key) = (path("cert.pem", &one.cert), path("key.pem", &one.key));
    let (foreign, junk) = (path("other.pem", &other.key), path("junk.pem", "junk"));
    let broken = path(
        "broken.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let missing = dir.path().join("missing.pem").display().to_string();
    for (cert, key, client_ca, expected) in [
        (&*cert, "", "", "tls_cert is set, but tls_key is not"),
        ("", &*key, "", "tls_key is set, but tls_cert is not"),
        (
            "",
            "",
            &*cert,
            "tls_client_ca is set, but tls_cert and tls_key are not",
        ),
        (
            &*cert,
            &*foreign,
            "",
            "tls_key is not the key of the certificate in tls_cert",
        ),
        (&*junk, &*key, "", "tls_cert has no certificate in PEM"),
        (&*broken, &*key, "", "tls_cert is no certificate"),
        (&*cert, &*junk, "", "tls_key has no private key in PEM"),
        (&*cert, &*cert, "", "tls_key has no private key in PEM"),
        (&*missing, &*key, "", "cannot read tls_cert"),
        (&*cert, &*missing, "", "cannot read tls_key"),
        (&*cert, &*key, &*missing, "cannot read tls_client_ca"),
        (&*cert, &*key, &*junk, "tls_client_ca has no certificate in PEM"),
        (
            &*cert,
            &*key,
            &*broken,
            "tls_client_ca has a certificate that cannot be used",
        ),
    ] {
        let settings = [
            ("QUIPU_TLS_CERT", cert),
            ("QUIPU_TLS_KEY", key),
            ("QUIPU_TLS_CLIENT_CA", client_ca),
        ];
        contains(&refusal("--listen 127.0.0.1:0", &settings), expected);
    }
    let settings = [("QUIPU_TLS_CERT", &*cert), ("QUIPU_TLS_KEY", &*key)];
    let line = refusal("--listen 127.0.0.1:0 --tls proxy", &settings);
    contains(
        &line,
        "tls=proxy says that the proxy has the certificate, but tls_cert is set",
    );
    // TLS alone asks nobody to sign in.
    let line = refusal("--listen 0.0.0.0:0", &settings);
    contains(&line, "nobody would have to sign in there");
}
