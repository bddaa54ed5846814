//! The Helm chart, as Helm 3 and Helm 4 render it: what each value changes, what the schema refuses, what the pods may
//! do; and the pages, samples and rules beside it. [`helm::Render`] gives others the rendered objects.
//!
//! Rendered objects are compared with `integration/chart/golden`; after a wanted change `UPDATE_GOLDEN=1` writes those
//! files and the table of values in the chart's README again.

pub mod config;
mod console;
mod effects;
pub mod golden;
pub mod helm;
mod image;
mod operator;
mod pages;
mod pods;
mod rights;
mod rules;
pub mod samples;
mod schema;
mod shape;
mod values;

use std::path::{Path, PathBuf};

/// A file or folder of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The text of a file of the repository.
fn read(path: &str) -> String {
    let path = repository(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `text` is what the file holds; or it is written there, if that was asked for.
fn assert_file(path: &str, text: &str) {
    if std::env::var("UPDATE_GOLDEN").is_ok() {
        std::fs::write(repository(path), text).expect("the file can be written");
    }
    let expected = read(path);
    if let Some(line) = text.lines().zip(expected.lines()).position(|(new, old)| new != old) {
        let (new, old) = (text.lines().nth(line), expected.lines().nth(line));
        panic!("{path}, line {}: {new:?} instead of {old:?}; UPDATE_GOLDEN=1 writes it again", line + 1);
    }
    assert_eq!(text.lines().count(), expected.lines().count(), "{path}: lines; UPDATE_GOLDEN=1 writes it again");
}
