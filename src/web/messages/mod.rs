//! Records of topics: read, searched, followed, exported and written.
//!
//! A search reads forwards or backwards through one partition or all of them ([`scan`]), within bounds of time and bytes, and says why
//! it stopped and where to go on. Everything that a producer wrote is data: it is decoded into text ([`decode`]) and never into
//! anything else; what people type to find it is an expression without effects ([`filter`]).

mod browse;
mod cursor;
pub mod decode;
mod export;
pub mod filter;
mod lane;
mod produce;
mod query;
mod record;
mod scan;
mod tail;

use super::state::ConsoleState;
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

/// Adds the routes of this module.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/topics/{name}/messages", web::get().to(browse::messages))
        .route("/topics/{name}/messages", web::post().to(produce::produce))
        .route("/topics/{name}/messages/{partition}/{offset}", web::get().to(browse::message))
        .route("/topics/{name}/tail", web::get().to(tail::tail))
        .route("/topics/{name}/export", web::get().to(export::export))
        .route("/decoders", web::get().to(decoders))
        .route("/filter/check", web::get().to(check));
}

async fn decoders(state: web::Data<ConsoleState>) -> HttpResponse {
    let items = decode::DECODERS.iter().map(|(name, _, help)| json!({ "name": name, "help": help }));
    let items: Vec<_> = items.collect();
    let total = items.len();
    HttpResponse::Ok().json(super::list::list(items, None, Some(total), state.clock.wall_ms(), Vec::new()))
}

#[derive(Deserialize)]
struct Check {
    #[serde(default)]
    filter: String,
}

async fn check(query: web::Query<Check>) -> HttpResponse {
    let error = match query.filter.trim() {
        "" => None,
        source => filter::Filter::compile(source).err(),
    };
    HttpResponse::Ok().json(json!({ "ok": error.is_none(), "error": error, "variables": filter::VARIABLES }))
}
