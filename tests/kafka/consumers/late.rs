//! What comes late or twice: old heartbeats, and two processes with one id.

use super::*;

fn topics(client: &mut Client) -> Vec<String> {
    describe(client, "g").members[0].topics.clone()
}

#[test]
fn two_processes_with_one_id_do_not_both_go_on() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 2);
    let (mut one, mut two) = (fixture.client(), fixture.client());
    // Both join before either sends a heartbeat.
    let first = join(&mut one, "m");
    let second = join(&mut two, "m");
    assert_eq!(second.partitions(), [0, 1]);
    assert_eq!(live(&mut one, "m", first.epoch).error, 110);
    assert_eq!(commit(&mut one, "m", first.epoch, (0, 1)), 113);
    assert_eq!(committed(&mut one, Some("m"), first.epoch, 0), Err(113));
    assert_eq!(live(&mut two, "m", second.epoch).error, 0);
    assert_eq!(commit(&mut two, "m", second.epoch, (0, 1)), 0);
    // The first one joins again, and it is the other's turn to notice.
    let third = join(&mut one, "m");
    assert_eq!(live(&mut two, "m", second.epoch).error, 110);
    assert_eq!(live(&mut one, "m", third.epoch).error, 0);
}

#[test]
fn an_old_heartbeat_brings_no_old_subscription_back() {
    let fixture = Fixture::new();
    for topic in ["t", "u"] {
        fixture.server.create_topic(topic, 1);
    }
    let mut client = fixture.client();
    let first = join(&mut client, "m");
    let topic = topic_of(&first);
    let says = |names: &'static [&'static str], epoch| Beat {
        member: "m",
        epoch,
        topics: Some(names),
        ..LIVES
    };
    let second = says(&["t", "u"], first.epoch).send(&mut client);
    assert_eq!(second.assignment.as_ref().map(Vec::len), Some(2));
    // A heartbeat from before comes once more.
    let old = Beat {
        owned: Some((&topic, &[0])),
        timeout: 300_000,
        ..says(&["t"], first.epoch)
    };
    assert_eq!(old.send(&mut client).error, 110);
    assert_eq!(topics(&mut client), ["t", "u"]);
    // A subscription that brings no partition has a new epoch, too, so that one from before it is known as old.
    let third = says(&["t", "u", "none"], second.epoch).send(&mut client);
    assert!(third.epoch > second.epoch, "{third:?}");
    assert_eq!(third.assignment, second.assignment);
    assert_eq!(says(&["t", "u"], second.epoch).send(&mut client).error, 110);
    let old = Beat {
        owned: Some((&topic, &[0])),
        timeout: 300_000,
        ..says(&["t", "u"], second.epoch)
    };
    assert_eq!(old.send(&mut client).error, 110);
    assert_eq!(topics(&mut client), ["none", "t", "u"]);
    // The answer was lost, and the client says what it said: it is told again.
    let whole = Beat {
        owned: Some((&topic, &[0])),
        timeout: 300_000,
        ..says(&["t", "u", "none"], second.epoch)
    };
    assert_eq!(whole.send(&mut client), third);
    assert_eq!(live(&mut client, "m", third.epoch).error, 0);
    // What it says now counts.
    let fourth = says(&["u"], third.epoch).send(&mut client);
    assert_eq!(fourth.partitions(), [0]);
    assert_eq!(topics(&mut client), ["u"]);
}
