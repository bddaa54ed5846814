//! A small Kafka client that shows everything: requests at a chosen version, raw frames, pipelining, batches by hand.
//!
//! [`Connection`] is one socket and never retries. [`Client`] keeps a connection to one broker, opens a new one when it
//! breaks, and retries what real clients retry, up to a deadline. `batches.rs` has what is in the batches.

// Benchmarks include this file from elsewhere.
#[path = "client/batches.rs"]
mod batches;

pub use batches::*;
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, BrokerId, CreateTopicsRequest, FetchRequest, InitProducerIdRequest, ListOffsetsRequest,
    MetadataRequest, MetadataResponse, ProduceRequest, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Request, StrBytes, encode_request_header_into_buffer};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long one answer may take.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// How long a [`Client`] goes on retrying.
pub const RETRY_DEADLINE: Duration = Duration::from_secs(90);
/// Frames longer than this are a broken broker.
const FRAME_BYTES_MAX: usize = 256 << 20;
/// ListOffsets timestamp: log start.
pub const EARLIEST: i64 = -2;
/// ListOffsets timestamp: high watermark.
pub const LATEST: i64 = -1;

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection broke or could not be made.
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// A Kafka error code.
    #[error("error code {0}")]
    Code(i16),
    /// The answer does not decode or does not fit the question.
    #[error("malformed answer: {0}")]
    Malformed(String),
}

/// Result of an exchange.
pub type Result<T> = std::result::Result<T, ClientError>;

fn malformed(e: impl std::fmt::Display) -> ClientError {
    ClientError::Malformed(e.to_string())
}

/// An error code as a result.
pub fn check(code: i16) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(ClientError::Code(code)) }
}

/// A Kafka string.
pub fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_string())
}

/// A topic name.
pub fn topic_name(value: &str) -> TopicName {
    TopicName(text(value))
}

/// Correlation id and answer of a frame (without its length) that answers an `R` at `version`.
pub fn decode_answer<R: Request>(mut frame: Bytes, version: i16) -> Result<(i32, R::Response)> {
    let key = ApiKey::try_from(R::KEY).map_err(|()| malformed("unknown API key"))?;
    let header_version = key.response_header_version(version);
    let header = ResponseHeader::decode(&mut frame, header_version).map_err(malformed)?;
    let answer = R::Response::decode(&mut frame, version).map_err(malformed)?;
    if !frame.is_empty() {
        return Err(malformed(format!("{} bytes too many", frame.len())));
    }
    Ok((header.correlation_id, answer))
}

/// One TCP connection to a broker.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    correlation: i32,
    /// Correlation ids of requests that still wait for an answer, oldest first.
    waiting: std::collections::VecDeque<i32>,
    /// How long one answer may take.
    pub deadline: Duration,
}

impl Connection {
    /// Connects to host:port.
    pub async fn open(address: &str) -> Result<Self> {
        let connect = tokio::time::timeout(ANSWER_DEADLINE, TcpStream::connect(address));
        let stream = connect.await.map_err(|_| ClientError::Timeout(ANSWER_DEADLINE))??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, correlation: 0, waiting: Default::default(), deadline: ANSWER_DEADLINE })
    }

    /// The frame (with its length) of `request` at `version`.
    pub fn frame<R: Request>(correlation: i32, version: i16, request: &R) -> Result<Bytes> {
        let mut frame = BytesMut::from(&[0u8; 4][..]);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(correlation)
            .with_client_id(Some(StrBytes::from_static_str("kafscale-test")));
        encode_request_header_into_buffer(&mut frame, &header).map_err(malformed)?;
        request.encode(&mut frame, version).map_err(malformed)?;
        let length = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        Ok(frame.freeze())
    }

    /// Sends a request without waiting for its answer.
    pub async fn send<R: Request>(&mut self, version: i16, request: &R) -> Result<()> {
        self.send_unanswered(version, request).await?;
        self.waiting.push_back(self.correlation);
        Ok(())
    }

    /// Sends a request that gets no answer (Produce with acks=0).
    pub async fn send_unanswered<R: Request>(&mut self, version: i16, request: &R) -> Result<()> {
        self.correlation += 1;
        let frame = Self::frame(self.correlation, version, request)?;
        self.send_raw(&frame).await
    }

    /// Sends bytes as they are.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        let deadline = self.deadline;
        let write = tokio::time::timeout(deadline, self.stream.write_all(bytes));
        Ok(write.await.map_err(|_| ClientError::Timeout(deadline))??)
    }

    /// The next frame, without its length.
    pub async fn receive_raw(&mut self) -> Result<Bytes> {
        let deadline = self.deadline;
        let read = async {
            let length = self.stream.read_i32().await?;
            let length = usize::try_from(length).ok().filter(|l| *l <= FRAME_BYTES_MAX);
            let length = length.ok_or_else(|| malformed("length of the frame"))?;
            let mut frame = BytesMut::with_capacity(length);
            while frame.len() < length {
                if (&mut self.stream).take((length - frame.len()) as u64).read_buf(&mut frame).await? == 0 {
                    return Err(ClientError::Io(std::io::ErrorKind::UnexpectedEof.into()));
                }
            }
            Ok(frame.freeze())
        };
        tokio::time::timeout(deadline, read).await.map_err(|_| ClientError::Timeout(deadline))?
    }

    /// The answer to the oldest unanswered request, which was an `R` at `version`.
    pub async fn receive<R: Request>(&mut self, version: i16) -> Result<R::Response> {
        let (correlation_id, answer) = decode_answer::<R>(self.receive_raw().await?, version)?;
        let expected = self.waiting.pop_front();
        if expected != Some(correlation_id) {
            return Err(malformed(format!("correlation id {correlation_id}, expected {expected:?}")));
        }
        Ok(answer)
    }

    /// Sends a request and waits for its answer; nothing else may be unanswered.
    pub async fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response> {
        self.send(version, request).await?;
        self.receive::<R>(version).await
    }

    /// Waits until something can be read, or the broker has closed.
    pub async fn wait_readable(&mut self) -> Result<()> {
        Ok(self.stream.readable().await?)
    }

    /// Waits until the broker closes; what it sent before is thrown away.
    pub async fn wait_closed(&mut self) -> Result<()> {
        let deadline = self.deadline;
        let drain = async {
            let mut sink = [0u8; 16 * 1024];
            while matches!(self.stream.read(&mut sink).await, Ok(n) if n > 0) {}
        };
        tokio::time::timeout(deadline, drain).await.map_err(|_| ClientError::Timeout(deadline))
    }

    /// The socket, for tests that misbehave.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

/// Version of Produce that [`Client`] speaks (topics by name).
pub const PRODUCE_VERSION: i16 = 9;
/// Version of Fetch that [`Client`] speaks (topics by name).
pub const FETCH_VERSION: i16 = 12;

/// A Produce request with one batch for one partition.
pub fn produce_request(topic: &str, partition: i32, acks: i16, records: Bytes) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(records));
    let topic = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
    let request = ProduceRequest::default().with_transactional_id(None);
    request.with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![topic])
}

/// A Fetch request (no session) of one partition.
pub fn fetch_request(topic: &str, partition: i32, offset: i64, max_wait_ms: i32, max_bytes: i32) -> FetchRequest {
    let wanted = FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(offset)
        .with_current_leader_epoch(-1)
        .with_last_fetched_epoch(-1)
        .with_partition_max_bytes(max_bytes);
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(max_bytes)
        .with_session_epoch(-1)
        .with_topics(vec![FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![wanted])])
}

/// A client of one broker that reconnects.
#[derive(Debug)]
pub struct Client {
    address: String,
    connection: Option<Connection>,
}

impl Client {
    /// A client of the broker at host:port; connects when it is first used.
    pub fn new(address: &str) -> Self {
        Self { address: address.into(), connection: None }
    }

    /// The open connection, or a new one.
    pub async fn connection(&mut self) -> Result<&mut Connection> {
        if self.connection.is_none() {
            self.connection = Some(Connection::open(&self.address).await?);
        }
        Ok(self.connection.as_mut().expect("set above"))
    }

    /// One exchange, tried once; a failure closes the connection.
    pub async fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response> {
        let connection = self.connection().await?;
        let answer = connection.call(version, request).await;
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }

    /// Repeats `attempt` until it succeeds, with a pause in between, up to [`RETRY_DEADLINE`].
    pub async fn retry<T>(&mut self, what: &str, mut attempt: impl AsyncFnMut(&mut Self) -> Result<T>) -> T {
        let end = kafscale::clock::monotonic() + RETRY_DEADLINE;
        loop {
            match attempt(self).await {
                Ok(value) => return value,
                Err(e) if kafscale::clock::monotonic() < end => {
                    if !matches!(e, ClientError::Code(_)) {
                        self.connection = None;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(e) => panic!("{what}: gave up after {RETRY_DEADLINE:?}: {e}"),
            }
        }
    }

    /// What the broker says it understands.
    pub async fn api_versions(&mut self) -> Result<Vec<ApiVersion>> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(text("kafscale-test"))
            .with_client_software_version(text("1"));
        let answer = self.call(3, &request).await?;
        check(answer.error_code)?;
        Ok(answer.api_keys)
    }

    /// Metadata of `topics` (all if `None`).
    pub async fn metadata(&mut self, topics: Option<&[&str]>, auto_create: bool) -> Result<MetadataResponse> {
        let named = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request = MetadataRequest::default()
            .with_topics(topics.map(|names| names.iter().map(named).collect()))
            .with_allow_auto_topic_creation(auto_create);
        self.call(12, &request).await
    }

    /// Creates a topic; fine if it exists.
    pub async fn create_topic(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Result<()> {
        let config = |(name, value): &(&str, &str)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        };
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(-1)
            .with_configs(configs.iter().map(config).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        let answer = self.call(7, &request).await?;
        let created = answer.topics.first().ok_or_else(|| malformed("no topic in the answer"))?;
        if created.error_code == 36 { Ok(()) } else { check(created.error_code) }
    }

    /// Creates a topic and waits until every partition has a leader.
    pub async fn ensure_topic(&mut self, name: &str, partitions: i32) {
        self.retry("create topic", async |c| c.create_topic(name, partitions, &[]).await).await;
        self.retry("topic has leaders", async |c| {
            let answer = c.metadata(Some(&[name]), false).await?;
            let topic = answer.topics.first().ok_or_else(|| malformed("no topic in the answer"))?;
            check(topic.error_code)?;
            topic.partitions.iter().try_for_each(|p| check(p.error_code))?;
            let led = topic.partitions.iter().filter(|p| p.leader_id.0 >= 0).count();
            if led == partitions as usize { Ok(()) } else { Err(ClientError::Code(5)) }
        })
        .await;
    }

    /// A new producer id and epoch.
    pub async fn init_producer_id(&mut self) -> Result<(i64, i16)> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let answer = self.call(4, &request).await?;
        check(answer.error_code)?;
        Ok((answer.producer_id.0, answer.producer_epoch))
    }

    /// Produces one batch with acks=all and returns the partition's answer, whatever its code.
    pub async fn produce(&mut self, topic: &str, partition: i32, batch: Bytes) -> Result<PartitionProduceResponse> {
        let request = produce_request(topic, partition, -1, batch);
        let mut answer = self.call(PRODUCE_VERSION, &request).await?;
        let answered = answer.responses.pop().and_then(|mut t| t.partition_responses.pop());
        answered.ok_or_else(|| malformed("no partition in the answer"))
    }

    /// Produces `values` without idempotence, retrying; the base offset.
    pub async fn produce_values(&mut self, topic: &str, partition: i32, values: &[&[u8]]) -> i64 {
        let batch = Batch::of(values).encode();
        self.retry("produce", async |c| {
            let answer = c.produce(topic, partition, batch.clone()).await?;
            check(answer.error_code).map(|()| answer.base_offset)
        })
        .await
    }

    /// Fetches from one partition and returns its part of the answer, whatever its code.
    pub async fn fetch(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        max_wait_ms: i32,
        max_bytes: i32,
    ) -> Result<PartitionData> {
        let request = fetch_request(topic, partition, offset, max_wait_ms, max_bytes);
        let mut answer = self.call(FETCH_VERSION, &request).await?;
        check(answer.error_code)?;
        let answered = answer.responses.pop().and_then(|mut t| t.partitions.pop());
        answered.ok_or_else(|| malformed("no partition in the answer"))
    }

    /// Everything between log start and high watermark of a partition.
    pub async fn read_all(&mut self, topic: &str, partition: i32) -> Vec<FetchedRecord> {
        let earliest = self.retry("earliest", async |c| c.list_offset(topic, partition, EARLIEST).await).await;
        let latest = self.retry("latest", async |c| c.list_offset(topic, partition, LATEST).await).await;
        let (mut records, mut next) = (Vec::new(), earliest);
        while next < latest {
            let got = self.retry("fetch", async |c| fetch_records(c, topic, partition, next).await).await;
            records.extend(got.into_iter().filter(|r| r.offset >= next));
            next = records.last().map_or(next, |r: &FetchedRecord| r.offset + 1);
        }
        records
    }

    /// The offset for a timestamp, [`EARLIEST`] or [`LATEST`].
    pub async fn list_offset(&mut self, topic: &str, partition: i32, timestamp: i64) -> Result<i64> {
        let wanted = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![wanted]);
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        let answer = self.call(7, &request).await?;
        let partition = answer.topics.first().and_then(|t| t.partitions.first());
        let partition = partition.ok_or_else(|| malformed("no partition in the answer"))?;
        check(partition.error_code).map(|()| partition.offset)
    }
}

async fn fetch_records(c: &mut Client, topic: &str, partition: i32, from: i64) -> Result<Vec<FetchedRecord>> {
    let answer = c.fetch(topic, partition, from, 500, 8 << 20).await?;
    check(answer.error_code)?;
    let records = read_records(answer.records.as_ref().unwrap_or(&Bytes::new()))?;
    // Below the high watermark there is always something; an empty answer is tried again until the deadline.
    if records.is_empty() { Err(malformed(format!("no record at {from}"))) } else { Ok(records) }
}
