//! The budget table: what the provider must reach, and what it does, alone or beside another binary.
//!
//! ```text
//! cargo bench --bench budgets -- [--provider "NAME=PATH[ ARG...]"] [--repeats N] [--only ROW]
//!     [--quick] [--list] [--akvfs PATH] [--json FILE] [--markdown FILE]
//! cargo bench --bench budgets -- --scaling [--only PART] [--quick] [--akvfs PATH] [--markdown FILE]
//! cargo bench --bench budgets -- --model
//! ```
//!
//! Needs root: it starts itself again in a network and mount namespace. There the emulator answers,
//! from this process, at the public cloud's names on port 443, and each provider is its real binary
//! as a child process, started anew for each sample. So any binary with the Go provider's flags can
//! be measured; one that is named `go` is what the goals "of Go" are judged by, instead of the design's
//! figures. The samples of a row are interleaved (A, B, A, B, ...); what is shown is medians of
//! one run with the spread, and ratios of these medians. "raw" is plain GETs of the same objects with
//! a token at hand, with no provider and no cache: the least that any provider without one needs.
//!
//! Emulator, driver and provider share the machine's cores, so figures of one machine say little on
//! another; the ratios say more. Nothing is asserted: whatever is slow is printed, and the exit code
//! is 0. It is 2 where this cannot run at all, 64 for a wrong command line.
//!
//! `--scaling` measures one node with 1 to 200 pods instead, and there counts of requests are asserted:
//! it exits 1 when one is not what the model says. `--model` prints what the model says of clusters,
//! which are the computed tables of docs/SCALING.md, and needs neither root nor a provider.

#[cfg(target_os = "linux")]
#[path = "budgets/linux.rs"]
mod linux;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("budgets: this bench needs Linux namespaces");
    std::process::exit(2);
}
