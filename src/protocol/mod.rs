//! The Kafka protocol edge: frames, guard, record batches, connections and one handler file per API family.

pub mod api;
pub mod batch;
pub mod broker_config;
pub mod budget;
pub mod close;
pub mod compression;
pub mod config_change;
pub mod config_defaults;
pub mod connection;
pub mod error_code;
pub mod features;
pub mod frame;
pub mod group_config;
pub mod guard;
pub mod handlers;
pub mod limits;
pub mod outbox;
pub mod records;
pub mod rewrite;
pub mod server;
pub mod splice;
pub mod topic_config;
pub mod topic_name;
pub mod validate;
