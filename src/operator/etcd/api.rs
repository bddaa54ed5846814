//! Etcd as seen through its own API: looking at it, and carrying out a [`Step`].

use super::maintenance::state::{Listed, Seen, Serving, Step};
use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Client, CompactionOptions, ConnectOptions, Error};
use std::collections::BTreeMap;
use std::time::Duration;

/// Time to connect to a member.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for a question.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a compaction or a defragmentation. The latter copies the database, and goes on without us.
const WORK_TIMEOUT: Duration = Duration::from_secs(60);

/// Where a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// URL for clients.
    pub client: String,
    /// URL for other members, as it was added with.
    pub peer: String,
}

/// A user of etcd's basic authentication.
#[derive(Clone)]
pub struct User {
    /// Name.
    pub name: String,
    /// Password.
    pub password: String,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("User(redacted)")
    }
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Etcd refused or did not answer.
    #[error("etcd at {endpoint}: {message}")]
    Etcd {
        /// Who was asked.
        endpoint: String,
        /// What came of it.
        message: String,
    },
    /// Nobody to ask.
    #[error("no member of etcd answers")]
    NobodyServes,
}

fn failed(endpoint: &str, error: impl std::fmt::Display) -> ApiError {
    ApiError::Etcd { endpoint: endpoint.to_owned(), message: error.to_string() }
}

async fn connect(endpoint: &str, user: Option<&User>, timeout: Duration) -> Result<Client, Error> {
    let mut options = ConnectOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_timeout(timeout);
    if let Some(user) = user {
        options = options.with_user(&user.name, &user.password);
    }
    Client::connect([endpoint], Some(options)).await
}

/// Looks at all members; volumes are left to whoever knows Kubernetes.
pub async fn look(members: &BTreeMap<u32, Address>, user: Option<&User>) -> (Seen, Option<String>) {
    let looks = members.iter().map(async |(ordinal, address)| (*ordinal, status(&address.client, user).await));
    let mut seen = Seen::default();
    let mut refusal = None;
    let mut clients = Vec::new();
    for (ordinal, answer) in futures::future::join_all(looks).await {
        match answer {
            Ok((client, serving)) => {
                seen.serving.insert(ordinal, serving);
                clients.push(client);
            }
            Err(error) => refusal = refusal.or(Some(error.to_string())),
        }
    }
    // The first that can ask the others; a member that is cut off cannot.
    for mut client in clients {
        match lists(&mut client, members, &mut seen).await {
            Ok(()) => return (seen, None),
            Err(error) => refusal = Some(error.to_string()),
        }
    }
    (seen, refusal.or(Some(ApiError::NobodyServes.to_string())))
}

async fn status(endpoint: &str, user: Option<&User>) -> Result<(Client, Serving), ApiError> {
    let ask = async {
        let mut client = connect(endpoint, user, CALL_TIMEOUT).await?;
        let status = client.status().await?;
        Ok::<_, Error>((client, status))
    };
    let answer = tokio::time::timeout(CALL_TIMEOUT, ask).await;
    let (client, status) =
        answer.map_err(|_| failed(endpoint, "no answer"))?.map_err(|error| failed(endpoint, error))?;
    let id = status.header().map_or(0, |header| header.member_id());
    let serving = Serving {
        id,
        leads: status.leader() == id,
        follows: status.leader() != 0,
        db_bytes: u64::try_from(status.db_size()).unwrap_or(0),
        used_bytes: u64::try_from(status.raft_used_db_size()).unwrap_or(0), // `dbSizeInUse`, whatever it is called here
        revision: status.header().map_or(0, |header| header.revision()),
    };
    Ok((client, serving))
}

async fn lists(client: &mut Client, members: &BTreeMap<u32, Address>, seen: &mut Seen) -> Result<(), Error> {
    let list = client.member_list().await?;
    let alarms = client.alarm(AlarmAction::Get, AlarmType::None, None).await?;
    let ordinal = |urls: &[String]| members.iter().find(|(_, a)| urls.contains(&a.peer)).map(|(ordinal, _)| *ordinal);
    let listed = |member: &etcd_client::Member| Listed {
        id: member.id(),
        ordinal: ordinal(member.peer_urls()),
        started: !member.client_urls().is_empty(),
    };
    seen.listed = Some(list.members().iter().map(listed).collect());
    for alarm in alarms.alarms() {
        match alarm.alarm() {
            AlarmType::Nospace => seen.no_space.insert(alarm.member_id()),
            AlarmType::Corrupt => seen.corrupt.insert(alarm.member_id()),
            AlarmType::None => false,
        };
    }
    Ok(())
}

/// Carries out a step on etcd; [`Step::Save`] is nothing to etcd.
pub async fn carry_out(step: &Step, members: &BTreeMap<u32, Address>, seen: &Seen) -> Result<(), ApiError> {
    let ordinal = match step {
        Step::Defragment { ordinal } => *ordinal,
        // Somebody who serves, and is not the one that goes.
        _ => *seen.serving.iter().find(|(_, member)| member.follows).ok_or(ApiError::NobodyServes)?.0,
    };
    let address = members.get(&ordinal).ok_or(ApiError::NobodyServes)?;
    let endpoint = &address.client;
    let done = async {
        let mut client = connect(endpoint, None, WORK_TIMEOUT).await?;
        match step {
            Step::Save(_) => {}
            Step::Remove { id, .. } => {
                client.member_remove(*id).await?;
            }
            Step::Add { ordinal } => {
                let peer = members.get(ordinal).map(|address| address.peer.clone()).unwrap_or_default();
                client.member_add([peer], None).await?;
            }
            Step::Compact { revision } => {
                let options = CompactionOptions::new().with_physical();
                match client.compact(*revision, Some(options)).await {
                    // It has been compacted up to there, by itself or by us.
                    Err(Error::GRpcStatus(status)) if status.message().contains("compacted") => {}
                    answer => {
                        answer?;
                    }
                }
            }
            Step::Defragment { .. } => {
                client.defragment().await?;
            }
            Step::Disarm { id } => {
                let mut options = AlarmOptions::new();
                options.with_member(*id);
                client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(options)).await?;
            }
        }
        Ok::<_, Error>(())
    };
    let answer = tokio::time::timeout(WORK_TIMEOUT, done).await;
    answer.map_err(|_| failed(endpoint, "no answer"))?.map_err(|error| failed(endpoint, error))
}
