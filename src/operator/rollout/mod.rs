//! Replaces brokers without a client noticing: one at a time, emptied first, and the next one only when all serve.
//!
//! [`state`] decides, [`drain`] asks brokers to give away what they have. What is under way stands in the resource's status,
//! so that another operator goes on where this one stopped; everything else is read from what is there.

pub mod drain;
pub mod state;

#[cfg(test)]
mod state_tests;
