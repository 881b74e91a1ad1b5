//! The demo's FUSE tree, read by ordinary programs.

#[cfg(not(target_os = "linux"))]
pub(super) use elsewhere::Tree;
#[cfg(target_os = "linux")]
pub(super) use imp::Tree;

#[cfg(target_os = "linux")]
mod imp {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::process::Command;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use crate::class::manifest::Manifest;
    use crate::class::{Parsed, Secrets, Wanted};
    use crate::delivery::fuse::{self, Mounted};
    use crate::emulator::Emulator;
    use crate::error::{Code, Error, Result};
    use crate::fetch::Access;
    use crate::render;
    use crate::secret::Secret;
    use crate::vault::VaultRef;
    use crate::view::{Layout, Limits, Plan, View};

    use super::super::clouds;

    /// Longest wait for a refresh.
    const PATIENCE: Duration = Duration::from_secs(30);

    pub(in super::super) struct Tree {
        view: Arc<View>,
        mounted: Mounted,
    }

    impl Tree {
        /// Mounts the class below `dir`.
        pub(in super::super) async fn mount(
            emulator: &Emulator,
            dir: &Path,
            manifest: Manifest,
        ) -> Result<Self> {
            let (access, wanted) = resolve(emulator, dir, manifest)?;
            let Wanted::Objects(objects) = wanted else {
                return Err(Error::new(Code::Internal, "the demo's class is no list of objects"));
            };
            let plan = Plan::new(objects, Layout::Atomic)?;
            let view =
                View::new(plan, Arc::new(access), render::Options::default(), Limits::default());
            let target = dir.join("mnt");
            std::fs::create_dir(&target).map_err(|error| {
                Error::new(Code::Local, format!("{}: {}", target.display(), error.kind()))
            })?;
            let mounted = fuse::mount(view.clone(), &target, fuse::Options::default()).await?;
            Ok(Self { view, mounted })
        }

        pub(in super::super) fn dir(&self) -> &Path {
            self.mounted.dir()
        }

        /// Runs a program in the tree and shows its output, indented.
        pub(in super::super) async fn run(&self, program: &str, args: &[&str]) -> Result<()> {
            let mut command = Command::new(program);
            command.args(args).current_dir(self.dir());
            let failed = |why: String| Error::new(Code::Local, format!("{program}: {why}"));
            // A blocking wait for a program that waits for us: on a thread of its own.
            let output = tokio::task::spawn_blocking(move || command.output())
                .await
                .map_err(|_| failed("it was not run".to_owned()))?
                .map_err(|error| failed(error.kind().to_string()))?;
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                tell!("   {line}");
            }
            if output.status.success() {
                return Ok(());
            }
            Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }

        /// Looks for new versions now.
        pub(in super::super) async fn refresh(&self) -> Result<()> {
            let refreshed = self.view.refresh(Instant::now() + PATIENCE).await;
            match refreshed.failures.into_iter().next() {
                None => Ok(()),
                Some(error) => Err(error),
            }
        }

        pub(in super::super) async fn unmount(self) -> Result<()> {
            self.mounted.unmount().await
        }
    }

    /// What the class resolves to: who asks which vault for what.
    fn resolve(emulator: &Emulator, dir: &Path, manifest: Manifest) -> Result<(Access, Wanted)> {
        let (client_id, client_secret) = emulator.service_principal();
        let secrets = Secrets(BTreeMap::from([
            ("clientid".to_owned(), Secret::from(client_id)),
            ("clientsecret".to_owned(), client_secret),
        ]));
        match manifest.resolve(Some(secrets), None, &clouds(emulator, dir)?)? {
            Parsed::Mount(spec) => {
                let vault = VaultRef { cloud: spec.cloud, name: spec.vault };
                let fetch = super::super::fetch(emulator)?;
                Ok((Access::new(fetch, spec.identity, vault), spec.wanted))
            }
            Parsed::Nothing { .. } => Err(Error::new(Code::Internal, "the demo's class is empty")),
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::path::Path;

    use crate::class::manifest::Manifest;
    use crate::emulator::Emulator;
    use crate::error::{Code, Error, Result};

    /// Never made on this platform.
    pub(in super::super) enum Tree {}

    impl Tree {
        pub(in super::super) async fn mount(_: &Emulator, _: &Path, _: Manifest) -> Result<Self> {
            Err(Error::new(Code::FuseUnavailable, "only Linux has FUSE"))
        }

        pub(in super::super) fn dir(&self) -> &Path {
            match *self {}
        }

        pub(in super::super) async fn run(&self, _: &str, _: &[&str]) -> Result<()> {
            match *self {}
        }

        pub(in super::super) async fn refresh(&self) -> Result<()> {
            match *self {}
        }

        pub(in super::super) async fn unmount(self) -> Result<()> {
            match self {}
        }
    }
}
