//! What the vaults hold at start.
//!
//! [`Seed::default_seed`] is the vault that newcomers meet; [`Seed::from_yaml`] reads a file, one YAML
//! document per vault (everything is optional):
//!
//! ```yaml
//! vault: my-dev-vault          # 3 to 24 of [-A-Za-z0-9]; default akvfs-dev
//! access: rbac                 # or policy: how refusals are worded
//! secrets:
//!   db-password: hunter2       # a value, or:
//!   api-token:
//!     versions: [first, second]   # older values, oldest first; each a value or a mapping like this one
//!     value: third
//!     contentType: text/plain
//!     enabled: true
//!     expires: 1893456000      # seconds since 1970
//!     notBefore: 1577836800
//! keys:
//!   signing: RSA               # RSA, P-256, P-384 or P-521
//! certificates:
//!   tls: {format: pem, key: P-256, chain: true}   # format pem or pfx; key RSA, P-256 or P-384
//! ```

mod certificates;
mod defaults;
mod keys;
mod yaml;

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::class::ObjectKind;
use crate::error::{Code, Error, Result};
use crate::secret::Secret;

use super::now;
use super::store::{AccessModel, Content, Store, Version};

/// Default name of a vault.
const VAULT: &str = "akvfs-dev";
/// The service's limit.
const MAX_VALUE: usize = 25 * 1024;

/// Contents of one or more vaults.
#[derive(Clone)]
pub struct Seed {
    vaults: Vec<VaultSeed>,
}

#[derive(Clone)]
struct VaultSeed {
    name: String,
    access: AccessModel,
    /// Versions, oldest first.
    secrets: BTreeMap<String, Vec<SecretSeed>>,
    keys: BTreeMap<String, Vec<(KeySeed, bool)>>,
    certificates: BTreeMap<String, CertificateSeed>,
}

#[derive(Clone)]
struct SecretSeed {
    value: Secret,
    content_type: Option<String>,
    enabled: bool,
    expires: Option<i64>,
    not_before: Option<i64>,
}

/// A key's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySeed {
    /// RSA of 2048 bits.
    Rsa,
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521: always the same key; its private half exists nowhere.
    P521,
}

/// How to make a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateSeed {
    /// Key type; not P-521.
    pub key: KeySeed,
    /// The secret is a PKCS#12 file rather than PEM text.
    pub pfx: bool,
    /// Issued by an intermediate below a root, all in the secret; otherwise self-signed.
    pub chain: bool,
}

/// A certificate for a client, with its private key: PEM text or a PFX in base64; and its DER.
///
/// # Errors
/// For a key type that has no certificates here.
pub fn client_certificate(seed: CertificateSeed) -> Result<(Secret, Vec<u8>)> {
    let made = certificates::make("client", seed)?;
    let material = match made.pfx {
        Some(pfx) => STANDARD.encode(pfx),
        None => made.pem,
    };
    Ok((Secret::from_string(material), made.cer))
}

impl Default for Seed {
    /// One empty vault.
    fn default() -> Self {
        Self { vaults: vec![VaultSeed::new(VAULT)] }
    }
}

impl Seed {
    /// The vault that newcomers meet: every shape of object, more than one page of each list.
    ///
    /// # Errors
    /// When the system gives no random numbers: every value ends in some, new at each start.
    pub fn default_seed() -> Result<Self> {
        defaults::seed()
    }

    /// From YAML; the format is in this module's documentation.
    ///
    /// # Errors
    /// ClassInvalid, naming the place and never a value.
    pub fn from_yaml(text: &str) -> Result<Self> {
        yaml::parse(text)
    }

    /// Another, empty vault; what follows goes there.
    #[must_use]
    pub fn vault(mut self, name: &str) -> Self {
        self.vaults.push(VaultSeed::new(name));
        self
    }

    /// A secret with these values, oldest first.
    #[must_use]
    pub fn secret(mut self, name: &str, values: &[&str]) -> Self {
        if let Some(vault) = self.vaults.last_mut() {
            let versions = values.iter().map(|value| SecretSeed::new(Secret::from(*value)));
            vault.secrets.insert(name.to_owned(), versions.collect());
        }
        self
    }

    /// A key.
    #[must_use]
    pub fn key(mut self, name: &str, key: KeySeed) -> Self {
        if let Some(vault) = self.vaults.last_mut() {
            vault.keys.insert(name.to_owned(), vec![(key, true)]);
        }
        self
    }

    /// A certificate, with its secret and key.
    #[must_use]
    pub fn certificate(mut self, name: &str, certificate: CertificateSeed) -> Self {
        if let Some(vault) = self.vaults.last_mut() {
            vault.certificates.insert(name.to_owned(), certificate);
        }
        self
    }

    pub(super) fn first_vault(&self) -> Result<&str> {
        let first = self.vaults.first().ok_or_else(|| Error::class("the seed has no vault"))?;
        Ok(&first.name)
    }

    /// Makes keys and certificates, and gives every version its id and time.
    pub(super) fn build(&self) -> Result<BTreeMap<String, Store>> {
        let mut stores = BTreeMap::new();
        for vault in &self.vaults {
            let name = vault.name.to_ascii_lowercase();
            let fits = (3..=24).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            if !fits {
                return Err(Error::class("a vault name of the seed is not [-A-Za-z0-9]{3,24}"));
            }
            if stores.insert(name.clone(), vault.build()?).is_some() {
                return Err(Error::class(format!("the seed has vault {name} twice")));
            }
        }
        Ok(stores)
    }
}

impl SecretSeed {
    fn new(value: Secret) -> Self {
        Self { value, content_type: None, enabled: true, expires: None, not_before: None }
    }
}

impl VaultSeed {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            access: AccessModel::default(),
            secrets: BTreeMap::new(),
            keys: BTreeMap::new(),
            certificates: BTreeMap::new(),
        }
    }

    fn build(&self) -> Result<Store> {
        let mut store = Store::new(self.access);
        // An hour between versions, the newest an hour old.
        let time = |index: usize, count: usize| {
            now() - 3600 * i64::try_from(count - index).unwrap_or_default()
        };
        for (name, versions) in &self.secrets {
            check_name(name)?;
            for (index, seed) in versions.iter().enumerate() {
                if seed.value.len() > MAX_VALUE || seed.value.expose_str().is_none() {
                    return Err(Error::class(format!(
                        "the seed's secret {name} is not text of at most 25 KiB"
                    )));
                }
                let content = Content::Secret { value: seed.value.clone() };
                let mut version = Version::new(time(index, versions.len()), content)?;
                version.content_type.clone_from(&seed.content_type);
                version.enabled = seed.enabled;
                version.expires = seed.expires;
                version.not_before = seed.not_before;
                store.push(ObjectKind::Secret, name, false, version);
            }
        }
        for (name, versions) in &self.keys {
            check_name(name)?;
            for (index, (key, enabled)) in versions.iter().enumerate() {
                let jwk = keys::public_jwk(*key)?;
                let mut version = Version::new(time(index, versions.len()), Content::Key(jwk))?;
                version.enabled = *enabled;
                store.push(ObjectKind::Key, name, false, version);
            }
        }
        for (name, certificate) in &self.certificates {
            check_name(name)?;
            certify(&mut store, name, *certificate, now() - 3600)?;
        }
        Ok(store)
    }
}

/// Adds a new version of a certificate: the certificate, its key and its secret, of one id.
pub(super) fn certify(
    store: &mut Store,
    name: &str,
    seed: CertificateSeed,
    created: i64,
) -> Result<String> {
    let made = certificates::make(name, seed)?;
    let secret_type = if seed.pfx { "application/x-pkcs12" } else { "application/x-pem-file" };
    let value = match made.pfx {
        Some(pfx) => Secret::from_string(STANDARD.encode(pfx)),
        None => Secret::from_string(made.pem),
    };
    let cer = made.cer;
    let subject = format!("CN={}", certificates::COMMON_NAME);
    let mut version = Version::new(created, Content::Certificate { cer, subject, secret_type })?;
    version.not_before = Some(made.validity.0);
    version.expires = Some(made.validity.1);
    let mut secret = Version { content: Content::Secret { value }, ..version.clone() };
    secret.content_type = Some(secret_type.to_owned());
    let key = Version { content: Content::Key(made.jwk), ..version.clone() };
    store.recipes.insert(name.to_ascii_lowercase(), seed);
    store.push(ObjectKind::Secret, name, true, secret);
    store.push(ObjectKind::Key, name, true, key);
    Ok(store.push(ObjectKind::Certificate, name, false, version))
}

fn check_name(name: &str) -> Result<()> {
    crate::class::ObjectName::parse(name).map(drop).map_err(|_| {
        Error::new(Code::ClassInvalid, "an object name of the seed is not [0-9A-Za-z-]{1,127}")
    })
}
