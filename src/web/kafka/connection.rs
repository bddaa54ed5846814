//! One connection to a broker: it learns what the broker speaks when it opens, and carries one request at a time.

use super::error::KafkaError;
use crate::clock::monotonic;
use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Request, StrBytes, encode_request_header_into_buffer};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Longest answer, bytes.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// How long a connection may take to open: the rest of the time is for another broker.
const CONNECT_WITHIN: Duration = Duration::from_millis(1_000);
/// What this client is called in the broker's logs.
const CLIENT_ID: &str = "kafscale-console";

/// Answers beyond these versions name topics by id, or need what this client does not keep.
fn version_max(key: ApiKey) -> i16 {
    match key {
        ApiKey::Fetch | ApiKey::Produce => 12,
        ApiKey::OffsetCommit | ApiKey::OffsetFetch => 9,
        ApiKey::DeleteTopics => 5,
        _ => i16::MAX,
    }
}

/// Asking again changes nothing, so that a connection that turns out to be dead may be replaced.
pub fn is_reading(key: ApiKey) -> bool {
    matches!(
        key,
        ApiKey::ApiVersions
            | ApiKey::ConsumerGroupDescribe
            | ApiKey::DescribeCluster
            | ApiKey::DescribeConfigs
            | ApiKey::DescribeGroups
            | ApiKey::DescribeLogDirs
            | ApiKey::DescribeProducers
            | ApiKey::DescribeTopicPartitions
            | ApiKey::Fetch
            | ApiKey::FindCoordinator
            | ApiKey::ListGroups
            | ApiKey::ListOffsets
            | ApiKey::Metadata
            | ApiKey::OffsetFetch
            | ApiKey::OffsetForLeaderEpoch
    )
}

/// The API of a request.
pub fn key_of<R: Request>() -> ApiKey {
    ApiKey::try_from(R::KEY).unwrap_or(ApiKey::ApiVersions)
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    broker: String,
    correlation: i32,
    versions: HashMap<i16, (i16, i16)>,
    /// When it was last used.
    pub used_at: Instant,
}

impl Connection {
    /// Connects to `broker` (host:port) and asks what it speaks.
    pub async fn open(broker: &str, deadline: Instant) -> Result<Self, KafkaError> {
        let failed = |reason: String| KafkaError::Connect { broker: broker.to_owned(), reason };
        let until = deadline.min(monotonic() + CONNECT_WITHIN);
        let connected = tokio::time::timeout_at(until, TcpStream::connect(broker)).await;
        let stream = connected.map_err(|_| failed("no connection in time".to_owned()))?;
        let stream = stream.map_err(|e| failed(e.to_string()))?;
        stream.set_nodelay(true).map_err(|e| failed(e.to_string()))?;
        let mut connection = Self {
            stream,
            broker: broker.to_owned(),
            correlation: 0,
            versions: HashMap::from([(ApiKey::ApiVersions as i16, (0, 3))]),
            used_at: monotonic(),
        };
        let answer = connection.learn(deadline).await?;
        connection.versions =
            answer.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect();
        Ok(connection)
    }

    async fn learn(&mut self, deadline: Instant) -> Result<ApiVersionsResponse, KafkaError> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(CLIENT_ID))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let answer = self.exchange(&request, 3, deadline).await?;
        KafkaError::check(answer.error_code, None)?;
        Ok(answer)
    }

    /// False if the broker has closed it, or said something that nobody asked for.
    pub fn is_usable(&self) -> bool {
        let mut byte = [0; 1];
        matches!(self.stream.try_read(&mut byte), Err(e) if e.kind() == ErrorKind::WouldBlock)
    }

    /// The highest version of an API that both sides know.
    fn version(&self, key: ApiKey, known: (i16, i16)) -> Result<i16, KafkaError> {
        let unsupported = || KafkaError::Unsupported { broker: self.broker.clone(), api: key };
        let (min, max) = self.versions.get(&(key as i16)).copied().ok_or_else(unsupported)?;
        let version = max.min(known.1).min(version_max(key));
        if version >= min.max(known.0) { Ok(version) } else { Err(unsupported()) }
    }

    /// One request and its answer. After an error, or if this is not waited for, the connection is of no use.
    pub async fn call<R: Request>(&mut self, request: &R, deadline: Instant) -> Result<R::Response, KafkaError> {
        let version = self.version(key_of::<R>(), (R::VERSIONS.min, R::VERSIONS.max))?;
        self.exchange(request, version, deadline).await
    }

    async fn exchange<R: Request>(
        &mut self,
        request: &R,
        version: i16,
        deadline: Instant,
    ) -> Result<R::Response, KafkaError> {
        let api = key_of::<R>();
        self.correlation = self.correlation.wrapping_add(1);
        let frame = self.encode(request, version)?;
        let (broker, correlation) = (self.broker.clone(), self.correlation);
        let malformed = |reason: String| KafkaError::Malformed { broker: broker.clone(), api, reason };
        let mut answer = self.in_time(api, deadline, frame).await?;
        let header_version = api.response_header_version(version);
        let header = ResponseHeader::decode(&mut answer, header_version).map_err(|e| malformed(e.to_string()))?;
        if header.correlation_id != correlation {
            return Err(malformed(format!("it answers request {}, not {correlation}", header.correlation_id)));
        }
        let body = R::Response::decode(&mut answer, version).map_err(|e| malformed(e.to_string()))?;
        if answer.has_remaining() {
            return Err(malformed(format!("{} bytes too many", answer.remaining())));
        }
        self.used_at = monotonic();
        Ok(body)
    }

    fn encode<R: Request>(&self, request: &R, version: i16) -> Result<Bytes, KafkaError> {
        let broken = |reason: String| KafkaError::Request { broker: self.broker.clone(), api: key_of::<R>(), reason };
        let mut frame = BytesMut::from(&[0u8; 4][..]);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
        encode_request_header_into_buffer(&mut frame, &header).map_err(|e| broken(e.to_string()))?;
        request.encode(&mut frame, version).map_err(|e| broken(e.to_string()))?;
        let length = i32::try_from(frame.len() - 4).map_err(|_| broken("it is too long".to_owned()))?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        Ok(frame.freeze())
    }

    async fn in_time(&mut self, api: ApiKey, deadline: Instant, frame: Bytes) -> Result<Bytes, KafkaError> {
        let broker = self.broker.clone();
        let answered = tokio::time::timeout_at(deadline, Self::round_trip(&mut self.stream, frame)).await;
        let Ok(answered) = answered else {
            return Err(KafkaError::Timeout { broker, api });
        };
        answered.map_err(|e| match e.kind() {
            ErrorKind::InvalidData => KafkaError::Malformed { broker, api, reason: e.to_string() },
            _ => KafkaError::Closed { broker, api },
        })
    }

    async fn round_trip(stream: &mut TcpStream, frame: Bytes) -> std::io::Result<Bytes> {
        stream.write_all(&frame).await?;
        let length = stream.read_i32().await?;
        let length = usize::try_from(length).ok().filter(|length| *length <= FRAME_BYTES_MAX);
        let length = length.ok_or_else(|| {
            std::io::Error::new(ErrorKind::InvalidData, format!("it is longer than {} MiB", FRAME_BYTES_MAX >> 20))
        })?;
        let mut answer = BytesMut::with_capacity(length);
        while answer.len() < length {
            if (&mut *stream).take((length - answer.len()) as u64).read_buf(&mut answer).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(answer.freeze())
    }
}
