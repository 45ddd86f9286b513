//! Topics that come and go, under few names, so that a new one meets what an old one left.

use crate::ground::request;
use crate::history::{Counts, Cuts, Held, History, Presence, Sent, Topic};
use crate::load::{Client, Gone, PARTITIONS, Role, TOPICS, placed};
use crate::records;
use crate::support::Server;

const NAMES: [&str; 4] = ["passing-0", "passing-1", "passing-2", "passing-3"];

/// Creates the topics that all clients write to, with small segments and these retentions; notes the other names.
pub fn begin(server: &Server, history: &History, retention_bytes: [u64; 2]) {
    for (name, bytes) in TOPICS.into_iter().zip(retention_bytes) {
        let config = format!(r#"{{"segment_bytes":1048576,"retention_bytes":{bytes}}}"#);
        let body = format!(r#"{{"partitions":{PARTITIONS},"config":{config}}}"#);
        request(server, "PUT", &format!("/v1/topics/{name}"), &body).with_status(201);
        history.exists(name, PARTITIONS);
    }
    let mut state = history.state();
    for name in NAMES {
        state.topics.insert(name.into(), Topic::new(Presence::Absent, 0));
    }
}

/// Creates topics, writes to them, changes and deletes them.
pub fn churn(client: &mut Client<'_>) -> Result<(), Gone> {
    while !client.is_over() {
        let name = NAMES[client.rng.below(NAMES.len() as u64) as usize];
        match client.history.topic(name, |topic| topic.presence) {
            Presence::Absent => make(client, name)?,
            // The check after the next start finds out whether it exists.
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
        let _ = client.events.send(Role::Topics);
    }
    Ok(())
}

fn make(client: &mut Client<'_>, name: &str) -> Result<(), Gone> {
    let partitions = 1 + client.rng.below(3) as u32;
    let setting = 1000 + client.rng.below(1000);
    client.history.topic(name, |topic| {
        *topic = Topic::new(Presence::Unknown, partitions);
        topic.setting = (setting, setting);
    });
    let config = format!(r#"{{"segment_bytes":1048576,"dedupe_window_ms":{setting}}}"#);
    let body = format!(r#"{{"partitions":{partitions},"config":{config}}}"#);
    let answer = client.call_topic("PUT", name, &body)?;
    let refused = client.refused(&answer, &[201]);
    client.history.topic(name, |topic| match refused.as_deref() {
        None => {
            topic.presence = Presence::Exists;
            topic.id = answer.json()["id"].as_str().map(str::to_owned);
            Counts::add(&client.history.counts.topics_made, 1);
        }
        Some("none") => *topic = Topic::new(Presence::Absent, 0),
        Some(_) => {}
    });
    Ok(())
}

fn raise(client: &mut Client<'_>, name: &str) -> Result<(), Gone> {
    let partitions = client.history.topic(name, |topic| {
        let before = topic.partitions;
        // If it is unknown whether the last addition was made, request the same again.
        topic.partitions.1 = topic.partitions.1.max(before.0 + 1);
        topic.partitions.1
    });
    let answer = client.call_topic("PATCH", name, &format!(r#"{{"partitions":{partitions}}}"#))?;
    let refused = client.refused(&answer, &[200]);
    client.history.topic(name, |topic| match refused.as_deref() {
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
    // While the result of an earlier change is unknown, request only the same change.
    let setting = client.history.topic(name, |topic| {
        if topic.setting.0 == topic.setting.1 {
            topic.setting.1 = 1000 + client.rng.below(1000);
        }
        topic.setting.1
    });
    let body = format!(r#"{{"config":{{"dedupe_window_ms":{setting}}}}}"#);
    let answer = client.call_topic("PATCH", name, &body)?;
    let refused = client.refused(&answer, &[200]);
    client.history.topic(name, |topic| match refused.as_deref() {
        None => topic.setting.0 = setting,
        Some("none") => topic.setting.1 = topic.setting.0,
        Some(_) => {}
    });
    Ok(())
}

fn produce(client: &mut Client<'_>, name: &str) -> Result<(), Gone> {
    let partitions = client.history.topic(name, |topic| topic.partitions.0);
    let count = 1 + client.rng.below(8) as usize;
    let padding = client.rng.below(60_000) as usize;
    let any = |_| client.rng.below(u64::from(partitions)) as u32;
    let partitions: Vec<u32> = (0..count).map(any).collect();
    let sent = Sent::new(name, &partitions, Cuts::Whole);
    let request = client.history.send(client.number, sent);
    let lines = records::lines(request, &partitions, padding);
    let answer = client.call_topic("POST", &format!("{name}/records"), &records::document(&lines))?;
    if let Some(outcome) = client.refused(&answer, &[200]) {
        let may = if outcome == "unknown" { count as u32 } else { 0 };
        client.history.settle(request, 0, may);
        return Ok(());
    }
    client
        .history
        .note(name, placed(&answer.json(), request, &partitions));
    client.history.settle(request, count as u32, count as u32);
    Ok(())
}

fn delete(client: &mut Client<'_>, name: &str) -> Result<(), Gone> {
    client
        .history
        .topic(name, |topic| topic.presence = Presence::Unknown);
    let answer = client.call("DELETE", &format!("/v1/topics/{name}"), "", b"")?;
    let refused = client.refused(&answer, &[204]);
    let mut state = client.history.state();
    let topic = state.topics.get_mut(name).expect("one of the names");
    match refused.as_deref() {
        None => {
            *topic = Topic::new(Presence::Absent, 0);
            state.requests.retain(|_, sent| sent.topic != name);
            Counts::add(&client.history.counts.topics_deleted, 1);
        }
        Some("none") => topic.presence = Presence::Exists,
        Some(_) => {}
    }
    Ok(())
}
