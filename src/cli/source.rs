//! SOURCE: a manifest, a vault URL or the embedded emulator, opened into an origin.

mod identity;
mod live;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args as ClapArgs;

use crate::class::{
    self, FetchMode, FilePath, FuseCache, ObjectKind, ObjectName, ObjectSpec, Parsed, VaultName,
    Wanted,
};
use crate::cloud::{Cloud, CloudSource, Endpoints};
use crate::error::{Code, Error, Result};
use crate::fetch::{self, Access, Ages, Fetch, MAX_NAMES, Origin};
use crate::http::Http;
use crate::render;
use crate::vault::{Names, Urgency, VaultRef};
use crate::view::Layout;

use identity::{Identity, describe};
pub(crate) use live::serve_status;

/// Largest manifest that is read.
const MAX_MANIFEST: u64 = 1024 * 1024;
/// Files of a whole-vault source, where no class says otherwise.
const DEFAULT_MODE: u32 = 0o400;

/// What to show, and who asks. Shared by get, check, mount and sync.
#[derive(ClapArgs, Clone, Debug)]
pub(crate) struct SourceArgs {
    /// class.yaml, class.yaml#NAME, `https://VAULT.vault.azure.net[/secrets]`, or dev:[SEED.yaml]
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// clientid with clientsecret or clientcertificate: a Secret manifest, or a directory of files
    #[arg(long, value_name = "PATH", env = "AKVFS_SECRETS_FILE")]
    secrets_file: Option<PathBuf>,
    /// Service account token for workload identity, re-read on each use
    #[arg(long, value_name = "PATH", env = "AKVFS_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Who asks, for a vault URL; as the other options imply, if not given, or auto
    #[arg(long, value_name = "MODE", env = "AKVFS_IDENTITY")]
    identity: Option<Identity>,
    /// Tenant, for a vault URL
    #[arg(long, value_name = "ID", env = "AKVFS_TENANT_ID")]
    tenant_id: Option<String>,
    /// Client id, for a vault URL: of the workload or user-assigned identity
    #[arg(long, value_name = "ID", env = "AKVFS_CLIENT_ID")]
    client_id: Option<String>,
    /// Cloud of classes that name none
    #[arg(long, value_name = "NAME", default_value = "AzurePublicCloud", env = "AKVFS_CLOUD_NAME")]
    cloud_name: String,
    /// Directory below which a class may name a custom cloud's file
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/etc/kubernetes",
        env = "AKVFS_CLOUD_ENV_DIR"
    )]
    cloud_env_dir: PathBuf,
    /// Beside the secret of a certificate, NAME.crt and NAME.key
    #[arg(long, env = "AKVFS_WRITE_CERT_AND_KEY_IN_SEPARATE_FILES")]
    write_cert_and_key_in_separate_files: bool,
}

/// How the files of a source change.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum LayoutArg {
    Atomic,
    Flat,
}

impl From<LayoutArg> for Layout {
    fn from(layout: LayoutArg) -> Self {
        match layout {
            LayoutArg::Atomic => Layout::Atomic,
            LayoutArg::Flat => Layout::Flat,
        }
    }
}

/// An opened source. Dropping it stops an embedded emulator.
pub(crate) struct Opened {
    /// Where values come from.
    pub(crate) origin: Arc<dyn Origin>,
    /// What is wanted.
    pub(crate) wanted: Wanted,
    /// How to render.
    pub(crate) render: render::Options,
    /// Class and vault, for people.
    pub(crate) source: String,
    /// Who asks, for people.
    pub(crate) identity: String,
    /// Notices about the class.
    pub(crate) notices: Vec<String>,
    /// When a tree of it requests its values, if the class says so.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux has trees"))]
    pub(crate) fetch: Option<FetchMode>,
    /// What the kernel keeps of a tree of it, if the class says so.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux has trees"))]
    pub(crate) fuse_cache: Option<FuseCache>,
    #[cfg(feature = "emulator")]
    _emulator: Option<crate::emulator::Emulator>,
}

fn new_fetch(endpoints: Endpoints, options: fetch::Options) -> Result<Fetch> {
    Fetch::with(Http::new(endpoints), options)
}

impl SourceArgs {
    /// Opens the source. Nothing is requested from a vault yet.
    pub(crate) async fn open(&self, ages: Ages) -> Result<Opened> {
        self.open_with(fetch::Options { ages, ..fetch::Options::default() }).await
    }

    /// The same with other bounds.
    pub(crate) async fn open_with(&self, options: fetch::Options) -> Result<Opened> {
        match self.source.as_str() {
            source if source.starts_with("dev:") => {
                self.open_dev(&source["dev:".len()..], options).await
            }
            source if source.starts_with("https://") => self.open_vault(source, options).await,
            source if source.starts_with("http://") => {
                Err(Error::class("a vault is only asked over https"))
            }
            source => self.open_manifest(source, options).await,
        }
    }

    fn render(&self) -> render::Options {
        render::Options {
            separate_files: self.write_cert_and_key_in_separate_files,
            ..render::Options::default()
        }
    }

    async fn open_manifest(&self, source: &str, options: fetch::Options) -> Result<Opened> {
        let (path, name) = match source.rsplit_once('#') {
            Some((path, name)) if !name.is_empty() && !Path::new(source).exists() => {
                (path, Some(name))
            }
            _ => (source, None),
        };
        let text = read_manifest(Path::new(path)).await?;
        let manifest = class::manifest::load(&text, name)
            .map_err(|error| error.context(format!("manifest {path}")))?;
        let endpoints = Endpoints::here();
        let clouds =
            CloudSource::new(endpoints.clone(), &self.cloud_name, self.cloud_env_dir.clone())?;
        let secrets = match &self.secrets_file {
            Some(path) => Some(class::secrets_file::read(path)?),
            None => None,
        };
        let title = manifest.name.clone();
        let parsed = manifest.resolve(secrets, self.token_file.clone(), &clouds)?;
        let spec = match parsed {
            Parsed::Mount(spec) => *spec,
            Parsed::Nothing { notices } => {
                return Err(
                    Error::class(format!("class {title} lists no objects")).fix(notices.join("; "))
                );
            }
        };
        let vault = VaultRef { cloud: spec.cloud, name: spec.vault };
        let mut notices = spec.notices;
        if self.identity.is_some() || self.tenant_id.is_some() || self.client_id.is_some() {
            notices.push(
                "--identity, --tenant-id and --client-id are for vault URLs; the class says who asks"
                    .to_owned(),
            );
        }
        let fetch = new_fetch(endpoints, options)?;
        Ok(Opened {
            source: format!("class {title}, vault {}", vault.url()),
            identity: describe(&spec.identity),
            origin: Arc::new(Access::new(fetch, spec.identity, vault)),
            wanted: spec.wanted,
            render: self.render(),
            notices,
            fetch: spec.fetch,
            fuse_cache: spec.fuse_cache,
            #[cfg(feature = "emulator")]
            _emulator: None,
        })
    }

    async fn open_vault(&self, source: &str, options: fetch::Options) -> Result<Opened> {
        let endpoints = Endpoints::here();
        let (vault, wanted) = vault_url(source, &endpoints)?;
        let fetch = new_fetch(endpoints, options)?;
        let mut notices = Vec::new();
        let claim = self.claim(&fetch, &mut notices).await?;
        Ok(Opened {
            source: format!("vault {}", vault.url()),
            identity: describe(&claim),
            origin: Arc::new(Access::new(fetch, claim, vault)),
            wanted,
            render: self.render(),
            notices,
            fetch: None,
            fuse_cache: None,
            #[cfg(feature = "emulator")]
            _emulator: None,
        })
    }

    #[cfg(feature = "emulator")]
    async fn open_dev(&self, seed: &str, options: fetch::Options) -> Result<Opened> {
        use crate::emulator::{Config, Emulator, Seed};
        let seed = match seed {
            "" => Seed::default_seed()?,
            path => Seed::from_yaml(&read_manifest(Path::new(path)).await?)?,
        };
        let emulator = Emulator::start(Config { seed, ..Config::default() }).await?;
        let endpoints = emulator.endpoints();
        let vault = VaultRef {
            cloud: endpoints.cloud("AzurePublicCloud")?,
            name: VaultName::parse(emulator.vault_name())?,
        };
        let fetch = new_fetch(endpoints, options)?;
        let (client_id, client_secret) = emulator.service_principal();
        let claim = class::Claim::ServicePrincipal {
            tenant: class::Tenant::parse(emulator.tenant())?,
            client_id: client_id.to_owned(),
            client_secret,
        };
        Ok(Opened {
            source: format!("embedded vault {}", vault.url()),
            identity: describe(&claim),
            origin: Arc::new(Access::new(fetch, claim, vault)),
            wanted: Wanted::Listing(KINDS.to_vec()),
            render: self.render(),
            notices: Vec::new(),
            fetch: None,
            fuse_cache: None,
            _emulator: Some(emulator),
        })
    }

    #[cfg(not(feature = "emulator"))]
    async fn open_dev(&self, _: &str, _: fetch::Options) -> Result<Opened> {
        Err(Error::class("this build has no emulator, so dev: cannot be used")
            .fix("build with the default features"))
    }
}

const KINDS: [ObjectKind; 3] = [ObjectKind::Secret, ObjectKind::Key, ObjectKind::Certificate];

impl Opened {
    /// One line for people: class, vault, identity.
    pub(crate) fn description(&self) -> String {
        format!("{}, {}", self.source, self.identity)
    }

    /// The object that a user names, a file or object of the class or an object of the vault, and
    /// which version of its history.
    pub(crate) fn find(&self, name: &str) -> Result<(ObjectSpec, usize)> {
        match &self.wanted {
            Wanted::Objects(objects) => objects
                .iter()
                .find(|object| object.path.as_str() == name)
                .map(|object| (object, 0))
                .or_else(|| objects.iter().find_map(|o| Some((o, self.place(o, name)?))))
                .or_else(|| Some((objects.iter().find(|object| object.name.as_str() == name)?, 0)))
                .map(|(object, place)| (object.clone(), place))
                .ok_or_else(|| {
                    let known: Vec<_> = objects.iter().map(|object| object.path.as_str()).collect();
                    Error::new(Code::NotFound, "the class has no such file or object")
                        .fix(format!("it has: {}", known.join(", ")))
                }),
            Wanted::Listing(_) => {
                let (kind, name) = match name.split_once('/') {
                    Some((collection, name)) => (collection_kind(collection)?, name),
                    None => (ObjectKind::Secret, name),
                };
                Ok((vault_object(0, kind, ObjectName::parse(name)?)?, 0))
            }
        }
    }

    /// Which version of the object has a file of this name, if it has one at all.
    fn place(&self, object: &ObjectSpec, name: &str) -> Option<usize> {
        (0..object.history).position(|place| {
            let path = match object.history {
                1 => object.path.clone(),
                _ => object.path.version(place),
            };
            let version = ObjectSpec { path, ..object.clone() };
            render::paths(&version, self.render).iter().any(|path| path.as_str() == name)
        })
    }

    /// Every object of a whole-vault source, by listing it.
    pub(crate) async fn listing(&self, deadline: Instant) -> Result<Vec<ObjectSpec>> {
        let Wanted::Listing(kinds) = &self.wanted else { return Ok(Vec::new()) };
        let mut objects = Vec::new();
        for kind in kinds {
            let Names { names, more } = self.origin.list(*kind, Urgency::First, deadline).await?;
            if more {
                let what = format!("the vault has more than {MAX_NAMES} {}", kind.collection());
                return Err(Error::new(Code::TooLarge, what).fix("list what you want in a class"));
            }
            for name in names {
                objects.push(vault_object(objects.len(), *kind, name)?);
            }
        }
        Ok(objects)
    }
}

/// An object of a whole-vault source: `secrets/NAME`, `keys/NAME`, `certificates/NAME`.
fn vault_object(index: usize, kind: ObjectKind, name: ObjectName) -> Result<ObjectSpec> {
    let path = FilePath::parse(&format!("{}/{name}", kind.collection()))?;
    Ok(ObjectSpec::newest(index, kind, name, path, DEFAULT_MODE))
}

fn collection_kind(collection: &str) -> Result<ObjectKind> {
    KINDS.into_iter().find(|kind| kind.collection() == collection).ok_or_else(|| {
        Error::class("a vault has secrets, keys and certificates")
            .fix("write secrets/NAME, keys/NAME or certificates/NAME")
    })
}

/// `https://NAME.SUFFIX[/COLLECTION]` of a cloud that we know.
fn vault_url(source: &str, endpoints: &Endpoints) -> Result<(VaultRef, Wanted)> {
    let shape = || {
        Error::class("the vault URL is not https://NAME.SUFFIX[/secrets|/keys|/certificates]")
            .fix("for example https://my-vault.vault.azure.net")
    };
    let rest = source.strip_prefix("https://").ok_or_else(shape)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (name, suffix) = host.split_once('.').ok_or_else(shape)?;
    let cloud: Cloud = endpoints
        .clouds
        .values()
        .find(|cloud| cloud.vault_suffix.eq_ignore_ascii_case(suffix))
        .cloned()
        .ok_or_else(|| {
            Error::class("the vault URL belongs to no cloud that is built in")
                .fix("custom clouds are named by a class with cloudName: AzureStackCloud")
        })?;
    let wanted = match path.trim_end_matches('/') {
        path if path.contains('/') => {
            return Err(Error::class("the vault URL names an object")
                .fix("end the URL before the object's name; akvfs get takes it as NAME"));
        }
        "" => KINDS.to_vec(),
        collection => vec![collection_kind(collection)?],
    };
    Ok((VaultRef { cloud, name: VaultName::parse(name)? }, Wanted::Listing(wanted)))
}

/// On a thread of its own: a pipe that nobody writes to, or a file of a server that hangs, is waited for
/// only as long as the caller likes.
async fn read_manifest(path: &Path) -> Result<String> {
    let path = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || read_manifest_here(&path));
    reading.await.unwrap_or_else(|_| Err(Error::task_failed()))
}

fn read_manifest_here(path: &Path) -> Result<String> {
    use std::io::Read;
    let failed = |error: std::io::Error| {
        Error::class(format!("cannot read {}: {}", path.display(), error.kind()))
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_MANIFEST + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_MANIFEST {
        return Err(Error::class(format!("{} is larger than 1 MiB", path.display())));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vault_urls_name_a_known_cloud_and_a_collection() {
        let azure = Endpoints::azure();
        let (vault, wanted) = vault_url("https://my-kv.vault.azure.net/", &azure).unwrap();
        assert_eq!(vault.url(), "https://my-kv.vault.azure.net");
        assert!(matches!(wanted, Wanted::Listing(kinds) if kinds.len() == 3));
        let (_, wanted) = vault_url("https://my-kv.vault.azure.cn/keys", &azure).unwrap();
        assert!(matches!(wanted, Wanted::Listing(kinds) if kinds == [ObjectKind::Key]));
        for bad in [
            "https://my-kv.evil.test",
            "https://my-kv.vault.azure.net/nonsense",
            "https://my_kv.vault.azure.net",
            "https://my-kv",
            "https://user@my-kv.vault.azure.net",
        ] {
            assert!(vault_url(bad, &azure).is_err(), "{bad}");
        }
    }
}
