//! The table of what each value changes. A row says where its effect is seen; before the value is given, something
//! else has to be there.

use crate::chart::helm::{Render, find};
use crate::chart::{console, operator, values};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

pub const OPERATOR: &str = "Deployment/kafscale-operator";
pub const CONSOLE: &str = "Deployment/kafscale-console";

/// One value and one of its effects.
#[derive(Debug)]
pub struct Row {
    /// Path of the value, as in the README.
    pub value: &'static str,
    /// What else has to be set for it to matter; YAML.
    pub with: &'static str,
    /// What it is set to; YAML.
    pub set: &'static str,
    /// Title of the object.
    pub at: &'static str,
    /// A JSON pointer, or `env NAME` for a variable of the first container. An absent place is null.
    pub place: &'static str,
    /// What is there then; YAML.
    pub is: &'static str,
}

/// A row whose value needs nothing else.
pub fn row(value: &'static str, set: &'static str, at: &'static str, place: &'static str, is: &'static str) -> Row {
    Row { value, with: "", set, at, place, is }
}

fn look(manifests: &[Value], row: &Row) -> Value {
    let Some(object) = find(manifests, row.at) else { return Value::Null };
    let Some(name) = row.place.strip_prefix("env ") else {
        return object.pointer(row.place).cloned().unwrap_or(Value::Null);
    };
    let env = object.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array).expect("variables");
    let variable = env.iter().find(|variable| variable["name"] == name);
    variable.map_or(Value::Null, |v| v.get("value").or(v.pointer("/valueFrom/secretKeyRef")).cloned().expect("a value"))
}

/// `a.b: 1` for the path `a.b` and the value `1`; and with it what else has to be set.
fn values_of(row: &Row, with_set: bool) -> String {
    let mut tree = yaml(row.with);
    if with_set {
        let mut place = &mut tree;
        for key in row.value.split('.') {
            if place.is_null() {
                *place = Value::Object(serde_json::Map::new());
            }
            place = place.as_object_mut().expect("a map").entry(key).or_insert(Value::Null);
        }
        *place = yaml(row.set);
    }
    if tree.is_null() { String::new() } else { tree.to_string() } // JSON is YAML
}

fn yaml(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { serde_saphyr::from_str(text).expect("YAML") }
}

/// The definitions are large and concern few rows, so they are left out of the others.
fn render(row: &Row, with_set: bool) -> Vec<Value> {
    let render = Render::new().values(&values_of(row, with_set));
    if of_definitions(row) { render.manifests() } else { render.set("crds.install=false").manifests() }
}

fn of_definitions(row: &Row) -> bool {
    row.value.starts_with("crds.")
}

fn check(rows: &[Row]) {
    let mut before: BTreeMap<(&str, bool), Vec<Value>> = BTreeMap::new();
    for row in rows {
        let base = before.entry((row.with, of_definitions(row))).or_insert_with(|| render(row, false));
        let wanted = yaml(row.is);
        assert_ne!(look(base, row), wanted, "{row:?}: it is so without the value");
        assert_eq!(look(&render(row, true), row), wanted, "{row:?}");
    }
}

#[test]
fn values_of_the_operators_settings_have_their_effect() {
    check(&operator::settings());
}

#[test]
fn values_of_the_operators_pods_have_their_effect() {
    check(&operator::pods());
}

#[test]
fn values_of_what_is_around_the_operator_have_their_effect() {
    check(&operator::around());
}

#[test]
fn values_of_the_console_have_their_effect() {
    check(&console::settings());
}

#[test]
fn values_of_the_consoles_pods_have_their_effect() {
    check(&console::pods());
}

#[test]
fn every_value_has_a_row() {
    let tables = [operator::settings(), operator::pods(), operator::around(), console::settings(), console::pods()];
    let shown: BTreeSet<_> = tables.iter().flatten().map(|row| row.value.to_owned()).collect();
    let documented: BTreeSet<_> = values::documented().into_iter().map(|value| value.path).collect();
    assert_eq!(shown, documented);
}
