//! Settings of consumer groups, under the names that Kafka's users know.

use super::args::CommonArgs;
use super::validate::Check;
use super::values;
use crate::actors::group::classic::GroupLimits;
use crate::actors::group::consumer::types::{Assignor, ConsumerLimits, MigrationPolicy};
use crate::actors::group::limits::CoordinatorLimits;
use crate::actors::group::offsets::Retention;
use crate::protocol::group_config::{Bound, GroupBounds};

const DAY_MS: u64 = 86_400_000;
const INT_MAX: u64 = i32::MAX as u64;

/// The settings, if all of them can be used.
pub(super) fn checked(check: &mut Check, args: &CommonArgs) -> Option<CoordinatorLimits> {
    let consumer = consumer(check, args);
    let mut number = |name, text: &str, range| check.parse(name, text, |t| values::number(t, range));
    let min = number("KAFSCALE_GROUP_MIN_SESSION_TIMEOUT_MS", &args.group_min_session_timeout_ms, 1..=DAY_MS);
    let max = number("KAFSCALE_GROUP_MAX_SESSION_TIMEOUT_MS", &args.group_max_session_timeout_ms, 1..=DAY_MS);
    let delay =
        number("KAFSCALE_GROUP_INITIAL_REBALANCE_DELAY_MS", &args.group_initial_rebalance_delay_ms, 0..=600_000);
    let size = number("KAFSCALE_GROUP_MAX_SIZE", &args.group_max_size, 1..=INT_MAX);
    let retention = number("KAFSCALE_OFFSETS_RETENTION_MINUTES", &args.offsets_retention_minutes, 1..=INT_MAX);
    let metadata = number("KAFSCALE_OFFSET_METADATA_MAX_BYTES", &args.offset_metadata_max_bytes, 0..=16_384);
    let (min, max) = (min? as i32, max? as i32);
    if min > max {
        check.contradiction(format!(
            "KAFSCALE_GROUP_MIN_SESSION_TIMEOUT_MS={min} is greater than KAFSCALE_GROUP_MAX_SESSION_TIMEOUT_MS={max}"
        ));
        return None;
    }
    Some(CoordinatorLimits {
        groups: GroupLimits {
            session_timeout_ms_min: min,
            session_timeout_ms_max: max,
            initial_rebalance_delay_ms: delay?,
            members_max: size? as usize,
        },
        consumer: consumer?,
        offset_metadata_bytes_max: metadata? as usize,
        retention: Retention { retention_ms: retention? as i64 * 60_000 },
    })
}

fn consumer(check: &mut Check, args: &CommonArgs) -> Option<ConsumerLimits> {
    let session = [
        ("KAFSCALE_GROUP_CONSUMER_MIN_SESSION_TIMEOUT_MS", &args.group_consumer_min_session_timeout_ms),
        ("KAFSCALE_GROUP_CONSUMER_SESSION_TIMEOUT_MS", &args.group_consumer_session_timeout_ms),
        ("KAFSCALE_GROUP_CONSUMER_MAX_SESSION_TIMEOUT_MS", &args.group_consumer_max_session_timeout_ms),
    ];
    let heartbeat = [
        ("KAFSCALE_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS", &args.group_consumer_min_heartbeat_interval_ms),
        ("KAFSCALE_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS", &args.group_consumer_heartbeat_interval_ms),
        ("KAFSCALE_GROUP_CONSUMER_MAX_HEARTBEAT_INTERVAL_MS", &args.group_consumer_max_heartbeat_interval_ms),
    ];
    let session_timeout = ordered(check, session);
    let heartbeat_interval = ordered(check, heartbeat);
    let size = check.parse("KAFSCALE_GROUP_CONSUMER_MAX_SIZE", &args.group_consumer_max_size, |text| {
        values::number(text, 1..=INT_MAX)
    });
    let assignors = check.parse("KAFSCALE_GROUP_CONSUMER_ASSIGNORS", &args.group_consumer_assignors, assignors);
    let migration =
        check.parse("KAFSCALE_GROUP_CONSUMER_MIGRATION_POLICY", &args.group_consumer_migration_policy, |text| {
            let known = "one of disabled, upgrade, downgrade and bidirectional is expected";
            MigrationPolicy::find(text).ok_or_else(|| known.to_owned())
        });
    Some(ConsumerLimits {
        bounds: GroupBounds { session_timeout: session_timeout?, heartbeat_interval: heartbeat_interval? },
        members_max: size? as usize,
        assignors: assignors?,
        migration: migration?,
    })
}

/// Least, own and greatest value of a time.
fn ordered(check: &mut Check, settings: [(&'static str, &String); 3]) -> Option<Bound> {
    let parsed = settings.map(|(name, text)| check.parse(name, text, |t| values::number(t, 1..=DAY_MS)));
    let [Some(min), Some(own), Some(max)] = parsed.map(|ms| ms.map(|ms| ms as i32)) else { return None };
    for ((low_name, low), (high_name, high)) in
        [((settings[0].0, min), (settings[1].0, own)), ((settings[1].0, own), (settings[2].0, max))]
    {
        if low > high {
            check.contradiction(format!("{low_name}={low} is greater than {high_name}={high}"));
            return None;
        }
    }
    Some(Bound { default_ms: own, min_ms: min, max_ms: max })
}

fn assignors(text: &str) -> Result<[Option<Assignor>; 2], String> {
    let mut found = [None; 2];
    for (n, name) in text.split(',').enumerate() {
        let assignor = Assignor::find(name.trim()).ok_or_else(|| format!("there is no assignor {name:?}"))?;
        if found.contains(&Some(assignor)) || n >= found.len() {
            return Err(format!("assignor {name:?} is named twice"));
        }
        found[n] = Some(assignor);
    }
    Ok(found)
}

/// Settings that differ from Kafka's defaults, by Kafka's names.
pub(super) fn shown(limits: &CoordinatorLimits) -> impl Iterator<Item = (String, String)> {
    let defaults = named(&CoordinatorLimits::default());
    let set = named(limits).into_iter().zip(defaults).filter(|(set, default)| set != default);
    set.map(|((name, value), _)| (name.to_owned(), value))
}

fn named(limits: &CoordinatorLimits) -> [(&'static str, String); 15] {
    let (classic, consumer) = (&limits.groups, &limits.consumer);
    let (session, heartbeat) = (consumer.bounds.session_timeout, consumer.bounds.heartbeat_interval);
    let assignors: Vec<&str> = consumer.assignors().map(Assignor::name).collect();
    [
        ("group.min.session.timeout.ms", classic.session_timeout_ms_min.to_string()),
        ("group.max.session.timeout.ms", classic.session_timeout_ms_max.to_string()),
        ("group.initial.rebalance.delay.ms", classic.initial_rebalance_delay_ms.to_string()),
        ("group.max.size", classic.members_max.to_string()),
        ("group.consumer.session.timeout.ms", session.default_ms.to_string()),
        ("group.consumer.min.session.timeout.ms", session.min_ms.to_string()),
        ("group.consumer.max.session.timeout.ms", session.max_ms.to_string()),
        ("group.consumer.heartbeat.interval.ms", heartbeat.default_ms.to_string()),
        ("group.consumer.min.heartbeat.interval.ms", heartbeat.min_ms.to_string()),
        ("group.consumer.max.heartbeat.interval.ms", heartbeat.max_ms.to_string()),
        ("group.consumer.max.size", consumer.members_max.to_string()),
        ("group.consumer.assignors", assignors.join(",")),
        ("group.consumer.migration.policy", consumer.migration.name().to_owned()),
        ("offsets.retention.minutes", (limits.retention.retention_ms / 60_000).to_string()),
        ("offset.metadata.max.bytes", limits.offset_metadata_bytes_max.to_string()),
    ]
}
