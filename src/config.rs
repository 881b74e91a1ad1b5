//! The provider's flags: the Go provider's own, in both dash forms, read once into [`ProviderArgs`].
//!
//! Go's flag package takes `-flag=value`, `--flag value` and booleans without a value. A shim
//! rewrites that to the one form clap understands, so that the DaemonSet's argument list works
//! unchanged. Flags of klog that have no meaning here are accepted and ignored.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};

use crate::class::MountMode;
pub(crate) use crate::class::duration::parse as duration;
use crate::telemetry::Format;

/// Longest time that an option of a command may have: longer ones are a mistake, and overflow sums.
pub(crate) const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Serve the Secrets Store CSI Driver
#[derive(Args, Clone, Debug)]
pub struct ProviderArgs {
    /// Socket to serve, unix://PATH
    #[arg(
        long,
        value_name = "URL",
        default_value = "unix:///tmp/azure.sock",
        env = "AKVFS_ENDPOINT"
    )]
    pub endpoint: String,
    /// Log as JSON lines
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = go_bool, env = "AKVFS_LOG_FORMAT_JSON")]
    pub log_format_json: bool,
    /// Log verbosity, 0 to 5
    #[arg(short, long = "v", value_name = "LEVEL", default_value_t = 0, env = "AKVFS_V")]
    pub v: i32,
    /// Port of the liveness probe; 0: any free one
    #[arg(long, value_name = "PORT", default_value_t = 8989, env = "AKVFS_HEALTHZ_PORT")]
    pub healthz_port: u16,
    /// Address of the liveness probe; every interface when not given
    #[arg(long, value_name = "IP", env = "AKVFS_HEALTHZ_ADDRESS")]
    pub healthz_address: Option<IpAddr>,
    /// Path of the liveness probe
    #[arg(long, value_name = "PATH", default_value = "/healthz", env = "AKVFS_HEALTHZ_PATH")]
    pub healthz_path: String,
    /// Limit of one probe, such as 5s
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration, env = "AKVFS_HEALTHZ_TIMEOUT")]
    pub healthz_timeout: Duration,
    /// Port of /metrics; 0: any free one
    #[arg(long, value_name = "PORT", default_value_t = 8898, env = "AKVFS_PROMETHEUS_PORT")]
    pub prometheus_port: u16,
    /// Address of /metrics; every interface when not given
    #[arg(long, value_name = "IP", env = "AKVFS_METRICS_ADDRESS")]
    pub metrics_address: Option<IpAddr>,
    /// Name the objects in keyvault_request, the first 256
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = go_bool, env = "AKVFS_METRICS_OBJECT_NAMES")]
    pub metrics_object_names: bool,
    /// Order the certificates of a PFX from leaf to root
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = go_bool, env = "AKVFS_CONSTRUCT_PEM_CHAIN")]
    pub construct_pem_chain: bool,
    /// Cloud of classes that name none
    #[arg(long, value_name = "NAME", default_value = "AzurePublicCloud", env = "AKVFS_CLOUD_NAME")]
    pub cloud_name: String,
    /// Directory below which classes may name a custom cloud's file
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/etc/kubernetes",
        env = "AKVFS_CLOUD_ENV_DIR"
    )]
    pub cloud_env_dir: PathBuf,
    /// Token proxy of AKS identity binding, if not the cluster's API server
    #[arg(long, value_name = "URL", default_value = "")]
    pub token_proxy_url: String,
    /// TLS name of the token proxy, if not derived from the API server's certificate
    #[arg(long, value_name = "NAME", default_value = "")]
    pub sni_name: String,
    /// Text added to the User-Agent of requests to vaults and Entra
    #[arg(long, value_name = "TEXT", default_value = "", env = "AKVFS_CUSTOM_USER_AGENT")]
    pub custom_user_agent: String,
    /// Most bytes of one Mount's response; the driver takes 4 MiB
    #[arg(long, value_name = "BYTES", default_value_t = 4 * 1024 * 1024, env = "AKVFS_MAX_RESPONSE_BYTES")]
    pub max_response_bytes: usize,
    /// How pods get their files whose class names no mountMode: files (the driver writes them), or write (the provider does)
    #[arg(long, value_name = "MODE", default_value = "files", value_parser = mount_mode, env = "AKVFS_MOUNT_MODE")]
    pub mount_mode: MountMode,
    /// Most bytes of the files that the provider writes for one Mount
    #[arg(long, value_name = "BYTES", default_value_t = 16 * 1024 * 1024, env = "AKVFS_MAX_WRITTEN_BYTES")]
    pub max_written_bytes: usize,
    /// How old a value may be that a new mount gets: pods that start together ask the vault once
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration, env = "AKVFS_MOUNT_MAX_AGE")]
    pub mount_max_age: Duration,
    /// How old a value may be when the driver looks for a new one, at most: each is held for a random 75 to 100 % of it
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, env = "AKVFS_REFRESH_MAX_AGE")]
    pub refresh_max_age: Duration,
    /// How long after a vault's last answer what is mounted stays while the vault cannot be asked
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration, env = "AKVFS_MAX_STALE")]
    pub max_stale: Duration,
    /// Most bytes of values held in memory, and of requests that run
    #[arg(long, value_name = "BYTES", default_value_t = 48 * 1024 * 1024, value_parser = held_bytes, env = "AKVFS_MAX_HELD_BYTES")]
    pub max_held_bytes: usize,
    /// Which pods may ask for which vaults, with which identities (docs/POLICY.md)
    #[arg(long, value_name = "FILE", env = "AKVFS_POLICY")]
    pub policy: Option<PathBuf>,

    /// Print the version instead of serving.
    #[arg(long, hide = true, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = go_bool)]
    pub(crate) version: bool,
    /// Write NAME.crt and NAME.key beside the secret of a certificate
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = go_bool, env = "AKVFS_WRITE_CERT_AND_KEY_IN_SEPARATE_FILES")]
    pub write_cert_and_key_in_separate_files: bool,
    /// Prometheus, the only one there is.
    #[arg(long, hide = true, default_value = "Prometheus", value_parser = metrics_backend)]
    pub(crate) metrics_backend: String,
    #[arg(long, hide = true, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = go_bool)]
    pub(crate) enable_pprof: bool,
    #[arg(long, hide = true, default_value_t = 6060)]
    pub(crate) pprof_port: u16,
    #[command(flatten)]
    pub(crate) klog: Klog,
}

/// klog's own flags: accepted; only `skip_headers` has a meaning here.
#[derive(Args, Clone, Debug)]
pub(crate) struct Klog {
    #[arg(long, hide = true)]
    pub(crate) vmodule: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) logtostderr: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) alsologtostderr: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) stderrthreshold: Option<String>,
    #[arg(long = "log_dir", hide = true)]
    pub(crate) log_dir: Option<String>,
    #[arg(long = "log_file", hide = true)]
    pub(crate) log_file: Option<String>,
    #[arg(long = "log_file_max_size", hide = true)]
    pub(crate) log_file_max_size: Option<String>,
    #[arg(long = "skip_headers", hide = true, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = go_bool)]
    pub(crate) skip_headers: bool,
    #[arg(long = "skip_log_headers", hide = true, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) skip_log_headers: Option<String>,
    #[arg(long = "add_dir_header", hide = true, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) add_dir_header: Option<String>,
    #[arg(long = "one_output", hide = true, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) one_output: Option<String>,
    #[arg(long = "log_backtrace_at", hide = true)]
    pub(crate) log_backtrace_at: Option<String>,
}

impl ProviderArgs {
    /// How log lines are written.
    pub(crate) fn log_format(&self) -> Format {
        match (self.log_format_json, self.klog.skip_headers) {
            (true, _) => Format::Json,
            (false, true) => Format::Bare,
            (false, false) => Format::Text,
        }
    }

    /// Flags that were given but do nothing in this version, for a notice at start.
    pub(crate) fn without_effect(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        let mut note = |given: bool, name| {
            if given {
                names.push(name);
            }
        };
        note(self.enable_pprof, "enable-pprof");
        note(self.pprof_port != 6060, "pprof-port");
        let klog = &self.klog;
        note(klog.vmodule.is_some(), "vmodule");
        note(
            klog.logtostderr.as_deref().is_some_and(|given| go_bool(given) != Ok(true)),
            "logtostderr",
        );
        note(klog.log_dir.is_some() || klog.log_file.is_some(), "log_dir/log_file");
        note(klog.add_dir_header.is_some(), "add_dir_header");
        note(klog.log_backtrace_at.is_some(), "log_backtrace_at");
        names
    }
}

/// Flags that Go takes without a value.
const BOOLEANS: [&str; 12] = [
    "metrics-object-names",
    "version",
    "log-format-json",
    "construct-pem-chain",
    "write-cert-and-key-in-separate-files",
    "enable-pprof",
    "logtostderr",
    "alsologtostderr",
    "skip_headers",
    "skip_log_headers",
    "one_output",
    "add_dir_header",
];

/// Rewrites Go-style arguments to `--flag=value`. A boolean is only ever given its value by `=`.
pub(crate) fn go_flags(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut out = Vec::new();
    let mut args = args;
    while let Some(arg) = args.next() {
        let Some(text) = arg.to_str() else {
            out.push(arg);
            continue;
        };
        let Some(flag) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')) else {
            out.push(arg);
            continue;
        };
        if flag.is_empty() || flag == "h" || flag == "help" {
            out.push(arg);
        } else if flag.contains('=') {
            out.push(format!("--{flag}").into());
        } else if BOOLEANS.contains(&flag) {
            out.push(format!("--{flag}=true").into());
        } else {
            match args.next() {
                Some(value) => {
                    let mut joined = OsString::from(format!("--{flag}="));
                    joined.push(value);
                    out.push(joined);
                }
                None => out.push(format!("--{flag}").into()),
            }
        }
    }
    out
}

/// Go's spellings of a boolean flag's value.
fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

fn mount_mode(text: &str) -> Result<MountMode, String> {
    match MountMode::parse(text) {
        Some(MountMode::Fuse) => {
            Err("fuse is not possible at a CSI target in this version".to_owned())
        }
        Some(mode) => Ok(mode),
        None => Err("expected files or write".to_owned()),
    }
}

/// Less would hold next to nothing: each pod would ask the vault for itself.
pub(crate) fn held_bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if bytes >= 1024 * 1024 => Ok(bytes),
        _ => Err("expected a number of bytes, at least 1048576".to_owned()),
    }
}

fn metrics_backend(text: &str) -> Result<String, String> {
    match text.eq_ignore_ascii_case("prometheus") {
        true => Ok(text.to_owned()),
        false => Err("the only metrics backend is Prometheus".to_owned()),
    }
}

#[cfg(test)]
mod tests;
