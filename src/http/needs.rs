//! What each route needs of whoever calls it: the one table, which the door and the document go by.

use crate::broker::rights::Right;

/// What a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: whoever presents something that is not valid is nobody here.
    Open,
    /// Nothing, but what is presented must be valid.
    Valid,
    /// A name. Lists show what their reader may describe.
    SignedIn,
    /// A name; the rights follow from the query or the body.
    ByContent,
    /// A right on the topic in the path.
    Topic(Right),
    /// One of these rights on the group in the path.
    Group(&'static [Right]),
    /// `describe` on all topics and all groups.
    SeesAll,
    /// An administrator.
    Admin,
}

use Need::{Admin, ByContent, Group, Open, SeesAll, SignedIn, Topic, Valid};
use Right::{Configure, Create, Delete, Describe, Read, Write};

/// Every route with what it needs. `GET` is `HEAD` too.
#[rustfmt::skip]
pub static ROUTES: &[(&str, &str, Need)] = &[
    ("GET", "/", Open),
    ("GET", "/assets/{file}", Open),
    ("GET", "/docs", Open),
    ("GET", "/openapi.json", Open),
    ("GET", "/health/live", Open),
    ("GET", "/health/ready", Open),
    ("GET", "/metrics", SeesAll),
    ("GET", "/v1/info", SignedIn),
    ("GET", "/v1/status", Admin),
    ("GET", "/v1/damage", Admin),
    ("GET", "/v1/audit", Admin),
    ("GET", "/v1/backups", Admin),
    ("POST", "/v1/backups", Admin),
    ("GET", "/v1/backups/{name}", Admin),
    ("DELETE", "/v1/backups/{name}", Admin),
    ("GET", "/v1/me", Valid),
    ("POST", "/v1/session", Open),
    ("DELETE", "/v1/session", Open),
    ("GET", "/v1/tokens", Admin),
    ("POST", "/v1/tokens", Admin),
    ("GET", "/v1/tokens/{name}", Admin),
    ("PATCH", "/v1/tokens/{name}", Admin),
    ("DELETE", "/v1/tokens/{name}", Admin),
    ("POST", "/v1/tokens/{name}/rotate", Admin),
    ("GET", "/v1/principals", Admin),
    ("GET", "/v1/principals/{name}", Admin),
    ("PUT", "/v1/principals/{name}", Admin),
    ("DELETE", "/v1/principals/{name}", Admin),

    ("GET", "/v1/topics", SignedIn),
    ("PUT", "/v1/topics/{topic}", Topic(Create)),
    ("GET", "/v1/topics/{topic}", Topic(Describe)),
    ("PATCH", "/v1/topics/{topic}", Topic(Configure)),
    ("DELETE", "/v1/topics/{topic}", Topic(Delete)),
    ("POST", "/v1/topics/{topic}/records", Topic(Write)),
    ("GET", "/v1/topics/{topic}/records", Topic(Read)),
    ("GET", "/v1/topics/{topic}/partitions/{partition}/records", Topic(Read)),
    ("POST", "/v1/topics/{topic}/partitions/{partition}/records", Topic(Write)),
    ("DELETE", "/v1/topics/{topic}/partitions/{partition}/records", Topic(Delete)),
    ("GET", "/v1/topics/{topic}/partitions/{partition}/offsets", Topic(Describe)),
    ("GET", "/v1/topics/{topic}/partitions/{partition}/damage", Topic(Describe)),
    ("POST", "/v1/topics/{topic}/partitions/{partition}/damage/skip", Topic(Configure)),
    ("DELETE", "/v1/topics/{topic}/partitions/{partition}/damage/skip", Topic(Configure)),
    ("GET", "/v1/records", ByContent),
    ("POST", "/v1/records", ByContent),

    ("GET", "/v1/groups", SignedIn),
    ("GET", "/v1/groups/{group}", Group(&[Describe])),
    ("PATCH", "/v1/groups/{group}", Group(&[Write, Configure])),
    ("DELETE", "/v1/groups/{group}", Group(&[Delete])),
    ("GET", "/v1/groups/{group}/offsets", Group(&[Describe])),
    ("PUT", "/v1/groups/{group}/offsets", Group(&[Write])),
    ("DELETE", "/v1/groups/{group}/offsets", Group(&[Write])),
    ("POST", "/v1/groups/{group}/offsets/reset", Group(&[Write])),
    ("POST", "/v1/groups/{group}/members", Group(&[Read])),
    ("DELETE", "/v1/groups/{group}/members/{member}", Group(&[Read, Write])),
    ("POST", "/v1/groups/{group}/members/{member}/poll", Group(&[Read])),
    ("POST", "/v1/groups/{group}/members/{member}/heartbeat", Group(&[Read])),
    ("POST", "/v1/groups/{group}/members/{member}/commit", Group(&[Read])),
    ("POST", "/v1/groups/{group}/members/{member}/settle", Group(&[Read])),
    ("POST", "/v1/groups/{group}/redrive", Group(&[Write])),
    ("GET", "/v1/groups/{group}/dead-letters", Group(&[Describe])),
    ("GET", "/v1/groups/{group}/leases", Group(&[Describe])),
    ("GET", "/v1/groups/{group}/lag", Group(&[Describe])),
    ("GET", "/v1/groups/{group}/lag/history", Group(&[Describe])),
    ("GET", "/v1/groups/{group}/lag.svg", Group(&[Describe])),
    ("GET", "/v1/lag", SignedIn),
    ("GET", "/v1/lag/history", SignedIn),
];

/// What a route needs; `None`: it is not listed.
#[must_use]
pub fn need_of(method: &str, path: &str) -> Option<Need> {
    let method = if method == "HEAD" { "GET" } else { method };
    let row = ROUTES.iter().find(|row| row.0 == method && row.1 == path);
    row.map(|row| row.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_listed_once() {
        for (i, row) in ROUTES.iter().enumerate() {
            let again = ROUTES[i + 1..]
                .iter()
                .find(|other| (other.0, other.1) == (row.0, row.1));
            assert!(again.is_none(), "{row:?} is listed twice");
        }
    }

    #[test]
    fn a_right_on_a_topic_or_group_needs_its_name_in_the_path() {
        for (method, path, need) in ROUTES {
            match need {
                Topic(_) => assert!(path.contains("{topic}"), "{method} {path}"),
                Group(_) => assert!(path.contains("{group}"), "{method} {path}"),
                _ => assert!(
                    !path.contains("{topic}") && !path.contains("{group}"),
                    "{method} {path}"
                ),
            }
        }
    }
}
