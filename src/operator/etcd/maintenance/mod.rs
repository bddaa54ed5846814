//! What managed etcd needs from time to time: new members for lost ones, space, defragmentation.

pub mod state;

#[cfg(test)]
mod tests;
