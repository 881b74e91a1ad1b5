//! akvfs: Azure Key Vault as files.
//!
//! The calls point one way:
//!
//! ```text
//! cli / csi / control -> delivery (response | files | fuse) -> view -+-> fetch -> vault -> identity -> cloud
//!                                                                    +-> render          class (pure, used by all)
//! ```
//!
//! - [`class`] turns attributes or a manifest into a validated `MountSpec`; pure.
//! - [`cloud`] holds every outside address; nothing else knows one.
//! - [`policy`] is what the operator lets pods ask for.
//! - [`identity`] turns a claim into a proof, and a proof into tokens.
//! - [`vault`] speaks the Key Vault REST protocol; it knows nothing of files.
//! - [`fetch`] gives an object version to a proven identity, on a detached task.
//! - [`render`] turns an object version into named bytes; pure.
//! - [`view`] is the live mount: names, generations, refresh. All deliveries share it.
//! - [`delivery`] shows a view: as a CSI response or as a FUSE tree.
//! - `control` is the local socket that `akvfs status` and `akvfs refresh` ask.
//! - [`csi`] and [`cli`] are thin shells; [`app`] wires the long-running roles.
//! - `emulator` (a cargo feature) is Entra, IMDS, NMI and Key Vault on loopback.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)
)]
#![warn(missing_docs, unreachable_pub)]

pub mod app;
#[cfg(unix)]
mod appended;
pub mod budget;
pub mod class;
pub mod cli;
pub mod clock;
pub mod cloud;
pub mod config;
mod control;
pub mod csi;
pub mod delivery;
#[cfg(feature = "emulator")]
pub mod emulator;
pub mod error;
mod fair;
pub mod fetch;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod http;
pub mod identity;
mod jitter;
pub mod patience;
#[cfg(unix)]
mod peer;
pub mod policy;
pub mod process;
pub mod render;
pub mod secret;
#[cfg(any(windows, test))]
mod service;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod vault;
mod version;
pub mod view;
#[cfg(any(windows, test))]
mod windows;

pub use error::{Code, Error, Hop, Result};
pub use secret::Secret;
