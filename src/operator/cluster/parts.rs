//! Where other parts of the operator come in: managed etcd, its snapshots, topics.

use super::plan::Added;
use crate::ids::FencingToken;
use crate::operator::context::OperatorContext;
use crate::operator::view::ClusterView;
use std::sync::Arc;

/// What works as long as this operator leads, and ends when it is dropped.
#[derive(Debug)]
pub struct Leading {
    token: FencingToken,
}

impl Leading {
    /// This operator begins to lead.
    pub fn start(_context: &Arc<OperatorContext>, token: FencingToken) -> Self {
        Self { token }
    }

    /// Of this leadership.
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// Clusters or topics have changed; all of them are known.
    pub fn changed(&self, _context: &OperatorContext) {}
}

/// What they add to a cluster. Asked once per look, before anything is applied.
pub async fn added(_context: &OperatorContext, _view: &ClusterView<'_>) -> Added {
    Added::default()
}
