//! Makes Rust of `proto/`, with the `protoc` that etcd's client needs too, and puts the console's pages into the program.

use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() -> Result<(), std::io::Error> {
    embed_console()?;
    tonic_prost_build::configure().compile_protos(&["proto/kafscale/control/v1/control.proto"], &["proto"])
}

/// A list of all files below `src/web/assets`, by their paths there.
fn embed_console() -> Result<(), std::io::Error> {
    let root = PathBuf::from(env("CARGO_MANIFEST_DIR")).join("src/web/assets");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    if root.is_dir() {
        walk(&root, &mut files)?;
    }
    files.sort();
    let mut list = String::from("&[\n");
    for file in &files {
        println!("cargo::rerun-if-changed={}", file.display());
        let name = file.strip_prefix(&root).expect("it was found there").display().to_string();
        let path = file.display().to_string();
        writeln!(list, "    ({name:?}, include_bytes!({path:?})),").expect("writing to a string");
    }
    list.push_str("]\n");
    std::fs::write(PathBuf::from(env("OUT_DIR")).join("console_assets.rs"), list)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), std::io::Error> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        match path.is_dir() {
            _ if hidden => {}
            true => walk(&path, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}

#[allow(clippy::disallowed_methods)] // a build script is told by its environment
fn env(name: &str) -> String {
    std::env::var(name).expect("cargo sets it")
}
