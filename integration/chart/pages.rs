//! The pages for operators: their commands render, their links lead somewhere, and they name what there is.

use crate::chart::golden::case;
use crate::chart::helm::{Helm, find};
use crate::chart::{read, repository, values};
use kafscale::operator::crd::status::ConditionType;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The operator's variables that the operations guide lists.
const GUIDE: [&str; 18] = [
    "KAFSCALE_OPERATOR_ETCD_ENDPOINTS",
    "KAFSCALE_OPERATOR_ETCD_IMAGE",
    "KAFSCALE_OPERATOR_ETCD_STORAGE_SIZE",
    "KAFSCALE_OPERATOR_ETCD_STORAGE_CLASS",
    "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_BUCKET",
    "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_PREFIX",
    "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_SCHEDULE",
    "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_ETCDCTL_IMAGE",
    "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_IMAGE",
    "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_S3_ENDPOINT",
    "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_STALE_AFTER_SEC",
    "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_CREATE_BUCKET",
    "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_PROTECT_BUCKET",
    "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_SKIP_PREFLIGHT",
    "KAFSCALE_OPERATOR_LEADER_KEY",
    "KAFSCALE_S3_NAMESPACE",
    "KAFSCALE_SEGMENT_BYTES",
    "KAFSCALE_FLUSH_INTERVAL_MS",
];

/// The guide's first installation, whose words users know.
const GUIDE_INSTALL: &str = "helm upgrade --install kafscale deploy/helm/kafscale \\
  --namespace kafscale --create-namespace \\
  --set operator.etcdEndpoints[0]=http://etcd.kafscale.svc:2379 \\
  --set operator.image.tag=v0.1.0 \\
  --set console.image.tag=v0.1.0
";

fn pages() -> Vec<String> {
    let mut pages: Vec<String> =
        ["docs/operations.md", "samples/README.md", "helm/kafscale/README.md"].map(str::to_owned).into();
    for entry in std::fs::read_dir(repository("docs/runbooks")).expect("the folder can be read") {
        let name = entry.expect("an entry").file_name();
        pages.push(format!("docs/runbooks/{}", name.to_str().expect("UTF-8")));
    }
    pages
}

/// `helm upgrade --install` commands of a page, each as its words.
fn installations(page: &str) -> Vec<Vec<String>> {
    let text = read(page).replace("\\\n", " ");
    let commands = text.lines().map(str::trim).filter(|line| line.starts_with("helm upgrade --install"));
    commands.map(|line| line.split_whitespace().map(|word| word.replace('\'', "")).collect()).collect()
}

#[test]
fn every_installation_in_the_pages_renders() {
    let mut count = 0;
    for page in pages() {
        for (index, words) in installations(&page).into_iter().enumerate() {
            count += 1;
            // What only makes sense with a release that is there is left out.
            let kept = words[3..].iter().filter(|word| *word != "--reuse-values").map(String::as_str);
            let args: Vec<_> = ["template"].into_iter().chain(kept).collect();
            let rendered = Helm::BOTH[index % 2].run(&args, "");
            assert!(rendered.is_ok_and(|text| text.contains("kind: Deployment")), "{page}: {}", words.join(" "));
        }
    }
    assert!(count >= 7, "{count} commands were found");
    assert!(read("docs/operations.md").contains(GUIDE_INSTALL));
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut count = 0;
    for page in pages() {
        let text = read(&page);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            count += 1;
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let folder = repository(&page).parent().map(Path::to_owned).expect("a folder");
            let target: PathBuf = if file.is_empty() { repository(&page) } else { folder.join(file) };
            let there = std::fs::read_to_string(&target).unwrap_or_else(|error| panic!("{page}: {link}: {error}"));
            let mut anchors = there.lines().filter(|line| line.starts_with('#')).map(anchor);
            assert!(fragment.is_empty() || anchors.any(|anchor| anchor == fragment), "{page}: {link}");
        }
    }
    assert!(count > 50, "{count} links were found");
}

#[test]
fn the_index_of_variables_is_that_of_the_guide_and_of_the_chart() {
    let page = read("docs/operations.md");
    let manifests = case("everything").manifests();
    for (component, wanted) in [("operator", &GUIDE[..]), ("console", &["KAFSCALE_CONSOLE_HTTP_ADDR"][..])] {
        let deployment = find(&manifests, &format!("Deployment/kafscale-{component}")).expect("a deployment");
        let env = deployment.pointer("/spec/template/spec/containers/0/env").expect("variables");
        let names = env.as_array().expect("a list").iter().map(|variable| variable["name"].as_str().expect("a name"));
        let names: BTreeSet<_> = names.filter(|name| name.starts_with("KAFSCALE_")).collect();
        for name in wanted {
            assert!(names.contains(name), "the chart does not set {name}");
        }
        for name in names {
            assert!(page.contains(&format!("`{name}`")), "docs/operations.md lacks {name}");
        }
    }
    for name in GUIDE.into_iter().filter(|name| !name.contains("OPERATOR")) {
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
    }
}

#[test]
fn the_index_of_variables_names_values_that_exist() {
    let known: BTreeSet<_> = values::documented().into_iter().map(|value| value.path).collect();
    let page = read("docs/operations.md");
    let mut count = 0;
    for row in page.lines().filter(|line| line.starts_with("| `KAFSCALE_OPERATOR_")) {
        let column = row.split('|').nth(2).expect("three columns");
        for value in column.split('`').skip(1).step_by(2).filter(|value| !value.starts_with('.')) {
            count += 1;
            assert!(known.contains(value), "{value}");
        }
    }
    assert!(count > 15, "{count}");
}

#[test]
fn every_condition_has_a_page() {
    use ConditionType::*;
    let index = read("docs/runbooks/README.md");
    let conditions =
        [Ready, Progressing, Degraded, EtcdAvailable, EtcdSnapshot, EtcdSnapshotAccess, S3Access, SecretsReady, Paused];
    for condition in conditions {
        let name = condition.name();
        assert!(read(&format!("docs/runbooks/{name}.md")).starts_with(&format!("# {name}\n\n**Meaning.**")), "{name}");
        assert!(index.contains(&format!("({name}.md)")), "{name}");
    }
}

#[test]
fn metrics_of_the_rules_are_explained() {
    let page = read("docs/operations.md");
    let rules = read("helm/kafscale/files/rules/operator.yaml");
    let words = rules.split(|c: char| !c.is_alphanumeric() && c != '_');
    let metrics: BTreeSet<_> = words.filter(|word| word.starts_with("kafscale_operator_")).collect();
    assert!(metrics.len() >= 4, "{metrics:?}");
    for metric in metrics {
        assert!(page.contains(&format!("| `{metric}` |")), "{metric}");
    }
}
