//! The ways a view reaches its reader.

#[cfg(target_os = "linux")]
pub mod fuse;
pub mod response;
