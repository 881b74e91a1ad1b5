//! Tests in one process: the real gRPC server on a real socket, the emulator over real TLS.

#[cfg(target_os = "linux")]
mod binary;
#[path = "../support/canary.rs"]
mod canary;
mod codes;
mod connections;
mod deploy;
mod history;
mod identities;
mod isolation;
mod judges;
#[cfg(target_os = "linux")]
mod logs;
mod malformed;
#[cfg(target_os = "linux")]
mod metrics;
mod modes;
mod mount;
mod policy;
#[path = "../support/relay.rs"]
mod relay;
mod renewal;
mod resilience;
mod scaling;
mod sdk;
mod seeds;
mod separate;
mod sharing;
mod stealing;
mod tokens;
mod world;

/// As the provider has them.
fn ages() -> akvfs::fetch::Ages {
    akvfs::fetch::Ages::default()
}
