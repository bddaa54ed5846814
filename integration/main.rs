//! Tests of the real binary over real sockets: one binary, a module per area, so that the crate is linked once.
//!
//! Every test starts what it needs on its own loopback ports and ends it; nothing is shared between tests, except that
//! tests which measure take [`harness::quiet`], so that they do not measure each other.

// Tests are clients and operators: they own processes, tasks and clocks of their own.
#![allow(clippy::disallowed_methods, dead_code)]

mod abuse;
mod breadth;
mod chaos;
mod chart;
mod checker;
mod checker_tests;
mod client;
mod clients;
mod cluster;
mod compaction;
mod console;
mod console_ui;
mod consumer_groups;
mod control;
mod cost;
mod cost_page;
mod desired_topics;
mod faults;
mod fuzz_corpus;
mod group_client;
mod group_configs;
mod groups;
mod harness;
mod history;
mod ledger;
mod matrix;
mod metadata;
mod operator;
mod pressure;
mod process;
mod protocol;
mod rack_reads;
mod read_replica;
mod recover;
mod rolling;
mod s3;
mod s3_health;
mod sabotage;
mod scale;
mod scrub;
mod sim;
mod smoke;
mod spread;
mod supervision;
mod surroundings;
mod tools;
mod traces;
mod workload;
