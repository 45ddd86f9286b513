//! Commits the offsets of the records that `quipu consume --group` has printed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::cli::api::{Committed, group_route, patiently};
use crate::cli::client::{Client, Failure};
use crate::cli::deliver::random_key;
use crate::cli::output::{note, say_once};
use crate::cli::signal::Interrupt;

/// How often offsets are committed.
const INTERVAL: Duration = Duration::from_secs(1);

/// A partition of a topic.
pub(super) type Place = (String, u32);

/// The offsets of a group.
pub(super) struct Commits<'a> {
    client: &'a Client,
    group: &'a str,
    /// Whether the command follows, without an end: a failed commit is then tried again with the next one.
    follows: bool,
    interrupt: &'a Interrupt,
    /// The metadata of this run's commits, which no other run has.
    run: String,
    printed: BTreeMap<Place, u64>,
    /// The group's offsets as this run has found or committed them, with their metadata.
    committed: BTreeMap<Place, (u64, Option<String>)>,
    due: Instant,
    /// Whether the user was told that commits fail.
    troubled: bool,
    /// Whether the user was warned that others commit for the group.
    warned: bool,
}

impl<'a> Commits<'a> {
    /// Asks for the group's offsets.
    /// Errors: The server's; the group has live members.
    pub(super) fn begin(
        client: &'a Client,
        group: &'a str,
        follows: bool,
        interrupt: &'a Interrupt,
    ) -> anyhow::Result<Self> {
        check_no_members(client, group, interrupt)?;
        let found = patiently(interrupt, true, || Committed::of(client, group))?;
        let rows = found.offsets.into_iter();
        Ok(Self {
            client,
            group,
            follows,
            interrupt,
            run: random_key(),
            printed: BTreeMap::new(),
            committed: rows
                .map(|row| ((row.topic, row.partition), (row.offset, row.metadata)))
                .collect(),
            due: Instant::now() + INTERVAL,
            troubled: false,
            warned: false,
        })
    }

    /// The offset that the group has committed there.
    pub(super) fn committed(&self, place: &Place) -> Option<u64> {
        self.committed.get(place).map(|(offset, _)| *offset)
    }

    /// Remembers that everything before `next` was printed, or is not to be printed.
    pub(super) fn printed(&mut self, place: Place, next: u64) {
        self.printed.insert(place, next);
    }

    /// Commits if it is time to. While following, a server that is away or full is asked again a second later.
    /// Errors: A [`Failure`] that does not pass.
    pub(super) fn commit_if_due(&mut self) -> anyhow::Result<()> {
        if Instant::now() < self.due {
            return Ok(());
        }
        self.due = Instant::now() + INTERVAL;
        if !self.follows {
            return self.commit();
        }
        match self.try_commit() {
            Ok(()) => {
                self.troubled = false;
                Ok(())
            }
            Err(failure) if failure.may_pass() => {
                let text = format!("cannot commit the offsets of group {}: {failure}", self.group);
                say_once(&mut self.troubled, format_args!("{text}; trying again"));
                Ok(())
            }
            Err(failure) => Err(self.explain(&failure)),
        }
    }

    /// Commits what was printed, waiting for a server that restarts just then.
    /// Errors: It stayed away, or refused.
    pub(super) fn commit(&mut self) -> anyhow::Result<()> {
        let interrupt = self.interrupt;
        patiently(interrupt, true, || self.try_commit()).map_err(|failure| self.explain(&failure))
    }

    fn try_commit(&mut self) -> Result<(), Failure> {
        let is_new = |(place, offset): &(&Place, &u64)| self.committed(place) != Some(**offset);
        let new = self.printed.iter().filter(is_new);
        let new: Vec<(Place, u64)> = new.map(|(place, offset)| (place.clone(), *offset)).collect();
        if new.is_empty() {
            return Ok(());
        }
        self.look_for_others();
        let row = |((topic, partition), offset): &(Place, u64)| json!({"topic": topic, "partition": partition, "offset": offset, "metadata": self.run});
        let body = json!({"offsets": new.iter().map(row).collect::<Vec<Value>>()});
        let route = group_route(self.group, &["offsets"]);
        self.client.send(&Method::PUT, &route, Some(&body))?;
        let rows = new.into_iter();
        self.committed
            .extend(rows.map(|(place, offset)| (place, (offset, Some(self.run.clone())))));
        Ok(())
    }

    /// Warns once if the group's offsets are not those found or committed here. This is only a hint, so failures are ignored.
    fn look_for_others(&mut self) {
        if self.warned || self.committed.is_empty() {
            return;
        }
        let Ok(found) = Committed::of(self.client, self.group) else {
            return;
        };
        let moved = found.offsets.into_iter().any(|row| {
            let Some((offset, metadata)) = self.committed.get(&(row.topic, row.partition)) else {
                return false;
            };
            match row.metadata.as_ref() == Some(&self.run) {
                // A commit of this run whose answer was lost only goes forward; a reset keeps the metadata.
                true => row.offset < *offset,
                false => (row.offset, &row.metadata) != (*offset, metadata),
            }
        });
        if moved {
            self.warned = true;
            note(format_args!(
                "warning: somebody else commits offsets of group {} too; each `quipu consume --group` prints every record, \
                 as it does not share them with others (members do: POST /v1/groups/{}/members/NAME/poll)",
                self.group, self.group
            ));
        }
    }

    fn explain(&self, failure: &Failure) -> anyhow::Error {
        match failure.code() {
            Some("group-active") => has_members(self.group),
            _ => anyhow::anyhow!("cannot commit the offsets of group {}: {failure}", self.group),
        }
    }
}

/// Refuses to print records of a group whose members commit for it, before the first is printed.
fn check_no_members(client: &Client, group: &str, interrupt: &Interrupt) -> anyhow::Result<()> {
    match patiently(interrupt, true, || client.get::<Value>(&group_route(group, &[]))) {
        Ok(answer) => match answer.get("members").and_then(Value::as_array) {
            Some(members) if !members.is_empty() => Err(has_members(group)),
            _ => Ok(()),
        },
        Err(failure) if failure.code() == Some("unknown-group") => Ok(()),
        Err(failure) => Err(failure.into()),
    }
}

/// What to do about members that commit for the group.
fn has_members(group: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "group-active: group {group} has live members, and they alone commit for it: choose another --group, stop the \
         members (quipu group describe {group} shows them), or join them (POST /v1/groups/{group}/members/NAME/poll)"
    )
}
