//! The variables of a container, from all the places they can come from.

use super::{Context, Image};
use k8s_openapi::api::core::v1::ResourceFieldSelector;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, ObjectFieldSelector, Pod, Secret, Service};
use kube::{Api, ResourceExt};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Variables by name.
pub type Environment = BTreeMap<String, String>;

/// All variables of `container`, before texts are replaced; or what is missing.
pub(super) async fn resolve(
    context: &Context,
    pod: &Pod,
    ip: Ipv4Addr,
    container: &Container,
    image: &Image,
) -> Result<Environment, String> {
    let mut found = Environment::new();
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    service_links(context, links, &mut found).await?;
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.clone().unwrap_or_default();
        let mut values = BTreeMap::new();
        if let Some(map) = &source.config_map_ref {
            values.extend(config_map(context, &map.name, map.optional).await?);
        }
        if let Some(secret) = &source.secret_ref {
            values.extend(secret_text(context, &secret.name, secret.optional).await?);
        }
        found.extend(values.into_iter().map(|(k, v)| (format!("{prefix}{k}"), v)));
    }
    for env in container.env.iter().flatten() {
        let value = match (&env.value, &env.value_from) {
            (Some(value), _) => Some(expand(value, &found)),
            (None, Some(source)) => value_from(context, pod, ip, container, source).await?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            found.insert(env.name.clone(), value);
        }
    }
    for (name, value) in &image.envs {
        let value = value.replace("$(POD_IP)", &ip.to_string());
        found.entry(name.clone()).or_insert(value);
    }
    Ok(found)
}

/// Puts values for `$(NAME)`, and `$` for `$$`; a name that is not set stays as it is written.
pub fn expand(text: &str, variables: &Environment) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match variables.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}

/// What a kubelet tells every pod about the API server, and, unless the pod does not want to know, about the services beside it.
async fn service_links(context: &Context, beside: bool, into: &mut Environment) -> Result<(), String> {
    let list = async |namespace: &str| {
        let services: Api<Service> = Api::namespaced(context.client.clone(), namespace);
        services.list(&kube::api::ListParams::default()).await.map_err(|e| format!("services: {e}"))
    };
    let kubernetes = list("default").await?.items.into_iter().filter(|s| s.name_any() == "kubernetes");
    let others = if beside { list(&context.namespace).await?.items } else { Vec::new() };
    for service in kubernetes.chain(others) {
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { continue };
        let name = service.name_any().to_uppercase().replace('-', "_");
        into.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
        for (n, port) in spec.ports.iter().flatten().enumerate() {
            let (number, protocol) = (port.port, port.protocol.as_deref().unwrap_or("TCP"));
            let url = format!("{}://{ip}:{number}", protocol.to_lowercase());
            if n == 0 {
                into.insert(format!("{name}_SERVICE_PORT"), number.to_string());
                into.insert(format!("{name}_PORT"), url.clone());
            }
            if let Some(port_name) = &port.name {
                let port_name = port_name.to_uppercase().replace('-', "_");
                into.insert(format!("{name}_SERVICE_PORT_{port_name}"), number.to_string());
            }
            let prefix = format!("{name}_PORT_{number}_{protocol}");
            into.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
            into.insert(format!("{prefix}_PORT"), number.to_string());
            into.insert(format!("{prefix}_ADDR"), ip.to_owned());
            into.insert(prefix, url);
        }
    }
    Ok(())
}

/// A config map's values; none if it is not there and need not be.
pub(super) async fn config_map(
    context: &Context,
    name: &str,
    optional: Option<bool>,
) -> Result<BTreeMap<String, String>, String> {
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.namespace);
    match maps.get_opt(name).await.map_err(|e| format!("configmap {name}: {e}"))? {
        Some(map) => Ok(map.data.unwrap_or_default()),
        None if optional == Some(true) => Ok(BTreeMap::new()),
        None => Err(format!("configmap \"{name}\" not found")),
    }
}

/// The same of a secret, as bytes.
pub(super) async fn secret(
    context: &Context,
    name: &str,
    optional: Option<bool>,
) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &context.namespace);
    match secrets.get_opt(name).await.map_err(|e| format!("secret {name}: {e}"))? {
        Some(secret) => Ok(secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect()),
        None if optional == Some(true) => Ok(BTreeMap::new()),
        None => Err(format!("secret \"{name}\" not found")),
    }
}

async fn secret_text(
    context: &Context,
    name: &str,
    optional: Option<bool>,
) -> Result<BTreeMap<String, String>, String> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(secret(context, name, optional).await?.into_iter().map(|(k, v)| (k, text(v))).collect())
}

async fn value_from(
    context: &Context,
    pod: &Pod,
    ip: Ipv4Addr,
    container: &Container,
    source: &EnvVarSource,
) -> Result<Option<String>, String> {
    if let Some(field) = &source.field_ref {
        return field_value(pod, ip, field).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_value(pod, container, resource).map(Some);
    }
    let (values, what, key, optional) = if let Some(key) = &source.config_map_key_ref {
        (config_map(context, &key.name, key.optional).await?, format!("ConfigMap {}", key.name), &key.key, key.optional)
    } else if let Some(key) = &source.secret_key_ref {
        (secret_text(context, &key.name, key.optional).await?, format!("Secret {}", key.name), &key.key, key.optional)
    } else {
        return Err("this kind of valueFrom is not known to the test's kubelet".to_owned());
    };
    match values.get(key) {
        Some(value) => Ok(Some(value.clone())),
        None if optional == Some(true) => Ok(None),
        None => Err(format!("couldn't find key {key} in {what}")),
    }
}

/// A field of the pod.
pub(super) fn field_value(pod: &Pod, ip: Ipv4Addr, field: &ObjectFieldSelector) -> Result<String, String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let keyed = |map: &BTreeMap<String, String>, path: &str| {
        let key = path.split_once("['").and_then(|(_, rest)| rest.strip_suffix("']"));
        key.map(|key| map.get(key).cloned().unwrap_or_default())
    };
    let value = match field.field_path.as_str() {
        "metadata.name" => Some(pod.name_any()),
        "metadata.namespace" => pod.namespace(),
        "metadata.uid" => pod.uid(),
        "spec.nodeName" => spec.node_name,
        "spec.serviceAccountName" => spec.service_account_name,
        "status.podIP" | "status.podIPs" => Some(ip.to_string()),
        "status.hostIP" | "status.hostIPs" => Some(Ipv4Addr::LOCALHOST.to_string()),
        path if path.starts_with("metadata.labels[") => keyed(pod.labels(), path),
        path if path.starts_with("metadata.annotations[") => keyed(pod.annotations(), path),
        _ => None,
    };
    value.ok_or_else(|| format!("field {} cannot be resolved", field.field_path))
}

/// A limit or request of the container, in units of the divisor, rounded up. Without a limit it is what the node has.
fn resource_value(pod: &Pod, container: &Container, field: &ResourceFieldSelector) -> Result<String, String> {
    let mut containers = pod.spec.iter().flat_map(|s| &s.containers);
    let named = containers.rfind(|c| Some(&c.name) == field.container_name.as_ref());
    let resources = named.unwrap_or(container).resources.clone().unwrap_or_default();
    let (kind, name) = field.resource.split_once('.').ok_or_else(|| format!("resource {}", field.resource))?;
    let values = if kind == "limits" { resources.limits } else { resources.requests };
    let quantity = values.unwrap_or_default().get(name).map(|q| q.0.clone());
    let node = if name == "cpu" { "64" } else { "256Gi" };
    let divisor = field.divisor.as_ref().map(|d| d.0.as_str()).filter(|d| *d != "0").unwrap_or("1");
    let value = number(quantity.as_deref().unwrap_or(node))? / number(divisor)?;
    Ok(format!("{}", value.ceil() as u64))
}

fn number(quantity: &str) -> Result<f64, String> {
    let at = quantity.find(|c: char| c.is_alphabetic()).unwrap_or(quantity.len());
    let (digits, unit) = quantity.split_at(at);
    let powers = [("", 1.0), ("m", 1e-3), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)];
    let binary = ["Ki", "Mi", "Gi", "Ti"].iter().zip(1..).map(|(unit, n)| (*unit, 1024f64.powi(n)));
    let factor = powers.into_iter().chain(binary).find(|(name, _)| *name == unit);
    match (digits.parse::<f64>(), factor) {
        (Ok(digits), Some((_, factor))) => Ok(digits * factor),
        _ => Err(format!("quantity {quantity}")),
    }
}

#[test]
fn variables_expand_as_in_a_pod() {
    let variables = Environment::from([("A".to_owned(), "1".to_owned())]);
    for (text, expected) in
        [("$(A)", "1"), ("x$(A)y$(A)", "x1y1"), ("$$(A)", "$(A)"), ("$(B)", "$(B)"), ("$A $( $", "$A $( $"), ("", "")]
    {
        assert_eq!(expand(text, &variables), expected, "{text}");
    }
}

#[test]
fn quantities_are_numbers() {
    for (quantity, expected) in [("500m", 0.5), ("2", 2.0), ("1.5Gi", 1.5 * 1_073_741_824.0), ("3k", 3e3)] {
        assert_eq!(number(quantity), Ok(expected), "{quantity}");
    }
    assert!(number("3 apples").is_err() && number("").is_err());
}
