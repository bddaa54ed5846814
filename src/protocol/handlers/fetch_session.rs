//! Incremental fetch sessions (KIP-227).

/// The fetch sessions of one process.
#[derive(Debug, Default)]
pub struct SessionCache {}
