//! Compares what somebody typed with what is configured, in a time that tells nothing.

use super::sessions::Role;
use crate::config::console::{LoginConfig, PasswordConfig, UiConfig};
use argon2::Argon2;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// Longest name and password that are looked at, bytes.
pub const INPUT_BYTES_MAX: usize = 1_024;

/// Who may sign in.
#[derive(Debug)]
pub struct Logins {
    logins: Vec<(LoginConfig, Role)>,
}

impl Logins {
    /// Those of the configuration.
    pub fn new(config: &UiConfig) -> Self {
        let admin = config.admin.clone().map(|login| (login, Role::Admin));
        let viewer = config.viewer.clone().map(|login| (login, Role::Viewer));
        Self { logins: admin.into_iter().chain(viewer).collect() }
    }

    /// True if anybody may.
    pub fn is_configured(&self) -> bool {
        !self.logins.is_empty()
    }

    /// True if somebody may look who may not change anything.
    pub fn has_viewer(&self) -> bool {
        self.logins.iter().any(|(_, role)| *role == Role::Viewer)
    }

    /// True if there is one of this name.
    pub fn knows(&self, username: &str) -> bool {
        self.logins.iter().any(|(login, _)| login.username == username)
    }

    /// The role of who gives this name and password. Always as much work, whoever it is; with hashes that is tens of
    /// milliseconds of computing: not for a thread that serves.
    pub fn verify(&self, username: &str, password: &str) -> Option<Role> {
        let mut found = None;
        for (login, role) in &self.logins {
            let same = equal(&login.username, username) & matches(&login.password, password);
            if bool::from(same) {
                found = Some(*role);
            }
        }
        found
    }
}

/// Compares digests, so that neither length nor the first difference shows in the time.
fn equal(a: &str, b: &str) -> Choice {
    Sha256::digest(a.as_bytes()).as_slice().ct_eq(Sha256::digest(b.as_bytes()).as_slice())
}

fn matches(config: &PasswordConfig, password: &str) -> Choice {
    match config {
        PasswordConfig::Plain(secret) => equal(secret.expose(), password),
        PasswordConfig::Hash(hash) => {
            let hash = PasswordHash::new(hash.expose()).expect("the configuration was checked");
            let right = Argon2::default().verify_password(password.as_bytes(), &hash).is_ok();
            Choice::from(u8::from(right))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::config::console::CookieSecure;

    fn hashed(password: &str) -> PasswordConfig {
        use base64::Engine;
        use base64::engine::general_purpose::STANDARD_NO_PAD;
        let params = argon2::Params::new(1_024, 2, 1, Some(32)).unwrap();
        let (salt, mut out) = (b"somesaltsomesalt", [0; 32]);
        let hasher = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        hasher.hash_password_into(password.as_bytes(), salt, &mut out).unwrap();
        let (salt, out) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(out));
        PasswordConfig::Hash(Secret::new(format!("$argon2id$v=19$m=1024,t=2,p=1${salt}${out}")))
    }

    fn logins(admin: PasswordConfig) -> Logins {
        let login = |name: &str, password| Some(LoginConfig { username: name.to_owned(), password });
        Logins::new(&UiConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            admin: login("ann", admin),
            viewer: login("vic", PasswordConfig::Plain(Secret::new("looking"))),
            cookie_secure: CookieSecure::Auto,
            trusted_proxies: Vec::new(),
            links: Default::default(),
            shown: Vec::new(),
        })
    }

    #[test]
    fn only_the_right_pair_signs_in() {
        for admin in [PasswordConfig::Plain(Secret::new("correct horse")), hashed("correct horse")] {
            let logins = logins(admin);
            assert!(logins.is_configured() && logins.has_viewer() && logins.knows("vic") && !logins.knows("bob"));
            assert_eq!(logins.verify("ann", "correct horse"), Some(Role::Admin));
            assert_eq!(logins.verify("vic", "looking"), Some(Role::Viewer));
            for (name, password) in
                [("ann", "looking"), ("vic", "correct horse"), ("ann", ""), ("", ""), ("ann ", "correct horse")]
            {
                assert_eq!(logins.verify(name, password), None, "{name} {password}");
            }
        }
    }
}
