//! Damaged records as Kafka's consumers see them.

use super::*;

#[test]
fn damage_behind_skipped_damage_is_an_error_and_no_stall() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    for number in 0..10 {
        let value = number.to_string();
        assert_eq!(produce(&mut client, "t", -1, &batch(&[&value])), (0, number));
    }
    drop(client);
    let fixture = fixture.restart_after(|data| {
        let path = data.join("topics/t/0/00000000000000000000.log");
        let mut bytes = std::fs::read(&path).expect("the only segment");
        let batch = bytes.len() / 10;
        for number in [3, 4] {
            bytes[number * batch + batch - 3] ^= 1;
        }
        std::fs::write(&path, bytes).expect("it is ours");
    });
    let mut client = fixture.client();
    assert_eq!(fetch(&mut client, "t", 3).0, 2);
    let skip = |from: u64, until: u64| {
        let body = format!(r#"{{"damaged_offset":{from},"damaged_until_offset":{until}}}"#);
        let path = "/v1/topics/t/partitions/0/damage/skip";
        fixture
            .server
            .expect(200, "POST", path, "application/json", body.as_bytes());
    };
    skip(3, 4);
    // A fetch that waits finds it, too.
    for wait in [0, 3_600_000] {
        let request = fetch_request("t", 3, (wait, 1, 1 << 20));
        let (error, _, batches) = fetched(client.ask(FETCH, 4, request));
        assert_eq!((error, batches.len()), (2, 0));
    }
    skip(4, 5);
    let (error, end, batches) = fetch(&mut client, "t", 3);
    assert_eq!((error, end), (0, 10));
    assert_eq!(batches[..8], 5_i64.to_be_bytes());
}
