//! Which API keys and versions this broker speaks.
//!
//! Only what is implemented is advertised: most clients have a fallback for an absent key and none for a wrong answer.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;

/// One API that this broker speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Api {
    /// The key.
    pub key: ApiKey,
    /// Lowest version in the ApiVersions reply.
    pub advertised_min: i16,
    /// Lowest version that is served.
    pub min: i16,
    /// Highest version, advertised and served.
    pub max: i16,
    /// First version with tagged fields and compact lengths; `i16::MAX` for none.
    pub flexible: i16,
    /// May be sent before authentication.
    pub before_auth: bool,
}

const fn api(key: ApiKey, min: i16, max: i16, flexible: i16) -> Api {
    Api { key, advertised_min: min, min, max, flexible, before_auth: false }
}

/// The advertised APIs, by key.
pub const APIS: &[Api] = &[
    // Clients decide by version 0 of Produce whether a broker understands compression at all (KAFKA-18659), so Kafka
    // advertises 0 and rejects 0-2; so does this broker.
    Api { advertised_min: 0, ..api(ApiKey::Produce, 3, 13, 9) },
    api(ApiKey::Fetch, 4, 18, 12),
    api(ApiKey::ListOffsets, 1, 10, 6),
    api(ApiKey::Metadata, 0, 13, 9),
    // Version 10 addresses topics by id; it is not stable in Kafka 4.1, whose clients do not send it.
    api(ApiKey::OffsetCommit, 2, 9, 8),
    api(ApiKey::OffsetFetch, 1, 9, 6),
    api(ApiKey::FindCoordinator, 0, 6, 3),
    api(ApiKey::JoinGroup, 0, 9, 6),
    api(ApiKey::Heartbeat, 0, 4, 4),
    api(ApiKey::LeaveGroup, 0, 5, 4),
    api(ApiKey::SyncGroup, 0, 5, 4),
    api(ApiKey::DescribeGroups, 0, 6, 5),
    api(ApiKey::ListGroups, 0, 5, 3),
    Api { before_auth: true, ..api(ApiKey::ApiVersions, 0, 4, 3) },
    api(ApiKey::CreateTopics, 2, 7, 5),
    api(ApiKey::DeleteTopics, 1, 6, 4),
    api(ApiKey::DeleteRecords, 0, 2, 2),
    api(ApiKey::InitProducerId, 0, 5, 2),
    api(ApiKey::OffsetForLeaderEpoch, 2, 4, 4),
    api(ApiKey::DescribeConfigs, 1, 4, 4),
    api(ApiKey::AlterConfigs, 0, 2, 2),
    api(ApiKey::AlterReplicaLogDirs, 1, 2, 2),
    api(ApiKey::DescribeLogDirs, 1, 4, 2),
    api(ApiKey::CreatePartitions, 0, 3, 2),
    api(ApiKey::DeleteGroups, 0, 2, 2),
    api(ApiKey::ElectLeaders, 0, 2, 2),
    api(ApiKey::IncrementalAlterConfigs, 0, 1, 1),
    api(ApiKey::AlterPartitionReassignments, 0, 1, 0),
    api(ApiKey::ListPartitionReassignments, 0, 0, 0),
    api(ApiKey::OffsetDelete, 0, 0, i16::MAX),
    api(ApiKey::UpdateFeatures, 0, 2, 0),
    api(ApiKey::DescribeCluster, 0, 2, 0),
    api(ApiKey::DescribeProducers, 0, 0, 0),
    api(ApiKey::ConsumerGroupHeartbeat, 0, 1, 0),
    api(ApiKey::ConsumerGroupDescribe, 0, 1, 0),
    api(ApiKey::ListConfigResources, 0, 1, 0),
    api(ApiKey::DescribeTopicPartitions, 0, 0, 0),
];

/// The API with this key, if it is spoken.
pub fn find(key: i16) -> Option<&'static Api> {
    APIS.iter().find(|a| a.key as i16 == key)
}

impl Api {
    /// True if `version` is served.
    pub fn serves(&self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    /// Version of the request header: 2 has tagged fields.
    pub fn request_header_version(&self, version: i16) -> i16 {
        if version >= self.flexible { 2 } else { 1 }
    }

    /// Version of the response header: 1 has tagged fields. ApiVersions always has 0, because the client does not know
    /// yet what the broker understands.
    pub fn response_header_version(&self, version: i16) -> i16 {
        if version >= self.flexible && self.key != ApiKey::ApiVersions { 1 } else { 0 }
    }
}

/// The body that answers ApiVersions in a version this broker does not know: version 0, error UNSUPPORTED_VERSION, and
/// the versions of ApiVersions itself, so that the client asks again with one of them.
pub fn unsupported_api_versions_body() -> Bytes {
    const UNSUPPORTED_VERSION: i16 = 35;
    let own = find(ApiKey::ApiVersions as i16).expect("ApiVersions is in the table");
    let mut body = BytesMut::with_capacity(12);
    body.put_i16(UNSUPPORTED_VERSION);
    body.put_i32(1);
    body.put_i16(own.key as i16);
    body.put_i16(own.advertised_min);
    body.put_i16(own.max);
    body.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::ApiVersionsResponse;
    use kafka_protocol::protocol::Decodable;

    #[test]
    fn the_table_agrees_with_the_codec() {
        for api in APIS {
            let codec = api.key.valid_versions();
            assert!(codec.min <= api.min && api.max <= codec.max, "{:?}", api.key);
            for version in api.min..=api.max {
                assert_eq!(api.request_header_version(version), api.key.request_header_version(version), "{api:?}");
                assert_eq!(api.response_header_version(version), api.key.response_header_version(version), "{api:?}");
            }
        }
        assert!(APIS.windows(2).all(|w| (w[0].key as i16) < (w[1].key as i16)), "sorted and unique");
    }

    #[test]
    fn unsupported_api_versions_is_a_v0_body() {
        let mut body = unsupported_api_versions_body();
        let decoded = ApiVersionsResponse::decode(&mut body, 0).unwrap();
        assert!(body.is_empty());
        assert_eq!(decoded.error_code, 35);
        let keys: Vec<_> = decoded.api_keys.iter().map(|k| (k.api_key, k.min_version, k.max_version)).collect();
        assert_eq!(keys, [(18, 0, 4)]);
    }
}
