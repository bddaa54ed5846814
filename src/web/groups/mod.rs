//! Consumer groups: which there are, how far behind they are, and where they begin to read.
//!
//! The list comes from [`index`], which asks brokers every few seconds while somebody looks; members and lag are asked for the
//! groups that are shown. What changes offsets is first shown, and then done as shown.

mod change;
mod describe;
mod detail;
mod index;
mod list;
mod measure;
mod reset;
mod tokens;
mod watch;

use super::problem::Problem;
use actix_web::web;
use std::time::Duration;

pub use index::GroupIndex;
pub use tokens::Previews;
pub use watch::LagWatch;

/// How long a page may take.
const READ_WITHIN: Duration = Duration::from_secs(2);
/// How long a change may take.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);
/// Longest id of a group, bytes.
const ID_BYTES_MAX: usize = 1_024;

/// Adds the routes of this module.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/groups", web::get().to(list::groups))
        .route("/groups/{id}", web::get().to(detail::group))
        .route("/groups/{id}", web::delete().to(change::delete))
        .route("/groups/{id}/offsets", web::post().to(change::apply))
        .route("/groups/{id}/offsets", web::delete().to(change::delete_offsets))
        .route("/groups/{id}/offsets/preview", web::post().to(change::preview))
        .route("/topics/{name}/groups", web::get().to(list::of_topic));
}

fn legal_id(id: &str) -> Result<(), Problem> {
    match id.len() {
        1..=ID_BYTES_MAX => Ok(()),
        _ => Err(Problem::invalid(format!("a group's id has 1 to {ID_BYTES_MAX} bytes"))),
    }
}
