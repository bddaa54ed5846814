//! Makes the seeds in `fuzz/corpus/`: small, one idea each. What starts with `ok-` must be accepted by its target, what
//! starts with `bad-` refused; so a change of a format shows here. Write them again with `make fuzz-seeds`.

use super::TARGETS;
use crate::actors::group::offsets::{Block, Committed};
use crate::actors::group::value::{self, GroupValue, MemberValue, Phase, Protocol};
use crate::ids::{BrokerId, LeaderEpoch, Offset, PartitionIndex, PartitionKey, ProducerEpoch, ProducerId};
use crate::ids::{Seq, TopicId, WriterId};
use crate::metadata::keys::Keys;
use crate::metadata::model::{self, BrokerConfigsValue, CheckpointRef, ClusterValue, CounterValue, DeletedTopicValue};
use crate::metadata::model::{
    FORMAT, LiveValue, PartitionValue, ShardValue, TopicState, TopicValue, WriterState, WriterValue,
};
use crate::protocol::api::{APIS, Api};
use crate::protocol::compression::{Codec, compress};
use crate::protocol::guard::tests::populated;
use crate::protocol::records::BatchBuilder;
use crate::storage::checkpoint::{Catalog, Checkpoint, ExtentRecord, GarbageRecord, ObjectRecord};
use crate::storage::checkpoint::{PartitionCheckpoint, TopicRecord};
use crate::storage::segment::{self, Batches, ExtentInput, RawExtent, SegmentHeader};
use crate::storage::testkit::{batch_bytes, partition, stored_batch};
use crate::storage::{ObjectKey, Payload};
use bytes::{BufMut, Bytes};
use kafka_protocol::messages::ApiKey;
use std::collections::BTreeMap;
use std::path::Path;

/// Target, name, bytes.
type Seed = (&'static str, String, Vec<u8>);

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

fn seeds() -> Vec<Seed> {
    [requests(), batches(), records(), segments(), footers(), checkpoints(), metadata()].concat()
}

fn seed(target: &'static str, name: impl Into<String>, bytes: impl AsRef<[u8]>) -> Seed {
    (target, name.into(), bytes.as_ref().to_vec())
}

/// A length-prefixed request with client id `c`.
fn framed(api: &Api, version: i16, body: &[u8]) -> Vec<u8> {
    let mut request = Vec::new();
    request.put_i16(api.key as i16);
    request.put_i16(version);
    request.put_i32(1);
    request.put_slice(b"\0\x01c");
    if api.request_header_version(version) == 2 {
        request.put_u8(0);
    }
    request.put_slice(body);
    [&(request.len() as u32).to_be_bytes()[..], &request].concat()
}

fn requests() -> Vec<Seed> {
    let mut out = Vec::new();
    for api in APIS {
        let mut versions = vec![api.min, api.max];
        versions.extend((api.min < api.flexible && api.flexible < api.max).then_some(api.flexible));
        for version in versions {
            let name = format!("ok-{:?}-{version}", api.key).to_lowercase();
            out.push(seed("request", name, framed(api, version, &populated(api.key, version))));
        }
    }
    let of = |key: ApiKey| APIS.iter().find(|api| api.key == key).unwrap();
    let metadata = of(ApiKey::Metadata);
    let one = framed(metadata, 4, &populated(ApiKey::Metadata, 4));
    out.push(seed("request", "ok-two-in-one-stream", [&one[..], &one].concat()));
    out.push(seed("request", "bad-cut-off", &one[..one.len() - 1]));
    // Bodies that make the codec reserve gigabytes: 2^31-1 elements in four bytes, plain and compact.
    out.push(seed("request", "bad-metadata-counts-2g", framed(metadata, 1, b"\x7f\xff\xff\xff")));
    out.push(seed("request", "bad-metadata-counts-4g-compact", framed(metadata, 9, b"\xff\xff\xff\xff\x0f")));
    let produce = of(ApiKey::Produce);
    out.push(seed("request", "bad-produce-counts-2g", framed(produce, 3, b"\xff\xff\0\x01\0\0\0\x01\x7f\xff\xff\xff")));
    out.push(seed("request", "bad-negative-length", b"\xff\xff\xff\xff\0\x03\0\x01\0\0\0\x01\xff\xff"));
    out.push(seed("request", "bad-length-2g", b"\x7f\xff\xff\xff\0\x03\0\x01\0\0\0\x01\xff\xff"));
    out
}

fn one_batch(codec: Codec) -> BatchBuilder {
    let now = super::NOW_MS;
    BatchBuilder::new().codec(codec).producer(9, 0, 5).record(now, Some(b"key"), Some(b"value")).record(
        now + 1,
        Some(b"k"),
        None,
    )
}

fn batches() -> Vec<Seed> {
    let mut out: Vec<_> =
        CODECS.map(|c| seed("batch", format!("ok-{c:?}").to_lowercase(), one_batch(c).build())).into();
    let good = one_batch(Codec::None).build();
    let nulls = BatchBuilder::new().record(-1, None, None).record(0, None, Some(b"")).build();
    out.push(seed("batch", "ok-null-keys", nulls));
    // A header that claims 2^31-1 records: a decoder that reserves for them takes gigabytes.
    let mut claims = good.to_vec();
    claims[23..27].copy_from_slice(&(i32::MAX - 1).to_be_bytes());
    claims[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
    crate::protocol::records::seal(&mut claims);
    out.push(seed("batch", "bad-claims-2g-records", claims));
    let mut flipped = good.to_vec();
    flipped[64] ^= 1;
    out.push(seed("batch", "bad-crc", flipped));
    out.push(seed("batch", "bad-two-batches", [&good[..], &good].concat()));
    out.push(seed("batch", "bad-transactional", one_batch(Codec::None).attributes(0x10).build()));
    out.push(seed("batch", "bad-magic-1", [&good[..16], b"\x01", &good[17..]].concat()));
    out
}

fn records() -> Vec<Seed> {
    let packed = |codec: Codec, count: i32, bytes: &[u8]| [&[codec as u8][..], &count.to_be_bytes(), bytes].concat();
    let plain = one_batch(Codec::None).build().slice(61..);
    let mut out = Vec::new();
    for codec in CODECS {
        let name = format!("{codec:?}").to_lowercase();
        let bytes = compress(codec, &plain).unwrap();
        out.push(seed("records", format!("ok-{name}"), packed(codec, 2, &bytes)));
        out.push(seed("records", format!("bad-{name}-cut-off"), packed(codec, 2, &bytes[..bytes.len() / 2])));
    }
    let block = compress(Codec::Snappy, &plain).unwrap();
    let mut stream = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    stream.put_u32(block.len() as u32);
    stream.put_slice(&block);
    out.push(seed("records", "ok-snappy-stream", packed(Codec::Snappy, 2, &stream)));
    out.push(seed("records", "bad-snappy-claims-4g", packed(Codec::Snappy, 1, b"\xff\xff\xff\xff\x0f\0")));
    out.push(seed("records", "bad-headers-2g", packed(Codec::None, 1, b"\x18\0\0\0\x01\x01\xfe\xff\xff\xff\x0f\0\0")));
    // Each a few kilobytes that inflate to more than is allowed.
    let zeros = vec![0u8; (16 << 20) + 1];
    let bomb = compress(Codec::Zstd, &zeros).unwrap();
    out.push(seed("records", "bad-bomb-zstd", packed(Codec::Zstd, 1, &bomb)));
    out
}

fn segment_header(level: u8) -> SegmentHeader {
    SegmentHeader {
        cluster_id: "AbCdEfGhIjKlMnOpQrStUv".to_owned(),
        level,
        writer: WriterId(7),
        nonce: 0x1122_3344_5566_7788,
        seq: Seq(42),
        revision_seen: 1_001,
    }
}

fn whole(payload: &Payload) -> Vec<u8> {
    payload.chunks.concat()
}

fn wal_object() -> Vec<u8> {
    let extent = |p: i32, batches| ExtentInput { key: partition(p), leader_epoch: LeaderEpoch(5), batches };
    let several = vec![stored_batch(100, 2, 20, 1_000), stored_batch(102, 1, 5, 1_001)];
    let extents = vec![extent(0, several), extent(3, vec![stored_batch(0, 4, 9, 900)])];
    whole(&segment::build(&segment_header(0), extents).0)
}

fn merged_object() -> Vec<u8> {
    let raw = |base: i64, len: usize| RawExtent {
        source: ObjectKey::new("s"),
        key: partition(1),
        leader_epoch: LeaderEpoch(5),
        base: Offset(base),
        batches: Batches::Read(batch_bytes(&stored_batch(base, 2, len, 1_000)).into()),
    };
    whole(&segment::build_from_extents(&segment_header(2), vec![raw(10, 30), raw(12, 40)]).unwrap().0)
}

fn segments() -> Vec<Seed> {
    let wal = wal_object();
    let empty = whole(&segment::build(&segment_header(0), Vec::new()).0);
    let mut damaged = wal.clone();
    damaged[130] ^= 4; // inside the first batch: only the extent's CRC tells
    vec![
        seed("segment", "ok-wal", &wal),
        seed("segment", "ok-merged", merged_object()),
        seed("segment", "ok-empty", empty),
        seed("segment", "bad-batch", damaged),
        seed("segment", "bad-cut-off", &wal[..wal.len() - 1]),
        seed("segment", "bad-headless", &wal[1..]),
    ]
}

fn footers() -> Vec<Seed> {
    let claim = |len: u64, tail: &[u8]| [&len.to_be_bytes()[..], tail].concat();
    let wal = wal_object();
    let len = wal.len() as u64;
    let tail = &wal[96..];
    vec![
        seed("footer", "ok-whole-index", claim(len, tail)),
        seed("footer", "ok-footer-only", claim(len, &wal[wal.len() - 40..])),
        seed("footer", "ok-too-short-to-tell", claim(len, &wal[wal.len() - 8..])),
        seed("footer", "bad-longer-object", claim(len + 1, tail)),
        seed("footer", "bad-claims-2-to-64", claim(u64::MAX, tail)),
        seed("footer", "bad-claims-nothing", claim(0, tail)),
    ]
}

fn checkpoints() -> Vec<Seed> {
    let extent = |base: i64, next: i64, position: u64| ExtentRecord {
        base: Offset(base),
        next: Offset(next),
        object: 0,
        position,
        len: 100,
        max_timestamp: 7,
        leader_epoch: LeaderEpoch(2),
    };
    let batch = crate::actors::partition::producers::ProducerBatch {
        epoch: ProducerEpoch(1),
        first_sequence: 0,
        last_sequence: 5,
        base: Offset(3),
        next: Offset(9),
    };
    let producer = crate::actors::partition::producers::ProducerSnapshot {
        id: ProducerId(1_000),
        last_append_ms: 8,
        batches: vec![batch],
    };
    let full = PartitionCheckpoint {
        key: partition(4),
        log_start: Offset(3),
        next_offset: Offset(12),
        epochs: vec![crate::actors::partition::view::EpochStart { epoch: LeaderEpoch(2), start: Offset(0) }],
        extents: vec![extent(3, 9, 96), extent(9, 12, 196)],
        producers: vec![producer],
    };
    let checkpoint = Checkpoint {
        cluster_id: "AAAAAAAAAAAAAAAAAAAAAA".into(),
        writer: WriterId(7),
        nonce: 0x1234,
        seq: Seq(11),
        revision_seen: 99,
        objects: vec![ObjectRecord { key: "ns/wal/1".into(), level: 0, len: 300, created_ms: 5 }],
        partitions: vec![full.clone()],
        garbage: vec![GarbageRecord { key: "ns/wal/0".into(), since_ms: 4 }],
        catalog: None,
    };
    let with = |partition: PartitionCheckpoint| {
        whole(&Checkpoint { partitions: vec![partition], ..checkpoint.clone() }.encode())
    };
    let good = whole(&checkpoint.encode());
    let empty = Checkpoint { objects: vec![], partitions: vec![], garbage: vec![], ..checkpoint.clone() };
    let configs: BTreeMap<_, _> = [("retention.ms".to_owned(), "9".to_owned())].into();
    let topic = TopicRecord { name: "orders".into(), id: partition(0).topic, partitions: 5, configs: configs.clone() };
    let settings = [("default".to_owned(), configs)].into();
    let catalog = Catalog { generation: 1, revision: 98, node: BrokerId(3), topics: vec![topic], settings };
    let cataloged = Checkpoint { catalog: Some(catalog), ..checkpoint.clone() };
    let mut dangling = full.clone();
    dangling.extents[1].object = 1;
    let gap = PartitionCheckpoint { extents: vec![extent(3, 9, 96), extent(10, 12, 196)], ..full.clone() };
    let beyond = PartitionCheckpoint { extents: vec![extent(3, 9, u64::MAX)], ..full.clone() };
    // A sequence that claims 2^32 objects in the last bytes of a body.
    let claim = [&good[..40], b"\xff\xff\xff\xff\x0f"].concat();
    vec![
        seed("checkpoint", "ok-one-partition", &good),
        seed("checkpoint", "ok-empty", whole(&empty.encode())),
        seed("checkpoint", "ok-catalog", whole(&cataloged.encode())),
        seed("checkpoint", "bad-cut-off", &good[..good.len() - 1]),
        seed("checkpoint", "bad-dangling-object", with(dangling)),
        seed("checkpoint", "bad-gap", with(gap)),
        seed("checkpoint", "bad-beyond-object", with(beyond)),
        seed("checkpoint", "bad-claims-4g", claim),
    ]
}

fn group() -> GroupValue {
    let member = MemberValue {
        id: "c-1".into(),
        instance: Some("i".into()),
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
        rebalance_timeout_ms: 300_000,
        session_timeout_ms: 45_000,
        protocols: vec![Protocol { name: "range".into(), metadata: Bytes::from_static(b"\0\0\0\0\0\0") }],
        assignment: Bytes::from_static(b"\0\0\0\0\0\0"),
    };
    GroupValue {
        generation: 3,
        protocol_type: Some("consumer".into()),
        protocol: Some("range".into()),
        leader: Some("c-1".into()),
        phase: Phase::Stable,
        since_ms: super::NOW_MS,
        members: vec![member],
    }
}

fn metadata() -> Vec<Seed> {
    let topic = TopicId(uuid::Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef));
    let key = PartitionKey { topic, partition: PartitionIndex(12) };
    let keys = Keys::new(super::NAMESPACE);
    let partition = PartitionValue {
        v: FORMAT,
        owner: Some(WriterId(2)),
        epoch: LeaderEpoch(3),
        history: vec![WriterId(1), WriterId(2)],
        log_start: Offset(5),
    };
    let live = LiveValue {
        v: FORMAT,
        node: BrokerId(1),
        host: "broker-1".into(),
        port: 9092,
        rack: Some("a".into()),
        version: "0.1.0".into(),
        control: None,
        metrics: None,
        draining: false,
        follows: false,
    };
    let configs = [("retention.ms", "1000"), ("cleanup.policy", "compact"), ("max.message.bytes", "x")];
    let configs = configs.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let named =
        TopicValue { v: FORMAT, id: topic, partitions: 12, configs, state: TopicState::Live, placement: Vec::new() };
    let checkpoint = Some(CheckpointRef { seq: Seq(40), key: "ns/checkpoints/1-2/28-X.ckpt".into() });
    let nonce = 0xabcd;
    let writer =
        WriterValue { v: FORMAT, node: BrokerId(1), state: WriterState::Fenced, head: Seq(41), nonce, checkpoint };
    let deleted = DeletedTopicValue { v: FORMAT, name: "orders".into(), id: topic, partitions: 12, deleted_ms: 7 };
    let dynamic = [("log.retention.ms", "1000"), ("message.max.bytes", "x"), ("num.partitions", "3")];
    let dynamic = dynamic.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let dynamic = BrokerConfigsValue { v: FORMAT, configs: dynamic };
    let shard = ShardValue { v: FORMAT, owner: Some(WriterId(2)), epoch: LeaderEpoch(3) };
    let committed = Committed {
        offset: Offset(300),
        leader_epoch: LeaderEpoch(-1),
        metadata: "note".into(),
        commit_ms: super::NOW_MS,
        expire_ms: None,
    };
    let block = Block { topic, slots: [(5, committed)].into() };
    let mut out: Vec<Seed> = vec![
        seed("metadata_value", "ok-broker-configs", model::encode(&dynamic)),
        seed("metadata_key", "ok-broker-configs", keys.broker_configs(Some(BrokerId(7)))),
        seed("metadata_key", "ok-default-configs", keys.broker_configs(None)),
        seed("metadata_key", "bad-broker", format!("{}settings/-1", keys.root())),
        seed(
            "metadata_value",
            "ok-cluster",
            model::encode(&ClusterValue { v: FORMAT, cluster_id: "AAAA".into(), generation: 0 }),
        ),
        seed("metadata_value", "ok-counter", model::encode(&CounterValue { v: FORMAT, next: u64::MAX })),
        seed("metadata_value", "ok-writer", model::encode(&writer)),
        seed("metadata_value", "ok-live", model::encode(&live)),
        seed("metadata_value", "ok-partition", model::encode(&partition)),
        seed("metadata_value", "ok-topic", model::encode(&named)),
        seed("metadata_value", "ok-deleted", model::encode(&deleted)),
        seed("metadata_value", "bad-future", br#"{"v":2,"cluster_id":"AAAA"}"#),
        seed("metadata_value", "bad-number", br#"{"v":1,"next":1e999}"#),
        seed("metadata_value", "bad-nested", "[".repeat(4_000)),
        seed("metadata_key", "ok-writer", keys.writer(WriterId(0xabc))),
        seed("metadata_key", "ok-live", keys.live(WriterId(0xabc))),
        seed("metadata_key", "ok-partition", keys.partition(&key)),
        seed("metadata_key", "ok-topic", keys.topic("orders/x")),
        seed("metadata_key", "ok-deleted", keys.deleted(topic)),
        seed("metadata_key", "ok-shard", keys.shard(49)),
        seed("metadata_key", "ok-group", keys.group("a/o/t/1 ü")),
        seed("metadata_key", "ok-group-offsets", keys.group_offsets("readers", "orders", 3)),
        seed("metadata_key", "ok-group-writes", keys.group_writes(WriterId(0xabc))),
        seed("metadata_key", "bad-group-second-spelling", format!("{}_g/%2f", keys.root())),
        seed("metadata_value", "ok-shard", model::encode(&shard)),
        seed("metadata_value", "ok-group", value::encode_group(&group())),
        seed("metadata_value", "ok-offsets", value::encode_block(&block)),
        seed("metadata_value", "bad-group-counts-4g", b"\x01\x02\0\0\0\0\0\xff\xff\xff\xff\x0f"),
        seed("metadata_key", "bad-other-cluster", Keys::new("other").topic("orders")),
        seed("metadata_key", "bad-second-spelling", format!("{}p/{topic}/+12", keys.root())),
        seed("metadata_key", "bad-braces", format!("{}deleted/{{{topic}}}", keys.root())),
    ];
    let change = |key: String, value: Bytes| [key.as_bytes(), b"\0", &value].concat();
    out.extend([
        seed("metadata_image", "ok-configs", change(keys.broker_configs(None), model::encode(&dynamic))),
        seed("metadata_image", "ok-topic", change(keys.topic("orders"), model::encode(&named))),
        seed("metadata_image", "ok-partition", change(keys.partition(&key), model::encode(&partition))),
        seed("metadata_image", "ok-live", change(keys.live(WriterId(2)), model::encode(&live))),
        seed("metadata_image", "bad-topic", change(keys.topic("orders"), model::encode(&live))),
    ]);
    out
}

#[test]
fn seeds_are_judged_as_their_names_say() {
    for (target, name, bytes) in seeds() {
        let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).expect("a seed names a target");
        assert_eq!(run(&bytes), name.starts_with("ok-"), "{target}/{name}");
        assert!(bytes.len() <= 4_096, "{target}/{name} has {} bytes; seeds are small", bytes.len());
    }
}

#[test]
fn every_target_has_seeds_of_both_kinds() {
    let seeds = seeds();
    for (target, _) in TARGETS {
        for kind in ["ok-", "bad-"] {
            assert!(seeds.iter().any(|(t, name, _)| t == target && name.starts_with(kind)), "{target} {kind}");
        }
    }
}

#[test]
#[ignore = "writes fuzz/corpus; run by `make fuzz-seeds`"]
fn write_the_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, name, bytes) in seeds() {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}
