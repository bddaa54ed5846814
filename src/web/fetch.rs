//! Asks the brokers' metrics listeners: plain HTTP, short answers, in a bounded time.

use actix_web::web::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::cell::OnceCell;
use std::time::Duration;

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Connections that are kept for the next question, per broker, and for how long.
const IDLE_CONNECTIONS_MAX: usize = 2;
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// How much of an error's text is passed on.
const ERROR_CHARS_MAX: usize = 300;

type HttpClient = Client<HttpConnector, Empty<Bytes>>;

fn client() -> HttpClient {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_WITHIN));
    connector.set_nodelay(true);
    // Brokers close connections that send nothing for 5 s.
    Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_timer(hyper_util::rt::TokioTimer::new())
        .build(connector)
}

thread_local! {
    // A connection lives on the runtime that opened it.
    static CLIENT: OnceCell<HttpClient> = const { OnceCell::new() };
}

/// GET `url` (http only): the body of an answer of 200, of at most `bytes_max`; or why there is none.
pub async fn get(url: &str, within: Duration, bytes_max: usize) -> Result<Bytes, String> {
    let uri = url.parse().map_err(|e| format!("{url:?} is no URL: {e}"))?;
    let client = CLIENT.with(|cell| cell.get_or_init(client).clone());
    let exchange = async {
        let answer = client.get(uri).await.map_err(|e| reasons(&e))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), bytes_max).collect().await;
        let body = body.map_err(|e| format!("the answer cannot be read: {}", reasons(&*e)))?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        let text: String = String::from_utf8_lossy(&body).trim().chars().take(ERROR_CHARS_MAX).collect();
        Err(format!("answered {status}: {text}"))
    };
    match tokio::time::timeout(within, exchange).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no answer within {} ms", within.as_millis())),
    }
}

/// An error with what is behind it.
pub fn reasons(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = chain.map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}
