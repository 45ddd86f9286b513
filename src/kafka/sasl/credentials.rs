//! APIs 50 and 51: who can sign in with SCRAM. A password is a token's secret, which the server makes, over HTTP: so nothing
//! is altered here.

use std::collections::BTreeSet;

use super::super::call::{Call, Hangup};
use super::super::errors::ErrorCode;
use super::super::messages::sasl::{
    AlterUserScramCredentialsRequest, AlterUserScramCredentialsResponse, AlterUserScramCredentialsResult,
    CredentialInfo, DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse,
    DescribeUserScramCredentialsResult,
};
use super::super::wire::Text;
use crate::broker::access::scram::Hash;

/// Kafka's numbers of the mechanisms.
const MECHANISMS: [(Hash, i8); 2] = [(Hash::Sha256, 1), (Hash::Sha512, 2)];

/// Names tokens, to administrators.
pub(crate) async fn describe_scram_credentials(
    call: &Call,
    request: DescribeUserScramCredentialsRequest,
) -> Result<DescribeUserScramCredentialsResponse, Hangup> {
    if call.caller.check_admin().is_err() {
        return Ok(DescribeUserScramCredentialsResponse {
            error_code: call.failed(ErrorCode::ClusterAuthorizationFailed),
            ..DescribeUserScramCredentialsResponse::default()
        });
    }
    let access = &call.broker.access;
    let known: BTreeSet<String> = access.tokens().into_iter().map(|token| token.name).collect();
    let asked: Vec<Text> = match request.users.filter(|users| !users.is_empty()) {
        Some(users) => users.into_iter().map(|user| user.name).collect(),
        None => known.iter().map(|name| name.as_str().into()).collect(),
    };
    let row = |user: Text| {
        if !known.contains(&*user) {
            return DescribeUserScramCredentialsResult {
                user,
                error_code: call.failed(ErrorCode::ResourceNotFound),
                error_message: Some("no token has this name".into()),
                ..DescribeUserScramCredentialsResult::default()
            };
        }
        let infos = MECHANISMS.into_iter().map(|(hash, mechanism)| CredentialInfo {
            mechanism,
            iterations: access.scram_challenge(hash, &user).iterations as i32,
        });
        DescribeUserScramCredentialsResult {
            credential_infos: infos.collect(),
            user,
            ..DescribeUserScramCredentialsResult::default()
        }
    };
    Ok(DescribeUserScramCredentialsResponse {
        results: asked.into_iter().map(row).collect(),
        ..DescribeUserScramCredentialsResponse::default()
    })
}

/// Refuses to alter what only tokens have.
pub(crate) async fn alter_scram_credentials(
    call: &Call,
    request: AlterUserScramCredentialsRequest,
) -> Result<AlterUserScramCredentialsResponse, Hangup> {
    let deleted = request.deletions.into_iter().map(|deletion| deletion.name);
    let set = request.upsertions.into_iter().map(|upsertion| upsertion.name);
    let names: BTreeSet<Text> = deleted.chain(set).collect();
    let (code, why) = match call.caller.check_admin() {
        Ok(()) => (
            ErrorCode::InvalidRequest,
            "a password is a token: it is made and revoked over HTTP",
        ),
        Err(_) => (
            ErrorCode::ClusterAuthorizationFailed,
            "this needs the right admin",
        ),
    };
    let row = |user| AlterUserScramCredentialsResult {
        user,
        error_code: call.failed(code),
        error_message: Some(why.into()),
    };
    Ok(AlterUserScramCredentialsResponse {
        results: names.into_iter().map(row).collect(),
        ..AlterUserScramCredentialsResponse::default()
    })
}
