//! Compares answers with the API's own description: as much of JSON Schema as that uses, and nothing else is taken.

use super::browser::Browser;
use serde_json::Value;

/// A description of an API.
pub struct Schemas(Value);

impl Schemas {
    /// The one that the console serves.
    pub async fn of(browser: &Browser) -> Self {
        Self(browser.api("/openapi.json").await)
    }

    /// GETs a path; the answer is what the description says. `described` is the path there.
    pub async fn get(&self, browser: &Browser, path: &str, described: &str) -> Value {
        let answer = browser.api(path).await;
        self.check(described, "get", "200", &answer);
        answer
    }

    /// The answer of a status is what the description says.
    pub fn check(&self, path: &str, method: &str, status: &str, answer: &Value) {
        let content = &self.0["paths"][path][method]["responses"][status]["content"];
        let schema = &content["application/json"]["schema"];
        assert!(schema.is_object(), "{method} {path} {status} is not described");
        self.matches(schema, answer).unwrap_or_else(|e| panic!("{method} {path}: {e}\n{answer:#}"));
    }

    /// A problem is what the description says.
    pub fn check_problem(&self, answer: &Value) {
        let schema = &self.0["components"]["schemas"]["Problem"];
        self.matches(schema, answer).unwrap_or_else(|e| panic!("{e}\n{answer:#}"));
    }

    fn matches(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let Value::Object(rules) = schema else { return Err(format!("{schema} is no schema")) };
        for (rule, want) in rules {
            let fits = match rule.as_str() {
                "description" => Ok(()),
                "$ref" => {
                    let place = want.as_str().and_then(|r| r.strip_prefix('#')).ok_or("a reference")?;
                    self.matches(self.0.pointer(place).ok_or_else(|| format!("{place} is not there"))?, value)
                }
                "oneOf" => {
                    let fitting =
                        want.as_array().into_iter().flatten().filter(|s| self.matches(s, value).is_ok()).count();
                    (fitting == 1).then_some(()).ok_or_else(|| format!("{fitting} of {want} fit"))
                }
                "type" => is_of(want, value),
                "enum" => {
                    let has = want.as_array().is_some_and(|words| words.contains(value));
                    has.then_some(()).ok_or_else(|| format!("it is none of {want}"))
                }
                "pattern" => match (want.as_str(), value) {
                    (Some("^[0-9]+$"), Value::String(text)) => {
                        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                        digits.then_some(()).ok_or_else(|| format!("{text:?} is no number"))
                    }
                    (Some("^[0-9]+$"), _) => Ok(()),
                    _ => Err(format!("the pattern {want} is not known here")),
                },
                "items" => value
                    .as_array()
                    .into_iter()
                    .flatten()
                    .enumerate()
                    .try_for_each(|(n, item)| self.matches(want, item).map_err(|e| format!("[{n}]: {e}"))),
                "minItems" => at(value, |len| Some(len) >= want.as_u64()),
                "maxItems" => at(value, |len| Some(len) <= want.as_u64()),
                "required" => want.as_array().into_iter().flatten().try_for_each(|name| {
                    let is_there =
                        value.as_object().is_none_or(|fields| fields.contains_key(name.as_str().unwrap_or("")));
                    is_there.then_some(()).ok_or_else(|| format!("{name} is missing"))
                }),
                "properties" => want.as_object().into_iter().flatten().try_for_each(|(name, schema)| {
                    let field = value.get(name);
                    field.map_or(Ok(()), |field| self.matches(schema, field).map_err(|e| format!("{name}: {e}")))
                }),
                "additionalProperties" => value.as_object().into_iter().flatten().try_for_each(|(name, field)| {
                    let is_known = rules.get("properties").is_some_and(|properties| properties.get(name).is_some());
                    match want {
                        _ if is_known => Ok(()),
                        Value::Bool(true) => Ok(()),
                        Value::Bool(false) => Err(format!("{name} is not described")),
                        schema => self.matches(schema, field).map_err(|e| format!("{name}: {e}")),
                    }
                }),
                other => Err(format!("the rule {other} is not known here")),
            };
            fits?;
        }
        Ok(())
    }
}

fn at(value: &Value, fits: impl Fn(u64) -> bool) -> Result<(), String> {
    let fits = value.as_array().is_none_or(|items| fits(items.len() as u64));
    fits.then_some(()).ok_or_else(|| "too many or too few".to_owned())
}

fn is_of(kind: &Value, value: &Value) -> Result<(), String> {
    let is = |kind: &str| match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    let fits = match kind {
        Value::String(kind) => is(kind),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).any(is),
        _ => false,
    };
    fits.then_some(()).ok_or_else(|| format!("{value} is no {kind}"))
}

#[test]
fn a_wrong_answer_is_noticed() {
    let schemas = Schemas(
        serde_json::json!({ "components": { "schemas": { "N": { "type": "string", "pattern": "^[0-9]+$" } } } }),
    );
    let schema = serde_json::json!({
        "type": "object",
        "required": ["a"],
        "additionalProperties": false,
        "properties": { "a": { "oneOf": [{ "$ref": "#/components/schemas/N" }, { "type": "null" }] }, "b": { "type": "array", "items": { "enum": ["x"] } } },
    });
    let fits = |value| schemas.matches(&schema, &value).is_ok();
    assert!(fits(serde_json::json!({ "a": "12", "b": ["x"] })) && fits(serde_json::json!({ "a": null })));
    for wrong in [
        serde_json::json!({}),
        serde_json::json!([]),
        serde_json::json!({ "a": 12 }),
        serde_json::json!({ "a": "x" }),
        serde_json::json!({ "a": null, "c": 1 }),
        serde_json::json!({ "a": null, "b": ["y"] }),
    ] {
        assert!(!fits(wrong.clone()), "{wrong}");
    }
}
