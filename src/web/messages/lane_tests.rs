//! Lanes against a model: a list of records per partition, read in pieces of whatever size.

use super::*;
use proptest::prelude::*;

fn record(partition: i32, offset: i64, size_bytes: usize) -> Record {
    Record {
        partition,
        offset,
        timestamp_ms: offset * 10 + i64::from(partition),
        is_append_time: false,
        key: None,
        value: None,
        headers: Vec::new(),
        size_bytes,
        codec: "none",
        producer_id: None,
        is_transactional: false,
        is_control: false,
    }
}

/// Reads at most `piece` of the offsets that there are; `bytes` each.
fn read(partition: i32, log: &[i64], end: i64, (from, to): (i64, i64), piece: usize, bytes: usize) -> Taken {
    let there: Vec<i64> = log.iter().copied().filter(|o| *o >= from && *o < to).take(piece).collect();
    // Behind the last record of a piece nothing is known, other than at the end.
    let rest = log.iter().any(|o| *o > there.last().copied().unwrap_or(from) && *o < to && there.len() == piece);
    let next = if rest { there.last().map(|o| o + 1) } else { Some(to.min(end)) };
    Taken {
        scanned_records: there.len() as u64,
        scanned_bytes: (there.len() * bytes) as u64,
        records: there.into_iter().map(|o| record(partition, o, bytes)).collect(),
        next,
        ..Taken::default()
    }
}

proptest! {
    /// Every record comes out once and in order, however it is read and wherever it is interrupted and resumed.
    #[test]
    fn nothing_is_lost_and_nothing_comes_twice(
        logs in prop::collection::vec(prop::collection::btree_set(0_i64..120, 0..60), 1..4),
        up: bool,
        pieces in prop::collection::vec(1_usize..20, 1..10),
        step in 1_i64..40,
        page in 1_usize..15,
        bytes in prop_oneof![Just(1_usize), Just(1 << 20)],
    ) {
        let logs: Vec<Vec<i64>> = logs.into_iter().map(|log| log.into_iter().collect()).collect();
        let direction = if up { Direction::Up } else { Direction::Down };
        let end = 120;
        let mut positions: Vec<i64> = vec![if up { 0 } else { end }; logs.len()];
        let mut came = Vec::new();
        let mut pieces = pieces.iter().cycle();
        loop {
            // A new request: nothing is known but the positions.
            let open = |(i, position): (usize, &i64)| Lane::new(i as i32, direction, 0, end, *position, step);
            let mut lanes: Vec<Lane> = positions.iter().enumerate().map(open).collect();
            let mut left = page;
            while left > 0 {
                if let Some(i) = next_of(&lanes, direction, true) {
                    came.push(lanes[i].pop().unwrap());
                    left -= 1;
                } else if let Some(lane) = lanes.iter_mut().find(|lane| lane.is_hungry()) {
                    let wanted = lane.wants();
                    let log = &logs[lane.partition as usize];
                    lane.give(read(lane.partition, log, end, wanted, *pieces.next().unwrap(), bytes));
                } else {
                    break;
                }
            }
            positions = lanes.iter().map(Lane::resume).collect();
            if left > 0 {
                prop_assert!(lanes.iter().all(Lane::is_done));
                break;
            }
        }
        let mut expected: Vec<Record> =
            logs.iter().enumerate().flat_map(|(p, log)| log.iter().map(move |o| record(p as i32, *o, bytes))).collect();
        expected.sort_by_key(|r| (r.timestamp_ms, r.partition, r.offset));
        if !up {
            expected.reverse();
        }
        prop_assert_eq!(came, expected);
    }
}

#[test]
fn a_broker_that_sends_nothing_is_not_asked_for_ever() {
    let mut lane = Lane::new(0, Direction::Up, 0, 10, 0, 5);
    for _ in 0..EMPTY_MAX {
        assert!(lane.is_hungry());
        lane.wants();
        lane.give(Taken::default());
    }
    assert!(!lane.is_hungry() && lane.failed.is_some() && lane.resume() == 0);
}

#[test]
fn what_was_deleted_meanwhile_is_skipped() {
    let mut lane = Lane::new(0, Direction::Up, 0, 10, 0, 5);
    lane.wants();
    lane.out_of_range(4);
    assert_eq!((lane.wants(), lane.failed.is_some()), ((4, 10), false));
    lane.out_of_range(4);
    assert!(lane.failed.is_some());
}
