//! Being told to stop: SIGTERM and Ctrl-C, heard from the first moment of a process. A signal that comes before anybody
//! listens ends the process as if it had crashed, with requests in flight.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask a process to stop.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Listens from now on; what comes before `received` is asked is kept.
    ///
    /// # Panics
    /// Outside a tokio runtime, and if the system refuses handlers.
    pub fn listen() -> Self {
        let listen = |kind| signal(kind).expect("signal handlers can be installed");
        Self { terminate: listen(SignalKind::terminate()), interrupt: listen(SignalKind::interrupt()) }
    }

    /// Returns when the process is told to stop. May be dropped and asked again: another signal is another answer.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
