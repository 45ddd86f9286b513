//! Who calls: known when a connection is accepted, and handed on with each of its requests, whatever the wire.
//!
//! Every call of the broker that changes something takes a [`Caller`], so that one place can check what it may do, and
//! can record who has done what.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::refusal::{Reason, Refusal};
use super::rights::grant::{Certificate, Grant};
use super::rights::{Right, Rules};

/// Who calls. Cheap to clone. The default is nobody in particular: the server itself, or a test.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// Where the request comes from: the other end of the connection, or what a trusted proxy says it is (with port 0
    /// if the proxy does not name it). `None` if the connection is closed already.
    pub address: Option<SocketAddr>,
    /// Names the request in answers and in the log.
    pub request_id: RequestId,
    /// The certificate that the client has presented; the listener has verified it.
    pub certificate: Option<Arc<Certificate>>,
    /// Who has signed in.
    pub who: Who,
}

/// Who has signed in.
#[derive(Clone, Debug, Default)]
pub enum Who {
    /// Nobody has to, so everything is allowed; or the server itself calls.
    #[default]
    Anyone,
    /// Nobody has, although one has to: only what is open to all is allowed.
    Nobody,
    /// Somebody, with what that allows.
    SignedIn(Arc<Grant>),
}

impl Who {
    fn has(&self, allows: impl Fn(&Rules) -> bool) -> bool {
        match self {
            Self::Anyone => true,
            Self::Nobody => false,
            Self::SignedIn(grant) => allows(&grant.principal.rules),
        }
    }

    /// Whether they may do this with a topic of that name.
    #[must_use]
    pub fn may_topic(&self, right: Right, topic: &str) -> bool {
        self.has(|rules| rules.topic(right, topic))
    }

    /// Whether both have the same rules, for the same reason.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Anyone, Self::Anyone) | (Self::Nobody, Self::Nobody) => true,
            (Self::SignedIn(one), Self::SignedIn(two)) => Arc::ptr_eq(&one.principal, &two.principal),
            _ => false,
        }
    }
}

impl Caller {
    /// The name of whoever has signed in; `None`: nobody has.
    #[must_use]
    pub fn principal(&self) -> Option<&Arc<str>> {
        self.grant().map(|grant| &grant.principal.name)
    }

    /// What was signed in with.
    #[must_use]
    pub fn grant(&self) -> Option<&Arc<Grant>> {
        match &self.who {
            Who::SignedIn(grant) => Some(grant),
            Who::Anyone | Who::Nobody => None,
        }
    }

    /// Whether it may do this with a topic of that name, whether there is one or not.
    #[inline]
    #[must_use]
    pub fn may_topic(&self, right: Right, topic: &str) -> bool {
        self.who.may_topic(right, topic)
    }

    /// Whether it may do this with a group of that name, whether there is one or not.
    #[inline]
    #[must_use]
    pub fn may_group(&self, right: Right, group: &str) -> bool {
        self.who.has(|rules| rules.group(right, group))
    }

    /// Whether it may look at a topic.
    #[must_use]
    pub fn sees_topic(&self, topic: &str) -> bool {
        self.may_topic(Right::Describe, topic)
    }

    /// Whether it may look at a group.
    #[must_use]
    pub fn sees_group(&self, group: &str) -> bool {
        self.may_group(Right::Describe, group)
    }

    /// Whether it is an administrator.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.who.has(Rules::is_admin)
    }

    /// Whether it may look at all topics and all groups.
    #[must_use]
    pub fn sees_all(&self) -> bool {
        self.who.has(Rules::describes_all)
    }

    /// Refuses what may not be done with a topic. The refusal is the same whether there is such a topic or not.
    ///
    /// # Errors
    /// [`Reason::Forbidden`]; [`Reason::Unauthenticated`] if nobody has signed in.
    #[inline]
    pub fn check_topic(&self, right: Right, topic: &str) -> Result<(), Refusal> {
        match self.may_topic(right, topic) {
            true => Ok(()),
            false => Err(self.refuse(|| format!("the right {} on the topic {}", right.name(), cut(topic)))),
        }
    }

    /// Refuses what may not be done with a group, if it has none of these rights.
    ///
    /// # Errors
    /// As for [`Caller::check_topic`].
    #[inline]
    pub fn check_group(&self, rights: &[Right], group: &str) -> Result<(), Refusal> {
        match rights.iter().any(|right| self.may_group(*right, group)) {
            true => Ok(()),
            false => Err(self.refuse(|| {
                let names: Vec<&str> = rights.iter().map(|right| right.name()).collect();
                format!("the right {} on the group {}", names.join(" or "), cut(group))
            })),
        }
    }

    /// Refuses what only those do who may do this with some topic.
    ///
    /// # Errors
    /// As for [`Caller::check_topic`].
    pub fn check_some_topic(&self, right: Right) -> Result<(), Refusal> {
        match self.who.has(|rules| rules.some_topic(right)) {
            true => Ok(()),
            false => Err(self.refuse(|| format!("the right {} on a topic", right.name()))),
        }
    }

    /// Refuses what needs no rights, but a name.
    ///
    /// # Errors
    /// [`Reason::Unauthenticated`].
    pub fn check_signed_in(&self) -> Result<(), Refusal> {
        match &self.who {
            Who::Nobody => Err(self.refuse(String::new)),
            Who::Anyone | Who::SignedIn(_) => Ok(()),
        }
    }

    /// Refuses what only administrators do.
    ///
    /// # Errors
    /// As for [`Caller::check_topic`].
    pub fn check_admin(&self) -> Result<(), Refusal> {
        match self.is_admin() {
            true => Ok(()),
            false => Err(self.refuse(|| "the right admin".to_owned())),
        }
    }

    /// Refuses what shows all topics and all groups.
    ///
    /// # Errors
    /// As for [`Caller::check_topic`].
    pub fn check_sees_all(&self) -> Result<(), Refusal> {
        match self.sees_all() {
            true => Ok(()),
            false => Err(self.refuse(|| "the right describe on all topics and all groups".to_owned())),
        }
    }

    #[cold]
    fn refuse(&self, what: impl FnOnce() -> String) -> Refusal {
        match &self.who {
            Who::Nobody => Refusal::new(
                Reason::Unauthenticated,
                "sign in: send a token as Authorization: Bearer …",
            ),
            Who::Anyone | Who::SignedIn(_) => {
                Refusal::new(Reason::Forbidden, format!("this needs {}", what()))
            }
        }
    }
}

/// A name as it is shown in a message.
fn cut(name: &str) -> String {
    name.chars().take(250).collect()
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
