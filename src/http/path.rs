//! Reads the names in a path: topics, partitions, groups and their members; and [`NoQuery`], for calls without parameters.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::params::Params;
use super::problem::Problem;
use crate::broker::caller::Caller;
use crate::broker::engine::{Partition, Topic};
use crate::broker::names;
use crate::broker::topics::{catalog, unknown_partition};
use crate::http::app::App;

/// The name in `/topics/{topic}`, not checked.
pub(super) struct TopicName(pub(super) String);

/// The topic of `/topics/{topic}`, which exists.
pub(super) struct AtTopic(pub(super) Arc<Topic>);

/// The partition of `/topics/{topic}/partitions/{partition}`, which exists.
pub(super) struct AtPartition {
    pub(super) topic: Arc<Topic>,
    pub(super) partition: Arc<Partition>,
}

/// The name in `/groups/{group}`, which is valid.
pub(super) struct GroupName(pub(super) String);

/// The group of `/groups/{group}`, which exists.
pub(super) struct AtGroup(pub(super) String);

/// The names in `/groups/{group}/members/{member}`, which are valid.
pub(super) struct MemberName {
    pub(super) group: String,
    pub(super) member: String,
}

/// The name in `/backups/{name}`, not checked.
pub(super) struct BackupName(pub(super) String);
/// The name in `/tokens/{name}` or `/principals/{name}`, not checked.
pub(super) struct PrincipalName(pub(super) String);

/// The name in `/assets/{file}`, not checked.
pub(super) struct FileName(pub(super) String);

/// Refuses every query parameter.
pub(super) struct NoQuery;

/// Declares how a type is read from the head of a request.
macro_rules! extract {
    ($name:ident, |$parts:ident, $app:ident| $read:expr) => {
        impl FromRequestParts<App> for $name {
            type Rejection = Problem;

            async fn from_request_parts($parts: &mut Parts, $app: &App) -> Result<Self, Problem> {
                $read
            }
        }
    };
}

extract!(App, |_parts, app| Ok(app.clone()));
// The connection knows who calls. Without one, as in tests of the router, it is nobody in particular.
extract!(Caller, |parts, _app| {
    Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
});
extract!(TopicName, |parts, app| Ok(Self(path(parts, app, "path").await?)));
extract!(AtTopic, |parts, app| {
    let name: String = path(parts, app, "path").await?;
    Ok(Self(catalog::find(&app.log, &name)?))
});
extract!(AtPartition, |parts, app| {
    let (name, index): (String, String) = path(parts, app, "path").await?;
    let topic = catalog::find(&app.log, &name)?;
    let found = parse_index(&index).and_then(|index| topic.partition(index));
    let partition = found.ok_or_else(|| unknown_partition(&topic, &index))?;
    Ok(Self { topic, partition })
});
extract!(GroupName, |parts, app| {
    let group: String = path(parts, app, "group").await?;
    names::GROUP.check(&group)?;
    Ok(Self(group))
});
extract!(AtGroup, |parts, app| {
    let GroupName(group) = GroupName::from_request_parts(parts, app).await?;
    app.groups.check_exists(&group)?;
    Ok(Self(group))
});
extract!(MemberName, |parts, app| {
    let (group, member): (String, String) = path(parts, app, "member").await?;
    names::GROUP.check(&group)?;
    names::MEMBER.check(&member)?;
    Ok(Self { group, member })
});
extract!(BackupName, |parts, app| Ok(Self(path(parts, app, "name").await?)));
extract!(PrincipalName, |parts, app| Ok(Self(
    path(parts, app, "name").await?
)));
extract!(FileName, |parts, app| Ok(Self(path(parts, app, "file").await?)));
extract!(NoQuery, |parts, _app| {
    Params::parse(parts.uri.query(), &[], &[]).map(|_| Self)
});

/// The names in the path; an error has `pointer`.
async fn path<T: DeserializeOwned + Send>(parts: &mut Parts, app: &App, pointer: &str) -> Result<T, Problem> {
    let path = Path::<T>::from_request_parts(parts, app).await;
    path.map(|Path(names)| names).map_err(|_| not_text(pointer))
}

#[cold]
pub(super) fn not_text(pointer: &str) -> Problem {
    Problem::invalid(pointer, "the path is not UTF-8 once it is percent-decoded")
}

/// The index of a partition in digits, without a sign or leading zeros: one partition has one path.
pub(super) fn parse_index(text: &str) -> Option<u32> {
    let index: u32 = text.parse().ok()?;
    (index.to_string() == text).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_has_one_path() {
        assert_eq!(parse_index("0"), Some(0));
        assert_eq!(parse_index("4294967295"), Some(u32::MAX));
        for wrong in ["", "+1", "-1", "01", "1.0", "x", "4294967296", " 1"] {
            assert_eq!(parse_index(wrong), None, "{wrong:?}");
        }
    }
}
