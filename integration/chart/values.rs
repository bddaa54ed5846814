//! values.yaml and the table in the chart's README that is made from it.

use crate::chart::{assert_file, read};
use serde_json::Value;

/// A value with its documentation.
#[derive(Debug)]
pub struct Documented {
    pub path: String,
    pub default: Value,
    pub text: String,
}

/// values.yaml as Helm reads it.
pub fn defaults() -> Value {
    serde_saphyr::from_str(&read("helm/kafscale/values.yaml")).expect("YAML")
}

/// The values that have a `# --` comment, in the order of the file.
pub fn documented() -> Vec<Documented> {
    let defaults = defaults();
    let mut found = Vec::new();
    let mut text: Option<String> = None;
    let mut keys: Vec<&str> = Vec::new();
    let file = read("helm/kafscale/values.yaml");
    for line in file.lines() {
        let content = line.trim_start();
        if let Some(comment) = content.strip_prefix("# -- ") {
            text = Some(comment.to_owned());
        } else if let Some((key, _)) = content.split_once(':')
            && !content.starts_with(['#', '-'])
        {
            keys.truncate((line.len() - content.len()) / 2);
            keys.push(key);
            if let Some(text) = text.take() {
                let default = defaults.pointer(&format!("/{}", keys.join("/"))).expect("the value is there");
                found.push(Documented { path: keys.join("."), default: default.clone(), text });
            }
        }
    }
    found
}

/// Paths of everything that is no map, except what is below one of `ends`.
pub fn leaves(value: &Value, path: &str, ends: &[String], found: &mut Vec<String>) {
    match value {
        Value::Object(map) if !ends.iter().any(|end| end == path) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(value, &path, ends, found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

#[test]
fn every_value_is_documented() {
    let documented: Vec<String> = documented().into_iter().map(|value| value.path).collect();
    assert!(documented.len() > 100, "{}", documented.len());
    let mut found = Vec::new();
    leaves(&defaults(), "", &documented, &mut found);
    found.sort();
    let mut expected = documented;
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn the_readme_has_the_table_of_values() {
    let mut table = String::from("| value | default | meaning |\n| --- | --- | --- |\n");
    for value in documented() {
        table += &format!("| `{}` | `{}` | {} |\n", value.path, value.default, value.text.replace('|', "\\|"));
    }
    let readme = read("helm/kafscale/README.md");
    let (begin, end) = ("<!-- values -->\n", "<!-- end of values -->");
    let (head, rest) = readme.split_once(begin).expect("the README has a place for the table");
    let (_, tail) = rest.split_once(end).expect("and its end");
    assert_file("helm/kafscale/README.md", &format!("{head}{begin}{table}{end}{tail}"));
}
