//! Members of a shared group in a world that goes wrong, and in one that does not.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use serde_json::{Value, json};

use crate::produce::{Produced, Stored, offsets, produce, read_topic, until_drained};
use crate::rounds;
use crate::shared_check::{End, Event, Leased, Who, check};
use crate::support::{PATIENCE, Rng};
use crate::world::{Answered, Client, EndOnPanic, Place, World, lock, wall_ms};

const GROUP: &str = "workers";
const TOPICS: [&str; 2] = ["orders", "payments"];
const MEMBERS: u64 = 5;
const MAX_DELIVERIES: u64 = 4;

/// What all threads share.
struct Run<'w> {
    world: &'w World,
    events: Mutex<Vec<(u64, Event)>>,
    produced: Produced,
    is_clean: bool,
    is_draining: AtomicBool,
    /// Nothing is poison any more.
    is_healed: AtomicBool,
    is_drained: AtomicBool,
    names: AtomicU32,
    reasons: AtomicU32,
}

impl Run<'_> {
    /// Notes an event, and says when it was.
    fn note(&self, event: Event) -> u64 {
        let mut events = lock(&self.events);
        let at = self.world.tick();
        events.push((at, event));
        at
    }
}

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
    release: Vec<(Place, u64)>,
    reject: Vec<(Place, String)>,
    extend: Vec<Place>,
}

/// A thread that is one member after another.
struct Member<'w, 'r> {
    run: &'r Run<'w>,
    client: Client<'w>,
    rng: Rng,
    progress: Sender<()>,
    name: String,
    topics: BTreeSet<String>,
    session_timeout_ms: u64,
    last: Option<Answer>,
    ack: Option<String>,
}

impl<'w, 'r> Member<'w, 'r> {
    fn new(run: &'r Run<'w>, number: u64, mut rng: Rng, progress: Sender<()>) -> Self {
        // The first works on everything, so that somebody always does.
        let which = if number == 0 { 2 } else { rng.below(3) };
        let topics = TOPICS
            .iter()
            .enumerate()
            .filter(|(i, _)| which == 2 || which == *i as u64)
            .map(|(_, topic)| (*topic).to_owned())
            .collect();
        let mut member = Self {
            run,
            client: run.world.client(),
            rng,
            progress,
            name: String::new(),
            topics,
            session_timeout_ms: 0,
            last: None,
            ack: None,
        };
        member.be_new();
        member
    }

    fn be_new(&mut self) {
        self.name = format!("m{}", self.run.names.fetch_add(1, Ordering::SeqCst));
        self.begin_anew();
    }

    fn begin_anew(&mut self) {
        self.session_timeout_ms = if self.run.is_clean {
            300_000
        } else {
            200 + self.rng.below(800)
        };
        self.ack = None;
        self.last = None;
    }

    fn path(&self, call: &str) -> String {
        format!("/v1/groups/{GROUP}/members/{}{call}", self.name)
    }

    fn note_unsure(&self) {
        self.run.note(Event::Unsure {
            member: self.name.clone(),
        });
    }

    fn note_ack(&self, ack: Option<&String>) {
        if let Some(poll_id) = ack {
            self.run.note(Event::Acknowledging {
                poll_id: poll_id.clone(),
            });
        }
    }

    fn body(&mut self) -> Value {
        let (lease_ms, max_deliveries) = match self.run.is_clean {
            true => (3_600_000, 1),
            false => (300, MAX_DELIVERIES),
        };
        let wait_ms = match self.rng.below(3) {
            0 => 0,
            _ => self.rng.below(200),
        };
        json!({"ack": self.ack, "topics": self.topics, "type": "shared", "lease_ms": lease_ms,
            "max_deliveries": max_deliveries, "session_timeout_ms": self.session_timeout_ms,
            "max_records": 1 + self.rng.below(12), "wait_ms": wait_ms})
    }

    fn poll(&mut self) {
        let body = self.body();
        let ack = self.ack.take();
        self.note_ack(ack.as_ref());
        let sent = self.run.world.tick();
        let answered = self.client.call("POST", &self.path("/poll"), &body);
        self.last = self.take(sent, ack, answered);
    }

    fn take(&mut self, sent: u64, ack: Option<String>, answered: Option<Answered>) -> Option<Answer> {
        let Some(Answered { life, answer }) = answered else {
            self.note_unsure();
            return None;
        };
        if answer.status == 409 {
            answer.refusal(409, "poll-superseded", "none");
            self.note_unsure();
            return None;
        }
        assert_eq!(answer.status, 200, "a poll of {}: {}", self.name, answer.text());
        let wall_ms = wall_ms();
        let polled = answer.json();
        let who = Who {
            member: self.name.clone(),
            epoch: polled["epoch"].as_u64().expect("an epoch"),
            life,
        };
        let leased = |record: &Value| Leased {
            place: Place::of(record),
            record: Stored::of(record),
            deliveries: record["delivery_count"].as_u64().expect("a count"),
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
            records: taken.records.clone(),
            subscribed: self.topics.clone(),
        });
        // Nobody listens in the end.
        let _ = self.progress.send(());
        Some(taken)
    }

    fn settle(&mut self, who: &Who, settling: &Settling) {
        let at = self.run.note(Event::Settling {
            who: who.clone(),
            accept: settling.accept.clone(),
            release: settling.release.iter().map(|(place, _)| place.clone()).collect(),
            reject: settling.reject.clone(),
        });
        let places = |places: &[Place]| places.iter().map(Place::json).collect::<Value>();
        let with = |place: &Place, name: &str, value: Value| {
            let mut row = place.json();
            row[name] = value;
            row
        };
        let release = settling.release.iter();
        let release: Value = release
            .map(|(place, ms)| with(place, "delay_ms", json!(ms)))
            .collect();
        let reject = settling.reject.iter();
        let reject: Value = reject
            .map(|(place, why)| with(place, "reason", json!(why)))
            .collect();
        let body = json!({"accept": places(&settling.accept), "release": release, "reject": reject,
            "extend": places(&settling.extend)});
        match self.client.call("POST", &self.path("/settle"), &body) {
            Some(Answered { life, answer }) if answer.status == 200 && life == who.life => {
                let lost = answer.json();
                let lost = lost["lost"]
                    .as_array()
                    .expect("lost")
                    .iter()
                    .map(Place::of)
                    .collect();
                self.run.note(Event::Settled {
                    who: who.clone(),
                    sent: at,
                    lost,
                });
            }
            Some(Answered { answer, .. }) if answer.status == 404 => {
                answer.refusal(404, "unknown-member", "none");
                self.note_unsure();
            }
            Some(Answered { answer, .. }) => panic!("{}", answer.text()),
            None => self.note_unsure(),
        }
    }

    /// One poll, and what a member may do with its answer.
    fn live(&mut self) {
        self.poll();
        let Some(last) = self.last.clone() else { return };
        let is_poison = |leased: &Leased| leased.record.value["poison"] == true;
        let is_ill = !self.run.is_clean && !self.run.is_healed.load(Ordering::SeqCst);
        let (poison, well): (Vec<Leased>, Vec<Leased>) = last
            .records
            .iter()
            .cloned()
            .partition(|leased| is_ill && is_poison(leased));
        let well: Vec<Place> = well.into_iter().map(|leased| leased.place).collect();
        let mut settling = Settling::default();
        let mut leaves_something = false;
        for leased in poison {
            // Always released, or never settled.
            if leased.record.id.len() % 2 == 0 {
                settling
                    .release
                    .push((leased.place, self.rng.below(2) * self.rng.below(40)));
            } else {
                leaves_something = true;
            }
        }
        let is_obedient = self.run.is_clean || self.run.is_draining.load(Ordering::SeqCst);
        let choice = if is_obedient {
            self.rng.below(60)
        } else {
            self.rng.below(100)
        };
        match choice {
            // By the next poll, if that accepts nothing else.
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
                        let reason = format!("bad {}", self.run.reasons.fetch_add(1, Ordering::SeqCst));
                        settling.reject.push((place, reason));
                    } else {
                        settling.accept.push(place);
                    }
                }
                self.settle(&last.who, &settling);
            }
            66..72 => {
                let delay = self.rng.below(60);
                settling
                    .release
                    .extend(well.into_iter().map(|place| (place, delay)));
                self.settle(&last.who, &settling);
            }
            72..76 => {
                settling.extend.clone_from(&well);
                self.settle(&last.who, &settling);
                let settling = Settling {
                    accept: well,
                    ..Settling::default()
                };
                self.settle(&last.who, &settling);
            }
            // The leases run out, or the answer was lost.
            76..80 => {}
            80..84 => {
                self.client.until_gone(GROUP, &self.name);
                settling.accept = well;
                self.settle(&last.who, &settling);
            }
            84..88 => self.die(),
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
        if self.run.is_clean && self.rng.below(16) == 0 {
            self.poll();
            if let Some(last) = self.last.clone() {
                self.leave(&last, true);
                self.be_new();
            }
        }
    }

    fn die(&mut self) {
        self.client.hang_up();
        if self.rng.below(2) == 0 {
            self.be_new();
        } else {
            self.begin_anew();
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

    /// Sends a poll and is not there for its answer.
    fn hang_up(&mut self) {
        let body = self.body();
        self.note_unsure();
        self.client.send("POST", &self.path("/poll"), &body);
        self.client.hang_up();
    }

    /// Two polls at once, on two connections: one of them delivers, or both.
    fn poll_twice(&mut self) {
        let body = self.body();
        let mut other = self.run.world.client();
        let sent = self.run.world.tick();
        other.send("POST", &self.path("/poll"), &body);
        let answered = self.client.call("POST", &self.path("/poll"), &body);
        let first = self.take(sent, None, answered);
        let answered = other.read();
        let second = self.take(sent, None, answered);
        for answer in first.into_iter().chain(second) {
            let accept = answer
                .records
                .iter()
                .filter(|leased| leased.record.value["poison"] != true);
            let settling = Settling {
                accept: accept.map(|leased| leased.place.clone()).collect(),
                ..Settling::default()
            };
            self.settle(&answer.who, &settling);
        }
    }
}

/// What happens to the world while members are at work.
fn disturb(run: &Run<'_>, progress: &Receiver<()>, times: u64, kills: bool, rng: &mut Rng) {
    let mut partitions = [2_u32, 3];
    for _ in 0..times {
        for _ in 0..(10 + rng.below(60)) {
            progress.recv_timeout(PATIENCE).expect("members go on");
        }
        if kills && rng.below(4) > 0 {
            run.world.kill();
            run.world.start();
            run.world.open();
        } else {
            let which = rng.below(2) as usize;
            partitions[which] += 1;
            let body = json!({"partitions": partitions[which]});
            let path = format!("/v1/topics/{}", TOPICS[which]);
            run.world.client().insist(200, "PATCH", &path, &body);
        }
    }
}

/// Sends all dead letters back, killing the server in the middle of it so many times. Returns whether there were any.
fn redrive(world: &World, mut kills: u64, rng: &mut Rng) -> bool {
    let mut found = false;
    for topic in TOPICS {
        loop {
            let body = json!({"dead_letter_topic": format!("{topic}.dlq"), "max_records": 1 + rng.below(20)});
            let kill = kills > 0 && rng.below(2) == 0;
            let answered = std::thread::scope(|scope| {
                let call = scope.spawn(|| {
                    let mut client = world.client();
                    client.call("POST", &format!("/v1/groups/{GROUP}/redrive"), &body)
                });
                if kill {
                    kills -= 1;
                    // Anywhere in what it does.
                    std::thread::sleep(Duration::from_micros(rng.below(8000)));
                    world.kill();
                    world.start();
                    world.open();
                }
                call.join().expect("it has answered or not")
            });
            let Some(Answered { answer, .. }) = answered else {
                found = true;
                continue;
            };
            if answer.status == 404 {
                answer.refusal(404, "unknown-topic", "none");
                break;
            }
            assert_eq!(answer.status, 200, "{}", answer.text());
            let said = answer.json();
            found |= said["redriven"] != 0;
            if said["at_end"] == true {
                break;
            }
        }
    }
    found
}

/// One world from its beginning to its end.
fn one_world(is_clean: bool, kills: bool, rng: &mut Rng) {
    let world = World::new();
    let mut client = world.client();
    for (topic, partitions) in TOPICS.iter().zip([2, 3]) {
        client.insist(
            201,
            "PUT",
            &format!("/v1/topics/{topic}"),
            &json!({"partitions": partitions}),
        );
    }
    let run = Run {
        world: &world,
        events: Mutex::default(),
        produced: Produced::default(),
        is_clean,
        is_draining: AtomicBool::new(false),
        is_healed: AtomicBool::new(false),
        is_drained: AtomicBool::new(false),
        names: AtomicU32::new(0),
        reasons: AtomicU32::new(0),
    };
    let (sender, progress) = mpsc::channel();
    let mut forks: Vec<Rng> = (0..MEMBERS + 3).map(|_| rng.fork()).collect();
    std::thread::scope(|scope| {
        let _end = EndOnPanic(&world);
        let run = &run;
        let producers: Vec<_> = (0..2)
            .map(|number| {
                let rng = forks.pop().expect("one each");
                scope.spawn(move || {
                    let _end = EndOnPanic(run.world);
                    produce(run.world, &run.produced, &format!("p{number}"), &TOPICS, 100, rng);
                })
            })
            .collect();
        let mut chance = forks.pop().expect("one each");
        for (number, rng) in forks.into_iter().enumerate() {
            let sender = sender.clone();
            scope.spawn(move || {
                let _end = EndOnPanic(run.world);
                let mut member = Member::new(run, number as u64, rng, sender);
                while !run.is_drained.load(Ordering::SeqCst) && !run.world.is_over() {
                    member.live();
                }
            });
        }
        // If all members fail, it is known at once.
        drop(sender);
        disturb(run, &progress, if is_clean { 3 } else { 6 }, kills, &mut chance);
        for producer in producers {
            // A failure ends the scope.
            let _ = producer.join();
        }
        run.is_draining.store(true, Ordering::SeqCst);
        until_drained(&world, GROUP, &TOPICS);
        run.is_healed.store(true, Ordering::SeqCst);
        let mut kills = if kills { 4 } else { 0 };
        // What the kills brought to the dead letters in the end goes back as well.
        while redrive(&world, std::mem::take(&mut kills), &mut chance) && !world.is_over() {
            until_drained(&world, GROUP, &TOPICS);
        }
        run.is_drained.store(true, Ordering::SeqCst);
    });
    let mut get = |path: &str| {
        client
            .insist(200, "GET", path, &Value::Null)
            .expect("the world goes on")
    };
    let committed = get(&format!("/v1/groups/{GROUP}/offsets"));
    let lag = get(&format!("/v1/groups/{GROUP}/lag"));
    let described = get("/v1/topics");
    let is_there = |name: &str| {
        let topics = described["topics"].as_array().expect("topics");
        topics.iter().any(|topic| topic["name"] == name)
    };
    let dead: Vec<Stored> = TOPICS
        .iter()
        .map(|topic| format!("{topic}.dlq"))
        .filter(|name| is_there(name))
        .flat_map(|name| read_topic(&mut client, &name).into_values())
        .collect();
    let end = End {
        group: GROUP.to_owned(),
        max_deliveries: if is_clean { 1 } else { MAX_DELIVERIES },
        stored: TOPICS
            .iter()
            .flat_map(|topic| read_topic(&mut client, topic))
            .collect(),
        dead,
        committed: offsets(&committed)
            .into_iter()
            .map(|(lane, (offset, _))| (lane, offset))
            .collect(),
        acknowledged: lock(&run.produced.acknowledged).clone(),
        lag: lag["lag"].as_u64().expect("a lag"),
        is_clean,
        is_redriven: true,
    };
    let mut events = std::mem::take(&mut *lock(&run.events));
    events.sort_by_key(|(at, _)| *at);
    match check(&events, &end) {
        Ok(summary) => println!("{summary:?}, {} lives of the server", world.life()),
        Err(wrong) => {
            crate::dump(world.data(), &events);
            panic!(
                "{}\nthe log says:\n{}",
                wrong.iter().take(20).cloned().collect::<Vec<_>>().join("\n"),
                world.log()
            );
        }
    }
    assert!(!world.log().contains("panicked"), "{}", world.log());
}

#[test]
fn every_record_is_accepted_or_a_dead_letter_whatever_becomes_of_members_and_server() {
    let mut rng = Rng::from_environment("group_history, shared");
    for _ in 0..rounds() {
        one_world(false, true, &mut rng);
    }
}

#[test]
fn records_that_nobody_can_settle_end_in_the_dead_letters_and_hold_nobody_up() {
    let mut rng = Rng::from_environment("group_history, shared without kills");
    for _ in 0..rounds() {
        one_world(false, false, &mut rng);
    }
}

#[test]
fn members_that_come_and_go_with_their_acknowledgements_are_given_every_record_once() {
    let mut rng = Rng::from_environment("group_history, shared and clean");
    for _ in 0..rounds() {
        one_world(true, false, &mut rng);
    }
}
