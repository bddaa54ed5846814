//! Names of pods and Services, for processes that resolve them as in a cluster: a file that stands where `/etc/hosts` would,
//! in a mount namespace of each process. Nothing of the machine is changed, and root is not needed.
//!
//! A pod has its name once it is bound to a node, a Service the addresses of all pods that it selects, ready or not. Names stay
//! when pods go: then nothing listens there. Who connects to a Service tries one address after the other.

use super::Context;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, ResourceExt};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Puts the file there, and becomes the program.
const SCRIPT: &str = r#"mount --bind "$0" /etc/hosts && exec "$@""#;

/// See the module's documentation.
#[derive(Debug)]
pub struct Names {
    file: PathBuf,
    written: Mutex<Vec<String>>,
}

impl Names {
    /// None are known yet. `dir` is the test's.
    pub fn new(dir: &Path) -> Self {
        let file = dir.join("hosts");
        std::fs::write(&file, "127.0.0.1 localhost\n").expect("the test's folder can be written");
        let names = Self { file, written: Mutex::default() };
        let (program, args) = names.wrap(Path::new("cat"), &["/etc/hosts".to_owned()]);
        let shown = Command::new(program).args(args).output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
        assert_eq!(
            shown.unwrap_or_default(),
            "127.0.0.1 localhost\n",
            "this test needs mount namespaces for its processes, to give them names of pods: let `unshare -rm mount --bind A B` work here"
        );
        names
    }

    /// What to run so that `program` resolves the names.
    pub fn wrap(&self, program: &Path, args: &[String]) -> (PathBuf, Vec<String>) {
        let own = ["-rm", "sh", "-c", SCRIPT].map(str::to_owned);
        let files = [&self.file, program].map(|path| path.display().to_string());
        ("/usr/bin/unshare".into(), [own.as_slice(), &files, args].concat())
    }

    /// The pod gets its name, and Services that select it its address.
    pub(super) async fn publish(&self, context: &Context, pod: &Pod, ip: Ipv4Addr) -> Result<(), String> {
        let services: Api<Service> = Api::namespaced(context.client.clone(), &context.namespace);
        let list = services.list(&kube::api::ListParams::default()).await.map_err(|e| format!("services: {e}"))?;
        let mut names = Vec::new();
        let spec = pod.spec.clone().unwrap_or_default();
        if let Some(domain) = spec.subdomain {
            names.push(format!("{}.{domain}", spec.hostname.unwrap_or_else(|| pod.name_any())));
        }
        let selects = |service: &&Service| {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            selector.is_some_and(|all| !all.is_empty() && all.iter().all(|(k, v)| pod.labels().get(k) == Some(v)))
        };
        names.extend(list.items.iter().filter(selects).map(ResourceExt::name_any));
        let line = |name: &String| format!("{ip} {name}.{0}.svc {name}.{0}.svc.cluster.local\n", context.namespace);
        let mut written = self.written.lock().expect("names");
        for line in names.iter().map(line) {
            if written.contains(&line) {
                continue;
            }
            // At the end and in one go: somebody may be reading.
            let file = std::fs::File::options().append(true).open(&self.file);
            file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(|e| format!("hosts: {e}"))?;
            written.push(line);
        }
        Ok(())
    }
}
