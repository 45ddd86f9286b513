//! NDJSON uploads: units, wrong lines, and connections and servers that end.

use super::*;

#[tokio::test]
async fn lines_are_counted_by_partition() {
    let server = Server::with_topic(4);
    let body = "{\"partition\":3,\"value\":1}\n\n  \t\r\n{\"partition\":1}\r\n{\"partition\":3,\"value\":{\"a\":\t2}}";
    for round in 0..2 {
        let answer = server.ndjson(RECORDS, body).await;
        let rows = json!([
            {"partition": 1, "first_offset": round, "last_offset": round, "records": 1},
            {"partition": 3, "first_offset": 2 * round, "last_offset": 2 * round + 1, "records": 2},
        ]);
        assert_eq!(answer.ok(), json!({"records": 3, "partitions": rows}));
    }
    assert_eq!(server.stored("t", 3)[1].value(), "{\"a\":\t2}");
    assert!(server.runs("t", 3).1, "lines hold no line breaks");
    for nothing in ["", "\n\n", " ", "\u{feff}", "\u{feff}\r\n"] {
        let answer = server.ndjson(RECORDS, nothing).await;
        assert_eq!(answer.ok(), json!({"records": 0, "partitions": []}));
    }
}

#[tokio::test]
async fn a_bad_line_ends_the_upload_after_the_lines_before_it() {
    let server = Server::with(|limits| limits.max_key_bytes = 8);
    server.topic("t", 2, json!({"max_record_bytes": 1000}));
    let long = format!("{{\"value\":\"{}\"}}", "x".repeat(1000));
    let longest = format!("{{\"value\":{}1}}", " ".repeat(1 << 20));
    let beyond = "{\"partition\":4294967296}";
    for (bad, status, code, pointer) in [
        ("{\"vlaue\":1}", 400, "invalid-request", "/vlaue"),
        ("{\"value\":NaN}", 400, "invalid-request", "/value"),
        ("{\"value\":1", 400, "invalid-request", "/value"),
        ("{\"headers\":{\"a\":5}}", 400, "invalid-request", "/headers/a"),
        ("nonsense", 400, "invalid-request", ""),
        ("{\"partition\":2}", 404, "unknown-partition", "/partition"),
        (beyond, 404, "unknown-partition", "/partition"),
        ("{\"key\":\"123456789\"}", 413, "record-too-large", ""),
        (&*long, 413, "record-too-large", ""),
        (&*longest, 413, "record-too-large", ""),
    ] {
        for chunk in [1 << 22, 10_000, 7] {
            if chunk == 7 && bad.len() > 2000 {
                continue;
            }
            let before = server.stored("t", 1).len();
            let body = format!("{{\"partition\":1}}\n\n{{\"partition\":1}}\n{bad}\n{{\"partition\":1}}\n");
            let answer = server.ndjson(RECORDS, streamed(body.as_bytes(), chunk)).await;
            let expected = json!({"pointer": pointer, "line": 4, "accepted": 2, "outcome": "partial"});
            has(&answer.problem(status, code), expected);
            // The lines before it are stored, those after it are not.
            assert_eq!(server.stored("t", 1).len(), before + 2);
        }
    }
}

#[tokio::test]
async fn a_bad_first_line_leaves_nothing() {
    let server = Server::with_topic(1);
    let answer = server.ndjson(RECORDS, "{\"vlaue\":1}\n{}\n").await;
    let problem = answer.problem(400, "invalid-request");
    has(&problem, json!({"line": 1, "accepted": 0, "outcome": "none"}));
    assert!(server.stored("t", 0).is_empty());
}

/// Lines that make several units: ended by bytes, by the number of lines, and by a line that is a unit by itself.
pub(super) fn many_lines() -> (Vec<u8>, usize) {
    let mut body = Vec::new();
    let mut records = 0;
    for number in 0..25_000 {
        body.extend_from_slice(format!("{{\"key\":\"{}\"}}\n", number % 97).as_bytes());
        records += 1;
        if number % 100 == 0 {
            body.extend_from_slice(b"\n");
        }
    }
    for number in 0..3_000 {
        let (key, value) = (number % 97, "x".repeat(number % 2000));
        let line = format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}\n");
        body.extend_from_slice(line.as_bytes());
        records += 1;
    }
    let text = format!("{{\"value\":\"{}\",\"partition\":1}}\n", "y".repeat(1_040_000));
    body.extend_from_slice(text.as_bytes());
    body.extend_from_slice(b"{\"value\":\"last\",\"partition\":1}");
    (body, records + 2)
}

#[tokio::test]
async fn the_same_bytes_are_stored_alike_however_they_arrive() {
    let server = Server::new();
    let (body, records) = many_lines();
    let mut stored = Vec::new();
    for (number, chunk) in [usize::MAX, 100_000, 4_097, 13].into_iter().enumerate() {
        let topic = format!("t{number}");
        server.topic(&topic, 3, json!({}));
        let uri = format!("/v1/topics/{topic}/records");
        let answer = server.ndjson(&uri, streamed(&body, chunk)).await;
        assert_eq!(answer.ok()["records"], records);
        let runs = (0..3).map(|partition| server.runs(&topic, partition).0);
        stored.push(runs.collect::<Vec<_>>());
        let rows = (0..3).map(|partition| server.stored(&topic, partition).len());
        let total: usize = rows.sum();
        assert_eq!(total, records);
    }
    assert!(stored.windows(2).all(|pair| pair[0] == pair[1]));
    let gzipped = server.topic("gzip", 3, json!({}));
    let headers = [("content-type", NDJSON), ("content-encoding", "gzip")];
    let uri = "/v1/topics/gzip/records";
    server.post(uri, &headers, gzip(&body)).await.ok();
    let rows = (0..3).map(|partition| server.runs(gzipped.name(), partition).0);
    let stored_gzipped: Vec<_> = rows.collect();
    assert_eq!(stored_gzipped, stored[0]);
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_whole_units_and_no_others() {
    let server = Server::new();
    let topic = server.topic("t", 1, json!({}));
    let body = "{}\n".repeat(25_000);
    let rows = body.as_bytes().chunks(1000);
    let chunks = rows.map(|chunk| Ok(Bytes::copy_from_slice(chunk)));
    let broken = chunks.chain([Err(std::io::Error::other("reset by peer"))]);
    let body = Body::from_stream(stream::iter(broken.collect::<Vec<_>>()));
    let answer = server.ndjson(RECORDS, body).await;
    let problem = answer.problem(408, "request-timeout");
    has(&problem, json!({"accepted": 20_000, "outcome": "partial"}));
    let found = topic.partition(0).unwrap().positions().end_offset;
    assert_eq!(found, Offset::new(20_000));
}

#[tokio::test]
async fn units_follow_on_from_the_expected_offset() {
    let server = Server::with_topic(2);
    let body = "{\"key\":\"k\"}\n".repeat(25_000);
    let path = |offset: u64| format!("/v1/topics/t/records?expected_offset={offset}");
    server.ndjson(&path(0), body.clone()).await.ok();
    let found = &server.ndjson(&path(25_000), body.clone()).await.ok()["records"];
    assert_eq!(found, 25_000);
    let answer = server.ndjson(&path(40_000), body.clone()).await;
    let problem = answer.problem(412, "offset-mismatch");
    let expected = json!({"end_offset": 50_000, "accepted": 0, "outcome": "none"});
    has(&problem, expected);
    let unkeyed = "{}\n".repeat(25_000);
    server.topic("u", 2, json!({}));
    let answer = server
        .ndjson("/v1/topics/u/records?expected_offset=0", unkeyed)
        .await;
    // All units go to one partition.
    assert_eq!(answer.ok()["partitions"].as_array().unwrap().len(), 1);
    let mixed = format!("{}{{\"partition\":0,\"key\":\"k\"}}\n{{\"partition\":1}}\n", "");
    server.topic("m", 2, json!({}));
    let answer = server
        .ndjson("/v1/topics/m/records?expected_offset=0", mixed)
        .await;
    let expected = json!({"pointer": "expected_offset", "line": 2, "accepted": 1});
    has(&answer.problem(400, "invalid-request"), expected);
}

#[tokio::test]
async fn a_unit_that_fails_says_what_is_in() {
    let server = Server::with_topic(1);
    let log = server.app.log.clone();
    let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from("{}\n".repeat(25_000)))]);
    let then = stream::once(async move {
        // By now two units are in flight or stored.
        let partition = log.topic("t").unwrap().partition(0).unwrap();
        let mut partition = partition.wait_for(Offset::new(9_999));
        std::future::poll_fn(|context| std::pin::Pin::new(&mut partition).poll(context)).await;
        log.delete_topic("t", Vec::new()).unwrap();
        Ok(Bytes::from("{}\n".repeat(25_000)))
    });
    use futures_util::StreamExt as _;
    let answer = server.ndjson(RECORDS, Body::from_stream(first.chain(then))).await;
    let problem = answer.problem(404, "unknown-topic");
    let accepted = problem["accepted"].as_u64().unwrap();
    assert!(accepted >= 10_000 && accepted % 10_000 == 0, "{problem}");
    assert_eq!(problem["outcome"], "partial");
}

#[tokio::test]
async fn a_server_that_stops_ends_an_upload_that_waits() {
    let server = Server::with_topic(1);
    let app = server.app.clone();
    let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from("{}\n".repeat(10_001)))]);
    let then = stream::once(async move {
        app.stopping.send_replace(true);
        std::future::pending().await
    });
    use futures_util::StreamExt as _;
    let answer = server.ndjson(RECORDS, Body::from_stream(first.chain(then))).await;
    let problem = answer.problem(503, "shutting-down");
    has(&problem, json!({"accepted": 10_000, "outcome": "partial"}));
}

/// This long upload never waits for its client: its whole input is in memory. One thread runs it and everything else.
#[tokio::test]
async fn an_upload_that_never_waits_lets_others_run_and_ends_with_the_server() {
    const CHUNKS: usize = 10_000;
    let server = Server::with_topic(1);
    let blank = b"\n".repeat(64 << 10);
    for (coding, chunk) in [
        ("identity", blank.clone()),
        ("identity", b"\r\n".repeat(32 << 10)),
        ("identity", b" \t\n".repeat(20 << 10)),
        ("gzip", gzip(&blank)),
        ("gzip", gzip(b"").repeat(1000)),
        ("zstd", zstd::encode_all(&blank[..], 1).unwrap()),
        ("zstd", zstd::encode_all(&b""[..], 1).unwrap().repeat(1000)),
    ] {
        let chunk = Bytes::from(chunk);
        let taken = Arc::new(AtomicUsize::new(0));
        let body = Body::from_stream(stream::iter((0..CHUNKS).map({
            let taken = taken.clone();
            move |_| {
                taken.fetch_add(1, Ordering::Relaxed);
                Ok::<_, std::io::Error>(chunk.clone())
            }
        })));
        let headers = [("content-type", NDJSON), ("content-encoding", coding)];
        let upload = server.post(RECORDS, &headers, body);
        let others = async {
            for _ in 0..20 {
                server.get("/health/live").await.ok();
                tokio::task::yield_now().await;
            }
            assert!((1..CHUNKS).contains(&taken.load(Ordering::Relaxed)), "{coding}");
            server.app.stopping.send_replace(true);
        };
        let (answer, ()) = tokio::join!(upload, others);
        assert_eq!(answer.problem(503, "shutting-down")["accepted"], 0, "{coding}");
        assert!(taken.load(Ordering::Relaxed) < CHUNKS, "{coding}: it reads on");
        server.app.stopping.send_replace(false);
    }
}

#[tokio::test]
async fn an_upload_that_is_repeated_lets_others_run() {
    let server = Server::with_topic(1);
    let headers = [("content-type", NDJSON), ("idempotency-key", "again")];
    let upload = || {
        let body = streamed(&b"{\"value\":\"0123456789\"}\n".repeat(50_000), 30_000);
        server.post(RECORDS, &headers, body)
    };
    upload().await.ok();
    let turns = AtomicUsize::new(0);
    let others = async {
        loop {
            server.get("/health/live").await.ok();
            turns.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        answer = upload() => assert_eq!(answer.headers["idempotency-replayed"], "true"),
        () = others => {}
    }
    assert!(turns.into_inner() > 3);
}
