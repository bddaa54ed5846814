//! Settings of the object store: where it is, where a copy of it is, and when it counts as doing badly.

use super::args::BrokerArgs;
use super::validate::Check;
use super::{ReadReplica, Secret, StorageConfig, values};
use crate::actors::s3_health::state::{HealthLimits, Thresholds};

/// Where objects are, if all of the settings can be used.
pub(super) fn storage(check: &mut Check, args: &BrokerArgs) -> Option<StorageConfig> {
    let in_memory = check.parse("KAFSCALE_USE_MEMORY_S3", &args.use_memory_s3, values::boolean)?;
    let endpoint = check.parse_optional("KAFSCALE_S3_ENDPOINT", &args.s3_endpoint, values::url);
    let path_style = check.parse("KAFSCALE_S3_PATH_STYLE", &args.s3_path_style, values::boolean);
    let kms_arn = check.parse_optional("KAFSCALE_S3_KMS_ARN", &args.s3_kms_arn, values::arn);
    let secret = |text: &Option<String>| text.clone().map(Secret::new);
    let (access_key, secret_key) = (secret(&args.s3_access_key), secret(&args.s3_secret_key));
    let session_token = secret(&args.s3_session_token);
    check.pair(("KAFSCALE_S3_ACCESS_KEY", access_key.is_some()), ("KAFSCALE_S3_SECRET_KEY", secret_key.is_some()));
    if session_token.is_some() && access_key.is_none() {
        check.contradiction("KAFSCALE_S3_SESSION_TOKEN is set without KAFSCALE_S3_ACCESS_KEY: it belongs to one");
    }
    let read = read_replica(check, args);
    if in_memory {
        check.warnings.push(
            "KAFSCALE_USE_MEMORY_S3=true: objects live in this process's memory, everything is lost when it ends, and \
             the KAFSCALE_S3_* settings of the bucket have no effect"
                .to_owned(),
        );
        return Some(StorageConfig::Memory);
    }
    let reason = "a broker keeps its segments in S3 (to try without S3: `kafscale dev`)";
    let bucket = check.required("KAFSCALE_S3_BUCKET", reason, &args.s3_bucket, values::bucket);
    let reason = "requests are signed for the bucket's region";
    let region = check.required("KAFSCALE_S3_REGION", reason, &args.s3_region, values::region);
    let (bucket, region, endpoint) = (bucket?, region?, endpoint?);
    let read = read?.and_then(|given| replica(check, given, (&bucket, &region, endpoint.as_ref()))).map(Box::new);
    Some(StorageConfig::S3 {
        bucket,
        region,
        endpoint,
        read,
        path_style: path_style?,
        kms_arn: kms_arn?,
        access_key,
        secret_key,
        session_token,
    })
}

/// The settings of a read replica as given: bucket, region, endpoint.
type Given = (String, Option<String>, Option<String>);

/// `None` if something is wrong, `Some(None)` without a replica.
fn read_replica(check: &mut Check, args: &BrokerArgs) -> Option<Option<Given>> {
    const BUCKET: &str = "KAFSCALE_S3_READ_BUCKET";
    let bucket = check.parse_optional(BUCKET, &args.s3_read_bucket, values::bucket);
    let region = check.parse_optional("KAFSCALE_S3_READ_REGION", &args.s3_read_region, values::region);
    let endpoint = check.parse_optional("KAFSCALE_S3_READ_ENDPOINT", &args.s3_read_endpoint, values::url);
    let given =
        [("KAFSCALE_S3_READ_REGION", &args.s3_read_region), ("KAFSCALE_S3_READ_ENDPOINT", &args.s3_read_endpoint)];
    if args.s3_read_bucket.is_none() {
        for (name, _) in given.iter().filter(|(_, value)| value.is_some()) {
            check.contradiction(format!(
                "{name} is set without {BUCKET}: name the bucket that holds the copy, or unset {name}"
            ));
        }
    }
    let (bucket, region, endpoint) = (bucket?, region?, endpoint?);
    Some(bucket.map(|bucket| (bucket, region, endpoint)))
}

/// Fills in what the primary says. The primary itself is no replica.
fn replica(check: &mut Check, given: Given, primary: (&String, &String, Option<&String>)) -> Option<ReadReplica> {
    let (bucket, region, endpoint) = given;
    if region.is_none() {
        let (value, from) = (primary.1.clone(), "KAFSCALE_S3_REGION".to_owned());
        check.derived.push(("KAFSCALE_S3_READ_REGION", value, from));
    }
    if let (None, Some(primary)) = (&endpoint, primary.2) {
        let from = "KAFSCALE_S3_ENDPOINT".to_owned();
        check.derived.push(("KAFSCALE_S3_READ_ENDPOINT", primary.clone(), from));
    }
    let region = region.unwrap_or_else(|| primary.1.clone());
    let endpoint = endpoint.or_else(|| primary.2.cloned());
    if (&bucket, &region, endpoint.as_ref()) == primary {
        check.warnings.push(
            "KAFSCALE_S3_READ_BUCKET is the primary bucket itself, so there is no read replica: name a copy, or unset it"
                .to_owned(),
        );
        return None;
    }
    Some(ReadReplica { bucket, region, endpoint })
}

/// When the object store does badly, if all of the settings can be used.
pub(super) fn health(check: &mut Check, args: &BrokerArgs) -> Option<HealthLimits> {
    let window = check
        .parse("KAFSCALE_S3_HEALTH_WINDOW_SEC", &args.s3_health_window_sec, |text| values::number(text, 5..=3_600));
    let latency_ms = thresholds(
        check,
        ("KAFSCALE_S3_LATENCY_WARN_MS", &args.s3_latency_warn_ms),
        ("KAFSCALE_S3_LATENCY_CRIT_MS", &args.s3_latency_crit_ms),
        |text| values::number(text, 0..=600_000).map(|ms| ms as f64),
    );
    let error_rate = thresholds(
        check,
        ("KAFSCALE_S3_ERROR_RATE_WARN", &args.s3_error_rate_warn),
        ("KAFSCALE_S3_ERROR_RATE_CRIT", &args.s3_error_rate_crit),
        values::share,
    );
    Some(HealthLimits { window_ms: window? * 1_000, latency_ms: latency_ms?, error_rate: error_rate? })
}

/// Two thresholds, of which the first has to be the lower one if both are there.
fn thresholds(
    check: &mut Check,
    warn: (&'static str, &str),
    crit: (&'static str, &str),
    parse: impl Fn(&str) -> Result<f64, String>,
) -> Option<Thresholds> {
    let mut value = |(name, text): (&'static str, &str)| check.parse(name, text, &parse);
    let values = (value(warn), value(crit));
    let (warn_value, crit_value) = (values.0?, values.1?);
    if warn_value > 0.0 && crit_value > 0.0 && warn_value >= crit_value {
        check.contradiction(format!(
            "{}={} is not less than {}={}: lower the first or raise the second (0 turns one of them off)",
            warn.0, warn.1, crit.0, crit.1
        ));
        return None;
    }
    let or_never = |value: f64| if value > 0.0 { value } else { f64::INFINITY };
    Some(Thresholds { warn: or_never(warn_value), crit: or_never(crit_value) })
}
