//! What assignors promise, on tables and on random groups.

use super::*;
use proptest::prelude::*;
use uuid::Uuid;

fn topic(n: u128) -> TopicId {
    TopicId(Uuid::from_u128(n))
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("m{n:03}")).collect()
}

/// Assigns `topics` (partitions of topic 1, 2, …) to members with these subscriptions and former assignments.
fn run(assignor: Assignor, topics: &[i32], subscriptions: &[Vec<u128>], before: &[Assignment]) -> Vec<Assignment> {
    let names = names(subscriptions.len());
    let members: Vec<_> = (0..subscriptions.len())
        .map(|m| Candidate {
            name: &names[m],
            topics: subscriptions[m].iter().map(|t| topic(*t)).collect(),
            before: &before[m],
        })
        .collect();
    let topics = topics.iter().enumerate().map(|(n, partitions)| (topic(n as u128 + 1), *partitions)).collect();
    assign(assignor, &members, &topics)
}

fn first(assignor: Assignor, topics: &[i32], members: usize) -> Vec<Assignment> {
    let all: Vec<u128> = (1..=topics.len() as u128).collect();
    run(assignor, topics, &vec![all; members], &vec![Assignment::new(); members])
}

fn shown(assignments: &[Assignment]) -> Vec<String> {
    let one = |assignment: &Assignment| {
        let parts = assignment.iter().map(|(topic, partitions)| {
            let partitions: Vec<String> = partitions.iter().map(ToString::to_string).collect();
            format!("{}:{}", topic.0.as_u128(), partitions.join(","))
        });
        parts.collect::<Vec<_>>().join(" ")
    };
    assignments.iter().map(one).collect()
}

fn moved(before: &[Assignment], after: &[Assignment]) -> usize {
    let lost =
        |(b, a): (&Assignment, &Assignment)| partitions(b).filter(|key| !super::super::value::contains(a, key)).count();
    before.iter().zip(after).map(lost).sum()
}

#[test]
fn ranges_are_contiguous_and_alike_for_topics_of_one_size() {
    let assigned = first(Assignor::Range, &[5, 5, 2], 3);
    assert_eq!(shown(&assigned), ["1:0,1 2:0,1 3:0", "1:2,3 2:2,3 3:1", "1:4 2:4"]);
    assert_eq!(shown(&first(Assignor::Range, &[1], 2)), ["1:0", ""]);
    assert_eq!(shown(&first(Assignor::Range, &[], 2)), ["", ""]);
}

#[test]
fn a_range_stays_where_it_begins_when_somebody_comes() {
    let subscriptions = vec![vec![1]; 3];
    let before = first(Assignor::Range, &[6], 2);
    // The new one has the lowest name and is last all the same.
    let before = [vec![Assignment::new()], before].concat();
    assert_eq!(shown(&run(Assignor::Range, &[6], &subscriptions, &before)), ["1:4,5", "1:0,1", "1:2,3"]);
}

#[test]
fn uniform_moves_no_more_than_it_must() {
    let two = first(Assignor::Uniform, &[7, 5], 2);
    assert_eq!(two.iter().map(|a| partitions(a).count()).collect::<Vec<_>>(), [6, 6]);
    let subscriptions = vec![vec![1, 2]; 3];
    let before = [two, vec![Assignment::new()]].concat();
    let three = run(Assignor::Uniform, &[7, 5], &subscriptions, &before);
    assert_eq!(three.iter().map(|a| partitions(a).count()).collect::<Vec<_>>(), [4, 4, 4]);
    assert_eq!(moved(&before, &three), 4);
    let again = run(Assignor::Uniform, &[7, 5], &subscriptions, &three);
    assert_eq!(again, three, "nothing changed, nothing moves");
    let more = run(Assignor::Uniform, &[8, 5], &subscriptions, &three);
    assert_eq!(moved(&three, &more), 0, "a new partition moves no other");
}

#[test]
fn members_with_different_subscriptions_get_only_what_they_want() {
    let nothing = vec![Assignment::new(); 3];
    let assigned = run(Assignor::Uniform, &[4, 2], &[vec![1], vec![1, 2], vec![2, 9]], &nothing);
    assert_eq!(shown(&assigned), ["1:0,2", "1:1,3", "2:0,1"]);
    let lonely = run(Assignor::Uniform, &[2, 2], &[vec![], vec![1]], &nothing[..2]);
    assert_eq!(shown(&lonely), ["", "1:0,1"]);
}

/// Partitions of the topics; what each member is subscribed to, and what it held; whether all are subscribed alike.
type Case = (Vec<i32>, Vec<Vec<u128>>, Vec<Vec<(u128, i32)>>, bool);

fn group() -> impl Strategy<Value = Case> {
    let subscription = prop::collection::vec(1u128..5, 0..4);
    let before = prop::collection::vec((1u128..6, 0i32..9), 0..12);
    (prop::collection::vec(0i32..9, 4), prop::collection::vec((subscription, before), 1..7), any::<bool>()).prop_map(
        |(topics, members, same)| {
            let (mut subscriptions, before): (Vec<_>, Vec<_>) = members.into_iter().unzip();
            if same {
                subscriptions = vec![subscriptions[0].clone(); subscriptions.len()];
            }
            (topics, subscriptions, before, same)
        },
    )
}

proptest! {
    #[test]
    fn every_partition_has_one_subscriber_and_loads_are_even((topics, subscriptions, before, same) in group()) {
        let before: Vec<Assignment> = before
            .into_iter()
            .map(|keys| collect(keys.into_iter().map(|(t, p)| PartitionKey { topic: topic(t), partition: PartitionIndex(p) })))
            .collect();
        for assignor in Assignor::ALL {
            let after = run(assignor, &topics, &subscriptions, &before);
            let mut all: Vec<PartitionKey> = Vec::new();
            for (assignment, subscription) in after.iter().zip(&subscriptions) {
                prop_assert!(assignment.values().all(|p| !p.is_empty()));
                prop_assert!(assignment.keys().all(|t| subscription.iter().any(|s| topic(*s) == *t)));
                all.extend(partitions(assignment));
            }
            all.sort_unstable();
            let wanted = (1u128..=4).filter(|t| subscriptions.iter().any(|s| s.contains(t)));
            let wanted: Vec<PartitionKey> = wanted
                .flat_map(|t| (0..topics[t as usize - 1]).map(move |p| (t, p)))
                .map(|(t, p)| PartitionKey { topic: topic(t), partition: PartitionIndex(p) })
                .collect();
            prop_assert_eq!(all, wanted, "{}", assignor.name());
            let again = run(assignor, &topics, &subscriptions, &after);
            prop_assert_eq!(&again, &after, "{} is at rest", assignor.name());
            let loads: Vec<usize> = after.iter().map(|a| partitions(a).count()).collect();
            if assignor == Assignor::Uniform && same {
                prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{loads:?}");
            }
            for (m, assignment) in after.iter().enumerate().filter(|_| assignor == Assignor::Uniform) {
                for other in (0..loads.len()).filter(|o| loads[*o] + 2 <= loads[m]) {
                    let could = assignment.keys().any(|t| subscriptions[other].iter().any(|s| topic(*s) == *t));
                    prop_assert!(!could, "{m} has {} and {other} has {}", loads[m], loads[other]);
                }
            }
        }
    }
}
