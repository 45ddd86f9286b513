//! The run of a world from beginning to end, for ordered and for shared groups.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Sender};

use serde_json::{Value, json};

use crate::check::{End, Lane, Verdict};
use crate::produce::{Produced, filter, offsets, produce, read_topic, until_drained};
use crate::support::{PATIENCE, Rng};
use crate::world::{Client, EndOnPanic, World, lock};

pub const TOPICS: [&str; 2] = ["orders", "payments"];
const MEMBERS: u64 = 5;

/// The rules of a world.
#[derive(Clone, Copy)]
pub struct Rules {
    /// Nothing is lost, killed, released, rejected or reset.
    pub is_clean: bool,
    /// The server is killed.
    pub has_kills: bool,
    /// Dead letters are redriven and discarded all the time, not only in the end.
    pub has_redrives: bool,
    /// Some records are for later.
    pub has_later: bool,
    /// The group has a filter.
    pub is_filtered: bool,
    /// The queue is by key.
    pub is_by_key: bool,
    /// The group is a queue; only where one kind of members works in both kinds of groups.
    pub is_shared: bool,
    /// There is a topic for what members produce.
    pub has_outputs: bool,
}

impl Rules {
    pub const CLEAN: Self = Self {
        is_clean: true,
        has_kills: false,
        has_redrives: false,
        has_later: false,
        is_filtered: false,
        is_by_key: false,
        is_shared: false,
        has_outputs: false,
    };
    pub const FAULTY: Self = Self {
        is_clean: false,
        has_kills: true,
        has_redrives: true,
        has_later: true,
        ..Self::CLEAN
    };
}

/// The state that all threads share; `E` is an event of this kind of group.
pub struct Run<'w, E> {
    pub world: &'w World,
    pub group: &'static str,
    pub rules: Rules,
    events: Mutex<Vec<(u64, E)>>,
    produced: Produced,
    partitions: Mutex<[u32; 2]>,
    is_draining: AtomicBool,
    is_healed: AtomicBool,
    is_drained: AtomicBool,
    names: AtomicU32,
    session_ms: (u64, u64),
}

impl<E> Run<'_, E> {
    /// Notes an event; returns its time.
    pub fn note(&self, event: E) -> u64 {
        let mut events = lock(&self.events);
        let at = self.world.tick();
        events.push((at, event));
        at
    }

    /// One topic or both; both for the first member, so that always somebody reads everything.
    fn topics(&self, number: u64, rng: &mut Rng) -> BTreeSet<String> {
        let which = if number == 0 { 2 } else { rng.below(3) as usize };
        let topics = TOPICS.iter().enumerate();
        let chosen = topics.filter(|(index, _)| which == 2 || which == *index);
        chosen.map(|(_, topic)| (*topic).to_owned()).collect()
    }

    /// Whether members only drain the topics now.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// Whether poison records are processed normally now.
    pub fn is_healed(&self) -> bool {
        self.is_healed.load(Ordering::SeqCst)
    }

    pub fn goes_on(&self) -> bool {
        !self.is_drained.load(Ordering::SeqCst) && !self.world.is_over()
    }

    pub fn until_drained(&self) {
        until_drained(self.world, self.group, &TOPICS);
    }

    /// Adds a partition to a topic.
    pub fn grow(&self, rng: &mut Rng) {
        let which = rng.below(2) as usize;
        let mut partitions = lock(&self.partitions);
        partitions[which] += 1;
        let body = json!({"partitions": partitions[which]});
        let path = format!("/v1/topics/{}", TOPICS[which]);
        self.world.client().insist(200, "PATCH", &path, &body);
    }
}

/// A thread that acts as one member after another. `A` is the answer that it works on, `K` is what its kind of group
/// remembers for one name.
pub struct Member<'w, 'r, E, A, K> {
    pub run: &'r Run<'w, E>,
    pub client: Client<'w>,
    pub rng: Rng,
    pub progress: Sender<()>,
    pub name: String,
    pub topics: BTreeSet<String>,
    pub session_timeout_ms: u64,
    pub last: Option<A>,
    /// The `ack` of its next request.
    pub ack: Option<String>,
    pub kind: K,
}

impl<'w, 'r, E, A, K: Default> Member<'w, 'r, E, A, K> {
    pub fn new(run: &'r Run<'w, E>, number: u64, mut rng: Rng, progress: Sender<()>) -> Self {
        let mut member = Self {
            run,
            client: run.world.client(),
            topics: run.topics(number, &mut rng),
            rng,
            progress,
            name: String::new(),
            session_timeout_ms: 0,
            last: None,
            ack: None,
            kind: K::default(),
        };
        member.be_new();
        member
    }

    /// Goes on under a new name.
    pub fn be_new(&mut self) {
        self.name = format!("m{}", self.run.names.fetch_add(1, Ordering::SeqCst));
        self.kind = K::default();
        self.begin_anew();
    }

    /// Goes on under its name, without its memory.
    pub fn begin_anew(&mut self) {
        let (least, span) = self.run.session_ms;
        let brief = least + self.rng.below(span);
        self.session_timeout_ms = if self.run.rules.is_clean { 300_000 } else { brief };
        (self.ack, self.last) = (None, None);
    }

    pub fn path(&self, call: &str) -> String {
        format!("/v1/groups/{}/members/{}{call}", self.run.group, self.name)
    }

    /// A poll with the fields of a join.
    pub fn body(&mut self) -> Value {
        let waits = self.rng.below(3) > 0;
        let wait_ms = if waits { self.rng.below(200) } else { 0 };
        let mut body = self.join();
        body["ack"] = json!(self.ack);
        (body["max_records"], body["wait_ms"]) = ((1 + self.rng.below(12)).into(), wait_ms.into());
        body
    }

    /// The fields of a join.
    pub fn join(&self) -> Value {
        let mut body = json!({"topics": self.topics, "session_timeout_ms": self.session_timeout_ms});
        if self.run.rules.is_filtered {
            body["filter"] = filter();
        }
        body
    }

    /// Hangs up, and comes back under the same name or a new one.
    pub fn die(&mut self) {
        self.client.hang_up();
        if self.rng.below(2) == 0 {
            self.be_new();
        } else {
            self.begin_anew();
        }
    }
}

/// The behaviour of one kind of group in its world.
pub struct Play<E> {
    pub group: &'static str,
    pub rules: Rules,
    pub disturbances: u64,
    /// The shortest session timeout in a world with faults, and the span above it.
    pub session_ms: (u64, u64),
    /// Acts as one member after another while the run goes on.
    pub work: fn(&Run<'_, E>, u64, Rng, Sender<()>),
    pub watch: fn(&Run<'_, E>, Rng),
    pub disturb: fn(&Run<'_, E>, &mut Rng),
    /// Runs when everything is drained, before the members end.
    pub finish: fn(&Run<'_, E>, &mut Rng),
}

impl<E: Debug + Send> Play<E> {
    /// Runs the world; returns it with its events and its end.
    pub fn perform(&self, rng: &mut Rng) -> (World, Vec<(u64, E)>, End) {
        let world = World::new();
        let mut client = world.client();
        let partitions = [2, 3];
        for (topic, partitions) in TOPICS.iter().zip(partitions) {
            let body = json!({"partitions": partitions});
            client.insist(201, "PUT", &format!("/v1/topics/{topic}"), &body);
        }
        if self.rules.has_outputs {
            client.insist(201, "PUT", "/v1/topics/outputs", &json!({"partitions": 3}));
        }
        let run = Run {
            world: &world,
            group: self.group,
            rules: self.rules,
            events: Mutex::default(),
            produced: Produced::default(),
            partitions: Mutex::new(partitions),
            is_draining: AtomicBool::new(false),
            is_healed: AtomicBool::new(false),
            is_drained: AtomicBool::new(false),
            names: AtomicU32::new(0),
            session_ms: self.session_ms,
        };
        self.act(&run, rng);
        let acknowledged = lock(&run.produced.acknowledged).clone();
        let mut events = std::mem::take(&mut *lock(&run.events));
        drop(run);
        events.sort_by_key(|(at, _)| *at);
        let committed = offsets(&client.get(&format!("/v1/groups/{}/offsets", self.group)));
        let lag = client.get(&format!("/v1/groups/{}/lag", self.group));
        let stored = TOPICS.iter().flat_map(|topic| read_topic(&mut client, topic));
        let end = End {
            stored: stored.collect(),
            committed: committed
                .into_iter()
                .map(|(lane, row)| (lane, row.0))
                .collect::<BTreeMap<Lane, u64>>(),
            acknowledged,
            lag: lag["lag"].as_u64().expect("a lag"),
            is_clean: self.rules.is_clean,
            is_filtered: self.rules.is_filtered,
        };
        drop(client);
        (world, events, end)
    }

    fn act(&self, run: &Run<'_, E>, rng: &mut Rng) {
        let (sender, progress) = mpsc::channel();
        let mut forks: Vec<Rng> = (0..MEMBERS + 4).map(|_| rng.fork()).collect();
        let mut fork = || forks.pop().expect("one each");
        let producers = [("p0", fork()), ("p1", fork())];
        let mut chance = fork();
        let watcher = fork();
        std::thread::scope(|scope| {
            let _end = EndOnPanic(run.world);
            let producers = producers.map(|(name, rng)| {
                scope.spawn(move || {
                    let _end = EndOnPanic(run.world);
                    let has_later = run.rules.has_later;
                    produce(run.world, &run.produced, name, &TOPICS, 100, has_later, rng);
                })
            });
            scope.spawn(|| {
                let _end = EndOnPanic(run.world);
                (self.watch)(run, watcher);
            });
            for (number, rng) in (0..).zip(forks) {
                let sender = sender.clone();
                scope.spawn(move || {
                    let _end = EndOnPanic(run.world);
                    (self.work)(run, number, rng, sender);
                });
            }
            // Dropped, so that `recv` fails at once if all members fail.
            drop(sender);
            for _ in 0..self.disturbances {
                for _ in 0..(10 + chance.below(60)) {
                    progress.recv_timeout(PATIENCE).expect("members go on");
                }
                (self.disturb)(run, &mut chance);
            }
            for producer in producers {
                // A failure ends the scope.
                let _ = producer.join();
            }
            run.is_draining.store(true, Ordering::SeqCst);
            run.until_drained();
            run.is_healed.store(true, Ordering::SeqCst);
            (self.finish)(run, &mut chance);
            run.is_drained.store(true, Ordering::SeqCst);
        });
    }
}

/// Fails with everything wrong and the server's log; writes the history if it is to be kept.
pub fn judge<E: Debug, S: Debug>(world: &World, events: &[(u64, E)], verdict: Verdict<S>) {
    match verdict {
        Ok(summary) => println!("{summary:?}, {} lives of the server", world.life()),
        Err(wrong) => {
            crate::dump(world.data(), events);
            let wrong: Vec<String> = wrong.into_iter().take(20).collect();
            panic!("{}\nthe log says:\n{}", wrong.join("\n"), world.log());
        }
    }
    assert!(!world.log().contains("panicked"), "{}", world.log());
}
