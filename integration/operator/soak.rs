//! What the operator takes over a long time, with everything real: its program, brokers, etcd, S3. `make operator-soak` runs it at
//! full size with the release program.

use super::control_plane::{kubectl, wait_for};
use super::world::{IMAGE, Operator, World, condition};
use crate::harness::{quiet, size};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kafscale::operator::crd::{KafscaleCluster, KafscaleTopic};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Clusters, of one broker each, that are looked at over and over.
const CLUSTERS: usize = 4;
/// Of all reconciles, those that are not measured: caches and pools fill up.
const WARM_UP_PERCENT: u64 = 20;
/// Samples of the rest.
const SAMPLES: u64 = 20;
/// From so many reconciles on the memory is asserted: before, it still warms up.
const MEMORY_FROM: u64 = 2_000;
const MEMORY_GROWTH_PERCENT_MAX: u64 = 10;
/// Connections that may be open at one moment and not at another.
const FILES_SLACK: usize = 12;
/// Of a core.
const IDLE_CPU_PERCENT_MAX: f64 = 1.0;
/// Topics that are sent at the same time.
const APPLIES_MAX: usize = 32;
/// Of so many reasons to look at a cluster, one is a change of it.
const CHANGE_EVERY: u64 = 10;
/// Between two of them: the operator takes what happens within 100 ms as one.
const BETWEEN: Duration = Duration::from_millis(120);

fn name(n: usize) -> String {
    format!("soak-{n}")
}

async fn clusters(world: &World, count: usize) {
    for n in 0..count {
        let yaml = world.cluster(&name(n), 1, "networkPolicy: {enabled: true}");
        world.ns.apply(&yaml.replace("s3: {", &format!("s3: {{namespace: soak-{n}, "))).await.expect("a cluster");
    }
    for n in 0..count {
        let serves = |found: &serde_json::Value| condition(found, "Ready") == Some(("True", "Serving"));
        world.ns.wait_object(&format!("kafscalecluster/{}", name(n)), "it serves", serves).await;
    }
    assert_eq!(world.images().await, vec![IMAGE; count]);
}

fn topic(cluster: usize, name: &str) -> String {
    format!(
        "---\napiVersion: kafscale.io/v1alpha1\nkind: KafscaleTopic\nmetadata: {{name: {name}}}\nspec: {{clusterRef: soak-{cluster}, retentionMs: 86400000}}\n"
    )
}

/// Sum of all series of a counter.
async fn sum(operator: &Operator, counter: &str) -> u64 {
    let text = operator.metrics().await;
    let values = text.lines().filter(|line| line.starts_with(counter)).filter_map(|line| line.rsplit(' ').next());
    values.filter_map(|value| value.parse::<f64>().ok()).sum::<f64>() as u64
}

async fn reconciles(operator: &Operator) -> u64 {
    sum(operator, "controller_runtime_reconcile_total{").await
}

fn open_files(operator: &Operator) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", operator.process.pid())).map(Iterator::count).unwrap_or_default()
}

/// Touches a pod, which makes the operator look at its cluster, as often as it can look; now and then the cluster itself, for which it applies
/// everything again, and its topic, for which it writes a document.
async fn change(client: kube::Client, namespace: String, cluster: usize, done: &AtomicBool) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let clusters: Api<KafscaleCluster> = Api::namespaced(client.clone(), &namespace);
    let topics: Api<KafscaleTopic> = Api::namespaced(client, &namespace);
    let (params, mut n) = (PatchParams::default(), 0u64);
    while !done.load(Ordering::Relaxed) {
        n += 1;
        let touch = Patch::Merge(json!({"metadata": {"annotations": {"kafscale.io/test": n.to_string()}}}));
        if n.is_multiple_of(CHANGE_EVERY) {
            clusters.patch(&name(cluster), &params, &touch).await.expect("it can be changed");
            let patch = Patch::Merge(json!({"spec": {"retentionMs": 86_400_000 + n}}));
            topics.patch(&format!("t-{cluster}"), &params, &patch).await.expect("it can be changed");
        } else {
            pods.patch(&format!("{}-broker-0", name(cluster)), &params, &touch).await.expect("it can be touched");
        }
        tokio::time::sleep(BETWEEN).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconciles_leak_nothing() {
    let _quiet = quiet().await;
    let wanted = size("RECONCILES", 200);
    let idle = Duration::from_secs(size("IDLE_SEC", 20));
    let mut world = World::real("soak").await;
    world.make_secret().await;
    let operator = world.operator(true).await;
    clusters(&world, CLUSTERS).await;
    let topics: String = (0..CLUSTERS).map(|n| topic(n, &format!("t-{n}"))).collect();
    world.ns.apply(&topics).await.expect("topics");

    let (client, done) = (world.ns.client().await, AtomicBool::new(false));
    let changes = (0..CLUSTERS).map(|n| change(client.clone(), world.ns.name().to_owned(), n, &done));
    let measure = async {
        let first = reconciles(&operator).await;
        let reached = async |target: u64| {
            let mut before = (reconciles(&operator).await, kafscale::clock::monotonic());
            loop {
                let now = reconciles(&operator).await;
                if now - first >= target {
                    return;
                }
                if now > before.0 {
                    before = (now, kafscale::clock::monotonic());
                }
                assert!(
                    before.1.elapsed() < Duration::from_secs(90),
                    "no look for 90 s: {}",
                    operator.process.log_tail()
                );
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let warm = wanted * WARM_UP_PERCENT / 100;
        reached(warm).await;
        let (watches, files) = (world.rights.open_watches(), open_files(&operator));
        let mut memory = vec![operator.process.rss_bytes()];
        for n in 1..=SAMPLES {
            reached(warm + (wanted - warm) * n / SAMPLES).await;
            memory.push(operator.process.rss_bytes());
            eprintln!("{n} of {SAMPLES}: {} MiB", memory[memory.len() - 1] >> 20);
        }
        done.store(true, Ordering::Relaxed);
        (watches, files, memory)
    };
    let (_, (watches, files, memory)) = futures::join!(futures::future::join_all(changes), measure);

    let mib: Vec<String> = memory.iter().map(|bytes| format!("{:.1}", *bytes as f64 / 1_048_576.0)).collect();
    eprintln!("{wanted} reconciles: resident MiB {}", mib.join(" "));
    eprintln!("watches {watches}, then {}; files {files}, then {}", world.rights.open_watches(), open_files(&operator));
    // One that has just begun again is there twice for a moment, and one that begins again is not there.
    wait_for("as many watches as before", async || match world.rights.open_watches() {
        now if now == watches => Ok(()),
        now => Err(format!("{now} instead of {watches}")),
    })
    .await;
    wait_for("no more files than before", async || match open_files(&operator) {
        now if now <= files + FILES_SLACK => Ok(()),
        now => Err(format!("{now} instead of {files}")),
    })
    .await;
    assert_eq!(sum(&operator, "controller_runtime_reconcile_errors_total{").await, 0);
    assert_eq!(sum(&operator, "kafscale_operator_actor_restarts_total").await, 0);
    let half = memory.len() / 2;
    let highest = |samples: &[u64]| samples.iter().copied().max().unwrap_or_default();
    let (early, late) = (highest(&memory[..half]), highest(&memory[half..]));
    if wanted >= MEMORY_FROM {
        assert!(late * 100 <= early * (100 + MEMORY_GROWTH_PERCENT_MAX), "{early} bytes, then {late}");
    }

    // Nothing happens any more but what it does by itself.
    let (cpu_ms, looks) = (operator.process.cpu_ms(), reconciles(&operator).await);
    tokio::time::sleep(idle).await;
    let cpu_ms = operator.process.cpu_ms() - cpu_ms;
    let percent = cpu_ms / idle.as_millis() as f64 * 100.0;
    let looks = reconciles(&operator).await - looks;
    eprintln!(
        "idle for {idle:?}: {cpu_ms} ms of CPU, {percent:.2} % of a core, {looks} reconciles of {CLUSTERS} clusters"
    );
    assert!(percent < IDLE_CPU_PERCENT_MAX, "{percent} % of a core");
}

/// When each topic came and when it was live, as a watch shows it. A creation time of Kubernetes has whole seconds.
#[derive(Debug, Default)]
struct Seen(BTreeMap<String, (Instant, Option<Instant>)>);

impl Seen {
    fn take(&mut self, topic: &KafscaleTopic) {
        let now = kafscale::clock::monotonic();
        let seen = self.0.entry(topic.name_any()).or_insert((now, None));
        let conditions = topic.status.iter().flat_map(|status| &status.conditions);
        if conditions.into_iter().any(|one| one.type_ == "Ready" && one.reason == "Live") {
            seen.1.get_or_insert(now);
        }
    }

    /// From its creation until it was live, for each that is and whose name begins so; the shortest first.
    fn waits(&self, prefix: &str) -> Vec<Duration> {
        let named = self.0.iter().filter(|(name, _)| name.starts_with(prefix));
        let mut all: Vec<Duration> = named.filter_map(|(_, (made, live))| Some((*live)? - *made)).collect();
        all.sort();
        all
    }
}

/// Follows the topics of a namespace until it is aborted.
fn follow(topics: Api<KafscaleTopic>) -> (Arc<Mutex<Seen>>, AbortHandle) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let into = seen.clone();
    let task = tokio::spawn(async move {
        let events = watcher::watcher(topics, watcher::Config::default()).default_backoff().applied_objects();
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            if let Ok(topic) = event {
                into.lock().expect("no panic under the lock").take(&topic);
            }
        }
    });
    (seen, task.abort_handle())
}

/// How people send many topics.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// `kubectl` with these arguments and a file, or with parts of it at the same time.
    Kubectl(&'static [&'static str], usize),
    /// `helm install` of a chart that has them.
    Helm,
    /// A program that does not wait for one answer to send the next.
    Api,
}

const WAYS: [(&str, Way); 7] = [
    ("kubectl apply", Way::Kubectl(&["apply", "-f", "-"], 1)),
    ("kubectl apply --server-side", Way::Kubectl(&["apply", "--server-side", "-f", "-"], 1)),
    ("kubectl create", Way::Kubectl(&["create", "-f", "-"], 1)),
    ("kubectl create --validate=ignore", Way::Kubectl(&["create", "--validate=ignore", "-f", "-"], 1)),
    ("four kubectl create", Way::Kubectl(&["create", "-f", "-"], 4)),
    ("helm install", Way::Helm),
    ("the API, 32 requests at a time", Way::Api),
];

/// Makes these topics of the first cluster.
async fn send(world: &World, way: Way, names: &[String]) {
    let yaml = |names: &[String]| names.iter().map(|name| topic(0, name)).collect::<String>();
    match way {
        Way::Kubectl(args, processes) => {
            let kubeconfig = world.ns.plane().kubeconfig();
            let parts = names.chunks(names.len().div_ceil(processes)).map(|names| {
                let (yaml, args, kubeconfig) = (yaml(names), [&["-n", world.ns.name()], args].concat(), &kubeconfig);
                async move { kubectl(kubeconfig, &args, &yaml).await.expect("valid") }
            });
            futures::future::join_all(parts).await;
        }
        Way::Helm => {
            let chart = world.ns.dir().join("many");
            std::fs::create_dir_all(chart.join("templates")).expect("the test's folder can be written");
            let about = "apiVersion: v2\nname: many\nversion: 0.1.0\n";
            std::fs::write(chart.join("Chart.yaml"), about).expect("the test's folder can be written");
            std::fs::write(chart.join("templates/topics.yaml"), yaml(names)).expect("the test's folder can be written");
            let chart = chart.display().to_string();
            world.ns.helm("helm", &["install", "many", &chart]).await.expect("valid");
        }
        Way::Api => {
            let topics: Api<KafscaleTopic> = Api::namespaced(world.ns.client().await, world.ns.name());
            let sent = names.iter().map(|name| {
                let spec = json!({"clusterRef": "soak-0", "retentionMs": 86_400_000});
                let metadata = json!({"name": name});
                let body = json!({"apiVersion": "kafscale.io/v1alpha1", "kind": "KafscaleTopic", "metadata": metadata, "spec": spec});
                let topics = topics.clone();
                async move { topics.patch(name, &PatchParams::apply("test"), &Patch::Apply(body)).await.expect("valid") }
            });
            let sent: Vec<KafscaleTopic> = futures::stream::iter(sent).buffer_unordered(APPLIES_MAX).collect().await;
            assert_eq!(sent.len(), names.len());
        }
    }
}

/// Topics that are sent together are few documents, and each is live soon after it is there, however long its client takes for all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_topics_are_few_documents_whoever_sends_them() {
    let _quiet = quiet().await;
    let count = size("KUBERNETES_TOPICS", 100);
    let mut world = World::real("topics").await;
    world.make_secret().await;
    let operator = world.operator(true).await;
    clusters(&world, 1).await;
    let (seen, task) = follow(Api::namespaced(world.ns.client().await, world.ns.name()));
    let live = async |prefix: &str, expected: u64| {
        wait_for("all are live", async || {
            let waits = seen.lock().expect("no panic under the lock").waits(prefix);
            if waits.len() as u64 == expected { Ok(waits) } else { Err(format!("{} of {expected}", waits.len())) }
        })
        .await
    };
    let published = async || operator.metric("kafscale_operator_topics_published_total").await.expect("it is shown");
    let topics: Api<KafscaleTopic> = Api::namespaced(world.ns.client().await, world.ns.name());
    for (n, (name, way)) in WAYS.into_iter().enumerate() {
        // What went with the way before is no document of this one.
        world.ns.apply(&topic(0, &format!("first-{n}"))).await.expect("valid");
        live(&format!("first-{n}"), 1).await;
        let names: Vec<String> = (0..count).map(|one| format!("t-{n}-{one}")).collect();
        let (before, looks) = (published().await, reconciles(&operator).await);
        let began = kafscale::clock::monotonic();
        send(&world, way, &names).await;
        let sent = began.elapsed();
        let waits = live(&format!("t-{n}-"), count).await;
        let (took, documents) = (began.elapsed(), (published().await - before) as u64);
        let looks = reconciles(&operator).await - looks;
        let at = |percent: usize| waits[(waits.len() * percent).div_ceil(100) - 1].as_millis();
        let (sent_sec, took_sec) = (sent.as_secs_f64(), took.as_secs_f64());
        eprintln!(
            "{name}: {count} topics sent in {sent_sec:.1} s, all live after {took_sec:.1} s; from its creation to live: median {} ms, p99 {} ms, max {} ms; {documents} documents, {looks} reconciles",
            at(50),
            at(99),
            at(100),
        );
        // A change waits a second at most for others.
        assert!(documents <= sent.as_secs() + 3, "{name}: {documents} documents within {sent:?}");
        // The next way begins with none.
        topics.delete_collection(&DeleteParams::default(), &ListParams::default()).await.expect("they can go");
        wait_for("the end of all", async || match topics.list_metadata(&ListParams::default()).await {
            Ok(left) if left.items.is_empty() => Ok(()),
            left => Err(format!("{:?}", left.map(|left| left.items.len()))),
        })
        .await;
    }
    task.abort();
}
