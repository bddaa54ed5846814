//! The image's recipe and the chart agree with the program: versions, user, and what the build needs.

use crate::chart::golden::case;
use crate::chart::{read, repository, values};

fn chart(key: &str) -> String {
    let file = read("helm/kafscale/Chart.yaml");
    let line = file.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": ")).expect("the key is there");
    line.trim_matches('"').to_owned()
}

#[test]
fn one_version_is_everywhere() {
    assert_eq!(chart("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(chart("appVersion"), format!("v{}", env!("CARGO_PKG_VERSION")));
    let text = case("defaults").text().expect("it renders");
    let image = format!("image: ghcr.io/kafscale/kafscale:v{}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(text.matches(&image).count(), 2, "operator and console");
    assert!(read("Makefile").contains(&format!(
        "IMAGE ?= {}",
        values::defaults()["operator"]["image"]["repository"].as_str().expect("text")
    )));
}

#[test]
fn the_image_is_built_with_the_rust_version_of_the_crate_and_does_not_run_as_root() {
    let recipe = read("Dockerfile");
    assert!(recipe.contains(&format!("ARG RUST_VERSION={}.", env!("CARGO_PKG_RUST_VERSION"))));
    let user = recipe.lines().filter_map(|line| line.strip_prefix("USER ")).next_back().expect("a user");
    assert!(
        user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)),
        "{user}: Kubernetes has to see a number"
    );
}

#[test]
fn the_build_gets_its_files_and_no_others() {
    let ignored = read(".dockerignore");
    let mut lines = ignored.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"), "nothing goes in unless it is named");
    for line in lines {
        let path = line.strip_prefix('!').expect("the others are exceptions");
        assert!(repository(path).exists(), "{path}");
    }
}
