//! Error codes of Kafka's protocol, and which code a refusal of the broker has.

use crate::broker::groups::classic::Denied;
use crate::broker::names;
use crate::broker::refusal::{Reason, Refusal};

/// A code, by Kafka's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i16)]
#[allow(dead_code, reason = "the table is Kafka's; handlers use what they need")]
pub(crate) enum ErrorCode {
    UnknownServerError = -1,
    None = 0,
    OffsetOutOfRange = 1,
    CorruptMessage = 2,
    UnknownTopicOrPartition = 3,
    RequestTimedOut = 7,
    MessageTooLarge = 10,
    OffsetMetadataTooLarge = 12,
    CoordinatorNotAvailable = 15,
    NotCoordinator = 16,
    InvalidTopic = 17,
    InvalidRequiredAcks = 21,
    IllegalGeneration = 22,
    InconsistentGroupProtocol = 23,
    InvalidGroupId = 24,
    UnknownMemberId = 25,
    InvalidSessionTimeout = 26,
    RebalanceInProgress = 27,
    TopicAuthorizationFailed = 29,
    GroupAuthorizationFailed = 30,
    ClusterAuthorizationFailed = 31,
    InvalidTimestamp = 32,
    UnsupportedSaslMechanism = 33,
    IllegalSaslState = 34,
    UnsupportedVersion = 35,
    TopicAlreadyExists = 36,
    InvalidPartitions = 37,
    InvalidReplicationFactor = 38,
    InvalidReplicaAssignment = 39,
    InvalidConfig = 40,
    NotController = 41,
    InvalidRequest = 42,
    PolicyViolation = 44,
    OutOfOrderSequenceNumber = 45,
    InvalidProducerEpoch = 47,
    InvalidTxnState = 48,
    SecurityDisabled = 54,
    KafkaStorageError = 56,
    SaslAuthenticationFailed = 58,
    UnknownProducerId = 59,
    NonEmptyGroup = 68,
    GroupIdNotFound = 69,
    FetchSessionIdNotFound = 70,
    FencedLeaderEpoch = 74,
    UnknownLeaderEpoch = 75,
    UnsupportedCompressionType = 76,
    MemberIdRequired = 79,
    GroupMaxSizeReached = 81,
    FencedInstanceId = 82,
    GroupSubscribedToTopic = 86,
    InvalidRecord = 87,
    UnstableOffsetCommit = 88,
    ThrottlingQuotaExceeded = 89,
    ResourceNotFound = 91,
    UnknownTopicId = 100,
    TransactionalIdNotFound = 105,
    FencedMemberEpoch = 110,
    UnreleasedInstanceId = 111,
    UnsupportedAssignor = 112,
    StaleMemberEpoch = 113,
    MismatchedEndpointType = 114,
    UnsupportedEndpointType = 115,
    InvalidRegularExpression = 128,
}

impl ErrorCode {
    /// The number in an answer.
    pub(crate) const fn number(self) -> i16 {
        self as i16
    }

    /// The code of a reason, where the call has none of its own for it.
    pub(crate) const fn of(reason: Reason) -> Self {
        match reason {
            Reason::UnknownTopic | Reason::UnknownPartition => Self::UnknownTopicOrPartition,
            Reason::UnknownGroup => Self::GroupIdNotFound,
            Reason::UnknownMember => Self::UnknownMemberId,
            Reason::TopicExists => Self::TopicAlreadyExists,
            Reason::TopicChanged => Self::UnknownTopicId,
            Reason::TopicProtected => Self::PolicyViolation,
            Reason::PartitionsCannotShrink => Self::InvalidPartitions,
            Reason::GroupActive => Self::NonEmptyGroup,
            Reason::GroupTypeMismatch => Self::InconsistentGroupProtocol,
            Reason::Fenced => Self::InvalidProducerEpoch,
            Reason::MemberSuperseded => Self::FencedInstanceId,
            Reason::OutOfOrderSequence => Self::OutOfOrderSequenceNumber,
            Reason::ForgottenProducer => Self::UnknownProducerId,
            Reason::OffsetTrimmed | Reason::OffsetOutOfRange => Self::OffsetOutOfRange,
            Reason::RecordTooLarge | Reason::RequestTooLarge => Self::MessageTooLarge,
            Reason::Unauthenticated => Self::SaslAuthenticationFailed,
            Reason::Forbidden => Self::TopicAuthorizationFailed,
            Reason::QuotaExceeded => Self::ThrottlingQuotaExceeded,
            Reason::NotSupported => Self::UnsupportedVersion,
            Reason::CorruptData | Reason::CorruptBatch => Self::CorruptMessage,
            Reason::InvalidBatch => Self::InvalidRecord,
            Reason::InvalidTimestamp => Self::InvalidTimestamp,
            // As Kafka's own broker answers it.
            Reason::UnknownCompression => Self::UnknownServerError,
            Reason::Internal => Self::UnknownServerError,
            Reason::Overloaded | Reason::ShuttingDown | Reason::LogFailed | Reason::StorageFull => {
                Self::KafkaStorageError
            }
            Reason::InvalidRequest
            | Reason::UnknownBackup
            | Reason::BackupExists
            | Reason::BackupRunning
            | Reason::PollSuperseded
            | Reason::GroupSettingsDiffer
            | Reason::IdempotencyKeyReused
            | Reason::OffsetMismatch
            | Reason::PreviewOutdated
            | Reason::CursorExpired
            | Reason::PollExpired
            | Reason::UnknownPrincipal
            | Reason::PrincipalExists
            | Reason::NotDamaged => Self::InvalidRequest,
        }
    }

    /// The code of a refusal that concerns the topic of that name: a name that no topic can have is told apart, as in Kafka.
    pub(crate) fn of_topic(refusal: &Refusal, name: &str) -> Self {
        match refusal.reason {
            Reason::UnknownTopic if names::TOPIC.check(name).is_err() => Self::InvalidTopic,
            reason => Self::of(reason),
        }
    }

    /// The code of a refusal that concerns a group.
    pub(crate) const fn of_group(reason: Reason) -> Self {
        match reason {
            Reason::Forbidden => Self::GroupAuthorizationFailed,
            Reason::InvalidRequest => Self::InvalidGroupId,
            // Clients look for the coordinator again, and retry.
            Reason::Overloaded | Reason::ShuttingDown | Reason::LogFailed | Reason::StorageFull => {
                Self::CoordinatorNotAvailable
            }
            other => Self::of(other),
        }
    }
}

impl ErrorCode {
    /// The code of a call that a group denies.
    pub(crate) const fn of_denied(denied: &Denied) -> Self {
        match denied {
            Denied::UnknownMember => Self::UnknownMemberId,
            Denied::IllegalGeneration => Self::IllegalGeneration,
            Denied::Rebalancing => Self::RebalanceInProgress,
            Denied::InconsistentProtocol => Self::InconsistentGroupProtocol,
            Denied::FencedInstance => Self::FencedInstanceId,
            Denied::MemberIdRequired(_) => Self::MemberIdRequired,
            Denied::SessionTimeout => Self::InvalidSessionTimeout,
            Denied::Full => Self::GroupMaxSizeReached,
            Denied::TooLarge => Self::InvalidRequest,
            Denied::InvalidName => Self::InvalidGroupId,
            Denied::FencedEpoch => Self::FencedMemberEpoch,
            Denied::StaleEpoch => Self::StaleMemberEpoch,
            Denied::NeedsEpoch => Self::UnsupportedVersion,
            Denied::OtherKind => Self::GroupIdNotFound,
            Denied::InstanceInUse => Self::UnreleasedInstanceId,
            Denied::UnsupportedAssignor => Self::UnsupportedAssignor,
            Denied::InvalidRegex(_) => Self::InvalidRegularExpression,
            Denied::Invalid(_) => Self::InvalidRequest,
            Denied::Topic(refusal) => Self::of(refusal.reason),
            Denied::Refused(refusal) => Self::of_group(refusal.reason),
        }
    }
}

impl From<&Refusal> for ErrorCode {
    fn from(refusal: &Refusal) -> Self {
        Self::of(refusal.reason)
    }
}
