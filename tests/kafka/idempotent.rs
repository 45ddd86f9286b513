//! Producers that number their records.

use super::*;

const DESCRIBE_PRODUCERS: i16 = 61;

fn producer_id(client: &mut Client) -> (i64, i16) {
    let mut answer = client.ask(INIT_PRODUCER_ID, 0, Out::new().null().i32(60_000));
    assert_eq!((answer.i32(), answer.i16()), (0, 0));
    (answer.i64(), answer.i16())
}

#[test]
fn ids_are_never_given_twice_and_leave_the_small_ones_to_others() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let first = producer_id(&mut client);
    let second = producer_id(&mut client);
    assert!(first.0 >= 1 << 40 && second.0 > first.0, "{first:?} {second:?}");
    let fixture = fixture.restart_after_kill();
    let third = producer_id(&mut fixture.client());
    assert!(third.0 > second.0, "{second:?} {third:?}");
    assert_eq!(third.1, 0);
}

#[test]
fn a_transactional_producer_is_refused() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    for (name, code) in [("tx", 35), ("", 42)] {
        let mut answer = client.ask(INIT_PRODUCER_ID, 0, Out::new().text(name).i32(60_000));
        let found = (answer.i32(), answer.i16(), answer.i64(), answer.i16());
        assert_eq!(found, (0, code, -1, -1), "{name:?}");
    }
}

#[test]
fn a_repeated_batch_has_its_first_offset_and_a_gap_or_an_old_epoch_is_refused() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let (id, _) = producer_id(&mut client);
    let send = |client: &mut Client, epoch: i16, sequence: i32| {
        produce(client, "t", -1, &batch_of(&["a", "b"], (id, epoch), sequence))
    };
    assert_eq!(send(&mut client, 0, 0), (0, 0));
    assert_eq!(send(&mut client, 0, 2), (0, 2));
    assert_eq!(send(&mut client, 0, 0), (0, 0), "repeated");
    assert_eq!(send(&mut client, 0, 6), (45, -1), "a gap");
    assert_eq!(
        send(&mut client, 1, 5),
        (45, -1),
        "a new epoch does not begin at 0"
    );
    assert_eq!(send(&mut client, 1, 0), (0, 4));
    assert_eq!(send(&mut client, 0, 4), (47, -1), "an old epoch");
    // Over a kill of the server, too.
    let fixture = fixture.restart_after_kill();
    let mut client = fixture.client();
    assert_eq!(send(&mut client, 1, 0), (0, 4), "repeated");
    assert_eq!(send(&mut client, 1, 2), (0, 6));
    let (_, end, _) = fetch(&mut client, "t", 0);
    assert_eq!(end, 8);
}

/// What a partition of `t` says of its producers: the error, and of each its id, epoch, last sequence and time.
fn producers(client: &mut Client, partition: i32) -> (i16, Vec<(i64, i32, i32, i64)>) {
    let body = Out::new()
        .raw(&[0, 2, 2])
        .raw(b"t")
        .raw(&[2])
        .i32(partition)
        .raw(&[0, 0]);
    let mut answer = client.ask(DESCRIBE_PRODUCERS, 0, body);
    assert_eq!((answer.i8(), answer.i32(), answer.i8()), (0, 0, 2));
    assert_eq!((answer.bytes(2), answer.i8()), (vec![2, b't'], 2));
    assert_eq!(answer.i32(), partition);
    let error = answer.i16();
    let message = answer.i8().max(1) - 1;
    answer.bytes(message.into());
    let known = (1..answer.i8()).map(|_| {
        let known = (answer.i64(), answer.i32(), answer.i32(), answer.i64());
        assert_eq!(
            (answer.i32(), answer.i64(), answer.i8()),
            (-1, -1, 0),
            "no transaction"
        );
        known
    });
    let known = known.collect();
    assert_eq!((answer.i8(), answer.i8(), answer.i8()), (0, 0, 0));
    answer.end();
    (error, known)
}

#[test]
fn a_partition_names_its_producers_with_their_last_sequences_over_a_restart() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 2);
    let mut client = fixture.client();
    produce(&mut client, "t", -1, &batch(&["of nobody"]));
    assert_eq!(producers(&mut client, 0), (0, Vec::new()));
    let (one, _) = producer_id(&mut client);
    let (other, _) = producer_id(&mut client);
    for (producer, sequence) in [((one, 0), 0), ((other, 3), 0), ((one, 0), 2), ((one, 0), 4)] {
        let sent = batch_of(&["a", "b"], producer, sequence);
        assert_eq!(produce(&mut client, "t", -1, &sent).0, 0);
    }
    let (error, known) = producers(&mut client, 0);
    let numbers = known.iter().map(|(id, epoch, last, _)| (*id, *epoch, *last));
    assert_eq!(error, 0);
    assert_eq!(numbers.collect::<Vec<_>>(), [(one, 0, 5), (other, 3, 1)]);
    assert!(
        known.iter().all(|(_, _, _, time)| *time > 1_700_000_000_000),
        "{known:?}"
    );
    assert_eq!(producers(&mut client, 1), (0, Vec::new()), "another partition");
    assert_eq!(producers(&mut client, 2), (3, Vec::new()), "no such partition");
    // A partition that is named again is not described again.
    let body = Out::new()
        .raw(&[0, 2, 2])
        .raw(b"t")
        .raw(&[3])
        .i32(1)
        .i32(1)
        .raw(&[0, 0]);
    let mut answer = client.ask(DESCRIBE_PRODUCERS, 0, body);
    answer.bytes(1 + 4 + 1 + 2 + 1);
    for code in [0, 42] {
        assert_eq!((answer.i32(), answer.i16()), (1, code));
        assert_eq!((answer.i8(), answer.i8(), answer.i8()), (0, 1, 0));
    }
    let fixture = fixture.restart_after_kill();
    assert_eq!(producers(&mut fixture.client(), 0), (0, known));
}

/// A request of one producer that appends its first batch to each partition of a topic.
fn to_all_partitions(topic: &str, partitions: i32, producer: i64) -> Out {
    let head = Out::new().null().i16(-1).i32(30_000).i32(1).text(topic);
    let records = batch_of(&["x"], (producer, 0), 0);
    (0..partitions).fold(head.i32(partitions), |body, partition| {
        body.i32(partition).bytes(&records)
    })
}

#[test]
fn many_producers_of_one_topic_push_out_their_own_kind_and_nobody_elses() {
    const PARTITIONS: i32 = 1000;
    let fixture = Fixture::new();
    fixture.server.create_topic("mine", 1);
    fixture.server.create_topic("flood", PARTITIONS as u32);
    let mut client = fixture.client();
    let mine =
        |client: &mut Client, sequence: i32| produce(client, "mine", -1, &batch_of(&["a"], (7, 0), sequence));
    for sequence in 0..2 {
        assert_eq!(mine(&mut client, sequence), (0, i64::from(sequence)));
    }
    // One more producer in each partition than are remembered.
    for producer in 100..201 {
        let answer = client.ask(PRODUCE, 3, to_all_partitions("flood", PARTITIONS, producer));
        let mut answer = answer;
        answer.i32();
        answer.text();
        for _ in 0..answer.i32() {
            answer.i32();
            assert_eq!(answer.i16(), 0, "{producer}");
            answer.bytes(8 + 8);
        }
    }
    let flood = |client: &mut Client, epoch: i16, sequence: i32| {
        produce(client, "flood", -1, &batch_of(&["y"], (100, epoch), sequence))
    };
    let check = |client: &mut Client| {
        for sequence in 0..2 {
            assert_eq!(mine(client, sequence), (0, i64::from(sequence)), "a repetition");
        }
        assert_eq!(flood(client, 0, 1), (59, -1), "it may be a repetition");
        let again = produce_request("flood", 0, -1, &batch_of(&["y"], (100, 0), 1));
        let mut answer = client.ask(PRODUCE, 8, again);
        answer.bytes(4);
        answer.text();
        answer.bytes(4 + 4);
        assert_eq!(answer.i16(), 59);
        answer.bytes(8 + 8);
        assert_eq!(answer.bytes(8), [0; 8], "where the log starts, for Java's client");
    };
    check(&mut client);
    let fixture = fixture.restart_after_kill();
    let mut client = fixture.client();
    check(&mut client);
    // Whoever is told so begins anew.
    assert_eq!(flood(&mut client, 1, 0).0, 0);
    assert_eq!(flood(&mut client, 1, 1).0, 0);
    assert_eq!(mine(&mut client, 2), (0, 2));
}
