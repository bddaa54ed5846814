//! Opens the stores that the configuration names, with their decorators. A store that cannot be opened is an error.

use super::NodeError;
use crate::actors::runtime::IoPool;
use crate::actors::s3_health::S3Health;
use crate::clock::Clock;
use crate::config::{MetadataConfig, NodeConfig, Secret, StorageConfig};
use crate::metadata::MetadataStore;
use crate::metadata::embedded::EmbeddedStore;
use crate::metadata::etcd::{EtcdSettings, EtcdStore, WentBackHook};
use crate::storage::layout::Layout;
use crate::storage::local::LocalStore;
use crate::storage::measured::{MeasuredStore, StoreStats};
use crate::storage::memory::MemoryStore;
use crate::storage::replica::ReplicaStore;
use crate::storage::retry::{HedgePolicy, RetryPolicy, RetryStats, RetryingStore};
use crate::storage::s3::{S3Config, S3Store, StaticCredentials};
use crate::storage::{ObjectStore, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A PUT is sent a second time when it takes longer than this quantile of recent ones ...
const HEDGE_QUANTILE: f64 = 0.95;
/// ... and at least this long.
const HEDGE_DELAY_MIN: Duration = Duration::from_millis(30);

/// The open stores.
pub struct Stores {
    /// Objects, with retries.
    pub objects: Arc<dyn ObjectStore>,
    /// The same for consumers, if there is a copy that they may be served from.
    pub replica: Option<Arc<ReplicaStore>>,
    /// Metadata.
    pub metadata: Arc<dyn MetadataStore>,
    /// Counters of requests to the object store, every attempt included.
    pub object_stats: Arc<StoreStats>,
    /// Counters of retries and hedges.
    pub retry_stats: Arc<RetryStats>,
    /// How the object store does; judges nothing until it is run.
    pub health: Arc<S3Health>,
    cancel: CancellationToken,
}

impl Stores {
    /// Opens both stores on the I/O pool. `on_went_back` hears when the metadata store turns out to be an older one.
    pub async fn open(
        config: &NodeConfig,
        io: &IoPool,
        clock: Clock,
        on_went_back: Option<WentBackHook>,
    ) -> Result<Self, NodeError> {
        let (storage, metadata) = (config.storage.clone(), config.metadata.clone());
        let opened = io.spawn(async move {
            let metadata = open_metadata(metadata, on_went_back).await?;
            Ok::<_, NodeError>((metadata, open_objects(storage, clock).await?))
        });
        let (metadata, opened) = opened.await.map_err(|e| NodeError::new("opening the stores failed", e))??;
        let health = Arc::new(S3Health::new(config.s3_health));
        let measured = MeasuredStore::observed(opened.primary, health.clone());
        let object_stats = measured.stats();
        let cancel = CancellationToken::new();
        let policy = RetryPolicy { hedge: opened.hedge, ..RetryPolicy::default() };
        let retrying = RetryingStore::new(Arc::new(measured), policy, cancel.clone());
        let retry_stats = retrying.stats();
        let objects: Arc<dyn ObjectStore> = Arc::new(retrying);
        let replica = opened.replica.map(|replica| Arc::new(ReplicaStore::new(objects.clone(), replica)));
        Ok(Self { objects, replica, metadata, object_stats, retry_stats, health, cancel })
    }

    /// Says so if there is a read replica and it does not answer. It is no reason not to start: reads do without.
    pub async fn probe_replica(&self, layout: &Layout, clock: Clock) {
        let Some(replica) = &self.replica else { return };
        match replica.probe(&layout.probe(crate::rng::ulid(clock.wall_ms()))).await {
            Ok(()) => tracing::info!("reads go to the read replica (KAFSCALE_S3_READ_BUCKET) first"),
            Err(error) => tracing::error!(
                %error,
                "THE READ REPLICA DOES NOT ANSWER (check KAFSCALE_S3_READ_BUCKET, KAFSCALE_S3_READ_REGION and \
                 KAFSCALE_S3_READ_ENDPOINT): all reads go to the primary bucket until it does"
            ),
        }
    }

    /// Ends retries: creates that are under way fail.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }
}

/// Opens a metadata store; `on_went_back` is told if it goes back in time.
pub async fn open_metadata(
    config: MetadataConfig,
    on_went_back: Option<WentBackHook>,
) -> Result<Arc<dyn MetadataStore>, NodeError> {
    let failed = |e| NodeError::new("the metadata store cannot be opened", e);
    match config {
        MetadataConfig::Embedded { path } => {
            if let Some(folder) = path.parent() {
                let cannot = format!("the data folder {} cannot be created", folder.display());
                std::fs::create_dir_all(folder).map_err(|e| NodeError::resource(format!("{cannot}: {e}")))?;
            }
            Ok(Arc::new(EmbeddedStore::open(&path).map_err(|e| NodeError::resource(failed(e).to_string()))?))
        }
        MetadataConfig::Etcd { endpoints, username, password, tls } => {
            let text = |s: &Secret| s.expose().to_owned();
            let settings = EtcdSettings {
                username,
                on_went_back,
                password: password.as_ref().map(text),
                tls_ca_pem: tls.ca_pem.map(String::into_bytes),
                tls_identity_pem: tls.identity.map(|(chain, key)| (chain.into_bytes(), text(&key).into_bytes())),
                ..EtcdSettings::new(endpoints)
            };
            Ok(Arc::new(EtcdStore::connect(settings).await.map_err(failed)?))
        }
    }
}

/// Object stores without decorators.
struct Opened {
    primary: Arc<dyn ObjectStore>,
    replica: Option<Arc<dyn ObjectStore>>,
    hedge: Option<HedgePolicy>,
}

async fn open_objects(config: StorageConfig, clock: Clock) -> Result<Opened, NodeError> {
    let failed = |e: StoreError| NodeError::new("the object store cannot be opened", e);
    let alone = |primary| Opened { primary, replica: None, hedge: None };
    match config {
        StorageConfig::Local { dir } => {
            let store = LocalStore::open(dir).map_err(|e| NodeError::resource(failed(e).to_string()))?;
            Ok(alone(Arc::new(store)))
        }
        StorageConfig::Memory => {
            tracing::warn!(
                "KAFSCALE_USE_MEMORY_S3: segments are kept in this process's memory and are LOST when it ends"
            );
            Ok(alone(Arc::new(MemoryStore::new(clock))))
        }
        StorageConfig::S3 {
            bucket,
            region,
            endpoint,
            read,
            path_style,
            kms_arn,
            access_key,
            secret_key,
            session_token,
        } => {
            let credentials = access_key.zip(secret_key).map(|(access_key, secret_key)| StaticCredentials {
                access_key: access_key.expose().to_owned(),
                secret_key: secret_key.expose().to_owned(),
                session_token: session_token.map(|token| token.expose().to_owned()),
            });
            let settings = S3Config { bucket, region, endpoint, path_style, credentials, kms_key_arn: kms_arn };
            let replica: Option<Arc<dyn ObjectStore>> = match read {
                Some(read) => {
                    let copy = S3Config {
                        bucket: read.bucket,
                        region: read.region,
                        endpoint: read.endpoint,
                        ..settings.clone()
                    };
                    Some(Arc::new(S3Store::connect(copy).await.map_err(failed)?))
                }
                None => None,
            };
            let hedge = HedgePolicy { delay_min: HEDGE_DELAY_MIN, quantile: HEDGE_QUANTILE };
            let primary = Arc::new(S3Store::connect(settings).await.map_err(failed)?);
            Ok(Opened { primary, replica, hedge: Some(hedge) })
        }
    }
}
