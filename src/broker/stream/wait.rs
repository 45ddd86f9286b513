//! What a stream does between records: it yields to other tasks, waits for new records, and sends heartbeats.

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::reading::Reading;
use super::run::{Cut, HEARTBEAT, LINGER, PAGE_BYTES, SILENT_PAGES, Stream};
use super::{Event, Sink};

impl<S: Sink> Stream<S> {
    /// Between two pages: yields to other tasks, checks whether the server stops, and sends a heartbeat if one is due.
    pub(super) async fn breathe(&mut self) -> Result<(), Cut> {
        if self.is_to_stop() {
            return Err(Cut::Stopping);
        }
        if self.out.has_events() {
            self.silent_pages += 1;
            if !self.is_begun && self.silent_pages >= SILENT_PAGES {
                self.send().await;
            }
            if self.out.is_empty() && self.sent.elapsed() >= HEARTBEAT {
                self.alive();
            }
        }
        self.tell_progress();
        // If few of the records are wanted, they are sent before they fill a chunk.
        if !self.out.is_empty() && !self.out.is_document() && self.sent.elapsed() >= LINGER {
            self.send().await;
        }
        if self.unyielded_bytes >= PAGE_BYTES {
            self.unyielded_bytes = 0;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Whether the stream is live, and the server is stopping.
    pub(super) fn is_to_stop(&self) -> bool {
        self.request.is_live() && *self.stopping.borrow()
    }

    /// Sends what was written; then waits for records of lanes without a page, for new partitions, or until `due`.
    pub(super) async fn wait(
        &mut self,
        readings: &[Option<Reading>],
        due: Option<Instant>,
    ) -> Result<(), Cut> {
        if !self.is_begun || !self.out.is_empty() {
            self.send().await;
        }
        loop {
            let alarm = self.next_alarm(due);
            let waits = &mut self.waits;
            waits.resize_with(self.lanes.lanes.len(), || None);
            for (index, lane) in self.lanes.lanes.iter().enumerate() {
                let is_dry = readings.get(index).is_none_or(Option::is_none) && !lane.is_over();
                if !is_dry {
                    waits[index] = None;
                } else if waits[index]
                    .as_ref()
                    .is_none_or(|(offset, _)| *offset != lane.next)
                {
                    waits[index] = Some((lane.next, lane.partition.wait_for(lane.next)));
                }
            }
            let arrived = std::future::poll_fn(|context| {
                for (index, wait) in waits.iter_mut().enumerate() {
                    if let Some((_, wait)) = wait
                        && Pin::new(wait).poll(context).is_ready()
                    {
                        return Poll::Ready(index);
                    }
                }
                Poll::Pending
            });
            tokio::select! {
                index = arrived => {
                    let lane = &self.lanes.lanes[index];
                    let has_more = lane.partition.positions().end_offset > lane.next;
                    // Woken for another reason than records: the log is closing.
                    return if has_more || lane.partition.is_deleted() { Ok(()) } else { Err(Cut::Stopping) };
                }
                // An error means that the sender is gone, and with it the service: end as on a stop.
                changed = self.topics_changed.changed() => {
                    changed.map_err(|_| Cut::Stopping)?;
                    if self.lanes.known.is_some() {
                        return Ok(());
                    }
                }
                _ = self.stopping.wait_for(|stopping| *stopping) => return Err(Cut::Stopping),
                () = sleep_until(alarm) => {}
            }
            // Without this, a stream that waits years for a record to be due would keep the files of a deleted topic.
            if let Some(lane) = self
                .lanes
                .lanes
                .iter()
                .position(|lane| lane.partition.is_deleted())
            {
                return Err(self.deleted(lane));
            }
            let deadline = self.lanes.deadline();
            if deadline.is_some_and(|until| self.clock.now() >= until) {
                self.lanes.end_now();
                return Ok(());
            }
            if due.is_some_and(|due| Instant::now() >= due) {
                return Ok(());
            }
            if self.out.has_events() && self.sent.elapsed() >= HEARTBEAT {
                self.alive();
                self.send().await;
            }
        }
    }

    /// When to wake if nothing else happens; `None`: never.
    fn next_alarm(&self, due: Option<Instant>) -> Option<Instant> {
        let heartbeat = self.out.has_events().then(|| self.sent + HEARTBEAT);
        let until = self.lanes.deadline().map(|until| {
            let left_ms = until.get().saturating_sub(self.clock.now().get()).max(0);
            // The wall clock may be set, so it is read again from time to time.
            Instant::now() + Duration::from_millis(left_ms as u64).min(HEARTBEAT)
        });
        [heartbeat, until, due].into_iter().flatten().min()
    }

    fn alive(&mut self) {
        self.event(Event::Alive {
            has_moved: self.has_moved,
        });
    }
}

async fn sleep_until(alarm: Option<Instant>) {
    match alarm {
        Some(alarm) => tokio::time::sleep_until(alarm).await,
        None => std::future::pending().await,
    }
}
