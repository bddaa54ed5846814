//! The gRPC control plane of a broker (`proto/kafscale/control/v1/control.proto`): drain, undrain, status, and the standard
//! health service. [`server`] answers, [`listener`] bounds who is listened to, [`commands`] are the `kafscale drain` and
//! `kafscale status` that ask, and [`find`] finds a broker's control plane through the metadata store.
//!
//! It decides nothing: a drain on request and the one at SIGTERM are the same ([`crate::actors::drain`]).

pub mod commands;
pub mod find;
pub mod listener;
pub mod server;

/// The messages and the service, generated at build time.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("kafscale.control.v1");
}
