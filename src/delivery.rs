//! The ways a view reaches its reader.

pub mod files;
#[cfg(target_os = "linux")]
pub mod fuse;
pub mod response;
