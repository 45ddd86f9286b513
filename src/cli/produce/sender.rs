//! Sends an input request by request, saves the progress, and explains an early end.

use std::fmt::Display;
use std::time::SystemTime;

use anyhow::bail;
use indicatif::ProgressBar;

use super::cut::{Cutter, Next, Request, end_of_lines};
use super::load::Done;
use super::memory::Memory;
use super::{Produced, Stored};
use crate::cli::client::Failure;
use crate::cli::deliver::{Delivery, Undelivered, ago};
use crate::cli::input::{BadInput, Input, NOT_WHOLE};
use crate::cli::output::{brief_ms, millis, records};

/// Advice after an early end, if the progress is saved.
const AGAIN: &str = "; run the same command again to continue there";
/// The same after a bad line.
const CORRECT: &str = "; correct the line, then run the same command again to continue there";

/// The state of one run.
pub(super) struct Sender<'a> {
    /// Sends each request until it is answered.
    pub(super) delivery: Delivery<'a>,
    pub(super) cutter: Cutter,
    pub(super) topic: &'a str,
    /// The input's name.
    pub(super) name: String,
    /// Whether the user has chosen the key.
    pub(super) is_named: bool,
    /// The acknowledged part, including earlier runs.
    pub(super) done: Done,
    /// Since when this run's first request, an earlier run's last, may have stored something.
    pub(super) doubt: Option<SystemTime>,
    pub(super) memory: Option<Memory>,
    pub(super) stored: Stored,
}

impl Sender<'_> {
    /// Sends the whole input.
    /// Errors: Why it ended early, and what to do.
    pub(super) fn run(&mut self, input: &Input, bar: &ProgressBar) -> anyhow::Result<()> {
        self.pass_over(input, bar)?;
        loop {
            match self.cutter.next(&input.blocks, self.delivery.interrupt) {
                Next::Request(request) => {
                    self.send(&request)?;
                    let read = input.file_bytes.map(|_| request.position);
                    bar.set_position(read.unwrap_or(self.done.bytes));
                    bar.set_message(records(self.done.records));
                }
                Next::Bad(BadInput { line, reason }) => {
                    self.remember(self.doubt);
                    return Err(self.bad_line(line, &reason));
                }
                Next::End => {
                    if let Some(memory) = &mut self.memory {
                        memory.finish();
                    }
                    return Ok(());
                }
                // An idle pipe ends only here, and all of its whole lines are stored.
                Next::Interrupted if input.file_bytes.is_none() && self.cutter.is_idle(&input.blocks) => {
                    if input.is_within_a_line() {
                        return Err(self.bad_line(self.done.lines + 1, &NOT_WHOLE));
                    }
                    return Ok(());
                }
                Next::Interrupted => {
                    self.remember(self.doubt);
                    return Err(self.interrupted());
                }
            }
        }
    }

    /// Skips the lines that earlier runs have stored; they must be unchanged.
    fn pass_over(&mut self, input: &Input, bar: &ProgressBar) -> anyhow::Result<()> {
        let lines = self.done.lines;
        if lines == 0 {
            return Ok(());
        }
        bar.set_message(format!("passing over {}", records(self.done.records)));
        let mut found = Done::default();
        let (blocks, interrupt) = (&input.blocks, self.delivery.interrupt);
        let look = |bytes: &[u8]| found.look(bytes);
        let is_there = self.cutter.skip(lines, blocks, interrupt, look);
        if self.delivery.interrupt.get().is_some() {
            return Err(self.interrupted());
        }
        if !is_there || (found.crc, found.bytes) != (self.done.crc, self.done.bytes) {
            let these = match lines {
                1 => format!("line of {} is", self.name),
                lines => format!("{lines} lines of {} are", self.name),
            };
            let topic = self.topic;
            bail!(
                "the first {these} not what an earlier run stored in topic {topic}; --restart starts again"
            );
        }
        Ok(())
    }

    fn interrupted(&self) -> anyhow::Error {
        let (line, name, stored, again) = (self.done.lines + 1, &self.name, self.stored(), self.again(AGAIN));
        anyhow::anyhow!("interrupted before line {line} of {name}; {stored}{again}")
    }

    fn bad_line(&self, line: u64, reason: &dyn Display) -> anyhow::Error {
        let (name, stored, again) = (&self.name, self.stored(), self.again(CORRECT));
        anyhow::anyhow!("line {line} of {name}: {reason}; {stored}{again}")
    }

    fn send(&mut self, request: &Request) -> anyhow::Result<()> {
        let doubt = self.doubt.take();
        if let Some(since) = doubt
            && self.delivery.is_late(since, SystemTime::now())
        {
            return Err(self.late(request, since));
        }
        self.remember(Some(doubt.unwrap_or_else(SystemTime::now)));
        let sent = SystemTime::now();
        let result = self.delivery.send(self.done.requests + 1, &request.bytes, doubt);
        // A missing answer may mean that everything was stored.
        let result = result.and_then(|answer| {
            let produced = self.delivery.client.parse::<Produced>(&answer.body);
            let doubt = Some(doubt.unwrap_or(sent));
            produced.map_err(|failure| Undelivered {
                failure,
                doubt,
                is_late: false,
            })
        });
        match result {
            Ok(produced) => {
                self.done.add(&request.bytes, request.lines, produced.records);
                self.done.requests += 1;
                self.stored.add(&produced);
                Ok(())
            }
            Err(undelivered) => Err(self.stop(request, &undelivered)),
        }
    }

    /// Saves the progress after a permanent failure, and explains it for the input.
    fn stop(&mut self, request: &Request, undelivered: &Undelivered) -> anyhow::Error {
        let Undelivered { failure, doubt, .. } = undelivered;
        let (first, last) = (request.first_line, request.last_line());
        if let Failure::Problem(problem) = failure
            && let Some(line @ 1..) = problem.number("line")
        {
            // The lines before it are stored, and none after.
            let good = &request.bytes[..end_of_lines(&request.bytes, line - 1)];
            let lines = good.split(|byte| *byte == b'\n');
            let found = lines.filter(|line| !line.trim_ascii().is_empty()).count();
            if problem.number("accepted") == Some(found as u64) {
                self.done.add(good, line - 1, found as u64);
                self.done.requests += 1;
                self.remember(None);
                return self.bad_line(first + line - 1, problem);
            }
        }
        self.remember(*doubt);
        let (name, stored) = (&self.name, self.stored());
        if failure.code() == Some("idempotency-key-reused") {
            let what = match self.is_named {
                true => "the key names other records or options: choose another --idempotency-key".to_owned(),
                false => format!(
                    "lines {first}-{last} of {name} are not what was sent before; --restart starts again"
                ),
            };
            return anyhow::anyhow!("{failure}; {what}; {stored}");
        }
        match (failure, doubt) {
            (_, Some(since)) if undelivered.is_late => self.late(request, *since),
            (Failure::Problem(problem), _) if problem.outcome() == Some("partial") => {
                let accepted = self.done.records + problem.number("accepted").unwrap_or(0);
                let again = self.again(AGAIN);
                anyhow::anyhow!("{problem}; {}{again}", stored_records(accepted))
            }
            (_, Some(_)) => {
                let within = |window| format!(" within {}", brief_ms(millis(window)));
                let within = self.delivery.window.map(within).unwrap_or_default();
                let again = match (self.is_kept(), self.is_named) {
                    (true, _) => format!(
                        "; run the same command again{within}: it continues there and stores nothing twice"
                    ),
                    (_, true) => format!("; the same input under the same key{within} stores nothing twice"),
                    _ => String::new(),
                };
                anyhow::anyhow!(
                    "{failure}; lines {first}-{last} of {name} may or may not be stored, {stored} of the lines before{again}"
                )
            }
            (Failure::NotSent { .. }, None) if self.done.records == 0 => anyhow::anyhow!("{failure}"),
            (_, None) => {
                let again = self.again(AGAIN);
                anyhow::anyhow!("{failure}; {stored}, continue with line {first} of {name}{again}")
            }
        }
    }

    /// What to do about a request whose key may be forgotten.
    fn late(&self, request: &Request, since: SystemTime) -> anyhow::Error {
        let (first, last, name, topic) = (request.first_line, request.last_line(), &self.name, self.topic);
        let window = millis(self.delivery.window.unwrap_or_default());
        let state = self.memory.as_ref().map_or_else(String::new, |memory| {
            format!(
                "; this message comes again until {} is removed, or --restart loads all of it again",
                memory.load.path.display()
            )
        });
        anyhow::anyhow!(
            "lines {first}-{last} of {name} may or may not be stored: they were first sent {} ago, topic {topic} \
             recognizes a repeated request for {} (dedupe_window_ms), and sending them now could store them twice; {} of the lines \
             before; look for them with quipu consume {topic}, then load the lines from {first} on, or from {} if they \
             are there, from a pipe (tail -n +LINE | quipu produce {topic}){state}",
            ago(since),
            brief_ms(window),
            self.stored(),
            last + 1,
        )
    }

    fn stored(&self) -> String {
        stored_records(self.done.records)
    }

    /// Whether the next run will know the progress of this one.
    fn is_kept(&self) -> bool {
        self.memory.as_ref().is_some_and(|memory| !memory.troubled)
    }

    /// `text`, if this load can be continued.
    fn again<'t>(&self, text: &'t str) -> &'t str {
        if self.is_kept() { text } else { "" }
    }

    /// Saves the progress, and since when the next request may have stored something.
    fn remember(&mut self, doubt: Option<SystemTime>) {
        let Some(memory) = &mut self.memory else {
            return;
        };
        memory.state.done = self.done;
        memory.state.set_doubt(doubt);
        memory.keep();
    }
}

fn stored_records(number: u64) -> String {
    match number {
        1 => "1 record was stored".to_owned(),
        number => format!("{number} records were stored"),
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::client::{Client, Route};
    use crate::cli::produce::load::{Load, Source, State};
    use crate::cli::shape::Shape;
    use crate::cli::signal::{Interrupt, Stop};

    use super::*;

    #[test]
    fn a_request_in_doubt_stays_so_when_the_next_run_is_stopped_before_it() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "{}\n{}\n").unwrap();
        let source = Source::of(&path).unwrap();
        let (load, _) = Load::open(dir.path(), "d-1", &source.path).unwrap();
        let mut state = State::new("k".to_owned(), "s", "t", source.clone(), Vec::new());
        state.set_doubt(Some(SystemTime::UNIX_EPOCH));
        let client = Client::new("127.0.0.1:1", None).unwrap();
        let interrupt = Interrupt::default();
        interrupt.set(Stop::Asked);
        let input = Input::open(Some(&path), Shape::default(), &interrupt).unwrap();
        let mut sender = Sender {
            delivery: Delivery::new(&client, Route::new(&["t"]), "k".to_owned(), None, &interrupt),
            cutter: Cutter::new(false),
            topic: "t",
            name: "f".to_owned(),
            is_named: false,
            done: Done::default(),
            doubt: state.doubt(),
            memory: Some(Memory::new(load, state)),
            stored: Stored::default(),
        };
        let stopped = sender.run(&input, &ProgressBar::hidden()).unwrap_err();
        let text = stopped.to_string();
        assert!(text.starts_with("interrupted before line 1 of f;"), "{text}");
        drop(sender);
        let (_load, state) = Load::open(dir.path(), "d-1", &source.path).unwrap();
        assert_eq!(state.unwrap().unwrap().doubt(), Some(SystemTime::UNIX_EPOCH));
    }
}
