//! What other parts of the operator add to a cluster: managed etcd, its snapshots, topics. Called once per look, before
//! anything is applied.

use super::plan::Added;
use crate::operator::context::OperatorContext;
use crate::operator::view::ClusterView;

/// Asks all of them.
pub async fn added(_context: &OperatorContext, _view: &ClusterView<'_>) -> Added {
    Added::default()
}
