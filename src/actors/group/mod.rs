//! Consumer groups: members, generations and committed offsets, as pure machines.

pub mod call;
pub mod classic;
pub mod error;
pub mod offsets;
pub mod state;
pub mod value;
pub mod writes;
