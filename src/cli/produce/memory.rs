//! Whether a load was begun before, and whether it may go on where it was.

use std::path::Path;

use anyhow::bail;

use super::Ack;
use super::Args;
use super::load::{self, Load, LoadError, Source, State};
use crate::cli::api::Topic;
use crate::cli::client::Client;
use crate::cli::deliver::random_key;
use crate::cli::output::{note, records};

/// What of a file's load is kept outside of the process.
pub(super) struct Memory {
    /// Where it is kept.
    pub(super) load: Load,
    /// How far it is.
    pub(super) state: State,
}

impl Memory {
    /// Finds out whether the load of `file` was begun before; none, with a note, where that cannot be remembered.
    pub(super) fn open(
        args: &Args,
        client: &Client,
        topic: &Topic,
        file: &Path,
    ) -> anyhow::Result<Option<Self>> {
        let (name, source) = (file.display(), Source::of(file)?);
        let unknown = |reason: &dyn std::fmt::Display| {
            note(format_args!(
                "cannot remember how far this load is ({reason}): if it is cut, it cannot go on where it was"
            ));
        };
        let Some(directory) = load::directory() else {
            unknown(&"neither XDG_STATE_HOME nor HOME is set");
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
                unknown(&error);
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
                    unknown(&error);
                    return Ok(None);
                }
                return Ok(Some(Self { load, state: fresh }));
            }
            Err(error) => bail!(
                "cannot tell how far an earlier load of {name} is: {error}; --restart forgets it and begins anew"
            ),
            Ok(None) => return Ok(Some(Self { load, state: fresh })),
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
                 up to 8 MiB of them, is not known; {} before them are; --restart begins anew",
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
        Ok(Some(Self { load, state }))
    }
}
