//! Groups: read from a server, as a line of the file, and made on another server.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, bail};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::cli::api::{self, Committed, group_route, patiently};
use crate::cli::client::{Client, Failure};
use crate::cli::output::note;
use crate::cli::signal::Interrupt;

/// The member that makes a group, and leaves at once. An import that is run again takes over what an earlier one left behind.
const MEMBER: &str = "quipu-import";
/// How long it is there if the import ends before it has left.
const SESSION: Duration = Duration::from_secs(10);
/// The most topics of one join.
const JOIN_TOPICS: usize = 1000;
/// The most dead letters of one answer, each of which costs the server a look at all of them.
const PAGE: usize = 10_000;

/// A group, as its line has it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Group {
    pub(super) group: String,
    /// `ordered`, `shared` or `classic`. An earlier version wrote offsets alone.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    /// As a join takes them; null is the default.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    settings: Map<String, Value>,
    /// What it has subscribed to: topics of the file, and patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    topics: Vec<String>,
    /// Its dead letters that wait.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) dead_letters: Vec<Letter>,
    pub(super) offsets: Vec<Offset>,
}

/// A committed offset.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Offset {
    pub(super) topic: String,
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) metadata: Option<String>,
}

/// A dead letter: where it lies, and where its record was first.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Letter {
    #[serde(rename = "dead_letter_topic")]
    pub(super) topic: String,
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) origin: Origin,
}

/// Where the record of a dead letter was first.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Origin {
    pub(super) topic: String,
    pub(super) partition: u32,
    pub(super) offset: u64,
}

/// A group that is to be written.
#[derive(Debug)]
pub(super) struct Exported {
    pub(super) line: Group,
    /// The topics of the file that it reads, and that its dead letters come from: its line follows them.
    pub(super) needs: BTreeSet<String>,
}

impl Exported {
    /// Reads a group; `None` if it is not there, or has nothing in the `chosen` topics.
    pub(super) fn read(
        client: &Client,
        group: &str,
        chosen: &BTreeSet<&str>,
        has_all: bool,
    ) -> Result<Option<Self>, Failure> {
        let Some(about) = About::find(client, group)? else {
            return Ok(None);
        };
        // Before the dead letters: the record of one that is added meanwhile counts as unsettled, and is given out again.
        let mut offsets = Committed::of(client, group)?.offsets;
        offsets.retain(|row| chosen.contains(&*row.topic));
        let mut letters = match about.kind == "shared" {
            true => letters(client, group)?,
            false => Vec::new(),
        };
        let read: BTreeSet<String> = read_topics(client, group)?;
        let mut topics = about.topics.unwrap_or_else(|| read.iter().cloned().collect());
        topics.retain(|topic| is_pattern(topic) || chosen.contains(&**topic));
        let mut needs = read;
        needs.retain(|topic| chosen.contains(&**topic));
        // A pattern may not have brought a topic yet.
        let has_patterns = has_all && !topics.is_empty();
        if needs.is_empty() && !has_patterns {
            return Ok(None);
        }
        let count = letters.len();
        letters.retain(|letter| chosen.contains(&*letter.topic) && chosen.contains(&*letter.origin.topic));
        if letters.len() < count {
            let left = count - letters.len();
            note(format_args!(
                "{left} dead letters of the group {group} wait in topics, or come from topics, that are not exported"
            ));
        }
        needs.extend(letters.iter().map(|letter| letter.origin.topic.clone()));
        let offsets = offsets.into_iter().map(|row| Offset {
            topic: row.topic,
            partition: row.partition,
            offset: row.offset,
            metadata: row.metadata,
        });
        let line = Group {
            group: group.to_owned(),
            kind: Some(about.kind),
            settings: about.settings,
            topics,
            dead_letters: letters,
            offsets: offsets.collect(),
        };
        Ok(Some(Self { line, needs }))
    }

    /// The topics in which its dead letters wait: they follow its line.
    pub(super) fn mailboxes(&self) -> BTreeSet<&str> {
        let letters = self.line.dead_letters.iter();
        letters.map(|letter| &*letter.topic).collect()
    }
}

/// A part of the file.
#[derive(Debug)]
pub(super) enum Part<'a> {
    Topic(&'a str),
    Group(&'a Exported),
}

/// The order in which topics and groups are written: a group behind the topics that it reads, and before those in which its
/// dead letters wait, as far as groups do not read each other's dead letters in a circle.
pub(super) fn in_order<'a>(topics: &'a [String], groups: &'a [Exported]) -> Vec<Part<'a>> {
    let needs = |group: &'a Exported| group.needs.iter().map(String::as_str);
    let mut topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let mut groups: Vec<&Exported> = groups.iter().collect();
    let mut written: BTreeSet<&str> = BTreeSet::new();
    let mut parts = Vec::with_capacity(topics.len() + groups.len());
    loop {
        groups.retain(|group| {
            let is_next = needs(group).all(|topic| written.contains(topic));
            if is_next {
                parts.push(Part::Group(group));
            }
            !is_next
        });
        let mailboxes: BTreeSet<&str> = groups
            .iter()
            .flat_map(|group| {
                group
                    .mailboxes()
                    .into_iter()
                    .map(move |mailbox| (*group, mailbox))
            })
            // A group may read its own dead letters; that topic need not wait for itself.
            .filter(|(group, mailbox)| {
                needs(group).any(|topic| topic != *mailbox && !written.contains(topic))
            })
            .map(|(_, mailbox)| mailbox)
            .collect();
        if topics.is_empty() {
            return parts;
        }
        let free = topics.iter().position(|topic| !mailboxes.contains(topic));
        let next = topics.remove(free.unwrap_or(0));
        written.insert(next);
        parts.push(Part::Topic(next));
    }
}

/// A group as `GET /v1/groups/{group}` describes it.
#[derive(Debug, Deserialize)]
struct About {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    settings: Map<String, Value>,
    /// A server of an earlier version does not tell.
    topics: Option<Vec<String>>,
    #[serde(default)]
    members: Vec<Member>,
}

#[derive(Debug, Deserialize)]
struct Member {
    member_id: String,
    /// By the server's clock.
    last_contact: Option<i64>,
}

impl About {
    fn find(client: &Client, group: &str) -> Result<Option<Self>, Failure> {
        match client.get(&group_route(group, &[])) {
            Err(failure) if failure.code() == Some("unknown-group") => Ok(None),
            answer => answer.map(Some),
        }
    }
}

/// The topics that a group has subscribed to, by name or by a pattern, or committed in.
fn read_topics(client: &Client, group: &str) -> Result<BTreeSet<String>, Failure> {
    let lag: Value = client.get(&group_route(group, &["lag"]))?;
    let topics = lag["topics"].as_array().into_iter().flatten();
    let names = topics.filter_map(|topic| topic["topic"].as_str());
    Ok(names.map(str::to_owned).collect())
}

fn letters(client: &Client, group: &str) -> Result<Vec<Letter>, Failure> {
    let route = group_route(group, &["dead-letters"]);
    let route = route
        .with("state", "waiting")
        .with("limit", PAGE)
        .with("value_limit", 0);
    let rows = api::list(client, &route, "dead_letters")?.into_iter();
    let rows = rows.map(|row| serde_json::from_value(row).map_err(|error| client.unexpected(&error)));
    rows.collect()
}

/// Whether a name is a pattern: no topic's name has these characters.
fn is_pattern(name: &str) -> bool {
    name.contains(['*', '#'])
}

/// Settings that differ from their defaults.
fn given(settings: &Map<String, Value>) -> Map<String, Value> {
    let mut given = settings.clone();
    given.retain(|_, value| !value.is_null());
    given
}

/// The kind that is made. Kafka's clients choose theirs when they join a group without members.
fn made_kind(kind: &str) -> &str {
    match kind {
        "classic" => "ordered",
        kind => kind,
    }
}

impl Group {
    /// Makes the group with its kind and settings, if the server does not have it, and subscribes it. Only members can do that,
    /// so one joins and leaves; it reads nothing.
    ///
    /// Returns the server's time when it had joined: the group was made before. `None`: no member was needed.
    /// Errors: it is there as another kind; it has live members whom a further one would disturb; those of the server.
    pub(super) fn make(&self, client: &Client, interrupt: &Interrupt) -> anyhow::Result<Option<i64>> {
        let group = &self.group;
        let Some(kind) = self.kind.as_deref().map(made_kind) else {
            return Ok(None);
        };
        let mut settings = given(&self.settings);
        let found = patiently(interrupt, true, || About::find(client, group))?;
        let topics: Vec<&String> = match &found {
            None => self.topics.iter().collect(),
            Some(about) => {
                if made_kind(&about.kind) != kind {
                    bail!(
                        "group {group} is there with the type {}, and the file has it with the type {kind}: delete it (quipu group delete {group}), or export without it",
                        about.kind
                    );
                }
                if given(&about.settings) != settings {
                    note(format_args!(
                        "group {group} is there with other settings, which stay as they are"
                    ));
                }
                settings.clear();
                let known = match &about.topics {
                    Some(topics) => topics.iter().cloned().collect(),
                    None => read_topics(client, group)?,
                };
                self.topics
                    .iter()
                    .filter(|topic| !known.contains(*topic))
                    .collect()
            }
        };
        let is_shared = kind == "shared";
        let is_made = found.is_some() || !is_shared && settings.is_empty();
        if is_made && topics.is_empty() && self.dead_letters.is_empty() {
            return Ok(None);
        }
        if !is_shared && found.is_some_and(|about| !about.members.is_empty()) {
            bail!("group {group} has live members: stop them, and run the same command again");
        }
        let topics: BTreeSet<&String> = match topics.is_empty() {
            false => topics.into_iter().collect(),
            true => {
                let committed = self.offsets.iter().map(|row| &row.topic);
                self.topics.iter().chain(committed).collect()
            }
        };
        if topics.is_empty() {
            bail!("group {group} has no topic, without which it cannot be made");
        }
        let topics: Vec<&String> = topics.into_iter().collect();
        let members = group_route(group, &["members"]);
        for topics in topics.chunks(JOIN_TOPICS) {
            let mut join = settings.clone();
            join.extend([
                ("topics".to_owned(), json!(topics)),
                ("type".to_owned(), json!(kind)),
                ("member_id".to_owned(), json!(MEMBER)),
                ("client_id".to_owned(), json!(MEMBER)),
                ("session_timeout_ms".to_owned(), json!(SESSION.as_millis() as u64)),
                // Offsets follow. Where none is committed, the group reads from the beginning.
                ("start".to_owned(), json!("earliest")),
            ]);
            let join = Value::Object(join);
            let joined = patiently(interrupt, true, || {
                client.send(&Method::POST, &members, Some(&join))
            });
            joined.with_context(|| format!("group {group}"))?;
        }
        let about = patiently(interrupt, true, || About::find(client, group));
        let member = group_route(group, &["members", MEMBER]);
        match patiently(interrupt, true, || client.send(&Method::DELETE, &member, None)) {
            // An answer was lost, or its session is over.
            Err(failure) if failure.code() == Some("unknown-member") => {}
            answer => drop(answer?),
        }
        let members = about?.into_iter().flat_map(|about| about.members);
        let mut own = members.filter(|member| member.member_id == MEMBER);
        Ok(own.next().and_then(|member| member.last_contact))
    }

    /// Where the group goes on in a partition, by the file's offsets.
    pub(super) fn committed(&self, topic: &str, partition: u32) -> Option<u64> {
        let row = self
            .offsets
            .iter()
            .find(|row| (&*row.topic, row.partition) == (topic, partition));
        row.map(|row| row.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, needs: &[&str], mailboxes: &[&str]) -> Exported {
        let letters = mailboxes.iter().map(|mailbox| Letter {
            topic: (*mailbox).to_owned(),
            partition: 0,
            offset: 0,
            origin: Origin {
                topic: needs[0].to_owned(),
                partition: 0,
                offset: 0,
            },
        });
        Exported {
            line: Group {
                group: name.to_owned(),
                kind: Some("shared".to_owned()),
                settings: Map::new(),
                topics: Vec::new(),
                dead_letters: letters.collect(),
                offsets: Vec::new(),
            },
            needs: needs.iter().map(|topic| (*topic).to_owned()).collect(),
        }
    }

    fn order(topics: &str, groups: &[Exported]) -> String {
        let topics: Vec<String> = topics.split(' ').map(str::to_owned).collect();
        let parts = in_order(&topics, groups);
        let names = parts.iter().map(|part| match part {
            Part::Topic(topic) => (*topic).to_owned(),
            Part::Group(group) => group.line.group.to_uppercase(),
        });
        names.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_group_stands_between_what_it_reads_and_its_dead_letters() {
        let groups = [
            group("chain", &["a.dlq", "b"], &["a.dlq.dlq"]),
            group("first", &["a", "z"], &["a.dlq"]),
            group("none", &[], &[]),
        ];
        assert_eq!(
            order("a.dlq.dlq a.dlq a b z", &groups),
            "NONE a b z FIRST a.dlq CHAIN a.dlq.dlq"
        );
        assert_eq!(order("b a", &[]), "b a");
    }

    #[test]
    fn groups_that_read_each_others_dead_letters_are_written_all_the_same() {
        let groups = [group("one", &["a"], &["b"]), group("two", &["b"], &["a"])];
        assert_eq!(order("a b", &groups), "a ONE b TWO");
        let own = [group("own", &["a", "d"], &["d"])];
        assert_eq!(order("d a", &own), "a d OWN");
    }
}
