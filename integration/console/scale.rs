//! Very many topics and groups: how long lists take, and how much memory the console needs for them.
//!
//! Small by default; `make console-scale` has it at full size. Times are printed, not asserted: they are the machine's.

use super::browser::{Browser, until};
use super::process::beside;
use crate::client::{Client, check, topic_name};
use crate::cluster::{Cluster, find_coordinator};
use crate::group_client::{Member, commit_request};
use crate::harness::{quiet, size};
use kafka_protocol::messages::CreateTopicsRequest;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use std::time::Duration;

/// Memory that lists may need beyond that of a console without topics and groups.
const EXTRA_RSS_BYTES_MAX: u64 = 64 << 20;
/// Topics of one request.
const AT_A_TIME: u64 = 500;

async fn create_topics(address: &str, count: u64) {
    let mut client = Client::new(address);
    for first in (0..count).step_by(AT_A_TIME as usize) {
        let topic = |n: u64| {
            CreatableTopic::default()
                .with_name(topic_name(&format!("topic-{n:06}")))
                .with_num_partitions(1)
                .with_replication_factor(-1)
        };
        let topics: Vec<CreatableTopic> = (first..count.min(first + AT_A_TIME)).map(topic).collect();
        client
            .retry("topics are created", async |c| {
                let request = CreateTopicsRequest::default().with_topics(topics.clone()).with_timeout_ms(1_000);
                let answer = c.call(7, &request).await?;
                // 36: created by an attempt that was not answered.
                answer.topics.iter().filter(|t| t.error_code != 36).try_for_each(|t| check(t.error_code))
            })
            .await;
    }
}

async fn create_groups(addresses: &[String], count: u64) {
    let mut clients: Vec<Client> = addresses.iter().map(|address| Client::new(address)).collect();
    for n in 0..count {
        let group = format!("group-{n:06}");
        let request = commit_request(&Member::none(&group), "topic-000000", &[(0, 0)]);
        let mut done = false;
        while !done {
            let Some(node) = find_coordinator(addresses, &group).await else { continue };
            let answer = clients[node as usize - 1].call(8, &request).await;
            done = answer.is_ok_and(|a| a.topics.iter().flat_map(|t| &t.partitions).all(|p| p.error_code == 0));
        }
    }
}

/// The 50th and 99th of a hundred times, ms.
async fn times(browser: &Browser, path: &str, asked: usize) -> (f64, f64) {
    let mut times: Vec<Duration> = Vec::with_capacity(asked);
    for _ in 0..asked {
        let begin = kafscale::clock::monotonic();
        browser.api(path).await;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    (at(50), at(99))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_very_many_topics_and_groups_are_answered_from_memory() {
    let _quiet = quiet().await;
    let (topics, groups) = (size("TOPICS", 1_000), size("CONSUMER_GROUPS", 100));
    let asked = size("ASKED", 20) as usize;
    let mut cluster = Cluster::start("console-scale", "500").await;
    let console = beside(&mut cluster, "console-of-scale").await;
    let viewer = console.viewer().await;
    until(&viewer, "the cluster is known", "/topics", |list| list["total"] == 0).await;
    viewer.api("/groups").await;
    let empty_bytes = console.process.rss_bytes();
    let addresses = cluster.addresses();
    create_topics(&addresses[0], topics).await;
    create_groups(&addresses, groups).await;
    until(&viewer, "all topics are known", "/topics", |list| list["total"] == topics).await;
    until(&viewer, "all groups are known", "/groups", |list| list["total"] == groups).await;
    println!("console with {topics} topics and {groups} groups, each list asked {asked} times:");
    for path in [
        "/topics",
        "/topics?limit=500",
        "/topics?q=99",
        "/topics?sort=partitions&order=desc",
        "/topics?sort=size&order=desc",
        "/groups",
        "/groups?q=9&order=desc",
        "/groups?sort=state",
        "/groups?sort=lag&order=desc",
    ] {
        let (p50, p99) = times(&viewer, path, asked).await;
        println!("{path:<40} p50 {p50:>7.1} ms  p99 {p99:>7.1} ms");
    }
    let extra_bytes = console.process.rss_peak_bytes().saturating_sub(empty_bytes);
    println!("memory beyond an empty console's: {} KiB at most", extra_bytes >> 10);
    assert!(extra_bytes <= EXTRA_RSS_BYTES_MAX, "{extra_bytes} bytes");
}
