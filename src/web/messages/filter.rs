//! Which records are shown: a text that they contain, or an expression in CEL.
//!
//! CEL has no loops but those over lists and maps that are there, no side effects and no way to reach anything but its variables.
//! The crate that evaluates it counts no steps, so the bounds are here: the length, depth and size of an expression; no loop in a
//! loop, and none that makes a list; a bounded number of concatenations; no variable longer than
//! [`VALUE_BYTES_MAX`]; and variables cease to exist when the time of the search is over, which ends a long loop soon. Searches with an
//! expression run on threads of their own, never on those that serve.
//!
//! Of the crate's two parsers the one is taken that can be told how deep to go: the other, its default, needs gigabytes for some
//! texts of a hundred bytes (cel-rust issue 306). It is no documented part of the crate, so that the crate's version is fixed.

use crate::clock::monotonic;
use cel::common::ast::{EntryExpr, Expr, operators};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::objects::{Key, Map};
use cel::parser::PrattParser;
use cel::{Context, Env, ExecutionError, IdedExpr, Value};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use tokio::time::Instant;

/// Longest expression, bytes.
pub const SOURCE_BYTES_MAX: usize = 1_024;
/// Longest value or key that an expression sees, bytes.
pub const VALUE_BYTES_MAX: usize = 64 << 10;
/// Longest text that is searched for, bytes.
pub const TEXT_BYTES_MAX: usize = 256;
/// Brackets in brackets.
const BRACKETS_MAX: u16 = 24;
/// Signs that may nest what follows them: nots, minuses, and alternatives.
const SIGNS_MAX: [(u8, usize); 3] = [(b'!', 32), (b'-', 64), (b'?', 24)];
/// Mistakes that are reported of one expression.
const MISTAKES_MAX: u32 = 3;
/// Operations in operations.
const DEPTH_MAX: usize = 48;
/// Operations of an expression.
const NODES_MAX: usize = 256;
/// Additions, each of which may make a text as long as both of its sides.
const ADDITIONS_MAX: usize = 8;
/// Longest text of an error.
const ERROR_BYTES_MAX: usize = 300;

/// What an expression may name.
pub const VARIABLES: [&str; 7] = ["key", "value", "headers", "offset", "partition", "timestamp_ms", "size"];

/// Names that stand for types, for `type(value) == map`.
const TYPES: [&str; 10] = ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// What of a record is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Unix milliseconds.
    pub timestamp_ms: i64,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    /// Names and values of headers.
    pub headers: &'a [(&'a [u8], Option<&'a [u8]>)],
    /// Key, value and headers, bytes.
    pub size: usize,
}

impl Subject<'_> {
    /// True if `text` is in the key, the value, or a header's name or value.
    pub fn contains(&self, text: &memmem::Needle) -> bool {
        let has = |bytes: Option<&[u8]>| bytes.is_some_and(|bytes| text.is_in(bytes));
        has(self.key) || has(self.value) || self.headers.iter().any(|(name, value)| has(Some(name)) || has(*value))
    }
}

/// An expression that was checked.
#[derive(Debug)]
pub struct Filter {
    expression: IdedExpr,
    names: Vec<&'static str>,
}

/// What comes of an expression for a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// True.
    Shown,
    /// False.
    Hidden,
    /// It has no value for this record; why.
    Failed(String),
}

impl Filter {
    /// Reads `source` and checks that it is cheap enough.
    pub fn compile(source: &str) -> Result<Self, String> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(format!("an expression has at most {SOURCE_BYTES_MAX} bytes"));
        }
        check_signs(source)?;
        let parser = PrattParser::new()
            .max_recursion_depth(BRACKETS_MAX)
            .max_expression_node_count(2 * NODES_MAX)
            .error_recovery_limit(MISTAKES_MAX)
            .error_reporting_limit(MISTAKES_MAX);
        let expression = parser.parse(source).map_err(|e| shorten(&e.to_string()))?;
        // Before anything else looks at it.
        Counted::default().walk(&expression, 0, false)?;
        let mut loops = Vec::new();
        collect_loop_variables(&expression, &mut loops);
        let references = expression.references();
        let is_known =
            |name: &str| VARIABLES.contains(&name) || TYPES.contains(&name) || loops.iter().any(|of| of == name);
        if let Some(unknown) = references.variables().into_iter().find(|name| !is_known(name)) {
            return Err(shorten(&format!("there is no variable {unknown:?}: there are {}", VARIABLES.join(", "))));
        }
        if let Some(name) = loops.iter().find(|name| VARIABLES.contains(&name.as_str())) {
            return Err(format!("{name} is a variable already: call the one of the loop otherwise"));
        }
        let names = VARIABLES.into_iter().filter(|name| references.has_variable(*name)).collect();
        drop(references);
        Ok(Self { expression, names })
    }

    /// Judges a record. After `deadline` variables do not exist any more.
    pub fn judge(&self, subject: &Subject<'_>, deadline: Instant) -> Verdict {
        let mut values = HashMap::with_capacity(self.names.len());
        for name in &self.names {
            let value = match variable(name, subject) {
                Ok(value) => value,
                Err(why) => return Verdict::Failed(why),
            };
            match <Box<dyn Val>>::try_from(value) {
                Ok(value) => values.insert(*name, value),
                Err(error) => return Verdict::Failed(shorten(&error.to_string())),
            };
        }
        let variables = Variables { values, deadline };
        let mut context = Context::with_env(ENV.clone());
        context.set_variable_resolver(&variables);
        match Value::resolve(&self.expression, &context) {
            Ok(Value::Bool(true)) => Verdict::Shown,
            Ok(Value::Bool(false)) => Verdict::Hidden,
            Ok(other) => Verdict::Failed(format!("the expression is of type {} and not a bool", other.type_of())),
            Err(error) => Verdict::Failed(explain(&error)),
        }
    }
}

/// What went wrong, without the values, which may be long.
fn explain(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => shorten(&format!("there is no field {key:?}")),
        ExecutionError::NoSuchOverload(error) => shorten(&error.to_string()),
        ExecutionError::UndeclaredReference(name) => shorten(&format!("there is no {name:?}, or no time was left")),
        ExecutionError::FunctionError { function, message } => shorten(&format!("{function}: {message}")),
        ExecutionError::UnexpectedType { got, want } => shorten(&format!("a {got} where a {want} is wanted")),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero".to_owned(),
        ExecutionError::Overflow(..) => "a number is too large".to_owned(),
        ExecutionError::IndexOutOfBounds(_) => "a list has no such position".to_owned(),
        _ => "these types do not go together".to_owned(),
    }
}

fn shorten(text: &str) -> String {
    text[..text.floor_char_boundary(ERROR_BYTES_MAX)].trim_end().to_owned()
}

struct Variables {
    values: HashMap<&'static str, Box<dyn Val>>,
    deadline: Instant,
}

impl VariableResolver for Variables {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let value = self.values.get(variable)?;
        (monotonic() < self.deadline).then(|| CowVal::Borrowed(value.as_ref()))
    }
}

fn variable(name: &str, subject: &Subject<'_>) -> Result<Value, String> {
    Ok(match name {
        "offset" => Value::Int(subject.offset),
        "partition" => Value::Int(i64::from(subject.partition)),
        "timestamp_ms" => Value::Int(subject.timestamp_ms),
        "size" => Value::Int(subject.size as i64),
        "key" => bytes_value("key", subject.key)?,
        "value" => bytes_value("value", subject.value)?,
        _ => headers(subject)?,
    })
}

fn bytes_value(what: &str, bytes: Option<&[u8]>) -> Result<Value, String> {
    let Some(bytes) = bytes else { return Ok(Value::Null) };
    if bytes.len() > VALUE_BYTES_MAX {
        return Err(format!("the {what} is longer than the {VALUE_BYTES_MAX} bytes that expressions see"));
    }
    if bytes.iter().find(|b| !b.is_ascii_whitespace()).is_some_and(|b| matches!(b, b'{' | b'['))
        && let Ok(json) = serde_json::from_slice(bytes)
    {
        return Ok(from_json(json));
    }
    Ok(match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(Arc::new(text.to_owned())),
        Err(_) => Value::Bytes(Arc::new(bytes.to_vec())),
    })
}

fn headers(subject: &Subject<'_>) -> Result<Value, String> {
    let bytes: usize = subject.headers.iter().map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len)).sum();
    if bytes > VALUE_BYTES_MAX {
        return Err(format!("the headers are longer than the {VALUE_BYTES_MAX} bytes that expressions see"));
    }
    let mut map = HashMap::with_capacity(subject.headers.len());
    for (name, value) in subject.headers {
        let value = match value.map(std::str::from_utf8) {
            None => Value::Null,
            Some(Ok(text)) => Value::String(Arc::new(text.to_owned())),
            Some(Err(_)) => Value::Bytes(Arc::new(value.unwrap_or_default().to_vec())),
        };
        // Of headers with the same name the last one counts.
        map.insert(Key::String(Arc::new(String::from_utf8_lossy(name).into_owned())), value);
    }
    Ok(Value::Map(Map { map: Arc::new(map) }))
}

fn from_json(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => Value::Int(int),
            (None, Some(uint)) => Value::UInt(uint),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::String(Arc::new(text)),
        serde_json::Value::Array(items) => Value::List(Arc::new(items.into_iter().map(from_json).collect())),
        serde_json::Value::Object(fields) => {
            let field = |(name, value)| (Key::String(Arc::new(name)), from_json(value));
            Value::Map(Map { map: Arc::new(fields.into_iter().map(field).collect()) })
        }
    }
}

/// Wherever they are, in a text too: nobody needs more.
fn check_signs(source: &str) -> Result<(), String> {
    for (sign, max) in SIGNS_MAX {
        if source.bytes().filter(|byte| *byte == sign).count() > max {
            return Err(format!("an expression has at most {max} times {:?}", char::from(sign)));
        }
    }
    Ok(())
}

fn children(expr: &Expr) -> Vec<&IdedExpr> {
    match expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(c) => vec![&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Select(select) => vec![&*select.operand],
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_children(&entry.expr)).collect(),
        Expr::Struct(s) => s.entries.iter().flat_map(|entry| entry_children(&entry.expr)).collect(),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    }
}

fn entry_children(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
        EntryExpr::StructField(field) => vec![&field.value],
    }
}

fn collect_loop_variables(expr: &IdedExpr, names: &mut Vec<String>) {
    if let Expr::Comprehension(of) = &expr.expr {
        names.push(of.iter_var.clone());
        names.push(of.accu_var.clone());
        names.extend(of.iter_var2.clone());
    }
    children(&expr.expr).into_iter().for_each(|child| collect_loop_variables(child, names));
}

#[derive(Debug, Default)]
struct Counted {
    nodes: usize,
    additions: usize,
}

impl Counted {
    fn walk(&mut self, expr: &IdedExpr, depth: usize, in_loop: bool) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > NODES_MAX || depth > DEPTH_MAX {
            return Err(format!("an expression has at most {NODES_MAX} operations, {DEPTH_MAX} of them in each other"));
        }
        match &expr.expr {
            Expr::Call(call) if call.func_name == operators::ADD => {
                self.additions += 1;
                if self.additions > ADDITIONS_MAX {
                    return Err(format!("an expression has at most {ADDITIONS_MAX} additions"));
                }
            }
            Expr::Comprehension(_) if in_loop => {
                return Err("all, exists and exists_one cannot be used in each other".to_owned());
            }
            Expr::Comprehension(of) if matches!(of.accu_init.expr, Expr::List(_)) => {
                return Err("map and filter are not available: use exists, all or exists_one".to_owned());
            }
            _ => {}
        }
        let is_loop = in_loop || matches!(expr.expr, Expr::Comprehension(_));
        children(&expr.expr).into_iter().try_for_each(|child| self.walk(child, depth + 1, is_loop))
    }
}

/// A text in bytes.
pub mod memmem {
    use regex::bytes::{Regex, RegexBuilder};

    /// What is searched for; case does not matter.
    #[derive(Debug, Clone)]
    pub struct Needle(Regex);

    impl Needle {
        /// `None` if there is nothing to search for.
        pub fn new(text: &str) -> Option<Self> {
            let literal = regex::escape(text);
            (!text.is_empty()).then(|| RegexBuilder::new(&literal).case_insensitive(true).build().ok().map(Self))?
        }

        /// True if the bytes contain it.
        pub fn is_in(&self, bytes: &[u8]) -> bool {
            self.0.is_match(bytes)
        }
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
