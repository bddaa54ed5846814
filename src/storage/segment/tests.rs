use super::*;
use crate::storage::testkit::{batch_bytes, key, partition, stored_batch};
use proptest::prelude::*;

fn header(level: u8) -> SegmentHeader {
    SegmentHeader {
        cluster_id: "AbCdEfGhIjKlMnOpQrStUv".to_owned(),
        level,
        writer: WriterId(7),
        nonce: 0x1122_3344_5566_7788,
        seq: Seq(42),
        revision_seen: 1001,
    }
}

/// One extent per inner list; batches of (records, bytes), offsets from 100 times the partition on.
fn inputs(shape: &[Vec<(i32, usize)>]) -> Vec<ExtentInput> {
    let extent = |(p, batches): (usize, &Vec<(i32, usize)>)| {
        let mut base = 100 * p as i64;
        let stored = |&(count, len): &(i32, usize)| {
            let batch = stored_batch(base, count, len, 1_000 + base);
            base += i64::from(count);
            batch
        };
        ExtentInput {
            key: partition(p as i32),
            leader_epoch: LeaderEpoch(5),
            batches: batches.iter().map(stored).collect(),
        }
    };
    shape.iter().enumerate().map(extent).collect()
}

fn bytes_of(payload: &Payload) -> Bytes {
    payload.chunks.concat().into()
}

fn index_of(bytes: &Bytes) -> SegmentIndex {
    match parse_tail(&key("s"), bytes, bytes.len() as u64).unwrap() {
        Tail::Index(index) => index,
        Tail::NeedBytes(n) => panic!("asks for {n} bytes although it has all"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn golden_bytes() {
    let (payload, _) = build(&header(0), inputs(&[vec![(2, 3)]]));
    let bytes = bytes_of(&payload);
    let batch = batch_bytes(&stored_batch(0, 2, 3, 1_000));
    assert_eq!(batch.len(), 64);
    let header = concat!(
        "4b46535345474d54",
        "0001",
        "00",
        "00",
        "4162436445664768496a4b6c4d6e4f7051725374557600",
        "00",
        "00000000",
        "0000000000000007",
        "1122334455667788",
        "000000000000002a",
        "00000000000003e9",
        "0000000000000000000000000000000000000000",
        "d5a22fce",
    );
    let extent = concat!(
        "00000000000000000000000000007011",
        "00000000",
        "00000005",
        "0000000000000000",
        "0000000000000002",
        "0000000000000060",
        "0000000000000040",
        "00000000000003e8",
        "6832317c",
        "00000001",
    );
    let entry = concat!(
        "0000000000000000",
        "0000000000000060",
        "00000000000003e8",
        "000000000000004d",
        "00000040",
        "00000002",
        "00000009",
        "0003",
        "0000",
    );
    let footer = concat!(
        "00000000000000a0",
        "00000000000000d8",
        "00000001",
        "00000001",
        "f6bac5fb",
        "0001",
        "0000",
        "6cf1d638",
        "4b465345",
    );
    let expected = [header, &hex(&batch), header, extent, entry, footer].concat();
    assert_eq!(hex(&bytes), expected);
    assert_eq!(payload.len, bytes.len() as u64);
}

#[test]
fn large_batches_are_not_copied_and_small_ones_are_merged() {
    let small = vec![(1, 10); 50];
    let mut large = inputs(&[small.clone(), vec![(1, 300_000), (1, 200_000)], small]);
    let bodies: Vec<*const u8> = large[1].batches.iter().map(|b| b.tail.as_ptr()).collect();
    large.reverse(); // `build` sorts
    let (payload, index) = build(&header(0), large);
    // header and small extent and prefix | body | prefix | body | small extent, index, footer
    assert_eq!(payload.chunks.len(), 5);
    assert_eq!(payload.chunks[1].as_ptr(), bodies[0]);
    assert_eq!(payload.chunks[3].as_ptr(), bodies[1]);
    assert_eq!(index_of(&bytes_of(&payload)), index);
}

#[test]
fn higher_levels_have_a_sparse_index() {
    let (_, dense) = build(&header(0), inputs(&[vec![(1, 3_000); 30]]));
    let (payload, sparse) = build(&header(2), inputs(&[vec![(1, 3_000); 30]]));
    assert_eq!(dense.extents[0].batches.len(), 30);
    assert_eq!(sparse.extents[0].batches.len(), 5);
    assert_eq!(index_of(&bytes_of(&payload)), sparse);
}

#[test]
fn a_short_tail_says_how_much_it_needs() {
    let (payload, index) = build(&header(0), inputs(&[vec![(1, 100); 2_000]]));
    let bytes = bytes_of(&payload);
    let len = bytes.len() as u64;
    let Tail::NeedBytes(first) = parse_tail(&key("s"), &Bytes::new(), len).unwrap() else { panic!("needs bytes") };
    assert_eq!(first, TAIL_READ_LEN);
    let tail = bytes.slice((len - first) as usize..);
    let Tail::NeedBytes(second) = parse_tail(&key("s"), &tail, len).unwrap() else { panic!("needs bytes") };
    let tail = bytes.slice((len - second) as usize..);
    let Tail::Index(parsed) = parse_tail(&key("s"), &tail, len).unwrap() else { panic!("has enough") };
    assert_eq!(parsed, index);
}

#[test]
fn every_flipped_bit_outside_the_batches_is_found() {
    let (payload, index) = build(&header(0), inputs(&[vec![(2, 30), (1, 0)], vec![(3, 5)]]));
    let bytes = bytes_of(&payload);
    let body_end = index.extents.last().map(|e| (e.position + e.len) as usize).unwrap();
    for position in (0..HEADER_LEN).chain(body_end..bytes.len()) {
        for bit in 0..8 {
            let mut damaged = bytes.to_vec();
            damaged[position] ^= 1 << bit;
            let result = parse_tail(&key("s"), &damaged.into(), bytes.len() as u64);
            assert!(matches!(result, Err(StoreError::Corrupt { .. })), "byte {position} bit {bit}: {result:?}");
        }
    }
}

#[test]
fn every_truncation_is_found() {
    let (payload, _) = build(&header(0), inputs(&[vec![(2, 30)]]));
    let bytes = bytes_of(&payload);
    for len in 0..bytes.len() {
        let result = parse_tail(&key("s"), &bytes.slice(..len), len as u64);
        assert!(matches!(result, Err(StoreError::Corrupt { .. })), "first {len} bytes: {result:?}");
    }
}

/// Damage with right checksums: what a hostile or buggy writer could produce.
#[test]
fn contradictions_under_right_checksums_are_found() {
    type Damage = fn(&mut SegmentIndex);
    let damages: &[(&str, Damage)] = &[
        ("extent before the body", |i| i.extents[0].position = 0),
        ("extent beyond the body", |i| i.extents[1].len += 1),
        ("extent far beyond the object", |i| i.extents[1].len = u64::MAX),
        ("extent without bytes", |i| i.extents[1].len = 0),
        ("extents overlap", |i| i.extents[1].position -= 1),
        ("extents out of order", |i| i.extents.swap(0, 1)),
        ("partition twice", |i| i.extents[1].key = i.extents[0].key),
        ("offsets go back", |i| i.extents[0].next = Offset(-1)),
        ("negative offset", |i| i.extents[0].base = Offset(-1)),
        ("no batches", |i| i.extents[0].batches.clear()),
        ("batch missing", |i| i.extents[0].batches.truncate(1)),
        ("batch moved", |i| i.extents[0].batches[1].position += 1),
        ("batch offset moved", |i| i.extents[0].batches[1].base = Offset(1)),
        ("batch too short", |i| i.extents[0].batches[1].len = 60),
        ("batch too long", |i| i.extents[0].batches[1].len = u32::MAX),
        ("level unknown", |i| i.header.level = 5),
    ];
    let (payload, index) = build(&header(0), inputs(&[vec![(2, 30), (1, 0)], vec![(3, 5)]]));
    let bytes = bytes_of(&payload);
    let body_end = index.extents.last().map(|e| e.position + e.len).unwrap();
    for (what, damage) in damages {
        let mut damaged = index.clone();
        damage(&mut damaged);
        let end = encode_index_and_footer(&damaged, body_end);
        let object: Bytes =
            [&encode_header(&damaged.header)[..], &bytes[HEADER_LEN..body_end as usize], &end].concat().into();
        let result = parse_tail(&key("s"), &object, object.len() as u64);
        assert!(matches!(result, Err(StoreError::Corrupt { .. })), "{what}: {result:?}");
    }
}

fn raw(extents: &[ExtentInput]) -> Vec<RawExtent> {
    let of = |e: &ExtentInput| RawExtent {
        source: key("wal/1"),
        key: e.key,
        leader_epoch: e.leader_epoch,
        base: e.batches[0].base,
        batches: Batches::Read(e.batches.iter().flat_map(batch_bytes).collect::<Vec<u8>>().into()),
    };
    extents.iter().map(of).collect()
}

#[test]
fn merging_equals_building_from_the_batches() {
    let extents = inputs(&[vec![(1, 20_000), (2, 7)], vec![(3, 40_000)]]);
    let (built, index) = build(&header(1), extents.clone());
    let (merged, merged_index) = build_from_extents(&header(1), raw(&extents)).unwrap();
    assert_eq!(bytes_of(&merged), bytes_of(&built));
    assert_eq!((merged.crc32c, merged_index), (built.crc32c, index));
}

#[test]
fn merging_joins_the_extents_of_a_partition() {
    let whole = inputs(&[vec![(1, 50), (2, 70), (3, 90)]]);
    let mut parts = Vec::new();
    for batch in &whole[0].batches {
        parts.extend(raw(&[ExtentInput { batches: vec![batch.clone()], ..whole[0].clone() }]));
    }
    let (merged, index) = build_from_extents(&header(2), parts.clone()).unwrap();
    assert_eq!(bytes_of(&merged), bytes_of(&build(&header(2), whole).0));
    assert_eq!(index.extents.len(), 1);
    parts.remove(1);
    assert!(matches!(build_from_extents(&header(2), parts), Err(StoreError::Corrupt { .. })), "a gap in the offsets");
}

#[test]
fn merging_what_is_in_memory_gives_the_same_bytes() {
    let inputs = inputs(&[vec![(2, 9), (1, 4)], vec![(3, 70)]]);
    let kept = |e: &ExtentInput| RawExtent {
        batches: Batches::Kept(e.batches.clone()),
        ..raw(std::slice::from_ref(e)).remove(0)
    };
    let (read, _) = build_from_extents(&header(2), raw(&inputs)).unwrap();
    let (merged, _) = build_from_extents(&header(2), inputs.iter().map(kept).collect()).unwrap();
    assert_eq!((merged.chunks.concat(), merged.crc32c), (read.chunks.concat(), read.crc32c));
}

#[test]
fn merging_refuses_every_damaged_byte() {
    let good = raw(&inputs(&[vec![(2, 9), (1, 4)]]));
    let Batches::Read(bytes) = &good[0].batches else { unreachable!() };
    for position in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[position] ^= 0x10;
        let extent = RawExtent { batches: Batches::Read(damaged.into()), ..good[0].clone() };
        let result = build_from_extents(&header(1), vec![extent]);
        assert!(matches!(result, Err(StoreError::Corrupt { .. })), "byte {position}: {result:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trip(
        level in 0..=4u8,
        shape in proptest::collection::vec(
            proptest::collection::vec((1..5i32, prop_oneof![0..200usize, 10_000..40_000usize]), 1..8), 0..6),
    ) {
        let extents = inputs(&shape);
        let (payload, index) = build(&header(level), extents.clone());
        let bytes = bytes_of(&payload);
        prop_assert_eq!(payload.len, bytes.len() as u64);
        prop_assert_eq!(payload.crc32c, crc32c(&bytes));
        prop_assert_eq!(&index_of(&bytes), &index);
        prop_assert_eq!(&parse_header(&key("s"), &bytes).unwrap(), &index.header);
        for (input, extent) in extents.iter().zip(&index.extents) {
            let stored = &bytes[extent.position as usize..(extent.position + extent.len) as usize];
            prop_assert_eq!(crc32c(stored), extent.crc32c);
            let expected: Vec<u8> = input.batches.iter().flat_map(batch_bytes).collect();
            prop_assert_eq!(stored, &expected[..]);
            for entry in &extent.batches {
                let at = entry.position as usize;
                let header = check_batch(&bytes[at..at + entry.len as usize]).unwrap();
                prop_assert_eq!((header.base_offset, header.next_offset()), (entry.base, entry.next));
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), more in 0..1_000u64) {
        let len = bytes.len() as u64 + more;
        let _ = parse_tail(&key("s"), &bytes.clone().into(), len);
        let _ = parse_header(&key("s"), &bytes);
        let _ = check_batch(&bytes);
    }
}
