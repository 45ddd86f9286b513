//! Finds an earlier run of a load, and decides whether to continue it.

use std::path::Path;

use anyhow::bail;

use super::Ack;
use super::Args;
use super::load::{self, Done, Load, LoadError, Source, State};
use crate::cli::api::Topic;
use crate::cli::client::Client;
use crate::cli::deliver::random_key;
use crate::cli::output::{note, records};

/// The saved state of a file's load.
pub(super) struct Memory {
    /// Where it is saved.
    pub(super) load: Load,
    /// The progress.
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
            Err(error) => {
                if !std::mem::replace(&mut self.troubled, true) {
                    say_unknown(&error);
                }
            }
        }
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
            say_unknown(&"neither XDG_STATE_HOME nor HOME is set");
            return Ok(None);
        };
        let (load, state) = match Load::open(&directory, &topic.id, &source.path) {
            Ok(opened) => opened,
            Err(busy @ LoadError::Busy(_)) => {
                bail!(
                    "{busy}: {name} into topic {}; wait for its end, or stop it and run this again",
                    args.topic
                )
            }
            Err(error) => {
                say_unknown(&error);
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
        if let Some(ack) = args.ack {
            options.push(format!(
                "--ack={}",
                if ack == Ack::Written { "written" } else { "durable" }
            ));
        }
        let fresh = State::new(
            random_key(),
            client.base(),
            &args.topic,
            source.clone(),
            options.clone(),
        );
        let mut state = match state {
            _ if args.restart => {
                if let Err(error) = load.forget() {
                    say_unknown(&error);
                    return Ok(None);
                }
                return Ok(Some(Self::new(load, fresh)));
            }
            Err(error) => bail!(
                "cannot tell how far an earlier load of {name} is: {error}; --restart forgets it and starts again"
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
                "a load of {into} was cut at line {line}, with {given}: give the same to go on with it, or --restart to \
                 begin anew"
            );
        }
        let has_changed = state.source != source;
        if has_changed && state.doubt().is_some() {
            bail!(
                "{name} has changed since its load into topic {} was cut: whether its lines from {line} on are stored, \
                 up to 8 MiB of them, is not known; {} before them are; --restart starts again",
                args.topic,
                records(state.done.records)
            );
        }
        note(format_args!(
            "going on with the load of {into} that was cut at line {line}{}",
            if has_changed {
                "; the file has changed since"
            } else {
                ""
            }
        ));
        state.source = source;
        Ok(Some(Self::new(load, state)))
    }
}

/// Warns that the progress of the load will not be known.
fn say_unknown(reason: &dyn std::fmt::Display) {
    note(format_args!(
        "cannot remember how far this load is ({reason}): if it is cut, it cannot go on where it was"
    ));
}
