//! What a failed request means.

use crate::storage::{ObjectKey, StoreError};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use std::error::Error;

/// A failed request, reduced to what decides.
#[derive(Debug, Clone)]
pub struct Failure {
    /// HTTP status, 0 if there was no answer.
    pub status: u16,
    code: String,
    message: String,
}

/// Reduces an error of the SDK.
pub fn failure<E>(error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let status = error.raw_response().map_or(0, |r| r.status().as_u16());
    let code = error.code().unwrap_or_default().to_owned();
    let message = match error.message() {
        Some(message) if !message.is_empty() => message.to_owned(),
        _ => chain(error),
    };
    Failure { status, code, message }
}

/// The error and its causes, without repetitions.
fn chain(error: &dyn Error) -> String {
    let mut parts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if parts.last() != Some(&text) {
            parts.push(text);
        }
        source = cause.source();
    }
    parts.join(": ")
}

impl Failure {
    /// A failure of one key of a batch.
    pub fn of_code(code: &str, message: String) -> Self {
        let status = match code {
            "SlowDown" => 503,
            "AccessDenied" => 403,
            _ => 500,
        };
        Self { status, code: code.to_owned(), message }
    }

    /// True if the server does not know the operation.
    pub fn is_not_implemented(&self) -> bool {
        matches!(self.status, 405 | 501) || matches!(self.code.as_str(), "NotImplemented" | "MissingContentMD5")
    }

    /// The error to hand on; `key` is the object that was read, if one was.
    pub fn classify(self, key: Option<&ObjectKey>) -> StoreError {
        let what = match (self.status, self.code.as_str()) {
            (0, _) => self.message.clone(),
            (status, "") => format!("HTTP {status}: {}", self.message),
            (status, code) => format!("HTTP {status} {code}: {}", self.message),
        };
        let advice = match (self.status, self.code.as_str()) {
            (_, "SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "TooManyRequests")
            | (429, _) => return StoreError::Throttled { message: what },
            // An answer that says success and cannot be read says nothing.
            (0..=299 | 408 | 409 | 500.., _) | (_, "RequestTimeout" | "OperationAborted") => {
                return StoreError::Unavailable { message: what };
            }
            (_, "NoSuchBucket") => "create the bucket, or correct KAFSCALE_S3_BUCKET",
            (404, _) => match key {
                Some(key) => return StoreError::NotFound { key: key.clone() },
                None => "check KAFSCALE_S3_ENDPOINT and KAFSCALE_S3_BUCKET",
            },
            (416, _) => match key {
                Some(key) => return StoreError::Corrupt { key: key.clone(), message: what },
                None => "this is a defect",
            },
            (_, "BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch") => {
                "the body changed on its way; check the machine's memory and network"
            }
            (_, "RequestTimeTooSkewed") => "set the machine's clock",
            (_, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => "renew KAFSCALE_S3_SESSION_TOKEN",
            (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch") => {
                "check KAFSCALE_S3_ACCESS_KEY and KAFSCALE_S3_SECRET_KEY"
            }
            (_, "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException")
            | (301 | 307, _) => "check KAFSCALE_S3_REGION and KAFSCALE_S3_ENDPOINT",
            (403, _) => {
                "check the credentials and that they allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket \
                 on the bucket (without the last, a missing object looks forbidden), and the KMS key if one is set"
            }
            _ => "check the S3 settings",
        };
        StoreError::Refused { message: format!("{what}; {advice}") }
    }
}
