//! Members of a shared group in a world that goes wrong, and in one that does not.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::produce::Stored;
use crate::run::{self, Play, Rules, judge};
use crate::shared_check::{End, Event, Leased, Who, check};
use crate::support::Rng;
use crate::world::{Answered, Place, number, wall_ms};
use crate::{redrive, rounds};

pub const GROUP: &str = "workers";
const MAX_DELIVERIES: u64 = 4;

pub type Run<'w> = run::Run<'w, Event>;

/// An answer that a member works on.
#[derive(Clone)]
struct Answer {
    who: Who,
    poll_id: String,
    records: Vec<Leased>,
}

/// What a member does with leased records.
#[derive(Default)]
struct Settling {
    accept: Vec<Place>,
    /// With the delay, and whether the delivery counts.
    release: Vec<(Place, u64, bool)>,
    reject: Vec<(Place, String)>,
    extend: Vec<Place>,
}

impl Settling {
    fn accepting(accept: Vec<Place>) -> Self {
        Self {
            accept,
            ..Self::default()
        }
    }
}

type Member<'w, 'r> = run::Member<'w, 'r, Event, Answer, ()>;

impl Member<'_, '_> {
    fn note_unsure(&self) {
        self.run.note(Event::Unsure(self.name.clone()));
    }

    fn note_ack(&self, ack: Option<&String>) {
        if let Some(poll_id) = ack {
            self.run.note(Event::Acknowledging(poll_id.clone()));
        }
    }

    fn shared_body(&mut self) -> Value {
        let mut body = self.body();
        let (lease_ms, most) = if self.run.rules.is_clean {
            (3_600_000, 1)
        } else {
            (300, MAX_DELIVERIES)
        };
        body["type"] = "shared".into();
        (body["lease_ms"], body["max_deliveries"]) = (lease_ms.into(), most.into());
        if self.run.rules.is_by_key {
            body["order"] = "key".into();
        }
        body
    }

    fn poll(&mut self) {
        let body = self.shared_body();
        let ack = self.ack.take();
        self.note_ack(ack.as_ref());
        let sent = self.run.world.tick();
        let answered = self.client.call("POST", &self.path("/poll"), &body);
        self.last = self.take(sent, ack, answered);
    }

    fn take(&mut self, sent: u64, ack: Option<String>, answered: Option<Answered>) -> Option<Answer> {
        let Some(Answered { life, answer }) = answered.filter(Answered::is_newest) else {
            self.note_unsure();
            return None;
        };
        assert_eq!(answer.status, 200, "a poll of {}: {}", self.name, answer.text());
        let wall_ms = wall_ms();
        let polled = answer.json();
        let who = Who {
            member: self.name.clone(),
            epoch: number(&polled, "epoch"),
            life,
        };
        let leased = |record: &Value| Leased {
            place: Place::of(record),
            record: Stored::of(record),
            deliveries: number(record, "delivery_count"),
            lease_expires: record["lease_expires"].as_i64().expect("a time"),
        };
        let records = polled["records"].as_array().expect("records");
        let taken = Answer {
            who: who.clone(),
            poll_id: polled["poll_id"].as_str().expect("a poll_id").to_owned(),
            records: records.iter().map(leased).collect(),
        };
        self.run.note(Event::Delivered {
            who,
            sent,
            wall_ms,
            poll_id: taken.poll_id.clone(),
            ack,
            uncounted: uncounted(&polled),
            records: taken.records.clone(),
            subscribed: self.topics.clone(),
        });
        // The receiver is gone at the end.
        let _ = self.progress.send(());
        Some(taken)
    }

    /// Notes that it is about to send this; returns the time of that, and the request's body.
    fn settling(&self, who: &Who, settling: &Settling) -> (u64, Value) {
        let release = settling.release.iter();
        let at = self.run.note(Event::Settling {
            who: who.clone(),
            wall_ms: wall_ms(),
            accept: settling.accept.clone(),
            release: release
                .clone()
                .map(|(place, ms, _)| (place.clone(), *ms))
                .collect(),
            reject: settling.reject.clone(),
            extend: settling.extend.clone(),
        });
        let places = |places: &[Place]| places.iter().map(Place::json).collect::<Value>();
        let release = release.map(|(place, ms, counts)| {
            let mut row = place.json_with("delay_ms", json!(ms));
            row["count"] = json!(counts);
            row
        });
        let reject = settling.reject.iter();
        let reject = reject.map(|(place, why)| place.json_with("reason", json!(why)));
        let body = json!({"accept": places(&settling.accept), "release": release.collect::<Value>(),
            "reject": reject.collect::<Value>(), "extend": places(&settling.extend)});
        (at, body)
    }

    /// A settle counts whatever became of the lease, the session and the server.
    fn settle(&mut self, who: &Who, settling: &Settling) {
        let (at, body) = self.settling(who, settling);
        match self.client.call("POST", &self.path("/settle"), &body) {
            Some(Answered { life, answer }) => {
                let wall_ms = wall_ms();
                let said = answer.ok();
                let who = Who { life, ..who.clone() };
                self.run.note(Event::Settled {
                    who,
                    sent: at,
                    wall_ms,
                    uncounted: uncounted(&said),
                });
            }
            None => self.note_unsure(),
        }
    }

    /// A settle whose answer is lost, and again.
    fn settle_twice(&mut self, who: &Who, settling: &Settling) {
        let (_, body) = self.settling(who, settling);
        self.client.send("POST", &self.path("/settle"), &body);
        self.client.hang_up();
        self.note_unsure();
        self.settle(who, settling);
    }

    /// One poll, and what a member may do with its answer.
    fn live(&mut self) {
        self.poll();
        let Some(last) = self.last.clone() else { return };
        let is_poison = |leased: &Leased| leased.record.value["poison"] == true;
        let is_ill = !self.run.rules.is_clean && !self.run.is_healed();
        let records = last.records.iter().cloned();
        let (poison, well): (Vec<Leased>, Vec<Leased>) =
            records.partition(|leased| is_ill && is_poison(leased));
        let well: Vec<Place> = well.into_iter().map(|leased| leased.place).collect();
        let mut settling = Settling::default();
        let mut leaves_something = false;
        for leased in poison {
            // A poison record is always released, or never settled.
            if leased.record.id.len() % 2 == 0 {
                let delay = self.rng.below(2) * self.rng.below(40);
                settling
                    .release
                    .push((leased.place, delay, self.rng.below(4) > 0));
            } else {
                leaves_something = true;
            }
        }
        let is_obedient = self.run.rules.is_clean || self.run.is_draining();
        match self.rng.below(if is_obedient { 60 } else { 100 }) {
            // Accepted by the next poll, if that accepts nothing else.
            0..40 if !leaves_something => {
                if !settling.release.is_empty() {
                    self.settle(&last.who, &settling);
                }
                self.ack = Some(last.poll_id);
            }
            0..60 => {
                settling.accept = well;
                self.settle(&last.who, &settling);
            }
            60..66 => {
                for place in well {
                    if self.rng.below(3) == 0 {
                        let reason = format!("bad {}", self.run.world.tick());
                        settling.reject.push((place, reason));
                    } else {
                        settling.accept.push(place);
                    }
                }
                self.settle(&last.who, &settling);
            }
            66..72 => {
                let long = if self.rng.below(4) == 0 { 600 } else { 60 };
                let (delay, counts) = (self.rng.below(long), self.rng.below(4) > 0);
                let well = well.into_iter().map(|place| (place, delay, counts));
                settling.release.extend(well);
                self.settle(&last.who, &settling);
            }
            72..76 => {
                settling.extend.clone_from(&well);
                self.settle(&last.who, &settling);
                self.settle(&last.who, &Settling::accepting(well));
            }
            // Does nothing: the leases run out, as if the answer was lost.
            76..78 => {}
            78..81 => {
                self.client.until_gone(GROUP, &self.name);
                settling.accept = well;
                self.settle(&last.who, &settling);
            }
            // Its leases run out while it works on.
            81..84 => {
                work_past(&last);
                if self.rng.below(2) == 0 && !leaves_something && settling.release.is_empty() {
                    self.ack = Some(last.poll_id);
                } else {
                    settling.accept = well;
                    self.settle(&last.who, &settling);
                }
            }
            84..86 => {
                settling.accept = well;
                self.settle_twice(&last.who, &settling);
            }
            86..88 => self.die(),
            88..93 => {
                if leaves_something {
                    self.leave(&last, false);
                } else {
                    if !settling.release.is_empty() {
                        self.settle(&last.who, &settling);
                    }
                    self.leave(&last, true);
                }
            }
            93..95 => self.leave(&last, false),
            95..98 => self.hang_up(),
            _ => self.poll_twice(),
        }
        if self.run.rules.is_clean && self.rng.below(16) == 0 {
            self.poll();
            if let Some(last) = self.last.clone() {
                self.leave(&last, true);
                self.be_new();
            }
        }
    }

    fn leave(&mut self, last: &Answer, with_ack: bool) {
        let ack = Some(last.poll_id.clone()).filter(|_| with_ack);
        let mut path = self.path("");
        if let Some(poll_id) = &ack {
            path += &format!("?ack={poll_id}");
        }
        self.note_ack(ack.as_ref());
        self.note_unsure();
        if let Some(Answered { life, answer }) = self.client.call("DELETE", &path, &Value::Null) {
            match answer.status {
                204 if life == last.who.life => {
                    self.run.note(Event::Left {
                        who: last.who.clone(),
                        wall_ms: wall_ms(),
                        ack,
                    });
                }
                204 => {}
                _ => drop(answer.refusal(404, "unknown-member", "none")),
            }
        }
        self.begin_anew();
    }

    /// Sends a poll and hangs up before its answer.
    fn hang_up(&mut self) {
        let body = self.shared_body();
        self.note_unsure();
        self.client.send("POST", &self.path("/poll"), &body);
        self.client.hang_up();
    }

    /// Two polls at once, on two connections: one of them delivers, or both.
    fn poll_twice(&mut self) {
        let body = self.shared_body();
        let mut other = self.run.world.client();
        let sent = self.run.world.tick();
        other.send("POST", &self.path("/poll"), &body);
        let answered = self.client.call("POST", &self.path("/poll"), &body);
        let first = self.take(sent, None, answered);
        let answered = other.read();
        let second = self.take(sent, None, answered);
        for answer in first.into_iter().chain(second) {
            let records = answer.records.into_iter();
            let well = records.filter(|leased| leased.record.value["poison"] != true);
            let well = well.map(|leased| leased.place).collect();
            self.settle(&answer.who, &Settling::accepting(well));
        }
    }
}

/// Waits until the leases of an answer are over.
fn work_past(answer: &Answer) {
    let ends = answer.records.iter().map(|leased| leased.lease_expires);
    let rest = ends.max().map_or(0, |end| end - wall_ms());
    std::thread::sleep(Duration::from_millis(rest.clamp(0, 1000) as u64));
}

/// The records that an answer names as lost, or as settled before.
fn uncounted(answer: &Value) -> BTreeSet<Place> {
    let lists = ["lost", "settled"]
        .iter()
        .filter_map(|name| answer[name].as_array());
    lists.flatten().map(Place::of).collect()
}

/// Grows topics, and kills the server if the world `has_kills`.
fn disturb(run: &Run<'_>, rng: &mut Rng) {
    if run.rules.has_kills && rng.below(4) > 0 {
        run.world.restart();
    } else {
        run.grow(rng);
    }
}

fn one_world(rules: Rules, rng: &mut Rng) {
    let play = Play {
        group: GROUP,
        rules,
        session_ms: (200, 800),
        disturbances: if rules.is_clean { 3 } else { 6 },
        work: |run, number, rng, progress| {
            let mut member = Member::new(run, number, rng, progress);
            while run.goes_on() {
                member.live();
            }
        },
        watch: redrive::meddle,
        disturb,
        finish: redrive::finish,
    };
    let (world, events, end) = play.perform(rng);
    let mut client = world.client();
    let end = End {
        group: GROUP.to_owned(),
        max_deliveries: if rules.is_clean { 1 } else { MAX_DELIVERIES },
        dead: redrive::read_dead(&mut client),
        states: redrive::states(&mut client, GROUP),
        is_by_key: rules.is_by_key,
        end,
    };
    judge(&world, &events, check(&events, &end));
}

#[test]
fn every_record_is_accepted_or_a_dead_letter_whatever_happens_to_members_and_server() {
    rounds("group_history, shared", |rng| one_world(Rules::FAULTY, rng));
}

#[test]
fn records_that_nobody_can_settle_end_in_the_dead_letters_and_hold_nobody_up() {
    let rules = Rules {
        has_kills: false,
        ..Rules::FAULTY
    };
    rounds("group_history, shared without kills", |rng| one_world(rules, rng));
}

#[test]
fn dead_letters_are_redriven_when_all_work_is_done() {
    let rules = Rules {
        has_redrives: false,
        ..Rules::FAULTY
    };
    rounds("group_history, shared, redriven in the end", |rng| {
        one_world(rules, rng);
    });
}

#[test]
fn members_that_come_and_go_with_their_acknowledgements_are_given_every_record_once() {
    rounds("group_history, shared and clean", |rng| {
        one_world(Rules::CLEAN, rng)
    });
}

#[test]
fn a_queue_by_key_gives_the_records_of_a_key_one_after_the_other() {
    let rules = Rules {
        is_by_key: true,
        ..Rules::FAULTY
    };
    rounds("group_history, shared by key", |rng| one_world(rules, rng));
}

#[test]
fn a_queue_with_a_filter_gives_what_matches_and_nothing_else() {
    let rules = Rules {
        is_filtered: true,
        ..Rules::FAULTY
    };
    rounds("group_history, shared with a filter", |rng| one_world(rules, rng));
}

#[test]
fn a_clean_queue_by_key_with_a_filter_gives_every_record_that_matches_once() {
    let rules = Rules {
        is_filtered: true,
        is_by_key: true,
        ..Rules::CLEAN
    };
    rounds("group_history, shared by key with a filter and clean", |rng| {
        one_world(rules, rng);
    });
}
