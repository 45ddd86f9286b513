//! Random histories of a classic group: clients join, sync, commit, fall silent, leave, lose their connections and start
//! again, the disk fails, and the server restarts from what was stored. After each step the invariants are checked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::rebalance::{Classic, Phase};
use super::stored::Generation;
use super::*;
use crate::broker::refusal::{Reason, Refusal};

const CLIENTS: usize = 4;
const SESSION: Ms = LEAST_SESSION_TIMEOUT_MS;
const REBALANCE: Ms = 20_000;

/// What a client waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Waits {
    #[default]
    Nothing,
    Join(CallNumber),
    Sync(CallNumber),
}

/// A client, as it sees itself.
#[derive(Clone, Debug, Default)]
struct Client {
    /// The first two are static members.
    instance: Option<Arc<str>>,
    member: Option<Arc<str>>,
    generation_id: i32,
    /// As the leader: the members of its generation.
    led: Vec<Arc<str>>,
    waits: Waits,
    /// It has its assignment of this generation.
    assigned: Option<i32>,
}

#[derive(Clone, Debug)]
enum Op {
    Join(usize, bool, bool),
    Sync(usize),
    Heartbeat(usize),
    Commit(usize),
    /// A commit with an older generation.
    LateCommit(usize, i32),
    OutsideCommit,
    Leave(usize),
    /// The process starts again, and has forgotten everything but its instance.
    Forget(usize),
    /// The connection of a waiting call breaks.
    Withdraw(usize),
    Silence(Ms),
    BeginSave,
    EndSave(bool),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let client = 0..CLIENTS;
    prop_oneof![
        8 => (client.clone(), any::<bool>(), prop::bool::weighted(0.1)).prop_map(|(client, skips, other)| Op::Join(client, skips, other)),
        8 => client.clone().prop_map(Op::Sync),
        4 => client.clone().prop_map(Op::Heartbeat),
        6 => client.clone().prop_map(Op::Commit),
        2 => (client.clone(), 1..3).prop_map(|(client, older)| Op::LateCommit(client, older)),
        1 => Just(Op::OutsideCommit),
        1 => client.clone().prop_map(Op::Leave),
        1 => client.clone().prop_map(Op::Forget),
        1 => client.prop_map(Op::Withdraw),
        6 => prop_oneof![Just(300), Just(2_000), Just(SESSION), Just(REBALANCE)].prop_map(Op::Silence),
        8 => Just(Op::BeginSave),
        8 => prop::bool::weighted(0.9).prop_map(Op::EndSave),
        1 => Just(Op::Restart),
    ]
}

/// A group of clients, and everything that happened.
#[derive(Default)]
struct World {
    group: Classic,
    now: Ms,
    clients: Vec<Client>,
    /// What is stored.
    durable: Generation,
    /// What is being stored.
    saving: Option<Generation>,
    next_id: u64,
    /// The calls that wait.
    open: BTreeSet<CallNumber>,
    /// What leaders have assigned: by generation and member. A static member that starts again inherits.
    given: HashMap<(i32, Arc<str>), Bytes>,
    /// The leader of each generation, as its members were told.
    leaders: BTreeMap<i32, Arc<str>>,
    /// The newest generation that a member was told of.
    newest: i32,
    /// How often the server has restarted: calls from before are gone.
    restarts: u32,
}

impl World {
    fn new() -> Self {
        let client = |index: usize| Client {
            instance: (index < 2).then(|| format!("i{index}").into()),
            ..Client::default()
        };
        Self {
            clients: (0..CLIENTS).map(client).collect(),
            ..Self::default()
        }
    }

    fn joining(&mut self, client: usize, may_skip: bool, other: bool) -> Joining {
        self.next_id += 1;
        let own = &self.clients[client];
        let protocols: &[&'static str] = if other { &["range"] } else { &["sticky", "range"] };
        Joining {
            member: own.member.clone(),
            fresh: format!("m{client}-{}", self.next_id).into(),
            instance: own.instance.clone(),
            client_id: None,
            address: None,
            protocol_type: "consumer".into(),
            protocols: protocols
                .iter()
                .map(|name| (Arc::from(*name), Bytes::from_static(name.as_bytes())))
                .collect(),
            session_timeout: SESSION,
            rebalance_timeout: REBALANCE,
            needs_id: client != 3,
            may_skip,
        }
    }

    fn identity<'a>(client: &'a Client, member: &'a str, generation_id: i32) -> Identity<'a> {
        Identity {
            member,
            instance: client.instance.as_deref(),
            generation_id,
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Join(client, skips, other) => self.join(client, skips, other),
            Op::Sync(client) => self.sync(client),
            Op::Heartbeat(client) => {
                let own = self.clients[client].clone();
                let Some(member) = &own.member else { return };
                let who = Self::identity(&own, member, own.generation_id);
                let beat = self.group.heartbeat(&who, self.now);
                self.note(client, beat.err());
            }
            Op::Commit(client) => self.commit(client, 0),
            Op::LateCommit(client, older) => self.commit(client, older),
            Op::OutsideCommit => {
                let nobody = Identity {
                    member: "",
                    instance: None,
                    generation_id: -1,
                };
                let may = self.group.check_commit(&nobody, self.now).is_ok();
                assert_eq!(
                    may,
                    self.group.members().is_empty(),
                    "only a group without members"
                );
            }
            Op::Leave(client) => {
                let own = std::mem::take(&mut self.clients[client]);
                let left = self
                    .group
                    .leave(own.member.as_deref(), own.instance.as_deref(), self.now);
                self.clients[client].instance.clone_from(&own.instance);
                if let (Ok(_), Some(member)) = (left, &own.member) {
                    assert!(!self.group.members().contains_key(member));
                }
            }
            Op::Forget(client) => {
                self.withdraw(client);
                let instance = self.clients[client].instance.clone();
                self.clients[client] = Client {
                    instance,
                    ..Client::default()
                };
            }
            Op::Withdraw(client) => self.withdraw(client),
            Op::Silence(ms) => {
                self.now += ms;
                self.group.advance(self.now);
            }
            Op::BeginSave => {
                if let Some(generation) = self.group.begin_save() {
                    assert!(self.saving.is_none(), "one save at a time");
                    self.saving = Some(generation);
                }
            }
            Op::EndSave(ok) => self.end_save(ok),
            Op::Restart => self.restart(),
        }
        self.deliver();
        self.check();
    }

    fn join(&mut self, client: usize, may_skip: bool, other: bool) {
        if self.clients[client].waits != Waits::Nothing {
            return;
        }
        let joining = self.joining(client, may_skip, other);
        match self.group.join(&joining, self.now) {
            Ok(call) => {
                assert!(self.open.insert(call));
                self.clients[client].waits = Waits::Join(call);
            }
            Err(Denied::MemberIdRequired(id)) => self.clients[client].member = Some(id),
            Err(denied) => self.note(client, Some(denied)),
        }
    }

    /// A client's reaction to an error.
    fn note(&mut self, client: usize, denied: Option<Denied>) {
        let own = &mut self.clients[client];
        match denied {
            Some(Denied::UnknownMember | Denied::FencedInstance) => {
                (own.member, own.generation_id, own.assigned) = (None, 0, None);
            }
            Some(Denied::IllegalGeneration) => own.assigned = None,
            _ => {}
        }
    }

    fn sync(&mut self, client: usize) {
        let own = self.clients[client].clone();
        let (Some(member), Waits::Nothing) = (&own.member, own.waits) else {
            return;
        };
        let generation_id = own.generation_id;
        let give = |id: &Arc<str>| (Arc::clone(id), Bytes::from(format!("{generation_id} {id}")));
        let assignments: Vec<(Arc<str>, Bytes)> = own.led.iter().map(give).collect();
        let is_unassigned = self.group.phase() == Phase::Completing { is_assigned: false };
        let syncing = Syncing {
            who: Self::identity(&own, member, generation_id),
            protocol_type: Some("consumer"),
            protocol: None,
            assignments: assignments.clone(),
        };
        match self.group.sync(&syncing, self.now) {
            Ok(call) => {
                if self.leaders.get(&generation_id) == Some(member) && is_unassigned {
                    let all = self.group.members().keys();
                    for id in all {
                        self.given.insert((generation_id, Arc::clone(id)), Bytes::new());
                    }
                    for (id, assignment) in assignments {
                        self.given.insert((generation_id, id), assignment);
                    }
                }
                assert!(self.open.insert(call));
                self.clients[client].waits = Waits::Sync(call);
            }
            Err(denied) => self.note(client, Some(denied)),
        }
    }

    fn commit(&mut self, client: usize, older: i32) {
        let own = self.clients[client].clone();
        let Some(member) = &own.member else { return };
        let generation_id = own.generation_id - older;
        if generation_id < 1 {
            return;
        }
        let who = Self::identity(&own, member, generation_id);
        match self.group.check_commit(&who, self.now) {
            Ok(()) => {
                assert_eq!(
                    generation_id, self.newest,
                    "a later generation's members know of it"
                );
                assert!(self.group.members().contains_key(member), "a former member");
                assert!(
                    !matches!(self.group.phase(), Phase::Completing { .. }),
                    "nothing is assigned yet"
                );
            }
            Err(denied) if older == 0 => self.note(client, Some(denied)),
            Err(_) => {}
        }
    }

    fn withdraw(&mut self, client: usize) {
        let waits = std::mem::take(&mut self.clients[client].waits);
        if let Waits::Join(call) | Waits::Sync(call) = waits {
            self.open.remove(&call);
            self.group.withdraw(call, self.now);
        }
    }

    fn end_save(&mut self, ok: bool) {
        let Some(saving) = self.saving.take() else { return };
        let result = match ok {
            true => {
                self.durable = saving;
                Ok(())
            }
            false => Err(Refusal::new(Reason::StorageFull, "full")),
        };
        self.group.end_save(result, self.now);
    }

    /// The server stops at once and starts again. What was being stored is there or not.
    fn restart(&mut self) {
        self.restarts += 1;
        if let Some(saving) = self.saving.take()
            && self.restarts.is_multiple_of(2)
        {
            self.durable = saving;
        }
        self.open.clear();
        self.group = Classic::load(self.durable.clone(), self.now);
        // A generation that nobody was assigned to is forgotten.
        self.newest = self.durable.generation_id;
        self.leaders
            .retain(|generation_id, _| *generation_id <= self.durable.generation_id);
        self.given
            .retain(|(generation_id, _), _| *generation_id <= self.durable.generation_id);
        for index in 0..CLIENTS {
            self.clients[index].waits = Waits::Nothing;
            let own = self.clients[index].clone();
            let Some(member) = &own.member else { continue };
            // Whoever has an assignment of the stored generation goes on as if nothing had happened.
            if own.assigned == Some(self.durable.generation_id) && self.durable.members.contains_key(member) {
                let who = Self::identity(&own, member, own.generation_id);
                assert!(
                    self.group.check_commit(&who, self.now).is_ok(),
                    "a restart is no rebalance"
                );
                assert!(self.group.heartbeat(&who, self.now).is_ok());
            }
            if own.generation_id > self.durable.generation_id {
                // Its generation was never stored: the server will say so.
                self.clients[index].led.clear();
            }
        }
    }

    /// Gives the answers to their clients.
    fn deliver(&mut self) {
        for (call, answer) in self.group.take_answers() {
            assert!(
                self.open.remove(&call),
                "{call:?} is answered twice, or its client has gone"
            );
            let index = self
                .clients
                .iter()
                .position(|client| client.waits == Waits::Join(call) || client.waits == Waits::Sync(call));
            // A client that has left waits for nothing.
            let Some(index) = index else { continue };
            self.clients[index].waits = Waits::Nothing;
            match answer {
                Answer::Joined(joined) => self.joined(index, joined),
                Answer::Synced(synced) => self.synced(index, &synced),
                Answer::Denied(denied) => self.note(index, Some(denied)),
            }
        }
    }

    fn joined(&mut self, index: usize, joined: Joined) {
        assert!(joined.generation_id >= self.newest, "generations only grow");
        self.newest = joined.generation_id;
        let told = self.leaders.entry(joined.generation_id);
        let leader = Arc::clone(told.or_insert_with(|| Arc::clone(&joined.leader)));
        let leads = joined.leader == joined.member;
        if leads {
            let members: BTreeSet<Arc<str>> =
                joined.members.iter().map(|row| Arc::clone(&row.member)).collect();
            let present: BTreeSet<Arc<str>> = self.group.members().keys().cloned().collect();
            assert_eq!(
                members, present,
                "the leader assigns to all members and to nobody else"
            );
            assert!(
                joined
                    .members
                    .iter()
                    .all(|row| *row.metadata == *joined.protocol.as_bytes())
            );
        } else {
            assert!(joined.members.is_empty());
        }
        // Later a static leader that starts again is told the id that it had before.
        let is_assigning = matches!(self.group.phase(), Phase::Completing { .. });
        assert!(
            leader == joined.leader || !is_assigning,
            "one leader a generation"
        );
        let own = &mut self.clients[index];
        let assigns = leads && !joined.skips_assignment;
        own.led = joined
            .members
            .iter()
            .filter(|_| assigns)
            .map(|row| Arc::clone(&row.member))
            .collect();
        if own.member.as_ref() != Some(&joined.member) && self.durable.generation_id == joined.generation_id {
            // It inherits what its former process had.
            let assignment = self.group.members()[&joined.member].assignment.clone();
            self.given
                .insert((joined.generation_id, Arc::clone(&joined.member)), assignment);
        }
        own.member = Some(joined.member);
        own.generation_id = joined.generation_id;
        own.assigned = None;
    }

    fn synced(&mut self, index: usize, synced: &Synced) {
        let own = &mut self.clients[index];
        let member = own.member.clone().expect("it has joined");
        let key = (own.generation_id, Arc::clone(&member));
        let given = self
            .given
            .get(&key)
            .unwrap_or_else(|| panic!("nobody assigned {key:?}"));
        assert_eq!(synced.assignment, *given, "a member gets what the leader gave it");
        assert_eq!(
            self.durable.generation_id, own.generation_id,
            "it is durable before it is told"
        );
        let stored = self
            .durable
            .members
            .get(&member)
            .expect("a member that is told is stored");
        assert_eq!(stored.assignment, *given);
        own.assigned = Some(own.generation_id);
    }

    fn check(&self) {
        let members = self.group.members();
        assert_eq!(
            members.is_empty(),
            self.group.phase() == Phase::Empty,
            "{:?}",
            self.group
        );
        let names: Vec<&Arc<str>> = members
            .values()
            .filter_map(|member| member.instance.as_ref())
            .collect();
        let distinct: BTreeSet<&Arc<str>> = names.iter().copied().collect();
        assert_eq!(names.len(), distinct.len(), "one member an instance");
        for (id, member) in members {
            if let Some(instance) = &member.instance {
                assert_eq!(self.group.member_of(instance), Some(id));
            }
        }
        let waiting = members.values().filter(|member| member.is_waiting()).count();
        assert!(waiting <= self.open.len(), "{:?}", self.group);
        if !self.open.is_empty() && self.saving.is_none() && !self.group.wants_save() {
            assert!(
                self.group.next_deadline().is_some(),
                "a call would wait for ever: {:?}",
                self.group
            );
        }
    }

    /// Nothing fails any more, and the clients do what clients do: the group becomes stable, with all of them.
    fn settle(&mut self) {
        for round in 0..200 {
            for index in 0..CLIENTS {
                let own = &self.clients[index];
                let is_current = own.assigned == Some(self.group.generation_id());
                let has_joined = own.generation_id == self.group.generation_id() && own.assigned.is_none();
                if has_joined && matches!(self.group.phase(), Phase::Completing { .. } | Phase::Stable) {
                    self.apply(Op::Sync(index));
                } else if !is_current || matches!(self.group.phase(), Phase::Preparing { .. }) {
                    self.apply(Op::Join(index, true, false));
                }
                if self.clients[index].assigned.is_some() {
                    self.apply(Op::Heartbeat(index));
                }
                self.apply(Op::BeginSave);
                self.apply(Op::EndSave(true));
            }
            let is_done = self
                .clients
                .iter()
                .all(|client| client.assigned == Some(self.group.generation_id()));
            if is_done && self.group.phase() == Phase::Stable && self.group.members().len() == CLIENTS {
                return;
            }
            // Longer than the first wait, shorter than a session.
            self.apply(Op::Silence(if round % 4 == 0 { 3_100 } else { 300 }));
        }
        panic!("the group does not settle: {:?} {:?}", self.group, self.clients);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn members_get_what_their_leader_gave_them_and_no_former_one_commits(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
        world.settle();
    }
}

#[test]
fn a_leader_that_starts_again_is_told_who_is_there_although_another_starts_again_meanwhile() {
    for (leader, other) in [(0, 1), (1, 0)] {
        let mut world = World::new();
        for op in [
            Op::Join(leader, false, false),
            Op::Join(other, false, false),
            Op::Silence(300),
            Op::Silence(300),
            Op::Sync(leader),
            Op::Sync(other),
            Op::BeginSave,
            Op::EndSave(true),
            Op::Forget(leader),
            Op::Join(leader, true, false),
            Op::BeginSave,
            // The leader's answer waits until it is stored.
            Op::Forget(other),
            Op::Join(other, true, false),
            Op::EndSave(true),
            Op::BeginSave,
            Op::EndSave(true),
        ] {
            world.apply(op);
        }
        let are_told = |client: &Client| client.waits == Waits::Nothing && client.member.is_some();
        assert!(world.clients[..2].iter().all(are_told), "{:?}", world.clients);
    }
}
