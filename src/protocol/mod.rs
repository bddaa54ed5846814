//! The Kafka protocol edge: frames, guard, record batches, connections and one handler file per API family.

pub mod api;
pub mod batch;
pub mod budget;
pub mod connection;
pub mod frame;
pub mod guard;
pub mod handlers;
pub mod limits;
pub mod outbox;
pub mod server;
pub mod splice;
