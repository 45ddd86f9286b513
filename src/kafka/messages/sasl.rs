//! APIs 17, 36, 50 and 51: clients sign in; names and how they sign in are described.

use bytes::Bytes;

use crate::kafka::wire::{Text, messages};

messages! {
    /// API 17.
    pub(crate) struct SaslHandshakeRequest (0..=1, flexible 2) {
        mechanism: Text [0..],
    }

    /// Whether the mechanism is offered, and which are.
    pub(crate) struct SaslHandshakeResponse (0..=1, flexible 2) {
        error_code: i16 [0..],
        mechanisms: Vec<Text> [0..],
    }

    /// API 36.
    pub(crate) struct SaslAuthenticateRequest (0..=2, flexible 2) {
        auth_bytes: Bytes [0..],
    }

    /// The mechanism's answer; at its end how long the session lasts, 0: for ever.
    pub(crate) struct SaslAuthenticateResponse (0..=2, flexible 2) {
        error_code: i16 [0..],
        error_message: Option<Text> [0..],
        auth_bytes: Bytes [0..],
        session_lifetime_ms: i64 [1..],
    }

    /// API 50; null or no users: all of them.
    pub(crate) struct DescribeUserScramCredentialsRequest (0..=0, flexible 0) {
        users: Option<Vec<UserName>> [0..],
    }

    /// A name.
    pub(crate) struct UserName {
        name: Text [0..],
    }

    /// The names.
    pub(crate) struct DescribeUserScramCredentialsResponse (0..=0, flexible 0) {
        throttle_time_ms: i32 [0..],
        error_code: i16 [0..],
        error_message: Option<Text> [0..],
        results: Vec<DescribeUserScramCredentialsResult> [0..],
    }

    /// A name with its credentials.
    pub(crate) struct DescribeUserScramCredentialsResult {
        user: Text [0..],
        error_code: i16 [0..],
        error_message: Option<Text> [0..],
        credential_infos: Vec<CredentialInfo> [0..],
    }

    /// A credential; 1: SCRAM-SHA-256, 2: SCRAM-SHA-512.
    pub(crate) struct CredentialInfo {
        mechanism: i8 [0..],
        iterations: i32 [0..],
    }

    /// API 51.
    pub(crate) struct AlterUserScramCredentialsRequest (0..=0, flexible 0) {
        deletions: Vec<ScramCredentialDeletion> [0..],
        upsertions: Vec<ScramCredentialUpsertion> [0..],
    }

    /// A credential to delete.
    pub(crate) struct ScramCredentialDeletion {
        name: Text [0..],
        mechanism: i8 [0..],
    }

    /// A credential to set.
    pub(crate) struct ScramCredentialUpsertion {
        name: Text [0..],
        mechanism: i8 [0..],
        iterations: i32 [0..],
        salt: Bytes [0..],
        salted_password: Bytes [0..],
    }

    /// Whether they are altered.
    pub(crate) struct AlterUserScramCredentialsResponse (0..=0, flexible 0) {
        throttle_time_ms: i32 [0..],
        results: Vec<AlterUserScramCredentialsResult> [0..],
    }

    /// Whether those of a name are.
    pub(crate) struct AlterUserScramCredentialsResult {
        user: Text [0..],
        error_code: i16 [0..],
        error_message: Option<Text> [0..],
    }
}
