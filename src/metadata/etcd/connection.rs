//! One connection to one member at a time, replaced when it fails, and what etcd's errors mean to us.
//!
//! The client library can balance over several members, but goes on sending requests to dead ones; therefore each
//! [`Connection`] has one endpoint, which answered a probe, and a failure moves the next call on to the next endpoint.

use super::EtcdSettings;
use crate::metadata::rollback::Remembered;
use crate::metadata::{LeaseId, MetadataError, Revision};
use etcd_client::{
    Certificate, Client, ConnectOptions, Error, GetOptions, Identity, KvClient, ResponseHeader, TlsOptions,
};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Greatest message we accept from etcd.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How long one endpoint may take to accept a connection and answer the probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// etcd closes connections that are pinged more often than every 5 s.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// Any key does for a probe: being refused it is an answer as well.
const PROBE_KEY: &str = "/kafscale/";

/// A client of one member.
pub(super) struct Connection {
    client: Client,
    endpoint: String,
    failed: AtomicBool,
}

impl Connection {
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Later calls use another connection.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }
}

/// Why a request failed, and what that says about the connection.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: MetadataError,
    /// The connection is of no more use.
    pub(super) reconnect: bool,
    /// The request was not carried out for want of a valid token: a new connection helps.
    reauthenticate: bool,
}

/// Connects, and connects again.
pub(super) struct Connections {
    settings: EtcdSettings,
    current: Mutex<Option<Arc<Connection>>>,
    /// Held while connecting, so that one caller does it for all.
    connecting: tokio::sync::Mutex<()>,
    /// The endpoint to try next.
    next: AtomicUsize,
    remembered: Remembered,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Connections {
    pub(super) fn new(settings: EtcdSettings) -> Result<Self, MetadataError> {
        if settings.endpoints.is_empty() {
            let message = "no endpoint is configured; set KAFSCALE_ETCD_ENDPOINTS".to_owned();
            return Err(MetadataError::Refused { message });
        }
        let (current, connecting) = (Mutex::new(None), tokio::sync::Mutex::new(()));
        let (next, remembered) = Default::default();
        Ok(Self { settings, current, connecting, next, remembered })
    }

    /// What a linearizable request that is sent now will see at least; for [`Self::revision_of`].
    pub(super) fn floor(&self) -> Revision {
        self.remembered.floor()
    }

    /// The revision of a linearizable answer to a request that was sent at `floor`, as [`Remembered::compare`].
    pub(super) fn revision_of(&self, header: Option<&ResponseHeader>, floor: Revision) -> Result<Revision, Failure> {
        let header = header.ok_or_else(|| Failure::from_words("an answer without a header".to_owned()))?;
        let (revision, cluster) = (header.revision(), header.cluster_id());
        self.remembered.compare(revision, cluster, floor).map_err(|error| {
            if let Some(hook) = &self.settings.on_went_back {
                hook(&error);
            }
            Failure { error, reconnect: false, reauthenticate: false }
        })
    }

    pub(super) fn request_timeout(&self) -> Duration {
        self.settings.request_timeout
    }

    /// Runs one request within the time-out. Only a request that etcd refused unseen, for its token, is repeated.
    pub(super) async fn call<T, F>(&self, request: impl Fn(Arc<Connection>) -> F) -> Result<T, MetadataError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.call_within(self.settings.request_timeout, request).await
    }

    /// The same within `limit`.
    pub(super) async fn call_within<T, F>(
        &self,
        limit: Duration,
        request: impl Fn(Arc<Connection>) -> F,
    ) -> Result<T, MetadataError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let used = Mutex::new(None);
        let attempts = async {
            let mut repeated = false;
            loop {
                let connection = self.connection().await?;
                *used.lock().expect("no panic under the lock") = Some(connection.clone());
                let failure = match request(connection.clone()).await {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => failure,
                };
                if failure.reconnect {
                    connection.fail();
                }
                if !failure.reauthenticate || repeated {
                    return Err(at(&connection.endpoint, failure.error));
                }
                repeated = true;
            }
        };
        match tokio::time::timeout(limit, attempts).await {
            Ok(result) => result,
            Err(_) => {
                let used = used.into_inner().expect("no panic under the lock");
                if let Some(connection) = &used {
                    connection.fail();
                }
                let endpoint = used.map_or_else(|| self.settings.endpoints.join(", "), |c| c.endpoint.clone());
                let message = format!("etcd at {endpoint}: no answer within {limit:?}");
                Err(MetadataError::Unavailable { message })
            }
        }
    }

    /// The current connection, or a new one to the first endpoint that answers.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>, MetadataError> {
        if let Some(connection) = self.usable() {
            return Ok(connection);
        }
        let _connecting = self.connecting.lock().await;
        if let Some(connection) = self.usable() {
            return Ok(connection);
        }
        let endpoints = &self.settings.endpoints;
        let mut last_error = None;
        for _ in endpoints {
            // Moved on before the attempt: if our caller gives up meanwhile, the next one tries the next endpoint.
            let endpoint = &endpoints[self.next.fetch_add(1, Ordering::Relaxed) % endpoints.len()];
            match self.connect(endpoint).await {
                Ok(client) => {
                    let endpoint = endpoint.clone();
                    let connection = Arc::new(Connection { client, endpoint, failed: AtomicBool::new(false) });
                    *self.current.lock().expect("no panic under the lock") = Some(connection.clone());
                    return Ok(connection);
                }
                Err(error @ MetadataError::Refused { .. }) => return Err(at(endpoint, error)),
                Err(error) => last_error = Some(at(endpoint, error)),
            }
        }
        Err(last_error.expect("there is at least one endpoint"))
    }

    fn usable(&self) -> Option<Arc<Connection>> {
        let current = self.current.lock().expect("no panic under the lock");
        current.clone().filter(|connection| !connection.failed.load(Ordering::Relaxed))
    }

    async fn connect(&self, endpoint: &str) -> Result<Client, MetadataError> {
        let limit = PROBE_TIMEOUT.min(self.settings.request_timeout);
        let attempt = async {
            let options = self.options(endpoint);
            let connected = match &self.settings.username {
                Some(user) => {
                    let password = self.settings.password.clone().unwrap_or_default();
                    let with_user = options.clone().with_user(user, password);
                    match Client::connect([endpoint], Some(with_user)).await {
                        // As etcd's own client: credentials are not needed yet, so they do not hurt.
                        Err(e) if text(&e).contains("authentication is not enabled") => {
                            Client::connect([endpoint], Some(options)).await
                        }
                        result => result,
                    }
                }
                None => Client::connect([endpoint], Some(options)).await,
            };
            let client = connected.map_err(Failure::from)?;
            let probe = GetOptions::new().with_serializable().with_keys_only().with_limit(1);
            match client.kv_client().get(PROBE_KEY, Some(probe)).await.map_err(Failure::from) {
                Err(failure) if failure.reconnect => Err(failure),
                _ => Ok(client),
            }
        };
        match tokio::time::timeout(limit, attempt).await {
            Ok(result) => result.map_err(|failure| failure.error),
            Err(_) => Err(MetadataError::Unavailable { message: format!("no connection within {limit:?}") }),
        }
    }

    fn options(&self, endpoint: &str) -> ConnectOptions {
        let options = ConnectOptions::new()
            .with_connect_timeout(PROBE_TIMEOUT)
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if !endpoint.starts_with("https://") {
            return options;
        }
        let mut tls = TlsOptions::new().with_enabled_roots();
        if let Some(pem) = &self.settings.tls_ca_pem {
            tls = tls.ca_certificate(Certificate::from_pem(pem));
        }
        if let Some((chain, key)) = &self.settings.tls_identity_pem {
            tls = tls.identity(Identity::from_pem(chain, key));
        }
        options.with_tls(tls)
    }
}

/// Names the member.
fn at(endpoint: &str, error: MetadataError) -> MetadataError {
    match error {
        MetadataError::Unavailable { message } => {
            MetadataError::Unavailable { message: format!("etcd at {endpoint}: {message}") }
        }
        MetadataError::Refused { message } => {
            MetadataError::Refused { message: format!("etcd at {endpoint}: {message}") }
        }
        other => other,
    }
}

/// Stands for "the lease you asked about" until the caller fills it in.
const SOME_LEASE: LeaseId = 0;

/// Words of etcd (or of gRPC) that mean a refusal, and what to do about it.
const REFUSALS: [(&str, &str); 8] = [
    ("permission denied", "grant the user read and write on prefix /kafscale/"),
    ("authentication failed", "check KAFSCALE_ETCD_USERNAME and KAFSCALE_ETCD_PASSWORD"),
    ("user name is empty", "etcd wants authentication; set KAFSCALE_ETCD_USERNAME and KAFSCALE_ETCD_PASSWORD"),
    (
        "database space exceeded",
        "compact and defragment etcd or raise --quota-backend-bytes, then `etcdctl alarm disarm`",
    ),
    ("request is too large", "raise etcd's --max-request-bytes"),
    ("larger than max", "raise etcd's --max-request-bytes"),
    ("too many operations", "raise etcd's --max-txn-ops"),
    ("duplicate key", "this is a bug of kafscale"),
];

/// Words that mean that the token, not the request, is at fault.
const STALE_TOKEN: [&str; 2] = ["invalid auth token", "revision of auth store is old"];

impl Failure {
    /// What a message of etcd means.
    pub(super) fn from_words(message: String) -> Self {
        let has = |words: &&str| message.contains(*words);
        if has(&"lease not found") {
            let error = MetadataError::LeaseExpired { lease: SOME_LEASE };
            return Self { error, reconnect: false, reauthenticate: false };
        }
        if STALE_TOKEN.iter().any(has) {
            let error = MetadataError::Unavailable { message };
            return Self { error, reconnect: true, reauthenticate: true };
        }
        if let Some((words, advice)) = REFUSALS.iter().find(|(words, _)| has(words)) {
            // Authentication may have been enabled after we connected without it.
            let reauthenticate = *words == "user name is empty";
            let error = MetadataError::Refused { message: format!("{message} ({advice})") };
            return Self { error, reconnect: reauthenticate, reauthenticate };
        }
        // A member that is overloaded or compacted under us is alive; anything else may be its end.
        let alive = has(&"too many requests") || has(&"revision has been compacted");
        Self { error: MetadataError::Unavailable { message }, reconnect: !alive, reauthenticate: false }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::from_words(text(&error))
    }
}

/// The error in words, with its causes: gRPC's own say no more than "transport error".
pub(super) fn text(error: &Error) -> String {
    let source: &dyn std::error::Error = match error {
        Error::GRpcStatus(status) if std::error::Error::source(status).is_none() => {
            return status.message().to_owned();
        }
        Error::GRpcStatus(status) => status,
        Error::TransportError(transport) => transport,
        other => return other.to_string(),
    };
    let mut words = match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        _ => source.to_string(),
    };
    let mut cause = source.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_what_they_mean() {
        let cases = [
            ("etcdserver: permission denied", "refused", false),
            ("etcdserver: authentication failed, invalid user ID or password", "refused", false),
            ("etcdserver: user name is empty", "refused", true),
            ("etcdserver: mvcc: database space exceeded", "refused", false),
            ("etcdserver: request is too large", "refused", false),
            ("trying to send message larger than max (3 vs. 2)", "refused", false),
            ("etcdserver: invalid auth token", "unavailable", true),
            ("etcdserver: revision of auth store is old", "unavailable", true),
            ("etcdserver: requested lease not found", "lease", false),
            ("etcdserver: request timed out", "unavailable", false),
            ("etcdserver: no leader", "unavailable", false),
            ("anything new", "unavailable", false),
        ];
        for (words, expected, reauthenticate) in cases {
            let failure = Failure::from_words(words.to_owned());
            let kind = match failure.error {
                MetadataError::Refused { .. } => "refused",
                MetadataError::Unavailable { .. } => "unavailable",
                MetadataError::LeaseExpired { .. } => "lease",
                MetadataError::Malformed { .. } => "malformed",
                MetadataError::WentBack { .. } => "went back",
            };
            assert_eq!((kind, failure.reauthenticate), (expected, reauthenticate), "{words}");
        }
    }

    #[test]
    fn no_endpoint_is_refused() {
        assert!(matches!(Connections::new(EtcdSettings::new(vec![])), Err(MetadataError::Refused { .. })));
    }
}
