//! Named places where a test can make an actor (or a supervised loop) panic; `integration/supervision.rs` does. Unarmed (always, outside tests) a hit is one relaxed load.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

static ANY_ARMED: AtomicBool = AtomicBool::new(false);
static ARMED: Mutex<Option<HashMap<String, u32>>> = Mutex::new(None);

/// Lets the next `count` hits of `name` panic.
pub fn arm(name: &str, count: u32) {
    let mut armed = ARMED.lock().unwrap_or_else(|e| e.into_inner());
    armed.get_or_insert_default().insert(name.to_owned(), count);
    ANY_ARMED.store(true, Ordering::SeqCst);
}

/// Panics if `name` is armed.
pub fn hit(name: &str) {
    if ANY_ARMED.load(Ordering::Relaxed) {
        hit_armed(name);
    }
}

#[cold]
fn hit_armed(name: &str) {
    let fires = {
        let mut armed = ARMED.lock().unwrap_or_else(|e| e.into_inner());
        match armed.get_or_insert_default().get_mut(name) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    };
    assert!(!fires, "failpoint {name}");
}
