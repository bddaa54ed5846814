//! Why connections end, and whose fault that is.

use super::frame::{FrameError, HeaderError};
use super::guard::GuardError;
use std::io;
use std::time::Duration;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum CloseReason {
    /// The peer closed it.
    #[error("closed by the peer")]
    Eof,
    /// This broker is shutting down.
    #[error("the broker is shutting down")]
    Shutdown,
    /// No request for too long.
    #[error("no request for {0:?}")]
    Idle(Duration),
    /// The peer stalled inside a request, or sends too slowly.
    #[error("the peer stalled inside a request of {0} bytes")]
    FrameStalled(usize),
    /// The peer does not read its replies, or too slowly.
    #[error("the peer does not read its replies; {0} bytes wait")]
    WriteStalled(usize),
    /// Not a request.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A header that is malformed or asks for what is not served.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A body that its schema does not describe.
    #[error("api key {key} version {version}: {error}")]
    Guard {
        /// API key.
        key: i16,
        /// Version.
        version: i16,
        /// What is wrong.
        error: GuardError,
    },
    /// A body that would take too much memory decoded.
    #[error("api key {key}: the request would take {bytes} bytes decoded; {max} are allowed")]
    TooManyElements {
        /// API key.
        key: i16,
        /// Estimate.
        bytes: usize,
        /// Limit.
        max: usize,
    },
    /// The handler asked for it, or panicked.
    #[error("{0}")]
    Handler(String),
    /// The socket failed.
    #[error("writing failed: {0}")]
    Write(io::Error),
}

impl CloseReason {
    /// True if the peer sent what no correct client of this broker sends.
    pub fn is_protocol_error(&self) -> bool {
        match self {
            Self::Frame(error) => matches!(error, FrameError::Length { .. }),
            Self::Header(_) | Self::Guard { .. } | Self::TooManyElements { .. } => true,
            _ => false,
        }
    }

    /// True if the peer stopped sending a request, or stopped reading its replies.
    pub fn is_stall(&self) -> bool {
        matches!(self, Self::FrameStalled(_) | Self::WriteStalled(_))
    }
}
