//! Everything with identity and state is an actor; each concept has one folder with a pure `state.rs` and a thin shell.

pub mod partition;
pub mod runtime;
