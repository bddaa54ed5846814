//! What `kafscale dev` has beside the broker: the console in the same process, and the words that say where everything is.

use super::{Node, NodeError};
use crate::config::console::{LoginConfig, PasswordConfig, UiConfig};
use crate::config::{MetadataConfig, NodeConfig, Secret};
use crate::web::{self, ConsoleHandle, Parts};
use std::net::TcpListener;

/// Who signs in if nobody is configured.
const USERNAME: &str = "admin";
/// Letters and digits that are not mistaken for each other.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
const PASSWORD_CHARS: usize = 20;

/// A console whose address is taken, not started yet.
pub(super) struct Console {
    config: UiConfig,
    listener: TcpListener,
    /// The password that was made because none is set.
    password: Option<String>,
}

/// A console that serves.
pub(super) struct Running {
    handle: ConsoleHandle,
    password: Option<String>,
}

impl Console {
    pub(super) fn bind(mut config: UiConfig) -> Result<Self, NodeError> {
        let listener = web::bind(config.listen).map_err(|e| NodeError::resource(e.to_string()))?;
        let password = (config.admin.is_none() && config.viewer.is_none()).then(one_time_password);
        if let Some(password) = &password {
            let password = PasswordConfig::Plain(Secret::new(password.clone()));
            config.admin = Some(LoginConfig { username: USERNAME.to_owned(), password });
        }
        Ok(Self { config, listener, password })
    }

    pub(super) fn start(self, node: &Node) -> Result<Running, NodeError> {
        let parts = Parts::beside(self.config, node);
        let handle = web::spawn(self.listener, parts).map_err(|e| NodeError::resource(e.to_string()))?;
        Ok(Running { handle, password: self.password })
    }
}

impl Running {
    pub(super) fn stop(self) {
        self.handle.stop();
    }
}

fn one_time_password() -> String {
    crate::rng::secret().iter().take(PASSWORD_CHARS).map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
}

/// Where the data is, for people.
pub(super) fn data_folder(config: &NodeConfig) -> String {
    match &config.metadata {
        MetadataConfig::Embedded { path } => path.parent().unwrap_or(path).display().to_string(),
        MetadataConfig::Etcd { endpoints, .. } => endpoints.join(","),
    }
}

pub(super) fn announce(node: &Node, data: &str, console: Option<&Running>) {
    let (bound, metrics) = (node.addr(), node.metrics_addr());
    let console = console.map_or_else(String::new, |console| {
        let login = match &console.password {
            Some(password) => format!("sign in as {USERNAME} with {password} (until the next start)"),
            None => "sign in as KAFSCALE_UI_USERNAME".to_owned(),
        };
        format!("  Console   http://{}  {login}\n", console.handle.addr())
    });
    println!(
        "\nKafscale is running.\n  Kafka     {bound}\n{console}  Metrics   http://{metrics}/metrics\n  Data      {data}\n\nTry it:\n  \
         echo 'hello' | kcat -b {bound} -t greetings -P\n  kcat -b {bound} -t greetings -C -e\n  kcat -b {bound} -L\n"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_of_a_hundred_bits() {
        let (one, other) = (one_time_password(), one_time_password());
        assert_eq!(one.len(), PASSWORD_CHARS);
        assert_ne!(one, other);
    }
}
