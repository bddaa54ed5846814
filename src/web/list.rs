//! Lists in pages: cursors that clients hand back as they got them, and what every list says besides its items.

use super::problem::Problem;
use super::state::Missing;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Items of a page, if nobody says how many.
pub const LIMIT_DEFAULT: usize = 50;
/// Items of a page at most.
pub const LIMIT_MAX: usize = 500;

/// What lists are asked with.
#[derive(Debug, Default, Deserialize)]
pub struct PageQuery {
    /// Where to go on, from the last answer.
    pub cursor: Option<String>,
    /// Items of the page.
    pub limit: Option<usize>,
    /// What to look for.
    #[serde(default)]
    pub q: String,
}

impl PageQuery {
    /// Items of the page.
    pub fn limit(&self) -> Result<usize, Problem> {
        match self.limit {
            None => Ok(LIMIT_DEFAULT),
            Some(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
            Some(_) => Err(Problem::invalid(format!("limit is from 1 to {LIMIT_MAX}"))),
        }
    }

    /// A cursor that is a number.
    pub fn number(&self) -> Result<Option<u64>, Problem> {
        let parse = |cursor: &String| {
            let number = cursor.parse();
            number.map_err(|_| Problem::invalid("this cursor is not of this list: begin without one"))
        };
        self.cursor.as_ref().map(parse).transpose()
    }
}

/// A whole list, or a page of one.
pub fn list<T: Serialize>(
    items: Vec<T>,
    next_cursor: Option<String>,
    total: Option<usize>,
    as_of_ms: i64,
    partial: Vec<Missing>,
) -> Value {
    json!({ "items": items, "next_cursor": next_cursor, "total": total, "as_of_ms": as_of_ms, "partial": partial })
}
