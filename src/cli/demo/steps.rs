//! The steps of the tour, and what each of them asked of the emulator.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::app::{self, CsiServer};
use crate::csi::client;
use crate::csi::mount::Mounter;
use crate::csi::proto::MountRequest;
use crate::csi::proto::csi_driver_provider_client::CsiDriverProviderClient;
use crate::delivery::response;
use crate::emulator::Emulator;
use crate::error::{Code, Error, Result};

use super::tree::Tree;
use super::{ROTATED, clouds, load};

/// Pods that start together.
const CROWD: usize = 100;

/// The tour under way.
pub(super) struct Tour<'a> {
    emulator: &'a Emulator,
    dir: PathBuf,
    /// Requests shown so far.
    shown: usize,
    tree: Option<Tree>,
    provider: Option<(CsiServer, CancellationToken)>,
}

impl<'a> Tour<'a> {
    pub(super) fn new(emulator: &'a Emulator, dir: &Path) -> Self {
        Self { emulator, dir: dir.to_owned(), shown: 0, tree: None, provider: None }
    }

    pub(super) async fn walk(&mut self) -> Result<()> {
        tell!(
            "akvfs demo: Azure Key Vault as files, on an embedded vault. Nothing leaves this machine."
        );
        let (class, manifest) = load(self.emulator)?;
        heading("1. Entra, IMDS and Key Vault run in this process, over TLS with an own CA")?;
        tell!("   vault     {}", self.emulator.vault_url());
        tell!("   identity  service principal {}", self.emulator.service_principal().0);
        heading("2. The class: a SecretProviderClass, as in a cluster")?;
        for line in class.lines() {
            tell!("   {line}");
        }

        heading("3. The class as a FUSE tree: names at once, values when they are opened")?;
        let parameters = manifest.parameters().clone();
        match Tree::mount(self.emulator, &self.dir, manifest).await {
            Ok(tree) => {
                self.tree = Some(tree);
                self.show_tree().await?;
            }
            Err(error) if error.code() == Code::FuseUnavailable => {
                tell!("   FUSE is not possible here: {error}");
                tell!("   The rest works without it.");
            }
            Err(error) => return Err(error),
        }

        heading("4. The same class, asked for by the CSI driver: Mount over a Unix socket")?;
        self.call_mount(&parameters).await?;
        self.crowd(&parameters).await?;

        heading(&format!("5. {ROTATED} gets a new version in the vault"))?;
        self.rotate(&parameters).await
    }

    /// Invites to look around while everything still runs.
    pub(super) fn invite(&self) -> Result<()> {
        heading("6. Look around")?;
        if let Some(tree) = &self.tree {
            tell!(
                "   The tree is at {}: try ls -l, cat, tail -c 20, openssl x509.",
                tree.dir().display()
            );
        }
        tell!("   Ctrl-C ends the demo and removes everything.");
        Ok(())
    }

    /// Unmounts, stops the provider.
    pub(super) async fn end(&mut self) -> Result<()> {
        if let Some((server, stop)) = self.provider.take() {
            stop.cancel();
            server.ended().await?;
        }
        match self.tree.take() {
            Some(tree) => tree.unmount().await,
            None => Ok(()),
        }
    }

    async fn show_tree(&mut self) -> Result<()> {
        let Some(tree) = &self.tree else { return Ok(()) };
        tell!("   $ ls -lRL {}", tree.dir().display());
        tree.run("ls", &["-lRL", "."]).await?;
        self.requests("requested so far")?;
        for attempt in ["requested for it", "requested for the second cat"] {
            self.cat(ROTATED).await?;
            self.requests(attempt)?;
        }
        Ok(())
    }

    async fn cat(&self, name: &str) -> Result<()> {
        let Some(tree) = &self.tree else { return Ok(()) };
        tell!("   $ cat {}", tree.dir().join(name).display());
        tree.run("cat", &[name]).await
    }

    /// Calls Mount as the driver does, and shows what came back.
    async fn call_mount(
        &mut self,
        parameters: &std::collections::BTreeMap<String, String>,
    ) -> Result<()> {
        let socket = self.dir.join("azure.sock");
        if self.provider.is_none() {
            let options = response::Options::default();
            let fetch = super::fetch(self.emulator)?;
            let mounter = Mounter::new(fetch, clouds(self.emulator, &self.dir)?, options);
            let stop = CancellationToken::new();
            self.provider = Some((app::serve_csi(mounter, socket.clone(), stop.clone())?, stop));
        }
        let request = self.request(parameters, 0);
        let mut driver = CsiDriverProviderClient::new(client::connect(socket.clone()).await?);
        tell!("   calling v1alpha1.CSIDriverProvider/Mount on {}", socket.display());
        let begin = Instant::now();
        let response = driver.mount(request).await.map_err(|status| {
            Error::new(Code::Internal, format!("Mount failed: {}", status.message()))
        })?;
        let (taken, response) = (begin.elapsed(), response.into_inner());
        tell!("   answered in {} ms with {} files:", taken.as_millis(), response.files.len());
        for (file, version) in response.files.iter().zip(&response.object_version) {
            tell!(
                "     {:04o} {:>6} bytes  {:<18} {} version {}",
                file.mode,
                file.contents.len(),
                file.path,
                version.id,
                version.version
            );
        }
        self.requests("requested for it")?;
        Ok(())
    }

    /// The driver's request for the class's `number`th pod.
    fn request(
        &self,
        parameters: &std::collections::BTreeMap<String, String>,
        number: usize,
    ) -> MountRequest {
        let (client_id, client_secret) = self.emulator.service_principal();
        let mut attributes = parameters.clone();
        for (key, value) in [
            ("pod.name", format!("demo-{number}")),
            ("pod.namespace", "default".to_owned()),
            ("pod.uid", number.to_string()),
        ] {
            attributes.insert(format!("csi.storage.k8s.io/{key}"), value);
        }
        MountRequest {
            attributes: json!(attributes).to_string(),
            secrets: json!({
                "clientid": client_id,
                "clientsecret": client_secret.expose_str().unwrap_or_default(),
            })
            .to_string(),
            target_path: format!(
                "/var/lib/kubelet/pods/{number}/volumes/kubernetes.io~csi/secrets/mount"
            ),
            permission: "420".to_owned(),
            current_object_version: Vec::new(),
        }
    }

    /// The same class for many pods at once.
    async fn crowd(
        &mut self,
        parameters: &std::collections::BTreeMap<String, String>,
    ) -> Result<()> {
        tell!("   and now for {CROWD} more pods at once");
        let channel = client::connect(self.dir.join("azure.sock")).await?;
        let mounts = (1..=CROWD).map(|number| {
            let request = self.request(parameters, number);
            let mut driver = CsiDriverProviderClient::new(channel.clone());
            async move { driver.mount(request).await }
        });
        let begin = Instant::now();
        let outcomes = futures_util::future::join_all(mounts).await;
        let taken = begin.elapsed();
        let mounted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        tell!("   {mounted} of them have their files after {} ms", taken.as_millis());
        self.requests("requested for all of them")
    }

    async fn rotate(
        &mut self,
        parameters: &std::collections::BTreeMap<String, String>,
    ) -> Result<()> {
        let version = self.emulator.control().set_secret(
            self.emulator.vault_name(),
            ROTATED,
            "dev-only-this-is-the-new-password",
        )?;
        tell!("   new version {version}");
        match &self.tree {
            Some(tree) => {
                tell!(
                    "   the tree looks for new versions of what was opened (every 60 s; now, for you)"
                );
                tree.refresh().await?;
                self.requests("requested for it")?;
                self.cat(ROTATED).await?;
                self.requests("requested for this cat")?;
            }
            None => self.call_mount(parameters).await?,
        }
        Ok(())
    }

    /// What the emulator was asked since the last time.
    fn requests(&mut self, title: &str) -> Result<()> {
        let records = self.emulator.control().requests();
        let new = records.get(self.shown..).unwrap_or_default();
        self.shown = records.len();
        let Some(first) = new.first() else {
            tell!("   {title}: nothing");
            return Ok(());
        };
        tell!("   {title}:");
        let begin: SystemTime = first.at;
        for record in new {
            let after = record.at.duration_since(begin).unwrap_or_default();
            tell!(
                "     +{:<4} {:5} {} {} -> {}",
                format!("{} ms", after.as_millis()),
                record.service.as_str(),
                record.method,
                record.path,
                record.status
            );
        }
        Ok(())
    }
}

fn heading(text: &str) -> Result<()> {
    tell!("\n{text}");
    Ok(())
}
