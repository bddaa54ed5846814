//! What can go wrong between the console and a broker, in words for people, and names of Kafka's errors.

use crate::protocol::error_code::ErrorCode;
use crate::web::problem::Problem;
use actix_web::http::StatusCode;
use kafka_protocol::messages::ApiKey;
use std::collections::HashMap;
use std::sync::OnceLock;

/// Highest error code that Kafka has given out, with room for more.
const CODE_MAX: i16 = 255;

/// Why there is no answer, or why it is no success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KafkaError {
    /// Nobody to ask.
    #[error("no live broker is known: look at the brokers and at etcd")]
    NoBrokers,
    /// The cluster does not have this broker (any more).
    #[error("broker {0} is not live")]
    UnknownNode(i32),
    /// A partition that nobody leads.
    #[error("partition {partition} of topic {topic} has no leader at the moment")]
    NoLeader {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
    },
    /// No connection.
    #[error("{broker} cannot be reached: {reason}")]
    Connect {
        /// Its address.
        broker: String,
        /// The system's reason.
        reason: String,
    },
    /// No answer in time.
    #[error("{broker} did not answer {api:?} in time")]
    Timeout {
        /// Its address, or `broker N`.
        broker: String,
        /// What was asked.
        api: ApiKey,
    },
    /// The connection broke while an answer was awaited.
    #[error("{broker} closed the connection before it answered {api:?}")]
    Closed {
        /// Its address.
        broker: String,
        /// What was asked.
        api: ApiKey,
    },
    /// The answer cannot be read.
    #[error("the answer of {broker} to {api:?} cannot be read: {reason}")]
    Malformed {
        /// Its address.
        broker: String,
        /// What was asked.
        api: ApiKey,
        /// Why.
        reason: String,
    },
    /// No common version.
    #[error("{broker} does not support {api:?} in a version that this console knows")]
    Unsupported {
        /// Its address.
        broker: String,
        /// What was asked.
        api: ApiKey,
    },
    /// The request cannot be put into the version that the broker speaks.
    #[error("{broker} cannot be asked {api:?} like this: {reason}")]
    Request {
        /// Its address.
        broker: String,
        /// What was asked.
        api: ApiKey,
        /// Why.
        reason: String,
    },
    /// The broker refused.
    #[error("{}", refusal(.name, .message))]
    Code {
        /// Kafka's number.
        code: i16,
        /// Kafka's name.
        name: &'static str,
        /// What the broker said.
        message: String,
    },
}

fn refusal(name: &str, message: &str) -> String {
    if message.is_empty() { format!("the broker answered {name}") } else { format!("{message} ({name})") }
}

impl KafkaError {
    /// An error code of an answer as a result.
    pub fn check(code: i16, message: Option<&str>) -> Result<(), Self> {
        match code {
            0 => Ok(()),
            _ => Err(Self::Code { code, name: code_name(code), message: message.unwrap_or_default().to_owned() }),
        }
    }

    /// The broker's code, if it answered.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Code { code, .. } => ErrorCode::try_from_code(*code),
            _ => None,
        }
    }

    /// True if the one who was asked is no longer (or not yet) the right one, so that asking where to go helps.
    pub fn is_misdirected(&self) -> bool {
        matches!(
            self.code(),
            Some(
                ErrorCode::NotCoordinator
                    | ErrorCode::CoordinatorNotAvailable
                    | ErrorCode::CoordinatorLoadInProgress
                    | ErrorCode::NotLeaderOrFollower
                    | ErrorCode::LeaderNotAvailable
                    | ErrorCode::FencedLeaderEpoch
                    | ErrorCode::UnknownLeaderEpoch
                    | ErrorCode::NotController
            )
        )
    }
}

impl From<KafkaError> for Problem {
    fn from(error: KafkaError) -> Self {
        let detail = error.to_string();
        let KafkaError::Code { code, name, .. } = error else {
            return Problem::unavailable(detail);
        };
        let status = match ErrorCode::try_from_code(code) {
            Some(ErrorCode::UnknownTopicOrPartition | ErrorCode::GroupIdNotFound | ErrorCode::UnknownTopicId) => {
                StatusCode::NOT_FOUND
            }
            Some(
                ErrorCode::TopicAlreadyExists
                | ErrorCode::NonEmptyGroup
                | ErrorCode::GroupSubscribedToTopic
                | ErrorCode::ReassignmentInProgress
                | ErrorCode::UnknownMemberId,
            ) => StatusCode::CONFLICT,
            Some(code) if code.is_retriable() => StatusCode::SERVICE_UNAVAILABLE,
            Some(ErrorCode::UnknownServerError) => StatusCode::BAD_GATEWAY,
            _ => StatusCode::BAD_REQUEST,
        };
        Problem::new(status, name, detail)
    }
}

/// Kafka's name of an error code, such as `TOPIC_ALREADY_EXISTS`.
pub fn code_name(code: i16) -> &'static str {
    static NAMES: OnceLock<HashMap<i16, &'static str>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        let known = (-1..=CODE_MAX).filter_map(|code| Some((code, ErrorCode::try_from_code(code)?)));
        let known = known.filter(|(_, error)| !matches!(error, ErrorCode::Unknown(_)));
        // Once, for a hundred names.
        known.map(|(code, error)| (code, &*Box::leak(screaming(&format!("{error:?}")).into_boxed_str()))).collect()
    });
    match code {
        0 => "NONE",
        _ => names.get(&code).copied().unwrap_or("UNKNOWN_SERVER_ERROR"),
    }
}

/// `TopicAlreadyExists` as `TOPIC_ALREADY_EXISTS`.
fn screaming(camel: &str) -> String {
    let mut name = String::with_capacity(camel.len() + 8);
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_names_that_kafka_gives_them() {
        let names = [3, 16, 36, 69, 0, 999].map(code_name);
        let kafkas = ["UNKNOWN_TOPIC_OR_PARTITION", "NOT_COORDINATOR", "TOPIC_ALREADY_EXISTS", "GROUP_ID_NOT_FOUND"];
        assert_eq!(names[..4], kafkas);
        assert_eq!(names[4..], ["NONE", "UNKNOWN_SERVER_ERROR"]);
    }

    #[test]
    fn a_refusal_says_what_the_broker_said() {
        let error = KafkaError::check(36, Some("topic a exists")).unwrap_err();
        let problem = Problem::from(error.clone());
        assert_eq!((problem.status, problem.code), (StatusCode::CONFLICT, "TOPIC_ALREADY_EXISTS"));
        assert_eq!(error.to_string(), "topic a exists (TOPIC_ALREADY_EXISTS)");
        assert!(KafkaError::check(16, None).unwrap_err().is_misdirected());
        assert_eq!(KafkaError::check(0, None), Ok(()));
    }
}
