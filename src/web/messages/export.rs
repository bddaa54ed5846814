//! All records of a search as a file, while they are read: nothing is gathered.
//!
//! An export that cannot be completed breaks off, so that no browser takes it for whole.

use super::decode::SINGLE_TEXT_BYTES_MAX;
use super::query::Query;
use super::record::{Record, Shown};
use super::scan::{From, Scan, StoppedBy};
use crate::web::auth::SignedIn;
use crate::web::auth::actor::Check;
use crate::web::kafka::within;
use crate::web::problem::Problem;
use crate::web::state::ConsoleState;
use actix_web::http::header::CONTENT_DISPOSITION;
use actix_web::web::Bytes;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, error, web};
use futures::stream;
use serde_json::Value;
use std::time::Duration;

/// Records that are made into text at a time.
const CHUNK_RECORDS: usize = 100;
/// How long a chunk is searched for, before it is looked whether the session is over.
const CHUNK_WITHIN: Duration = Duration::from_secs(5);
const CSV_HEAD: &str = "partition,offset,timestamp_ms,key,value,headers,size_bytes\r\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Jsonl,
    Csv,
}

struct Exporting {
    state: web::Data<ConsoleState>,
    signed_in: SignedIn,
    scan: Scan,
    shown: Shown,
    format: Format,
    left: usize,
    is_begun: bool,
    is_over: bool,
}

/// GET `/topics/{name}/export`.
pub async fn export(
    state: web::Data<ConsoleState>,
    path: web::Path<String>,
    query: web::Query<Query>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let signed_in = request.extensions().get::<SignedIn>().cloned().ok_or_else(crate::web::gate::unauthenticated)?;
    let (format, ending, kind) = match query.format.as_deref() {
        None | Some("jsonl") => (Format::Jsonl, "jsonl", "application/x-ndjson"),
        Some("csv") => (Format::Csv, "csv", "text/csv; charset=utf-8"),
        Some(_) => return Err(Problem::invalid("format is jsonl or csv")),
    };
    let left = query.export_limit().unwrap_or(usize::MAX);
    let shown = Shown { text_bytes_max: SINGLE_TEXT_BYTES_MAX, ..query.shown()? };
    let plan = query.plan(&path, From::Oldest, CHUNK_RECORDS)?;
    let scan = Scan::open(state.kafka.clone(), plan, within(CHUNK_WITHIN)).await?;
    let exporting = Exporting { state, signed_in, scan, shown, format, left, is_begun: false, is_over: false };
    let body = stream::unfold(exporting, |mut exporting| async move {
        let chunk = exporting.next().await?;
        Some((chunk, exporting))
    });
    let name = format!("attachment; filename=\"{path}.{ending}\"");
    Ok(HttpResponse::Ok().content_type(kind).insert_header((CONTENT_DISPOSITION, name)).streaming(body))
}

impl Exporting {
    async fn next(&mut self) -> Option<Result<Bytes, actix_web::Error>> {
        loop {
            if self.is_over || self.left == 0 {
                return None;
            }
            if self.format == Format::Csv && !self.is_begun {
                self.is_begun = true;
                return Some(Ok(Bytes::from_static(CSV_HEAD.as_bytes())));
            }
            let check = Check { token: self.signed_in.token, counts: false };
            let is_over = self.state.ask_sessions(check).await.is_ok_and(|session| session.is_none());
            if is_over || self.state.shutdown.is_cancelled() {
                return self.broken("the session is over");
            }
            let (records, stopped_by) = self.scan.page(self.left.min(CHUNK_RECORDS), within(CHUNK_WITHIN)).await;
            self.left -= records.len();
            if stopped_by == StoppedBy::End {
                self.is_over = true;
                if records.is_empty() {
                    return if self.is_whole() { None } else { self.broken("a partition cannot be read") };
                }
                self.is_over = self.is_whole();
            }
            if records.is_empty() {
                continue;
            }
            let (format, shown) = (self.format, self.shown.clone());
            let text =
                web::block(move || records.iter().map(|record| line(record, format, &shown)).collect::<String>());
            return match text.await {
                Ok(text) => Some(Ok(Bytes::from(text))),
                Err(_) => self.broken("the console is busy"),
            };
        }
    }

    fn is_whole(&self) -> bool {
        self.scan.partial().iter().all(|missing| missing.source == "filter")
    }

    fn broken(&mut self, why: &'static str) -> Option<Result<Bytes, actix_web::Error>> {
        self.is_over = true;
        Some(Err(error::ErrorServiceUnavailable(why)))
    }
}

fn line(record: &Record, format: Format, shown: &Shown) -> String {
    let item = record.item(shown);
    if format == Format::Jsonl {
        return format!("{item}\n");
    }
    let text = |value: &Value| value["text"].as_str().unwrap_or_default().to_owned();
    let headers: serde_json::Map<String, Value> = item["headers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|h| (h["key"].as_str().unwrap_or_default().to_owned(), h["value"]["text"].clone()))
        .collect();
    let headers = if headers.is_empty() { String::new() } else { Value::Object(headers).to_string() };
    let cells = [
        record.partition.to_string(),
        record.offset.to_string(),
        record.timestamp_ms.to_string(),
        cell(&text(&item["key"])),
        cell(&text(&item["value"])),
        cell(&headers),
        record.size_bytes.to_string(),
    ];
    format!("{}\r\n", cells.join(","))
}

/// In quotes. Programs that calculate take a cell that begins with one of these for a formula; what a producer wrote is none.
fn cell(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
    format!("\"{}{}\"", if is_formula { "'" } else { "" }, text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_data() {
        let cases =
            [("a\"b,c\n", "\"a\"\"b,c\n\""), ("=1+1", "\"'=1+1\""), ("-5", "\"-5\""), ("@x", "\"'@x\""), ("", "\"\"")];
        for (text, expected) in cases {
            assert_eq!(cell(text), expected);
        }
    }
}
