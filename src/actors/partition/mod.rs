//! One led partition: assigns offsets, dedups producers, parks acks and long-poll fetches.

pub mod handle;
pub mod view;
