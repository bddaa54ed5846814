//! Objects in S3 or a compatible store, through the AWS SDK.
//!
//! One call is one attempt: the SDK's own retries are off, because only [`super::retry`] knows how to resolve an
//! ambiguous create. A body goes out as the chunks it is made of, with its length and CRC-32C in headers; the store
//! checks the CRC. The payload is not hashed for the signature (`UNSIGNED-PAYLOAD`): SHA-256 of every byte would cost
//! more CPU than everything else the broker does with it, and the signed CRC header binds the body already.
//!
//! The store never creates its bucket; [`bucket`] is for who may.

mod body;
pub mod bucket;
mod error;
#[cfg(test)]
mod tests;

use self::body::{ChunkBody, collect};
use self::error::{Failure, failure};
use super::{Listed, ObjectHead, ObjectKey, ObjectStore, Payload, StoreError, range_inside};
use crate::clock::Clock;
use async_trait::async_trait;
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedHttpClient, StalledStreamProtectionConfig, retry::RetryConfig,
};
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{ChecksumMode, Delete, ObjectIdentifier, ServerSideEncryption};
use aws_smithy_async::time::TimeSource;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::StreamExt;
use std::fmt;
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// User metadata that holds the creator's nonce, 16 hex digits.
const NONCE_METADATA: &str = "kafscale-nonce";
/// User metadata that holds the body's CRC-32C, 8 hex digits.
const CRC_METADATA: &str = "kafscale-crc32c";
/// Time to connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for one attempt that moves no body to speak of.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(8);
/// Time added for each MiB of body.
const ATTEMPT_TIMEOUT_PER_MIB: Duration = Duration::from_millis(1_000);
/// Connections kept open while idle.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// Idle connections are closed before servers do it (S3 after about 20 s), which would look like a cut one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Keys per DeleteObjects and per LIST page.
const KEYS_MAX: usize = 1_000;
/// Deletes at once where the store has no DeleteObjects.
const SINGLE_DELETES_MAX: usize = 16;

/// Fixed credentials. `Debug` does not show them.
#[derive(Clone)]
pub struct StaticCredentials {
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
    /// Token of temporary credentials.
    pub session_token: Option<String>,
}

impl fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticCredentials(redacted)")
    }
}

/// Where the objects are and how to get there.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// The bucket; must exist.
    pub bucket: String,
    /// The region.
    pub region: String,
    /// URL of an S3-compatible server; `None` is AWS.
    pub endpoint: Option<String>,
    /// Bucket in the path instead of the host name; most S3-compatible servers need it.
    pub path_style: bool,
    /// `None` uses the AWS default chain: environment, profile, web identity, container, instance.
    pub credentials: Option<StaticCredentials>,
    /// KMS key that encrypts the objects; `None` leaves it to the bucket.
    pub kms_key_arn: Option<String>,
}

/// The time in signatures, from the one owner of the clock.
#[derive(Debug)]
struct SigningTime;

impl TimeSource for SigningTime {
    fn now(&self) -> SystemTime {
        let ms = u64::try_from(Clock::system().wall_ms()).unwrap_or(0);
        UNIX_EPOCH + Duration::from_millis(ms)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct S3Store {
    client: Client,
    bucket: String,
    kms_key_arn: Option<String>,
}

impl S3Store {
    /// Prepares a client. Contacts nothing but, without fixed credentials, the sources of the default chain.
    pub async fn connect(config: S3Config) -> Result<Self, StoreError> {
        Self::connect_through(config, http_client()).await
    }

    async fn connect_through(config: S3Config, http: SharedHttpClient) -> Result<Self, StoreError> {
        let client = client(&config, http).await?;
        Ok(Self { client, bucket: config.bucket, kms_key_arn: config.kms_key_arn })
    }

    async fn delete_page(&self, keys: &[ObjectKey]) -> Result<(), StoreError> {
        let identify = |key: &ObjectKey| {
            ObjectIdentifier::builder().key(key.as_str()).build().expect("the key is set, nothing else is required")
        };
        let delete = Delete::builder().set_objects(Some(keys.iter().map(identify).collect())).quiet(true);
        let delete = delete.build().expect("the objects are set, nothing else is required");
        let request = self.client.delete_objects().bucket(&self.bucket).delete(delete);
        let output = match within(attempt_timeout(0), request.send()).await? {
            Ok(output) => output,
            Err(error) => {
                let failure = failure(&error);
                if !failure.is_not_implemented() {
                    return Err(failure.classify(None));
                }
                return self.delete_singly(keys).await;
            }
        };
        let failed = output.errors().iter().find(|e| e.code() != Some("NoSuchKey"));
        failed.map_or(Ok(()), |e| {
            let message = format!("{}: {}", e.key().unwrap_or_default(), e.message().unwrap_or_default());
            Err(Failure::of_code(e.code().unwrap_or_default(), message).classify(None))
        })
    }

    /// For stores without DeleteObjects.
    async fn delete_singly(&self, keys: &[ObjectKey]) -> Result<(), StoreError> {
        let delete = async |key: &ObjectKey| {
            let request = self.client.delete_object().bucket(&self.bucket).key(key.as_str());
            match within(attempt_timeout(0), request.send()).await? {
                Err(error) if failure(&error).status != 404 => Err(failure(&error).classify(None)),
                _ => Ok(()),
            }
        };
        let mut deletes = futures::stream::iter(keys).map(delete).buffer_unordered(SINGLE_DELETES_MAX);
        while let Some(result) = deletes.next().await {
            result?;
        }
        Ok(())
    }
}

fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https()
}

async fn client(config: &S3Config, http: SharedHttpClient) -> Result<Client, StoreError> {
    let region = Region::new(config.region.clone());
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build();
    let mut builder = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .time_source(SigningTime)
        .region(region.clone())
        .http_client(http.clone())
        .force_path_style(config.path_style)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    builder.set_endpoint_url(config.endpoint.clone());
    let builder = match config.credentials.clone() {
        Some(c) => {
            let fixed = Credentials::new(c.access_key, c.secret_key, c.session_token, None, "configuration");
            builder.credentials_provider(fixed)
        }
        None => {
            let shared = aws_config::defaults(BehaviorVersion::latest()).http_client(http).region(region).load().await;
            let provider = shared.credentials_provider().ok_or_else(no_credentials)?;
            provider.provide_credentials().await.map_err(|_| no_credentials())?;
            builder.credentials_provider(provider)
        }
    };
    Ok(Client::from_conf(builder.build()))
}

fn no_credentials() -> StoreError {
    let message = "no credentials found; set KAFSCALE_S3_ACCESS_KEY and KAFSCALE_S3_SECRET_KEY, or give the process an \
                   AWS role";
    StoreError::Refused { message: message.to_owned() }
}

fn attempt_timeout(body_len: u64) -> Duration {
    ATTEMPT_TIMEOUT + ATTEMPT_TIMEOUT_PER_MIB.mul_f64(body_len as f64 / (1 << 20) as f64)
}

/// Bounds one attempt, body included.
async fn within<T>(limit: Duration, call: impl Future<Output = T>) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, call).await {
        Ok(output) => Ok(output),
        Err(_) => Err(StoreError::Unavailable { message: format!("no answer within {} ms", limit.as_millis()) }),
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn create(&self, key: &ObjectKey, payload: &Payload) -> Result<(), StoreError> {
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .if_none_match("*")
            .content_length(payload.len as i64)
            .checksum_crc32_c(BASE64.encode(payload.crc32c.to_be_bytes()))
            .metadata(NONCE_METADATA, format!("{:016x}", payload.nonce))
            .metadata(CRC_METADATA, format!("{:08x}", payload.crc32c))
            .set_server_side_encryption(self.kms_key_arn.as_ref().map(|_| ServerSideEncryption::AwsKms))
            .set_ssekms_key_id(self.kms_key_arn.clone())
            .body(ByteStream::new(SdkBody::from_body_1_x(ChunkBody::new(payload))))
            .customize()
            .disable_payload_signing();
        match within(attempt_timeout(payload.len), request.send()).await? {
            Ok(_) => Ok(()),
            Err(error) => match failure(&error) {
                failure if failure.status == 412 => Err(StoreError::AlreadyExists { key: key.clone() }),
                failure => Err(failure.classify(None)),
            },
        }
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let len = range.end - range.start;
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let request = self.client.get_object().bucket(&self.bucket).key(key.as_str()).range(header);
        let get = async {
            let output = request.send().await.map_err(|e| failure(&e).classify(Some(key)))?;
            if let Some((_, object_len)) = output.content_range().and_then(parse_content_range) {
                range_inside(key, &range, object_len)?;
            }
            collect(key, output.body, output.content_length, len).await
        };
        within(attempt_timeout(len), get).await?
    }

    async fn get_suffix(&self, key: &ObjectKey, len: u64) -> Result<(Bytes, u64), StoreError> {
        let request = self.client.get_object().bucket(&self.bucket).key(key.as_str()).range(format!("bytes=-{len}"));
        let output = match within(attempt_timeout(0), request.send()).await? {
            Ok(output) => output,
            Err(error) => match failure(&error) {
                // No bytes were asked for, or the object has none.
                failure if failure.status == 416 => return self.empty_suffix(key, len).await,
                failure => return Err(failure.classify(Some(key))),
            },
        };
        let (first, object_len) = match output.content_range().and_then(parse_content_range) {
            Some(range) => range,
            // Some servers send a whole short object without saying that it is a range.
            None => (0, output.content_length.unwrap_or(0).max(0) as u64),
        };
        let expected = object_len.min(len);
        if object_len.checked_sub(first) != Some(expected) {
            let message = format!("the last {len} bytes were asked for, those from {first} came");
            return Err(StoreError::Corrupt { key: key.clone(), message });
        }
        let body = collect(key, output.body, output.content_length, expected);
        Ok((within(attempt_timeout(expected), body).await??, object_len))
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectHead>, StoreError> {
        let request = self.client.head_object().bucket(&self.bucket).key(key.as_str());
        let request = request.checksum_mode(ChecksumMode::Enabled);
        let output = match within(attempt_timeout(0), request.send()).await? {
            Ok(output) => output,
            Err(error) => match failure(&error) {
                failure if failure.status == 404 => return Ok(None),
                failure => return Err(failure.classify(Some(key))),
            },
        };
        let metadata = |name: &str| {
            let all = output.metadata()?;
            all.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
        };
        let stored_crc = output.checksum_crc32_c().and_then(|crc| BASE64.decode(crc).ok());
        let stored_crc = stored_crc.and_then(|crc| <[u8; 4]>::try_from(crc).ok()).map(u32::from_be_bytes);
        let own_crc = metadata(CRC_METADATA).and_then(|crc| u32::from_str_radix(crc, 16).ok());
        Ok(Some(ObjectHead {
            len: output.content_length().unwrap_or(0).max(0) as u64,
            crc32c: stored_crc.or(own_crc),
            nonce: metadata(NONCE_METADATA).and_then(|nonce| u64::from_str_radix(nonce, 16).ok()),
            last_modified_ms: millis(output.last_modified()),
        }))
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<(), StoreError> {
        for page in keys.chunks(KEYS_MAX) {
            self.delete_page(page).await?;
        }
        Ok(())
    }

    async fn list(&self, prefix: &str, start_after: Option<&ObjectKey>) -> Result<Vec<Listed>, StoreError> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            .max_keys(KEYS_MAX as i32)
            .set_start_after(start_after.map(|key| key.as_str().to_owned()));
        let output = within(attempt_timeout(0), request.send()).await?.map_err(|e| failure(&e).classify(None))?;
        let listed = |object: &aws_sdk_s3::types::Object| {
            let key = ObjectKey::new(object.key()?);
            let len = object.size().unwrap_or(0).max(0) as u64;
            Some(Listed { key, len, last_modified_ms: millis(object.last_modified()) })
        };
        Ok(output.contents().iter().filter_map(listed).collect())
    }
}

impl S3Store {
    /// Answers a suffix read that the store refused: fine if there is nothing to read.
    async fn empty_suffix(&self, key: &ObjectKey, len: u64) -> Result<(Bytes, u64), StoreError> {
        match self.head(key).await? {
            Some(head) if len == 0 || head.len == 0 => Ok((Bytes::new(), head.len)),
            Some(head) => {
                let message = format!("it has {} bytes, and the store refuses to send the last {len}", head.len);
                Err(StoreError::Corrupt { key: key.clone(), message })
            }
            None => Err(StoreError::NotFound { key: key.clone() }),
        }
    }
}

fn millis(time: Option<&aws_sdk_s3::primitives::DateTime>) -> i64 {
    time.and_then(|t| t.to_millis().ok()).unwrap_or(0)
}

/// First position and size of the object, of `bytes 0-9/100`.
fn parse_content_range(header: &str) -> Option<(u64, u64)> {
    let (range, len) = header.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.parse().ok()?, len.parse().ok()?))
}
