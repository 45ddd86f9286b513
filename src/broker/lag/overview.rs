//! The lag of many groups: which of them are asked for, in which order, and in which page. Pure, but for
//! [`Lags::overview`].
//!
//! Pages of a list that is not sorted by name begin behind a place: the figure and the name of the last row. So a page
//! follows the one before even if figures change in between; a group whose figure has moved across the place is missing,
//! or comes twice.

use super::report::{GroupLag, Lags};
use super::window::Status;
use crate::broker::caller::Caller;
use crate::broker::engine::TopicId;

/// What sorts the groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// The name.
    #[default]
    Name,
    /// Records to read, the most first.
    Lag,
    /// The age of the next record, the oldest first.
    LagMs,
    /// What expires soonest first, and last what never does.
    ExpiresMs,
}

/// The place behind a row: the figure that sorts it, and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct After(pub u64, pub String);

/// Which groups are asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Only groups that read this topic.
    pub topic: Option<TopicId>,
    /// Only groups with one of these states; empty: all.
    pub statuses: Vec<Status>,
    /// Only groups with this in their names, in large or small letters.
    pub name: Option<String>,
    /// The order.
    pub sort: Sort,
    /// The place behind which the page begins.
    pub after: Option<After>,
    /// The most groups.
    pub limit: usize,
}

/// A page of groups.
#[derive(Debug, Default)]
pub struct Page {
    /// The groups, in order.
    pub groups: Vec<(String, GroupLag)>,
    /// There are more, behind this place.
    pub next: Option<After>,
}

impl Sort {
    /// Where a group comes: the smallest first.
    fn place_of(self, name: &str, lag: &GroupLag) -> After {
        let figures = &lag.total.lag;
        let figure = match self {
            Self::Name => 0,
            Self::Lag => u64::MAX - figures.lag,
            Self::LagMs => u64::MAX - figures.lag_ms,
            Self::ExpiresMs => figures.expires_ms.unwrap_or(u64::MAX),
        };
        After(figure, name.to_owned())
    }
}

impl Wanted {
    /// Whether the groups of a page are known without their lags.
    fn is_by_name_alone(&self) -> bool {
        self.sort == Sort::Name && self.statuses.is_empty()
    }

    fn has_name(&self, name: &str) -> bool {
        let has = |part: &String| name.to_ascii_lowercase().contains(&part.to_ascii_lowercase());
        self.name.as_ref().is_none_or(has)
    }

    fn has_status(&self, lag: &GroupLag) -> bool {
        self.statuses.is_empty() || self.statuses.contains(&lag.total.status)
    }

    /// The page of `groups`, whose names are wanted.
    fn page(&self, groups: impl Iterator<Item = (String, GroupLag)>) -> Page {
        let wanted = groups.filter(|(_, lag)| self.has_status(lag));
        let mut rows: Vec<(After, GroupLag)> = wanted
            .map(|(name, lag)| (self.sort.place_of(&name, &lag), lag))
            .filter(|(place, _)| self.after.as_ref().is_none_or(|after| place > after))
            .collect();
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        let more = rows.len() > self.limit;
        rows.truncate(self.limit);
        let last = rows.last().map(|(place, _)| place.clone());
        Page {
            groups: rows
                .into_iter()
                .map(|(After(_, name), lag)| (name, lag))
                .collect(),
            next: last.filter(|_| more),
        }
    }
}

impl Lags {
    /// A page of the current lag of the groups that the caller may describe, in the topics that it may describe. May block on the disk.
    ///
    /// Cost: that of the lag of all groups whose names are wanted; if the page is sorted by name and takes every status,
    /// only of those in the page.
    pub fn overview(&self, caller: &Caller, wanted: &Wanted) -> Page {
        let mut names = self.groups.names();
        names.retain(|name| {
            let reads = |topic: &TopicId| self.groups.scope(name).0.contains(topic);
            caller.sees_group(name) && wanted.has_name(name) && wanted.topic.as_ref().is_none_or(reads)
        });
        if wanted.is_by_name_alone() {
            let is_behind = |name: &String| wanted.after.as_ref().is_none_or(|after| *name > after.1);
            names.retain(is_behind);
            // One more, to know whether there are more.
            names.truncate(wanted.limit.saturating_add(1));
            let more = names.len() > wanted.limit;
            names.truncate(wanted.limit);
            let next = names.last().filter(|_| more).map(|name| After(0, name.clone()));
            let with_lag = |name: String| {
                let lag = self.seen_by(caller, &name);
                (name, lag)
            };
            return Page {
                groups: names.into_iter().map(with_lag).collect(),
                next,
            };
        }
        wanted.page(names.into_iter().map(|name| {
            let lag = self.seen_by(caller, &name);
            (name, lag)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::lag::Lag;
    use crate::broker::lag::report::Total;

    fn group(
        name: &str,
        lag: u64,
        lag_ms: u64,
        expires_ms: Option<u64>,
        status: Status,
    ) -> (String, GroupLag) {
        let lag = Lag {
            lag,
            lag_ms,
            expires_ms,
            ..Lag::default()
        };
        let total = Total {
            lag,
            status,
            ..Total::default()
        };
        let lag = GroupLag {
            total,
            ..GroupLag::default()
        };
        (name.to_owned(), lag)
    }

    fn all() -> Vec<(String, GroupLag)> {
        vec![
            group("a", 5, 10, None, Status::Ok),
            group("b", 7, 10, Some(30), Status::Stalled),
            group("c", 5, 90, Some(20), Status::Behind),
            group("d", 0, 0, None, Status::Ok),
        ]
    }

    fn names(page: &Page) -> String {
        page.groups.iter().map(|(name, _)| &**name).collect()
    }

    #[test]
    fn groups_come_by_their_figures_the_worst_first_and_equal_ones_by_name() {
        for (sort, order) in [
            (Sort::Name, "abcd"),
            (Sort::Lag, "bacd"),
            (Sort::LagMs, "cabd"),
            (Sort::ExpiresMs, "cbad"),
        ] {
            let wanted = Wanted {
                sort,
                limit: 9,
                ..Wanted::default()
            };
            let page = wanted.page(all().into_iter());
            assert_eq!((names(&page).as_str(), page.next), (order, None), "{sort:?}");
            // In pages of every size the same groups come, each once.
            for limit in 1..=4 {
                let (mut found, mut after) = (String::new(), None);
                loop {
                    let wanted = Wanted {
                        after,
                        limit,
                        ..wanted.clone()
                    };
                    let page = wanted.page(all().into_iter());
                    assert!(page.groups.len() == limit || page.next.is_none());
                    found += &names(&page);
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                assert_eq!(found, order, "{sort:?} in pages of {limit}");
            }
        }
    }

    #[test]
    fn only_groups_with_a_wanted_status_come() {
        let wanted = |statuses: &[Status]| Wanted {
            statuses: statuses.to_vec(),
            limit: 9,
            ..Wanted::default()
        };
        let page = |statuses| names(&wanted(statuses).page(all().into_iter()));
        assert_eq!(page(&[Status::Ok]), "ad");
        assert_eq!(page(&[Status::Stalled, Status::Behind]), "bc");
        assert_eq!(page(&[Status::Losing]), "");
    }

    #[test]
    fn a_part_of_the_name_in_any_letters_is_enough() {
        let wanted = Wanted {
            name: Some("BILL".to_owned()),
            ..Wanted::default()
        };
        assert!(wanted.has_name("x-Billing") && !wanted.has_name("bil"));
    }
}
