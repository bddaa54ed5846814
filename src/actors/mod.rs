//! Everything with identity and state is an actor; each concept has one folder with a pure `state.rs` and a thin shell.

pub mod ahead;
pub mod compactor;
pub mod context;
pub mod control;
pub mod controller;
pub mod desired;
pub mod drain;
pub mod flusher;
pub mod follower;
pub mod group;
pub mod leadership;
pub mod membership;
pub mod partition;
pub mod recovery;
pub mod runtime;
pub mod s3_health;
pub mod standing;
pub mod supervisor;
pub mod writer;
