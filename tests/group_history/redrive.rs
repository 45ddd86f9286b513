//! An operator who redrives and discards dead letters, while members work and when they have finished.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::produce::{Stored, read_topic};
use crate::run::TOPICS;
use crate::shared::{GROUP, Run};
use crate::shared_check::{Event, Redrive};
use crate::support::Rng;
use crate::world::{Answered, Client, Place, number};

/// Dead letters on a page: few, so that there is more than one page.
const PAGE: u64 = 7;
/// More dead letters than any run has.
const TOO_MANY: u64 = 20_000;
const PAUSE: Duration = Duration::from_millis(30);

/// Redrives and discards some dead letters now and then, until the topics are drained.
pub fn meddle(run: &Run<'_>, mut rng: Rng) {
    if !run.rules.has_redrives {
        return;
    }
    let mut client = run.world.client();
    // In such a run no other call explains why a dead letter is discarded.
    let discards_by_offset = rng.below(2) == 0;
    while run.goes_on() && !run.is_draining() {
        std::thread::sleep(PAUSE);
        let path = format!("/v1/groups/{GROUP}/dead-letters?limit={PAGE}");
        let waiting = match client.call("GET", &path, &Value::Null) {
            Some(Answered { answer, .. }) if answer.status == 200 => letters(&answer.json()),
            _ => continue,
        };
        if !waiting.is_empty() {
            let redrive = choose(&waiting, &mut rng, discards_by_offset);
            let is_lost = run.rules.has_kills && rng.below(5) == 0;
            call(run, &mut client, &redrive, 1 + rng.below(5), is_lost);
        }
    }
}

fn choose(waiting: &[(Place, String)], rng: &mut Rng, discards_by_offset: bool) -> Redrive {
    let (at, reason) = &waiting[rng.below(waiting.len() as u64) as usize];
    let mut redrive = Redrive {
        discard: rng.below(4) == 0,
        dry_run: rng.below(4) == 0,
        ..Redrive::default()
    };
    let way = if redrive.discard && discards_by_offset {
        0
    } else {
        rng.below(4)
    };
    match way {
        0 => {
            let same = waiting.iter().filter(|(other, _)| other.topic == at.topic);
            // The oldest on the page come first: others are chosen.
            let offsets = same
                .rev()
                .map(|(place, _)| (place.partition, place.offset))
                .take(2);
            redrive.offsets = Some(offsets.collect());
            redrive.topic = Some(at.topic.clone());
        }
        1 => redrive.reason = Some(reason.chars().take(5).collect()),
        2 => {
            redrive.reason = Some(reason.clone());
            redrive.topic = Some(at.topic.clone());
        }
        _ => {}
    }
    redrive
}

/// Sends a redrive; returns the answer, if there was one and it is not `lost`.
fn call(
    run: &Run<'_>,
    client: &mut Client<'_>,
    redrive: &Redrive,
    most: u64,
    is_lost: bool,
) -> Option<Value> {
    let mut body = json!({"max_records": most, "discard": redrive.discard, "dry_run": redrive.dry_run});
    if let Some(topic) = &redrive.topic {
        body["dead_letter_topic"] = topic.clone().into();
    }
    if let Some(reason) = &redrive.reason {
        body["reason"] = reason.clone().into();
    }
    if let Some(offsets) = &redrive.offsets {
        let rows = offsets
            .iter()
            .map(|(partition, offset)| json!({"partition": partition, "offset": offset}));
        body["offsets"] = rows.collect();
    }
    let sent = run.note(Event::Redriving(redrive.clone()));
    let path = format!("/v1/groups/{GROUP}/redrive");
    if is_lost {
        client.send("POST", &path, &body);
        client.hang_up();
        return None;
    }
    let said = client.call("POST", &path, &body)?.answer.ok();
    run.note(Event::Redriven {
        sent,
        redriven: number(&said, "redriven"),
        discarded: number(&said, "discarded"),
    });
    Some(said)
}

/// Redrives everything, and what becomes a dead letter because of the kills during that.
pub fn finish(run: &Run<'_>, rng: &mut Rng) {
    let mut kills = if run.rules.has_kills { 4 } else { 0 };
    // A redrive whose answer nobody waited for may have come after the last records were settled: then none of its dead
    // letters is found here, and its records are still to be settled. What dies then is found the next time.
    let mut found_none = 0;
    while found_none < 2 && !run.world.is_over() {
        match redrive_all(run, std::mem::take(&mut kills), rng) {
            true => found_none = 0,
            false => found_none += 1,
        }
        run.until_drained();
    }
}

/// Redrives all dead letters, and kills the server so many times during that. Returns whether there were any.
fn redrive_all(run: &Run<'_>, mut kills: u64, rng: &mut Rng) -> bool {
    let mut found = false;
    let mut redriven = 0;
    loop {
        assert!(redriven < TOO_MANY, "dead letters are redriven again and again");
        let most = 1 + rng.below(20);
        let kill = kills > 0 && rng.below(2) == 0;
        let said = std::thread::scope(|scope| {
            let redrive =
                scope.spawn(|| call(run, &mut run.world.client(), &Redrive::default(), most, false));
            if kill {
                kills -= 1;
                // At any moment of the redrive.
                std::thread::sleep(Duration::from_micros(rng.below(8000)));
                run.world.restart();
            }
            redrive.join().expect("it has answered or not")
        });
        let Some(said) = said else {
            found = true;
            continue;
        };
        redriven += number(&said, "redriven");
        found |= redriven > 0;
        if said["at_end"] == true {
            return found;
        }
    }
}

/// Everything in the topics of dead letters.
pub fn read_dead(client: &mut Client<'_>) -> BTreeMap<Place, Stored> {
    let described = client.get("/v1/topics");
    let topics = described["topics"].as_array().expect("topics");
    let dead = TOPICS.iter().map(|topic| format!("{topic}.dlq"));
    let dead = dead.filter(|name| topics.iter().any(|topic| topic["name"] == **name));
    dead.flat_map(|name| read_topic(client, &name)).collect()
}

/// The lists of a group's dead letters, with their states.
pub fn states(client: &mut Client<'_>, group: &str) -> Vec<(Place, String)> {
    let mut all = Vec::new();
    for state in ["waiting", "redriven", "discarded"] {
        let path = format!("/v1/groups/{group}/dead-letters?limit={PAGE}&state={state}");
        let mut after = String::new();
        loop {
            let page = client.get(&format!("{path}{after}"));
            let letters = letters(&page);
            all.extend(letters.into_iter().map(|(at, _)| (at, state.to_owned())));
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
    }
    all
}

/// The dead letters of a page: where each lies, and its reason.
fn letters(page: &Value) -> Vec<(Place, String)> {
    let rows = page["dead_letters"].as_array().expect("a list").iter();
    rows.map(|row| {
        let topic = row["dead_letter_topic"].as_str().expect("a topic");
        let reason = row["reason"].as_str().expect("a reason");
        (Place::within(topic, row), reason.to_owned())
    })
    .collect()
}
