//! UpdateFeatures: levels are those of the program, so that the only update that works is to what is in force.

use super::ConnectionContext;
use super::common::{Call, Refusal, duplicates, refuse};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::features::{self, Feature};
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::update_features_response::UpdatableFeatureResult;
use kafka_protocol::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};
use std::rc::Rc;

/// Kinds of updates: upgrades, and downgrades with and without loss.
const UPGRADE_TYPES: std::ops::RangeInclusive<i8> = 1..=3;

pub(super) async fn update_features(
    _ctx: Rc<ConnectionContext>,
    request: UpdateFeaturesRequest,
    call: Call,
) -> UpdateFeaturesResponse {
    respond(&features::supported(), &request, call.version)
}

fn respond(supported: &[Feature], request: &UpdateFeaturesRequest, version: i16) -> UpdateFeaturesResponse {
    let twice = duplicates(request.feature_updates.iter().map(|f| &*f.feature));
    let outcomes = request.feature_updates.iter().map(|update| {
        let outcome = match twice.contains(&*update.feature) {
            true => refuse(ErrorCode::InvalidRequest, "the request names this feature more than once"),
            false => judge(supported, update, version),
        };
        (update.feature.clone(), outcome)
    });
    let outcomes: Vec<_> = outcomes.collect();
    let response = UpdateFeaturesResponse::default().with_error_message(None);
    if version >= 2 {
        // All or nothing, in one code.
        return match outcomes.into_iter().find_map(|(feature, outcome)| Some((feature, outcome.err()?))) {
            None => response,
            Some((feature, Refusal { code, message })) => response
                .with_error_code(code.code())
                .with_error_message(Some(format!("feature {}: {message}", &*feature).into())),
        };
    }
    let results = outcomes.into_iter().map(|(feature, outcome)| {
        let result = UpdatableFeatureResult::default().with_feature(feature);
        match outcome {
            Ok(()) => result.with_error_message(None),
            Err(refusal) => {
                result.with_error_code(refusal.code.code()).with_error_message(Some(refusal.message.into()))
            }
        }
    });
    response.with_results(results.collect())
}

fn judge(supported: &[Feature], update: &FeatureUpdateKey, version: i16) -> Result<(), Refusal> {
    let wanted = update.max_version_level;
    if version >= 1 && !UPGRADE_TYPES.contains(&update.upgrade_type) {
        return refuse(ErrorCode::InvalidRequest, format!("upgrade type {} is not known", update.upgrade_type));
    }
    match supported.iter().find(|f| f.name == &*update.feature) {
        Some(feature) if feature.level == wanted => Ok(()),
        Some(Feature { level, .. }) => {
            let message = format!("level {level} is in force, which is this version's; it cannot be set to {wanted}");
            refuse(ErrorCode::InvalidUpdateVersion, message)
        }
        None => refuse(ErrorCode::InvalidUpdateVersion, "this version of kafscale does not have the feature"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_force_can_be_set() {
        let supported = [Feature { name: "group.version", min: 0, max: 1, level: 1 }];
        let update = |feature: &'static str, level: i16, kind: i8| {
            FeatureUpdateKey::default()
                .with_feature(feature.into())
                .with_max_version_level(level)
                .with_upgrade_type(kind)
        };
        let table = [
            (vec![update("group.version", 1, 1)], 0),
            (vec![update("group.version", 0, 2)], 95),
            (vec![update("group.version", 2, 1)], 95),
            (vec![update("group.version", 1, 9)], 42),
            (vec![update("metadata.version", 27, 1)], 95),
            (vec![update("", 1, 1)], 95),
            (vec![update("group.version", 1, 1), update("group.version", 1, 1)], 42),
            (vec![], 0),
        ];
        for (updates, code) in table {
            let request = UpdateFeaturesRequest::default().with_feature_updates(updates);
            let all = respond(&supported, &request, 2);
            assert_eq!(all.error_code, code, "{request:?}");
            assert_eq!(all.error_message.is_some(), code != 0);
            let each = respond(&supported, &request, 1);
            assert_eq!(each.results.len(), request.feature_updates.len());
            assert!(each.results.iter().all(|r| r.error_code == code), "{each:?}");
        }
    }
}
