//! A writer's checkpoint: everything a successor needs without replaying the WAL from its start, and the manifest of
//! what its partitions consist of.
