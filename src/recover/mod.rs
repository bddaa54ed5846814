//! `kafscale recover`: rebuilds the metadata store from the object store, when it is lost or was restored from a backup that
//! is older than what brokers have done since. `docs/disaster-recovery.md` is for those who have to run it.
//!
//! Without `--write` it prints what it would do. It reads both stores (`survey`, [`read_store`]), decides (`plan`, which is pure)
//! and writes (`apply`). It refuses while a broker lives, and what cannot be restored has to be agreed to with `--force`.

pub mod apply;
pub mod plan;
mod report;
mod succession;
pub mod survey;

use crate::actors::runtime::IoPool;
use crate::cli::exit;
use crate::clock::Clock;
use crate::config::NodeConfig;
use crate::metadata::keys::{Keys, ParsedKey};
use crate::metadata::model::{self, BrokerConfigsValue, CounterValue, LiveValue};
use crate::metadata::ownership::{Ownership, OwnershipError};
use crate::metadata::{MetadataError, MetadataStore};
use crate::node::stores::Stores;
use crate::storage::ObjectStore;
use crate::storage::layout::Layout;
use apply::Apply;
use plan::{Plan, Store};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use survey::{Survey, SurveyError};

/// How long the leases of brokers that are gone may still live: a restored etcd begins them anew.
const LEASES_END_WITHIN: Duration = Duration::from_secs(60);
/// How often it looks whether they have ended.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Write, and not only print.
    pub write: bool,
    /// Write although something is lost.
    pub force: bool,
}

/// Why nothing was recovered; the exit code tells which.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// A store fails.
    #[error("{0}")]
    Unavailable(String),
    /// It must not be done.
    #[error("{0}")]
    Refused(String),
}

impl From<MetadataError> for RecoverError {
    fn from(error: MetadataError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<OwnershipError> for RecoverError {
    fn from(error: OwnershipError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// Runs the command.
pub fn run(config: NodeConfig, options: Options) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start threads: {error}");
            return ExitCode::from(exit::UNAVAILABLE);
        }
    };
    match runtime.block_on(recover(&config, options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(match error {
                RecoverError::Unavailable(_) => exit::UNAVAILABLE,
                RecoverError::Refused(_) => exit::WENT_BACK,
            })
        }
    }
}

async fn recover(config: &NodeConfig, options: Options) -> Result<(), RecoverError> {
    let clock = Clock::system();
    let stores = Stores::open(config, &IoPool::current(), clock, None).await;
    let stores = stores.map_err(|e| RecoverError::Unavailable(e.to_string()))?;
    let (keys, layout) = (Keys::new(&config.namespace), Layout::new(config.namespace.as_str()));
    let (metadata, objects) = (stores.metadata.clone(), stores.objects.clone());
    recover_stores(metadata, objects, &keys, &layout, clock, options, &mut |text| print!("{text}")).await
}

/// The whole of it, on stores that are open. `say` hears what is to be printed.
pub async fn recover_stores(
    metadata: Arc<dyn MetadataStore>,
    objects: Arc<dyn ObjectStore>,
    keys: &Keys,
    layout: &Layout,
    clock: Clock,
    options: Options,
    say: &mut dyn FnMut(&str),
) -> Result<(), RecoverError> {
    if options.write {
        wait_for_leases(&*metadata, keys, clock, say).await?;
    }
    let now_ms = clock.wall_ms();
    // The metadata store first: what a broker writes meanwhile makes a compare fail.
    let store = read_store(&metadata, keys).await?;
    let survey = Survey::take(objects.clone(), layout, now_ms).await.map_err(|error| match error {
        SurveyError::Store(error) => RecoverError::Unavailable(error.to_string()),
        error @ SurveyError::NoCluster(_) => RecoverError::Refused(error.to_string()),
    })?;
    let plan = plan::plan(&store, &survey.found, now_ms).map_err(RecoverError::Refused)?;
    say(&report::text(&store, &survey, &plan));
    if !options.write {
        say("\nNothing was written. To write it: kafscale recover --write\n");
        return Ok(());
    }
    refuse(&store, &plan, options)?;
    let (store, survey, plan) = (&store, &survey, &plan);
    let apply = Apply { metadata, objects, keys, layout, store, survey, plan, now_ms };
    apply.run().await.map_err(|e| RecoverError::Unavailable(format!("the plan was not carried out: {e}")))?;
    say("\nThe metadata store is rebuilt. Start the brokers.\n");
    Ok(())
}

fn refuse(store: &Store, plan: &Plan, options: Options) -> Result<(), RecoverError> {
    if !store.live.is_empty() {
        let nodes: Vec<String> = store.live.iter().map(ToString::to_string).collect();
        let nodes = nodes.join(", ");
        return Err(RecoverError::Refused(format!("nothing was written: broker(s) {nodes} live; stop all brokers")));
    }
    if !plan.losses.is_empty() && !options.force {
        let losses = plan.losses.len();
        return Err(RecoverError::Refused(format!(
            "nothing was written: {losses} thing(s) above cannot be restored. Restore them, or give them up with --force"
        )));
    }
    Ok(())
}

async fn wait_for_leases(
    store: &dyn MetadataStore,
    keys: &Keys,
    clock: Clock,
    say: &mut dyn FnMut(&str),
) -> Result<(), RecoverError> {
    let end = clock.monotonic() + LEASES_END_WITHIN;
    let mut told = false;
    while !live(store, keys).await?.is_empty() && clock.monotonic() < end {
        if !std::mem::replace(&mut told, true) {
            let limit = LEASES_END_WITHIN.as_secs();
            say(&format!("Waiting for the leases of brokers to end (at most {limit} s) ...\n"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn live(store: &dyn MetadataStore, keys: &Keys) -> Result<Vec<crate::ids::BrokerId>, MetadataError> {
    let (entries, _) = store.get_prefix(&keys.lives()).await?;
    entries.iter().map(|entry| Ok(model::decode::<LiveValue>(entry)?.node)).collect()
}

/// Everything that the metadata store has, but for groups, which are kept as they are.
pub async fn read_store(metadata: &Arc<dyn MetadataStore>, keys: &Keys) -> Result<Store, RecoverError> {
    let ownership = Ownership::new(metadata.clone(), keys.clone());
    let counter = async |key: String| -> Result<u64, MetadataError> {
        let entry = metadata.get(&key).await?;
        Ok(entry.map(|e| model::decode::<CounterValue>(&e)).transpose()?.map_or(1, |c| c.next))
    };
    // First, so that another run is noticed whenever it begins.
    let recovering = metadata.get(&keys.recovering()).await?.map_or(0, |e| e.mod_revision);
    let cluster = metadata.get(&keys.cluster()).await?;
    let cluster_revision = cluster.as_ref().map_or(0, |e| e.mod_revision);
    let cluster = cluster.map(|e| model::decode(&e)).transpose()?;
    let (next_writer, next_producer) = (counter(keys.next_writer()).await?, counter(keys.next_producer()).await?);
    let (writers, partitions) = (ownership.writers().await?, ownership.partitions().await?);
    let live = live(&**metadata, keys).await?;
    let mut store = Store {
        cluster,
        cluster_revision,
        recovering,
        next_writer,
        next_producer,
        writers,
        partitions,
        live,
        ..Store::default()
    };
    let (topics, revision) = metadata.get_prefix(&keys.topics()).await?;
    store.revision = revision;
    for entry in &topics {
        if let Some(ParsedKey::Topic(name)) = keys.parse(&entry.key) {
            store.topics.insert(name, model::decode(entry)?);
        }
    }
    for entry in metadata.get_prefix(&keys.deleted_topics()).await?.0 {
        if let Some(ParsedKey::Deleted(topic)) = keys.parse(&entry.key) {
            store.deleted.insert(topic);
        }
    }
    for entry in metadata.get_prefix(&keys.settings()).await?.0 {
        if let Some(part) = entry.key.strip_prefix(&keys.settings()) {
            store.settings.insert(part.to_owned(), model::decode::<BrokerConfigsValue>(&entry)?.configs);
        }
    }
    let groups = metadata.get_prefix(&keys.groups()).await?.0;
    store.groups = groups.iter().filter(|e| matches!(keys.parse(&e.key), Some(ParsedKey::Group(_)))).count();
    Ok(store)
}
