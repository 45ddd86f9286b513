//! Topics that come and go, under few names, so that one made anew meets what another left.

use serde_json::Value;

use crate::history::{Counts, Cuts, Held, History, Presence, Sent, Topic};
use crate::load::{Client, Gone, Role};
use crate::records::{self, Id};

const NAMES: [&str; 4] = ["passing-0", "passing-1", "passing-2", "passing-3"];

/// Makes the history know the names, none of which is a topic yet.
pub fn begin(history: &History) {
    let mut state = history.state();
    for name in NAMES {
        state.topics.insert(name.into(), Topic::new(Presence::Absent, 0));
    }
}

/// Makes topics, writes to them, changes and deletes them.
pub fn churn(client: &mut Client<'_>) -> Result<(), Gone> {
    while !client.is_over() {
        let name = NAMES[client.rng.below(NAMES.len() as u64) as usize];
        match client.round.history.topic(name, |topic| topic.presence) {
            Presence::Absent => make(client, name)?,
            // Known again after the next start.
            Presence::Unknown => {
                client.call("GET", &format!("/v1/topics/{name}"), "", b"")?;
            }
            Presence::Exists => match client.rng.below(10) {
                0 => raise(client, name)?,
                1 => set(client, name)?,
                2 | 3 => delete(client, name)?,
                _ => produce(client, name)?,
            },
        }
        let _ = client.round.events.send(Role::Topics);
    }
    Ok(())
}

fn make(client: &mut Client<'_>, name: &str) -> Result<(), Gone> {
    let partitions = 1 + client.rng.below(3) as u32;
    let setting = 1000 + client.rng.below(1000);
    client.round.history.topic(name, |topic| {
        *topic = Topic::new(Presence::Unknown, partitions);
        topic.setting = (setting, setting);
    });
    let body = format!(
        r#"{{"partitions":{partitions},"config":{{"segment_bytes":1048576,"dedupe_window_ms":{setting}}}}}"#
    );
    let answer = client.call(
        "PUT",
        &format!("/v1/topics/{name}"),
        "application/json",
        body.as_bytes(),
    )?;
    let refused = client.refused(&answer, &[201]);
    let about = if refused.is_none() {
        answer.json()
    } else {
        Value::Null
    };
    client
        .round
        .history
        .topic(name, |topic| match refused.as_deref() {
            None => {
                topic.presence = Presence::Exists;
                topic.id = about["id"].as_str().map(str::to_owned);
                Counts::add(&client.round.history.counts.topics_made, 1);
            }
            Some("none") => *topic = Topic::new(Presence::Absent, 0),
            Some(_) => {}
        });
    Ok(())
}

fn raise(client: &mut Client<'_>, name: &str) -> Result<(), Gone> {
    let partitions = client.round.history.topic(name, |topic| {
        let before = topic.partitions;
        // Where the last one is not known to have been made, the next one asks for the same.
        topic.partitions.1 = topic.partitions.1.max(before.0 + 1);
        topic.partitions.1
    });
    let body = format!(r#"{{"partitions":{partitions}}}"#);
    let answer = client.call(
        "PATCH",
        &format!("/v1/topics/{name}"),
        "application/json",
        body.as_bytes(),
    )?;
    let refused = client.refused(&answer, &[200]);
    client
        .round
        .history
        .topic(name, |topic| match refused.as_deref() {
            None => {
                topic.partitions = (partitions, partitions);
                topic.held.resize(partitions as usize, Held::default());
            }
            Some("none") => topic.partitions.1 = topic.partitions.0,
            Some(_) => {}
        });
    Ok(())
}

fn set(client: &mut Client<'_>, name: &str) -> Result<(), Gone> {
    // While an earlier change is not known to have been made or not, only the same is asked for.
    let setting = client.round.history.topic(name, |topic| {
        if topic.setting.0 == topic.setting.1 {
            topic.setting.1 = 1000 + client.rng.below(1000);
        }
        topic.setting.1
    });
    let body = format!(r#"{{"config":{{"dedupe_window_ms":{setting}}}}}"#);
    let answer = client.call(
        "PATCH",
        &format!("/v1/topics/{name}"),
        "application/json",
        body.as_bytes(),
    )?;
    let refused = client.refused(&answer, &[200]);
    client
        .round
        .history
        .topic(name, |topic| match refused.as_deref() {
            None => topic.setting.0 = setting,
            Some("none") => topic.setting.1 = topic.setting.0,
            Some(_) => {}
        });
    Ok(())
}

fn produce(client: &mut Client<'_>, name: &str) -> Result<(), Gone> {
    let partitions = client.round.history.topic(name, |topic| topic.partitions.0);
    let count = 1 + client.rng.below(8) as usize;
    let padding = client.rng.below(60_000) as usize;
    let partitions: Vec<u32> = (0..count)
        .map(|_| client.rng.below(u64::from(partitions)) as u32)
        .collect();
    let request = client.round.history.send(client.number, |_| Sent {
        topic: name.into(),
        partitions: partitions.clone(),
        cuts: Cuts::Whole,
        must: 0,
        may: count as u32,
        since: None,
    });
    let id = |index: usize| Id {
        request,
        index: index as u32,
    };
    let lines: Vec<_> = (0..count)
        .map(|index| records::line(id(index), partitions[index], padding))
        .collect();
    let body = format!(r#"{{"records":[{}]}}"#, lines.join(","));
    let path = format!("/v1/topics/{name}/records");
    let answer = client.call("POST", &path, "application/json", body.as_bytes())?;
    if let Some(outcome) = client.refused(&answer, &[200]) {
        client
            .round
            .history
            .settle(request, 0, if outcome == "unknown" { count as u32 } else { 0 });
        return Ok(());
    }
    let answer = answer.json();
    let offsets = answer["offsets"].as_array().expect("offsets");
    let offset = |index: usize| offsets[index]["offset"].as_u64().expect("an offset");
    client.round.history.note(
        name,
        (0..count).map(|index| (partitions[index], offset(index), id(index))),
    );
    client.round.history.settle(request, count as u32, count as u32);
    Ok(())
}

fn delete(client: &mut Client<'_>, name: &str) -> Result<(), Gone> {
    client
        .round
        .history
        .topic(name, |topic| topic.presence = Presence::Unknown);
    let answer = client.call("DELETE", &format!("/v1/topics/{name}"), "", b"")?;
    let refused = client.refused(&answer, &[204]);
    let mut state = client.round.history.state();
    let topic = state.topics.get_mut(name).expect("one of the names");
    match refused.as_deref() {
        None => {
            *topic = Topic::new(Presence::Absent, 0);
            state.requests.retain(|_, sent| sent.topic != name);
            Counts::add(&client.round.history.counts.topics_deleted, 1);
        }
        Some("none") => topic.presence = Presence::Exists,
        Some(_) => {}
    }
    Ok(())
}
