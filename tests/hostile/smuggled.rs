//! Requests whose end is in doubt. Each is one well-defined request, or is refused and its connection closed. A part of
//! it that looks like another request is never executed.

use super::{Fixture, MIB, read_to_the_end};

/// Shorter time limits than usual, because some of these requests never end.
const SHORT: &[(&str, &str)] = &[
    ("QUIPU_HEADER_READ_TIMEOUT_MS", "3000"),
    ("QUIPU_BODY_IDLE_TIMEOUT_MS", "1000"),
    ("QUIPU_IDLE_TIMEOUT_MS", "3000"),
];

/// Appends a record whose key says that it must not be there.
const SMUGGLED: &str = "POST /v1/topics/t/records?key=smuggled HTTP/1.1\r\nHost: localhost\r\n\
    Content-Type: text/plain\r\nContent-Length: 1\r\n\r\nx";
/// A real request at the end.
const LAST: &str = "GET /v1/topics/t HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// The statuses of all answers on a connection of its own that sends `bytes` and reads until it is closed.
fn statuses(fixture: &Fixture, bytes: &[u8]) -> Vec<u16> {
    let mut connection = fixture.server.connect();
    // The server may refuse and close before all is sent.
    let _ = connection.send(bytes);
    let all = read_to_the_end(&mut connection);
    let text = String::from_utf8_lossy(&all);
    text.match_indices("HTTP/1.")
        .filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok())
        .collect()
}

impl Fixture {
    #[track_caller]
    fn check(&self, name: &str, request: &str, allowed: &[&[u16]]) {
        let found = statuses(self, request.as_bytes());
        let is_allowed = allowed.contains(&&found[..]);
        assert!(is_allowed, "{name}: answered {found:?}, allowed are {allowed:?}");
    }
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len())
}

#[test]
fn a_body_is_never_taken_for_a_request() {
    let fixture = Fixture::new(SHORT);
    let hidden = SMUGGLED.len();
    let with_length = |method: &str, path: &str, length: &str| {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}{LAST}"
        )
    };
    // One request with a body that looks like another; then the real one.
    for (method, path, status) in [
        ("GET", "/v1/topics/t", 200),
        ("GET", "/health/live", 200),
        ("GET", "http://localhost/health/live", 200),
        ("GET", "http://elsewhere/health/live", 403),
        ("GET", "/nothing", 404),
        ("POST", "/v1/topics/nobody/records", 404),
        ("PUT", "/v1/topics/t?x=1", 400),
        ("OPTIONS", "*", 404),
        ("DELETE", "/health/live", 405),
    ] {
        let bytes = with_length(method, path, &hidden.to_string());
        // The server may also close the connection if it leaves a body unread.
        fixture.check(path, &bytes, &[&[status, 200], &[status]]);
    }
    let raw = with_length("POST", "/v1/topics/t/records", &hidden.to_string());
    fixture.check("a value that looks like a request", &raw, &[&[200, 200]]);
    let twice = raw.replacen("\r\n\r\n", &format!("\r\nContent-Length: {hidden}\r\n\r\n"), 1);
    fixture.check("the same length twice", &twice, &[&[200, 200], &[400]]);
    let chunked = format!(
        "POST /v1/topics/t/records HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nTransfer-Encoding: Chunked\r\n\r\n{}{LAST}",
        chunk(SMUGGLED)
    );
    fixture.check("a chunk that looks like a request", &chunked, &[&[200, 200]]);
    let extension = chunked.replacen("\r\nPOST", ";a=\"\u{7f}GET / HTTP/1.1\"\r\nPOST", 1);
    fixture.check("a chunk extension", &extension, &[&[200, 200], &[400]]);
    let more = "0\r\nContent-Length: 5\r\nHost: localhost\r\n\r\n";
    let trailers = chunked.replacen("0\r\n\r\n", more, 1);
    fixture.check("trailers", &trailers, &[&[200, 200], &[400]]);

    // A length that is too small: the rest of the body is read as a request of its own, whose method does not exist.
    let short = with_length("POST", "/v1/topics/t/records", "3");
    let allowed: &[&[u16]] = &[&[200, 405, 200], &[200, 400], &[200]];
    fixture.check("a length that is too small", &short, allowed);
    finish(fixture);
}

#[test]
fn two_lengths_of_one_body_are_refused_or_end_the_connection() {
    let fixture = Fixture::new(SHORT);
    let head = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n";
    // By its chunks the body ends before the smuggled request, by its length after it.
    let (whole, none) = (5 + SMUGGLED.len(), 5);
    for length in [whole, none, 0] {
        let chunks = format!("0\r\n\r\n{SMUGGLED}{LAST}");
        for fields in [
            format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
            format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
            format!("transfer-encoding:chunked\r\ncontent-length:{length}\r\ncontent-length:1\r\n"),
        ] {
            let bytes = format!("{head}{fields}\r\n{chunks}");
            fixture.check(&fields, &bytes, &[&[200], &[400]]);
        }
        let bytes = format!("{head}Content-Length: {length}\r\nContent-Length: 1\r\n\r\n{chunks}");
        fixture.check("two lengths", &bytes, &[&[400]]);
        let bytes = format!("{head}Content-Length: {length}, 1\r\n\r\n{chunks}");
        fixture.check("two lengths in a line", &bytes, &[&[400]]);
    }
    finish(fixture);
}

#[test]
fn lengths_and_codings_that_are_not_plain_are_refused() {
    let fixture = Fixture::new(SHORT);
    let head = "POST /v1/topics/t/records HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n";
    let lengths = "+5|-5|5 5|5,5|0x5|5.0||\"5\"|5;|five|18446744073709551616|99999999999999999999999999";
    for length in lengths.split('|') {
        let bytes = format!("{head}Content-Length: {length}\r\n\r\nhello{SMUGGLED}{LAST}");
        fixture.check(length, &bytes, &[&[400]]);
    }
    let codings =
        "chunked, identity|identity|gzip|chunked;q=1|xchunked|chunked,|\"chunked\"|chunked\u{b}|, chunked, x";
    for coding in codings.split('|') {
        let bytes = format!("{head}Transfer-Encoding: {coding}\r\n\r\n0\r\n\r\n{SMUGGLED}{LAST}");
        fixture.check(coding, &bytes, &[&[400], &[501]]);
    }
    // These end with chunked, so the body's end is known; but nothing here undoes the rest.
    let codings = "gzip, chunked|identity, chunked|chunked, chunked|chunked\r\nTransfer-Encoding: chunked|\
        identity\r\nTransfer-Encoding: chunked|, chunked";
    for coding in codings.split('|') {
        let bytes = format!("{head}Transfer-Encoding: {coding}\r\n\r\n0\r\n\r\n{SMUGGLED}{LAST}");
        fixture.check(coding, &bytes, &[&[501]]);
    }
    let fields = "Transfer-Encoding : chunked|Content-Length : 5| Content-Length: 5|X: a\r\n Content-Length: 5|\
        X: a\r\n\tTransfer-Encoding: chunked|X: a\0b|X: a\rContent-Length: 5|X\0: a|Content-Length|: 5|X: a\u{1}";
    for fields in fields.split('|') {
        let bytes = format!("{head}{fields}\r\n\r\n0\r\n\r\n{SMUGGLED}{LAST}");
        fixture.check(fields, &bytes, &[&[400]]);
    }
    finish(fixture);
}

#[test]
fn chunks_that_are_not_plain_are_refused() {
    let fixture = Fixture::new(SHORT);
    let head = "POST /v1/topics/t/records HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long_extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(MIB));
    let long_trailers = format!("0\r\nx: {}\r\n\r\n", "x".repeat(MIB));
    let bodies = [
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5;\n0\r\n\r\n",
        "5;x\rhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        &long_extension,
        &long_trailers,
    ];
    // All at once: those that are waited for take as long as the time limit.
    std::thread::scope(|scope| {
        for body in bodies {
            let fixture = &fixture;
            scope.spawn(move || {
                let bytes = format!("{head}{body}{SMUGGLED}{LAST}");
                let name: String = body.chars().take(40).collect();
                fixture.check(&name, &bytes, &[&[400], &[408]]);
            });
        }
        // A chunk that is larger than all memory is not waited for.
        let bytes = format!("{head}ffffffffffffffff\r\n{}{SMUGGLED}{LAST}", "x".repeat(MIB));
        fixture.check("a huge chunk", &bytes, &[&[400], &[408], &[413]]);
    });
    finish(fixture);
}

#[test]
fn other_versions_and_what_is_not_http_execute_nothing_more() {
    let fixture = Fixture::new(SHORT);
    let get = |fields: &str| format!("GET /health/live HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    let old = |fields: &str| format!("GET /health/live HTTP/1.0\r\nHost: localhost\r\n{fields}\r\n");
    let length = SMUGGLED.len();
    let nothing: &[&[u16]] = &[&[], &[400], &[505]];
    for (bytes, allowed) in [
        ("GET /health/live\r\n".to_owned(), &[&[][..], &[400]][..]),
        (format!("GET /health/live HTTP/0.9\r\n\r\n{SMUGGLED}"), nothing),
        (format!("GET /health/live HTTP/3.0\r\n\r\n{SMUGGLED}"), nothing),
        (format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{SMUGGLED}"), nothing),
        (format!("\u{16}\u{3}\u{1}\u{2}\0\u{1}{SMUGGLED}"), &[&[], &[400]]),
        (format!("G\0T / HTTP/1.1\r\n\r\n{SMUGGLED}"), &[&[400]]),
        (format!("GET /a b HTTP/1.1\r\n\r\n{SMUGGLED}"), &[&[400]]),
        (format!("GET  /health/live HTTP/1.1\r\n\r\n{SMUGGLED}"), &[&[400]]),
        (
            format!("CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n{LAST}"),
            &[&[404], &[405], &[404, 200], &[405, 200]],
        ),
        // A connection of HTTP/1.0 ends with its answer, unless it says otherwise.
        (old("") + SMUGGLED, &[&[200]]),
        (old("Connection: keep-alive\r\n") + LAST, &[&[200, 200]]),
        (
            format!(
                "POST /v1/topics/t/records HTTP/1.0\r\nHost: localhost\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
            &[&[400]],
        ),
        // A refused upgrade is an ordinary request.
        (
            get("Connection: upgrade\r\nUpgrade: h2c\r\n") + LAST,
            &[&[200, 200], &[200]],
        ),
        (get("Connection: close\r\n") + SMUGGLED, &[&[200]]),
        (
            get("Connection: close\r\nConnection: keep-alive\r\n") + SMUGGLED,
            &[&[200]],
        ),
        // Lines that end without a carriage return are lines too, and make one request.
        (
            get(&format!("Content-Length: {length}\r\n")).replace('\r', "") + SMUGGLED + LAST,
            &[&[200, 200], &[400]],
        ),
    ] {
        let name: String = bytes.chars().take(60).collect();
        fixture.check(&name, &bytes, allowed);
    }
    finish(fixture);
}

/// Nothing was smuggled, and the server works.
fn finish(fixture: Fixture) {
    fixture.append("good");
    let keys = fixture.keys();
    assert!(!keys.iter().any(|key| key == "smuggled"), "{keys:?}");
    fixture.finish(&keys);
}
