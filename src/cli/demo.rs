//! `akvfs demo`: a guided tour on the embedded vault, with nothing prepared and nothing left behind.
//!
//! One class is shown twice: as a FUSE tree, read by ordinary programs, and as the answer to the CSI
//! driver's Mount call over the real socket. What was requested from the emulator stands under each
//! step.

mod steps;
mod tree;

use std::path::Path;
use std::time::Duration;

use clap::Args as ClapArgs;

use crate::class;
use crate::class::manifest::Manifest;
use crate::cloud::CloudSource;
use crate::emulator::{Config, Emulator, Seed};
use crate::error::{Code, Error, Result};
use crate::fetch::{self, Ages, Fetch};
use crate::http::Http;
use crate::process;

use steps::Tour;

/// Take a guided tour on an embedded vault: no Azure account, nothing leaves this machine
#[derive(ClapArgs, Debug)]
pub(super) struct Args {
    /// End after the tour instead of waiting for Ctrl-C
    #[arg(long)]
    no_wait: bool,
}

/// The class of the tour, as it would stand in a cluster. `{vault}` and `{tenant}` are filled in.
const CLASS: &str = r#"apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata:
  name: demo
spec:
  provider: azure
  parameters:
    keyvaultName: {vault}
    tenantID: {tenant}
    objects: |
      array:
        - |
          objectName: db-password
          objectType: secret
        - |
          objectName: json-config
          objectType: secret
          objectAlias: config/app.json
        - |
          objectName: pkcs12cert1
          objectType: secret
          objectAlias: tls.pem
        - |
          objectName: key1
          objectType: key
          objectAlias: signing.pub
"#;
/// A fetch that asks for rotations each time: nobody wants to wait for those of the tour.
fn fetch(emulator: &Emulator) -> Result<Fetch> {
    let none = Duration::ZERO;
    let ages = Ages { refresh: none, refused: none, ..Ages::default() };
    let options = fetch::Options { ages, ..fetch::Options::default() };
    Fetch::with(Http::new(emulator.endpoints()), options)
}

/// The object that is rotated.
const ROTATED: &str = "db-password";

pub(super) async fn run(args: Args) -> Result<()> {
    let stop = process::stop_token()?;
    let emulator = Emulator::start(Config { seed: Seed::default_seed()?, ..Config::default() });
    let emulator = emulator.await?;
    // Removed with everything in it when the tour ends, by whatever way.
    let dir = tempfile::Builder::new().prefix("akvfs-demo-").tempdir().map_err(|error| {
        Error::new(Code::Local, format!("no temporary directory: {}", error.kind()))
    })?;
    let mut tour = Tour::new(&emulator, dir.path());
    let mut result = tokio::select! {
        result = tour.walk() => result,
        () = stop.cancelled() => Ok(()),
    };
    if result.is_ok() && !args.no_wait && !stop.is_cancelled() {
        result = tour.invite();
        if result.is_ok() {
            stop.cancelled().await;
            // After the terminal's ^C.
            let _ = super::say("\n");
        }
    }
    tour.end().await?;
    emulator.shutdown().await;
    result
}

/// The class's text and what is read from it.
fn load(emulator: &Emulator) -> Result<(String, Manifest)> {
    let text =
        CLASS.replace("{vault}", emulator.vault_name()).replace("{tenant}", emulator.tenant());
    let manifest = class::manifest::load(&text, None)?;
    Ok((text, manifest))
}

/// Clouds as the emulator has them: the public cloud's name leads to it.
fn clouds(emulator: &Emulator, dir: &Path) -> Result<CloudSource> {
    CloudSource::new(emulator.endpoints(), "AzurePublicCloud", dir.to_owned())
}
