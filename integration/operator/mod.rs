//! Tests against a real Kubernetes API server with its controllers and scheduler, on loopback and without containers.
//!
//! [`control_plane`] starts one control plane for the whole run, when the first test asks; every test has a
//! [`namespace`](namespace::Namespace) of its own, with nodes of its own, so that tests neither see nor disturb each other. kwok plays
//! the pods: they are ready at once and nothing is behind them. A test steers them by hand ([`steering`]), or
//! gives its namespace a [`kubelet`](kubelet::Kubelet), which runs the real program for every pod with a certain label.

mod control_plane;
mod control_plane_tests;
mod kubelet;
mod kubelet_tests;
mod namespace;
mod scenarios;
mod steering;
mod world;
