//! API 18, ApiVersions.

use super::apis::{APIS, write};
use super::call::{Answer, Call, Hangup, NODE};
use super::errors::ErrorCode;
use super::header::{API_VERSIONS, RequestHeader};
use super::messages::api_versions::{ApiVersion, ApiVersionsRequest, ApiVersionsResponse};

/// Says which APIs there are.
pub(crate) async fn api_versions(
    call: &Call,
    request: ApiVersionsRequest,
) -> Result<ApiVersionsResponse, Hangup> {
    let is_named = call.version < 3
        || is_name(&request.client_software_name) && is_name(&request.client_software_version);
    let is_ours = request.cluster_id.is_none_or(|id| *id == *call.cluster_id())
        && (request.node_id == -1 || request.node_id == NODE);
    if !is_named || !is_ours {
        return Ok(ApiVersionsResponse {
            error_code: call.failed(ErrorCode::InvalidRequest),
            ..ApiVersionsResponse::default()
        });
    }
    Ok(ApiVersionsResponse {
        api_keys: APIS
            .iter()
            .map(|api| row(api.key, (*api.versions.start(), *api.versions.end())))
            .collect(),
        ..ApiVersionsResponse::default()
    })
}

/// The answer to a version that is too new: version 0, with what is known of this API alone. Clients ask again.
pub(crate) fn too_new(call: &Call, header: &RequestHeader) -> Answer {
    let own = APIS.iter().filter(|api| api.key == API_VERSIONS);
    let message = ApiVersionsResponse {
        error_code: call.failed(ErrorCode::UnsupportedVersion),
        api_keys: own
            .map(|api| row(api.key, (*api.versions.start(), *api.versions.end())))
            .collect(),
        ..ApiVersionsResponse::default()
    };
    Answer::Now(write(API_VERSIONS, header.correlation, 0, &message))
}

fn row(api_key: i16, (min_version, max_version): (i16, i16)) -> ApiVersion {
    ApiVersion {
        api_key,
        min_version,
        max_version,
    }
}

/// Whether clients' software may be called that.
fn is_name(text: &str) -> bool {
    let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
    is_end(text.bytes().next()) && is_end(text.bytes().last()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_of_software_are_letters_and_digits_with_dots_and_dashes_between() {
        for good in ["librdkafka", "2.16.0", "apache-kafka-java", "4"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "bad name!", "-a", "a.", "ü"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
