//! Tries whether snapshots can be written: one object, always the same, is written to the bucket.

use super::SnapshotSettings;
use super::state::Access;
use crate::storage::StoreError;
use crate::storage::s3::bucket::Bucket;
use crate::storage::s3::{S3Config, StaticCredentials};

/// What the object says to whoever finds it.
const BODY: &[u8] = b"kafscale operator: snapshots of etcd can be written here\n";

/// Makes and protects the bucket if that is wanted, and writes to it.
pub async fn attempt(settings: &SnapshotSettings, credentials: Option<StaticCredentials>) -> Access {
    match write(settings, credentials).await {
        Ok(()) => Access::Fine,
        Err(error) => {
            let (bucket, key) = (&settings.bucket, settings.preflight_key());
            let reason = match error {
                StoreError::Refused { .. } => "PreflightRefused",
                _ => "PreflightFailed",
            };
            let place = settings.endpoint.as_deref().unwrap_or("AWS");
            let hint = match settings.create_bucket {
                true => "",
                false => ". A bucket that is missing is made with etcd.managed.snapshot.createBucket",
            };
            let message =
                format!("snapshots of etcd cannot be written to s3://{bucket}/{key} at {place}: {error}{hint}");
            Access::Failing { reason, message }
        }
    }
}

async fn write(settings: &SnapshotSettings, credentials: Option<StaticCredentials>) -> Result<(), StoreError> {
    let config = S3Config {
        bucket: settings.bucket.clone(),
        region: settings.region.clone(),
        endpoint: settings.endpoint.clone(),
        path_style: settings.path_style,
        credentials,
        kms_key_arn: settings.kms_key_arn.clone(),
    };
    let bucket = Bucket::connect(config).await?;
    if settings.create_bucket {
        bucket.create_if_absent().await?;
    }
    if settings.protect_bucket && !bucket.protect().await? {
        tracing::warn!(bucket = settings.bucket, "the S3 server cannot block public access; see that it is not public");
    }
    bucket.put(&settings.preflight_key(), BODY).await
}
