//! API 18, ApiVersions: which APIs a broker has, in which versions.

use crate::kafka::wire::{Text, messages};

messages! {
    /// Asks, and says who asks.
    pub(crate) struct ApiVersionsRequest (0..=5, flexible 3) {
        client_software_name: Text [3..],
        client_software_version: Text [3..],
        /// The cluster and the node that the client means to have reached, or null and -1.
        cluster_id: Option<Text> [5..],
        node_id: i32 [5..] = -1,
    }

    /// Its header has no tagged fields in any version, so that a client that asks in a version that is too new can read it.
    pub(crate) struct ApiVersionsResponse (0..=5, flexible 3) {
        error_code: i16 [0..],
        api_keys: Vec<ApiVersion> [0..],
        throttle_time_ms: i32 [1..],
        supported_features: Vec<SupportedFeature> [3..] tag 0,
        finalized_features_epoch: i64 [3..] tag 1 = -1,
        finalized_features: Vec<FinalizedFeature> [3..] tag 2,
        zk_migration_ready: bool [3..] tag 3,
    }

    /// One API.
    pub(crate) struct ApiVersion {
        api_key: i16 [0..],
        min_version: i16 [0..],
        max_version: i16 [0..],
    }

    /// A feature of the broker's program.
    pub(crate) struct SupportedFeature {
        name: Text [3..],
        min_version: i16 [3..],
        max_version: i16 [3..],
    }

    /// A feature that is in force in the cluster.
    pub(crate) struct FinalizedFeature {
        name: Text [3..],
        max_version_level: i16 [3..],
        min_version_level: i16 [3..],
    }
}
