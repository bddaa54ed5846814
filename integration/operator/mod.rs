//! Tests against a real Kubernetes API server with its controllers and scheduler, on loopback and without containers.
//!
//! [`control_plane`] starts one control plane for the whole run, when the first test asks; every test has a
//! [`namespace`](namespace::Namespace) of its own, with nodes of its own, so that tests neither see nor disturb each other. kwok plays
//! the pods: they are ready at once and nothing is behind them. A test steers them by hand ([`steering`]), or
//! gives its namespace a [`kubelet`](kubelet::Kubelet), which runs the real program for every pod with a certain label.

mod console;
mod control_plane;
mod control_plane_tests;
mod etcd_restore_tests;
mod etcd_tests;
mod kubelet;
mod kubelet_tests;
mod manifests;
mod namespace;
mod policies;
mod release;
mod rights;
mod rules;
mod scenarios;
mod soak;
mod steering;
mod topics;
mod world;

use control_plane::wait_for;
use kafscale::operator::crd;
use namespace::Namespace;

/// Defines the custom resources, once for all tests.
async fn define(namespace: &Namespace) {
    static DEFINED: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    DEFINED
        .get_or_init(async || {
            let plane = namespace.plane();
            let yaml = crd::definitions().each_ref().map(crd::yaml).join("---\n");
            plane.apply(&yaml).await.expect("the API server takes the definitions");
            for name in ["kafscaleclusters.kafscale.io", "kafscaletopics.kafscale.io"] {
                let definition = format!("crd/{name}");
                let established = ["wait", "--for=condition=Established", "--timeout=60s", definition.as_str()];
                plane.kubectl(&established).await.expect("it is established");
                // It is served a moment later.
                wait_for(name, async || plane.kubectl(&["get", name, "-A"]).await).await;
            }
        })
        .await;
}
