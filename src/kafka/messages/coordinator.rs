//! API 10, FindCoordinator.

use crate::kafka::wire::{Text, messages};

messages! {
    /// Asks for the coordinator of groups or transactions: of one before version 4, of many from then on.
    pub(crate) struct FindCoordinatorRequest (0..=6, flexible 3) {
        key: Text [0..=3],
        /// 0: group; 1: transaction; 2: share.
        key_type: i8 [1..],
        coordinator_keys: Vec<Text> [4..],
    }

    /// Where they are.
    pub(crate) struct FindCoordinatorResponse (0..=6, flexible 3) {
        throttle_time_ms: i32 [1..],
        error_code: i16 [0..=3],
        error_message: Option<Text> [1..=3],
        node_id: i32 [0..=3],
        host: Text [0..=3],
        port: i32 [0..=3],
        coordinators: Vec<Coordinator> [4..],
    }

    /// Of one key.
    pub(crate) struct Coordinator {
        key: Text [4..],
        node_id: i32 [4..],
        host: Text [4..],
        port: i32 [4..],
        error_code: i16 [4..],
        error_message: Option<Text> [4..],
    }
}
