//! The topics and partitions that a path names.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use http::request::Parts;

use super::problem::Problem;
use crate::broker::engine::{Partition, Topic};
use crate::broker::topics::{catalog, unknown_partition};
use crate::http::app::App;

/// The name in `/topics/{topic}`, whatever it is.
pub(super) struct TopicName(pub(super) String);

/// The topic of `/topics/{topic}`, which exists.
pub(super) struct AtTopic(pub(super) Arc<Topic>);

/// The partition of `/topics/{topic}/partitions/{partition}`, which exists.
pub(super) struct AtPartition {
    pub(super) topic: Arc<Topic>,
    pub(super) partition: Arc<Partition>,
}

impl FromRequestParts<App> for TopicName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Path(name) = Path::<String>::from_request_parts(parts, app)
            .await
            .map_err(not_text)?;
        Ok(Self(name))
    }
}

impl FromRequestParts<App> for AtTopic {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let TopicName(name) = TopicName::from_request_parts(parts, app).await?;
        Ok(Self(catalog::find(&app.log, &name)?))
    }
}

impl FromRequestParts<App> for AtPartition {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Path((name, index)) = Path::<(String, String)>::from_request_parts(parts, app)
            .await
            .map_err(not_text)?;
        let topic = catalog::find(&app.log, &name)?;
        let found = parse_index(&index).and_then(|index| topic.partition(index));
        let partition = found.ok_or_else(|| unknown_partition(&topic, &index))?;
        Ok(Self { topic, partition })
    }
}

fn not_text(_: PathRejection) -> Problem {
    Problem::invalid("path", "the path is not UTF-8 once it is percent-decoded")
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
