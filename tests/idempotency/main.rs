//! Idempotent retries: the header `Idempotency-Key`, and the sequences of producers in record batches. Over the router with a clock that
//! the tests move, and over the real binary with `kill -9`. Here is what holds for every kind of request.
#![allow(
    clippy::disallowed_methods,
    reason = "a test of the real binary lives in the real world"
)]

mod fixture;
mod producers;
mod requests;
mod restarts;
mod streams;
#[path = "../support/mod.rs"]
mod support;

use std::io::Write as _;
use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use quipu::settings::Config;
use serde_json::json;

use fixture::{await_count, configure, count, post, start, with};
use requests::{
    BATCH, JSON, NDJSON, RECORDS, TO_PARTITION, batch, binary_event, json_records, kinds, lines, sent,
};

#[tokio::test]
async fn every_kind_of_request_is_appended_once_and_answered_as_the_first_time_over_restarts() {
    let mut service = start().await;
    let mut first = Vec::new();
    for (name, request, records) in kinds() {
        let before = count(&service, "t").await;
        let answer = post(
            &service,
            &request.clone().key(name.replace([' ', ','], "-").as_str()),
        )
        .await;
        first.push(answer.appended());
        await_count(&service, before + records).await;
    }
    let total = count(&service, "t").await;
    for round in 0..3 {
        for ((name, request, _), first) in kinds().into_iter().zip(&first) {
            let answer = post(&service, &request.key(name.replace([' ', ','], "-").as_str())).await;
            assert_eq!(answer.replayed(), *first, "{name} in round {round}");
        }
        assert_eq!(count(&service, "t").await, total);
        if round == 0 {
            // Where records would go now is not where they went; what is allowed now is not what was.
            configure(
                &service,
                json!({"partitions": 11, "config": {"max_record_bytes": 3}}),
            )
            .await;
        }
        if round == 1 {
            service = service.restart();
        }
    }
    let units = service.metric("quipu_replayed_requests_total").await;
    assert_eq!(
        units,
        kinds().len() as u64 + 2,
        "one round since the restart, and the units of a stream one by one"
    );
    assert_eq!(
        service.metric("quipu_idempotency_keys").await,
        kinds().len() as u64 + 2
    );
    assert!(service.metric("quipu_idempotency_key_bytes").await > 0);
    assert_eq!(
        service.metric("quipu_produced_records_total").await,
        0,
        "what is replayed is not produced"
    );
}

#[tokio::test]
async fn requests_without_a_key_and_with_other_keys_are_appended_each_time() {
    let service = start().await;
    for key in ["", "", "a", "b", "A", "!", "~", &"x".repeat(255)] {
        let request = json_records();
        let request = if key.is_empty() { request } else { request.key(key) };
        post(&service, &request).await.appended();
    }
    assert_eq!(count(&service, "t").await, 8 * 20);
}

#[tokio::test]
async fn a_key_is_1_to_255_characters_of_visible_ascii_and_given_once() {
    let service = start().await;
    for (_, request, _) in kinds() {
        for key in ["", "a b", "\u{e9}", &"x".repeat(256), "a\tb"] {
            post(&service, &request.clone().key(key))
                .await
                .invalid("idempotency-key");
        }
        let mut twice = request.key("a");
        twice.headers.push(("idempotency-key".to_owned(), "a".to_owned()));
        post(&service, &twice).await.invalid("idempotency-key");
    }
    assert_eq!(count(&service, "t").await, 0);
}

#[tokio::test]
async fn another_request_with_the_same_key_is_refused_in_whatever_it_differs() {
    let service = start().await;
    for (name, request, records) in kinds() {
        let key = name.replace([' ', ','], "-");
        let request = request.key(&key);
        let before = count(&service, "t").await + records;
        post(&service, &request).await.appended();
        await_count(&service, before).await;
        let separator = if request.uri.contains('?') { '&' } else { '?' };
        let mut others = vec![
            request.clone().to(&format!(
                "{}{separator}ack=durable",
                request.uri.replace("?ack=written", "?repartition=false")
            )),
            request
                .clone()
                .to(&format!("{}{separator}expected_offset=0", request.uri)),
        ];
        match &request.headers.iter().find(|(name, _)| name == "content-type") {
            Some((_, content_type)) => {
                others.push(
                    request
                        .clone()
                        .with("content-type", &format!("{content_type}; x=1")),
                );
            }
            None => others.push(request.clone().with("content-type", "text/plain")),
        }
        match name {
            "json" | "structured" | "batched" | "written" | "ndjson" => {
                let mut body = request.body.clone();
                body.push(b' ');
                others.push(request.clone().body(body));
            }
            "batch" => {
                others.push(request.clone().body(batch(&["1", "2"]).as_bytes()));
                others.push(request.clone().to("/v1/topics/t/partitions/2/records"));
            }
            "ndjson of three units" => {
                let mut body = request.body.clone();
                body[9] = b'9';
                others.push(request.clone().body(body));
            }
            _ => others.push(request.clone().body(&request.body[1..])),
        }
        if name == "binary" {
            others.push(request.clone().with("ce-id", "2"));
            others.push(request.clone().with("ce-more", ""));
        }
        // The same key for another kind of request.
        others.push(sent(RECORDS, "application/other", "x").key(&key));
        others.push(sent(RECORDS, NDJSON, "{\"value\":0}").key(&key));
        for (index, other) in others.iter().enumerate() {
            let answer = post(&service, other).await;
            let problem = answer.problem(422, "idempotency-key-reused");
            assert_eq!(problem["retryable"], false, "{name} {index}");
            assert_eq!(problem["outcome"], "none", "{name} {index}");
        }
        assert_eq!(count(&service, "t").await, before, "{name}");
        post(&service, &request).await.replayed();
    }
}

#[tokio::test]
async fn what_a_request_says_is_the_same_however_it_is_written() {
    let service = start().await;
    let request = sent(
        &format!("{RECORDS}?key=a%20b&partition=2&ack=durable"),
        "text/plain",
        "hello",
    )
    .key("k");
    let first = post(&service, &request).await.appended();
    for uri in [
        "?ack=durable&partition=2&key=a+b",
        "?%6bey=%61%20b&partition=2&ack=durable",
        "?key=a%20b&partition=2&ack=durable&",
    ] {
        let again = request.clone().to(&format!("{RECORDS}{uri}"));
        assert_eq!(post(&service, &again).await.replayed(), first, "{uri}");
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"hello").unwrap();
    let gzip = request
        .clone()
        .body(gzip.finish().unwrap())
        .with("content-encoding", "gzip");
    assert_eq!(post(&service, &gzip).await.replayed(), first);
    let traced = request.with("traceparent", "00-ab-cd-01").with("user-agent", "x");
    assert_eq!(post(&service, &traced).await.replayed(), first);
    assert_eq!(count(&service, "t").await, 1);
}

#[tokio::test]
async fn a_key_is_the_topics_also_where_a_topic_of_the_same_name_is_made_again() {
    let service = start().await;
    service.create_topic("other", 4).await;
    let request = json_records().key("k");
    post(&service, &request).await.appended();
    post(&service, &request.clone().to("/v1/topics/other/records"))
        .await
        .appended();
    post(
        &service,
        &request.clone().to("/v1/topics/other/records").body("{}"),
    )
    .await
    .problem(422, "idempotency-key-reused");
    assert_eq!(
        service.send(Method::DELETE, "/v1/topics/t", &[], "").await.status,
        204
    );
    post(&service, &request).await.problem(404, "unknown-topic");
    service.create_topic("t", 4).await;
    post(&service, &request).await.appended();
    post(&service, &request).await.replayed();
    assert_eq!(count(&service, "t").await, 20);
}

#[tokio::test]
async fn a_key_is_remembered_for_the_window_of_its_topic_and_no_longer() {
    let service = start().await;
    let request = json_records().key("k");
    post(&service, &request).await.appended();
    service.pass(Duration::from_millis(599_999));
    post(&service, &request).await.replayed();
    service.pass(Duration::from_millis(1));
    post(&service, &request).await.appended();
    // The window begins with what was appended.
    service.pass(Duration::from_secs(599));
    post(&service, &request).await.replayed();
    configure(&service, json!({"config": {"dedupe_window_ms": 1000}})).await;
    let brief = json_records().key("brief");
    post(&service, &brief).await.appended();
    service.pass(Duration::from_millis(999));
    post(&service, &brief).await.replayed();
    service.pass(Duration::from_millis(1));
    post(&service, &brief.clone().body(r#"{"records":[{}]}"#))
        .await
        .appended();
    let service = service.restart();
    service.pass(Duration::from_secs(2));
    post(&service, &brief).await.appended();
}

#[tokio::test]
async fn only_what_was_appended_is_remembered() {
    let service = start().await;
    let conditional = |offset: u64| {
        sent(
            &format!("{RECORDS}?partition=1&expected_offset={offset}"),
            "text/plain",
            "x",
        )
        .key("k")
    };
    post(&service, &conditional(1))
        .await
        .problem(412, "offset-mismatch");
    post(&service, &sent(RECORDS, JSON, "{\"records\":[").key("k"))
        .await
        .problem(400, "invalid-request");
    post(&service, &sent(RECORDS, NDJSON, "nonsense").key("k"))
        .await
        .problem(400, "invalid-request");
    post(&service, &sent(RECORDS, BATCH, "x").key("k"))
        .await
        .problem(415, "unsupported-media-type");
    post(&service, &sent(TO_PARTITION, BATCH, "x").key("k"))
        .await
        .problem(400, "invalid-request");
    post(&service, &binary_event().with("ce-id", "").key("k"))
        .await
        .problem(400, "invalid-request");
    post(&service, &sent(RECORDS, "a/b", vec![b'x'; 2 << 20]).key("k"))
        .await
        .problem(413, "record-too-large");
    post(&service, &sent("/v1/topics/none/records", JSON, "{}").key("k"))
        .await
        .problem(404, "unknown-topic");
    let first = post(&service, &conditional(0)).await.appended();
    // Repeated, the condition is that of then.
    assert_eq!(post(&service, &conditional(0)).await.replayed(), first);
    post(&service, &conditional(1))
        .await
        .problem(422, "idempotency-key-reused");
    post(&service, &conditional(0).key("other"))
        .await
        .problem(412, "offset-mismatch");
    assert_eq!(count(&service, "t").await, 1);
}

#[tokio::test]
async fn many_at_once_with_one_key_are_one_append() {
    let service = start().await;
    for (name, request, records) in kinds() {
        let before = count(&service, "t").await;
        let request = request.key(name.replace([' ', ','], "-").as_str());
        let all = join_all((0..32).map(|_| post(&service, &request))).await;
        for answer in &all {
            assert_eq!((answer.status, answer.json()), (200, all[0].json()), "{name}");
        }
        await_count(&service, before + records).await;
        if !name.contains("units") {
            let new = all
                .iter()
                .filter(|answer| !answer.headers.contains_key("idempotency-replayed"));
            assert_eq!(new.count(), 1, "{name}");
        }
        let other = request.clone().body([&request.body[..], b" "].concat());
        if name == "json" {
            let answers = join_all(
                [&request.clone().key("new"), &other.key("new")].map(|request| post(&service, request)),
            )
            .await;
            let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 422], "one of them is first");
        }
    }
}

#[tokio::test]
async fn at_the_bound_new_keys_are_refused_and_nothing_that_is_promised_is_forgotten() {
    let config = Config {
        max_idempotency_bytes: 16 << 10,
        ..Config::default()
    };
    let service = with(config).await;
    let request = |n: u32| json_records().key(&format!("key-{n}"));
    let mut taken = 0;
    let refused = loop {
        let answer = post(&service, &request(taken)).await;
        if answer.status != 200 {
            break answer;
        }
        taken += 1;
        assert!(taken < 1000, "there is no bound");
    };
    let problem = refused.problem(503, "overloaded");
    assert!(
        problem["detail"].as_str().unwrap().contains("dedupe_window_ms"),
        "{problem}"
    );
    let retry_after: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((600..=602).contains(&retry_after), "{retry_after}");
    assert!(taken > 10);
    let stream = post(&service, &sent(RECORDS, NDJSON, lines(5)).key("stream")).await;
    assert_eq!(stream.problem(503, "overloaded")["accepted"], 0);
    assert_eq!(count(&service, "t").await, u64::from(taken) * 20);
    for n in 0..taken {
        post(&service, &request(n)).await.replayed();
    }
    post(&service, &json_records()).await.appended();
    assert!(service.metric("quipu_idempotency_key_bytes").await <= 16 << 10);
    service.pass(Duration::from_secs(retry_after));
    post(&service, &request(taken)).await.appended();
}
