//! What Windows has instead of modes: access lists, and files that are not what they seem.
//!
//! `sddl` writes and judges access lists as text, and is tested everywhere. `security` hands them to the
//! system and `attributes` asks it about a path; nothing else in akvfs calls it for these. And what it has
//! instead of process groups: `job`.

#[cfg(windows)]
pub(crate) mod attributes;
#[cfg(windows)]
pub(crate) mod job;
pub(crate) mod sddl;
#[cfg(windows)]
pub(crate) mod security;

/// Text as Windows takes it. A NUL inside would cut it: paths with one are refused.
#[cfg(windows)]
pub(crate) fn wide(text: &std::ffi::OsStr) -> std::io::Result<Vec<u16>> {
    use std::os::windows::ffi::OsStrExt;
    let mut wide: Vec<u16> = text.encode_wide().collect();
    if wide.contains(&0) {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    wide.push(0);
    Ok(wide)
}
