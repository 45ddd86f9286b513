//! Members of an ordered group in a world that goes wrong, and in one that does not.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

use serde_json::{Value, json};

use crate::ordered_check::{Delivery, End, Event, FORBIDDEN, check};
use crate::produce::{Produced, Stored, ends, offsets, produce, read_topic, until_drained};
use crate::rounds;
use crate::support::{PATIENCE, Rng};
use crate::world::{Answered, Client, EndOnPanic, Place, World, lock};

const GROUP: &str = "billing";
const TOPICS: [&str; 2] = ["orders", "payments"];
const MEMBERS: u64 = 5;

/// What all threads share.
struct Run<'w> {
    world: &'w World,
    events: Mutex<Vec<(u64, Event)>>,
    produced: Produced,
    is_clean: bool,
    is_draining: AtomicBool,
    is_drained: AtomicBool,
    names: AtomicU32,
}

impl Run<'_> {
    fn note(&self, event: Event) {
        let mut events = lock(&self.events);
        events.push((self.world.tick(), event));
    }
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
    /// The answer that it works on.
    last: Option<Delivery>,
    /// What it gives as `ack` next.
    ack: Option<String>,
    /// Answers before.
    earlier: Vec<String>,
    /// Epochs under its name, in all lives.
    epochs: BTreeSet<u64>,
    is_unsure: bool,
}

impl<'w, 'r> Member<'w, 'r> {
    fn new(run: &'r Run<'w>, number: u64, mut rng: Rng, progress: Sender<()>) -> Self {
        // The first reads everything, so that somebody always does.
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
            earlier: Vec::new(),
            epochs: BTreeSet::new(),
            is_unsure: false,
        };
        member.be_new();
        member
    }

    fn be_new(&mut self) {
        self.name = format!("m{}", self.run.names.fetch_add(1, Ordering::SeqCst));
        self.earlier.clear();
        self.epochs.clear();
        self.begin_anew();
    }

    fn begin_anew(&mut self) {
        self.session_timeout_ms = if self.run.is_clean {
            300_000
        } else {
            150 + self.rng.below(500)
        };
        self.ack = None;
        self.last = None;
    }

    fn path(&self, call: &str) -> String {
        format!("/v1/groups/{GROUP}/members/{}{call}", self.name)
    }

    fn body(&mut self) -> Value {
        let wait_ms = match self.rng.below(3) {
            0 => 0,
            _ => self.rng.below(200),
        };
        json!({"ack": self.ack, "topics": self.topics, "session_timeout_ms": self.session_timeout_ms,
            "max_records": 1 + self.rng.below(12), "wait_ms": wait_ms})
    }

    /// Notes that the next request acknowledges.
    fn note_ack(&self) {
        if let Some(poll_id) = &self.ack {
            self.run.note(Event::Acknowledged {
                poll_id: poll_id.clone(),
            });
        }
    }

    fn poll(&mut self) {
        let body = self.body();
        self.note_ack();
        let sent = self.run.world.tick();
        let answered = self.client.call("POST", &self.path("/poll"), &body);
        self.take(sent, answered);
    }

    /// Takes an answer to a poll with this ack.
    fn take(&mut self, sent: u64, answered: Option<Answered>) {
        let Some(Answered { life, answer }) = answered else {
            self.is_unsure = true;
            return;
        };
        if answer.status == 409 {
            answer.refusal(409, "poll-superseded", "none");
            self.is_unsure = true;
            return;
        }
        // Whatever it was to the server, a poll with the fields of a join makes it a member.
        assert_eq!(answer.status, 200, "a poll of {}: {}", self.name, answer.text());
        let polled = answer.json();
        let poll_id = polled["poll_id"].as_str().expect("a poll_id").to_owned();
        let delivery = Delivery {
            member: self.name.clone(),
            life,
            sent,
            epoch: polled["epoch"].as_u64().expect("an epoch"),
            poll_id: poll_id.clone(),
            ack: self.ack.clone(),
            is_unsure: std::mem::take(&mut self.is_unsure),
            records: polled["records"]
                .as_array()
                .expect("records")
                .iter()
                .map(|record| (Place::of(record), Stored::of(record)))
                .collect(),
            subscribed: self.topics.clone(),
        };
        self.epochs.insert(delivery.epoch);
        self.run.note(Event::Delivered(delivery.clone()));
        self.earlier.extend(self.ack.take());
        self.ack = Some(poll_id);
        self.last = Some(delivery);
        // Nobody listens in the end.
        let _ = self.progress.send(());
    }

    /// One thing that a member may do with an answer.
    fn live(&mut self) {
        self.poll();
        if self.run.is_draining.load(Ordering::SeqCst) {
            return;
        }
        let choice = self.rng.below(100);
        if self.run.is_clean {
            if choice < 6 {
                self.leave(true);
                self.be_new();
            }
            return;
        }
        match choice {
            0..4 => self.lose(),
            4..8 => self.commit_a_part(),
            8..12 => self.stall(),
            12..16 => self.die(),
            16..20 => self.leave(true),
            20..22 => self.leave(false),
            22..26 => self.start_again(),
            26..32 => self.commit_what_it_may_not(),
            32..35 => self.hang_up(),
            35..38 => self.poll_twice(),
            38..40 => self.change_its_mind(),
            _ => {}
        }
    }

    /// The answer is lost: the next poll acknowledges one before, or none.
    fn lose(&mut self) {
        self.ack = if self.rng.below(2) == 0 {
            self.earlier.pop()
        } else {
            None
        };
    }

    fn commit_a_part(&mut self) {
        let Some(last) = &self.last else { return };
        if last.records.is_empty() {
            return;
        }
        let (place, _) = &last.records[self.rng.below(last.records.len() as u64) as usize];
        let until = Place {
            offset: place.offset + 1,
            ..place.clone()
        };
        let (epoch, poll_id) = (last.epoch, last.poll_id.clone());
        let mut row = until.json();
        row["metadata"] = "a part".into();
        self.run.note(Event::Committed {
            poll_id,
            until: vec![until],
        });
        match self.client.call(
            "POST",
            &self.path("/commit"),
            &json!({"epoch": epoch, "offsets": [row]}),
        ) {
            Some(Answered { answer, .. }) => match answer.status {
                200 => {}
                404 => drop(answer.refusal(404, "unknown-member", "none")),
                _ => drop(answer.refusal(409, "fenced", "none")),
            },
            None => self.is_unsure = true,
        }
    }

    fn commit_what_it_may_not(&mut self) {
        // Its epoch must be the newest that it was given.
        let Some(last) = self.last.as_ref().filter(|_| !self.is_unsure) else {
            return;
        };
        let foreign = TOPICS.iter().find(|topic| !last.subscribed.contains(**topic));
        let stale = self.epochs.iter().copied().rfind(|epoch| *epoch != last.epoch);
        let (epoch, topic) = match (foreign, stale) {
            (Some(topic), _) if stale.is_none() || self.rng.below(2) == 0 => (last.epoch, *topic),
            (_, Some(epoch)) => (epoch, TOPICS[0]),
            _ => return,
        };
        let Some(((_, partition), end)) = ends(&mut self.client, topic)
            .into_iter()
            .find(|(_, end)| *end > 0)
        else {
            return;
        };
        let row = json!({"topic": topic, "partition": partition, "offset": end, "metadata": FORBIDDEN});
        let body = json!({"epoch": epoch, "offsets": [row]});
        match self.client.call("POST", &self.path("/commit"), &body) {
            Some(Answered { answer, .. }) if answer.status == 404 => {
                answer.refusal(404, "unknown-member", "none");
            }
            Some(Answered { answer, .. }) => drop(answer.refusal(409, "fenced", "none")),
            None => self.is_unsure = true,
        }
    }

    fn stall(&mut self) {
        self.client.until_gone(GROUP, &self.name);
    }

    fn die(&mut self) {
        self.client.hang_up();
        if self.rng.below(2) == 0 {
            self.be_new();
        } else {
            self.begin_anew();
        }
    }

    fn leave(&mut self, with_ack: bool) {
        let ack = self.ack.take().filter(|_| with_ack);
        let mut path = self.path("");
        if let Some(poll_id) = &ack {
            self.run.note(Event::Acknowledged {
                poll_id: poll_id.clone(),
            });
            path += &format!("?ack={poll_id}");
        }
        if let Some(Answered { answer, .. }) = self.client.call("DELETE", &path, &Value::Null) {
            match answer.status {
                204 => {}
                _ => drop(answer.refusal(404, "unknown-member", "none")),
            }
        }
        self.is_unsure = true;
        self.begin_anew();
    }

    /// Joins under the name that it has, in the place of itself.
    fn start_again(&mut self) {
        let ack = self.ack.clone();
        self.begin_anew();
        let body = json!({"topics": self.topics, "member_id": self.name,
            "session_timeout_ms": self.session_timeout_ms});
        let path = format!("/v1/groups/{GROUP}/members");
        if let Some(Answered { answer, .. }) = self.client.call("POST", &path, &body) {
            assert_eq!(answer.status, 201, "{}", answer.text());
            self.epochs
                .insert(answer.json()["epoch"].as_u64().expect("an epoch"));
        }
        self.is_unsure = true;
        if self.rng.below(2) == 0 {
            self.ack = ack;
        }
    }

    /// Sends a poll and is not there for its answer.
    fn hang_up(&mut self) {
        let body = self.body();
        self.note_ack();
        self.client.send("POST", &self.path("/poll"), &body);
        self.client.hang_up();
        self.is_unsure = true;
    }

    /// Two polls at once, on two connections: one of them delivers.
    fn poll_twice(&mut self) {
        let body = self.body();
        self.note_ack();
        let mut other = self.run.world.client();
        let sent = self.run.world.tick();
        other.send("POST", &self.path("/poll"), &body);
        let ack = self.ack.clone();
        let answered = self.client.call("POST", &self.path("/poll"), &body);
        self.is_unsure = true;
        self.take(sent, answered);
        let newest = (self.ack.clone(), self.last.clone());
        (self.ack, self.is_unsure) = (ack, true);
        let answered = other.read();
        self.take(sent, answered);
        // Either may have been the last to be given; it does not know.
        if self.rng.below(2) == 0 {
            (self.ack, self.last) = newest;
        }
        self.is_unsure = true;
    }

    fn change_its_mind(&mut self) {
        if self.topics.len() < TOPICS.len() {
            self.topics = [TOPICS[self.rng.below(2) as usize].to_owned()].into();
        }
    }
}

/// Sees what is committed, all the time.
fn watch(run: &Run<'_>) {
    let mut client = run.world.client();
    while !run.is_drained.load(Ordering::SeqCst) && !run.world.is_over() {
        let sent = run.world.tick();
        let Some(Answered { life, answer }) =
            client.call("GET", &format!("/v1/groups/{GROUP}/offsets"), &Value::Null)
        else {
            continue;
        };
        if answer.status == 200 {
            run.note(Event::Watched {
                sent,
                life,
                offsets: offsets(&answer.json()),
            });
        }
        std::thread::yield_now();
    }
}

/// Sets the group back, if it has no members just now.
fn reset(run: &Run<'_>, client: &mut Client<'_>, rng: &mut Rng) {
    let topic = TOPICS[rng.below(2) as usize];
    let to = match rng.below(2) {
        0 => json!("earliest"),
        _ => json!({"shift": -1 - rng.below(40) as i64}),
    };
    let sent = run.world.tick();
    let life = run.world.life();
    let path = format!("/v1/groups/{GROUP}/offsets/reset");
    let answered = client.call("POST", &path, &json!({"topic": topic, "to": to}));
    let to = match answered {
        None => None,
        Some(Answered { answer, .. }) if answer.status == 200 => {
            let said = answer.json();
            let rows = said["offsets"].as_array().expect("offsets");
            let to = rows.iter().map(|row| {
                let partition = row["partition"].as_u64().expect("a partition") as u32;
                (
                    (topic.to_owned(), partition),
                    row["new_offset"].as_u64().expect("an offset"),
                )
            });
            Some(to.collect())
        }
        // Not made yet, or members are there.
        Some(Answered { answer, .. }) if answer.status == 404 => return,
        Some(Answered { answer, .. }) => {
            answer.refusal(409, "group-active", "none");
            return;
        }
    };
    run.note(Event::Reset {
        sent,
        life,
        topic: topic.to_owned(),
        to,
    });
}

/// What happens to the world while members are at work.
fn disturb(run: &Run<'_>, progress: &Receiver<()>, times: u64, rng: &mut Rng) {
    let mut partitions = [2_u32, 3];
    for _ in 0..times {
        for _ in 0..(10 + rng.below(60)) {
            progress.recv_timeout(PATIENCE).expect("members go on");
        }
        match rng.below(if run.is_clean { 1 } else { 6 }) {
            0 => {
                let which = rng.below(2) as usize;
                partitions[which] += 1;
                let body = json!({"partitions": partitions[which]});
                let path = format!("/v1/topics/{}", TOPICS[which]);
                run.world.client().insist(200, "PATCH", &path, &body);
            }
            1 => reset(run, &mut run.world.client(), rng),
            how => {
                run.world.kill();
                run.world.start();
                if how == 2 {
                    reset(run, &mut run.world.early(), rng);
                }
                run.world.open();
                if how == 3 {
                    // Members join at the same time.
                    reset(run, &mut run.world.client(), rng);
                }
            }
        }
    }
}

/// One world from its beginning to its end.
fn one_world(is_clean: bool, rng: &mut Rng) {
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
        is_drained: AtomicBool::new(false),
        names: AtomicU32::new(0),
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
        scope.spawn(move || {
            let _end = EndOnPanic(run.world);
            watch(run);
        });
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
        disturb(run, &progress, if is_clean { 4 } else { 7 }, &mut chance);
        for producer in producers {
            // A failure ends the scope.
            let _ = producer.join();
        }
        run.is_draining.store(true, Ordering::SeqCst);
        until_drained(&world, GROUP, &TOPICS);
        run.is_drained.store(true, Ordering::SeqCst);
    });
    let committed = client
        .insist(200, "GET", &format!("/v1/groups/{GROUP}/offsets"), &Value::Null)
        .expect("the world goes on");
    let lag = client
        .insist(200, "GET", &format!("/v1/groups/{GROUP}/lag"), &Value::Null)
        .expect("the world goes on");
    let end = End {
        stored: TOPICS
            .iter()
            .flat_map(|topic| read_topic(&mut client, topic))
            .collect(),
        committed: offsets(&committed)
            .into_iter()
            .map(|(lane, (offset, _))| (lane, offset))
            .collect(),
        acknowledged: lock(&run.produced.acknowledged).clone(),
        lag: lag["lag"].as_u64().expect("a lag"),
        is_clean,
    };
    let mut events = std::mem::take(&mut *lock(&run.events));
    events.sort_by_key(|(at, _)| *at);
    match check(&events, &end) {
        Ok(summary) => println!("{summary:?}, {} lives of the server", world.life()),
        Err(wrong) => {
            let dump = world.data().with_extension("history");
            crate::dump(&dump, &events);
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
fn every_record_is_processed_in_order_whatever_becomes_of_members_and_server() {
    let mut rng = Rng::from_environment("group_history, ordered");
    for _ in 0..rounds() {
        one_world(false, &mut rng);
    }
}

#[test]
fn clean_hand_overs_deliver_every_record_exactly_once() {
    let mut rng = Rng::from_environment("group_history, ordered and clean");
    for _ in 0..rounds() {
        one_world(true, &mut rng);
    }
}
