//! What the rows share: refusals, files, and objects that the emulator's vault does not make itself.

use akvfs::csi::proto::MountResponse;
use akvfs::emulator::{Service, Trouble, Where};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::openssl::pki;
use crate::world::{Call, World};

pub const PEM: &str = "application/x-pem-file";
pub const PFX: &str = "application/x-pkcs12";

/// A Mount that must fail with this code; what it says.
pub async fn refusal(world: &World, call: &Call, code: Code) -> String {
    match world.mount(call).await {
        Ok(response) => panic!("{} files instead of {code:?}", response.files.len()),
        Err(status) => said(&status, code),
    }
}

pub fn said(status: &Status, code: Code) -> String {
    assert_eq!(status.code(), code, "{status}");
    status.message().to_owned()
}

/// Refused as a wrong class, with this in the text and nothing asked of anybody.
pub async fn wrong_class(world: &World, call: &Call, text: &str) {
    let before = requests(world);
    let said = refusal(world, call, Code::InvalidArgument).await;
    assert!(said.contains(text), "{said}, not {text}");
    assert_eq!(requests(world), before, "{text}");
}

/// Requests to anybody at all.
pub fn requests(world: &World) -> usize {
    world.control.requests().len()
}

/// The bytes of a file.
pub fn bytes<'a>(response: &'a MountResponse, path: &str) -> &'a [u8] {
    let found = response.files.iter().find(|file| file.path == path);
    &found.unwrap_or_else(|| panic!("no file {path}")).contents
}

/// The text of a file.
pub fn text<'a>(response: &'a MountResponse, path: &str) -> &'a str {
    std::str::from_utf8(bytes(response, path)).unwrap()
}

pub fn paths(response: &MountResponse) -> Vec<&str> {
    response.files.iter().map(|file| file.path.as_str()).collect()
}

/// The vault answers just this for paths such as `/secrets/x/`, whatever it holds.
pub fn answer(world: &World, path: &str, body: &Value) {
    let at = Where::service(Service::Vault).path(path);
    let content_type = "application/json".to_owned();
    world.control.always(at, Trouble::Answer { status: 200, content_type, body: body.to_string() });
}

/// A certificate's secret, as the vault would answer it.
pub fn backed(world: &World, content_type: Value, value: &str) -> Value {
    let url = world.emulator.vault_url();
    json!({
        "value": value,
        "contentType": content_type,
        "id": format!("{url}/secrets/x/v1"),
        "kid": format!("{url}/keys/x/v1"),
        "attributes": {"enabled": true},
    })
}

/// The secret `x` is this PFX, with the entry's further lines.
pub async fn mount_pfx(world: &World, der: &[u8], lines: &str) -> Result<MountResponse, Status> {
    world.control.clear_faults();
    answer(world, "/secrets/x/", &backed(world, PFX.into(), &STANDARD.encode(der)));
    world.mount(&world.call(&[&format!("objectName: x\nobjectType: secret\n{lines}")])).await
}

/// PEM blocks: label and DER.
pub fn blocks(text: &str) -> Vec<(String, Vec<u8>)> {
    let mut blocks = Vec::new();
    let mut body = String::new();
    for line in text.lines() {
        if let Some(label) = line.strip_prefix("-----END ") {
            blocks.push((label.trim_end_matches('-').to_owned(), STANDARD.decode(&body).unwrap()));
            body.clear();
        } else if !line.starts_with("-----BEGIN ") {
            body.push_str(line);
        }
    }
    blocks
}

/// The labels and names of the fixtures that a PEM text holds, in order.
pub fn named(text: &str) -> Vec<String> {
    let names = ["root", "int", "leaf", "int2", "server", "rsa", "bare"];
    blocks(text)
        .into_iter()
        .map(|(label, der)| {
            let name = names.iter().find(|name| match label.as_str() {
                "PRIVATE KEY" => pki().key(name) == der,
                _ => pki().certificate(name) == der,
            });
            format!("{label} {}", name.expect("a key or certificate of the fixtures"))
        })
        .collect()
}
