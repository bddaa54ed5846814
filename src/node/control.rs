//! The control plane's listener: bound before the broker registers, served once it serves clients; and how others reach what
//! this process listens on.

use super::NodeError;
use crate::actors::context::NodeContext;
use crate::actors::drain::Drains;
use crate::actors::supervisor::supervise_loop;
use crate::config::{ControlAddr, NodeConfig};
use crate::control::server::Service;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Listens for the control plane, and says how others reach it: at the host that is listened on, or, if that is a wildcard, at
/// the one that clients are told.
pub(super) fn bind(config: &NodeConfig, control: &ControlAddr) -> Result<(Arc<TcpListener>, String), NodeError> {
    let failed = |e: std::io::Error| {
        let hint = "free it, set KAFSCALE_CONTROL_ADDR, or set that to off";
        NodeError::resource(format!("cannot listen on {} for the control plane: {e}; {hint}", control.listen))
    };
    let listener = TcpListener::bind(control.listen).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let address = reachable(config, bound, &control.host);
    Ok((Arc::new(listener), address))
}

/// How others reach what listens on `bound`, whose host was written as `host`.
pub(super) fn reachable(config: &NodeConfig, bound: SocketAddr, host: &str) -> String {
    let host = if bound.ip().is_unspecified() { &config.advertised_host } else { host };
    let port = bound.port();
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Serves until `shutdown`. Returns the address.
pub(super) fn serve(
    context: &Arc<NodeContext>,
    drains: &Arc<Drains>,
    listener: Arc<TcpListener>,
    shutdown: &CancellationToken,
) -> SocketAddr {
    let bound = listener.local_addr().expect("it was bound");
    let (service, shutdown) = (Service::new(context.clone(), drains.clone()), shutdown.clone());
    supervise_loop("control", &context.registry, &context.io, move || {
        service.clone().serve(listener.clone(), shutdown.clone())
    });
    tracing::info!(%bound, "serving the control plane");
    bound
}
