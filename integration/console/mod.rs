//! The web console: `kafscale console` beside real brokers and a real etcd, and the one inside of `kafscale dev`, asked over real
//! sockets as a browser asks.

mod auth;
pub mod browser;
mod cluster;
mod groups;
mod messages;
mod process;
mod proof;
mod scale;
mod schema;
mod storage;
mod topics;
