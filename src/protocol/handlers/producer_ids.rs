//! InitProducerId for idempotent producers.
//!
//! Without a transactional id Kafka ignores the producer id and epoch that a client may send and hands out a new id
//! with epoch 0; so does this broker. Transactions are not built yet: a transactional id is refused with
//! UNSUPPORTED_VERSION, which every client reports as fatal instead of looking for a coordinator for ever. (Clients ask
//! FindCoordinator first, which is not advertised, so that few ever get this far.)

use super::ConnectionContext;
use super::common::Call;
use crate::protocol::error_code::ErrorCode;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};
use std::rc::Rc;

/// Longest `transaction.timeout.ms` (`transaction.max.timeout.ms`), ms.
const TRANSACTION_TIMEOUT_MS_MAX: i32 = 900_000;

pub(super) async fn init_producer_id(
    ctx: Rc<ConnectionContext>,
    request: InitProducerIdRequest,
    _call: Call,
) -> InitProducerIdResponse {
    let response = InitProducerIdResponse::default().with_producer_epoch(-1);
    if let Err(error) = check(&request) {
        return response.with_error_code(error.code());
    }
    match ctx.broker.admin.next_producer_id().await {
        Ok(id) => response.with_producer_id(id.0.into()).with_producer_epoch(0),
        Err(error) => {
            tracing::warn!(%error, "no producer id can be allocated");
            response.with_error_code(ErrorCode::CoordinatorLoadInProgress.code())
        }
    }
}

fn check(request: &InitProducerIdRequest) -> Result<(), ErrorCode> {
    if (request.producer_id.0 == -1) != (request.producer_epoch == -1) {
        return Err(ErrorCode::InvalidRequest);
    }
    match request.transactional_id.as_ref().map(|id| id.0.as_str()) {
        None => Ok(()),
        Some("") => Err(ErrorCode::InvalidRequest),
        Some(_) if !(1..=TRANSACTION_TIMEOUT_MS_MAX).contains(&request.transaction_timeout_ms) => {
            Err(ErrorCode::InvalidTransactionTimeout)
        }
        Some(_) => Err(ErrorCode::UnsupportedVersion),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::TransactionalId;
    use kafka_protocol::protocol::StrBytes;

    #[test]
    fn requests() {
        let request = |id: Option<&'static str>, timeout_ms: i32, producer: (i64, i16)| {
            InitProducerIdRequest::default()
                .with_transactional_id(id.map(|id| TransactionalId(StrBytes::from_static_str(id))))
                .with_transaction_timeout_ms(timeout_ms)
                .with_producer_id(producer.0.into())
                .with_producer_epoch(producer.1)
        };
        let table = [
            (request(None, 0, (-1, -1)), Ok(())),
            (request(None, i32::MAX, (-1, -1)), Ok(())),
            (request(None, 0, (7, 3)), Ok(())),
            (request(None, 0, (7, -1)), Err(ErrorCode::InvalidRequest)),
            (request(None, 0, (-1, 3)), Err(ErrorCode::InvalidRequest)),
            (request(Some(""), 1000, (-1, -1)), Err(ErrorCode::InvalidRequest)),
            (request(Some("t"), 960_000, (-1, -1)), Err(ErrorCode::InvalidTransactionTimeout)),
            (request(Some("t"), 0, (-1, -1)), Err(ErrorCode::InvalidTransactionTimeout)),
            (request(Some("t"), 900_000, (-1, -1)), Err(ErrorCode::UnsupportedVersion)),
        ];
        for (request, expected) in table {
            assert_eq!(check(&request), expected, "{request:?}");
        }
    }
}
