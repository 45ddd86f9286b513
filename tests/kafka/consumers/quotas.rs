//! A principal that has used up its quota: its members live on.

use super::*;

const FIND_COORDINATOR: i16 = 10;

/// A client of a principal that may use a byte a second and has used many, and the secret of the principal.
fn in_debt(fixture: &Fixture) -> (Client, String) {
    fixture.topic("t");
    let more = serde_json::json!({"rules": crate::sasl::all(), "quotas": {"bytes_per_second": 1}});
    let secret = fixture.token("greedy", &more);
    let mut client = fixture.client();
    let signed_in = crate::sasl::scram(&mut client, "SCRAM-SHA-256", "greedy", &secret);
    assert_eq!(signed_in, Ok(0));
    let value = "x".repeat(500_000);
    assert_eq!(produce(&mut client, "t", -1, &batch(&[&value])), (0, 0));
    (client, secret)
}

#[test]
fn a_member_lives_on_while_its_principal_is_in_debt() {
    let fixture = crate::sasl::closed(&[]);
    let (mut client, secret) = in_debt(&fixture);
    let mut answer = client.ask(FIND_COORDINATOR, 0, Out::new().text("g"));
    assert_eq!((answer.i16(), answer.i32()), (0, 0));
    let joined = join(&mut client, "m");
    assert_eq!(joined.partitions(), [0]);
    assert_eq!(committed(&mut client, Some("m"), joined.epoch, 0), Ok(-1));
    assert_eq!(live(&mut client, "m", joined.epoch).error, 0);
    // Also on another connection: Java's client asks for the versions again when it has signed in.
    let mut again = fixture.client();
    let signed_in = crate::sasl::scram(&mut again, "SCRAM-SHA-256", "greedy", &secret);
    assert_eq!(signed_in, Ok(0));
    assert_eq!(again.ask(API_VERSIONS, 0, Out::new()).i16(), 0);
    assert_eq!(live(&mut again, "m", joined.epoch).error, 0);
    let signed_in = crate::sasl::scram(&mut again, "SCRAM-SHA-256", "greedy", &secret);
    assert_eq!(signed_in, Ok(0), "it signs in again in time");
}

#[test]
fn a_fetch_in_debt_has_no_records_and_does_not_hold_up_what_keeps_a_member_alive() {
    let fixture = crate::sasl::closed(&[]);
    let (mut client, _) = in_debt(&fixture);
    for _ in 0..2 {
        let mut frames = fetch_request("t", 0, (0, 1, 1 << 20)).frame(FETCH, 4, 71);
        frames.extend(fetch_request("t", 5, (0, 1, 1 << 20)).frame(FETCH, 4, 72));
        frames.extend(Out::new().text("g").frame(FIND_COORDINATOR, 0, 73));
        client.send(&frames);
        let (correlation, answer) = client.receive();
        assert_eq!((correlation, fetched(answer)), (71, (0, 1, Vec::new())));
        let (correlation, answer) = client.receive();
        assert_eq!(
            (correlation, fetched(answer).0),
            (72, 1),
            "an offset out of range"
        );
        assert_eq!(client.receive().0, 73);
    }
    // Others have them.
    let mut admin = fixture.client();
    crate::sasl::scram(&mut admin, "SCRAM-SHA-256", "admin", crate::sasl::ADMIN).expect("signed in");
    assert!(!fetch(&mut admin, "t", 0).2.is_empty());
}
