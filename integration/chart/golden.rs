//! Everything that the chart renders for some sets of values, in files that a reviewer can read. Helm 3 and 4 render the
//! same objects.

use crate::chart::helm::{Helm, Render, documents, title};
use crate::chart::{assert_file, read};
use serde_json::Value;

/// Names of files in `values/` and `golden/`.
pub const CASES: [&str; 6] = ["defaults", "external-etcd", "everything", "cluster-scope", "namespaces", "little"];

/// A rendering with the values of that name. The definitions are left out: they are files of their own.
pub fn case(name: &str) -> Render {
    Render::new().values(&read(&format!("integration/chart/values/{name}.yaml"))).set("crds.install=false")
}

fn check(name: &str) {
    let four = case(name).text().unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_file(&format!("integration/chart/golden/{name}.yaml"), &four);
    let sorted = |text: &str| -> Vec<(String, Value)> {
        let mut objects: Vec<_> = documents(text).into_iter().map(|object| (title(&object), object)).collect();
        objects.sort_by(|(left, _), (right, _)| left.cmp(right));
        objects
    };
    let three = case(name).helm(Helm::Three).text().unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(sorted(&three), sorted(&four), "{name}: helm 3 and helm 4");
}

#[test]
fn all_cases_render_as_written_down() {
    std::thread::scope(|scope| {
        for name in CASES {
            scope.spawn(move || check(name));
        }
    });
}

#[test]
fn both_helms_find_nothing_to_complain_of() {
    for helm in Helm::BOTH {
        for name in CASES {
            let values = read(&format!("integration/chart/values/{name}.yaml"));
            let output = helm.run(&["lint", "--strict", "helm/kafscale", "--values", "-"], &values);
            let output = output.unwrap_or_else(|error| panic!("{helm:?}, {name}: {error}"));
            assert!(output.contains("1 chart(s) linted, 0 chart(s) failed"), "{helm:?}, {name}: {output}");
            assert!(!output.contains("[WARNING]"), "{helm:?}, {name}: {output}");
        }
    }
}
