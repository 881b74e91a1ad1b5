//! What a FUSE tree of akvfs costs, beside the least that any FUSE filesystem costs and beside tmpfs.
//!
//! ```text
//! cargo bench --bench fuse -- [--rounds N] [--quick] [--markdown FILE]
//! ```
//!
//! "bare" is a filesystem of the same crate (fuser) that holds its files in a vector and does nothing
//! else (`fuse/bare.rs`): what is above it is ours. Each contestant is served by a process of its own; all
//! rounds of a row are interleaved (tmpfs, bare, akvfs, tmpfs, ...), and what is shown is medians of one run
//! and ratios of these. Rows that say "pinned" run clients and servers on one CPU: across CPUs the
//! wake-ups of a virtual machine cost more than what is measured. Values come from memory: no vault and
//! no TLS is in these figures.
//!
//! Needs root and /dev/fuse; it starts itself again in a mount namespace. Nothing is asserted: what misses
//! its goal is printed as such, and the exit code is 0. It is 2 where this cannot run, 64 for a wrong
//! command line.

#[cfg(target_os = "linux")]
#[path = "fuse/linux.rs"]
mod linux;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("fuse: this bench needs Linux");
    std::process::exit(2);
}
