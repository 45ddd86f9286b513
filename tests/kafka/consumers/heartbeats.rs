//! What a heartbeat is answered: refusals, moves of partitions, rejoins, assignors, subscriptions.

use super::*;

#[test]
fn heartbeats_are_refused_as_kafka_refuses_them() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 2);
    let mut client = fixture.client();
    let joins = Beat { member: "m", ..JOINS };
    for (beat, code) in [
        (
            Beat {
                group: "",
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                group: "no name",
                ..joins.clone()
            },
            24,
        ),
        (
            Beat {
                member: "",
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                member: "ü",
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                instance: Some(""),
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                rack: Some(""),
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                timeout: -1,
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                owned: None,
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                owned: Some((&[7; 16], &[0])),
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                topics: None,
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                topics: Some(&[]),
                regex: Some(""),
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                epoch: -3,
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                epoch: -2,
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                assignor: Some("sticky"),
                ..joins.clone()
            },
            112,
        ),
        (
            Beat {
                regex: Some("("),
                ..joins.clone()
            },
            128,
        ),
        (
            Beat {
                regex: Some("a{1000}{1000}"),
                ..joins.clone()
            },
            128,
        ),
        (
            Beat {
                epoch: 5,
                ..joins.clone()
            },
            69,
        ),
        (
            Beat {
                epoch: -1,
                ..joins.clone()
            },
            69,
        ),
    ] {
        assert_eq!(beat.send(&mut client).error, code, "{beat:?}");
    }
    let told = joins.send(&mut client);
    assert_eq!(
        (told.error, told.epoch, told.interval, &*told.member),
        (0, 2, 5000, "m")
    );
    assert_eq!(told.partitions(), [0, 1]);
    assert_eq!(
        live(&mut client, "m", 2),
        Told {
            assignment: None,
            ..told.clone()
        },
        "told once"
    );
    for (beat, code) in [
        (
            Beat {
                member: "m",
                epoch: 1,
                ..LIVES
            },
            110,
        ),
        (
            Beat {
                member: "m",
                epoch: 3,
                ..LIVES
            },
            110,
        ),
        (
            Beat {
                member: "n",
                epoch: 2,
                ..LIVES
            },
            25,
        ),
        (
            Beat {
                member: "n",
                epoch: -1,
                ..LIVES
            },
            25,
        ),
        (
            Beat {
                member: "m",
                epoch: 2,
                instance: Some("i"),
                ..LIVES
            },
            25,
        ),
        (
            Beat {
                member: "m",
                epoch: 2,
                assignor: Some("x"),
                ..LIVES
            },
            112,
        ),
        (
            Beat {
                member: "m",
                epoch: 2,
                regex: Some("["),
                ..LIVES
            },
            128,
        ),
    ] {
        assert_eq!(beat.send(&mut client).error, code, "{beat:?}");
    }
    // A join whose answer was lost comes again: the same partitions. It may be another process, so the epoch is another one,
    // and the first one joins again. Version 0 gives an id, and has no expression.
    let first = join(&mut client, "again");
    let second = join(&mut client, "again");
    assert!(second.epoch > first.epoch, "{first:?}, {second:?}");
    assert_eq!(second.assignment, first.assignment);
    assert_eq!(live(&mut client, "again", first.epoch).error, 110);
    assert_eq!(live(&mut client, "again", second.epoch).error, 0);
    let given = Beat { version: 0, ..JOINS }.send(&mut client);
    assert!(given.error == 0 && given.member.starts_with("test-"), "{given:?}");
    let left = live(&mut client, "m", -1);
    assert_eq!((left.error, left.epoch), (0, -1));
    assert_eq!(live(&mut client, "m", 2).error, 25);
}

#[test]
fn a_partition_goes_from_one_member_to_another_when_it_is_given_up() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 4);
    let (mut one, mut two) = (fixture.client(), fixture.client());
    let first = join(&mut one, "a");
    assert_eq!(first.partitions(), [0, 1, 2, 3]);
    let topic = topic_of(&first);
    let second = join(&mut two, "b");
    assert_eq!(second.partitions(), [0; 0]);
    assert!(second.interval < 5000, "it asks again soon: {second:?}");
    let told = live_with(&mut one, "a", first.epoch, (&topic, &[0, 1, 2, 3]));
    assert_eq!(told.partitions(), [0, 1]);
    assert!(told.epoch > first.epoch);
    assert_eq!(describe(&mut one, "g").state, "Reconciling");
    // It still reads them: it may commit, with the epoch before, too; the other one gets nothing yet.
    assert_eq!(commit(&mut one, "a", first.epoch, (3, 7)), 0);
    assert_eq!(commit(&mut one, "a", told.epoch, (3, 8)), 0);
    assert_eq!(live(&mut two, "b", second.epoch).assignment, None);
    assert_eq!(
        live_with(&mut one, "a", told.epoch, (&topic, &[0, 1])),
        Told {
            assignment: None,
            ..told.clone()
        }
    );
    let got = live(&mut two, "b", second.epoch);
    assert_eq!((got.partitions(), got.interval), (vec![2, 3], 5000));
    assert_eq!(commit(&mut one, "a", told.epoch, (3, 9)), 113, "another has it");
    assert_eq!(committed(&mut two, Some("b"), got.epoch, 3), Ok(8));
    // Offsets go back if a consumer says so, and away.
    for (offset, found) in [(2, 2), (-1, -1), (5, 5)] {
        assert_eq!(commit(&mut two, "b", got.epoch, (3, offset)), 0);
        assert_eq!(committed(&mut two, None, -1, 3), Ok(found));
    }
    for (member, epoch, code) in [
        ("b", got.epoch + 1, 113),
        ("b", second.epoch - 1, 113),
        ("x", 2, 25),
        ("", -1, 25),
    ] {
        assert_eq!(commit(&mut two, member, epoch, (3, 1)), code, "{member} {epoch}");
    }
    assert_eq!(committed(&mut two, Some("b"), got.epoch + 1, 3), Err(113));
    assert_eq!(committed(&mut two, Some("x"), 2, 3), Err(25));
    let described = describe(&mut one, "g");
    assert_eq!((&*described.state, &*described.assignor), ("Stable", "uniform"));
    let expected = |id: &str, epoch, assignment: [i32; 2]| Member {
        id: id.to_owned(),
        instance: None,
        epoch,
        client: "test".to_owned(),
        topics: vec!["t".to_owned()],
        regex: None,
        assignment: assignment.to_vec(),
        target: assignment.to_vec(),
        kind: 1,
    };
    assert_eq!(
        described.members,
        [
            expected("a", told.epoch, [0, 1]),
            expected("b", got.epoch, [2, 3])
        ]
    );
    let row = ["g", "consumer", "Stable", "Consumer"].map(str::to_owned);
    assert_eq!(list(&mut one), [row]);
    // The one leaves, and the other gets everything.
    assert_eq!(live(&mut one, "a", -1).error, 0);
    assert_eq!(live(&mut two, "b", got.epoch).partitions(), [0, 1, 2, 3]);
    assert_eq!(live(&mut two, "b", -1).error, 0);
    let empty = describe(&mut one, "g");
    assert_eq!((empty.error, &*empty.state, empty.members.len()), (0, "Empty", 0));
    assert_eq!(list(&mut one)[0][2..], ["Empty", "Consumer"].map(str::to_owned));
}

#[test]
fn a_lost_answer_is_given_again_and_a_second_process_fences_the_first() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 2);
    let mut client = fixture.client();
    let first = join(&mut client, "a");
    let topic = topic_of(&first);
    join(&mut client, "b");
    let lost = live(&mut client, "a", first.epoch);
    assert_eq!(lost.partitions(), [0]);
    // The client says everything, with the epoch that it knows.
    let whole = Beat {
        member: "a",
        epoch: first.epoch,
        owned: Some((&topic, &[0, 1])),
        ..JOINS
    };
    assert_eq!(whole.send(&mut client), lost);
    assert_eq!(whole.send(&mut client), lost, "and again");
    let stranger = Beat {
        owned: Some((&[9; 16], &[0])),
        ..whole.clone()
    };
    assert_eq!(stranger.send(&mut client).error, 110);
    // A whole heartbeat gets a whole answer.
    let all = Beat {
        epoch: lost.epoch,
        owned: Some((&topic, &[0])),
        ..whole.clone()
    };
    assert_eq!(all.send(&mut client), lost);
    assert_eq!(whole.send(&mut client).error, 110, "the answer had arrived");
    // Another process with this id joins: the first one has to join again, and commits nothing.
    let second = join(&mut client, "a");
    assert_eq!(second.partitions(), [0]);
    assert_eq!(live(&mut client, "a", lost.epoch).error, 110);
    assert_eq!(commit(&mut client, "a", lost.epoch, (0, 1)), 113);
    assert_eq!(commit(&mut client, "a", second.epoch, (0, 1)), 0);
}

#[test]
fn static_members_come_back_to_what_they_had() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 4);
    let mut client = fixture.client();
    for assignor in ["uniform", "range"] {
        let joins = |member, instance| Beat {
            member,
            instance: Some(instance),
            assignor: Some(assignor),
            ..JOINS
        };
        let first = joins("z", "one").send(&mut client);
        let topic = topic_of(&first);
        assert_eq!(joins("y", "one").send(&mut client).error, 111, "it has not left");
        let other = joins("b", "two").send(&mut client);
        let told = live(&mut client, "z", first.epoch);
        let kept = told.partitions();
        live_with(&mut client, "z", told.epoch, (&topic, &kept));
        let other = live(&mut client, "b", other.epoch);
        let of_b = other.partitions();
        assert_eq!((kept.len(), of_b.len()), (2, 2), "{assignor}");
        let away = Beat {
            member: "z",
            epoch: -2,
            instance: Some("one"),
            ..LIVES
        };
        assert_eq!(
            Beat {
                member: "b",
                ..away.clone()
            }
            .send(&mut client)
            .error,
            82
        );
        let left = away.send(&mut client);
        assert_eq!((left.error, left.epoch), (0, -2));
        assert_eq!(live(&mut client, "z", told.epoch).error, 110);
        let back = joins("a", "one").send(&mut client);
        assert_eq!(back.partitions(), kept, "{assignor}");
        assert_eq!(
            live(&mut client, "b", other.epoch),
            Told {
                assignment: None,
                ..other.clone()
            }
        );
        // The process before it.
        let old = Beat {
            member: "z",
            epoch: told.epoch,
            instance: Some("one"),
            ..LIVES
        };
        assert_eq!(old.send(&mut client).error, 82);
        assert_eq!(commit(&mut client, "z", told.epoch, (0, 1)), 25);
        let described = describe(&mut client, "g");
        assert_eq!(described.assignor, assignor);
        assert_eq!(described.members[0].instance.as_deref(), Some("one"));
        for (member, epoch) in [("a", -1), ("b", -1)] {
            assert_eq!(live(&mut client, member, epoch).error, 0);
        }
    }
}

#[test]
fn ranges_are_neighbours() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 5);
    let mut client = fixture.client();
    let joins = |member| Beat {
        member,
        assignor: Some("range"),
        ..JOINS
    };
    let first = joins("b").send(&mut client);
    assert_eq!(first.partitions(), [0, 1, 2, 3, 4]);
    let second = joins("a").send(&mut client);
    let told = live(&mut client, "b", first.epoch);
    assert_eq!(told.partitions(), [3, 4]);
    live_with(&mut client, "b", told.epoch, (&topic_of(&first), &[3, 4]));
    assert_eq!(live(&mut client, "a", second.epoch).partitions(), [0, 1, 2]);
}

#[test]
fn subscriptions_change_and_follow_names_and_expressions_to_topics_that_are_made_later() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t-1", 1);
    let mut client = fixture.client();
    let mut told = Beat {
        member: "m",
        topics: Some(&["later"]),
        regex: Some("t-[0-9]+"),
        ..JOINS
    }
    .send(&mut client);
    // Its client learns the name by the id, and sends an empty name with it.
    let by_id = Out::new()
        .tags()
        .length(1)
        .raw(&topic_of(&told))
        .compact("")
        .tags()
        .i8(0)
        .i8(0)
        .tags();
    let mut answer = client.ask(METADATA, 12, by_id);
    answer.bytes(1 + 4 + 1 + 4);
    answer.maybe();
    answer.bytes(4 + 1 + 1);
    answer.maybe();
    answer.i32();
    assert_eq!((answer.count(), answer.i16()), (Some(1), 0));
    assert_eq!(answer.maybe().as_deref(), Some("t-1"));
    let count = |told: &Told| told.assignment.as_ref().map(|topics| topics.len());
    assert_eq!(count(&told), Some(1));
    for (name, topics) in [("t-22", 2), ("t-x", 2), ("at-1", 2), ("later", 3)] {
        fixture.server.create_topic(name, 1);
        let next = live(&mut client, "m", told.epoch);
        told = Told {
            assignment: next.assignment.clone().or(told.assignment),
            ..next
        };
        assert_eq!(count(&told), Some(topics), "{name}");
    }
    // Deleted and made again under its name.
    fixture.json(204, "DELETE", "/v1/topics/later", "");
    told = live(&mut client, "m", told.epoch);
    assert_eq!(count(&told), Some(2));
    fixture.server.create_topic("later", 1);
    told = live(&mut client, "m", told.epoch);
    assert_eq!(count(&told), Some(3));
    let described = describe(&mut client, "g");
    assert_eq!(described.members[0].topics, ["later"]);
    assert_eq!(described.members[0].regex.as_deref(), Some("t-[0-9]+"));
    // What a consumer is to read is in the group's lag, before it has committed.
    fixture.json(
        200,
        "POST",
        "/v1/topics/t-22/records",
        r#"{"records":[{"value":1}]}"#,
    );
    assert_eq!(fixture.server.get("/v1/groups/g/lag")["lag"], 1);
    let only = Beat {
        member: "m",
        epoch: told.epoch,
        topics: Some(&["t-x"]),
        regex: Some(""),
        ..LIVES
    };
    told = only.send(&mut client);
    assert_eq!(count(&told), Some(0), "it gives up what it has");
    assert_eq!(
        count(&live(&mut client, "m", told.epoch)),
        None,
        "it still has that"
    );
    told = live_with(&mut client, "m", told.epoch, (NONE, &[]));
    assert_eq!(count(&told), Some(1), "and is told of others after that");
}
