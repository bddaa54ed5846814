//! The web console: its own actor system beside the brokers, with a JSON API, a live feed and the pages themselves.
//!
//! What it shows comes from the Kafka protocol, from etcd and from the brokers' metrics listeners; it keeps nothing durable. What it
//! cannot find out it says: every answer names the sources that are missing and since when.
//!
//! `kafscale console` and `kafscale dev` start it with [`spawn`], on a thread of its own. [`gate`] is what every request passes.

pub mod assets;
pub mod audit;
pub mod auth;
pub mod brokers;
pub mod client;
pub mod cluster;
pub mod command;
pub mod cost;
pub mod data;
pub mod drains;
pub mod exposition;
pub mod fetch;
pub mod gate;
pub mod groups;
pub mod history;
pub mod insight;
pub mod kafka;
pub mod keyset;
pub mod list;
pub mod live;
pub mod messages;
pub mod openapi;
pub mod overview;
pub mod probes;
pub mod problem;
pub mod scrape;
pub mod segments;
pub mod server;
pub mod snapshots;
pub mod source;
mod start;
pub mod state;
pub mod topics;

pub use start::{ConsoleHandle, Parts, StartError, bind, run, spawn};
