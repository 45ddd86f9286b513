//! The dead letters of a shared group: listed, given back to the group, or discarded.
//!
//! A redrive gives records back to this group alone: it appends no record, but an entry for each that the group's queue
//! reads from its dead letter. That entry and the dead letter's [fate](letters::Fate) are in one append, so each dead
//! letter is given back once, even over a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::settle::is_ordered;
use super::shared::codec::{self, Letter, Unsettled};
use super::shared::dead_letter::DeadLetter;
use super::shared::letters::{self, Fate, Fates, Mailbox};
use super::shared::seal::Spent;
use super::shared::settings::{GroupValue, Settings};
use super::{Groups, audited};
use crate::broker::blocking::Share;
use crate::broker::caller::{Caller, Who};
use crate::broker::engine::batch::Record;
use crate::broker::engine::{
    AppendRequest, Error, Offset, Partition, PartitionId, StateChange, Ticket, TimestampMs, Topic, TopicId,
};
use crate::broker::refusal::{Outcome, Reason, Refusal};
use crate::broker::rights::Right;
use crate::broker::topics::catalog;

/// The dead letters of one append.
const REQUEST_LETTERS: usize = 1000;
/// The most bytes of a page of a list, as of a fetch; its first dead letter is in it however large it is.
const PAGE_BYTES: usize = 32 << 20;
/// The most reasons that a list counts one by one, and the most bytes of them.
const MAX_REASONS: usize = 1000;
const MAX_REASONS_BYTES: usize = 1 << 20;

/// Which dead letters to redrive, and how.
#[derive(Clone, Debug)]
pub struct Redrive {
    /// The topic of dead letters; `None`: all topics that the group's dead letters go to.
    pub dead_letter_topic: Option<String>,
    /// The most of them.
    pub max_records: u64,
    /// Only these, by partition and offset in the topic of dead letters; `None`: all.
    pub offsets: Option<BTreeSet<(u32, Offset)>>,
    /// Only those whose reason begins with this.
    pub reason: Option<String>,
    /// Discard them instead.
    pub discard: bool,
    /// Only count them.
    pub dry_run: bool,
}

/// The result of a redrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Given back to the group.
    pub redriven: u64,
    /// Discarded.
    pub discarded: u64,
    /// Not given back: this server has not made them, or they are copies, see [`Groups::redrive`].
    pub passed_over: u64,
    /// All that were asked for were found; otherwise there are more than `max_records`.
    pub at_end: bool,
}

/// Which dead letters to list.
#[derive(Clone, Debug)]
pub struct WantedLetters {
    /// Those with this fate.
    pub fate: Fate,
    /// Only those whose reason begins with this.
    pub reason: Option<String>,
    /// The most of them.
    pub limit: usize,
    /// Only those behind this one.
    pub after: Option<Position>,
}

/// Where a dead letter lies. The order is that of lists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The topic of dead letters.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The offset.
    pub offset: Offset,
}

/// A dead letter in a list.
pub struct Listed {
    /// Where it lies.
    pub at: Position,
    /// Why it died.
    pub reason: String,
    /// How often it had been delivered.
    pub deliveries: u32,
    /// When; dead letters of version 0.1.0 do not say.
    pub died_at: Option<TimestampMs>,
    /// The topic, partition and offset that it comes from.
    pub origin: (String, u32, Offset),
    /// The record in the topic of dead letters, as the caller renders it.
    pub record: String,
}

impl Listed {
    /// What it takes in memory.
    fn bytes(&self) -> usize {
        let texts = [&self.at.topic, &self.reason, &self.origin.0, &self.record];
        size_of::<Self>() + texts.into_iter().map(String::len).sum::<usize>()
    }
}

/// A lease in a list.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The record: its topic, partition and offset.
    pub at: Position,
    /// The member that holds it.
    pub member: Arc<str>,
    /// How often the record was delivered, this time included.
    pub deliveries: u32,
    /// When it ends.
    pub expires: TimestampMs,
}

/// A page of a list of dead letters.
#[derive(Default)]
pub struct List {
    /// The dead letters, in the order of their positions.
    pub letters: Vec<Listed>,
    /// How many have each reason, on all pages.
    pub reasons: BTreeMap<String, u64>,
    /// How many have a reason that is not among them, because there are too many.
    pub other_reasons: u64,
    /// There are more: the last one of this page.
    pub next: Option<Position>,
    bytes: usize,
    reasons_bytes: usize,
}

impl List {
    fn count(&mut self, reason: &str) {
        if let Some(count) = self.reasons.get_mut(reason) {
            *count += 1;
        } else if self.reasons.len() < MAX_REASONS && self.reasons_bytes + reason.len() <= MAX_REASONS_BYTES {
            self.reasons_bytes += reason.len();
            self.reasons.insert(reason.to_owned(), 1);
        } else {
            self.other_reasons += 1;
        }
    }

    /// Adds a dead letter, unless the page is full.
    fn add(&mut self, limit: usize, letter: impl FnOnce() -> Listed) {
        if self.next.is_some() {
            return;
        }
        if self.letters.len() < limit {
            let letter = letter();
            let bytes = self.bytes + letter.bytes();
            if bytes <= PAGE_BYTES || self.letters.is_empty() {
                self.bytes = bytes;
                self.letters.push(letter);
                return;
            }
        }
        self.next = self.letters.last().map(|last| last.at.clone());
    }
}

/// A dead letter that a redrive takes.
struct Chosen {
    /// Its offset in the topic of dead letters.
    at: Offset,
    /// Where its record was first; `None` if it is discarded.
    origin: Option<(PartitionId, Offset)>,
    redriven: u32,
}

impl Groups {
    /// Gives dead letters back to their group, or discards them, and returns once that is durable. The oldest come
    /// first in each partition. A second call finds nothing twice.
    ///
    /// Those that this server has not made, but a client or another server, are given back only if they are chosen one by
    /// one and the caller may write to the topic that they name as their origin; else they are passed over. So are copies of
    /// those that it has made, as long as what they are copies of lies in the same topic: of dead letters that are the same to
    /// the byte, only one is given back, and none once one of them was given back or discarded. (If more than 2,500,000 in a topic were, none
    /// there counts as made by this server; a `reason` leaves those with other reasons out.) If nobody has to sign in, all are given back.
    ///
    /// # Errors
    /// [`Reason::UnknownGroup`]; [`Reason::GroupTypeMismatch`]: the group is ordered. The member `redriven` counts the
    /// records before one of these errors, which are durable; another call goes on after them:
    /// - [`Reason::UnknownTopic`]: the topic of dead letters, or the topic that a record comes from, does not exist.
    /// - [`Reason::CorruptData`]: dead letters cannot be read; skip the damage, or repair it.
    /// - [`Reason::Internal`]: what became of dead letters cannot be read.
    /// - Those of the engine's append.
    pub async fn redrive(&self, caller: &Caller, group: &str, redrive: Redrive) -> Result<Redriven, Refusal> {
        caller.check_group(&[Right::Write], group)?;
        if let Some(topic) = &redrive.dead_letter_topic {
            caller.check_topic(Right::Read, topic)?;
        }
        let settings = self.queue_settings(group)?;
        // Held so that the group is not deleted meanwhile.
        let guard = self.commits().await;
        let action = if redrive.discard {
            "group.discard"
        } else {
            "group.redrive"
        };
        let entry = audited(&self.log, caller, action, group, "/dead-letters", "");
        let (groups, group, caller) = (self.clone(), group.to_owned(), caller.clone());
        let run = move || {
            let _guard = guard;
            let _one_at_a_time = groups.redriving.lock();
            let mut run = Run {
                groups: &groups,
                caller: &caller,
                group: &group,
                settings: &settings,
                redrive: &redrive,
                done: Redriven::default(),
                spent: Spent::default(),
                touched: BTreeSet::new(),
                entry: Some(entry),
            };
            let ended = run.all();
            let (done, touched) = (run.done, run.touched);
            let count = done.redriven.max(done.discarded);
            let result = match ended {
                Ok(at_end) => Ok(Redriven { at_end, ..done }),
                Err(refusal) if count > 0 => Err(refusal.outcome(Outcome::Partial).with("redriven", count)),
                Err(refusal) => Err(refusal.with("redriven", count)),
            };
            Ok((result, touched))
        };
        let (result, touched) = self.blocking.attempt(Share::Change, run).await?;
        self.remove_orphans(touched).await?;
        result
    }

    /// Lists dead letters of a group, of those topics that the caller may read, at most 32 MiB. Reads all of them, and keeps
    /// of the records of a page what `render` makes of each and its partition.
    ///
    /// # Errors
    /// As for [`Groups::redrive`], but a topic of dead letters that does not exist has none.
    pub async fn dead_letters(
        &self,
        caller: &Caller,
        group: &str,
        wanted: WantedLetters,
        render: impl Fn(&Record<'_>, u32) -> String + Send + 'static,
    ) -> Result<List, Refusal> {
        let settings = self.queue_settings(group)?;
        let (groups, group, caller) = (self.clone(), group.to_owned(), caller.clone());
        let list = move || {
            let mut list = List::default();
            for topic in groups.readable_mailboxes(&caller, &group, &settings) {
                for partition in &*topic.partitions() {
                    let mailbox = groups.mailbox(&group, &settings, partition);
                    add_to_list(&mut list, &mailbox, &topic, &wanted, &render)?;
                }
            }
            Ok(list)
        };
        self.blocking.attempt(Share::Read, list).await
    }

    /// Lists the leases of a group, in topics that the caller may describe, behind `after`, at most `limit`; the position says that there are more.
    ///
    /// # Errors
    /// [`Reason::UnknownGroup`]; [`Reason::GroupTypeMismatch`]: the group is ordered.
    pub fn leases(
        &self,
        caller: &Caller,
        group: &str,
        limit: usize,
        after: Option<&Position>,
    ) -> Result<(Vec<Lease>, Option<Position>), Refusal> {
        let cell = self.queue_cell(group)?;
        let at = self.now();
        let (_, mut core) = self.lock(&cell);
        let Some(work) = core.work() else {
            return Ok((Vec::new(), None));
        };
        let names = work.names();
        let mut all = Vec::new();
        for (id, queue) in &work.queues {
            let topic = self.log.topic_by_id(id.topic);
            let Some(topic) = topic.filter(|topic| caller.sees_topic(topic.name())) else {
                continue;
            };
            all.extend(queue.leases().map(|(offset, member, deliveries, end)| Lease {
                at: Position {
                    topic: topic.name().to_owned(),
                    partition: id.index,
                    offset,
                },
                member: names.get(&member).map_or_else(|| "".into(), Arc::clone),
                deliveries,
                expires: TimestampMs(
                    at.wall.get() + i64::try_from(end.0.saturating_sub(at.moment.0)).unwrap_or(0),
                ),
            }));
        }
        all.retain(|lease| after.is_none_or(|after| lease.at > *after));
        all.sort_by(|a, b| a.at.cmp(&b.at));
        let is_more = all.len() > limit;
        all.truncate(limit);
        let next = all.last().filter(|_| is_more).map(|last| last.at.clone());
        Ok((all, next))
    }

    /// How many dead letters of a group wait, in the topics of dead letters of these topics, as far as the server has
    /// looked, and as far as the caller may describe these; `None` for an ordered group. May block on the disk.
    pub fn waiting_letters<'a>(
        &self,
        caller: &Caller,
        group: &str,
        topics: impl IntoIterator<Item = &'a str>,
    ) -> Option<u64> {
        let Ok(Some(GroupValue::Shared(settings))) = self.value_of(group) else {
            return None;
        };
        let since_of = |name: &str| match self.value_of(name) {
            Ok(Some(GroupValue::Shared(Settings { created_at, .. }))) => Some(created_at),
            _ => None,
        };
        let mut waiting = 0;
        let mailboxes = self.mailboxes_of(&settings, topics).into_iter();
        for topic in mailboxes.filter(|topic| caller.sees_topic(topic.name())) {
            for partition in &*topic.partitions() {
                waiting += self.waiting.count(&self.log, partition, group, &since_of);
            }
        }
        Some(waiting)
    }

    /// The settings of a shared group.
    fn queue_settings(&self, group: &str) -> Result<Settings, Refusal> {
        self.check_exists(group)?;
        match self.value_of(group)? {
            Some(GroupValue::Shared(settings)) => Ok(settings),
            _ => Err(is_ordered(group, "it has no dead letters")),
        }
    }

    /// The topics that exist of those that a group's dead letters go to, by name.
    fn mailboxes(&self, group: &str, settings: &Settings) -> Vec<Arc<Topic>> {
        let topics = self.scope(group).0.into_iter();
        let topics: Vec<Arc<Topic>> = topics.filter_map(|id| self.log.topic_by_id(id)).collect();
        self.mailboxes_of(settings, topics.iter().map(|topic| topic.name()))
    }

    /// Those of them that the caller may read.
    fn readable_mailboxes(&self, caller: &Caller, group: &str, settings: &Settings) -> Vec<Arc<Topic>> {
        let mut topics = self.mailboxes(group, settings);
        topics.retain(|topic| caller.may_topic(Right::Read, topic.name()));
        topics
    }

    /// The topics that exist of those that the dead letters of these topics go to, by name.
    pub(super) fn mailboxes_of<'a>(
        &self,
        settings: &Settings,
        topics: impl IntoIterator<Item = &'a str>,
    ) -> Vec<Arc<Topic>> {
        let names = topics
            .into_iter()
            .map(|topic| settings.dead_letter_topic_of(topic));
        let names: BTreeSet<String> = names.collect();
        names.iter().filter_map(|name| self.log.topic(name)).collect()
    }

    fn mailbox<'a>(&'a self, group: &'a str, settings: &Settings, partition: &'a Partition) -> Mailbox<'a> {
        Mailbox {
            log: &self.log,
            group,
            since: settings.created_at,
            partition,
        }
    }
}

fn add_to_list(
    list: &mut List,
    mailbox: &Mailbox<'_>,
    topic: &Topic,
    wanted: &WantedLetters,
    render: &impl Fn(&Record<'_>, u32) -> String,
) -> Result<(), Refusal> {
    let id = mailbox.partition.id();
    let fates = Fates::load(mailbox.log, mailbox.group, id)?;
    mailbox.walk(Offset::ZERO, |record, letter| {
        if fates.of(record.offset) != wanted.fate {
            return Ok(true);
        }
        list.count(&letter.reason);
        let at = Position {
            topic: topic.name().to_owned(),
            partition: id.index,
            offset: record.offset,
        };
        let is_wanted = has_reason(&letter, wanted.reason.as_deref())
            && wanted.after.as_ref().is_none_or(|after| at > *after);
        if is_wanted {
            list.add(wanted.limit, || Listed {
                at,
                reason: letter.reason.into_owned(),
                deliveries: letter.deliveries,
                died_at: letter.died_at,
                origin: (letter.topic.to_owned(), letter.partition, letter.offset),
                record: render(record, id.index),
            });
        }
        Ok(true)
    })
}

fn has_reason(letter: &DeadLetter<'_>, prefix: Option<&str>) -> bool {
    prefix.is_none_or(|prefix| letter.reason.starts_with(prefix))
}

struct Run<'a> {
    groups: &'a Groups,
    caller: &'a Caller,
    group: &'a str,
    settings: &'a Settings,
    redrive: &'a Redrive,
    done: Redriven,
    /// In the topic of dead letters that it is in.
    spent: Spent,
    /// Topics with entries that were written.
    touched: BTreeSet<TopicId>,
    /// Of the audit log, until the first append.
    entry: Option<StateChange>,
}

impl Run<'_> {
    /// Goes through all topics; `false` if it stopped at `max_records`.
    fn all(&mut self) -> Result<bool, Refusal> {
        let topics = match &self.redrive.dead_letter_topic {
            Some(name) => vec![catalog::find(&self.groups.log, name)?],
            None => self
                .groups
                .readable_mailboxes(self.caller, self.group, self.settings),
        };
        for topic in topics {
            self.spent = self.spent_in(&topic)?;
            for partition in &*topic.partitions() {
                if !self.partition(partition)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The seals of the dead letters in a topic that do not wait any longer, as far as a copy of one could be chosen. A copy may lie
    /// in another partition.
    fn spent_in(&self, topic: &Topic) -> Result<Spent, Refusal> {
        let mut spent = Spent::default();
        if self.redrive.discard || matches!(self.caller.who, Who::Anyone) {
            return Ok(spent);
        }
        for partition in &*topic.partitions() {
            let fates = Fates::load(&self.groups.log, self.group, partition.id())?;
            if fates.is_empty() {
                continue;
            }
            let mailbox = self.groups.mailbox(self.group, self.settings, partition);
            mailbox.walk(Offset::ZERO, |record, letter| {
                let is_chosen = has_reason(&letter, self.redrive.reason.as_deref());
                if !is_chosen || fates.of(record.offset) == Fate::Waiting {
                    return Ok(true);
                }
                let seal = self.groups.seals.seal_of(topic.id(), record);
                Ok(seal.is_none_or(|seal| spent.add(seal)))
            })?;
        }
        Ok(spent)
    }

    fn left(&self) -> u64 {
        let done = self.done.redriven + self.done.discarded;
        self.redrive.max_records.saturating_sub(done)
    }

    /// Takes a partition's dead letters; `false` if it stopped at `max_records`.
    fn partition(&mut self, partition: &Partition) -> Result<bool, Refusal> {
        let mut fates = Fates::load(&self.groups.log, self.group, partition.id())?;
        let mut from = Offset::ZERO;
        loop {
            let mut chosen = Vec::new();
            let (found, is_more, passed_over) = self.choose(partition, &fates, from, &mut chosen);
            self.done.passed_over += passed_over;
            if let Some(last) = chosen.last() {
                from = last.at.plus(1);
            }
            self.take(partition.id(), &mut fates, &chosen)?;
            found?;
            if !is_more {
                return Ok(true);
            }
            if self.left() == 0 {
                return Ok(false);
            }
        }
    }

    /// Collects what the next append takes. Returns the error of the record behind it, whether there is more, and how many
    /// were passed over before the last one that was collected, or before the end.
    fn choose(
        &mut self,
        partition: &Partition,
        fates: &Fates,
        from: Offset,
        chosen: &mut Vec<Chosen>,
    ) -> (Result<(), Refusal>, bool, u64) {
        let most = usize::try_from(self.left()).map_or(REQUEST_LETTERS, |left| left.min(REQUEST_LETTERS));
        let mut is_more = false;
        let (mut passed_over, mut since_last) = (0, 0);
        let mailbox = self.groups.mailbox(self.group, self.settings, partition);
        let (groups, caller, redrive, spent) = (self.groups, self.caller, self.redrive, &mut self.spent);
        let found = mailbox.walk(from, |record, letter| {
            let place = (partition.id().index, record.offset);
            let is_wanted = fates.of(record.offset) == Fate::Waiting
                && has_reason(&letter, redrive.reason.as_deref())
                && redrive
                    .offsets
                    .as_ref()
                    .is_none_or(|offsets| offsets.contains(&place));
            if !is_wanted {
                return Ok(true);
            }
            if chosen.len() == most {
                is_more = true;
                return Ok(false);
            }
            let origin = match redrive.discard {
                true => None,
                false => {
                    let topic = letters::origin_of(&groups.log, &letter);
                    let seal = groups.seals.seal_of(partition.id().topic, record);
                    let is_own = seal.is_some_and(|seal| spent.take(seal));
                    if !is_own && !may_write_back(caller, redrive, topic.as_deref(), letter.partition) {
                        since_last += 1;
                        return Ok(true);
                    }
                    let topic = topic.ok_or_else(|| gone(letter.topic, partition.name(), record))?;
                    Some((PartitionId::new(topic.id(), letter.partition), letter.offset))
                }
            };
            passed_over += std::mem::take(&mut since_last);
            chosen.push(Chosen {
                at: record.offset,
                origin,
                redriven: letter.redriven + 1,
            });
            Ok(true)
        });
        if !is_more {
            passed_over += since_last;
        }
        (found, is_more, passed_over)
    }

    /// Writes the fates of dead letters with the entries of their records: both or neither.
    fn take(&mut self, mailbox: PartitionId, fates: &mut Fates, chosen: &[Chosen]) -> Result<(), Refusal> {
        let count = chosen.len() as u64;
        let done = match self.redrive.discard {
            true => &mut self.done.discarded,
            false => &mut self.done.redriven,
        };
        if count == 0 || self.redrive.dry_run {
            *done += count;
            return Ok(());
        }
        let now = self.groups.clock.now();
        let mut returned = Vec::new();
        for letter in chosen {
            fates.set(
                letter.at,
                match letter.origin {
                    Some(_) => Fate::Redriven,
                    None => Fate::Discarded,
                },
            );
            returned.extend(letter.origin.map(|(id, offset)| {
                let letter = Letter {
                    partition: mailbox,
                    offset: letter.at,
                    redriven: letter.redriven,
                    redriven_at: now,
                };
                (id, offset, letter)
            }));
        }
        let mut state = fates.changes(self.group, mailbox);
        self.touched.insert(mailbox.topic);
        for (id, offset, letter) in &returned {
            let value = codec::encode_returned(Unsettled::FRESH, *letter);
            state.push(StateChange::set(
                codec::returned_key(self.group, *id, *offset),
                value,
            ));
            self.touched.insert(id.topic);
        }
        state.extend(self.entry.take());
        let request = AppendRequest::of_state(state);
        let written = self.groups.log.append(request).and_then(Ticket::wait);
        written.map_err(|error| {
            // If the result is unknown, the next call learns it from the state.
            let is_unknown = matches!(error, Error::Closed | Error::LogFailed { in_flight: true, .. });
            let refusal = Refusal::from(error);
            if is_unknown {
                self.groups.waiting.forget(mailbox);
                refusal
            } else {
                refusal.outcome(Outcome::None)
            }
        })?;
        *done += count;
        let taken = chosen.iter().map(|letter| letter.at);
        self.groups.waiting.clear(mailbox, self.group, taken);
        if let Some(cell) = self.groups.coordinator.find(self.group) {
            let (_, mut core) = self.groups.lock(&cell);
            if let Some(work) = core.work() {
                for (id, offset, letter) in returned {
                    if let Some(queue) = work.queues.get_mut(&id) {
                        queue.give_back_letter(offset, letter);
                    }
                }
                work.free();
            }
        }
        Ok(())
    }
}

/// Whether a dead letter that somebody else has made may be given back as a record of this topic: if the caller could
/// write that record itself, and has chosen this dead letter.
fn may_write_back(caller: &Caller, redrive: &Redrive, origin: Option<&Topic>, partition: u32) -> bool {
    let may_write =
        |topic: &Topic| partition < topic.partition_count() && caller.may_topic(Right::Write, topic.name());
    match &caller.who {
        Who::Anyone => origin.is_none_or(may_write),
        _ => redrive.offsets.is_some() && origin.is_some_and(may_write),
    }
}

fn gone(topic: &str, partition: &str, record: &Record<'_>) -> Refusal {
    let topic: String = topic.chars().take(250).collect();
    let detail = format!(
        "the topic {topic} does not exist, where the dead letter at offset {} of {partition} came from",
        record.offset
    );
    Refusal::new(Reason::UnknownTopic, detail)
        .with("topic", topic)
        .with("dead_letter_offset", record.offset.get())
}

#[cfg(test)]
#[path = "dead_letters_tests.rs"]
mod tests;
