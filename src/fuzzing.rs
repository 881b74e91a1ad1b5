//! Entry points for fuzzing: whatever somebody else wrote, parsed as the program does.
//!
//! `fuzz/` has a target for each; the seeds in `fuzz/corpus` are replayed by this module's test, so a
//! crash that was found and put there stays found. A target fails by panicking.

use std::path::PathBuf;

use serde_json::json;

use crate::class::{
    Encoding, FilePath, Format, ObjectKind, ObjectName, ObjectSpec, ObjectsMemo, Version, manifest,
    parameters, request,
};
use crate::cloud::{CloudSource, Endpoints, custom};
use crate::error::Result;
use crate::http::Answer;
use crate::render;
use crate::secret::Secret;
use crate::vault::{Body, ObjectVersion, challenge};

/// What a target does with an input.
pub type Target = fn(&[u8]);

/// Every target by name.
pub const TARGETS: [(&str, Target); 7] = [
    ("attributes", attributes),
    ("objects", objects),
    ("manifest", class_manifest),
    ("pfx", pfx),
    ("pem", pem),
    ("challenge", header),
    ("cloud_file", cloud_file),
];

/// An error must stay printable on one line, and short, whatever it is about.
fn judge<T>(outcome: Result<T>) {
    if let Err(error) = outcome {
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(char::is_control) && shown.len() < 16 * 1024, "{shown:?}");
    }
}

fn clouds() -> Result<CloudSource> {
    CloudSource::new(Endpoints::azure(), "AzurePublicCloud", PathBuf::from("/nonexistent"))
}

/// The attributes text of a Mount.
pub fn attributes(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    judge(request::decode(text, "null", "420").and_then(|request| {
        let clouds = clouds()?;
        parameters::resolve(request, &clouds)
    }));
}

/// The `objects` text of a class: it comes to the same whether it was parsed before or not.
pub fn objects(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let attributes = json!({
        "csi.storage.k8s.io/pod.name": "pod",
        "csi.storage.k8s.io/pod.namespace": "default",
        "keyvaultName": "kv-fuzz",
        "tenantID": "tenant",
        "useVMManagedIdentity": "true",
        "objects": text,
    });
    let attributes = attributes.to_string();
    self::attributes(attributes.as_bytes());
    let shown = |memo: Option<&ObjectsMemo>| {
        let request = request::decode(&attributes, "null", "420");
        let parsed = request.and_then(|r| parameters::resolve_with(r, &clouds()?, memo));
        format!("{parsed:?}")
    };
    let memo = ObjectsMemo::default();
    let (first, again) = (shown(Some(&memo)), shown(Some(&memo)));
    assert!(first == shown(None) && first == again);
}

/// A manifest file.
pub fn class_manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    judge(manifest::load(text, None).and_then(|class| class.resolve(None, None, &clouds()?)));
}

/// A certificate's secret of this type, rendered in every way.
fn certificate(content_type: &str, value: Secret) {
    let outcome = (|| {
        let object = ObjectSpec {
            index: 0,
            kind: ObjectKind::Secret,
            name: ObjectName::parse("fuzz")?,
            version: Version::Latest,
            history: 1,
            position: None,
            path: FilePath::parse("fuzz")?,
            format: Format::Pem,
            encoding: Encoding::Utf8,
            mode: 0o400,
        };
        let version = ObjectVersion {
            kind: ObjectKind::Secret,
            name: "fuzz".to_owned(),
            version: "1".to_owned(),
            created: None,
            expires: None,
            not_before: None,
            body: Body::Secret {
                value,
                content_type: Some(content_type.to_owned()),
                kid: Some("kid".to_owned()),
            },
        };
        let options = render::Options { construct_pem_chain: true, separate_files: true };
        render::render(&object, &version, options)
    })();
    judge(outcome);
}

/// A PFX, as the vault stores it: these bytes in base64.
pub fn pfx(bytes: &[u8]) {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    certificate("application/x-pkcs12", Secret::from_string(text));
}

/// A certificate's PEM text.
pub fn pem(bytes: &[u8]) {
    certificate("application/x-pem-file", Secret::new(bytes.to_vec()));
}

/// The `WWW-Authenticate` header of a vault's 401.
pub fn header(bytes: &[u8]) {
    let Ok(value) = reqwest::header::HeaderValue::from_bytes(bytes) else { return };
    let headers = [(reqwest::header::WWW_AUTHENTICATE, value)].into_iter().collect();
    let answer = Answer { status: 401, headers, body: Secret::default() };
    judge(challenge::scope(&answer, "https://kv-fuzz.vault.azure.net/secrets/x/"));
}

/// A custom cloud's file.
pub fn cloud_file(bytes: &[u8]) {
    judge(custom::parse(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_of_every_target_is_survived() {
        for (name, target) in TARGETS {
            let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            let seeds: Vec<_> =
                std::fs::read_dir(&corpus).unwrap().map(|e| e.unwrap().path()).collect();
            assert!(seeds.len() >= 3, "{name} has {} seeds", seeds.len());
            for seed in seeds {
                let bytes = std::fs::read(&seed).unwrap();
                target(&bytes);
                // A cut input is the commonest surprise.
                target(&bytes[..bytes.len() / 2]);
            }
        }
    }

    #[test]
    fn every_target_has_its_program() {
        for (name, _) in TARGETS {
            let program = format!("fuzz/fuzz_targets/{name}.rs");
            assert!(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(&program).exists(), "{program}");
        }
    }
}
