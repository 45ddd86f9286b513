//! Commits the offsets of the records that `quipu consume --group` has printed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::cli::api::{Committed, group_route, patiently};
use crate::cli::client::{Client, Failure};
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
    printed: BTreeMap<Place, u64>,
    committed: BTreeMap<Place, u64>,
    due: Instant,
    /// Whether the user was told that commits fail.
    troubled: bool,
    /// Whether the user was warned that others commit for the group.
    warned: bool,
}

impl<'a> Commits<'a> {
    /// None are committed yet.
    pub(super) fn new(client: &'a Client, group: &'a str, follows: bool, interrupt: &'a Interrupt) -> Self {
        Self {
            client,
            group,
            follows,
            interrupt,
            printed: BTreeMap::new(),
            committed: BTreeMap::new(),
            due: Instant::now() + INTERVAL,
            troubled: false,
            warned: false,
        }
    }

    /// Remembers that everything before `next` was printed.
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
        self.look_for_others();
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
        let is_new = |(place, offset): &(&Place, &u64)| self.committed.get(*place) != Some(*offset);
        let new = self.printed.iter().filter(is_new);
        let row = |((topic, partition), offset): (&Place, &u64)| json!({"topic": topic, "partition": partition, "offset": offset});
        let offsets: Vec<Value> = new.map(row).collect();
        if !offsets.is_empty() {
            let body = json!({ "offsets": offsets });
            let route = group_route(self.group, &["offsets"]);
            self.client.send(&Method::PUT, &route, Some(&body))?;
            self.committed.clone_from(&self.printed);
        }
        Ok(())
    }

    /// Warns once if the group's offsets are not those committed here. This is only a hint, so failures are ignored.
    fn look_for_others(&mut self) {
        if self.warned || self.committed.is_empty() || self.committed == self.printed {
            return;
        }
        let Ok(found) = Committed::of(self.client, self.group) else {
            return;
        };
        let moved = found.offsets.iter().any(|row| {
            let own = self.committed.get(&(row.topic.clone(), row.partition));
            own.is_some_and(|own| *own != row.offset)
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
pub(super) fn check_no_members(client: &Client, group: &str, interrupt: &Interrupt) -> anyhow::Result<()> {
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
