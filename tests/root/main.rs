//! Tests that need root: real FUSE mounts and network namespaces, each test in namespaces of its own.
//!
//! Without root they say so and pass; with `AKVFS_REQUIRE_ROOT=1` (CI) they fail instead.
#![cfg(target_os = "linux")]

#[path = "../support/canary.rs"]
mod canary;
#[macro_use]
mod support;

mod airgap;
mod announce;
mod audit;
mod azure;
mod binary;
mod bounds;
mod control;
mod crowd;
mod demo;
mod dns;
mod driver;
mod ends;
mod faults;
mod files;
mod foreign;
mod fstab;
mod growth;
mod history;
mod listing;
mod moves;
mod options;
mod plain;
mod programs;
mod proxy;
mod readers;
#[path = "../support/relay.rs"]
mod relay;
mod requests;
mod separate;
mod soak;
mod stalls;
mod sync;
mod systemd;
mod tree;
mod who;
mod write_mode;
mod xattr;
