//! Who calls: known when a connection is accepted, and handed on with each of its requests, whatever the wire.
//!
//! Every call of the broker that changes something takes a [`Caller`], so that one place can check what it may do, and
//! can record who has done what.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Who calls. Cheap to clone. The default is nobody in particular: the server itself, or a test.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// Where the request comes from: the other end of the connection, or what a trusted proxy says it is (with port 0
    /// if the proxy does not name it). `None` if the connection is closed already.
    pub address: Option<SocketAddr>,
    /// Names the request in answers and in the log.
    pub request_id: RequestId,
    /// The name of whoever has signed in; `None`: nobody has to.
    pub principal: Option<Arc<str>>,
}

/// An address as it is shown: without its port if that is 0, which means unknown.
#[derive(Clone, Copy, Debug)]
pub struct Shown(pub SocketAddr);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.port() {
            0 => self.0.ip().fmt(f),
            _ => self.0.fmt(f),
        }
    }
}

/// The number of a request, unique over connections and restarts. It is only written as text where it is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestId {
    /// Of the server's process.
    pub life: u32,
    /// Of the connection.
    pub connection: u64,
    /// Of the request on its connection.
    pub number: u32,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:x}-{:x}", self.life, self.connection, self.number)
    }
}
