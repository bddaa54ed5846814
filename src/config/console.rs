//! Configuration of `kafscale console`, and of the console inside `kafscale dev`: where it listens, who may sign in, and where it
//! finds the cluster.

use super::telemetry::{self, TelemetryArgs, TelemetryConfig};
use super::validate::{Check, EtcdTlsArgs, etcd_tls};
use super::{Component, Environment, EtcdTls, MetadataConfig, Report, Secret, Setting, values};
use argon2::password_hash::phc::PasswordHash;
use clap::{ArgMatches, Args};
use std::net::{IpAddr, SocketAddr};
use tracing::Level;

/// Settings that `console` and `dev` share.
#[derive(Debug, Clone, Args)]
pub struct UiArgs {
    /// Console login name of the administrator.
    #[arg(long, env = "KAFSCALE_UI_USERNAME", value_name = "NAME")]
    pub ui_username: Option<String>,
    /// Console login password of the administrator; or KAFSCALE_UI_PASSWORD_HASH.
    #[arg(long, env = "KAFSCALE_UI_PASSWORD", value_name = "SECRET", hide_env_values = true)]
    pub ui_password: Option<String>,
    /// The same as an Argon2id hash in PHC form ($argon2id$v=19$m=19456,t=2,p=1$…), instead of KAFSCALE_UI_PASSWORD.
    #[arg(long, env = "KAFSCALE_UI_PASSWORD_HASH", value_name = "SECRET", hide_env_values = true)]
    pub ui_password_hash: Option<String>,
    /// Console login name of one who may look at everything and change nothing.
    #[arg(long, env = "KAFSCALE_UI_VIEWER_USERNAME", value_name = "NAME")]
    pub ui_viewer_username: Option<String>,
    /// Password of KAFSCALE_UI_VIEWER_USERNAME; or KAFSCALE_UI_VIEWER_PASSWORD_HASH.
    #[arg(long, env = "KAFSCALE_UI_VIEWER_PASSWORD", value_name = "SECRET", hide_env_values = true)]
    pub ui_viewer_password: Option<String>,
    /// The same as an Argon2id hash in PHC form, instead of KAFSCALE_UI_VIEWER_PASSWORD.
    #[arg(long, env = "KAFSCALE_UI_VIEWER_PASSWORD_HASH", value_name = "SECRET", hide_env_values = true)]
    pub ui_viewer_password_hash: Option<String>,
    /// Whether browsers send the session only over https: true, false, or auto (true, except to localhost and 127.0.0.1).
    #[arg(long, env = "KAFSCALE_CONSOLE_COOKIE_SECURE", default_value = "auto", value_name = "CHOICE")]
    pub console_cookie_secure: String,
    /// Addresses and networks (10.0.0.0/8) of proxies whose X-Forwarded-For says who the client is, comma-separated.
    #[arg(long, env = "KAFSCALE_CONSOLE_TRUSTED_PROXIES", value_name = "LIST")]
    pub console_trusted_proxies: Option<String>,
    /// URL of Grafana, for links.
    #[arg(long, env = "KAFSCALE_CONSOLE_GRAFANA_URL", value_name = "URL")]
    pub console_grafana_url: Option<String>,
    /// URL of where traces are looked at, for links.
    #[arg(long, env = "KAFSCALE_CONSOLE_TRACES_URL", value_name = "URL")]
    pub console_traces_url: Option<String>,
}

/// Settings of `kafscale console`.
#[derive(Debug, Clone, Args)]
pub struct ConsoleArgs {
    /// Listen address of the console, its API, /metrics, /livez and /readyz (host:port; port 0 takes any free one).
    #[arg(long, env = "KAFSCALE_CONSOLE_HTTP_ADDR", default_value = "0.0.0.0:8080", value_name = "HOST:PORT")]
    pub console_http_addr: String,
    /// Etcd endpoints of the cluster, comma-separated; reading is enough.
    #[arg(long, env = "KAFSCALE_CONSOLE_ETCD_ENDPOINTS", value_name = "LIST")]
    pub console_etcd_endpoints: Option<String>,
    /// User name for etcd's basic authentication.
    #[arg(long, env = "KAFSCALE_CONSOLE_ETCD_USERNAME", value_name = "NAME")]
    pub console_etcd_username: Option<String>,
    /// Password for etcd's basic authentication.
    #[arg(long, env = "KAFSCALE_CONSOLE_ETCD_PASSWORD", value_name = "SECRET", hide_env_values = true)]
    pub console_etcd_password: Option<String>,
    /// PEM file with the certificates that sign those of etcd, trusted besides the system's; for https:// endpoints.
    #[arg(long, env = "KAFSCALE_CONSOLE_ETCD_CA_FILE", value_name = "PATH")]
    pub console_etcd_ca_file: Option<String>,
    /// PEM file with the console's certificate for etcd; goes with KAFSCALE_CONSOLE_ETCD_KEY_FILE.
    #[arg(long, env = "KAFSCALE_CONSOLE_ETCD_CERT_FILE", value_name = "PATH")]
    pub console_etcd_cert_file: Option<String>,
    /// PEM file with the private key of KAFSCALE_CONSOLE_ETCD_CERT_FILE.
    #[arg(long, env = "KAFSCALE_CONSOLE_ETCD_KEY_FILE", value_name = "PATH")]
    pub console_etcd_key_file: Option<String>,
    /// The cluster's name in etcd.
    #[arg(long, env = "KAFSCALE_S3_NAMESPACE", default_value = "default", value_name = "NAME")]
    pub s3_namespace: String,
    /// URL of the metrics of a broker, or of a Service of several, for those that do not tell theirs in etcd.
    #[arg(long, env = "KAFSCALE_CONSOLE_BROKER_METRICS_URL", value_name = "URL")]
    pub console_broker_metrics_url: Option<String>,
    /// URL of the operator's metrics, which tell of snapshots of etcd; unset: nothing is known of them.
    #[arg(long, env = "KAFSCALE_CONSOLE_OPERATOR_METRICS_URL", value_name = "URL")]
    pub console_operator_metrics_url: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub ui: UiArgs,
    /// Least severe level that is logged: trace, debug, info, warn or error.
    #[arg(long, env = "KAFSCALE_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub telemetry: TelemetryArgs,
}

/// What a password is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordConfig {
    /// The password.
    Plain(Secret),
    /// Its Argon2id hash in PHC form.
    Hash(Secret),
}

/// A login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginConfig {
    /// Name.
    pub username: String,
    /// Password.
    pub password: PasswordConfig,
}

/// Whether the session's cookie is for https only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CookieSecure {
    /// Unless the browser talks to its own machine.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// An address, or all that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// Of an address, or of one with the number of bits that count.
    pub fn parse(text: &str) -> Result<Self, String> {
        network(text)
    }

    /// True if the address is in it.
    pub fn contains(&self, other: IpAddr) -> bool {
        let shift = |width: u32| width - u32::from(self.prefix_bits);
        match (self.address, other.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(shift(32)).unwrap_or(0) == 0,
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(shift(128)).unwrap_or(0) == 0,
            _ => false,
        }
    }
}

/// Where else there is something to look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// Grafana.
    pub grafana: Option<String>,
    /// Traces.
    pub traces: Option<String>,
}

/// What the console needs wherever it runs, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UiConfig {
    /// Listener; port 0 means any free one.
    pub listen: SocketAddr,
    /// Who may do everything.
    pub admin: Option<LoginConfig>,
    /// Who may look.
    pub viewer: Option<LoginConfig>,
    /// See there.
    pub cookie_secure: CookieSecure,
    /// Proxies that are believed.
    pub trusted_proxies: Vec<Network>,
    /// Links.
    pub links: Links,
    /// Settings as the page of settings shows them, secrets redacted.
    pub shown: Vec<Setting>,
}

/// Everything `kafscale console` needs to know, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleConfig {
    /// What it is anywhere.
    pub ui: UiConfig,
    /// The cluster's etcd; without it only what [`Self::metrics_url`] shows is known.
    pub metadata: Option<MetadataConfig>,
    /// The cluster's name there.
    pub namespace: String,
    /// Metrics of brokers that do not say where theirs are.
    pub metrics_url: Option<String>,
    /// Metrics of the operator.
    pub operator_metrics_url: Option<String>,
    /// Least severe level to log.
    pub log_level: Level,
    /// Traces.
    pub telemetry: TelemetryConfig,
}

/// Checks the parsed arguments of the console and the names in `environment`.
pub fn resolve(matches: &ArgMatches, environment: &Environment) -> Report<ConsoleConfig> {
    let mut report = super::report(Component::Console, matches, environment, |check| {
        let args: ConsoleArgs = super::parsed(matches);
        let listen = check.parse("KAFSCALE_CONSOLE_HTTP_ADDR", &args.console_http_addr, values::listen_address);
        let metadata = metadata(check, &args);
        let namespace = check.parse("KAFSCALE_S3_NAMESPACE", &args.s3_namespace, values::key_part);
        let name = "KAFSCALE_CONSOLE_BROKER_METRICS_URL";
        let metrics_url = check.parse_optional(name, &args.console_broker_metrics_url, http_url);
        let name = "KAFSCALE_CONSOLE_OPERATOR_METRICS_URL";
        let operator_metrics_url = check.parse_optional(name, &args.console_operator_metrics_url, http_url);
        let ui = ui(check, &args.ui, listen.map(|(listen, _)| listen));
        let log_level = check.parse("KAFSCALE_LOG_LEVEL", &args.log_level, values::level);
        let telemetry = telemetry::checked(check, &args.telemetry);
        if args.console_etcd_endpoints.is_none() {
            check.warnings.push(
                "KAFSCALE_CONSOLE_ETCD_ENDPOINTS is not set: the console finds no brokers and no topics".to_owned(),
            );
        }
        Some(ConsoleConfig {
            ui: ui?,
            metadata: metadata?,
            namespace: namespace?,
            metrics_url: metrics_url?,
            operator_metrics_url: operator_metrics_url?,
            log_level: log_level?,
            telemetry: telemetry?,
        })
    });
    if let Ok(config) = &mut report.outcome {
        if config.ui.admin.is_none() && config.ui.viewer.is_none() {
            report.warnings.push(
                "nobody can sign in: set KAFSCALE_UI_USERNAME and KAFSCALE_UI_PASSWORD (or KAFSCALE_UI_PASSWORD_HASH)"
                    .to_owned(),
            );
        }
        config.ui.shown.clone_from(&report.settings);
    }
    report
}

fn metadata(check: &mut Check, args: &ConsoleArgs) -> Option<Option<MetadataConfig>> {
    let name = "KAFSCALE_CONSOLE_ETCD_ENDPOINTS";
    let endpoints = check.parse_optional(name, &args.console_etcd_endpoints, values::endpoints);
    let (username, password) =
        (args.console_etcd_username.clone(), args.console_etcd_password.clone().map(Secret::new));
    let (user_name, password_name) = ("KAFSCALE_CONSOLE_ETCD_USERNAME", "KAFSCALE_CONSOLE_ETCD_PASSWORD");
    check.pair((user_name, username.is_some()), (password_name, password.is_some()));
    let tls = EtcdTlsArgs {
        endpoints: (name, endpoints.as_ref().and_then(Option::as_deref)),
        ca_file: ("KAFSCALE_CONSOLE_ETCD_CA_FILE", &args.console_etcd_ca_file),
        cert_file: ("KAFSCALE_CONSOLE_ETCD_CERT_FILE", &args.console_etcd_cert_file),
        key_file: ("KAFSCALE_CONSOLE_ETCD_KEY_FILE", &args.console_etcd_key_file),
    };
    let tls: Option<EtcdTls> = etcd_tls(check, tls);
    let tls = tls?;
    Some(endpoints?.map(|endpoints| MetadataConfig::Etcd { endpoints, username, password, tls }))
}

/// Checks what `console` and `dev` share.
pub(super) fn ui(check: &mut Check, args: &UiArgs, listen: Option<SocketAddr>) -> Option<UiConfig> {
    let admin = login(
        check,
        ["KAFSCALE_UI_USERNAME", "KAFSCALE_UI_PASSWORD", "KAFSCALE_UI_PASSWORD_HASH"],
        [&args.ui_username, &args.ui_password, &args.ui_password_hash],
    );
    let viewer = login(
        check,
        ["KAFSCALE_UI_VIEWER_USERNAME", "KAFSCALE_UI_VIEWER_PASSWORD", "KAFSCALE_UI_VIEWER_PASSWORD_HASH"],
        [&args.ui_viewer_username, &args.ui_viewer_password, &args.ui_viewer_password_hash],
    );
    if let (Some(Some(admin)), Some(Some(viewer))) = (&admin, &viewer)
        && admin.username == viewer.username
    {
        check.contradiction("KAFSCALE_UI_USERNAME and KAFSCALE_UI_VIEWER_USERNAME are the same: choose two names");
    }
    let cookie_secure = check.parse("KAFSCALE_CONSOLE_COOKIE_SECURE", &args.console_cookie_secure, cookie_secure);
    let proxies = check.parse_optional("KAFSCALE_CONSOLE_TRUSTED_PROXIES", &args.console_trusted_proxies, networks);
    let grafana = check.parse_optional("KAFSCALE_CONSOLE_GRAFANA_URL", &args.console_grafana_url, values::url);
    let traces = check.parse_optional("KAFSCALE_CONSOLE_TRACES_URL", &args.console_traces_url, values::url);
    Some(UiConfig {
        listen: listen?,
        admin: admin?,
        viewer: viewer?,
        cookie_secure: cookie_secure?,
        trusted_proxies: proxies?.unwrap_or_default(),
        links: Links { grafana: grafana?, traces: traces? },
        shown: Vec::new(),
    })
}

/// A name with exactly one of password and hash, or nothing at all.
fn login(check: &mut Check, names: [&'static str; 3], values: [&Option<String>; 3]) -> Option<Option<LoginConfig>> {
    let [user_name, password_name, hash_name] = names;
    let [username, password, hash] = values;
    if password.is_some() && hash.is_some() {
        check.contradiction(format!("{password_name} and {hash_name} are both set: choose one"));
        return None;
    }
    let given = if hash.is_some() { hash_name } else { password_name };
    check.pair((user_name, username.is_some()), (given, password.is_some() || hash.is_some()));
    if let Some(hash) = hash
        && let Err(reason) = argon2id(hash)
    {
        check.contradiction(format!("{hash_name} cannot be used: {reason}"));
        return None;
    }
    let password = match (password, hash) {
        (Some(password), _) => Some(PasswordConfig::Plain(Secret::new(password.clone()))),
        (None, Some(hash)) => Some(PasswordConfig::Hash(Secret::new(hash.clone()))),
        (None, None) => None,
    };
    Some(username.clone().zip(password).map(|(username, password)| LoginConfig { username, password }))
}

/// The memory of a hash is bounded, since everybody can make the console compute it.
fn argon2id(hash: &str) -> Result<(), String> {
    const MEMORY_KIB_MAX: u32 = 64 << 10;
    const EXPECTED: &str = "expected Argon2id in PHC form, for example of `argon2 SALT -id -t 2 -k 19456 -p 1 -e`";
    let hash = PasswordHash::new(hash).map_err(|_| EXPECTED.to_owned())?;
    if hash.algorithm.as_str() != "argon2id" || hash.hash.is_none() || hash.salt.is_none() {
        return Err(EXPECTED.to_owned());
    }
    let params = argon2::Params::try_from(&hash).map_err(|_| EXPECTED.to_owned())?;
    if params.m_cost() > MEMORY_KIB_MAX || params.t_cost() > 20 || params.p_cost() > 8 {
        return Err(format!("it wants more than m={MEMORY_KIB_MAX},t=20,p=8: choose less"));
    }
    Ok(())
}

fn cookie_secure(text: &str) -> Result<CookieSecure, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(CookieSecure::Auto);
    }
    let secure = values::boolean(text).map_err(|_| "expected auto, true or false".to_owned())?;
    Ok(if secure { CookieSecure::Always } else { CookieSecure::Never })
}

fn networks(text: &str) -> Result<Vec<Network>, String> {
    text.split(',').map(|part| network(part.trim())).collect()
}

fn network(text: &str) -> Result<Network, String> {
    let expected = || format!("{text:?} is no address and no network such as 10.0.0.0/8");
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().map_err(|_| expected())?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let prefix_bits: u8 = bits.map_or(Ok(width), str::parse).map_err(|_| expected())?;
    if prefix_bits > width {
        return Err(expected());
    }
    Ok(Network { address, prefix_bits })
}

fn http_url(text: &str) -> Result<String, String> {
    let url = values::url(text)?;
    if url.starts_with("http://") { Ok(url) } else { Err("only http:// is supported".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_begins_alike() {
        let table = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
        ];
        for (network, address, contained) in table {
            let found = networks(network).unwrap()[0].contains(address.parse().unwrap());
            assert_eq!(found, contained, "{network} {address}");
        }
        for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "a", "10.0.0.0/x"] {
            assert!(networks(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_bounded_argon2id_is_taken() {
        let good = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$3J9PQWXqhHCrjN2JTmn3lzkpWb0ZB0B2bD4gZ0Z3Zs0";
        argon2id(good).unwrap();
        for (from, to) in [
            ("argon2id", "argon2i"),
            ("19456", "9999999"),
            ("t=2", "t=99"),
            ("$3J9PQWXqhHCrjN2JTmn3lzkpWb0ZB0B2bD4gZ0Z3Zs0", ""),
        ] {
            assert!(argon2id(&good.replace(from, to)).is_err(), "{from} {to}");
        }
        assert!(argon2id("secret").is_err());
    }
}
