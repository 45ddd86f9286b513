//! Opening, closing and crashing: each run of the machine or the process, and the comparison at its beginning.

use std::path::Path;
use std::sync::Arc;

use quipu_segments::sim::IoKind;
use quipu_segments::{AppendRequest, Log};

use super::{DIR, Driver, MOST_CALLS};
use crate::check::{self, Restart};
use crate::hook::hooked;

impl Driver {
    /// Opens the log, whatever happens meanwhile, and compares everything in it.
    pub(super) fn open(&mut self) {
        for attempt in 0.. {
            assert!(attempt < 20, "the log cannot be opened");
            let mut before = None;
            if self.plan.stop_at.is_none() && attempt < 3 {
                match self.rng.below(8) {
                    0 | 1 => self
                        .disk
                        .stop_at([20, 100, 400].map(|most| self.rng.between(1, most))[attempt]),
                    2 => self.plan_fault(),
                    3 if self.rng.chance(1, 2) => before = Some(self.flip_bits_of_an_opening()),
                    _ => {}
                }
            }
            let disk = hooked(self.disk.clone());
            let clock = Arc::new(self.clock.clone());
            match Log::open_with(
                Arc::new(disk.clone()),
                clock,
                Path::new(DIR),
                self.options.clone(),
            ) {
                Ok(log) if before.is_some() && !log.health().damage.is_empty() => {
                    // The damage is reported, so that an operator can act. Go back to the disk from before this start.
                    say!(self, "flipped bits are reported: {:?}", log.health().damage);
                    assert!(self.disk.flips_so_far() > 0, "{:?}", log.health().damage);
                    self.tally.reported += 1;
                    drop(log);
                    self.count_calls();
                    self.disk = before.expect("it was just there").after_kill();
                    continue;
                }
                Ok(log) if self.lost_keys(&log) => {
                    // Calls failed while the keys were read, and this is reported: this start does not count either.
                    say!(self, "keys are lost, and reported: {:?}", log.health().damage);
                    self.tally.reported += 1;
                }
                Ok(log) => {
                    self.disk.stop_flips();
                    self.hooked = Some(disk.clone());
                    if self.interleaved {
                        let (log, mut rng) = (log.clone(), self.rng.fork());
                        disk.0.before_journal_sync(move || {
                            if rng.chance(1, 3) {
                                // The log remembers an error.
                                let _result = log.sync_segments();
                            }
                            true
                        });
                    }
                    if self.plan.stop_at.is_none() {
                        self.disk.clear_faults();
                        self.disk.stop_at(MOST_CALLS);
                    }
                    // If the machine has stopped, there is nothing to check.
                    if !self.disk.is_off() {
                        say!(self, "opened after {:?}", self.restart);
                        match check::after_restart(&log, &mut self.model, self.restart) {
                            Ok(()) => {
                                self.log = Some(log);
                                return;
                            }
                            Err(error) => assert!(self.disk.is_off(), "after {:?}: {error}", self.restart),
                        }
                    }
                }
                Err(error) => {
                    say!(self, "opening fails: {error}");
                    let troubled =
                        self.disk.is_off() || self.disk.failed_calls() > 0 || self.disk.flips_so_far() > 0;
                    self.tally.reported += u64::from(self.disk.flips_so_far() > 0);
                    self.disk.stop_flips();
                    assert!(
                        troubled || self.full && self.model.last_topic_id.is_none(),
                        "the log cannot be opened: {error}"
                    );
                    if !self.disk.is_off() && self.disk.failed_calls() == 0 {
                        self.disk.set_capacity(None);
                        self.full = false;
                    }
                }
            }
            self.drop_log();
            self.next_disk();
        }
    }

    /// Whether keys could not be read because calls failed, and nothing else is wrong.
    fn lost_keys(&self, log: &Log) -> bool {
        let damage = log.health().damage;
        !damage.is_empty()
            && self.disk.failed_calls() > 0
            && damage.iter().all(|what| what.starts_with("idempotency keys"))
    }

    /// Ends every handle of the log.
    pub(super) fn drop_log(&mut self) {
        self.log = None;
        if let Some(disk) = self.hooked.take() {
            disk.0.unhook();
        }
    }

    fn next_disk(&mut self) {
        say!(self, "this run of the machine or the process ends");
        self.count_calls();
        assert!(self.disk.calls() < MOST_CALLS, "the log goes round in circles");
        // Only after a failed sync may a kernel drop pages that reads have shown.
        let rows = self.disk.failures();
        let trouble = rows.iter().any(|failed| failed.kind == IoKind::Sync);
        let power_cut = self.rng.chance(2, 3);
        self.disk = if power_cut {
            self.disk.after_power_cut()
        } else {
            self.disk.after_kill()
        };
        self.restart = match (power_cut, self.restart) {
            (true, _) | (_, Restart::PowerCut) => Restart::PowerCut,
            (_, Restart::KillAfterFailedSync) => Restart::KillAfterFailedSync,
            _ if trouble => Restart::KillAfterFailedSync,
            _ => Restart::Kill,
        };
        if power_cut {
            self.tally.power_cuts += 1;
        } else {
            self.tally.kills += 1;
        }
        say!(self, "{:?}", self.restart);
    }

    pub(super) fn crash(&mut self) {
        // Answers that were given before the stop count.
        self.take_answers(false);
        for waiting in self.waiting.drain(..) {
            self.tally.unknown += 1;
            drop(waiting);
        }
        self.restart = Restart::Kill;
        self.next_disk();
        self.drop_log();
        self.open();
    }

    pub(super) fn close(&mut self) {
        say!(self, "close");
        let log = self.log();
        let since = self.failures_so_far();
        let result = log.close();
        self.take_answers(result.is_ok());
        match result {
            Ok(()) => {
                assert!(self.waiting.is_empty(), "close answers what is queued");
                // A closed log takes no appends.
                assert!(log.append(AppendRequest::default()).is_err());
                drop(log);
                self.drop_log();
                self.tally.closes += 1;
                if self.disk.failed_calls() > 0 || self.disk.is_off() {
                    self.restart = Restart::Kill;
                    self.next_disk();
                } else if self.rng.chance(1, 2) {
                    // A log that was closed properly survives any power cut.
                    self.count_calls();
                    self.disk = self.disk.after_power_cut();
                    self.tally.power_cuts += 1;
                    self.restart = Restart::Close;
                } else {
                    self.disk.clear_faults();
                    self.restart = Restart::Close;
                }
                self.open();
            }
            Err(error) => {
                self.check_failure("close", &error, since);
                drop(log);
                self.crash();
            }
        }
    }
}
