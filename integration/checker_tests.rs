//! The checker accepts a good history and rejects each bad one, for the right reason.

use crate::checker::{Expect, Kind, check};
use crate::history::{self, Entry, Event, History};

const EXPECT: Expect = Expect { progress_ms_max: 10 };
const MS: u64 = 1_000_000;
const P: &str = "topic-0";

fn invoke(op: u64, producer: u32, values: &[u64]) -> Event {
    Event::SendInvoke { op, producer, partition: P.into(), values: values.to_vec() }
}

fn ok(op: u64, base_offset: i64) -> Event {
    Event::SendOk { op, base_offset }
}

fn poll(invoke_ms: u64, from: i64, records: &[(i64, u64)], high_watermark: i64, last: bool) -> Event {
    Event::PollOk {
        consumer: 1,
        partition: P.into(),
        invoke_ns: invoke_ms * MS,
        from,
        records: records.to_vec(),
        high_watermark,
        log_start: 0,
        last,
    }
}

fn commit(offset: i64) -> Event {
    Event::CommitOk { group: "g".into(), partition: P.into(), offset }
}

fn commit_read(invoke_ms: u64, offset: i64) -> Event {
    Event::CommitRead { group: "g".into(), partition: P.into(), invoke_ns: invoke_ms * MS, offset }
}

fn fault(on: bool) -> Event {
    Event::Fault { what: "kill".into(), on }
}

/// Two producers, a tailing consumer, a kill, an indeterminate-then-acked send, a refused one. Event n is at n+1 ms.
fn good() -> Vec<Event> {
    vec![
        invoke(1, 1, &[101, 102]),                                                            // 1 ms
        invoke(2, 2, &[201]),                                                                 // 2
        ok(1, 0),                                                                             // 3
        poll(2, 0, &[(0, 101), (1, 102)], 2, false),                                          // 4
        fault(true),                                                                          // 5
        fault(false),                                                                         // 6
        ok(2, 2),                                                                             // 7
        invoke(3, 1, &[103]),                                                                 // 8
        Event::SendFail { op: 3, code: 10 },                                                  // 9
        invoke(4, 1, &[104, 105]),                                                            // 10
        ok(4, 3),                                                                             // 11
        poll(10, 2, &[(2, 201), (3, 104), (4, 105)], 5, false),                               // 12
        Event::PollFail { consumer: 1, partition: P.into(), invoke_ns: 0, from: 5, code: 6 }, // 13
        Event::LoadEnd,                                                                       // 14
        poll(15, 0, &[(0, 101), (1, 102), (2, 201)], 5, true),                                // 15
        poll(16, 3, &[(3, 104), (4, 105)], 5, true),                                          // 16
    ]
}

fn timed(events: Vec<Event>) -> Vec<Entry> {
    (1..).zip(events).map(|(ms, event)| Entry { t_ns: ms * MS, event }).collect()
}

fn kinds(entries: &[Entry]) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = check(entries, EXPECT).violations.into_iter().map(|v| v.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

#[test]
fn good_history_is_accepted() {
    let report = check(&timed(good()), EXPECT);
    report.assert_clean();
    assert_eq!((report.acked_sends, report.acked_values, report.log_values), (3, 5, 5));
}

#[test]
fn commits_that_overlap_a_look_at_them_may_be_seen_or_not() {
    let mut events = good();
    // Acked at 5 ms; asked at 4 ms, answered at 6; asked at 6 ms.
    events.splice(4..4, [commit(2), commit_read(4, 0), commit_read(6, 2)]);
    check(&timed(events), EXPECT).assert_clean();
}

#[test]
fn written_without_an_ack_is_accepted_while_the_producer_is_not_drained() {
    let mut events = good();
    events.retain(|e| *e != ok(4, 3) && *e != Event::LoadEnd);
    let report = check(&timed(events), EXPECT);
    report.assert_clean();
    assert_eq!(report.unacked_but_written, 1);
}

/// Takes the good history, spoils it, and names what must be found (other findings may come with it).
fn rejects(expected: Kind, spoil: impl FnOnce(&mut Vec<Event>)) {
    let mut events = good();
    spoil(&mut events);
    let found = kinds(&timed(events));
    assert!(found.contains(&expected), "{expected:?} was planted, {found:?} found");
}

fn at(events: &[Event], wanted: &Event) -> usize {
    events.iter().position(|e| e == wanted).expect("the event is in the good history")
}

#[test]
fn planted_violations_are_found() {
    // The log ends before an acked batch.
    rejects(Kind::LostWrite, |e| e[15] = poll(16, 3, &[], 3, true));
    // The last record of an acked batch is gone.
    rejects(Kind::LostWrite, |e| e[15] = poll(16, 3, &[(3, 104)], 4, true));
    // A tailing consumer saw another value at offset 2 than the final poll.
    rejects(Kind::InconsistentOffset, |e| e[11] = poll(10, 2, &[(2, 105), (3, 104), (4, 201)], 5, false));
    // A retry was appended twice.
    rejects(Kind::Duplicate, |e| e[15] = poll(16, 3, &[(3, 104), (4, 105), (5, 104), (6, 105)], 7, true));
    // The producer was told 0 (a spurious zero offset).
    rejects(Kind::WrongAckedOffset, |e| e[10] = ok(4, 0));
    rejects(Kind::StaleAckedOffset, |e| e[10] = ok(4, 0));
    // A slot was skipped: nobody's values are missing, but an offset is.
    rejects(Kind::Hole, |e| {
        e[10] = ok(4, 4);
        e[11] = poll(10, 2, &[(2, 201), (4, 104), (5, 105)], 6, false);
        e[15] = poll(16, 3, &[(4, 104), (5, 105)], 6, true);
    });
    // The high watermark promises more than can be read.
    rejects(Kind::Hole, |e| e[15] = poll(16, 3, &[(3, 104), (4, 105)], 9, true));
    // Producer 1's second batch lies before its first.
    rejects(Kind::Reordered, |e| {
        e[2] = ok(1, 3);
        e[3] = poll(2, 0, &[], 0, false);
        e[10] = ok(4, 0);
        e[11] = poll(10, 0, &[(0, 104), (1, 105), (2, 201), (3, 101), (4, 102)], 5, false);
        e[14] = poll(15, 0, &[(0, 104), (1, 105), (2, 201)], 5, true);
        e[15] = poll(16, 3, &[(3, 101), (4, 102)], 5, true);
    });
    // An answer has records from before what was asked for, or twice.
    rejects(Kind::PollOrder, |e| e[11] = poll(10, 3, &[(2, 201), (3, 104), (4, 105)], 5, false));
    rejects(Kind::PollOrder, |e| e[11] = poll(10, 3, &[(3, 104), (3, 104), (4, 105)], 5, false));
    // A value nobody sent; a value whose send was refused; a value with wrong bytes.
    rejects(Kind::Phantom, |e| e[15] = poll(16, 3, &[(3, 104), (4, 105), (5, 999)], 6, true));
    rejects(Kind::Phantom, |e| e[15] = poll(16, 3, &[(3, 104), (4, 105), (5, 103)], 6, true));
    rejects(Kind::Phantom, |e| e.insert(12, Event::Damaged { partition: P.into(), offset: 4 }));
    // Uncommitted data was visible.
    rejects(Kind::AboveHighWatermark, |e| e[3] = poll(2, 0, &[(0, 101), (1, 102)], 1, false));
    // The high watermark is below what was acked before the fetch began, or below an earlier one.
    rejects(Kind::HighWatermarkWentBack, |e| e.insert(12, poll(12, 2, &[], 3, false)));
    rejects(Kind::HighWatermarkWentBack, |e| e.insert(5, poll(5, 1, &[], 1, false)));
    // Readable offsets vanish.
    let out_of_range = Event::PollFail { consumer: 1, partition: P.into(), invoke_ns: 13 * MS, from: 4, code: 1 };
    rejects(Kind::BecameOutOfRange, |e| e.insert(13, out_of_range));
    // A group's offset is lower than what was acked, or told to somebody, before; or there is no such offset.
    rejects(Kind::CommittedOffsetWentBack, |e| e.splice(4..4, [commit(2), commit_read(6, 1)]).for_each(drop));
    rejects(Kind::CommittedOffsetWentBack, |e| e.splice(4..4, [commit_read(4, 2), commit_read(6, 0)]).for_each(drop));
    rejects(Kind::CommittedTooFar, |e| e.insert(12, commit(6)));
    // A producer waits for ever.
    rejects(Kind::Stuck, |e| {
        let end = at(e, &ok(2, 2));
        e.remove(end);
    });
    // A log start that moves, and one that goes back.
    for (values, expected) in [([1, 1], Kind::LogStartMoved), ([1, 0], Kind::LogStartWentBack)] {
        rejects(expected, |e| {
            for (place, start) in [(14, values[0]), (15, values[1])] {
                if let Event::PollOk { log_start, .. } = &mut e[place] {
                    *log_start = start;
                }
            }
        });
    }
    // Unusable histories are no success.
    rejects(Kind::BadHistory, |e| e.truncate(14));
    rejects(Kind::BadHistory, |e| e.insert(7, ok(2, 2)));
    rejects(Kind::BadHistory, |e| e.insert(0, ok(77, 0)));
    rejects(Kind::BadHistory, |e| e.insert(13, fault(true)));
}

#[test]
fn no_progress_after_a_fault_is_found() {
    let mut entries = timed(good());
    for entry in &mut entries {
        let fault_ended_ms = 6;
        if entry.t_ns > fault_ended_ms * MS {
            entry.t_ns += 11 * MS; // the next ack is 12 ms after the end of the fault, 10 are allowed
        }
        if let Event::PollOk { invoke_ns, .. } = &mut entry.event {
            *invoke_ns += if *invoke_ns > fault_ended_ms * MS { 11 * MS } else { 0 };
        }
    }
    assert_eq!(kinds(&entries), [Kind::NoProgress]);
}

#[test]
fn history_survives_its_file() {
    let history = History::new();
    good().into_iter().for_each(|event| history.push(event));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.jsonl");
    history.write(&path).unwrap();
    assert_eq!(history::read(&path).unwrap(), history.entries());
}
