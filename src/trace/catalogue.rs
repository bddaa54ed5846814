//! Every span with its attributes, as `docs/telemetry.md` tells them. A test compares the names with those that spans really have.

use std::fmt::Write;

/// A span as it is described.
#[derive(Debug)]
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: &'static str,
    /// What it is below; `None`: it begins a trace.
    pub parent: Option<&'static str>,
    /// When it begins and ends.
    pub about: &'static str,
    /// Attributes and what they say.
    pub attributes: &'static [(&'static str, &'static str)],
}

const KEY: (&str, &str) = ("aws.s3.key", "the object");
const S3: (&str, &str) = ("rpc.system", "`aws-api`");
const SERVICE: (&str, &str) = ("rpc.service", "`S3`");
const PARTITIONS: (&str, &str) = ("kafka.partitions", "partitions that it is about");
const ERROR: (&str, &str) = ("error.type", "after a failure: what it was; the status is an error then");

/// All of them.
pub const SPANS: &[Described] = &[
    Described {
        name: "kafka.request",
        kind: "server",
        parent: None,
        about: "A request, from its handler's start until its reply is ready. The name ends in the API: `kafka.request Produce`.",
        attributes: &[
            ("rpc.system", "`kafka`"),
            ("rpc.method", "the API"),
            ("messaging.system", "`kafka`"),
            ("messaging.client.id", "as the client calls itself"),
            ("messaging.kafka.cluster.id", "the cluster"),
            ("messaging.destination.name", "the topic, of a Produce or Fetch with exactly one partition"),
            ("messaging.destination.partition.id", "that partition"),
            ("network.peer.address", "the other end"),
            ("network.peer.port", "its port"),
            ("kafka.api_key", "number of the API"),
            ("kafka.api_version", "its version"),
            ("kafka.correlation_id", "as the client numbers its requests"),
            ("kafka.request.bytes", "without the header"),
            ("kafka.response.bytes", "without the header"),
            ("kafka.throttle_ms", "what the client was asked to wait"),
            ("kafscale.slow", "true: it was not sampled, and kept because it was slow"),
            ("error.type", "the first error code of the response, or `connection_closed`; the status is an error then"),
        ],
    },
    Described {
        name: "partition.append",
        kind: "internal",
        parent: Some("kafka.request Produce"),
        about: "Batches are checked and handed to their partitions.",
        attributes: &[PARTITIONS, ("kafka.batch.bytes", "bytes of their batches")],
    },
    Described {
        name: "await.flush",
        kind: "internal",
        parent: Some("kafka.request Produce"),
        about: "From then until every batch is durable or has failed.",
        attributes: &[],
    },
    Described {
        name: "segment.flush",
        kind: "internal",
        parent: None,
        about: "A segment, from its cut until its partitions are told that it is committed. Links lead to the requests whose batches it \
                carries: up to 128 that are sampled, and the first 64 others if they were slow; `kafscale.wait_ms` of a link is how long \
                it had waited at the cut.",
        attributes: &[
            ("kafscale.segment.seq", "its number"),
            ("kafscale.segment.bytes", "bytes of batches"),
            ("kafscale.segment.batches", "batches"),
            ("kafscale.segment.records", "records"),
            ("kafscale.segment.partitions", "partitions"),
            ("kafscale.segment.age_ms", "how long the oldest batch had waited at the cut"),
            ("kafscale.links_left_out", "sampled requests without a link"),
        ],
    },
    Described {
        name: "s3.put",
        kind: "client",
        parent: Some("segment.flush"),
        about: "From the first attempt until it is known that the object is there. Each attempt that failed is an event `s3.retry`.",
        attributes: &[
            S3,
            SERVICE,
            ("rpc.method", "`PutObject`"),
            KEY,
            ("kafscale.object.bytes", "its size"),
            ("kafscale.attempts", "attempts, second requests not counted"),
            ("kafscale.hedged", "a second request was sent beside the first"),
        ],
    },
    Described {
        name: "s3.hedge",
        kind: "client",
        parent: Some("s3.put` or `s3.get"),
        about: "A second request for the same, beside the first.",
        attributes: &[S3, SERVICE],
    },
    Described {
        name: "etcd.commit",
        kind: "client",
        parent: Some("segment.flush"),
        about: "The transaction on the writer's key, until its outcome is known. One that commits several segments is a span in each trace.",
        attributes: &[
            ("db.system.name", "`etcd`, also of the file of `kafscale dev`"),
            ("db.operation.name", "`txn`"),
            ("kafscale.writer.head", "the segment up to which it commits"),
            ("kafscale.etcd.revision", "revision of the key afterwards"),
            ("kafscale.attempts", "transactions that it took"),
        ],
    },
    Described {
        name: "fetch.read",
        kind: "internal",
        parent: Some("kafka.request Fetch"),
        about: "One look at the partitions that reads from some of them.",
        attributes: &[PARTITIONS],
    },
    Described {
        name: "cache.index",
        kind: "internal",
        parent: Some("fetch.read"),
        about: "Until the index of a merged object is there: what merging wrote is read in chunks, which begin where the index says.",
        attributes: &[KEY],
    },
    Described {
        name: "cache",
        kind: "internal",
        parent: Some("fetch.read"),
        about: "Until a chunk that is not in a partition's tail is there; at most 16 per read with the indexes.",
        attributes: &[("kafscale.cache.hit", "it was in the block cache"), KEY, ("kafscale.chunk.bytes", "its size")],
    },
    Described {
        name: "s3.get",
        kind: "client",
        parent: Some("cache` or `cache.index"),
        about: "From the first attempt until the bytes are there. Readers that wait for the same share one, which is in the trace of the \
                first; what is read ahead is a trace of its own.",
        attributes: &[
            S3,
            SERVICE,
            ("rpc.method", "`GetObject`"),
            KEY,
            ("kafscale.range.start", "first byte"),
            ("kafscale.range.end", "the one after the last"),
            ("kafscale.range.suffix", "of an index, at the object's end: bytes; a large one takes a second request"),
            ("kafscale.bucket", "with a read replica: `replica` or `primary`, whichever answered"),
        ],
    },
    Described {
        name: "group.rebalance",
        kind: "internal",
        parent: None,
        about: "A consumer group, from the first news of a change until all members have their assignment.",
        attributes: &[
            ("messaging.consumer.group.name", "the group"),
            ("kafscale.group.members", "members at the end"),
            ("kafscale.group.state", "its state at the end"),
        ],
    },
    Described {
        name: "drain",
        kind: "internal",
        parent: None,
        about: "A broker gives everything away, until it has nothing left or is called off. Its phases are events.",
        attributes: &[
            ("kafscale.drain.round", "its number since the start"),
            ("kafscale.drain.partitions", "partitions that were left at the end"),
            ("kafscale.drain.outcome", "the phase at the end: `Drained`, or `Serving` if it was called off"),
        ],
    },
    Described {
        name: "operator.reconcile",
        kind: "internal",
        parent: None,
        about: "One look of the operator at a resource, and what it changes. The name ends in the kind.",
        attributes: &[
            ("kafscale.resource.kind", "its kind"),
            (
                "kafscale.resource.name",
                "namespace and name; of `KafscaleTopic`, whose look is at all topics of a cluster, the cluster's name in etcd",
            ),
            ERROR,
        ],
    },
    Described {
        name: "snapshot.check",
        kind: "client",
        parent: None,
        about: "The operator tries whether snapshots can be written; what comes of it is known to the looks of some time.",
        attributes: &[S3, ("aws.s3.bucket", "where")],
    },
    Described {
        name: "http.request",
        kind: "server",
        parent: None,
        about: "A request of the console, until its answer begins. The name is the method and the route: `GET /api/v1/topics`.",
        attributes: &[
            ("http.request.method", "the method"),
            ("http.route", "the route, without what stands in its place"),
            ("url.path", "the path"),
            ("http.response.status_code", "the status; 500 and more are errors"),
            ("kafscale.request_id", "as in the answer's `x-request-id` and the log"),
        ],
    },
];

/// The table of all spans, in Markdown.
pub fn table() -> String {
    let mut out = String::from("| span | kind, parent | what it is | attributes |\n| --- | --- | --- | --- |\n");
    for span in SPANS {
        let parent = span.parent.map_or_else(|| "begins a trace".to_owned(), |parent| format!("in `{parent}`"));
        let attributes: Vec<String> =
            span.attributes.iter().map(|(name, about)| format!("`{name}`: {about}")).collect();
        let about = span.about.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(out, "| `{}` | {}; {parent} | {about} | {} |", span.name, span.kind, attributes.join("<br>"))
            .expect("writing to a string");
    }
    out
}
