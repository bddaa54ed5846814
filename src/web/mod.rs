//! The web console: its own actor system beside the brokers, with a JSON API, a live feed and the pages themselves.
//!
//! What it shows comes from the Kafka protocol, from etcd and from the brokers' metrics listeners; it keeps nothing durable. What it
//! cannot find out it says: every answer names the sources that are missing and since when.

pub mod audit;
pub mod problem;
pub mod source;
