//! From text to typed values: one function per kind of value, each says what it expected.

use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;

/// A whole number inside `range`.
pub fn number(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let expected = || format!("expected a whole number from {} to {}", range.start(), range.end());
    let value: u64 = text.parse().map_err(|_| service_link_hint(text).unwrap_or_else(expected))?;
    if range.contains(&value) { Ok(value) } else { Err(expected()) }
}

/// A share of a whole, 0 to 1.
pub fn share(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value: &f64| (0.0..=1.0).contains(value));
    value.ok_or_else(|| "expected a number from 0 to 1, for example 0.25 for a quarter".to_owned())
}

/// A truth value.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err("expected true or false (also 1, 0, yes, no)".to_owned()),
    }
}

/// `host:port` to listen on, and the host as written; an empty host means all interfaces.
pub fn listen_address(text: &str) -> Result<(SocketAddr, String), String> {
    let expected = "expected host:port, for example 0.0.0.0:9092";
    let (host, port) = text.rsplit_once(':').ok_or(expected)?;
    let port: u16 = port.parse().map_err(|_| service_link_hint(text).unwrap_or_else(|| expected.to_owned()))?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let bare = if bare.is_empty() { "0.0.0.0" } else { bare };
    let mut addresses = (bare, port).to_socket_addrs().map_err(|e| format!("cannot resolve the host: {e}"))?;
    let address = addresses.next().ok_or("the host has no address")?;
    Ok((address, bare.to_owned()))
}

/// An address to listen on, or nothing if it says `off`.
pub fn listen_address_or_off(text: &str) -> Result<Option<(SocketAddr, String)>, String> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    listen_address(text).map(Some).map_err(|reason| format!("{reason}, or off"))
}

/// A host name or address that clients can be told.
pub fn host(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if text.len() <= 255 && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err("expected a host name or an IP address, without port".to_owned())
    }
}

/// A name that is safe as a part of an object key and of a metadata key.
pub fn key_part(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if text.len() <= 128 && text.chars().all(legal) && text.chars().any(|c| c != '.') {
        Ok(text.to_owned())
    } else {
        Err("expected up to 128 letters, digits, '.', '_' or '-', and not only dots".to_owned())
    }
}

/// A bucket name, or an ARN that stands for one.
pub fn bucket(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_name = (3..=255).contains(&text.len()) && text.chars().all(legal);
    if is_name || arn(text).is_ok() {
        Ok(text.to_owned())
    } else {
        Err("expected a bucket name (3 or more letters, digits, '.', '-') without s3:// or path".to_owned())
    }
}

/// A region's name.
pub fn region(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if text.len() <= 64 && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err("expected a region such as us-east-1".to_owned())
    }
}

/// An Amazon resource name.
pub fn arn(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_graphic();
    if text.starts_with("arn:") && text.split(':').count() >= 6 && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err("expected an ARN such as arn:aws:kms:us-east-1:111122223333:key/…".to_owned())
    }
}

/// An `http://` or `https://` URL of a server, without credentials, query or fragment.
pub fn url(text: &str) -> Result<String, String> {
    let uri: actix_web::http::Uri =
        text.parse().map_err(|e| format!("expected a URL such as http://host:port: {e}"))?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    if !is_http || uri.host().is_none_or(str::is_empty) {
        return Err("expected http://host:port or https://host:port".to_owned());
    }
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err("must not contain credentials; there are variables for them".to_owned());
    }
    if uri.query().is_some() { Err("must not have a query".to_owned()) } else { Ok(text.to_owned()) }
}

/// Comma-separated etcd endpoints.
pub fn endpoints(text: &str) -> Result<Vec<String>, String> {
    let mut endpoints = Vec::new();
    for part in text.split(',').map(str::trim) {
        let with_scheme = if part.contains("://") { part.to_owned() } else { format!("http://{part}") };
        let uri: Option<actix_web::http::Uri> = with_scheme.parse().ok();
        let has_port = uri.as_ref().is_some_and(|u| u.port_u16().is_some());
        let has_path = uri.as_ref().is_some_and(|u| !matches!(u.path(), "" | "/"));
        match url(&with_scheme) {
            Ok(_) if !has_port => return Err(format!("endpoint {part:?} has no port")),
            Ok(_) if has_path => return Err(format!("endpoint {part:?} has a path")),
            Ok(endpoint) => endpoints.push(endpoint),
            Err(_) if part.contains('@') => {
                return Err("an endpoint contains credentials; set KAFSCALE_ETCD_USERNAME".into());
            }
            Err(reason) => return Err(format!("endpoint {part:?}: {reason}")),
        }
    }
    Ok(endpoints)
}

/// A log level.
pub fn level(text: &str) -> Result<tracing::Level, String> {
    match text.to_ascii_lowercase().as_str() {
        "trace" => Ok(tracing::Level::TRACE),
        "debug" => Ok(tracing::Level::DEBUG),
        "info" => Ok(tracing::Level::INFO),
        "warn" => Ok(tracing::Level::WARN),
        "error" => Ok(tracing::Level::ERROR),
        _ => Err("expected trace, debug, info, warn or error".to_owned()),
    }
}

/// The machine's host name.
pub fn machine_name() -> Result<String, String> {
    let read = |path: &str| std::fs::read_to_string(path).ok().map(|s| s.trim().to_owned()).filter(|s| !s.is_empty());
    let name = read("/proc/sys/kernel/hostname").or_else(|| read("/etc/hostname"));
    name.ok_or_else(|| "the machine's host name cannot be read".to_owned()).and_then(|name| host(&name))
}

/// Kubernetes gives pods variables for every service of the namespace; a service called `kafscale-broker` makes
/// `KAFSCALE_BROKER_PORT=tcp://10.0.0.7:9092`. Such a value is nothing a person wrote: say where it comes from.
fn service_link_hint(text: &str) -> Option<String> {
    let is_link = text.starts_with("tcp://") || text.starts_with("udp://");
    is_link.then(|| {
        "this is a Kubernetes service link, not a setting: set enableServiceLinks: false in the pod, or set the variable \
         explicitly"
            .to_owned()
    })
}

/// A quantity of Kubernetes, such as 10Gi.
pub fn quantity(text: &str) -> Result<String, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[number.len()..];
    let known = matches!(unit, "" | "k" | "M" | "G" | "T" | "Ki" | "Mi" | "Gi" | "Ti");
    if known && number.parse::<f64>().is_ok_and(|n| n > 0.0 && n.is_finite()) {
        Ok(text.to_owned())
    } else {
        Err("expected a quantity such as 10Gi".to_owned())
    }
}

/// A prefix of object keys; slashes at its ends are dropped.
pub fn object_prefix(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    let prefix = text.trim_matches('/');
    if !prefix.is_empty() && prefix.len() <= 256 && prefix.chars().all(legal) && !prefix.contains("//") {
        Ok(prefix.to_owned())
    } else {
        Err("expected up to 256 letters, digits, '.', '_', '-' and single '/', for example etcd-snapshots".to_owned())
    }
}

/// Cron's five fields, or a word such as @hourly; what is inside of a field is Kubernetes' to judge.
pub fn cron(text: &str) -> Result<String, String> {
    let words = ["@hourly", "@daily", "@weekly", "@monthly", "@yearly", "@annually", "@midnight"];
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '*' | '/' | ',' | '-' | '?');
    let fields = text.split_ascii_whitespace();
    if words.contains(&text) || (fields.clone().count() == 5 && fields.flat_map(str::chars).all(legal)) {
        Ok(text.to_owned())
    } else {
        Err("expected cron's five fields, for example '0 * * * *' for every hour".to_owned())
    }
}

/// A name as Kubernetes gives to namespaces and Leases.
pub fn kubernetes_name(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ends = text.starts_with('-') || text.ends_with('-');
    if !text.is_empty() && text.len() <= 63 && text.chars().all(legal) && !ends {
        Ok(text.to_owned())
    } else {
        Err("expected up to 63 small letters, digits and '-', as in names of Kubernetes".to_owned())
    }
}

/// When nodes pull an image.
pub fn pull_policy(text: &str) -> Result<String, String> {
    match text {
        "Always" | "IfNotPresent" | "Never" => Ok(text.to_owned()),
        _ => Err("expected Always, IfNotPresent or Never".to_owned()),
    }
}
