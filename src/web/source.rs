//! Where the console finds brokers.

/// The brokers known at the moment. What it returns may be seconds old; callers cope with brokers that are gone.
pub trait BrokerSource: Send + Sync {
    /// Kafka addresses (`host:port`) to begin with; empty if none is known.
    fn bootstrap(&self) -> Vec<String>;
    /// Id and base URL (`http://host:port`) of the metrics listener of each broker that has told one.
    fn metrics_urls(&self) -> Vec<(i32, String)>;
}
