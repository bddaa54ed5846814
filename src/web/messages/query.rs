//! What searches are asked with.

use super::cursor;
use super::decode::{Avro, Decoder, LIST_TEXT_BYTES_MAX};
use super::filter::{Filter, TEXT_BYTES_MAX, memmem::Needle};
use super::record::{Matcher, Shown};
use super::scan::{From, Plan, filter_problem};
use crate::web::list::{LIMIT_DEFAULT, LIMIT_MAX};
use crate::web::problem::Problem;
use serde::Deserialize;
use std::sync::Arc;

/// As in the address; numbers that are offsets are text.
#[derive(Debug, Default, Deserialize)]
pub struct Query {
    partition: Option<String>,
    from: Option<String>,
    offset: Option<String>,
    time_ms: Option<i64>,
    limit: Option<usize>,
    cursor: Option<String>,
    #[serde(default)]
    q: String,
    #[serde(default)]
    filter: String,
    key_decoder: Option<String>,
    value_decoder: Option<String>,
    /// Of Avro, as JSON.
    key_schema: Option<String>,
    value_schema: Option<String>,
    /// Of exports.
    pub format: Option<String>,
    /// Of single records.
    pub raw: Option<String>,
}

impl Query {
    /// Records of a page.
    pub fn limit(&self) -> Result<usize, Problem> {
        match self.limit {
            None => Ok(LIMIT_DEFAULT),
            Some(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
            Some(_) => Err(Problem::invalid(format!("limit is from 1 to {LIMIT_MAX}"))),
        }
    }

    /// Records of an export; `None` for all.
    pub fn export_limit(&self) -> Option<usize> {
        self.limit
    }

    /// How records are shown.
    pub fn shown(&self) -> Result<Shown, Problem> {
        let decoder = |name: &Option<String>| match name.as_deref() {
            None | Some("") => Ok(Decoder::Auto),
            Some(name) => Decoder::named(name)
                .ok_or_else(|| Problem::invalid(format!("there is no decoder {name:?}: see /api/v1/decoders"))),
        };
        let (key, value) = (decoder(&self.key_decoder)?, decoder(&self.value_decoder)?);
        type Schema = Option<Arc<Avro>>;
        let schema = |name: &str, text: &Option<String>, decoder| -> Result<Schema, Problem> {
            match text.as_deref().map(str::trim) {
                Some(text) if decoder == Decoder::Avro && !text.is_empty() => {
                    let schema = Avro::parse(text).map_err(|why| Problem::invalid(format!("{name}: {why}")))?;
                    Ok(Some(Arc::new(schema)))
                }
                _ => Ok(None),
            }
        };
        Ok(Shown {
            key,
            value,
            schemas: (schema("key_schema", &self.key_schema, key)?, schema("value_schema", &self.value_schema, value)?),
            text_bytes_max: LIST_TEXT_BYTES_MAX,
        })
    }

    /// The search, beginning at `from_default` if nobody says where.
    pub fn plan(&self, topic: &str, from_default: From, limit: usize) -> Result<Plan, Problem> {
        let partition = match self.partition.as_deref() {
            None | Some("" | "all") => None,
            Some(number) => {
                let number = number.parse::<i32>().ok().filter(|number| *number >= 0);
                Some(number.ok_or_else(|| Problem::invalid("partition is a number, or \"all\""))?)
            }
        };
        Ok(Plan {
            topic: topic.to_owned(),
            partition,
            from: self.begin(from_default)?,
            limit,
            matcher: self.matcher()?,
        })
    }

    fn begin(&self, from_default: From) -> Result<From, Problem> {
        if let Some(text) = self.cursor.as_deref().filter(|text| !text.is_empty()) {
            let decoded = cursor::decode(text);
            let (direction, positions) =
                decoded.ok_or_else(|| Problem::invalid("this cursor is not of this list: begin without one"))?;
            return Ok(From::Cursor(direction, positions));
        }
        Ok(match self.from.as_deref() {
            None | Some("") => from_default,
            Some("newest") => From::Newest,
            Some("oldest") => From::Oldest,
            Some("offset") => {
                let offset = self.offset.as_deref().and_then(|offset| offset.parse::<i64>().ok()).filter(|o| *o >= 0);
                From::Offset(offset.ok_or_else(|| Problem::invalid("from=offset needs offset=<number>"))?)
            }
            Some("time") => {
                let at_ms = self.time_ms.filter(|at_ms| *at_ms >= 0);
                From::Time(at_ms.ok_or_else(|| Problem::invalid("from=time needs time_ms=<Unix milliseconds>"))?)
            }
            Some(_) => return Err(Problem::invalid("from is newest, oldest, offset or time")),
        })
    }

    fn matcher(&self) -> Result<Matcher, Problem> {
        if self.q.len() > TEXT_BYTES_MAX {
            return Err(Problem::invalid(format!("q has at most {TEXT_BYTES_MAX} bytes")));
        }
        let filter = match self.filter.trim() {
            "" => None,
            source => Some(Filter::compile(source).map_err(|why| filter_problem(&why))?),
        };
        Ok(Matcher { needle: Needle::new(&self.q), filter })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::messages::lane::Direction;

    fn plan(query: &str) -> Result<Plan, Problem> {
        let query = actix_web::web::Query::<Query>::from_query(query).unwrap();
        query.plan("t", From::Newest, query.limit()?)
    }

    #[test]
    fn addresses_say_where_to_begin() {
        let from = |query: &str| plan(query).unwrap().from;
        assert_eq!(from(""), From::Newest);
        assert_eq!(from("from=oldest&partition=all"), From::Oldest);
        assert_eq!(from("from=offset&offset=9223372036854775807"), From::Offset(i64::MAX));
        assert_eq!(from("from=time&time_ms=5"), From::Time(5));
        assert_eq!(from("from=newest&cursor=u0.7_"), From::Cursor(Direction::Up, [(0, 7)].into()));
        assert_eq!(plan("partition=3").unwrap().partition, Some(3));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let long = format!("q={}", "a".repeat(TEXT_BYTES_MAX + 1));
        let cases = [
            "from=x",
            "from=offset",
            "from=offset&offset=-1",
            "from=time",
            "cursor=x",
            "partition=-1",
            "partition=x",
            "limit=0",
            "limit=501",
            "filter=offset%20%3D%3D",
            "filter=value.map(x,x)",
            long.as_str(),
        ];
        for query in cases {
            assert_eq!(plan(query).unwrap_err().code, "invalid", "{query}");
        }
    }
}
