//! The default vault. Every value starts with `dev-only-` (in its decoded form, where it encodes
//! something) and ends in random digits, so that one can be found wherever it should not be.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::error::Result;
use crate::secret::Secret;

use super::super::{now, random};
use super::{CertificateSeed, KeySeed, MAX_VALUE, SecretSeed, Seed, VAULT, VaultSeed};

const DAY: i64 = 24 * 3600;
/// Versions of `many-versions`; every seventh is disabled.
const MANY: usize = 60;

pub(super) fn seed() -> Result<Seed> {
    let mut vault = VaultSeed::new(VAULT);
    let run = hex::encode(random::<8>()?);
    let value = |name: &str| format!("dev-only-{name}-{run}");
    let mut add = |name: &str, versions: Vec<SecretSeed>| {
        vault.secrets.insert(name.to_owned(), versions);
    };
    let plain = |name: &str| SecretSeed::new(Secret::from_string(value(name)));
    let typed = |text: String, content_type: &str| SecretSeed {
        content_type: Some(content_type.to_owned()),
        ..SecretSeed::new(Secret::from_string(text))
    };

    for name in ["secret1", "db-password", "db-user", "api-token", "connection-string"] {
        add(name, vec![plain(name)]);
    }
    for number in 1..=20 {
        let name = format!("app-{number:02}");
        add(&name, vec![plain(&name)]);
    }
    let config = json!({
        "host": "db.example.com", "port": 5432, "tls": true, "password": value("json-config"),
    });
    add("json-config", vec![typed(config.to_string(), "application/json")]);
    let lines = format!("{}\nsecond line\n\u{e4}\u{f6}\u{fc} \u{1f511}\n", value("multi-line"));
    add("multi-line", vec![typed(lines, "text/plain")]);
    add("base64-encoded", vec![typed(STANDARD.encode(value("base64-encoded")), "text/plain")]);
    add("hex-encoded", vec![typed(hex::encode(value("hex-encoded")), "text/plain")]);
    let mut large = value("large");
    large.push_str(&"x".repeat(MAX_VALUE - large.len()));
    add("large", vec![typed(large, "text/plain")]);

    add("disabled", vec![SecretSeed { enabled: false, ..plain("disabled") }]);
    add(
        "newest-disabled",
        vec![plain("newest-disabled"), SecretSeed { enabled: false, ..plain("newest-disabled-2") }],
    );
    add("expired", vec![SecretSeed { expires: Some(now() - DAY), ..plain("expired") }]);
    add("expires-soon", vec![SecretSeed { expires: Some(now() + 7 * DAY), ..plain("soon") }]);
    add("not-yet", vec![SecretSeed { not_before: Some(now() + DAY), ..plain("not-yet") }]);
    let versions = (1..=MANY).map(|number| SecretSeed {
        enabled: number % 7 != 0,
        ..plain(&format!("many-versions-v{number}"))
    });
    add("many-versions", versions.collect());

    for (name, key, enabled) in [
        ("key1", KeySeed::Rsa, true),
        ("ec-p256", KeySeed::P256, true),
        ("ec-p384", KeySeed::P384, true),
        ("ec-p521", KeySeed::P521, true),
        ("disabled-key", KeySeed::P256, false),
    ] {
        vault.keys.insert(name.to_owned(), vec![(key, enabled)]);
    }
    for (name, key, pfx, chain) in [
        ("pemcert1", KeySeed::Rsa, false, true),
        ("pkcs12cert1", KeySeed::Rsa, true, true),
        ("ecccert1", KeySeed::P256, true, true),
        ("ecc-pem", KeySeed::P384, false, true),
        ("self-signed", KeySeed::P256, false, false),
    ] {
        vault.certificates.insert(name.to_owned(), CertificateSeed { key, pfx, chain });
    }
    Ok(Seed { vaults: vec![vault] })
}
