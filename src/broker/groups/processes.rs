//! Tells apart the processes that poll under one member's name, by the answers that their polls acknowledge. Pure.
//!
//! A process acknowledges the answer that it got last. Its *branch* is the sequence of answers that it got:
//!
//! - A poll without an `ack` begins a branch: a process has started.
//! - A poll that acknowledges an answer continues the answer's branch.
//! - A poll that repeats the last `ack` begins a branch within its branch: its answer was lost.
//!
//! Of two branches the one that began later is the newer one. If a poll continues an older branch than the poll before
//! it, two processes may be there; or a proxy has sent one poll twice, and the process got the first answer. If the
//! newer branch is continued as well, there are two: the process on the older branch is superseded for good. A branch
//! that goes on alone supersedes all older ones too.
//!
//! An `ack` that was taken before the last one is a stray: a late duplicate of a poll. It changes nothing.

use std::collections::VecDeque;

use super::members::Refused;
use super::poll_id::PollId;

/// How many of a member's answers are remembered. An `ack` of another one, before the last `ack`, is a stray.
const REMEMBERED: usize = 16;

/// The number of an answer. Answers of this process of the server come after those of earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AnswerNumber {
    is_of_today: bool,
    number: u64,
}

impl AnswerNumber {
    /// The number of the answer with this `poll_id`; `life` names the server's process.
    pub fn of(poll_id: &PollId, life: u64) -> Self {
        Self {
            is_of_today: poll_id.life == life,
            number: poll_id.number,
        }
    }

    /// The number, if the answer is of this process of the server.
    pub fn of_today(self) -> Option<u64> {
        self.is_of_today.then_some(self.number)
    }

    fn today(number: u64) -> Self {
        Self {
            is_of_today: true,
            number,
        }
    }
}

/// The branch of a process: when its first poll came (0: before this membership), and when its last answer was lost.
/// Newer branches are larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Branch {
    root: u64,
    fork: u64,
}

/// An answer that a member was given.
#[derive(Clone, Copy, Debug)]
struct Given {
    number: u64,
    branch: Branch,
    /// Whether a poll has acknowledged it.
    is_taken: bool,
}

/// What the `ack` of a poll is.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// It repeats the last `ack`: the answer to that one was lost.
    pub is_repeated: bool,
    /// The poll is of a newer process, and the member's other polls and epochs are of an older one.
    pub takes_over: bool,
}

#[derive(Clone, Copy)]
enum Place {
    /// No answer of this membership.
    Elsewhere,
    /// An answer that no poll has acknowledged.
    Open(Branch),
    /// The last one that a poll acknowledged.
    Repeated(Branch),
    /// One that was acknowledged before the last one.
    Stray,
}

/// The processes of one member.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    /// Answers, oldest first. Those that a poll has acknowledged are forgotten first.
    given: VecDeque<Given>,
    /// The last `ack` that was taken, and the branch of its poll.
    acknowledged: Option<(AnswerNumber, Branch)>,
    /// The newest answer that was ever acknowledged.
    newest_taken: Option<AnswerNumber>,
    /// The branch of the newest poll.
    current: Option<Branch>,
    /// The oldest branch that is not superseded.
    oldest: Option<Branch>,
    /// Whether a poll has continued an older branch than the poll before it.
    is_doubtful: bool,
}

impl Processes {
    /// Whether a poll with this `ack` may begin. A poll `is_known` if it names itself in another way, or if the group
    /// does not tell processes apart by their acknowledgements: then it is only checked for strays.
    ///
    /// # Errors
    /// [`Refused::Superseded`]: the `ack` is a stray. [`Refused::MemberSuperseded`]: a newer process has the member.
    pub fn check(&self, ack: Option<AnswerNumber>, is_known: bool) -> Result<(), Refused> {
        let branch = match self.place(ack) {
            Place::Elsewhere => return Ok(()),
            Place::Open(branch) | Place::Repeated(branch) => branch,
            Place::Stray => return Err(self.refusal_of_stray(ack, is_known)),
        };
        if !is_known && self.is_superseded(branch) {
            return Err(Refused::MemberSuperseded);
        }
        Ok(())
    }

    /// Begins a poll. `fresh` is larger than every number so far.
    ///
    /// # Errors
    /// As [`Processes::check`]; nothing is changed.
    pub fn begin(&mut self, ack: Option<AnswerNumber>, is_known: bool, fresh: u64) -> Result<Asked, Refused> {
        self.check(ack, is_known)?;
        let place = self.place(ack);
        let (branch, begins) = match place {
            Place::Open(branch) => (branch, false),
            Place::Repeated(branch) if Some(branch) == self.current => {
                let fork = Branch {
                    fork: fresh,
                    ..branch
                };
                (fork, true)
            }
            Place::Repeated(branch) => (branch, false),
            Place::Elsewhere | Place::Stray => {
                // A process that acknowledges an answer of before this membership began before it, too.
                let root = if ack.is_none() { fresh } else { 0 };
                (Branch { root, fork: fresh }, true)
            }
        };
        let mut takes_over = false;
        match self.current {
            _ if is_known => self.go_on(branch),
            Some(current) if branch < current => self.is_doubtful = true,
            Some(current) if branch > current => {
                let is_root = begins && branch.root == branch.fork;
                // A new process, after a poll of the older one: the one before it on a new branch was new too.
                takes_over = if begins { is_root && self.is_doubtful } else { true };
                if takes_over {
                    self.go_on(branch);
                }
            }
            _ if begins => {}
            _ => self.go_on(branch),
        }
        self.current = Some(branch);
        if let Some(ack) = ack {
            self.acknowledged = Some((ack, branch));
            self.newest_taken = self.newest_taken.max(Some(ack));
            let known = self.given.iter_mut();
            for given in known.filter(|given| AnswerNumber::today(given.number) == ack) {
                given.is_taken = true;
            }
        }
        Ok(Asked {
            is_repeated: matches!(place, Place::Repeated(_)),
            takes_over,
        })
    }

    /// The last answer that was acknowledged.
    pub fn last_acknowledged(&self) -> Option<AnswerNumber> {
        self.acknowledged.map(|(ack, _)| ack)
    }

    /// Notes the answer to the newest poll.
    pub fn answered(&mut self, number: u64) {
        let Some(branch) = self.current else { return };
        if self.given.len() == REMEMBERED {
            let taken = self.given.iter().position(|given| given.is_taken);
            self.given.remove(taken.unwrap_or(0));
        }
        self.given.push_back(Given {
            number,
            branch,
            is_taken: false,
        });
    }

    /// All older branches are superseded.
    fn go_on(&mut self, branch: Branch) {
        self.oldest = Some(branch);
        self.is_doubtful = false;
    }

    fn is_superseded(&self, branch: Branch) -> bool {
        self.oldest.is_some_and(|oldest| branch < oldest)
    }

    /// A late poll of a process that is superseded is refused as such.
    fn refusal_of_stray(&self, ack: Option<AnswerNumber>, is_known: bool) -> Refused {
        // A process whose answer was lost is on a branch within its own, so only the roots count here.
        let began = self.oldest.map_or(0, |oldest| oldest.root);
        let was_superseded = |ack: AnswerNumber| match self.find(ack) {
            Some(given) => given.branch.root < began,
            None => ack.is_of_today && ack.number < began,
        };
        if !is_known && ack.is_some_and(was_superseded) {
            Refused::MemberSuperseded
        } else {
            Refused::Superseded
        }
    }

    fn find(&self, ack: AnswerNumber) -> Option<&Given> {
        let mut given = self.given.iter();
        given.find(|given| AnswerNumber::today(given.number) == ack)
    }

    fn place(&self, ack: Option<AnswerNumber>) -> Place {
        let Some(ack) = ack else { return Place::Elsewhere };
        match self.acknowledged {
            Some((last, branch)) if last == ack => return Place::Repeated(branch),
            _ => {}
        }
        match self.find(ack) {
            Some(given) if given.is_taken => Place::Stray,
            Some(given) => Place::Open(given.branch),
            None if self.newest_taken.is_some_and(|newest| ack <= newest) => Place::Stray,
            None => Place::Elsewhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The server's side: numbers, and the processes of one member.
    #[derive(Default)]
    struct Server {
        processes: Processes,
        last: u64,
    }

    impl Server {
        fn number(&mut self) -> u64 {
            self.last += 1;
            self.last
        }

        fn begin(&mut self, ack: Option<u64>) -> Result<Asked, Refused> {
            let fresh = self.number();
            self.processes.begin(ack.map(AnswerNumber::today), false, fresh)
        }

        fn answer(&mut self) -> u64 {
            let number = self.number();
            self.processes.answered(number);
            number
        }

        /// A poll that is answered; or the refusal.
        fn poll(&mut self, ack: Option<u64>) -> Result<u64, Refused> {
            self.begin(ack)?;
            Ok(self.answer())
        }
    }

    /// A process that acknowledges what it got last.
    #[derive(Clone, Copy, Default)]
    struct Process {
        ack: Option<u64>,
        /// How many of its polls were answered.
        answers: u32,
    }

    impl Process {
        fn poll(&mut self, server: &mut Server) -> Result<(), Refused> {
            self.ack = Some(server.poll(self.ack)?);
            self.answers += 1;
            Ok(())
        }
    }

    #[test]
    fn two_processes_that_take_turns_are_noticed_when_both_have_polled_twice() {
        for begun_before in 0..4 {
            let mut server = Server::default();
            let (mut older, mut newer) = (Process::default(), Process::default());
            for _ in 0..=begun_before {
                older.poll(&mut server).unwrap();
            }
            newer.poll(&mut server).unwrap();
            older.poll(&mut server).unwrap();
            newer.poll(&mut server).unwrap();
            for _ in 0..3 {
                assert_eq!(older.poll(&mut server), Err(Refused::MemberSuperseded));
                newer.poll(&mut server).unwrap();
            }
        }
    }

    #[test]
    fn the_older_process_is_refused_even_if_it_comes_back_late() {
        for polls_between in 2..40 {
            let mut server = Server::default();
            let (mut older, mut newer) = (Process::default(), Process::default());
            older.poll(&mut server).unwrap();
            for _ in 0..polls_between {
                newer.poll(&mut server).unwrap();
            }
            let refused = older.poll(&mut server);
            assert_eq!(refused, Err(Refused::MemberSuperseded), "{polls_between}");
            newer.poll(&mut server).unwrap();
        }
    }

    #[test]
    fn processes_that_supersede_each_other_while_they_wait_are_noticed_too() {
        let mut server = Server::default();
        let mut older = Process::default();
        for _ in 0..3 {
            older.poll(&mut server).unwrap();
        }
        // No poll is answered from now on: each supersedes the one before it.
        server.begin(older.ack).unwrap();
        server.begin(None).unwrap();
        server.begin(older.ack).unwrap();
        assert!(server.begin(None).unwrap().takes_over);
        assert_eq!(server.begin(older.ack).unwrap_err(), Refused::MemberSuperseded);
        server.begin(None).unwrap();
    }

    #[test]
    fn a_process_that_was_copied_after_its_first_poll_is_noticed() {
        let mut server = Server::default();
        let mut older = Process::default();
        older.poll(&mut server).unwrap();
        let mut newer = older;
        for _ in 0..2 {
            older.poll(&mut server).unwrap();
            newer.poll(&mut server).unwrap();
        }
        assert_eq!(older.poll(&mut server), Err(Refused::MemberSuperseded));
        newer.poll(&mut server).unwrap();
    }

    #[test]
    fn a_stray_is_refused_and_changes_nothing() {
        let mut server = Server::default();
        let acks: Vec<u64> = (0..20)
            .scan(None, |ack, _| {
                *ack = Some(server.poll(*ack).unwrap());
                *ack
            })
            .collect();
        let before = format!("{:?}", server.processes);
        for stray in &acks[..18] {
            assert_eq!(server.begin(Some(*stray)).unwrap_err(), Refused::Superseded);
        }
        assert_eq!(format!("{:?}", server.processes), before);
        // The last one that was acknowledged means that the answer to it was lost.
        assert!(server.begin(Some(acks[18])).unwrap().is_repeated);
        assert!(!server.begin(Some(acks[19])).unwrap().is_repeated);
    }

    #[test]
    fn an_acknowledgement_of_an_earlier_life_is_a_stray_after_one_of_this_life() {
        let old = |number| AnswerNumber {
            is_of_today: false,
            number,
        };
        let mut server = Server::default();
        let mut begin = |ack| {
            let fresh = server.number();
            let begun = server.processes.begin(Some(ack), false, fresh);
            server.answer();
            begun.map(|asked| asked.is_repeated)
        };
        // Numbers of an earlier life mean nothing beside those of this one.
        assert_eq!(begin(old(1_000_000)), Ok(false));
        assert_eq!(begin(old(1_000_000)), Ok(true));
        assert_eq!(begin(old(999_999)), Err(Refused::Superseded));
        let newest = server.last;
        server.poll(Some(newest)).unwrap();
        let stray = server.processes.check(Some(old(1_000_001)), true);
        assert_eq!(stray, Err(Refused::Superseded));
    }

    /// What happens to a poll of a process.
    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Answered,
        /// The answer is lost, or another poll supersedes it before: the process asks again with the same `ack`.
        Lost,
        Superseded,
        /// A proxy sends it twice. The process gets the first answer.
        Twice,
        /// A late duplicate of an earlier poll.
        Stray(prop::sample::Index),
        /// The process starts again without a memory.
        Restart,
    }

    fn fate() -> impl Strategy<Value = Fate> {
        prop_oneof![
            8 => Just(Fate::Answered),
            4 => Just(Fate::Lost),
            2 => Just(Fate::Superseded),
            1 => Just(Fate::Twice),
            2 => any::<prop::sample::Index>().prop_map(Fate::Stray),
            1 => Just(Fate::Restart),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_process_that_is_alone_is_never_taken_for_two(fates in prop::collection::vec(fate(), 1..60)) {
            let mut server = Server::default();
            let mut process = Process::default();
            // The acknowledgements of all its polls so far, and how many of them were sent before it started again.
            let mut sent: Vec<u64> = Vec::new();
            let mut before_restart = 0;
            for fate in fates {
                match fate {
                    Fate::Answered => process.poll(&mut server).unwrap(),
                    Fate::Lost => drop(server.poll(process.ack).unwrap()),
                    Fate::Superseded => drop(server.begin(process.ack).unwrap()),
                    Fate::Twice => {
                        let ack = process.ack;
                        process.poll(&mut server).unwrap();
                        server.poll(ack).unwrap();
                    }
                    Fate::Stray(which) if !sent.is_empty() => {
                        let which = which.index(sent.len());
                        let refused = server.begin(Some(sent[which])).err();
                        let is_last = which + 1 == sent.len();
                        // The last one: as if the answer was lost.
                        let expected = (!is_last).then_some(Refused::Superseded);
                        // One of before the restart may be taken for one of a process that is still there.
                        prop_assert!(refused == expected || which < before_restart, "{refused:?}");
                        continue;
                    }
                    Fate::Stray(_) => continue,
                    Fate::Restart => {
                        process = Process::default();
                        before_restart = sent.len();
                    }
                }
                if let Some(ack) = process.ack.filter(|ack| sent.last() != Some(ack)) {
                    // Its next poll begins, and is superseded before it is answered.
                    server.begin(Some(ack)).unwrap();
                    sent.push(ack);
                }
            }
        }

        #[test]
        fn of_two_processes_the_newer_one_goes_on_and_the_older_one_stops(
            before in 1_u32..5,
            turns in prop::collection::vec((any::<bool>(), prop::bool::weighted(0.8)), 1..60),
        ) {
            let mut server = Server::default();
            let (mut older, mut newer) = (Process::default(), Process::default());
            for _ in 0..before {
                older.poll(&mut server).unwrap();
            }
            newer.poll(&mut server).unwrap();
            let mut polled = [0, 1];
            let (mut is_over, mut has_lost) = (false, false);
            for (is_newer, arrives) in turns {
                let process = if is_newer { &mut newer } else { &mut older };
                let polls = server.poll(process.ack);
                if is_newer {
                    prop_assert!(polls.is_ok(), "the newer one is refused: {polls:?}");
                } else if polled[1] >= 2 {
                    // A lost answer and many answers to the newer one later, its `ack` looks like a stray.
                    let is_refused = polls == Err(Refused::MemberSuperseded)
                        || polls == Err(Refused::Superseded) && has_lost;
                    prop_assert!(is_refused, "{polls:?}");
                    is_over = true;
                    continue;
                } else {
                    prop_assert!(polls.is_ok() && !is_over, "{polls:?}");
                }
                polled[usize::from(is_newer)] += 1;
                if arrives || is_newer {
                    process.ack = polls.ok();
                } else {
                    has_lost = true;
                }
            }
        }
    }
}
