//! Keys of requests that are appended once.

use std::collections::BTreeMap;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::topic::{TopicSettings, TopicSpec};

/// The internal topic, whose one partition has an entry for each key.
const TOPIC: &str = "__keys";
/// Small segments, so that what has expired goes soon.
const SEGMENT_BYTES: u64 = 4 << 20;

impl Engine {
    /// Makes the internal topic, if it is not there.
    pub(crate) fn prepare_keys(&self) -> Result<()> {
        if self.has_keys() {
            return Ok(());
        }
        let settings = TopicSettings {
            segment_bytes: SEGMENT_BYTES,
            ..TopicSettings::default()
        };
        let spec = TopicSpec {
            partitions: 1,
            settings,
            properties: BTreeMap::new(),
        };
        match self.create_topic(TOPIC, spec) {
            Ok(_) | Err(Error::TopicExists(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether the internal topic is there.
    pub(crate) fn has_keys(&self) -> bool {
        self.catalog.get(TOPIC).is_some()
    }
}
