//! Members that acknowledge and produce in one call, in a world that goes wrong: with `ack` and `produce` in a poll, with
//! commits and with settles. Each record that they acknowledge has one output.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::outputs_check::{End, Event, check};
use crate::produce::{Stored, read_topic};
use crate::run::{self, Play, Rules, judge};
use crate::support::{Answer, Rng};
use crate::world::{Place, number, wall_ms};
use crate::{redrive, rounds};

const GROUP: &str = "converters";
const OUTPUTS: &str = "outputs";
const MAX_DELIVERIES: u64 = 4;
/// How many of its calls a member keeps, to repeat them: more than the server remembers.
const KEPT: usize = 24;

type Run<'w> = run::Run<'w, Event>;

/// An answer that a member works on: what it has not acknowledged yet.
#[derive(Clone)]
struct Held {
    poll_id: String,
    epoch: u64,
    records: Vec<(Place, Stored)>,
    /// When the last lease ends; 0 in an ordered group.
    lease_expires: i64,
}

/// A call that acknowledges and produces.
#[derive(Clone)]
struct Call {
    how: How,
    /// Where the outputs come from, and whether the record is rejected.
    of: Vec<(Place, String, bool)>,
}

#[derive(Clone)]
enum How {
    Poll(String),
    Commit { epoch: u64, offsets: Vec<Value> },
    Settle { accept: Vec<Place>, reject: Vec<Place> },
}

impl Call {
    /// What the server knows a repeat by.
    fn identity(&self) -> String {
        let sorted = |places: &[Place]| {
            let mut places: Vec<String> = places.iter().map(|place| place.json().to_string()).collect();
            places.sort();
            places
        };
        match &self.how {
            How::Poll(ack) => format!("poll {ack}"),
            How::Commit { offsets, .. } => {
                let mut rows: Vec<String> = offsets.iter().map(Value::to_string).collect();
                rows.sort();
                format!("commit {rows:?}")
            }
            How::Settle { accept, reject } => format!("settle {:?} {:?}", sorted(accept), sorted(reject)),
        }
    }
}

/// The calls of a member under one name, the last one at the end.
#[derive(Default)]
struct Memory {
    calls: Vec<Call>,
}

type Member<'w, 'r> = run::Member<'w, 'r, Event, Held, Memory>;

impl Member<'_, '_> {
    fn poll_body(&mut self) -> Value {
        let mut body = self.body();
        if self.run.rules.is_shared {
            body["type"] = "shared".into();
            (body["lease_ms"], body["max_deliveries"]) = (300.into(), MAX_DELIVERIES.into());
            if self.run.rules.is_by_key {
                body["order"] = "key".into();
            }
        }
        body
    }

    /// A poll without outputs, and then one thing with its records.
    fn live(&mut self) {
        let Some(held) = self.last.clone().filter(|held| !held.records.is_empty()) else {
            return self.poll();
        };
        if !self.run.is_draining() {
            match self.rng.below(100) {
                0..4 => return self.die(),
                4..7 => return self.leave(),
                7..11 => self.stall(&held),
                11..18 => return self.repeat_an_earlier_call(),
                // Forgets what it was given.
                18..20 => {
                    self.last = None;
                    return;
                }
                _ => {}
            }
        }
        let call = match self.rng.below(10) {
            0..3 if self.run.rules.is_shared => self.settle(&held),
            0..3 => self.commit(&held),
            _ => Call {
                how: How::Poll(held.poll_id.clone()),
                of: of(&held.records, false),
            },
        };
        self.kind.calls.push(call.clone());
        let too_many = self.kind.calls.len().saturating_sub(KEPT);
        self.kind.calls.drain(..too_many);
        let is_partly_repeated = call.of.len() > 1 && self.rng.below(6) == 0;
        while !self.perform(&call) {
            // It never hears an answer, and goes on in one way or another.
            match self.rng.below(8) {
                0 => return self.die(),
                1 => {
                    self.last = None;
                    return;
                }
                _ if self.run.world.is_over() => return,
                _ => {}
            }
        }
        if is_partly_repeated {
            self.perform(&part_of(&call));
        }
    }

    fn poll(&mut self) {
        let mut body = self.poll_body();
        // What it has acknowledged in other ways needs no acknowledgement, and gets one sometimes. Not in a queue: late
        // work may count for a record that it has rejected, and that was redriven meanwhile.
        if let Some(held) = self.last.take()
            && !self.run.rules.is_shared
            && self.rng.below(2) == 0
        {
            body["ack"] = held.poll_id.into();
        }
        let sent = self.run.world.tick();
        let Some(answered) = self.client.call("POST", &self.path("/poll"), &body) else {
            return;
        };
        match answered.answer.status {
            200 => self.take(sent, &answered.answer.json()),
            _ => drop(superseded(&answered.answer)),
        }
    }

    fn take(&mut self, sent: u64, polled: &Value) {
        let records = polled["records"].as_array().expect("records").iter();
        let records: Vec<(Place, Stored)> = records
            .clone()
            .map(|record| (Place::of(record), Stored::of(record)))
            .collect();
        let leases = polled["records"].as_array().expect("records").iter();
        let leases = leases.filter_map(|record| record["lease_expires"].as_i64());
        let places = records.iter().map(|(place, _)| place.clone()).collect();
        self.run.note(Event::Given { sent, places });
        self.last = Some(Held {
            poll_id: polled["poll_id"].as_str().expect("a poll_id").to_owned(),
            epoch: number(polled, "epoch"),
            records,
            lease_expires: leases.max().unwrap_or(0),
        });
        // The receiver is gone at the end.
        let _ = self.progress.send(());
    }

    /// A settle of all records or some: most are accepted, some rejected; some others are released.
    fn settle(&mut self, held: &Held) -> Call {
        let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
        let all = self.rng.below(2) == 0;
        for one in &held.records {
            match self.rng.below(10) {
                // A call that rejects the same again, after a redrive, would be a repeat.
                0 if one.0.round == 0 => rejected.push(one.clone()),
                1..6 => accepted.push(one.clone()),
                _ if all => accepted.push(one.clone()),
                _ => {}
            }
        }
        if accepted.is_empty() && rejected.is_empty() {
            accepted.push(held.records[0].clone());
        }
        let places = |records: &[(Place, Stored)]| records.iter().map(|(place, _)| place.clone()).collect();
        Call {
            how: How::Settle {
                accept: places(&accepted),
                reject: places(&rejected),
            },
            of: [of(&accepted, false), of(&rejected, true)].concat(),
        }
    }

    /// A commit of each partition's first records.
    fn commit(&mut self, held: &Held) -> Call {
        let mut until: BTreeMap<_, Place> = BTreeMap::new();
        let most = 1 + self.rng.below(held.records.len() as u64) as usize;
        let records = &held.records[..most];
        for (place, _) in records {
            until.insert(place.lane(), place.next());
        }
        let offsets = until.values().map(Place::json).collect();
        let epoch = held.epoch;
        Call {
            how: How::Commit { epoch, offsets },
            of: of(records, false),
        }
    }

    /// Sends a call, under a number of its own; returns whether it was answered.
    fn perform(&mut self, call: &Call) -> bool {
        let sent = self.run.world.tick();
        let outputs = call.of.iter().map(|(place, key, is_reject)| {
            json!({"topic": OUTPUTS, "key": key, "value": {"id": format!("{sent}"), "of": place.json(),
                "round": place.round, "call": sent, "is_reject": is_reject}})
        });
        let outputs: Value = outputs.collect();
        let (path, mut body) = match &call.how {
            How::Poll(ack) => {
                let mut body = self.poll_body();
                body["ack"] = ack.clone().into();
                ("/poll", body)
            }
            How::Commit { epoch, offsets } => ("/commit", json!({"epoch": epoch, "offsets": offsets})),
            How::Settle { accept, reject } => {
                let accept: Value = accept.iter().map(Place::json).collect();
                let reject = reject.iter().map(|place| place.json_with("reason", "no".into()));
                (
                    "/settle",
                    json!({"accept": accept, "reject": reject.collect::<Value>()}),
                )
            }
        };
        body["produce"] = outputs;
        self.run.note(Event::Calling {
            call: sent,
            member: self.name.clone(),
            identity: call.identity(),
            of: call.of.iter().map(|(place, ..)| place.clone()).collect(),
        });
        if !self.run.is_draining() && self.rng.below(12) == 0 {
            self.client.send("POST", &self.path(path), &body);
            self.client.hang_up();
            return false;
        }
        let Some(answered) = self.client.call("POST", &self.path(path), &body) else {
            return false;
        };
        self.hear(sent, call, &answered.answer);
        true
    }

    fn hear(&mut self, call: u64, what: &Call, answer: &Answer) {
        let said = if answer.status == 200 {
            answer.json()
        } else {
            superseded(answer)
        };
        if !said["produced"].is_array() {
            assert!(answer.status != 200, "nothing is produced: {said}");
            self.run.note(Event::Refused { call });
            // It begins anew with what it is given.
            self.last = None;
            return;
        }
        let places = said["produced"].as_array().expect("a list").iter();
        self.run.note(Event::Produced {
            call,
            places: places.map(Place::of).collect(),
            is_replayed: (answer.status == 200).then(|| said["replayed"] == true),
        });
        match (&what.how, answer.status) {
            (How::Poll(_), 200) => self.take(call, &said),
            (How::Poll(_), _) => self.last = None,
            _ => {
                if let Some(held) = &mut self.last {
                    held.records
                        .retain(|(place, _)| !what.of.iter().any(|(done, ..)| done == place));
                }
            }
        }
    }

    /// Repeats one of its calls, however long ago. Its outputs are never stored twice.
    fn repeat_an_earlier_call(&mut self) {
        let calls = self.kind.calls.len() as u64;
        if calls > 0 {
            let call = self.kind.calls[self.rng.below(calls) as usize].clone();
            // Its leases and its last answer may be gone after that.
            self.perform(&call);
        }
    }

    /// Works until its session or its leases have ended, and does not notice.
    fn stall(&mut self, held: &Held) {
        if self.run.rules.is_shared {
            let rest = (held.lease_expires - wall_ms()).clamp(0, 1000) as u64;
            std::thread::sleep(Duration::from_millis(rest));
        } else {
            self.client.until_gone(GROUP, &self.name);
        }
    }

    fn leave(&mut self) {
        self.client.call("DELETE", &self.path(""), &Value::Null);
        self.begin_anew();
    }
}

/// A call that acknowledges the first record of another one again. It is not a repeat.
fn part_of(call: &Call) -> Call {
    let first = call.of[0].clone();
    let how = match &call.how {
        How::Commit { epoch, .. } => How::Commit {
            epoch: *epoch,
            offsets: vec![first.0.next().json()],
        },
        How::Settle { .. } => How::Settle {
            accept: vec![first.0.clone()],
            reject: Vec::new(),
        },
        How::Poll(_) => return call.clone(),
    };
    let of = vec![(first.0, first.1, false)];
    Call { how, of }
}

/// The outputs' sources.
fn of(records: &[(Place, Stored)], is_reject: bool) -> Vec<(Place, String, bool)> {
    let of = |(place, record): &(Place, Stored)| (place.clone(), record.key.clone(), is_reject);
    records.iter().map(of).collect()
}

/// A refusal that a member may get because of its faults.
fn superseded(answer: &Answer) -> Value {
    let problem = answer.json();
    let code = problem["code"].as_str().expect("a code").to_owned();
    let expected = ["fenced", "poll-superseded", "member-superseded"].contains(&&*code);
    match answer.status {
        409 if expected => answer.problem(409, &code),
        // A commit of a member that is gone.
        _ => answer.refusal(404, "unknown-member", "none"),
    }
}

/// Gives all dead letters back, now and then.
fn redrive(run: &Run<'_>) -> bool {
    let path = format!("/v1/groups/{GROUP}/redrive");
    let answered = run.world.client().call("POST", &path, &json!({}));
    // Before the first poll there is no group.
    answered.is_none_or(|answered| answered.answer.status == 200 && answered.answer.json()["redriven"] != 0)
}

fn watch(run: &Run<'_>, mut rng: Rng) {
    while run.rules.is_shared && run.goes_on() && !run.is_draining() {
        std::thread::sleep(Duration::from_millis(rng.below(400)));
        redrive(run);
    }
}

fn finish(run: &Run<'_>, _: &mut Rng) {
    while run.rules.is_shared && redrive(run) && !run.world.is_over() {
        run.until_drained();
    }
}

fn one_world(rules: Rules, rng: &mut Rng) {
    let play = Play {
        group: GROUP,
        rules,
        session_ms: (200, 600),
        disturbances: 7,
        work: |run, number, rng, progress| {
            let mut member = Member::new(run, number, rng, progress);
            while run.goes_on() {
                member.live();
            }
        },
        watch,
        disturb: |run, rng| {
            if rng.below(4) == 0 {
                run.grow(rng);
            } else {
                run.world.restart();
            }
        },
        finish,
    };
    let (world, events, end) = play.perform(rng);
    let mut client = world.client();
    let (mut dead, mut states) = Default::default();
    if rules.is_shared {
        dead = redrive::read_dead(&mut client);
        states = redrive::states(&mut client, GROUP);
    }
    let end = End {
        outputs: read_topic(&mut client, OUTPUTS),
        dead,
        states,
        is_ordered: !rules.is_shared,
        is_by_key: rules.is_by_key,
        end,
    };
    judge(&world, &events, check(&events, &end));
}

#[test]
fn an_ordered_group_stores_the_output_of_every_record_exactly_once() {
    let rules = Rules {
        has_outputs: true,
        ..Rules::FAULTY
    };
    rounds("group_history, outputs of an ordered group", |rng| {
        one_world(rules, rng)
    });
}

#[test]
fn a_work_queue_stores_the_output_of_every_record_exactly_once() {
    let rules = Rules {
        has_outputs: true,
        is_shared: true,
        ..Rules::FAULTY
    };
    rounds("group_history, outputs of a work queue", |rng| {
        one_world(rules, rng)
    });
}

#[test]
fn groups_with_a_filter_store_the_output_of_every_record_that_matches_exactly_once() {
    for is_shared in [false, true] {
        let rules = Rules {
            has_outputs: true,
            is_filtered: true,
            is_shared,
            ..Rules::FAULTY
        };
        rounds("group_history, outputs with a filter", |rng| {
            one_world(rules, rng)
        });
    }
}

#[test]
fn a_queue_by_key_stores_outputs_in_the_order_of_each_key() {
    let rules = Rules {
        has_outputs: true,
        is_shared: true,
        is_by_key: true,
        ..Rules::FAULTY
    };
    rounds("group_history, outputs of a queue by key", |rng| {
        one_world(rules, rng)
    });
}
