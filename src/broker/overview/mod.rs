//! What an operator sees at a glance: topics with their sizes and rates, and what a change would take away.
//!
//! - [`rates`]: counts over the last seconds, and how soon the disk is full. Pure.
//! - [`traffic`]: counts all topics once a second, in memory only.
//! - [`list`]: the topics in the order that somebody asks for, a page at a time.
//! - [`preview`]: what a deletion, or a change of retention, would take away.

pub mod list;
pub mod preview;
pub mod rates;
pub mod traffic;

use std::collections::{BTreeMap, BTreeSet};

use crate::broker::caller::Caller;
use crate::broker::engine::TopicId;
use crate::broker::groups::Groups;

/// The groups that read each of these topics, and that the caller may describe; by name. Cost: a look at every group.
pub(crate) fn readers(
    caller: &Caller,
    groups: &Groups,
    topics: &BTreeSet<TopicId>,
) -> BTreeMap<TopicId, Vec<String>> {
    let mut readers: BTreeMap<TopicId, Vec<String>> = BTreeMap::new();
    for group in groups
        .names()
        .into_iter()
        .filter(|group| caller.sees_group(group))
    {
        let (scope, _) = groups.scope(&group);
        for topic in scope.intersection(topics) {
            readers.entry(*topic).or_default().push(group.clone());
        }
    }
    readers
}
