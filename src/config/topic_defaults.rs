//! What topics fall back to, from variables whose names Kafka's users know.

use super::args::CommonArgs;
use super::validate::Check;
use crate::protocol::config_defaults::StaticDefault;
use crate::protocol::topic_config;

/// Variables that give topics their defaults, under the names that Kafka users know: variable, value, topic config,
/// broker config, and the unit as a factor (1: the topic config's own). What comes first wins.
fn variables(args: &CommonArgs) -> [(&'static str, &Option<String>, &'static str, &'static str, i64); 9] {
    const MINUTE_MS: i64 = 60_000;
    [
        ("KAFSCALE_MESSAGE_MAX_BYTES", &args.message_max_bytes, "max.message.bytes", "message.max.bytes", 1),
        ("KAFSCALE_LOG_RETENTION_MS", &args.log_retention_ms, "retention.ms", "log.retention.ms", 1),
        (
            "KAFSCALE_LOG_RETENTION_MINUTES",
            &args.log_retention_minutes,
            "retention.ms",
            "log.retention.minutes",
            MINUTE_MS,
        ),
        (
            "KAFSCALE_LOG_RETENTION_HOURS",
            &args.log_retention_hours,
            "retention.ms",
            "log.retention.hours",
            60 * MINUTE_MS,
        ),
        ("KAFSCALE_LOG_RETENTION_BYTES", &args.log_retention_bytes, "retention.bytes", "log.retention.bytes", 1),
        ("KAFSCALE_LOG_CLEANUP_POLICY", &args.log_cleanup_policy, "cleanup.policy", "log.cleanup.policy", 1),
        (
            "KAFSCALE_LOG_MESSAGE_TIMESTAMP_TYPE",
            &args.log_message_timestamp_type,
            "message.timestamp.type",
            "log.message.timestamp.type",
            1,
        ),
        (
            "KAFSCALE_LOG_MESSAGE_TIMESTAMP_BEFORE_MAX_MS",
            &args.log_message_timestamp_before_max_ms,
            "message.timestamp.before.max.ms",
            "log.message.timestamp.before.max.ms",
            1,
        ),
        (
            "KAFSCALE_LOG_MESSAGE_TIMESTAMP_AFTER_MAX_MS",
            &args.log_message_timestamp_after_max_ms,
            "message.timestamp.after.max.ms",
            "log.message.timestamp.after.max.ms",
            1,
        ),
    ]
}

/// Checks them all; what comes first for a topic config wins.
pub(super) fn checked(check: &mut Check, args: &CommonArgs) -> Option<Vec<StaticDefault>> {
    let mut defaults = Some(Vec::new());
    for (variable, text, config, broker_name, factor) in variables(args) {
        let Some(text) = text else { continue };
        let parsed = check.parse(variable, text, |text| {
            let raw = text.trim().to_owned();
            let value = if factor == 1 { raw.clone() } else { in_ms(&raw, factor)?.to_string() };
            let def = topic_config::definition(config).expect("every config here is in the table");
            def.check(&value)?;
            Ok(StaticDefault { config, broker_name, raw, value })
        });
        match (&mut defaults, parsed) {
            (Some(all), Some(default)) => all.push(default),
            (defaults, _) => *defaults = None,
        }
    }
    defaults
}

/// A number of units in milliseconds; negative numbers mean "never" in every unit.
fn in_ms(text: &str, unit_ms: i64) -> Result<i64, String> {
    let expected = || "expected a whole number".to_owned();
    let number: i64 = text.parse().map_err(|_| expected())?;
    if number < 0 { Ok(number) } else { number.checked_mul(unit_ms).ok_or_else(expected) }
}
