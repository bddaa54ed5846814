//! Key compaction: simulated with crashes and failing stores, and with real brokers and clients.

mod clients;
mod crashes;
