//! `akvfs dev-vault`: the emulator as a process of its own, with files for other processes.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use crate::class::ObjectKind;
use crate::emulator::{Config, Emulator, Names, Seed};
use crate::error::{Code, Error, Result};
use crate::process;

use super::say;

/// Largest seed that is read.
const MAX_SEED: u64 = 8 * 1024 * 1024;

/// Serve the embedded Key Vault, Entra, IMDS and NMI on loopback, for development
#[derive(ClapArgs, Debug)]
pub(super) struct Args {
    /// What the vault holds; without it, one of everything
    #[arg(value_name = "SEED.yaml")]
    seed: Option<PathBuf>,
    /// Write ca.pem, cloud.json, class.yaml and secrets/ for other processes here
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Port of the vault and Entra; 0: any free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// Port of IMDS
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    imds_port: u16,
    /// Port of NMI
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    nmi_port: u16,
    /// Port of the admin endpoint
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    admin_port: u16,
}

pub(super) async fn run(args: Args) -> Result<()> {
    let seed = match &args.seed {
        Some(path) => Seed::from_yaml(&read(path)?)?,
        None => Seed::default_seed()?,
    };
    let at = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let config = Config {
        seed,
        https: at(args.port),
        imds: at(args.imds_port),
        nmi: at(args.nmi_port),
        admin: at(args.admin_port),
        names: Names::Localhost,
        ..Config::default()
    };
    let stop = process::stop_token()?;
    let emulator = Emulator::start(config).await?;
    let out = match &args.out {
        Some(dir) => Some(write_files(dir, &emulator)?),
        None => None,
    };
    say(&describe(&emulator, out.as_deref()))?;
    stop.cancelled().await;
    emulator.shutdown().await;
    match out {
        Some(dir) => say(&format!("stopped; the files in {} stay\n", dir.display())),
        None => Ok(()),
    }
}

/// Where everything is, and how to use it from another terminal.
fn describe(emulator: &Emulator, out: Option<&Path>) -> String {
    let endpoints = emulator.endpoints();
    let cloud = emulator.cloud();
    let admin = emulator.admin_url();
    let mut text = format!(
        "A key vault for development, on this machine only. Nothing in it is secret.\n\n\
         vault     {}\n\
         Entra     {}/{}\n\
         IMDS      {}\n\
         NMI       {}\n\
         admin     {admin}\n\
         client    {}\n\n",
        emulator.vault_url(),
        cloud.authority,
        emulator.tenant(),
        endpoints.imds,
        endpoints.nmi,
        emulator.service_principal().0,
    );
    match out {
        Some(dir) => {
            let d = quoted(dir);
            // As it was called here, since it may be on nobody's PATH yet.
            let akvfs = std::env::args_os().next().unwrap_or_else(|| "akvfs".into());
            let akvfs = quoted(Path::new(&akvfs));
            text.push_str(&format!(
                "From another terminal:\n\n\
                 export SSL_CERT_FILE={d}/ca.pem NO_PROXY=localhost,.localhost\n\
                 {akvfs} check --cloud-env-dir {d} --secrets-file {d}/secrets {d}/class.yaml\n\
                 {akvfs} get --cloud-env-dir {d} --secrets-file {d}/secrets {d}/class.yaml {}\n\
                 mkdir -p {d}/mnt && {akvfs} mount --cloud-env-dir {d} --secrets-file {d}/secrets {d}/class.yaml {d}/mnt\n",
                example(emulator).first().map_or("NAME", |(name, _)| name),
            ));
        }
        None => text.push_str("Add --out DIR for the files that other akvfs processes need.\n"),
    }
    text.push_str(&format!(
        "curl {admin}/rotate -d '{{\"name\": \"db-password\"}}'    # a new version\n\
         curl {admin}/requests                                # who asked for what\n\n\
         Ctrl-C stops it.\n"
    ));
    text
}

/// Objects of the written class where the vault has them, by name and type.
const EXAMPLE: [(&str, &str); 7] = [
    ("db-password", "secret"),
    ("json-config", "secret"),
    ("key1", "key"),
    ("ec-p256", "key"),
    ("pemcert1", "secret"),
    ("pkcs12cert1", "secret"),
    ("ecccert1", "cert"),
];

/// Most of a seed's own secrets in the written class.
const MAX_OWN: usize = 50;

/// Objects of the written class: of a seed that has none of the known ones, its secrets.
fn example(emulator: &Emulator) -> Vec<(String, &'static str)> {
    let (control, vault) = (emulator.control(), emulator.vault_name());
    let known = EXAMPLE.iter().filter(|(name, _)| control.holds(vault, name));
    let known: Vec<_> = known.map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
    if !known.is_empty() {
        return known;
    }
    let own = control.names(vault, ObjectKind::Secret).into_iter().take(MAX_OWN);
    own.map(|name| (name, "secret")).collect()
}

/// Writes what other processes need, replacing what an earlier run wrote. Returns the real path.
fn write_files(dir: &Path, emulator: &Emulator) -> Result<PathBuf> {
    make_dir(dir)?;
    let dir = dir.canonicalize().map_err(|error| failed(dir, &error))?;
    let secrets = dir.join("secrets");
    make_dir(&secrets)?;
    let (client_id, client_secret) = emulator.service_principal();
    let cloud = emulator.cloud();
    let cloud_json = serde_json::json!({
        "name": "AzureStackCloud",
        "activeDirectoryEndpoint": format!("{}/", cloud.authority),
        "keyVaultEndpoint": format!("{}/", cloud.resource),
        "keyVaultDNSSuffix": cloud.vault_suffix,
    });
    write(&dir.join("ca.pem"), emulator.ca_pem().as_bytes())?;
    write(&dir.join("cloud.json"), format!("{cloud_json:#}\n").as_bytes())?;
    write(&dir.join("class.yaml"), class(&dir.join("cloud.json"), emulator).as_bytes())?;
    write(&secrets.join("clientid"), client_id.as_bytes())?;
    write(&secrets.join("clientsecret"), client_secret.expose())?;
    Ok(dir)
}

/// A class with an object of several types.
fn class(cloud_file: &Path, emulator: &Emulator) -> String {
    let mut text = format!(
        "apiVersion: secrets-store.csi.x-k8s.io/v1\n\
         kind: SecretProviderClass\n\
         metadata:\n  name: dev-vault\n\
         spec:\n  provider: azure\n  parameters:\n    \
         usePodIdentity: \"false\"\n    \
         keyvaultName: {}\n    \
         tenantID: {}\n    \
         cloudName: AzureStackCloud\n    \
         cloudEnvFileName: {}\n    \
         objects: |\n      array:\n",
        emulator.vault_name(),
        emulator.tenant(),
        // A JSON string is a YAML string, whatever the path holds.
        serde_json::Value::from(cloud_file.to_string_lossy()),
    );
    for (name, kind) in example(emulator) {
        text.push_str(&format!(
            "        - |\n          objectName: {name}\n          objectType: {kind}\n"
        ));
    }
    text
}

fn make_dir(dir: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|error| failed(dir, &error))
}

/// A new file of mode 0600 that takes the place of whatever had the name; a link is not followed.
fn write(path: &Path, content: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let _ = std::fs::remove_file(&temporary);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(&temporary)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::Local, format!("cannot write {}: {}", path.display(), error.kind()))
        .fix("check --out")
}

/// For a shell.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

fn read(path: &Path) -> Result<String> {
    use std::io::Read;
    let failed = |error: std::io::Error| {
        Error::class(format!("cannot read {}: {}", path.display(), error.kind()))
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_SEED + 1).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_class_of_an_unknown_seed_names_its_own_secrets() {
        let seed = Seed::default().secret("mine", &["canary"]);
        let emulator = Emulator::start(Config { seed, ..Config::default() }).await.unwrap();
        assert_eq!(example(&emulator), [("mine".to_owned(), "secret")]);
        assert!(class(Path::new("/x"), &emulator).contains("objectName: mine\n"));
    }

    #[tokio::test]
    async fn the_files_describe_the_running_emulator_and_are_private() {
        let seed = Seed::default().secret("db-password", &["canary"]);
        let config = Config { seed, names: Names::Localhost, ..Config::default() };
        let emulator = Emulator::start(config).await.unwrap();
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("it's here");
        // Twice: a second run replaces what the first wrote.
        write_files(&dir, &emulator).unwrap();
        let real = write_files(&dir, &emulator).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        let cloud: serde_json::Value = serde_json::from_str(&read("cloud.json")).unwrap();
        let suffix = cloud["keyVaultDNSSuffix"].as_str().unwrap();
        assert_eq!(format!("https://akvfs-dev.{suffix}"), emulator.vault_url());
        let class: serde_yaml::Value = serde_yaml::from_str(&read("class.yaml")).unwrap();
        let parameters = &class["spec"]["parameters"];
        assert_eq!(parameters["cloudEnvFileName"], real.join("cloud.json").to_str().unwrap());
        let objects = parameters["objects"].as_str().unwrap();
        assert!(objects.contains("db-password") && !objects.contains("key1"), "{objects}");
        assert_eq!(read("secrets/clientid"), emulator.service_principal().0);
        assert!(read("ca.pem").contains("BEGIN CERTIFICATE"));
        let said = describe(&emulator, Some(&real));
        assert!(!said.contains(&read("secrets/clientsecret")), "argv and terminals get no secret");
        #[cfg(unix)]
        for (path, mode) in [("", 0o700), ("secrets", 0o700), ("secrets/clientsecret", 0o600)] {
            use std::os::unix::fs::PermissionsExt;
            let found = std::fs::metadata(dir.join(path)).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode, "{path}");
        }
    }
}
