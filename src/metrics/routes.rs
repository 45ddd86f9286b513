//! Finds the route that counts a request, without a lock and without an allocation.
//!
//! The router knows the matched route only inside a handler, and a layer around every handler would cost each request a
//! box. So the table is built once, from the paths of the OpenAPI document, and searched from outside: by the number of
//! a path's segments, then segment by segment, a literal before a parameter.

use http::Method;

/// The methods with counters of their own; the last is for all others.
pub(crate) const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other",
];

/// The number of a counter: a route and a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(pub(crate) usize);

/// The counter of paths without a route.
pub(crate) const UNMATCHED: Slot = Slot(0);

/// All routes' paths.
#[derive(Debug)]
pub(crate) struct RouteTable {
    paths: Vec<String>,
    /// By slot: whether it is a change that is worth a line in the log.
    administrative: Box<[bool]>,
    /// By number of segments: the routes of that length, those with the earlier literals first.
    by_length: Vec<Vec<Route>>,
}

#[derive(Debug)]
struct Route {
    index: usize,
    /// What stands before the first parameter: most other paths are told apart by that at once.
    prefix: String,
    /// `None` stands for a parameter.
    segments: Vec<Option<String>>,
}

impl RouteTable {
    /// A table of paths written as in the document: `/v1/topics/{topic}`.
    pub(crate) fn new(paths: impl IntoIterator<Item = String>) -> Self {
        let mut paths: Vec<String> = paths.into_iter().collect();
        paths.sort_unstable();
        let mut by_length: Vec<Vec<Route>> = Vec::new();
        for (index, path) in paths.iter().enumerate() {
            let literal = |segment: &str| (!segment.starts_with('{')).then(|| segment.to_owned());
            let segments: Vec<_> = segments(path).map(literal).collect();
            if by_length.len() <= segments.len() {
                by_length.resize_with(segments.len() + 1, Vec::new);
            }
            let prefix = path.split('{').next().unwrap_or_default().to_owned();
            by_length[segments.len()].push(Route {
                index,
                prefix,
                segments,
            });
        }
        for routes in &mut by_length {
            routes.sort_by_key(|route| route.segments.iter().map(Option::is_none).collect::<Vec<_>>());
        }
        let slots = paths
            .iter()
            .flat_map(|path| METHODS.map(|method| is_administrative(path, method)));
        let administrative = std::iter::once(false).chain(slots).collect();
        Self {
            paths,
            administrative,
            by_length,
        }
    }

    /// Whether requests of this slot change what an administrator changes.
    pub(crate) fn is_administrative(&self, slot: Slot) -> bool {
        self.administrative[slot.0]
    }

    /// How many slots there are.
    pub(crate) fn len(&self) -> usize {
        1 + self.paths.len() * METHODS.len()
    }

    /// The counter of a request.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Slot {
        let length = path.bytes().filter(|byte| *byte == b'/').count();
        let Some(routes) = self.by_length.get(length) else {
            return UNMATCHED;
        };
        let matches = |route: &&Route| {
            let mut pairs = segments(path).zip(&route.segments);
            let is_same = |(found, expected): (&str, &Option<String>)| match expected {
                Some(literal) => found == literal,
                None => !found.is_empty(),
            };
            path.starts_with(&route.prefix) && pairs.all(is_same)
        };
        match routes.iter().find(matches) {
            Some(route) => Slot(1 + route.index * METHODS.len() + method_index(method)),
            None => UNMATCHED,
        }
    }

    /// The labels of a slot: route and method.
    pub(crate) fn labels(&self, slot: Slot) -> (&str, &'static str) {
        match slot.0.checked_sub(1) {
            None => ("unmatched", "other"),
            Some(number) => {
                let (path, method) = (number / METHODS.len(), number % METHODS.len());
                (&self.paths[path], METHODS[method])
            }
        }
    }
}

/// Whether a request changes something and is not the daily work of producers and members: records, polls, and the offsets
/// that a consumer commits by itself. That a member leaves may be an administrator's doing. A new route that changes something
/// is administrative.
fn is_administrative(path: &str, method: &str) -> bool {
    let is_change = ["POST", "PUT", "PATCH", "DELETE"].contains(&method);
    let is_produce = method == "POST" && path.ends_with("/records");
    let is_member = path.starts_with("/v1/groups/{group}/members") && method != "DELETE";
    let is_commit = method == "PUT" && path.ends_with("/offsets");
    is_change && !(is_produce || is_member || is_commit)
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').skip(1)
}

fn method_index(method: &Method) -> usize {
    let found = METHODS.iter().position(|name| *name == method.as_str());
    found.unwrap_or(METHODS.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_all_that_is_not_daily_work() {
        for (method, path, expected) in [
            ("PUT", "/v1/topics/{topic}", true),
            (
                "DELETE",
                "/v1/topics/{topic}/partitions/{partition}/records",
                true,
            ),
            ("POST", "/v1/groups/{group}/offsets/reset", true),
            ("POST", "/v1/anything/new", true),
            ("GET", "/v1/topics/{topic}", false),
            ("POST", "/v1/records", false),
            ("POST", "/v1/topics/{topic}/partitions/{partition}/records", false),
            ("POST", "/v1/groups/{group}/members/{member}/poll", false),
            ("DELETE", "/v1/groups/{group}/members/{member}", true),
            ("PUT", "/v1/groups/{group}/offsets", false),
        ] {
            assert_eq!(is_administrative(path, method), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_request_is_counted_under_its_template_and_a_literal_beats_a_parameter() {
        let paths = [
            "/v1/{a}/x",
            "/v1/topics/{topic}",
            "/v1/topics/{topic}/records",
            "/metrics",
            "/v1/groups/{g}",
        ];
        let table = RouteTable::new(paths.map(str::to_owned));
        let labels = |method, path| table.labels(table.find(&method, path));
        for (path, route) in [
            ("/v1/topics/orders", "/v1/topics/{topic}"),
            ("/v1/topics/x", "/v1/topics/{topic}"),
            ("/v1/lag/x", "/v1/{a}/x"),
            ("/v1/topics/a/records", "/v1/topics/{topic}/records"),
        ] {
            assert_eq!(labels(Method::GET, path), (route, "GET"));
            assert_eq!(labels(Method::POST, path), (route, "POST"));
        }
        assert_eq!(labels(Method::TRACE, "/metrics"), ("/metrics", "other"));
        for unknown in "/ /nothing /v1/topics/ /v1/topics/a/b/c/d/e/f/g *"
            .split(' ')
            .chain([""])
        {
            assert_eq!(labels(Method::GET, unknown), ("unmatched", "other"), "{unknown}");
        }
        assert!((0..table.len()).all(|slot| !table.labels(Slot(slot)).0.is_empty()));
    }
}
