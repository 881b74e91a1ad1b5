//! Who asks, as vaults and Entra log it: `csi-secrets-store/VERSION (OS/ARCH) COMMIT/DATE[ CUSTOM]`.

use std::env::consts;

use reqwest::header::HeaderValue;

use crate::error::{Error, Result};
use crate::version;

/// Longest custom part.
const MAX_CUSTOM: usize = 256;

/// The User-Agent header of outbound requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserAgent(HeaderValue);

impl UserAgent {
    /// With a custom part, such as `managedBy:aks`, or without when blank.
    ///
    /// # Errors
    /// ClassInvalid when the part is not printable ASCII or longer than 256 bytes.
    pub fn new(custom: &str) -> Result<Self> {
        let custom = custom.trim();
        if custom.len() > MAX_CUSTOM || !custom.bytes().all(|b| matches!(b, b' '..=b'~')) {
            return Err(Error::class("--custom-user-agent is not header text")
                .fix("use printable ASCII, at most 256 characters"));
        }
        let text = build(version::VERSION, version::COMMIT, version::BUILD_DATE, custom);
        HeaderValue::from_str(&text)
            .map(Self)
            .map_err(|_| Error::class("the build's commit or date is not header text"))
    }

    pub(super) fn value(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl Default for UserAgent {
    fn default() -> Self {
        // What the build was given is fixed, and a test reads it.
        Self::new("").unwrap_or(Self(HeaderValue::from_static("csi-secrets-store")))
    }
}

fn build(version: &str, commit: &str, date: &str, custom: &str) -> String {
    // Systems and processors as the Go provider spells them, since dashboards know those names.
    let os = match consts::OS {
        "macos" => "darwin",
        os => os,
    };
    let arch = match consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        arch => arch,
    };
    let text = format!("csi-secrets-store/{version} ({os}/{arch}) {commit}/{date} {custom}");
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// U75.
    #[test]
    fn the_parts_stand_where_the_go_provider_puts_them() {
        let text = build("version", "commit", "now", "managedBy:aks");
        assert!(text.starts_with("csi-secrets-store/version ("), "{text}");
        assert!(text.ends_with(") commit/now managedBy:aks"), "{text}");
        assert!(build("version", "commit", "now", "").ends_with(") commit/now"));
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        assert_eq!(
            build("version", "commit", "now", ""),
            "csi-secrets-store/version (linux/amd64) commit/now"
        );
        assert_eq!(UserAgent::default(), UserAgent::new("  ").unwrap());
        assert!(UserAgent::default().0.len() > "csi-secrets-store".len());
    }

    #[test]
    fn what_is_no_header_text_is_refused() {
        for bad in ["a\r\nX-Evil: 1", "\u{e9}", &"a".repeat(MAX_CUSTOM + 1), "a\0"] {
            let error = UserAgent::new(bad).unwrap_err();
            assert!(error.message().starts_with("--custom-user-agent"), "{error}");
        }
    }
}
