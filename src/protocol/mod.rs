//! The Kafka protocol edge: frames, guard, record batches, connections and one handler file per API family.

pub mod api;
pub mod batch;
pub mod guard;
pub mod handlers;
pub mod splice;
