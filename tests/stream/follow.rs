//! Live tails: new records, the times when they come, and how an idle stream stays alive.

use super::*;

#[tokio::test]
async fn a_follower_gets_what_is_there_and_then_what_comes() {
    let service = service(2).await;
    append(&service, "t", 0, &[1]);
    for (accept, query) in [
        (EVENTS, ""),
        (EVENTS, "&order=timestamp"),
        ("application/x-ndjson", ""),
        ("application/x-ndjson", "&order=timestamp"),
    ] {
        let uri = format!("{T}?follow=true&from=latest{query}");
        let mut live = Live::open(&service, &uri, &[("accept", accept)]).await;
        assert_eq!(live.status, 200);
        for partition in [1, 0, 0, 1] {
            append(&service, "t", partition, &[7, 8]);
            let mut got = Vec::new();
            while got.len() < 2 {
                if accept == EVENTS {
                    got.extend(records(&live.next_events().await));
                } else {
                    got.extend(live.next_lines().await);
                }
            }
            let end = service.partition("t", partition).positions().end_offset.get();
            let wanted = [end - 2, end - 1].map(|offset| format!("{partition}/{offset}"));
            assert_eq!(places(&got), wanted);
        }
    }
}

#[tokio::test]
async fn a_follower_from_the_end_knows_where_that_was_before_anything_comes() {
    let service = service(1).await;
    append(&service, "t", 0, &[1]);
    let mut live = live_events(&service, "follow=true&from=latest").await;
    let first = live.chunk().await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&first);
    assert!(text.starts_with("retry: 2000\n\n"), "{text}");
    assert_eq!(live.reader.feed(&first), []);
    let id = live.reader.last_id.clone();
    drop(live);
    append(&service, "t", 0, &[2]);
    assert_eq!(places_after(&service, T, &id).await, ["0/1"]);
}

#[tokio::test(start_paused = true)]
async fn a_record_dated_after_until_is_left_out_also_where_it_came_before_that_moment() {
    let service = Service::new();
    service.set_time(1000);
    service.create_topic("t", 1).await;
    append(&service, "t", 0, &[1000]);
    let mut live = live_events(&service, "follow=true&speed=1&until=3000").await;
    assert_eq!(live.next_places().await, ["0/0"]);
    // Both are stored when the clock ends the stream; the first is not due yet, the second is after the end.
    append(&service, "t", 0, &[2500, 9000]);
    service.set_time(3000);
    let (rest, is_whole) = live.rest().await;
    let rest = EventReader::default().feed(&rest);
    assert!(is_whole);
    assert_eq!(places(&records(&rest)), ["0/1"]);
    assert_eq!(rest.last().unwrap().name, "end");
}

#[tokio::test]
async fn partitions_that_are_added_join_from_their_beginning() {
    let service = service(1).await;
    append(&service, "t", 0, &[1]);
    for query in ["", "&order=timestamp"] {
        let before = service.partition("t", 0).positions().end_offset.get();
        let mut live = live_events(&service, &format!("follow=true&from=latest{query}")).await;
        let chosen = live_events(&service, &format!("follow=true&partitions=0&from=latest{query}")).await;
        let count = service.app.log.topic("t").unwrap().partition_count();
        let body = json!({"partitions": count + 2});
        service.patch("/v1/topics/t", body).await.with_status(200);
        append(&service, "t", count + 1, &[5]);
        let events = live.next_events().await;
        assert_eq!(places(&records(&events)), [format!("{}/0", count + 1)]);
        append(&service, "t", 0, &[6]);
        let event = live.next_events().await.pop().unwrap();
        let found = places(&records(std::slice::from_ref(&event)));
        assert_eq!(found, [format!("0/{before}")]);
        // A client that resumes with an earlier cursor gets the added partitions as well, from their beginning.
        let found = places_after(&service, T, &events[0].id).await;
        assert_eq!(found, [format!("0/{before}")]);
        let mut chosen = chosen;
        let events = chosen.next_events().await;
        // A stream over chosen partitions gets only those.
        assert_eq!(places(&records(&events)), [format!("0/{before}")]);
    }
    // A cursor lacks partitions that were added later: they are read from their beginning, without `follow` too.
    let (events, _) = replay_events(&service, &format!("{T}?partitions=0"), "").await;
    let found = places_after(&service, T, &events.last().unwrap().id).await;
    assert_eq!(found, ["2/0", "4/0"]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_says_every_fifteen_seconds_that_it_is_alive_and_where_it_is() {
    let service = service(1).await;
    let mut live = live_events(&service, "follow=true&header.type=x").await;
    assert_eq!(live.chunk().await.unwrap().unwrap(), b"retry: 2000\n\n");
    let began = tokio::time::Instant::now();
    let heartbeat = live.chunk().await.unwrap().unwrap();
    assert_eq!(heartbeat, b": \n\n", "nothing has moved");
    assert_eq!(began.elapsed().as_secs(), 15);
    // Records that the filter does not want: the client does not see them, but its cursor moves past them.
    append(&service, "t", 0, &[1, 2, 3]);
    let heartbeat = live.chunk().await.unwrap().unwrap();
    assert_eq!(live.reader.feed(&heartbeat), []);
    assert_eq!(live.reader.comments, 1);
    let id = live.reader.last_id.clone();
    assert!(!id.is_empty());
    // The cursor has not moved since.
    assert_eq!(live.chunk().await.unwrap().unwrap(), b": \n\n");
    assert_eq!(began.elapsed().as_secs(), 45);
    drop(live);
    append(&service, "t", 0, &[4]);
    assert_eq!(places_after(&service, T, &id).await, ["0/3"]);
}

#[tokio::test(start_paused = true)]
async fn a_replay_at_a_speed_has_the_pace_of_its_timestamps() {
    let service = service(2).await;
    append(&service, "t", 0, &[60_000, 180_000, 100_000]);
    append(&service, "t", 1, &[120_000]);
    for (accept, uri) in [
        (EVENTS, "speed=60"),
        ("application/x-ndjson", "speed=60&order=timestamp"),
    ] {
        let uri = format!("{T}?{uri}");
        let mut live = Live::open(&service, &uri, &[("accept", accept)]).await;
        let began = tokio::time::Instant::now();
        let mut times = Vec::new();
        while let Some(chunk) = live.chunk().await {
            let chunk = String::from_utf8(chunk.unwrap()).unwrap();
            for _ in chunk.matches("\"offset\":") {
                times.push(began.elapsed().as_millis() / 10);
            }
        }
        assert_eq!(times, [0, 100, 200, 200], "in hundredths of a second");
    }
    // The stream is silent for hours and still alive.
    append(&service, "t", 1, &[1_000_000_000]);
    let mut live = live_events(&service, "speed=1&from=180000").await;
    let mut comments = 0;
    while comments < 100 {
        let chunk = live.chunk().await.unwrap().unwrap();
        comments += usize::from(chunk.starts_with(b": \n"));
    }
}
