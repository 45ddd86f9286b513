//! Producers that number their records.

use super::*;

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
    let mut answer = fixture
        .client()
        .ask(INIT_PRODUCER_ID, 0, Out::new().text("tx").i32(60_000));
    assert_eq!(
        (answer.i32(), answer.i16(), answer.i64(), answer.i16()),
        (0, 35, -1, -1)
    );
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
