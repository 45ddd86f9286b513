//! APIs 32, 33 and 44: configurations are described and changed.

use crate::kafka::wire::{Text, messages};

messages! {
    /// API 32.
    pub(crate) struct DescribeConfigsRequest (1..=4, flexible 4) {
        resources: Vec<DescribeConfigsResource> [0..],
        include_synonyms: bool [1..],
        include_documentation: bool [3..],
    }

    /// A resource (2: topic, 4: broker), and its keys; null for all.
    pub(crate) struct DescribeConfigsResource {
        resource_type: i8 [0..],
        resource_name: Text [0..],
        configuration_keys: Option<Vec<Text>> [0..],
    }

    /// The configurations.
    pub(crate) struct DescribeConfigsResponse (1..=4, flexible 4) {
        throttle_time_ms: i32 [0..],
        results: Vec<DescribeConfigsResult> [0..],
    }

    /// Of a resource.
    pub(crate) struct DescribeConfigsResult {
        error_code: i16 [0..],
        error_message: Option<Text> [0..],
        resource_type: i8 [0..],
        resource_name: Text [0..],
        configs: Vec<DescribeConfigsResourceResult> [0..],
    }

    /// A key with its value, and where that comes from.
    pub(crate) struct DescribeConfigsResourceResult {
        name: Text [0..],
        value: Option<Text> [0..],
        read_only: bool [0..],
        config_source: i8 [1..] = -1,
        is_sensitive: bool [0..],
        synonyms: Vec<DescribeConfigsSynonym> [1..],
        config_type: i8 [3..],
        documentation: Option<Text> [3..],
    }

    /// Another place that gives the key a value.
    pub(crate) struct DescribeConfigsSynonym {
        name: Text [1..],
        value: Option<Text> [1..],
        source: i8 [1..],
    }

    /// API 33: replaces all that was set.
    pub(crate) struct AlterConfigsRequest (0..=2, flexible 2) {
        resources: Vec<AlterConfigsResource> [0..],
        validate_only: bool [0..],
    }

    /// Of a resource.
    pub(crate) struct AlterConfigsResource {
        resource_type: i8 [0..],
        resource_name: Text [0..],
        configs: Vec<AlterableConfig> [0..],
    }

    /// A key with its value.
    pub(crate) struct AlterableConfig {
        name: Text [0..],
        value: Option<Text> [0..],
    }

    /// Whether they are replaced.
    pub(crate) struct AlterConfigsResponse (0..=2, flexible 2) {
        throttle_time_ms: i32 [0..],
        responses: Vec<AlterConfigsResourceResponse> [0..],
    }

    /// Of a resource; API 44 answers the same.
    pub(crate) struct AlterConfigsResourceResponse {
        error_code: i16 [0..],
        error_message: Option<Text> [0..],
        resource_type: i8 [0..],
        resource_name: Text [0..],
    }

    /// API 44: changes single keys.
    pub(crate) struct IncrementalAlterConfigsRequest (0..=1, flexible 1) {
        resources: Vec<IncrementalAlterConfigsResource> [0..],
        validate_only: bool [0..],
    }

    /// Of a resource.
    pub(crate) struct IncrementalAlterConfigsResource {
        resource_type: i8 [0..],
        resource_name: Text [0..],
        configs: Vec<IncrementalAlterableConfig> [0..],
    }

    /// A key; 0: set, 1: delete, 2: append, 3: subtract.
    pub(crate) struct IncrementalAlterableConfig {
        name: Text [0..],
        config_operation: i8 [0..],
        value: Option<Text> [0..],
    }

    /// Whether they are changed.
    pub(crate) struct IncrementalAlterConfigsResponse (0..=1, flexible 1) {
        throttle_time_ms: i32 [0..],
        responses: Vec<AlterConfigsResourceResponse> [0..],
    }
}
