//! Volumes as folders, and where a container would see them.

use super::Context;
use super::environment::{config_map, field_value, secret};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Container, KeyToPath, Pod, ProjectedVolumeSource, ServiceAccount, Volume};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

type Files = BTreeMap<String, Vec<u8>>;

/// The folder of each volume of the pod, by the volume's name, filled with what it has now; or what is missing.
pub(super) async fn prepare(context: &Context, pod: &Pod, ip: Ipv4Addr) -> Result<BTreeMap<String, PathBuf>, String> {
    let own = context.dir.join("volumes").join(pod.uid().unwrap_or_default());
    let mut folders = BTreeMap::new();
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let folder = match &volume.persistent_volume_claim {
            // Outlives the pod, as long as the test.
            Some(claim) => context.dir.join("claims").join(&claim.claim_name),
            None => own.join(&volume.name),
        };
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        for (name, bytes) in files(context, pod, ip, volume).await? {
            write(&folder.join(name), &bytes)?;
        }
        folders.insert(volume.name.clone(), folder);
    }
    Ok(folders)
}

/// Paths in the container and the folders behind them, the longest path first.
pub(super) fn mounts(container: &Container, folders: &BTreeMap<String, PathBuf>) -> Vec<(String, String)> {
    let mut mounts: Vec<(String, String)> = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let Some(folder) = folders.get(&mount.name) else { continue };
        let folder = folder.join(mount.sub_path.as_deref().unwrap_or_default());
        mounts.push((mount.mount_path.trim_end_matches('/').to_owned(), folder.display().to_string()));
    }
    mounts.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
    mounts
}

async fn files(context: &Context, pod: &Pod, ip: Ipv4Addr, volume: &Volume) -> Result<Files, String> {
    if volume.empty_dir.is_some() || volume.persistent_volume_claim.is_some() {
        return Ok(Files::new());
    }
    if let Some(map) = &volume.config_map {
        return Ok(selected(bytes(config_map(context, &map.name, map.optional).await?), map.items.as_deref()));
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.clone().unwrap_or_default();
        return Ok(selected(secret(context, &name, source.optional).await?, source.items.as_deref()));
    }
    match &volume.projected {
        Some(projected) => projected_files(context, pod, ip, projected).await,
        None => Err(format!("volume {}: this kind is not known to the test's kubelet", volume.name)),
    }
}

async fn projected_files(
    context: &Context,
    pod: &Pod,
    ip: Ipv4Addr,
    projected: &ProjectedVolumeSource,
) -> Result<Files, String> {
    let mut all = Files::new();
    for source in projected.sources.iter().flatten() {
        if let Some(map) = &source.config_map {
            let values = bytes(config_map(context, &map.name, map.optional).await?);
            all.extend(selected(values, map.items.as_deref()));
        }
        if let Some(from) = &source.secret {
            all.extend(selected(secret(context, &from.name, from.optional).await?, from.items.as_deref()));
        }
        for item in source.downward_api.iter().flat_map(|d| d.items.iter().flatten()) {
            if let Some(field) = &item.field_ref {
                all.insert(item.path.clone(), field_value(pod, ip, field)?.into_bytes());
            }
        }
        if let Some(token) = &source.service_account_token {
            let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or("default".into());
            let spec = TokenRequestSpec {
                audiences: token.audience.clone().map(|a| vec![a]),
                expiration_seconds: token.expiration_seconds,
                ..TokenRequestSpec::default()
            };
            let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
            let accounts: Api<ServiceAccount> = Api::namespaced(context.client.clone(), &context.namespace);
            let made = accounts.create_token_request(&account, &PostParams::default(), &request).await;
            let made = made.map_err(|e| format!("token of {account}: {e}"))?.status.and_then(|s| s.token);
            all.insert(token.path.clone(), made.unwrap_or_default().into_bytes());
        }
    }
    Ok(all)
}

fn bytes(values: BTreeMap<String, String>) -> Files {
    values.into_iter().map(|(k, v)| (k, v.into_bytes())).collect()
}

/// All of `values`, or those that `items` names, at their paths.
fn selected(mut values: Files, items: Option<&[KeyToPath]>) -> Files {
    match items {
        None => values,
        Some(items) => items.iter().filter_map(|i| Some((i.path.clone(), values.remove(&i.key)?))).collect(),
    }
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), String> {
    let folder = file.parent().expect("below a volume");
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(file, bytes));
    written.map_err(|e| format!("{}: {e}", file.display()))
}
