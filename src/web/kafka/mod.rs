//! The console as a Kafka client: what it asks brokers, it asks like anybody else.
//!
//! [`KafkaClient`] finds brokers through a [`BrokerSource`](super::source::BrokerSource), keeps a few connections to each,
//! speaks the highest version that both sides know, and gives up at the deadline of the page that asks. It retries only
//! what changes nothing. What does not answer, it names.

mod client;
mod connection;
mod error;
mod offsets;

pub use client::{
    Directory, KafkaClient, PartitionAt, Target, TopicAt, group_id, kafka_id, topic_name, unknown_topic, within,
};
pub use connection::FRAME_BYTES_MAX;
pub use error::{KafkaError, code_name};
pub use offsets::{At, Offsets, PartitionOf, Place};
