//! What the caller may do, as Kafka shows it: a bit for each of its operations.

use super::super::call::Call;
use crate::broker::rights::Right;

const READ: i32 = 1 << 3;
const WRITE: i32 = 1 << 4;
const CREATE: i32 = 1 << 5;
const DELETE: i32 = 1 << 6;
const ALTER: i32 = 1 << 7;
const DESCRIBE: i32 = 1 << 8;
const DESCRIBE_CONFIGS: i32 = 1 << 10;
const ALTER_CONFIGS: i32 = 1 << 11;
const IDEMPOTENT_WRITE: i32 = 1 << 12;

/// With a topic.
pub(crate) fn of_topic(call: &Call, topic: &str) -> i32 {
    let rights = [
        (Right::Read, READ),
        (Right::Write, WRITE),
        (Right::Create, CREATE),
        (Right::Delete, DELETE),
        (Right::Configure, ALTER | ALTER_CONFIGS),
        (Right::Describe, DESCRIBE | DESCRIBE_CONFIGS),
    ];
    let held = rights
        .into_iter()
        .filter(|(right, _)| call.caller.may_topic(*right, topic));
    held.fold(0, |all, (_, bits)| all | bits)
}

/// With the cluster: everybody may look at the node, and nothing of it is changed over this protocol.
pub(crate) fn of_cluster(call: &Call) -> i32 {
    let open = DESCRIBE | DESCRIBE_CONFIGS | IDEMPOTENT_WRITE;
    match call.caller.is_admin() {
        true => open | CREATE,
        false => open,
    }
}
