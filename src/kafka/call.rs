//! What a handler gets beside its request, and what it may answer.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;

use super::Kafka;
use super::backlog::SMALL_ANSWER_BYTES;
use super::errors::ErrorCode;
use super::session::Session;
use super::wire::{Malformed, Text, Uuid};
use crate::broker::budget::Budget;
use crate::broker::caller::{Caller, RequestId};
use crate::broker::engine::{Topic, TopicId};
use crate::broker::refusal::Refusal;
use crate::broker::rights::Right;
use crate::broker::topics::catalog;

/// The id of the one node.
pub(crate) const NODE: i32 = 0;
/// The longest name of a client that a member keeps, in characters.
const MOST_CLIENT_NAME: usize = 255;
/// The epoch of every partition's leader: there is one leader for ever.
pub(crate) const LEADER_EPOCH: i32 = 0;

/// One request: the service, who calls, and in which version. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) kafka: Kafka,
    /// What every call of the broker takes.
    pub(crate) caller: Caller,
    /// That of the connection.
    pub(crate) session: Arc<Session>,
    /// The API's name, for metrics.
    pub(crate) api: &'static str,
    pub(crate) version: i16,
    /// Whether a quota has nothing left for it: a fetch is then answered without records.
    pub(crate) is_slowed: bool,
    /// How many bytes the request has.
    pub(crate) frame_bytes: usize,
    /// What the client calls itself.
    pub(crate) client_id: Option<Bytes>,
}

/// The most memory that an answer may take while it is made, in bytes. What a few bytes of a request may ask for again
/// and again is refused beyond it.
pub(crate) const MAX_ANSWER_BYTES: usize = 128 << 20;

/// Why a connection is closed without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Hangup {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("an API that is not offered")]
    UnknownApi,
    #[error("a version of an API that is not offered")]
    UnknownVersion,
    #[error("a request of a client that has not signed in")]
    NotSignedIn,
    #[error("too many requests are in memory")]
    Overloaded,
    #[error("a request whose answer would take too much memory")]
    AnswerTooLarge,
    #[error("a request that wants no answer has failed")]
    Unacknowledged,
}

/// An answer, as pieces of bytes with the header and without the length.
pub(crate) enum Answer {
    Now(Vec<Bytes>),
    /// It comes when the future ends. The next request is answered meanwhile, its answer is sent after this one.
    Later(BoxFuture<'static, Vec<Bytes>>),
    /// The client wants none.
    Never,
}

impl Answer {
    /// How many bytes it has, if it is there.
    pub(crate) fn bytes(&self) -> Option<usize> {
        match self {
            Self::Now(pieces) => Some(pieces.iter().map(Bytes::len).sum()),
            Self::Later(_) | Self::Never => None,
        }
    }
}

impl Deref for Call {
    type Target = Kafka;

    fn deref(&self) -> &Kafka {
        &self.kafka
    }
}

impl Call {
    /// Refuses a request that asks for so many rows of an answer that making and writing them could take more than
    /// [`MAX_ANSWER_BYTES`].
    ///
    /// # Errors
    /// [`Hangup::AnswerTooLarge`].
    pub(crate) fn check_rows<T>(rows: usize) -> Result<(), Hangup> {
        match rows.saturating_mul(2 * size_of::<T>()) <= MAX_ANSWER_BYTES {
            true => Ok(()),
            false => Err(Hangup::AnswerTooLarge),
        }
    }

    /// Takes a share of the memory for answers, for one that takes so many bytes while it is made; waits until there is
    /// one. A handler that may make much of a small request calls it before it begins. The share is held until the
    /// answer is sent, but not more of it than the answer takes by then.
    ///
    /// # Errors
    /// [`Hangup::Overloaded`]: the request has a share already, and others wait for it.
    pub(crate) async fn reserve(&self, bytes: usize) -> Result<(), Hangup> {
        match bytes <= SMALL_ANSWER_BYTES {
            true => Ok(()),
            false => self.reserve_in_all(self.session.answer_bytes() + bytes).await,
        }
    }

    /// The same for so many bytes with those that it has taken before. A share is rounded up, so whoever takes piece by
    /// piece counts them itself.
    async fn reserve_in_all(&self, bytes: usize) -> Result<(), Hangup> {
        // One share for all, so that a request that asks for all of the memory does not wait for its own part.
        let mut budget = Budget::holding(&self.answers, self.session.take_answer());
        let covered = budget.cover(bytes).await;
        covered.map_err(|_| Hangup::Overloaded)?;
        self.session.hold_answer(budget.take());
        Ok(())
    }

    /// Gives back what the request takes of the memory, because it waits from now on and nothing of it is kept.
    pub(crate) fn release(&self) {
        drop((self.session.take_request(), self.session.take_answer()));
    }

    /// Makes what was reserved what a finished answer takes, and takes it over.
    ///
    /// # Errors
    /// [`Hangup::Overloaded`]: others wait for the memory that the answer holds already.
    pub(crate) async fn settle(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Hangup> {
        let held = self.session.take_answer();
        if held.is_none() && bytes <= SMALL_ANSWER_BYTES {
            return Ok(None);
        }
        let mut budget = Budget::holding(&self.answers, held);
        budget.shrink(bytes);
        let covered = budget
            .cover_beside(bytes.saturating_sub(budget.covered()), bytes)
            .await;
        covered.map_err(|_| Hangup::Overloaded)?;
        Ok(budget.take())
    }

    /// What the client calls itself, as a text, of which members of groups keep the beginning.
    pub(crate) fn client_name(&self) -> Option<String> {
        let name = String::from_utf8_lossy(self.client_id.as_ref()?);
        Some(name.chars().take(MOST_CLIENT_NAME).collect())
    }

    /// The code of a refusal in the answer; counts it.
    pub(crate) fn refused(&self, refusal: &Refusal) -> i16 {
        self.failed(ErrorCode::from(refusal))
    }

    /// The code in the answer; counts it.
    pub(crate) fn failed(&self, code: ErrorCode) -> i16 {
        self.metrics.kafka.count_error(self.api, code.number());
        code.number()
    }

    /// The topic of that name, if the caller may do this with it.
    ///
    /// # Errors
    /// [`ErrorCode::TopicAuthorizationFailed`], whether there is such a topic or not;
    /// [`ErrorCode::UnknownTopicOrPartition`].
    pub(crate) fn topic(&self, right: Right, name: &str) -> Result<Arc<Topic>, Refusal> {
        self.caller.check_topic(right, name)?;
        catalog::find(&self.broker.log, name)
    }

    /// The topic with that id, if the caller may do this with it; one that it must not see is not known.
    pub(crate) fn topic_by_id(&self, right: Right, id: Uuid) -> Result<Arc<Topic>, ErrorCode> {
        let topic = self
            .number_of(id)
            .and_then(|id| self.broker.log.topic_by_id(id))
            .filter(|topic| {
                self.caller.sees_topic(topic.name()) || self.caller.may_topic(right, topic.name())
            })
            .ok_or(ErrorCode::UnknownTopicId)?;
        match self.caller.may_topic(right, topic.name()) {
            true => Ok(topic),
            false => Err(ErrorCode::TopicAuthorizationFailed),
        }
    }

    /// A topic by its name, or by its id in versions that have no name.
    pub(crate) fn topic_of(&self, right: Right, name: &str, id: Uuid) -> Result<Arc<Topic>, ErrorCode> {
        match id == Uuid::ZERO && !name.is_empty() {
            true => self
                .topic(right, name)
                .map_err(|refusal| ErrorCode::from(&refusal)),
            false => self.topic_by_id(right, id),
        }
    }

    /// The number of the topic with that id; `None`: it is of another data directory.
    pub(crate) fn number_of(&self, id: Uuid) -> Option<TopicId> {
        let (directory, topic) = (&id.0[..8], &id.0[8..]);
        let number = u64::from_be_bytes(topic.try_into().unwrap_or_default());
        (directory == self.broker.log.directory_number().to_be_bytes()).then_some(TopicId(number))
    }

    /// The id of a topic: the directory's id, and the topic's number in it.
    pub(crate) fn topic_id(&self, topic: &Topic) -> Uuid {
        self.id_of(topic.id())
    }

    /// The id of the topic with that number.
    pub(crate) fn id_of(&self, topic: TopicId) -> Uuid {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.broker.log.directory_number().to_be_bytes());
        id[8..].copy_from_slice(&topic.0.to_be_bytes());
        Uuid(id)
    }

    /// The cluster's id: that of the data directory.
    pub(crate) fn cluster_id(&self) -> Text {
        self.broker.log.directory_id().into()
    }

    /// Where clients reach the node: the host and the port of `kafka_advertise`, or else the address that this one has
    /// reached.
    pub(crate) fn address(&self) -> (Text, i32) {
        match &self.settings.advertise {
            Some((host, port)) => (host.as_str().into(), i32::from(*port)),
            None => {
                let host = self.session.reached.ip().to_canonical().to_string();
                (host.into(), self.session.reached.port().into())
            }
        }
    }

    /// The same as Kafka writes it: with the protocol before it.
    pub(crate) fn listener(&self) -> String {
        let protocol = match (self.broker.access.is_on(), self.session.is_private) {
            (false, false) => "PLAINTEXT",
            (false, true) => "SSL",
            (true, false) => "SASL_PLAINTEXT",
            (true, true) => "SASL_SSL",
        };
        match self.address() {
            (host, port) if host.contains(':') => format!("{protocol}://[{}]:{port}", &*host),
            (host, port) => format!("{protocol}://{}:{port}", &*host),
        }
    }
}

/// The memory for an answer that is made piece by piece, at most [`MAX_ANSWER_BYTES`].
pub(crate) struct Room<'a> {
    call: &'a Call,
    left: usize,
    /// What was reserved before the first piece.
    before: usize,
    /// What was taken and is not reserved yet: little, however many pieces there are.
    owed: usize,
}

impl<'a> Room<'a> {
    pub(crate) fn new(call: &'a Call) -> Self {
        Self {
            call,
            left: MAX_ANSWER_BYTES,
            before: call.session.answer_bytes(),
            owed: 0,
        }
    }

    /// Takes so many bytes for the next piece, and waits until there is memory for them. `false`: so many are not left.
    ///
    /// # Errors
    /// As [`Call::reserve`].
    pub(crate) async fn take(&mut self, bytes: usize) -> Result<bool, Hangup> {
        let Some(left) = self.left.checked_sub(bytes) else {
            return Ok(false);
        };
        (self.left, self.owed) = (left, self.owed + bytes);
        if self.owed > SMALL_ANSWER_BYTES {
            self.owed = 0;
            let taken = MAX_ANSWER_BYTES - self.left;
            self.call.reserve_in_all(self.before + taken).await?;
        }
        Ok(true)
    }
}

/// The number of a request, unique over connections and restarts.
pub(crate) fn request_id(life: u32, connection: u64, number: u32) -> RequestId {
    RequestId {
        life,
        connection,
        number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_of_many_pieces_takes_little_more_than_they() {
        let call = testing::call("DescribeGroups", 0, &[]);
        call.reserve(20_000).await.unwrap();
        let mut room = Room::new(&call);
        for _ in 0..200 {
            assert_eq!(room.take(17_000).await, Ok(true));
        }
        let (held, all) = (call.answers.held_bytes(), 200 * 17_000 + 20_000);
        assert!(
            (all..=all + (70 << 10)).contains(&held),
            "{held} bytes are held for {all}"
        );
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::net::{Ipv4Addr, SocketAddr};

    use serde_json::Value;

    use super::*;
    use crate::broker::Broker;
    use crate::broker::engine::TimestampMs;
    use crate::broker::engine::sim::{SimClock, SimDisk};
    use crate::kafka::Peer;
    use crate::metrics::Metrics;
    use crate::settings::Config;

    /// A call to a node with an empty topic `t` of one partition.
    pub(crate) fn call(api: &'static str, version: i16, config: &[(String, Value)]) -> Call {
        let clock = SimClock::new(TimestampMs(1_700_000_000_000));
        let broker = Broker::on(&SimDisk::new(1), &clock).unwrap();
        let made = broker.topics.create(&Caller::default(), "t", Some(1), config);
        made.unwrap();
        let peer = Peer {
            address: None,
            reached: SocketAddr::from((Ipv4Addr::LOCALHOST, 9092)),
            is_private: true,
            certificate: None,
            life: 1,
            connection: 1,
        };
        let session = Arc::new(Session::new(&broker.access, &peer));
        Call {
            caller: session.caller(request_id(1, 1, 1)),
            kafka: Kafka::new(broker, &Config::default(), Arc::new(Metrics::new())),
            session,
            api,
            version,
            is_slowed: false,
            frame_bytes: 0,
            client_id: None,
        }
    }
}
