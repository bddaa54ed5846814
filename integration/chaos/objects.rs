//! S3 is slow, throttles, vanishes or hangs, for all brokers at once.

use super::trial::Trial;
use super::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_outlives_every_failure_of_s3() {
    let mut trial = Trial::start("chaos-s3").await;
    for (what, begin, end) in [
        ("S3 is slow", "profile=std", "profile=none"),
        ("S3 throttles everything", "503=1", "503=0"),
        ("S3 fails at everything", "500=1", "500=0"),
        ("S3 writes and says that it did not", "applied500=0.3&lost=0.3", "applied500=0&lost=0"),
    ] {
        trial.fault(what, async |w| w.s3_proxy.set(begin).await, async |w| w.s3_proxy.set(end).await).await;
    }
    let pause = async |w: &mut World| w.s3.process.pause();
    trial.fault("S3 does not answer", pause, async |w| w.s3.process.resume()).await;
    let kill = async |w: &mut World| w.s3.process.kill9();
    trial.fault("S3 is gone", kill, async |w| w.s3.restart().await).await;
    trial.finish().await;
}
