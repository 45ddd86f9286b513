//! Browsing: searches, bounds, one document at a time, and paging in both directions, against a model.

use super::*;
use support::Rng;

const JSON: &str = "application/json";

/// A page of a browser: its document.
async fn page(service: &Service, query: &str) -> Value {
    let answer = service.get_as(&format!("{T}?{query}"), JSON).await;
    let page = answer.ok();
    assert_eq!(answer.header("content-type"), Some(JSON));
    let ended = page["ended"].as_str().unwrap();
    assert!(["end", "records", "bytes", "time"].contains(&ended), "{page}");
    assert!(page["cursor"].as_str().unwrap().starts_with('A'), "{page}");
    page
}

fn of_page(page: &Value) -> Vec<String> {
    places(page["records"].as_array().unwrap())
}

/// A record of the model: its key, its value, the value of its header `h`.
type Texts = (Option<String>, String, String);

/// Random texts over few letters, so that short searches match often.
fn text(rng: &mut Rng, most: u64) -> String {
    let length = rng.next() % (most + 1);
    (0..length)
        .map(|_| char::from(b'a' + (rng.next() % 3) as u8))
        .collect()
}

/// Fills partitions of `t` with random records in batches of random sizes; returns the records by partition.
fn fill(service: &Service, partitions: u32, rng: &mut Rng) -> Vec<Vec<Texts>> {
    let mut model = vec![Vec::new(); partitions as usize];
    let mut time = 0;
    for _ in 0..rng.next() % 12 + 4 {
        let partition = (rng.next() % u64::from(partitions)) as u32;
        let rows: Vec<(i64, Texts)> = (0..rng.next() % 30 + 1)
            .map(|_| {
                time += (rng.next() % 3) as i64;
                // Some come late.
                let late = if rng.next().is_multiple_of(10) { 7 } else { 0 };
                let key = rng.next().is_multiple_of(2).then(|| text(rng, 3));
                (time - late, (key, format!("\"{}\"", text(rng, 12)), text(rng, 4)))
            })
            .collect();
        let headers: Vec<_> = rows
            .iter()
            .map(|(_, row)| [(&b"h"[..], Some(row.2.as_bytes()))])
            .collect();
        let samples = rows.iter().zip(&headers);
        let samples = samples.map(|((time, row), headers)| {
            (
                *time,
                row.0.as_ref().map(String::as_bytes),
                Some(row.1.as_bytes()),
                &headers[..],
            )
        });
        service.append("t", partition, true, &samples.collect::<Vec<Sample<'_>>>());
        model[partition as usize].extend(rows.into_iter().map(|(_, row)| row));
    }
    model
}

/// The places of the records that contain a text, by partition.
fn matching(model: &[Vec<Texts>], text: &str) -> Vec<Vec<String>> {
    let has = |row: &Texts| {
        row.0.as_ref().is_some_and(|key| key.contains(text)) || row.1.contains(text) || row.2.contains(text)
    };
    let of = |(partition, rows): (usize, &Vec<Texts>)| {
        let rows = rows.iter().enumerate().filter(|(_, row)| has(row));
        rows.map(|(offset, _)| format!("{partition}/{offset}")).collect()
    };
    model.iter().enumerate().map(of).collect()
}

/// The places by partition, in the order in which they came.
fn by_partition(places: &[String], partitions: u32) -> Vec<Vec<String>> {
    let of = |partition: u32| {
        let own = places
            .iter()
            .filter(|place| place.starts_with(&format!("{partition}/")));
        own.cloned().collect()
    };
    (0..partitions).map(of).collect()
}

#[tokio::test]
async fn the_pages_of_a_search_are_exactly_the_matching_records_in_order_and_none_twice() {
    let mut rng = Rng::from_environment("pages of a search");
    for round in 0..8 {
        let partitions = (rng.next() % 3 + 1) as u32;
        let service = service(partitions).await;
        let model = fill(&service, partitions, &mut rng);
        let needle = match round % 4 {
            0 => "abca".to_owned(),
            1 => "zz".to_owned(),
            _ => "a".to_owned() + &text(&mut rng, 2),
        };
        let expected = matching(&model, &needle);
        let total: usize = expected.iter().map(Vec::len).sum();
        let in_lines = replay(&service, &format!("search={needle}")).await;
        assert_eq!(by_partition(&in_lines, partitions), expected);
        let by_time = replay(&service, &format!("search={needle}&order=timestamp")).await;
        for size in [1, 2, 3, 7, 50, 500] {
            for bounds in ["", "&max_scan_bytes=1", "&max_scan_bytes=90", "&max_scan_ms=1"] {
                for order in ["", "&order=timestamp"] {
                    let query = format!("search={needle}&max_records={size}{bounds}{order}");
                    let forward = forward(&service, &query, size).await;
                    if order.is_empty() {
                        assert_eq!(by_partition(&forward, partitions), expected, "{query}");
                    } else {
                        assert_eq!(forward, by_time, "{query}");
                    }
                }
                let query = format!("search={needle}&last={size}{bounds}&order=timestamp");
                let backward = backward(&service, &query, size).await;
                assert_eq!(by_partition(&backward, partitions), expected, "{query}");
                assert_eq!(backward.len(), total);
            }
        }
    }
}

/// The pages of a query one after the other.
async fn forward(service: &Service, query: &str, size: usize) -> Vec<String> {
    let mut from = String::from("earliest");
    let mut all = Vec::new();
    for _ in 0..2000 {
        let page = page(service, &format!("{query}&from={from}")).await;
        let found = of_page(&page);
        assert!(found.len() <= size, "{page}");
        all.extend(found.iter().cloned());
        match page["ended"].as_str().unwrap() {
            "end" => return all,
            "records" => assert_eq!(found.len(), size, "{page}"),
            _ => {}
        }
        let cursor = page["cursor"].as_str().unwrap().to_owned();
        assert_ne!(cursor, from, "a page without progress: {page}");
        from = cursor;
    }
    panic!("{query} has no end");
}

/// The pages of a query from the newest back, in the order of the log.
async fn backward(service: &Service, query: &str, size: usize) -> Vec<String> {
    let mut until = String::from("latest");
    let mut pages = Vec::new();
    for _ in 0..2000 {
        let page = page(service, &format!("{query}&until={until}")).await;
        let found = of_page(&page);
        match page["ended"].as_str().unwrap() {
            "records" => assert_eq!(found.len(), size, "{page}"),
            _ => assert!(found.len() <= size, "{page}"),
        }
        let cursor = page["cursor"].as_str().unwrap().to_owned();
        pages.push(found);
        if page["ended"] == "end" {
            pages.reverse();
            return pages.concat();
        }
        assert_ne!(cursor, until, "a page without progress: {page}");
        until = cursor;
    }
    panic!("{query} has no end");
}

#[tokio::test]
async fn a_page_of_the_newest_matches_has_no_older_ones_than_those_it_leaves_out() {
    let service = service(3).await;
    // Partition 0 has many matches, the others few: old ones, and new ones.
    let mut time = 0;
    for round in 0..30 {
        for partition in 0..3 {
            let rows: Vec<(i64, &str)> = (0..20)
                .map(|at| {
                    time += 1;
                    let is_match = match partition {
                        0 => true,
                        1 => round == 0 && at == 0,
                        _ => round == 29 && at < 2,
                    };
                    (time, if is_match { "\"yes\"" } else { "\"no\"" })
                })
                .collect();
            let samples = rows
                .iter()
                .map(|(time, value)| (*time, None, Some(value.as_bytes()), &[][..]));
            service.append("t", partition, true, &samples.collect::<Vec<Sample<'_>>>());
        }
    }
    let newest = page(&service, "search=yes&last=5&order=timestamp").await;
    assert_eq!(of_page(&newest), ["0/597", "0/598", "0/599", "2/580", "2/581"]);
    assert_eq!(newest["ended"], "records");
    let cursor = newest["cursor"].as_str().unwrap();
    let before = page(
        &service,
        &format!("search=yes&last=596&order=timestamp&until={cursor}"),
    )
    .await;
    let found = of_page(&before);
    assert_eq!((found.len(), &before["ended"]), (596, &json!("records")));
    assert_eq!(found[..2], ["0/2", "0/3"]);
    assert!(found.contains(&"1/0".to_owned()));
}

#[tokio::test]
async fn a_partition_that_has_only_older_records_than_those_found_is_not_searched() {
    let service = service(2).await;
    append(&service, "t", 0, &(1000..1010).collect::<Vec<i64>>());
    let value = format!("\"1/{}\"", "x".repeat(60 << 10));
    for time in 0..40 {
        service.append("t", 1, true, &[(time, None, Some(value.as_bytes()), &[])]);
    }
    let newest = page(&service, "search=/1&last=5&order=timestamp").await;
    assert_eq!(of_page(&newest), ["0/5", "0/6", "0/7", "0/8", "0/9"]);
    assert_eq!(
        (&newest["ended"], &newest["scanned_records"]),
        (&json!("records"), &json!(10))
    );
    let cursor = newest["cursor"].as_str().unwrap();
    let before = page(
        &service,
        &format!("last=6&order=timestamp&until={cursor}&value_limit=1"),
    )
    .await;
    assert_eq!(of_page(&before), ["1/39", "0/0", "0/1", "0/2", "0/3", "0/4"]);
}

#[tokio::test]
async fn a_document_has_500_records_unless_it_is_asked_for_others_and_says_where_to_go_on() {
    let service = service(1).await;
    let times: Vec<i64> = (0..1200).collect();
    append(&service, "t", 0, &times);
    let first = page(&service, "").await;
    assert_eq!(of_page(&first).len(), 500);
    has(&first, json!({"ended": "records", "scanned_records": 500}));
    let bytes = first["scanned_bytes"].as_u64().unwrap();
    assert!((500 * 10..500 * 40).contains(&bytes), "{bytes}");
    let cursor = first["cursor"].as_str().unwrap();
    let rest = page(&service, &format!("from={cursor}&max_records=1000")).await;
    assert_eq!((of_page(&rest).len(), &rest["ended"]), (700, &json!("end")));
    assert_eq!(of_page(&rest)[0], "0/500");
    let last = page(&service, "last=700&value_limit=2").await;
    assert_eq!((of_page(&last).len(), &last["ended"]), (700, &json!("records")));
    has(
        &last["records"][0],
        json!({"offset": 500, "value_text": "\"0", "value_bytes": 7, "truncated": true}),
    );
    assert_eq!(
        of_page(&page(&service, "last=700&max_records=2").await),
        ["0/1198", "0/1199"]
    );
    let all = page(&service, "last=2000").await;
    assert_eq!((of_page(&all).len(), &all["ended"]), (1200, &json!("end")));
    for all in [
        "last=1200",
        "max_records=1200",
        "max_records=1200&order=timestamp",
    ] {
        assert_eq!(page(&service, all).await["ended"], "end", "{all}");
    }
    let none = page(&service, "search=nothing").await;
    has(
        &none,
        json!({"records": [], "ended": "end", "scanned_records": 1200}),
    );
    let bounded = page(&service, "search=nothing&max_scan_bytes=1").await;
    has(
        &bounded,
        json!({"records": [], "ended": "bytes", "scanned_records": 1}),
    );
    let events = service
        .get_as(&format!("{T}?data=cloudevents&max_records=1"), JSON)
        .await
        .ok();
    assert_eq!(events["records"][0]["specversion"], "1.0");
    service.create_topic("u", 1).await;
    let both = service
        .get_as("/v1/records?topics=t,u&max_records=1", JSON)
        .await
        .ok();
    assert_eq!(both["records"][0]["topic"], "t");
}

#[tokio::test]
async fn bounds_end_lines_and_events_too_and_events_say_how_it_ended() {
    let service = service(2).await;
    append(&service, "t", 0, &[1, 3, 5]);
    append(&service, "t", 1, &[2, 4]);
    assert_eq!(
        replay(&service, "max_records=2&order=timestamp").await,
        ["0/0", "1/0"]
    );
    assert_eq!(replay(&service, "search=/4").await, ["1/1"]);
    assert_eq!(
        replay(&service, "search=%221/&order=timestamp&from=3").await,
        ["1/1"]
    );
    let answer = service
        .get_as(&format!("{T}?search=/&max_records=2&order=timestamp"), EVENTS)
        .await;
    let events = EventReader::default().feed(&answer.with_status(200).body);
    assert_eq!(places(&records(&events)), ["0/0", "1/0"]);
    let end = events.last().unwrap();
    assert_eq!(end.name, "end");
    let looked = end.json();
    assert_eq!(
        (&looked["ended"], &looked["cursor"]),
        (&json!("records"), &json!(end.id))
    );
    let rest = replay(&service, &format!("order=timestamp&from={}", end.id)).await;
    assert_eq!(rest, ["0/1", "1/1", "0/2"]);
    let answer = service
        .get_as(&format!("{T}?search=/&last=2&order=timestamp"), EVENTS)
        .await;
    let begin = first_id(answer.text());
    let events = EventReader::default().feed(&answer.body);
    assert_eq!(places(&records(&events)), ["1/1", "0/2"]);
    let looked = events.last().unwrap().json();
    assert_eq!(
        looked["cursor"],
        json!(begin),
        "of the newest, the page's beginning"
    );
    // A stream without a search says nothing more than before.
    let answer = service.get_as(T, EVENTS).await;
    let events = EventReader::default().feed(&answer.body);
    assert_eq!(events.last().unwrap().data, "{}");
}

#[tokio::test]
async fn a_live_search_goes_on_and_says_each_second_how_far_it_is() {
    let service = service(1).await;
    append(&service, "t", 0, &[1, 2]);
    let mut live = live_events(&service, "search=/2&follow=true").await;
    assert_eq!(live.next_places().await, ["0/1"]);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    append(&service, "t", 0, &[3]);
    let events = live.next_events().await;
    assert_eq!(events[0].name, "progress", "{events:?}");
    let looked = events[0].json();
    has(&looked, json!({"scanned_records": 3, "cursor": events[0].id}));
    assert_eq!(looked.get("ended"), None);
    append(&service, "t", 0, &[20]);
    assert_eq!(live.next_places().await, ["0/3"]);
    let mut counted = live_events(&service, "search=/2&follow=true&max_records=2").await;
    assert_eq!(counted.next_places().await, ["0/1", "0/3"]);
}

#[tokio::test]
async fn a_document_is_refused_where_it_has_no_end_and_not_sent_to_who_takes_anything() {
    let service = service(1).await;
    append(&service, "t", 0, &[1]);
    let uri = format!("{T}?follow=true");
    service.get_as(&uri, JSON).await.problem(406, "not-acceptable");
    service
        .get_as(&format!("{T}?speed=2"), JSON)
        .await
        .invalid("speed");
    let answer = service
        .get_as(T, "application/json, text/plain, */*")
        .await
        .with_status(200);
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    for (query, pointer) in [
        ("search=", "search"),
        ("search=a&search=b", "search"),
        ("max_records=0", "max_records"),
        ("max_records=100001", "max_records"),
        ("max_scan_bytes=0", "max_scan_bytes"),
        ("max_scan_bytes=-1", "max_scan_bytes"),
        ("max_scan_ms=0", "max_scan_ms"),
        ("max_scan_ms=1&follow=true", "max_scan_ms"),
    ] {
        refused(&service, query, 400, pointer).await;
    }
    let head = service
        .send(Method::HEAD, T, &[("accept", JSON)], "")
        .await
        .with_status(200);
    assert_eq!((head.header("content-type"), head.body.len()), (Some(JSON), 0));
}

#[tokio::test]
async fn a_search_that_nobody_reads_any_more_is_over() {
    let service = service(1).await;
    append(&service, "t", 0, &[1]);
    let live = live_events(&service, "search=x&follow=true").await;
    assert_eq!(service.app.counters.streams.load(Relaxed), 1);
    drop(live);
    assert_eq!(service.app.counters.streams.load(Relaxed), 0);
}
