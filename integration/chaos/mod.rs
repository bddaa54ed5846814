//! A cluster under faults: three brokers, three members of etcd, an S3 server, and wires between all of them.
//!
//! Each test starts a [`World`](world::World) of its own, loads it with idempotent producers, tailing consumers and a group
//! that commits ([`crate::workload`]), lets faults happen for `DURATION_SEC` (CI: 2; `make chaos-world DURATION_SEC=30` is the
//! full size), and asks the checker in the end. After every fault producers get on by themselves, and processes that nobody
//! killed and that no other broker sealed live on.
//!
//! `zombies.rs` pauses and isolates brokers, `metadata.rs` breaks etcd, `objects.rs` S3, `network.rs` cuts wires, `clocks.rs`
//! moves clocks, `disk.rs` fills the disk of `kafscale dev`, and `matrix.rs` does all of it in random order.

mod clocks;
mod disk;
mod ensemble;
mod matrix;
mod metadata;
mod network;
mod objects;
mod trial;
mod wire;
mod world;
mod zombies;
