//! Who takes partitions over or gives them away waits for the maintenance, and clients wait for them. What the maintenance
//! can do again later, it leaves as soon as somebody waits: reading thousands of small objects for a merge takes a minute.

use tokio::sync::watch;

/// Whether somebody waits.
#[derive(Debug)]
pub struct Urgency {
    waiting: watch::Sender<usize>,
}

impl Default for Urgency {
    fn default() -> Self {
        Self { waiting: watch::Sender::new(0) }
    }
}

/// Somebody waits, as long as this exists.
#[derive(Debug)]
pub struct Waiting<'a>(&'a Urgency);

impl Urgency {
    /// Says that the caller waits.
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.send_modify(|count| *count += 1);
        Waiting(self)
    }

    /// Comes back once somebody waits.
    pub async fn called(&self) {
        let mut waiting = self.waiting.subscribe();
        let _sender_is_here = waiting.wait_for(|count| *count > 0).await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn called_is_while_somebody_waits() {
        let urgency = Urgency::default();
        assert!(urgency.called().now_or_never().is_none());
        let (one, two) = (urgency.wait(), urgency.wait());
        drop(one);
        assert!(urgency.called().now_or_never().is_some());
        drop(two);
        assert!(urgency.called().now_or_never().is_none());
    }
}
