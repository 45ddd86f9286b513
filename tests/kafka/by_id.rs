//! Topics that come by their ids: the rights are those of the names, and what may not be seen has no id.

use serde_json::{Value, json};

use super::sasl::{ADMIN, closed, scram};
use super::*;

/// A topic and a group.
const NAME: &str = "there-is";
/// Kafka's codes: not allowed, and no topic has that id.
const DENIED: i16 = 29;
const UNKNOWN_ID: i16 = 100;

/// An API that takes ids.
struct Row {
    key: i16,
    version: i16,
    /// The right that it needs on the topic.
    needs: &'static str,
    request: fn(&[u8; 16]) -> Out,
    /// The code in the answer.
    code: fn(&mut In) -> i16,
}

/// The last one deletes the topic.
static ROWS: [Row; 6] = [
    Row {
        key: PRODUCE,
        version: 13,
        needs: "write",
        request: |id| {
            let records = batch(&["x"]);
            let head = Out::new().raw(&[0, 0]).i16(-1).i32(1000).raw(&[2]).raw(id);
            let length = records.len() as u8 + 1;
            assert!(length < 0x80, "a varint of one byte");
            head.raw(&[2]).i32(0).raw(&[length]).raw(&records).raw(&[0, 0, 0])
        },
        code: |answer| after(answer, 1 + 1 + 16 + 1 + 4),
    },
    Row {
        key: FETCH,
        version: 13,
        needs: "read",
        request: |id| {
            let head = Out::new().raw(&[0]).i32(-1).i32(0).i32(0).i32(1000).i8(0);
            let head = head.i32(0).i32(-1).raw(&[2]).raw(id).raw(&[2]);
            let partition = head.i32(0).i32(-1).i64(0).i32(-1).i64(0).i32(1000);
            partition.raw(&[0, 0, 1, 1, 0])
        },
        code: |answer| after(answer, 1 + 4 + 2 + 4 + 1 + 16 + 1 + 4),
    },
    Row {
        key: METADATA,
        version: 12,
        needs: "describe",
        request: |id| Out::new().raw(&[0, 2]).raw(id).raw(&[0, 0, 0, 0, 0]),
        code: |answer| {
            answer.bytes(1 + 4 + 1 + 4);
            compact_text(answer);
            answer.bytes(4 + 1 + 1);
            compact_text(answer);
            after(answer, 4 + 1)
        },
    },
    Row {
        key: 8,
        version: 10,
        needs: "read",
        request: |id| {
            let head = Out::new()
                .raw(&[0])
                .raw(&compact(NAME))
                .i32(-1)
                .raw(&[1, 0, 2])
                .raw(id);
            head.raw(&[2]).i32(0).i64(0).i32(-1).raw(&[0, 0, 0, 0])
        },
        code: |answer| after(answer, 1 + 4 + 1 + 16 + 1 + 4),
    },
    Row {
        key: 9,
        version: 10,
        needs: "describe",
        request: |id| {
            let head = Out::new().raw(&[0, 2]).raw(&compact(NAME)).raw(&[0]).i32(-1);
            head.raw(&[2]).raw(id).raw(&[2]).i32(0).raw(&[0, 0, 0, 0])
        },
        code: |answer| {
            answer.bytes(1 + 4 + 1);
            compact_text(answer);
            answer.bytes(1 + 16 + 1 + 4 + 8 + 4);
            compact_text(answer);
            answer.i16()
        },
    },
    Row {
        key: 20,
        version: 6,
        needs: "delete",
        request: |id| Out::new().raw(&[0, 2, 0]).raw(id).raw(&[0]).i32(1000).raw(&[0]),
        code: |answer| {
            answer.bytes(1 + 4 + 1);
            compact_text(answer);
            after(answer, 16)
        },
    },
];

fn after(answer: &mut In, bytes: i32) -> i16 {
    answer.bytes(bytes);
    answer.i16()
}

/// A text with a compact length, at the beginning of an answer's rest; null is empty.
fn compact_text(answer: &mut In) -> String {
    let length = i32::from(answer.i8()) - 1;
    String::from_utf8(answer.bytes(length)).expect("a text")
}

fn compact(name: &str) -> Vec<u8> {
    [&[name.len() as u8 + 1], name.as_bytes()].concat()
}

/// The id of the topic.
fn id(fixture: &Fixture) -> [u8; 16] {
    let mut admin = fixture.client();
    scram(&mut admin, "SCRAM-SHA-256", "admin", ADMIN).expect("signed in");
    let body = Out::new().raw(&[0, 2]).raw(&[0; 16]).raw(&compact(NAME));
    let mut answer = admin.ask(METADATA, 12, body.raw(&[0, 0, 0, 0]));
    assert_eq!((ROWS[2].code)(&mut answer), 0);
    assert_eq!(compact_text(&mut answer), NAME);
    answer.bytes(16).try_into().expect("an id")
}

#[test]
fn an_id_gives_what_the_rights_on_its_topic_give_and_nothing_to_whoever_must_not_see_it() {
    let fixture = closed(&[]);
    fixture.topic(NAME);
    let id = id(&fixture);
    let rights = ["read", "write", "create", "delete", "configure", "describe"];
    let on_the_group = json!({"allow": rights, "groups": ["*"]});
    for row in &ROWS {
        let may = |name: &str, allow: &Value| {
            let name = format!("{name}-{}", row.key);
            let rules = json!([on_the_group, {"allow": allow, "topics": [NAME]}]);
            let secret = fixture.token(&name, &json!({"rules": rules}));
            (name, secret)
        };
        let rest: Vec<&str> = rights.into_iter().filter(|right| *right != row.needs).collect();
        let all_but_it = may("but", &json!(rest));
        let only_it = may("only", &json!([row.needs]));
        let nothing = fixture.token(&format!("no-{}", row.key), &json!({"rules": [on_the_group]}));
        let ask = |(name, secret): (&str, &str), id: &[u8; 16]| {
            let mut client = fixture.client();
            assert_eq!(scram(&mut client, "SCRAM-SHA-256", name, secret), Ok(0));
            let mut answer = client.ask(row.key, row.version, (row.request)(id));
            (row.code)(&mut answer)
        };
        // Who may do anything else sees the topic, unless just that is missing.
        let denied = if row.needs == "describe" {
            UNKNOWN_ID
        } else {
            DENIED
        };
        assert_eq!(
            ask((&all_but_it.0, &all_but_it.1), &id),
            denied,
            "API {}",
            row.key
        );
        let nobody = format!("no-{}", row.key);
        assert_eq!(ask((&nobody, &nothing), &id), UNKNOWN_ID, "API {}", row.key);
        // An id of another directory, and one that no topic has.
        for at in [0, 15] {
            let mut other = id;
            other[at] ^= 1;
            let found = ask((&only_it.0, &only_it.1), &other);
            assert_eq!(found, UNKNOWN_ID, "API {}, byte {at}", row.key);
        }
        assert_eq!(ask((&only_it.0, &only_it.1), &id), 0, "API {}", row.key);
    }
}

#[test]
fn whoever_may_create_a_topic_and_not_see_it_is_told_nothing_of_topics() {
    let fixture = closed(&[]);
    fixture.topic("a.b");
    let create = |name: &str, allow: &[&str], topic: &str| {
        let rules = json!([{"allow": allow, "topics": ["*"]}]);
        let secret = fixture.token(name, &json!({"rules": rules}));
        let mut client = fixture.client();
        scram(&mut client, "SCRAM-SHA-256", name, &secret).expect("signed in");
        let body = Out::new().raw(&[0, 2]).raw(&compact(topic)).i32(3).i16(1);
        let body = body.raw(&[1, 1, 0]).i32(1000).i8(0).raw(&[0]);
        let mut answer = client.ask(19, 7, body);
        answer.bytes(1 + 4 + 1);
        assert_eq!(compact_text(&mut answer), topic);
        let code = after(&mut answer, 16);
        compact_text(&mut answer);
        (code, answer.i32(), answer.rest())
    };
    // A name that differs from a topic's in `.` and `_` alone is refused, and would say that there is such a topic.
    assert_eq!(create("seer", &["create", "describe"], "a_b").0, 17);
    let (code, partitions, rest) = create("blind", &["create"], "a_b");
    assert_eq!((code, partitions), (0, -1));
    // No replicas, no configuration, and a tagged field with the code that says why.
    assert_eq!(rest, [255, 255, 0, 1, 0, 2, 0, 29, 0]);
    let (code, partitions, _) = create("seer-2", &["create", "describe"], "c");
    assert_eq!((code, partitions), (0, 3));
}
