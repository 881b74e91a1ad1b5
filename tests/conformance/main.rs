//! What a drop-in owes whoever migrates: a test for every behaviour that the Go provider's own tests
//! assert (U), that its end-to-end suite shows (E), or that was observed of it (P).
//!
//! A test drives the real gRPC server over its socket, and behind it the emulator over TLS; what is
//! about the process runs the real binary. [`rows`] names them all: passed, different with a reason
//! (`docs/MIGRATION.md` lists those), or not to be seen without a cluster.

#[path = "../support/canary.rs"]
mod canary;
#[path = "../../src/render/tests/openssl.rs"]
mod openssl;
#[path = "../inprocess/seeds.rs"]
mod seeds;
// Not all of it is of use here.
#[allow(dead_code)]
#[path = "../inprocess/world.rs"]
mod world;

mod class;
mod clouds;
mod content;
mod end_to_end;
mod history;
mod identity;
mod mount;
mod probes;
#[cfg(target_os = "linux")]
mod process;
mod rows;
mod semantics;
mod support;

/// None: the Go provider asks the vault for every Mount.
fn ages() -> akvfs::fetch::Ages {
    let none = std::time::Duration::ZERO;
    akvfs::fetch::Ages { first: none, refresh: none, refused: none, max_stale: none }
}
