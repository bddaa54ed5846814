//! The Kubernetes operator: makes the cluster look as the `KafscaleCluster` and `KafscaleTopic` resources say.
//!
//! Decisions are pure functions from what is wanted and what is there to what should be; only the actors talk to Kubernetes,
//! etcd, S3 and brokers. Every object is written by server-side apply with one field manager, so that only what the operator
//! says is compared and corrected.

pub mod apply;
pub mod cluster;
pub mod context;
pub mod control;
pub mod crd;
pub mod etcd;
pub mod leader;
pub mod metrics;
pub mod resources;
pub mod rollout;
pub mod run;
pub mod snapshot;
pub mod topics;
pub mod view;
pub mod watch;

pub use run::run;
