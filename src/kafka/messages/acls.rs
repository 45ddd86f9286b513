//! APIs 29 to 31: access control lists, which this server does not have.

use crate::kafka::wire::{Text, messages};

messages! {
    /// API 29.
    pub(crate) struct DescribeAclsRequest (1..=3, flexible 2) {
        resource_type_filter: i8 [0..],
        resource_name_filter: Option<Text> [0..],
        pattern_type_filter: i8 [1..] = 3,
        principal_filter: Option<Text> [0..],
        host_filter: Option<Text> [0..],
        operation: i8 [0..],
        permission_type: i8 [0..],
    }

    /// The lists.
    pub(crate) struct DescribeAclsResponse (1..=3, flexible 2) {
        throttle_time_ms: i32 [0..],
        error_code: i16 [0..],
        error_message: Option<Text> [0..],
        resources: Vec<DescribeAclsResource> [0..],
    }

    /// The list of a resource.
    pub(crate) struct DescribeAclsResource {
        resource_type: i8 [0..],
        resource_name: Text [0..],
        pattern_type: i8 [1..] = 3,
        acls: Vec<AclDescription> [0..],
    }

    /// An entry of a list.
    pub(crate) struct AclDescription {
        principal: Text [0..],
        host: Text [0..],
        operation: i8 [0..],
        permission_type: i8 [0..],
    }

    /// API 30.
    pub(crate) struct CreateAclsRequest (1..=3, flexible 2) {
        creations: Vec<AclCreation> [0..],
    }

    /// An entry to create.
    pub(crate) struct AclCreation {
        resource_type: i8 [0..],
        resource_name: Text [0..],
        resource_pattern_type: i8 [1..] = 3,
        principal: Text [0..],
        host: Text [0..],
        operation: i8 [0..],
        permission_type: i8 [0..],
    }

    /// Whether they are created.
    pub(crate) struct CreateAclsResponse (1..=3, flexible 2) {
        throttle_time_ms: i32 [0..],
        results: Vec<AclCreationResult> [0..],
    }

    /// Whether one is.
    pub(crate) struct AclCreationResult {
        error_code: i16 [0..],
        error_message: Option<Text> [0..],
    }

    /// API 31.
    pub(crate) struct DeleteAclsRequest (1..=3, flexible 2) {
        filters: Vec<DeleteAclsFilter> [0..],
    }

    /// Which entries to delete.
    pub(crate) struct DeleteAclsFilter {
        resource_type_filter: i8 [0..],
        resource_name_filter: Option<Text> [0..],
        pattern_type_filter: i8 [1..] = 3,
        principal_filter: Option<Text> [0..],
        host_filter: Option<Text> [0..],
        operation: i8 [0..],
        permission_type: i8 [0..],
    }

    /// Whether they are deleted.
    pub(crate) struct DeleteAclsResponse (1..=3, flexible 2) {
        throttle_time_ms: i32 [0..],
        filter_results: Vec<DeleteAclsFilterResult> [0..],
    }

    /// What a filter has deleted.
    pub(crate) struct DeleteAclsFilterResult {
        error_code: i16 [0..],
        error_message: Option<Text> [0..],
        matching_acls: Vec<DeleteAclsMatchingAcl> [0..],
    }

    /// An entry that was deleted.
    pub(crate) struct DeleteAclsMatchingAcl {
        error_code: i16 [0..],
        error_message: Option<Text> [0..],
        resource_type: i8 [0..],
        resource_name: Text [0..],
        pattern_type: i8 [1..] = 3,
        principal: Text [0..],
        host: Text [0..],
        operation: i8 [0..],
        permission_type: i8 [0..],
    }
}
