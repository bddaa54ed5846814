//! ApiVersions: what this broker speaks. Versions it does not know are answered by the connection.

use super::ConnectionContext;
use super::common::Call;
use crate::protocol::api::APIS;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::features;
use kafka_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use std::rc::Rc;

pub(super) async fn api_versions(
    _ctx: Rc<ConnectionContext>,
    request: ApiVersionsRequest,
    call: Call,
) -> ApiVersionsResponse {
    let named = is_token(&request.client_software_name) && is_token(&request.client_software_version);
    if call.version >= 3 && !named {
        return ApiVersionsResponse::default().with_error_code(ErrorCode::InvalidRequest.code());
    }
    let keys = APIS.iter().map(|api| {
        ApiVersion::default()
            .with_api_key(api.key as i16)
            .with_min_version(api.advertised_min)
            .with_max_version(api.max)
    });
    let features = features::supported();
    // Clients of version 3 cannot read a feature that may be absent (level 0).
    let readable = features.iter().filter(|f| call.version >= 4 || f.min > 0).map(|f| {
        SupportedFeatureKey::default().with_name(f.name.into()).with_min_version(f.min).with_max_version(f.max)
    });
    let finalized = features.iter().map(|f| {
        FinalizedFeatureKey::default()
            .with_name(f.name.into())
            .with_min_version_level(f.level)
            .with_max_version_level(f.level)
    });
    let response = ApiVersionsResponse::default().with_api_keys(keys.collect());
    if call.version < 3 || features.is_empty() {
        return response;
    }
    response
        .with_supported_features(readable.collect())
        .with_finalized_features(finalized.collect())
        .with_finalized_features_epoch(features::EPOCH)
}

/// Letters, digits, '-' and '.', with a letter or digit at both ends (KIP-511).
fn is_token(text: &str) -> bool {
    let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let ends = alphanumeric(text.chars().next()) && alphanumeric(text.chars().next_back());
    ends && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
}

#[cfg(test)]
mod tests {
    use super::is_token;

    #[test]
    fn software_names() {
        for good in ["a", "apache-kafka-java", "4.1.1", "librdkafka"] {
            assert!(is_token(good), "{good}");
        }
        for bad in ["", "-a", "a.", "a b", "a_b", "ä", "a\n"] {
            assert!(!is_token(bad), "{bad:?}");
        }
    }
}
