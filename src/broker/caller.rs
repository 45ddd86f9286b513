//! Who calls: known when a connection is accepted, and handed on with each of its requests, whatever the wire.

use std::net::SocketAddr;

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The other end of the connection; `None` if it is closed already.
    pub address: Option<SocketAddr>,
}
