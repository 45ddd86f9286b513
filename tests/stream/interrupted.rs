//! Streams that lose records, their topic or the server, and what their clients get to know.

use super::*;

#[tokio::test]
async fn what_retention_took_from_a_reader_is_a_gap_that_it_is_told_of() {
    let service = service(2).await;
    append(&service, "t", 0, &[1, 2, 3, 4]);
    append(&service, "t", 1, &[5]);
    let (events, _) = replay_events(&service, T, "").await;
    let id = events[0].id.clone();
    trim(&service, 0, 3).await;
    for query in ["", "?order=timestamp"] {
        let (events, _) = replay_events(&service, &format!("{T}{query}"), &id).await;
        assert_eq!(events[0].name, "gap");
        let expected =
            json!({"topic": "t", "partition": 0, "from_offset": 1, "until_offset": 3, "reason": "trimmed"});
        assert_eq!(events[0].json(), expected);
        assert_eq!(places(&records(&events)), ["0/3", "1/0"]);
        // The gap is reported once.
        let (events, _) = replay_events(&service, &format!("{T}{query}"), &events[0].id).await;
        assert_eq!(events.iter().filter(|event| event.name == "gap").count(), 0);
        assert_eq!(records(&events).len(), 2);
    }
    let problem = refused(&service, &format!("from={id}"), 410, "offset-trimmed").await;
    has(&problem, json!({"log_start_offset": 3, "partition": 0}));
    // A client that has not begun has lost nothing.
    assert_eq!(replay(&service, "").await, ["0/3", "1/0"]);
}

#[tokio::test]
async fn lines_break_off_in_mid_stream_where_records_are_gone_or_the_topic_is() {
    let service = large().await;
    let mut live = Live::open(&service, T, &[]).await;
    live.chunk().await.unwrap().unwrap();
    let end = service.partition("t", 0).positions().end_offset;
    let uri = format!("/v1/topics/t/partitions/0/records?before={end}");
    service.delete(&uri).await.with_status(200);
    let (bytes, is_clean) = live.rest().await;
    assert!(!is_clean, "{} bytes and a clean end", bytes.len());

    for order in ["none", "timestamp"] {
        let service = large().await;
        let mut lines = Live::open(&service, &format!("{T}?order={order}"), &[]).await;
        let mut events = live_events(&service, &format!("order={order}")).await;
        lines.chunk().await.unwrap().unwrap();
        events.next_events().await;
        service.delete("/v1/topics/t").await.with_status(204);
        assert!(!lines.rest().await.1);
        let (bytes, is_clean) = events.rest().await;
        let text = String::from_utf8(bytes).unwrap();
        let (_, last) = text.trim_end().rsplit_once("\n\n").unwrap();
        assert!(is_clean && last.starts_with("event: error\nid: "), "{last}");
        assert!(last.contains(r#""code":"unknown-topic""#), "{last}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_whose_next_record_is_not_due_for_years_ends_when_its_topic_is_deleted() {
    for query in ["", "&follow=true&partitions=0"] {
        let service = service(1).await;
        append(&service, "t", 0, &[1000, 1_000_000_000_000]);
        let mut live = live_events(&service, &format!("speed=1{query}")).await;
        assert_eq!(live.next_places().await, ["0/0"]);
        service.delete("/v1/topics/t").await.with_status(204);
        let hour = Duration::from_secs(3600);
        let events = tokio::time::timeout(hour, live.next_events()).await;
        let events = events.expect("it is told at once");
        assert_eq!(events[0].name, "error", "{query}");
        assert_eq!(events[0].json()["code"], "unknown-topic");
    }
}

#[tokio::test]
async fn a_follower_of_a_topic_that_is_deleted_is_told_so() {
    let service = service(2).await;
    let mut events = live_events(&service, "follow=true").await;
    let mut lines = Live::open(&service, &format!("{T}?follow=true"), &[]).await;
    append(&service, "t", 0, &[1]);
    events.next_events().await;
    lines.next_lines().await;
    service.delete("/v1/topics/t").await.with_status(204);
    let event = events.next_events().await.remove(0);
    assert_error(&event, "unknown-topic");
    assert!(events.rest().await.1);
    assert!(!lines.rest().await.1);
}

/// Ten batches of one record in partition 0; the one at offset 4 is damaged.
async fn damaged() -> Service {
    let service = service(2).await;
    for n in 0..10 {
        let headers: &[(&[u8], Option<&[u8]>)] = &[(b"type", Some(b"x"))];
        service.append("t", 0, true, &[(n, None, Some(b"1"), headers)]);
    }
    append(&service, "t", 1, &[5]);
    service.restart_after(|dir| {
        let path = dir.join("topics/t/0/00000000000000000000.log");
        let mut bytes = std::fs::read(&path).unwrap();
        let batch = bytes.len() / 10;
        bytes[4 * batch + batch - 3] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    })
}

#[tokio::test]
async fn damage_is_a_problem_before_the_first_record_and_breaks_lines_off_behind_one() {
    let service = damaged().await;
    for order in ["none", "timestamp"] {
        let uri = format!("{T}?order={order}");
        let (bytes, is_clean) = Live::open(&service, &uri, &[]).await.rest().await;
        let text = String::from_utf8(bytes).unwrap();
        let offsets = text.matches("\"partition\":0").count();
        assert_eq!((offsets, is_clean), (4, false), "{text}");
        let (events, reader) = replay_events(&service, &uri, "").await;
        let last = events.last().unwrap();
        assert_error(last, "corrupt-data");
        assert_eq!(last.json()["damaged_until_offset"], 5);
        assert_eq!(reader.last_id, last.id);
        // The next record is the damaged one.
        let answer = service.get(&format!("{uri}&partitions=0&from={}", last.id)).await;
        answer.problem(500, "corrupt-data");
        let (events, _) = replay_events(&service, &format!("{uri}&partitions=0"), &last.id).await;
        assert_eq!(events.len(), 1, "the error comes again: {events:?}");
    }
}

#[tokio::test]
async fn the_last_records_behind_damage_can_be_had_and_those_before_it_are_refused() {
    let service = damaged().await;
    for (query, expected) in [
        ("last=5", ["0/6", "0/7", "0/8", "0/9", "1/0"]),
        ("last=5&header.type=x", ["0/5", "0/6", "0/7", "0/8", "0/9"]),
    ] {
        assert_eq!(replay(&service, query).await, expected, "{query}");
    }
    for query in ["last=8", "last=8&header.type=x"] {
        let problem = refused(&service, query, 500, "corrupt-data").await;
        assert_eq!(problem["damaged_until_offset"], 5);
    }
}

#[tokio::test]
async fn damage_that_was_skipped_is_a_gap_among_events_and_passed_over_by_lines() {
    let service = damaged().await;
    let answer = service.get("/v1/topics/t/partitions/0/records?offset=4").await;
    answer.problem(500, "corrupt-data");
    let range = json!({"damaged_offset": 4, "damaged_until_offset": 5});
    expect(service.post("/v1/topics/t/partitions/0/damage/skip", range), 200).await;
    for order in ["none", "timestamp"] {
        let uri = format!("{T}?order={order}");
        let (events, _) = replay_events(&service, &uri, "").await;
        let mut rows = events.iter();
        let at = rows.position(|event| event.name == "gap").expect("a gap");
        let expected =
            json!({"topic": "t", "partition": 0, "from_offset": 4, "until_offset": 5, "reason": "skipped"});
        assert_eq!(events[at].json(), expected);
        assert_eq!(records(&events).len(), 10);
        let before = places(&records(&events[..at]));
        let before = before.iter().filter(|place| place.starts_with("0/"));
        assert!(before.eq(["0/0", "0/1", "0/2", "0/3"].iter()));
        let (rest, _) = replay_events(&service, &uri, &events[at].id).await;
        assert!(rest.iter().all(|event| event.name != "gap"));
        assert_eq!(records(&rest).len() + records(&events[..at]).len(), 10);
        assert_eq!(replay(&service, &format!("order={order}")).await.len(), 10);
    }
}

#[tokio::test]
async fn a_server_that_stops_ends_followers_at_once_and_lets_replays_finish() {
    let service = large().await;
    let follow = format!("{T}?follow=true&from=latest");
    let mut lines = Live::open(&service, &follow, &[]).await;
    let mut events = Live::open(&service, &follow, &[("accept", EVENTS)]).await;
    let mut busy = live_events(&service, "follow=true").await;
    let mut paced = Live::open(&service, &format!("{T}?speed=0.001"), &[]).await;
    let mut paced_events = live_events(&service, "speed=0.001").await;
    let mut replay = Live::open(&service, T, &[]).await;
    events.chunk().await.unwrap().unwrap();
    busy.next_events().await;
    paced.next_lines().await;
    paced_events.next_events().await;
    replay.chunk().await.unwrap().unwrap();
    append(&service, "t", 1, &[1]);
    lines.next_lines().await;
    events.next_events().await;
    service.app.stopping.send_replace(true);
    // Streams of lines that would go on for ever break off.
    assert!(!lines.rest().await.1);
    assert!(!paced.rest().await.1);
    for live in [events, busy, paced_events] {
        let (bytes, is_clean) = live.rest().await;
        assert!(is_clean);
        let text = String::from_utf8(bytes).unwrap();
        // It has neither an error nor an end event, so the client asks again.
        assert!(!text.contains("event: e"));
    }
    let (bytes, is_clean) = replay.rest().await;
    assert!(is_clean && bytes.len() > 3 << 20);
    service.get(&follow).await.problem(503, "shutting-down");
}
