//! Where things run. [`Placement`] is a value, so that the same actors run on arbiters (one per core) or all on one
//! thread under simulated time; [`IoPool`] is the runtime for S3, metadata and other work that must not sit on a shard.

use actix_rt::ArbiterHandle;
use futures::future::LocalBoxFuture;
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

/// A thread that runs actors.
#[derive(Debug, Clone)]
pub enum Placement {
    /// An arbiter: a thread of its own.
    Arbiter(ArbiterHandle),
    /// The calling thread, inside its `LocalSet`.
    Here,
}

impl Placement {
    /// Runs `f` on that thread; it may spawn local tasks and actors there.
    pub fn run(&self, f: impl FnOnce() + Send + 'static) {
        match self {
            Self::Arbiter(arbiter) => {
                // An arbiter that is gone means that the process is ending.
                let _running = arbiter.spawn_fn(f);
            }
            Self::Here => f(),
        }
    }

    /// Runs the future that `f` makes on that thread.
    pub fn spawn(&self, f: impl FnOnce() -> LocalBoxFuture<'static, ()> + Send + 'static) {
        self.run(move || drop(actix_rt::spawn(f())));
    }
}
