//! Syncing a folder after changing it, once for all who wait.

use super::sync_folder;
use std::io;
use std::path::Path;
use std::sync::{Condvar, Mutex};

/// Syncs of one folder: a sync that begins after a change makes the change durable, whoever asked for it.
#[derive(Debug, Default)]
pub struct FolderSync {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Number of syncs that have begun.
    begun: u64,
    /// The greatest number of a sync that has succeeded.
    done: u64,
    running: bool,
}

impl FolderSync {
    /// Returns when every change made to `folder` before this call is durable.
    pub fn sync(&self, folder: &Path) -> io::Result<()> {
        self.run(|| sync_folder(folder))
    }

    fn run(&self, sync: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock().expect("no panic under the lock");
        let needed = state.begun + 1; // one that is running may have missed our change
        while state.done < needed {
            if state.running {
                state = self.ended.wait(state).expect("no panic under the lock");
                continue;
            }
            state.running = true;
            state.begun += 1;
            let number = state.begun;
            drop(state);
            let result = sync();
            state = self.state.lock().expect("no panic under the lock");
            state.running = false;
            if result.is_ok() {
                state.done = number;
            }
            self.ended.notify_all();
            result?; // the others try for themselves
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn those_who_come_during_a_sync_share_the_next() {
        let folder = FolderSync::default();
        let syncs = AtomicU32::new(0);
        let (first_runs, all_wait) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                folder.run(|| {
                    if syncs.fetch_add(1, Ordering::SeqCst) == 0 {
                        first_runs.wait();
                        all_wait.wait();
                    }
                    Ok(())
                })
            });
            first_runs.wait();
            let others: Vec<_> = (0..5)
                .map(|_| {
                    scope.spawn(|| {
                        folder.run(|| {
                            syncs.fetch_add(1, Ordering::SeqCst);
                            Ok(())
                        })
                    })
                })
                .collect();
            // They are under way; whether they have reached the wait changes nothing but how many share.
            std::thread::yield_now();
            assert_eq!(syncs.load(Ordering::SeqCst), 1, "nobody syncs beside a running sync");
            all_wait.wait();
            first.join().unwrap().unwrap();
            for other in others {
                other.join().unwrap().unwrap();
            }
        });
        let syncs = syncs.load(Ordering::SeqCst);
        assert!((2..=6).contains(&syncs), "{syncs} syncs: the first one is not enough for the others");
    }

    #[test]
    fn a_failed_sync_makes_nothing_durable() {
        let folder = FolderSync::default();
        folder.run(|| Err(io::ErrorKind::Other.into())).unwrap_err();
        let ran = AtomicU32::new(0);
        folder
            .run(|| {
                ran.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
            .unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), 1);
    }
}
