//! Finds an earlier run of a load, and decides whether to continue it.

use std::path::Path;

use anyhow::bail;

use super::Args;
use super::load::{self, Busy, Done, Load, Source, State};
use crate::cli::api::Topic;
use crate::cli::client::Client;
use crate::cli::deliver::random_key;
use crate::cli::output::{note, records, say_once};

/// The saved state of a file's load.
pub(super) struct Memory {
    pub(super) load: Load,
    pub(super) state: State,
    /// Whether the user knows that it cannot be saved.
    pub(super) troubled: bool,
}

impl Memory {
    pub(super) fn new(load: Load, state: State) -> Self {
        Self {
            load,
            state,
            troubled: false,
        }
    }

    /// Saves `state`, or removes it if nothing is left to save. A failed save is retried the next time: an older saved
    /// state does no harm, but it must not outlive the load.
    pub(super) fn keep(&mut self) {
        let result = if self.state.done == Done::default() && self.state.doubt().is_none() {
            self.load.forget()
        } else {
            self.load.save(&self.state)
        };
        match result {
            Ok(()) => self.troubled = false,
            Err(error) => say_once(&mut self.troubled, unknown(&error)),
        }
    }

    /// Removes the state: the load is done.
    pub(super) fn finish(&mut self) {
        self.state.done = Done::default();
        self.state.set_doubt(None);
        self.keep();
    }

    /// Finds the saved state of the load of `file`; none, with a note, if it cannot be saved.
    pub(super) fn open(
        args: &Args,
        client: &Client,
        topic: &Topic,
        file: &Path,
    ) -> anyhow::Result<Option<Self>> {
        let (name, source) = (file.display(), Source::of(file)?);
        let Some(directory) = load::directory() else {
            note(unknown(&"neither XDG_STATE_HOME nor HOME is set"));
            return Ok(None);
        };
        let (load, state) = match Load::open(&directory, &topic.id, &source.path) {
            Ok(opened) => opened,
            Err(busy) if busy.is::<Busy>() => {
                let topic = &args.topic;
                bail!("{busy}: {name} into topic {topic}; wait for its end, or stop it and run this again")
            }
            Err(error) => {
                note(unknown(&error));
                return Ok(None);
            }
        };
        let mut options = Vec::new();
        if args.raw {
            options.push("--raw".to_owned());
        }
        if let Some(pointer) = &args.key_field {
            options.push(format!("--key-field={pointer}"));
        }
        options.extend(args.ack.iter().map(|ack| format!("--ack={ack}")));
        let (server, source_now, options_now) = (client.base(), source.clone(), options.clone());
        let fresh = State::new(random_key(), server, &args.topic, source_now, options_now);
        let mut state = match state {
            _ if args.restart => {
                if let Err(error) = load.forget() {
                    note(unknown(&error));
                    return Ok(None);
                }
                return Ok(Some(Self::new(load, fresh)));
            }
            Err(error) => bail!(
                "the saved progress of an earlier load of {name} cannot be read: {error:#}; --restart forgets it and starts again"
            ),
            Ok(None) => return Ok(Some(Self::new(load, fresh))),
            Ok(Some(state)) => state,
        };
        let (into, line) = (format!("{name} into topic {}", args.topic), state.done.lines + 1);
        if state.options != options {
            let given = match state.options.as_slice() {
                [] => "no such options".to_owned(),
                options => options.join(" "),
            };
            bail!(
                "an earlier load of {into} stopped at line {line}, with {given}: give the same options to continue it, or \
                 --restart to start again"
            );
        }
        let has_changed = state.source != source;
        if has_changed && state.doubt().is_some() {
            bail!(
                "{name} has changed since its load into topic {} stopped: whether its lines from {line} on are stored, \
                 up to 8 MiB of them, is not known; {} before them are; --restart starts again",
                args.topic,
                records(state.done.records)
            );
        }
        let changed = match has_changed {
            true => "; the file has changed since",
            false => "",
        };
        note(format_args!(
            "continuing the load of {into}, which stopped at line {line}{changed}"
        ));
        state.source = source;
        Ok(Some(Self::new(load, state)))
    }
}

/// The warning that the progress of the load will not be known.
fn unknown(reason: &dyn std::fmt::Display) -> String {
    format!(
        "cannot save the progress of this load ({reason:#}): if it is interrupted, it cannot be continued"
    )
}
