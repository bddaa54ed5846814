//! How the members of etcd do, each asked by itself.

use super::EtcdSettings;
use super::connection::{Connection, Connections, Failure};
use crate::metadata::MetadataError;
use etcd_client::{AlarmAction, AlarmType};
use futures::future::join_all;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a member may take to say how it is.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct MemberStatus {
    /// As configured.
    pub endpoint: String,
    /// It answers, follows a leader, and says of no error.
    pub healthy: bool,
    /// Version of etcd.
    pub version: Option<String>,
    /// Size of its file, bytes.
    pub db_size_bytes: Option<String>,
    /// Of these, in use.
    pub db_in_use_bytes: Option<String>,
    /// It leads.
    pub is_leader: Option<bool>,
    /// Revision it has reached.
    pub revision: Option<String>,
    /// Raft's term.
    pub raft_term: Option<String>,
    /// NOSPACE or CORRUPT.
    pub alarms: Vec<String>,
    /// Why it does not answer, or what it says is wrong.
    pub error: Option<String>,
}

impl MemberStatus {
    fn silent(endpoint: &str, error: String) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            healthy: false,
            version: None,
            db_size_bytes: None,
            db_in_use_bytes: None,
            is_leader: None,
            revision: None,
            raft_term: None,
            alarms: Vec::new(),
            error: Some(error),
        }
    }

    /// What is wrong with it.
    pub fn problem(&self) -> Option<String> {
        if let Some(alarm) = self.alarms.first() {
            return Some(format!("{} has the alarm {alarm}", self.endpoint));
        }
        let error = self.error.as_ref()?;
        // Errors of connections name the endpoint already.
        Some(if error.contains(&self.endpoint) { error.clone() } else { format!("{}: {error}", self.endpoint) })
    }
}

/// Connections to each member.
#[derive(Debug)]
pub struct Members {
    members: Vec<(String, Connections)>,
}

impl Members {
    /// The members that `settings` name.
    pub fn new(settings: &EtcdSettings) -> Result<Self, MetadataError> {
        let of = |endpoint: &String| {
            let settings = EtcdSettings { endpoints: vec![endpoint.clone()], ..settings.clone() };
            Ok((endpoint.clone(), Connections::new(settings)?))
        };
        Ok(Self { members: settings.endpoints.iter().map(of).collect::<Result<_, _>>()? })
    }

    /// Asks all of them at once.
    pub async fn status(&self) -> Vec<MemberStatus> {
        let asked = self.members.iter().map(|(endpoint, connections)| async move {
            let asked = connections.call_within(STATUS_TIMEOUT, |connection| ask(endpoint, connection)).await;
            asked.unwrap_or_else(|error| (0, MemberStatus::silent(endpoint, error.to_string())))
        });
        let mut statuses = join_all(asked).await;
        let alarms = self.alarms().await;
        for (id, status) in &mut statuses {
            status.alarms = alarms.get(id).cloned().unwrap_or_default();
            status.healthy = status.error.is_none() && status.alarms.is_empty();
        }
        statuses.into_iter().map(|(_, status)| status).collect()
    }

    /// Alarms by member, as any member knows them.
    async fn alarms(&self) -> HashMap<u64, Vec<String>> {
        for (_, connections) in &self.members {
            let asked = connections.call_within(STATUS_TIMEOUT, |connection| async move {
                let mut client = connection.client().maintenance_client();
                Ok(client.alarm(AlarmAction::Get, AlarmType::None, None).await?)
            });
            let Ok(answer) = asked.await else { continue };
            let mut alarms: HashMap<u64, Vec<String>> = HashMap::new();
            for alarm in answer.alarms() {
                let name = match alarm.alarm() {
                    AlarmType::Nospace => "NOSPACE",
                    AlarmType::Corrupt => "CORRUPT",
                    AlarmType::None => continue,
                };
                alarms.entry(alarm.member_id()).or_default().push(name.to_owned());
            }
            return alarms;
        }
        HashMap::new()
    }
}

async fn ask(endpoint: &str, connection: Arc<Connection>) -> Result<(u64, MemberStatus), Failure> {
    let answer = connection.client().maintenance_client().status().await?;
    let member = answer.header().map_or(0, |header| header.member_id());
    let error = match answer.leader() {
        0 => Some("it knows no leader".to_owned()),
        _ => None,
    };
    let status = MemberStatus {
        endpoint: endpoint.to_owned(),
        healthy: error.is_none(),
        version: Some(answer.version().to_owned()),
        db_size_bytes: Some(answer.db_size().to_string()),
        db_in_use_bytes: Some(answer.raft_used_db_size().to_string()),
        is_leader: Some(answer.leader() == member && member != 0),
        revision: answer.header().map(|header| header.revision().to_string()),
        raft_term: Some(answer.raft_term().to_string()),
        alarms: Vec::new(),
        error,
    };
    Ok((member, status))
}
