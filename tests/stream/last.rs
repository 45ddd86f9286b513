//! The newest records (`last=N`), and paging back from them.

use super::*;

#[tokio::test]
async fn the_last_records_are_the_newest_of_all_partitions_in_the_order_of_the_stream() {
    let service = service(2).await;
    append(&service, "t", 0, &[10, 30, 20, 40]);
    append(&service, "t", 1, &[5, 29, 35]);
    for (query, expected) in [
        ("last=1", &["0/3"][..]),
        // The record with timestamp 20 was appended after the one with 30.
        ("last=3", &["0/2", "0/3", "1/2"]),
        ("last=3&order=timestamp", &["0/2", "1/2", "0/3"]),
        ("last=100", &["0/0", "0/1", "0/2", "0/3", "1/0", "1/1", "1/2"]),
        ("last=2&until=30", &["0/0", "1/1"]),
        ("last=2&until=30&follow=true", &["0/0", "1/1"]),
        ("last=2&from=30", &["0/3", "1/2"]),
        ("last=3&from=35", &["0/3", "1/2"]),
        ("last=2&partitions=1", &["1/1", "1/2"]),
        ("last=2&key=a", &[]),
    ] {
        assert_eq!(replay(&service, query).await, expected, "{query}");
    }
    service.create_topic("u", 1).await;
    append(&service, "u", 0, &[36]);
    let both = service.get("/v1/records?topics=u,t&last=2").await;
    assert_eq!(places(&lines(&both)), ["0/0", "0/3"]);
    for query in ["last=0", "last=100001", "last=1&from=latest"] {
        refused(&service, query, 400, "last").await;
    }
}

#[tokio::test]
async fn the_last_records_that_a_filter_wants_are_found_however_far_back_they_lie() {
    let service = service(1).await;
    let wanted: &[(&[u8], Option<&[u8]>)] = &[(b"type", Some(b"x"))];
    for round in 0..5 {
        let is_wanted = |at: i64| at == 7 || (round == 0 && at < 40);
        let headers = |at| if is_wanted(at) { wanted } else { &[] };
        let rows = (0..1000).map(|at| (at, None, Some(&b"1"[..]), headers(at)));
        let samples: Vec<Sample<'_>> = rows.collect();
        service.append("t", 0, true, &samples);
    }
    let found = replay(&service, "last=6&header.type=x").await;
    assert_eq!(found, ["0/38", "0/39", "0/1007", "0/2007", "0/3007", "0/4007"]);
    assert_eq!(replay(&service, "last=100&header.type=x").await.len(), 44);
}

#[tokio::test]
async fn one_pages_back_to_the_first_record_by_the_id_before_each_page() {
    let service = service(3).await;
    for n in 0..10 {
        append(&service, "t", n % 3, &[i64::from(n), i64::from(n)]);
    }
    let mut until = String::from("latest");
    let mut pages = Vec::new();
    loop {
        let uri = format!("{T}?last=6&order=timestamp&until={until}");
        let answer = service.get_as(&uri, EVENTS).await.with_status(200);
        until = first_id(answer.text());
        let page = places(&records(&EventReader::default().feed(&answer.body)));
        let before = replay(&service, &format!("until={until}")).await.len();
        pages.push(page);
        assert_eq!(before + pages.iter().map(Vec::len).sum::<usize>(), 20);
        if before == 0 {
            break;
        }
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [6, 6, 6, 2]);
    pages.reverse();
    assert_eq!(pages.concat(), replay(&service, "order=timestamp").await);
    assert_eq!(replay(&service, &format!("last=5&until={until}")).await, [""; 0]);
    let found = replay(&service, &format!("follow=true&until={until}")).await;
    assert_eq!(found, [""; 0]);
    service.create_topic("u", 1).await;
    let other = format!("/v1/topics/u/records?until={until}");
    service.get(&other).await.invalid("until");
}

#[tokio::test]
async fn a_follower_of_the_last_records_goes_on_with_what_comes_and_can_come_back_to_them() {
    let service = service(2).await;
    append(&service, "t", 0, &[1, 2]);
    append(&service, "t", 1, &[3]);
    let uri = format!("{T}?last=2&follow=true");
    let mut live = Live::open(&service, &uri, &[("accept", EVENTS)]).await;
    assert_eq!(live.chunk().await.unwrap().unwrap(), b"retry: 2000\n\n");
    let first = live.chunk().await.unwrap().unwrap();
    assert!(first.starts_with(b"id: "), "{}", String::from_utf8_lossy(&first));
    let place = first_id(std::str::from_utf8(&first).unwrap());
    let found = records(&live.reader.feed(&first));
    assert_eq!(places(&found), ["0/1", "1/0"]);
    append(&service, "t", 0, &[0]);
    assert_eq!(live.next_places().await, ["0/2"]);
    let headers = [("accept", EVENTS), ("last-event-id", place.as_str())];
    let mut again = Live::open(&service, &uri, &headers).await;
    let mut found = Vec::new();
    while found.len() < 3 {
        found.extend(places(&records(&again.next_events().await)));
    }
    assert_eq!(found, ["0/1", "0/2", "1/0"]);
}
