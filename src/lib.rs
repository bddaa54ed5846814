//! Kafscale: a Kafka-protocol streaming platform whose brokers keep no durable state.
//!
//! Segments live in an object store, metadata and ownership in etcd; `docs/architecture.md` is the map.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod actors;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod failpoint;
pub mod fuzzing;
pub mod http;
pub mod ids;
pub mod metadata;
pub mod metrics;
pub mod node;
pub mod operator;
pub mod protocol;
pub mod recover;
pub mod rng;
pub mod sabotage;
pub mod signals;
pub mod storage;
pub mod telemetry;
pub mod trace;
pub mod web;
