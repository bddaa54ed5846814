//! A bucket as its owner sees it: made, protected, and written to without conditions. Brokers need none of that.

use super::error::{Failure, failure};
use super::{S3Config, attempt_timeout, client, http_client, within};
use crate::storage::StoreError;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketLocationConstraint, BucketVersioningStatus, CreateBucketConfiguration, PublicAccessBlockConfiguration,
    ServerSideEncryption, VersioningConfiguration,
};

/// The region that has no name in requests that make buckets.
const FIRST_REGION: &str = "us-east-1";

/// See the module's documentation.
#[derive(Debug)]
pub struct Bucket {
    client: Client,
    name: String,
    region: String,
    kms_key_arn: Option<String>,
}

impl Bucket {
    /// Prepares a client; see [`super::S3Store::connect`].
    pub async fn connect(config: S3Config) -> Result<Self, StoreError> {
        let client = client(&config, http_client()).await?;
        Ok(Self { client, name: config.bucket, region: config.region, kms_key_arn: config.kms_key_arn })
    }

    /// Writes an object, whether or not there is one.
    pub async fn put(&self, key: &str, body: &'static [u8]) -> Result<(), StoreError> {
        let request = self
            .client
            .put_object()
            .bucket(&self.name)
            .key(key)
            .set_server_side_encryption(self.kms_key_arn.as_ref().map(|_| ServerSideEncryption::AwsKms))
            .set_ssekms_key_id(self.kms_key_arn.clone())
            .body(ByteStream::from_static(body));
        within(attempt_timeout(0), request.send()).await?.map_err(|error| failure(&error).classify(None))?;
        Ok(())
    }

    /// Makes the bucket if it is not there.
    pub async fn create_if_absent(&self) -> Result<(), StoreError> {
        let head = self.client.head_bucket().bucket(&self.name);
        match within(attempt_timeout(0), head.send()).await? {
            Ok(_) => return Ok(()),
            Err(error) if failure(&error).status == 404 => {}
            Err(error) => return Err(failure(&error).classify(None)),
        }
        let mut request = self.client.create_bucket().bucket(&self.name);
        if self.region != FIRST_REGION {
            let place = BucketLocationConstraint::from(self.region.as_str());
            let configuration = CreateBucketConfiguration::builder().location_constraint(place).build();
            request = request.create_bucket_configuration(configuration);
        }
        match within(attempt_timeout(0), request.send()).await? {
            Ok(_) => Ok(()),
            Err(error) if error.as_service_error().is_some_and(|e| e.is_bucket_already_owned_by_you()) => Ok(()),
            Err(error) => Err(failure(&error).classify(None)),
        }
    }

    /// Turns on versions and blocks public access. False if the server does not know how to do the latter.
    pub async fn protect(&self) -> Result<bool, StoreError> {
        let versions = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
        let request = self.client.put_bucket_versioning().bucket(&self.name).versioning_configuration(versions);
        within(attempt_timeout(0), request.send()).await?.map_err(|error| failure(&error).classify(None))?;
        let block = PublicAccessBlockConfiguration::builder()
            .block_public_acls(true)
            .ignore_public_acls(true)
            .block_public_policy(true)
            .restrict_public_buckets(true)
            .build();
        let request = self.client.put_public_access_block().bucket(&self.name).public_access_block_configuration(block);
        match within(attempt_timeout(0), request.send()).await?.map_err(|error| failure(&error)) {
            Ok(_) => Ok(true),
            Err(failure) if is_unknown_operation(&failure) => Ok(false),
            Err(failure) => Err(failure.classify(None)),
        }
    }
}

fn is_unknown_operation(failure: &Failure) -> bool {
    failure.is_not_implemented() || failure.status == 400
}
