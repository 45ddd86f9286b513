//! Members of an ordered group in a world that goes wrong, and in one that does not.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::ordered_check::{Delivery, Event, FORBIDDEN, check};
use crate::produce::{Stored, ends, offsets};
use crate::rounds;
use crate::run::{self, Play, Rules, TOPICS, judge};
use crate::support::Rng;
use crate::world::{Answered, Client, Place, number};

const GROUP: &str = "billing";

type Run<'w> = run::Run<'w, Event>;

/// What a member remembers under one name.
#[derive(Default)]
struct Memory {
    /// Poll ids of the answers before the last.
    earlier: Vec<String>,
    /// Epochs that it was given, in all lives.
    epochs: BTreeSet<u64>,
    is_unsure: bool,
}

type Member<'w, 'r> = run::Member<'w, 'r, Event, Delivery, Memory>;

impl Member<'_, '_> {
    /// Notes the acknowledgement that the next request sends.
    fn note_ack(&self) {
        if let Some(poll_id) = &self.ack {
            self.run.note(Event::Acknowledged(poll_id.clone()));
        }
    }

    fn poll(&mut self) {
        let body = self.body();
        self.note_ack();
        let sent = self.run.world.tick();
        let answered = self.client.call("POST", &self.path("/poll"), &body);
        self.take(sent, answered);
    }

    /// Takes the answer to a poll that sent the present `ack`.
    fn take(&mut self, sent: u64, answered: Option<Answered>) {
        let Some(Answered { life, answer }) = answered.filter(Answered::is_newest) else {
            self.kind.is_unsure = true;
            return;
        };
        // Even if the server did not know it, a poll with the fields of a join makes it a member.
        assert_eq!(answer.status, 200, "a poll of {}: {}", self.name, answer.text());
        let polled = answer.json();
        let records = polled["records"].as_array().expect("records").iter();
        let poll_id = polled["poll_id"].as_str().expect("a poll_id").to_owned();
        let delivery = Delivery {
            member: self.name.clone(),
            life,
            sent,
            epoch: number(&polled, "epoch"),
            poll_id: poll_id.clone(),
            ack: self.ack.clone(),
            is_unsure: std::mem::take(&mut self.kind.is_unsure),
            records: records
                .map(|record| (Place::of(record), Stored::of(record)))
                .collect(),
            subscribed: self.topics.clone(),
        };
        self.kind.epochs.insert(delivery.epoch);
        self.run.note(Event::Delivered(delivery.clone()));
        self.kind.earlier.extend(self.ack.take());
        self.ack = Some(poll_id);
        self.last = Some(delivery);
        // The receiver is gone at the end.
        let _ = self.progress.send(());
    }

    /// One thing that a member may do with an answer.
    fn live(&mut self) {
        self.poll();
        if self.run.is_draining() {
            return;
        }
        let choice = self.rng.below(100);
        if self.run.rules.is_clean {
            if choice < 6 {
                self.leave(true);
                self.be_new();
            }
            return;
        }
        match choice {
            0..4 => self.lose(),
            4..8 => {
                // The second may be of an earlier record: it commits nothing.
                self.commit_a_part();
                self.commit_a_part();
            }
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

    /// The answer is lost: the next poll acknowledges the one before again, or none.
    fn lose(&mut self) {
        let again = self.rng.below(2) == 0;
        self.ack = again.then(|| self.kind.earlier.last().cloned()).flatten();
    }

    fn commit_a_part(&mut self) {
        let Some(last) = &self.last else { return };
        if last.records.is_empty() {
            return;
        }
        let (place, _) = &last.records[self.rng.below(last.records.len() as u64) as usize];
        let until = place.next();
        let (epoch, poll_id) = (last.epoch, last.poll_id.clone());
        let row = until.json_with("metadata", "a part".into());
        let until = vec![until];
        self.run.note(Event::Committed { poll_id, until });
        self.commit(epoch, row, true);
    }

    /// Commits a row, which must be refused unless it `may` be accepted.
    fn commit(&mut self, epoch: u64, row: Value, may: bool) {
        let body = json!({"epoch": epoch, "offsets": [row]});
        if may && self.rng.below(4) == 0 {
            self.client.send("POST", &self.path("/commit"), &body);
            self.client.hang_up();
            self.kind.is_unsure = true;
            return;
        }
        match self.client.call("POST", &self.path("/commit"), &body) {
            Some(Answered { answer, .. }) => match answer.status {
                200 if may => {}
                404 => drop(answer.refusal(404, "unknown-member", "none")),
                _ => drop(answer.refusal(409, "fenced", "none")),
            },
            None => self.kind.is_unsure = true,
        }
    }

    fn commit_what_it_may_not(&mut self) {
        // This needs the member to know its newest epoch.
        let Some(last) = self.last.as_ref().filter(|_| !self.kind.is_unsure) else {
            return;
        };
        let foreign = TOPICS.iter().find(|topic| !last.subscribed.contains(**topic));
        let stale = self
            .kind
            .epochs
            .iter()
            .copied()
            .rfind(|epoch| *epoch != last.epoch);
        let (epoch, topic) = match (foreign, stale) {
            (Some(topic), _) if stale.is_none() || self.rng.below(2) == 0 => (last.epoch, *topic),
            (_, Some(epoch)) => (epoch, TOPICS[0]),
            _ => return,
        };
        let mut ends = ends(&mut self.client, topic).into_iter();
        let Some(((_, partition), end)) = ends.find(|(_, end)| *end > 0) else {
            return;
        };
        let row = json!({"topic": topic, "partition": partition, "offset": end, "metadata": FORBIDDEN});
        self.commit(epoch, row, false);
    }

    fn stall(&mut self) {
        self.client.until_gone(GROUP, &self.name);
    }

    fn leave(&mut self, with_ack: bool) {
        let ack = self.ack.take().filter(|_| with_ack);
        let mut path = self.path("");
        if let Some(poll_id) = &ack {
            self.run.note(Event::Acknowledged(poll_id.clone()));
            path += &format!("?ack={poll_id}");
        }
        if let Some(Answered { answer, .. }) = self.client.call("DELETE", &path, &Value::Null) {
            match answer.status {
                204 => {}
                _ => drop(answer.refusal(404, "unknown-member", "none")),
            }
        }
        self.kind.is_unsure = true;
        self.begin_anew();
    }

    /// Joins again under its own name, and so replaces itself.
    fn start_again(&mut self) {
        let ack = self.ack.clone();
        self.begin_anew();
        let mut body = self.join();
        body["member_id"] = self.name.clone().into();
        let path = format!("/v1/groups/{GROUP}/members");
        if let Some(Answered { answer, .. }) = self.client.call("POST", &path, &body) {
            assert_eq!(answer.status, 201, "{}", answer.text());
            self.kind.epochs.insert(number(&answer.json(), "epoch"));
        }
        self.kind.is_unsure = true;
        if self.rng.below(2) == 0 {
            self.ack = ack;
        }
    }

    /// Sends a poll and hangs up before its answer.
    fn hang_up(&mut self) {
        let body = self.body();
        self.note_ack();
        self.client.send("POST", &self.path("/poll"), &body);
        self.client.hang_up();
        self.kind.is_unsure = true;
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
        self.kind.is_unsure = true;
        self.take(sent, answered);
        let newest = (self.ack.clone(), self.last.clone());
        (self.ack, self.kind.is_unsure) = (ack, true);
        let answered = other.read();
        self.take(sent, answered);
        // Either poll may have been the newer one; the member does not know which.
        if self.rng.below(2) == 0 {
            (self.ack, self.last) = newest;
        }
        self.kind.is_unsure = true;
    }

    fn change_its_mind(&mut self) {
        if self.topics.len() < TOPICS.len() {
            self.topics = [TOPICS[self.rng.below(2) as usize].to_owned()].into();
        }
    }
}

/// Reads the committed offsets, all the time.
fn watch(run: &Run<'_>, _: Rng) {
    let mut client = run.world.client();
    let path = format!("/v1/groups/{GROUP}/offsets");
    while run.goes_on() {
        let sent = run.world.tick();
        let Some(Answered { life, answer }) = client.call("GET", &path, &Value::Null) else {
            continue;
        };
        if answer.status == 200 {
            let offsets = offsets(&answer.json());
            run.note(Event::Watched { sent, life, offsets });
        }
        std::thread::yield_now();
    }
}

/// Sets the group back: while it has members, or only if it has none just now.
fn reset(run: &Run<'_>, client: &mut Client<'_>, rng: &mut Rng) {
    let topic = TOPICS[rng.below(2) as usize].to_owned();
    let to = match rng.below(2) {
        0 => json!("earliest"),
        _ => json!({"shift": -1 - rng.below(40) as i64}),
    };
    let (sent, life) = (run.world.tick(), run.world.life());
    let path = format!("/v1/groups/{GROUP}/offsets/reset");
    let while_active = rng.below(2) == 0;
    let body = match rng.below(3) {
        0 => json!({"topics": [topic], "to": to, "while_active": while_active}),
        _ => json!({"topic": topic, "to": to, "while_active": while_active}),
    };
    let answered = client.call("POST", &path, &body);
    let to = match answered.map(|answered| answered.answer) {
        None => None,
        Some(answer) if answer.status == 200 => {
            let said = answer.json();
            let rows = said["offsets"].as_array().expect("offsets").iter();
            let lane = |row| (topic.clone(), number(row, "partition") as u32);
            Some(rows.map(|row| (lane(row), number(row, "new_offset"))).collect())
        }
        // 404: the group does not exist yet. 409 (below): it has members.
        Some(answer) if answer.status == 404 => return,
        Some(answer) => {
            assert!(!while_active, "{}", answer.text());
            answer.refusal(409, "group-active", "none");
            return;
        }
    };
    run.note(Event::Reset {
        sent,
        life,
        topic,
        to,
    });
}

fn disturb(run: &Run<'_>, rng: &mut Rng) {
    match rng.below(if run.rules.is_clean { 1 } else { 8 }) {
        0 => run.grow(rng),
        1 | 6 | 7 => reset(run, &mut run.world.client(), rng),
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

fn one_world(rules: Rules, rng: &mut Rng) {
    let play = Play {
        group: GROUP,
        rules,
        session_ms: (150, 500),
        disturbances: if rules.is_clean { 4 } else { 7 },
        work: |run, number, rng, progress| {
            let mut member = Member::new(run, number, rng, progress);
            while run.goes_on() {
                member.live();
            }
        },
        watch,
        disturb,
        finish: |_, _| {},
    };
    let (world, events, end) = play.perform(rng);
    judge(&world, &events, check(&events, &end));
}

#[test]
fn every_record_is_processed_in_order_whatever_happens_to_members_and_server() {
    rounds("group_history, ordered", |rng| one_world(Rules::FAULTY, rng));
}

#[test]
fn clean_hand_overs_deliver_every_record_exactly_once() {
    rounds("group_history, ordered and clean", |rng| {
        one_world(Rules::CLEAN, rng)
    });
}

#[test]
fn a_group_with_a_filter_is_given_what_matches_and_nothing_else() {
    let rules = Rules {
        is_filtered: true,
        ..Rules::FAULTY
    };
    rounds("group_history, ordered with a filter", |rng| {
        one_world(rules, rng)
    });
}

#[test]
fn clean_hand_overs_deliver_every_record_that_matches_exactly_once() {
    let rules = Rules {
        is_filtered: true,
        ..Rules::CLEAN
    };
    rounds("group_history, ordered with a filter and clean", |rng| {
        one_world(rules, rng);
    });
}
