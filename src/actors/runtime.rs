//! Where things run: the I/O pool for S3, metadata and other work that must not sit on a shard.

use std::future::Future;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The runtime for I/O: a multi-thread tokio runtime in the product, the test's own in simulations.
#[derive(Debug, Clone)]
pub struct IoPool(Handle);

impl IoPool {
    /// The runtime this is called on.
    pub fn current() -> Self {
        Self(Handle::current())
    }

    /// Runs `future` on the pool.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.0.spawn(future)
    }
}
