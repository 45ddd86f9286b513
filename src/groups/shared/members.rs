//! What members of shared groups do: poll, settle. Joining, heartbeats and leaving are those of all groups.
//!
//! Leases are decided under the lock of the group's cell; reading, and writing what is settled, happen outside it.
//! What was leased and could not be delivered is given back, whatever happened to its poll.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use quipu_segments::{Log, Offset, Partition, PartitionId, TimestampMs, Topic};
use tokio::sync::oneshot;

use super::dead_letter::{Origin, delivered_too_often};
use super::queue::{Acquired, ChangeId, MemberKey, Moment, PollNumber, Released, Wanted as Leasing};
use super::store;
use super::work::{Pending, WRITE_BYTES};
use crate::app::App;
use crate::groups::append;
use crate::groups::coordinator::Cell;
use crate::groups::members::{Polling, Wanted, now_ms, read_ack, refused, unknown_member};
use crate::http::fetch::page::{Limits, Page};
use crate::http::fetch::read_page;
use crate::http::problem::{Code, Problem};
use crate::http::{Work as Blocking, blocking};
use crate::records::ParsedRecord;

/// Dead letters that are made at once of what was delivered too often, by partition.
const BURIED_AT_ONCE: usize = 256;

/// What a poll is answered.
pub struct Leased {
    /// Names the answer.
    pub poll_id: String,
    /// The member's epoch.
    pub epoch: u64,
    /// When the leases end.
    pub lease_expires: TimestampMs,
    /// The records.
    pub pages: Vec<Delivered>,
}

/// Records of one partition that were delivered as often.
pub struct Delivered {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// How often they were delivered, this time included.
    pub deliveries: u32,
    pub(crate) page: Page,
}

/// A record, as a settle names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The offset.
    pub offset: Offset,
}

/// What is to be done with leased records.
#[derive(Clone, Debug, Default)]
pub struct Settling {
    /// Done with.
    pub accept: Vec<Place>,
    /// To be delivered again, after so many milliseconds.
    pub release: Vec<(Place, u64)>,
    /// To the dead letters, for this reason.
    pub reject: Vec<(Place, String)>,
    /// Leased for longer.
    pub extend: Vec<Place>,
}

/// Leases that have not been delivered yet; what is left of them when it is dropped is given back.
struct Undelivered<'a> {
    app: &'a App,
    cell: Arc<Cell>,
    member: MemberKey,
    poll: PollNumber,
    ranges: Vec<(PartitionId, Offset, Offset)>,
}

impl Drop for Undelivered<'_> {
    fn drop(&mut self) {
        if self.ranges.is_empty() {
            return;
        }
        let mut core = self.app.groups.coordinator.lock(&self.cell, now_ms(self.app));
        if let Some(work) = &mut core.work {
            for (id, from, until) in self.ranges.drain(..) {
                work.give_back(id, self.member, self.poll, from, until);
            }
        }
    }
}

/// Accepts what the poll named by `ack` delivered and is not settled yet; then waits for records and leases them. The
/// member is known, and its poll has begun.
///
/// # Errors
/// 409 `poll-superseded`; what a settle meets; 500 `corrupt-data` where nothing but damaged records is left to lease.
pub(crate) async fn poll(
    app: &App,
    polling: &Polling<'_>,
    group: &str,
    wanted: &Wanted,
) -> Result<Leased, Problem> {
    let (member, token) = (polling.member, polling.token);
    let problem = |error| refused(error, group, member);
    let coordinator = &app.groups.coordinator;
    let (key, wake, freed, lease_ms) = {
        let core = coordinator.lock(&polling.cell, now_ms(app));
        let known = core.ordered.members.get(member).zip(core.work.as_ref());
        let (known, work) = known.ok_or_else(|| unknown_member(group, member))?;
        (
            MemberKey(known.key()),
            Arc::clone(&known.wake),
            Arc::clone(&work.freed),
            work.settings.lease_ms,
        )
    };
    if let Some(ack) = read_ack(wanted.ack.as_deref(), group, member)?
        && ack.life == coordinator.life()
    {
        accept_all(app, &polling.cell, key, PollNumber(ack.number)).await?;
    }
    {
        let mut core = coordinator.lock(&polling.cell, now_ms(app));
        core.ordered.go_on(member, token).map_err(problem)?;
    }
    let mut timeout = pin!(tokio::time::sleep(wanted.wait));
    let mut stopping = app.stopping.subscribe();
    let mut topics = coordinator.watch_topics();
    let mut is_over = wanted.wait.is_zero();
    loop {
        // Registered before the state is looked at, so that no change of it is missed.
        let (mut woken, mut freed) = (pin!(wake.notified()), pin!(freed.notified()));
        woken.as_mut().enable();
        freed.as_mut().enable();
        topics.mark_unchanged();
        attend(app, &polling.cell);
        let now = now_ms(app);
        let lease_expires = TimestampMs(app.clock.now().get().saturating_add(i64::from(lease_ms)));
        let mut undelivered = Undelivered {
            app,
            cell: Arc::clone(&polling.cell),
            member: key,
            poll: PollNumber(token),
            ranges: Vec::new(),
        };
        let (leased, ends, deadline) = {
            let mut core = coordinator.lock(&polling.cell, now);
            core.ordered.readable(member, token).map_err(problem)?;
            core.refresh(group, &app.log, coordinator);
            let work = core.work.as_mut().ok_or_else(|| unknown_member(group, member))?;
            let (mut leased, mut ends) = (Vec::new(), Vec::new());
            let mut left = usize::try_from(wanted.max_records).unwrap_or(usize::MAX);
            for id in work.places() {
                let Some((topic, partition)) = find(&app.log, id) else {
                    continue;
                };
                let positions = partition.positions();
                ends.push((Arc::clone(&partition), positions.end_offset));
                if left == 0 {
                    continue;
                }
                let leasing = Leasing {
                    now: Moment(now),
                    deadline: Moment(now.saturating_add(u64::from(lease_ms))),
                    member: key,
                    poll: PollNumber(token),
                    log_start: positions.log_start_offset,
                    end: positions.end_offset,
                    max: left,
                };
                for acquired in work.acquire(id, &leasing) {
                    left -= usize::try_from(acquired.until.since(acquired.from)).unwrap_or(left);
                    undelivered.ranges.push((id, acquired.from, acquired.until));
                    leased.push((Arc::clone(&topic), Arc::clone(&partition), acquired));
                }
            }
            (leased, ends, work.next_deadline())
        };
        coordinator.look_sooner(deadline);
        let (pages, skipped, fault) = read(app, leased, wanted).await?;
        settle_skipped(app, &polling.cell, skipped);
        if pages.is_empty()
            && let Some(fault) = fault
        {
            return Err(fault);
        }
        if !pages.is_empty() || is_over {
            let (epoch, poll_id) = {
                let mut core = coordinator.lock(&polling.cell, now_ms(app));
                core.ordered
                    .finish_poll(member, token, now_ms(app))
                    .map_err(problem)?
            };
            // What was read is delivered; what was not is given back.
            undelivered.ranges = remaining(&undelivered.ranges, &pages);
            return Ok(Leased {
                poll_id: poll_id.encode(group, member),
                epoch,
                lease_expires,
                pages,
            });
        }
        drop(undelivered);
        let mut data: FuturesUnordered<_> = ends
            .iter()
            .map(|(partition, end)| partition.wait_for(*end))
            .collect();
        let due = async {
            match deadline {
                Some(at) => {
                    tokio::time::sleep(Duration::from_millis(at.saturating_sub(now_ms(app)).max(1))).await
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(()) = data.next() => {}
            () = woken => {}
            () = freed => {}
            () = due => {}
            _ = topics.changed() => {}
            () = &mut timeout => is_over = true,
            // An error means that nobody is left to stop the server: as good as stopping.
            _ = stopping.wait_for(|stopping| *stopping) => is_over = true,
        }
    }
}

/// Settles offsets where there is no record to be had.
fn settle_skipped(app: &App, cell: &Cell, skipped: Vec<(PartitionId, Offset, Offset)>) {
    let mut core = app.groups.coordinator.lock(cell, now_ms(app));
    for (id, from, until) in skipped {
        let queue = core.work.as_mut().and_then(|work| work.queues.get_mut(&id));
        if let Some(queue) = queue {
            queue.settle_skipped(from, until);
        }
    }
}

/// What of the leased ranges is in no page.
fn remaining(
    ranges: &[(PartitionId, Offset, Offset)],
    pages: &[Delivered],
) -> Vec<(PartitionId, Offset, Offset)> {
    let mut remaining = Vec::new();
    for &(id, from, until) in ranges {
        let read_to = pages
            .iter()
            .filter(|delivered| {
                delivered.partition == id && delivered.page.from >= from && delivered.page.from < until
            })
            .map(|delivered| delivered.page.next_offset)
            .max();
        let left = read_to.unwrap_or(from).max(from);
        if left < until {
            remaining.push((id, left, until));
        }
    }
    remaining
}

fn find(log: &Log, id: PartitionId) -> Option<(Arc<Topic>, Arc<Partition>)> {
    let topic = log.topic_by_id(id.topic)?;
    let partition = topic.partition(id.index)?;
    Some((topic, partition))
}

type Read = (
    Vec<Delivered>,
    Vec<(PartitionId, Offset, Offset)>,
    Option<Problem>,
);

/// Reads what was leased, as far as the bytes allow; and says where there is no record to be had, and what was wrong.
async fn read(
    app: &App,
    leased: Vec<(Arc<Topic>, Arc<Partition>, Acquired)>,
    wanted: &Wanted,
) -> Result<Read, Problem> {
    let (mut pages, mut skipped, mut fault): Read = (Vec::new(), Vec::new(), None);
    let mut bytes = 0;
    for (topic, partition, acquired) in leased {
        let id = partition.id();
        let mut from = acquired.from;
        while from < acquired.until && bytes < wanted.max_bytes {
            let limits = Limits {
                from,
                until: Some(acquired.until),
                max_records: wanted.max_records,
                max_bytes: wanted.max_bytes - bytes,
                whole_batches: false,
            };
            let page = match read_page(app, &partition, limits).await {
                Ok(page) => page,
                // Deleted or trimmed meanwhile: it is looked at again.
                Err(problem) if matches!(problem.code(), Code::UnknownTopic | Code::OffsetTrimmed) => break,
                Err(problem) => {
                    fault.get_or_insert(problem.with("topic", topic.name()).with("partition", id.index));
                    break;
                }
            };
            skipped.extend(page.gaps.iter().map(|gap| (id, gap.from, gap.until)));
            let next = page.next_offset.min(acquired.until);
            if page.records == 0 {
                if next <= from {
                    break;
                }
                skipped.push((id, from, next));
            } else {
                if !pages.is_empty() && bytes + page.stored_bytes > wanted.max_bytes {
                    return Ok((pages, skipped, fault));
                }
                bytes += page.stored_bytes;
                app.metrics
                    .fetched_records
                    .fetch_add(page.records, std::sync::atomic::Ordering::Relaxed);
                pages.push(Delivered {
                    topic: topic.name().into(),
                    partition: id,
                    deliveries: acquired.deliveries,
                    page,
                });
            }
            from = next;
        }
    }
    app.metrics
        .fetched_bytes
        .fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    Ok((pages, skipped, fault))
}

/// Settles all that a poll delivered and its member still has.
async fn accept_all(app: &App, cell: &Arc<Cell>, member: MemberKey, poll: PollNumber) -> Result<(), Problem> {
    let mut changes = Vec::new();
    {
        let mut core = app.groups.coordinator.lock(cell, now_ms(app));
        if let Some(work) = &mut core.work {
            for (id, queue) in work
                .queues
                .iter_mut()
                .filter(|(_, queue)| queue.held_by(member, poll) > 0)
            {
                changes.extend(
                    queue
                        .begin_ack(member, poll)
                        .change
                        .map(|change| (*id, Some(change))),
                );
            }
        }
    }
    write(app, cell, changes, Vec::new()).await
}

/// Has changes written, with the dead letters that belong to them, and waits until that is durable.
async fn write(
    app: &App,
    cell: &Arc<Cell>,
    changes: Vec<(PartitionId, Option<ChangeId>)>,
    letters: Vec<(Arc<Topic>, ParsedRecord<'static>)>,
) -> Result<(), Problem> {
    if changes.is_empty() {
        return Ok(());
    }
    submit(app, cell, changes, letters)
        .await
        .unwrap_or_else(|_| Err(Problem::new(Code::ShuttingDown, "the server is stopping")))
}

/// Queues changes to be written; whoever waits for the answer may go away.
fn submit(
    app: &App,
    cell: &Arc<Cell>,
    changes: Vec<(PartitionId, Option<ChangeId>)>,
    letters: Vec<(Arc<Topic>, ParsedRecord<'static>)>,
) -> oneshot::Receiver<Result<(), Problem>> {
    let (done, answer) = oneshot::channel();
    let size =
        |bytes: &Option<std::borrow::Cow<'static, [u8]>>| bytes.as_ref().map_or(0, |bytes| bytes.len());
    let bytes = letters
        .iter()
        .map(|(_, letter)| size(&letter.key) + size(&letter.value))
        .sum();
    let pending = Pending {
        changes,
        letters,
        bytes,
        done,
    };
    let starts = {
        let mut core = app.groups.coordinator.lock(cell, now_ms(app));
        core.work.as_mut().is_some_and(|work| work.submit(pending))
    };
    if starts {
        drop(tokio::spawn(run_writer(app.clone(), Arc::clone(cell))));
    }
    answer
}

/// Writes what waits, until nothing does.
async fn run_writer(app: App, cell: Arc<Cell>) {
    let coordinator = &app.groups.coordinator;
    loop {
        // From before it is decided until it is durable, as all commits.
        let guard = app.groups.commits().await;
        let batch = {
            let mut core = coordinator.lock(&cell, now_ms(&app));
            core.work.as_mut().and_then(super::work::Work::next_batch)
        };
        let Some(batch) = batch else { return };
        let letters = batch.letters.iter().map(|(topic, letter)| (topic, letter));
        let request = store::settle(
            &app.log,
            &app.rotation,
            &cell.group,
            &batch.settlements,
            letters,
            app.clock.now(),
        );
        let result = match request {
            Ok(request) => match app.log.append(request) {
                Ok(ticket) => ticket.await.map(drop).map_err(Problem::from),
                Err(error) => Err(error.into()),
            },
            Err(problem) => Err(problem),
        };
        {
            let mut core = coordinator.lock(&cell, now_ms(&app));
            if let Some(work) = &mut core.work {
                work.end_batch(
                    batch.settlements.iter().map(|settlement| settlement.partition),
                    result.is_ok(),
                );
            }
        }
        if let Err(problem) = &result {
            tracing::warn!(group = &*cell.group, problem = %problem.to_json(), "what members settled could not be written: they are told");
        }
        remove_orphans(&app, &batch.settlements).await;
        drop(guard);
        for done in batch.done {
            // Whoever asked may have gone away.
            let _ = done.send(result.clone());
        }
    }
}

/// A topic that was deleted meanwhile took the group's state with it; what came after would never be removed.
async fn remove_orphans(app: &App, settlements: &[store::Settlement]) {
    for settlement in settlements {
        let topic = settlement.partition.topic;
        if app.log.topic_by_id(topic).is_none()
            && let Err(error) = append(
                &app.log,
                crate::groups::changes_for_deleted_topic(&app.log, topic),
            )
            .await
        {
            tracing::warn!(%error, "what groups knew of a deleted topic stays until it is written over");
        }
    }
}

/// Has what was delivered too often dead-lettered, and what ended by itself written; does not wait for it.
pub(crate) fn attend(app: &App, cell: &Arc<Cell>) {
    let now = now_ms(app);
    let (is_due, unsaved) = {
        let core = app.groups.coordinator.lock(cell, now);
        let Some(work) = &core.work else { return };
        (work.is_due(now), work.unsaved())
    };
    if is_due {
        let (app, cell) = (app.clone(), Arc::clone(cell));
        drop(tokio::spawn(async move {
            if let Err(problem) = bury_exhausted(&app, &cell).await {
                tracing::warn!(group = &*cell.group, problem = %problem.to_json(), "records that were delivered too often wait for their dead letters");
                let now = now_ms(&app);
                if let Some(work) = &mut app.groups.coordinator.lock(&cell, now).work {
                    work.pause(now);
                }
            }
        }));
    }
    if !unsaved.is_empty() {
        drop(submit(app, cell, unsaved, Vec::new()));
    }
}

async fn bury_exhausted(app: &App, cell: &Arc<Cell>) -> Result<(), Problem> {
    let begun: Vec<(PartitionId, ChangeId, Vec<(Offset, u32)>)> = {
        let mut core = app.groups.coordinator.lock(cell, now_ms(app));
        let Some(work) = &mut core.work else { return Ok(()) };
        let exhausted = work.exhausted(BURIED_AT_ONCE);
        let begin = |(id, offsets): (PartitionId, Vec<Offset>)| {
            let begun = work.queues.get_mut(&id)?.begin_dead_letter(None, offsets);
            Some((id, begun.change?, begun.taken))
        };
        exhausted.into_iter().filter_map(begin).collect()
    };
    for (id, change, taken) in begun {
        bury(app, cell, id, change, taken, |_, deliveries| {
            delivered_too_often(deliveries)
        })
        .await?;
    }
    Ok(())
}

/// Writes dead letters of records that have begun to settle, and settles them. On an error they are what they were.
async fn bury(
    app: &App,
    cell: &Arc<Cell>,
    id: PartitionId,
    change: ChangeId,
    taken: Vec<(Offset, u32)>,
    reason: impl Fn(Offset, u32) -> String + Send + 'static,
) -> Result<(), Problem> {
    let undo = |offsets: Option<Vec<Offset>>| {
        let mut core = app.groups.coordinator.lock(cell, now_ms(app));
        let queue = core.work.as_mut().and_then(|work| work.queues.get_mut(&id));
        queue.is_some_and(|queue| match offsets {
            Some(offsets) => queue.undo_some(change, offsets),
            None => {
                queue.undo(change);
                false
            }
        })
    };
    let name = {
        let core = app.groups.coordinator.lock(cell, now_ms(app));
        let topic = app.log.topic_by_id(id.topic);
        topic
            .zip(core.work.as_ref())
            .map(|(topic, work)| work.settings.dead_letter_topic_of(topic.name()))
    };
    let Some(name) = name else {
        undo(None);
        return Ok(());
    };
    let found = {
        let (app, group) = (app.clone(), Arc::clone(&cell.group));
        blocking(Blocking::Read, move || {
            let Some((topic, partition)) = find(&app.log, id) else {
                return Ok(None);
            };
            let is_new = app.log.topic(&name).is_none();
            let letters = store::dead_letter_topic(&app.log, &app.config.limits, &name)?;
            if is_new {
                app.groups.coordinator.topics_changed();
            }
            let origin = Origin {
                topic: topic.name(),
                partition: id.index,
                group: &group,
            };
            let found = store::read_letters(&app.log, &partition, origin, &taken, reason, WRITE_BYTES);
            Ok(Some((letters, found)))
        })
        .await
    };
    let (topic, found) = match found {
        Ok(Some(found)) => found,
        Ok(None) => {
            undo(None);
            return Ok(());
        }
        Err(problem) => {
            undo(None);
            return Err(problem);
        }
    };
    let unread = found.unread.len();
    if unread > 0 && !undo(Some(found.unread)) {
        return match found.error {
            Some(error) => Err(error.into()),
            None => Ok(()),
        };
    }
    let letters = found
        .letters
        .into_iter()
        .map(|letter| (Arc::clone(&topic), letter))
        .collect();
    write(app, cell, vec![(id, Some(change))], letters).await?;
    match found.error {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Settles what a member has leased. Returns what was not its (any more).
///
/// # Errors
/// 404 `unknown-member`; 404 `unknown-topic`, `unknown-partition`; what the log says: nobody knows then what was settled, and
/// the same settle may be sent again.
pub async fn settle(app: &App, group: &str, member: &str, settling: Settling) -> Result<Vec<Place>, Problem> {
    let coordinator = &app.groups.coordinator;
    let cell = coordinator
        .find(group)
        .ok_or_else(|| unknown_member(group, member))?;
    let mut ids: BTreeMap<(String, u32), PartitionId> = BTreeMap::new();
    let places = settling.accept.iter().chain(&settling.extend);
    let places = places.chain(settling.release.iter().map(|(place, _)| place));
    for place in places.chain(settling.reject.iter().map(|(place, _)| place)) {
        let key = (place.topic.clone(), place.partition);
        if !ids.contains_key(&key) {
            let topic = crate::catalog::find(&app.log, &place.topic)?;
            let partition = topic.partition(place.partition).ok_or_else(|| {
                Problem::new(
                    Code::UnknownPartition,
                    format!("{} has no partition {}", place.topic, place.partition),
                )
            })?;
            ids.insert(key, partition.id());
        }
    }
    let id_of = |place: &Place| ids[&(place.topic.clone(), place.partition)];
    let mut lost = Vec::new();
    let mut changes: Vec<(PartitionId, Option<ChangeId>)> = Vec::new();
    let mut rejected: Vec<(
        PartitionId,
        ChangeId,
        Vec<(Offset, u32)>,
        BTreeMap<Offset, String>,
    )> = Vec::new();
    {
        let now = now_ms(app);
        let mut core = coordinator.lock(&cell, now);
        core.ordered
            .touch(member, None, now)
            .map_err(|error| refused(error, group, member))?;
        let key = core
            .ordered
            .members
            .get(member)
            .map(|member| MemberKey(member.key()));
        let (Some(key), Some(work)) = (key, core.work.as_mut()) else {
            return Err(Problem::new(
                Code::GroupTypeMismatch,
                format!("the group {group} is ordered: commit, or acknowledge by a poll"),
            ));
        };
        let lease_ms = u64::from(work.settings.lease_ms);
        for (id, offsets, of_partition) in by_partition(settling.accept, |place| (place, ()), &id_of) {
            let Some(queue) = work.queues.get_mut(&id) else {
                lost.extend(of_partition.into_iter().map(|(place, ())| place));
                continue;
            };
            let begun = queue.begin_accept(key, offsets);
            changes.extend(begun.change.map(|change| (id, Some(change))));
            lost.extend(
                of_partition
                    .into_iter()
                    .map(|(place, ())| place)
                    .filter(|place| begun.lost.contains(&place.offset)),
            );
        }
        for (id, offsets, of_partition) in by_partition(settling.reject, |place| place, &id_of) {
            let Some(queue) = work.queues.get_mut(&id) else {
                lost.extend(of_partition.into_iter().map(|(place, _)| place));
                continue;
            };
            let begun = queue.begin_dead_letter(Some(key), offsets);
            let mut reasons = BTreeMap::new();
            for (place, reason) in of_partition {
                if begun.lost.contains(&place.offset) {
                    lost.push(place);
                } else {
                    reasons.insert(place.offset, reason);
                }
            }
            rejected.extend(begun.change.map(|change| (id, change, begun.taken, reasons)));
        }
        for (place, delay_ms) in settling.release {
            let id = id_of(&place);
            let queue = work.queues.get_mut(&id);
            match queue.map(|queue| queue.release(Moment(now), key, place.offset, delay_ms)) {
                Some(Released::Free | Released::Exhausted) => {
                    if !changes.iter().any(|(known, _)| *known == id) {
                        changes.push((id, None));
                    }
                }
                Some(Released::Lost) | None => lost.push(place),
            }
        }
        for place in settling.extend {
            let queue = work.queues.get_mut(&id_of(&place));
            if !queue.is_some_and(|queue| queue.extend(key, place.offset, Moment(now + lease_ms))) {
                lost.push(place);
            }
        }
        work.freed.notify_waiters();
    }
    // Begun all together, so that each goes its way whatever becomes of the others.
    let accepted = write(app, &cell, changes, Vec::new());
    let buried = async {
        for (id, change, taken, reasons) in rejected {
            let reason = move |offset: Offset, _| reasons.get(&offset).cloned().unwrap_or_default();
            bury(app, &cell, id, change, taken, reason).await?;
        }
        Ok::<(), Problem>(())
    };
    let (accepted, buried) = tokio::join!(accepted, buried);
    accepted.and(buried)?;
    attend(app, &cell);
    coordinator.look_sooner(Some(now_ms(app)));
    lost.sort_unstable();
    Ok(lost)
}

/// What a settle names, by partition, with the offsets in order and each once.
fn by_partition<T, V>(
    named: Vec<T>,
    parts: impl Fn(T) -> (Place, V),
    id_of: &impl Fn(&Place) -> PartitionId,
) -> Vec<(PartitionId, Vec<Offset>, Vec<(Place, V)>)> {
    let mut all: BTreeMap<PartitionId, Vec<(Place, V)>> = BTreeMap::new();
    for one in named {
        let (place, with) = parts(one);
        all.entry(id_of(&place)).or_default().push((place, with));
    }
    all.into_iter()
        .map(|(id, places)| {
            let mut offsets: Vec<Offset> = places.iter().map(|(place, _)| place.offset).collect();
            offsets.sort_unstable();
            offsets.dedup();
            (id, offsets, places)
        })
        .collect()
}
