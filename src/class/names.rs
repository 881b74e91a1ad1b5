//! Names of vaults, tenants, objects and versions: strict charsets, so that none of them can change
//! the host or the path of a request.

use crate::error::{Error, Result, printable};

/// Longest accepted tenant: that of a DNS name.
const MAX_TENANT: usize = 253;
/// Most of a wrong name that an error quotes.
const QUOTED: usize = 64;

/// A vault name that matches `[-A-Za-z0-9]{3,24}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VaultName(String);

/// A tenant: `[A-Za-z0-9.-]`, at least one letter or digit, at most 253 characters, no `..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenant(String);

/// An object name that matches `[0-9A-Za-z-]{1,127}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName(String);

/// Which version of an object is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// The newest (blank or `latest`).
    Latest,
    /// This one: matches `[0-9A-Za-z]{1,32}`.
    Exact(String),
}

impl VaultName {
    /// Checks a vault name.
    ///
    /// # Errors
    /// ClassInvalid, with upstream's two texts, when the length or a character is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let shown = printable(text, QUOTED);
        if !(3..=24).contains(&text.len()) {
            return Err(Error::class(format!(
                "Invalid vault name: \"{shown}\", must be between 3 and 24 chars"
            ))
            .fix("give the vault's name only, not its URL"));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(Error::class(format!(
                "Invalid vault name: \"{shown}\", must match [-a-zA-Z0-9]{{3,24}}"
            ))
            .fix("give the vault's name only, not its URL"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Tenant {
    /// Checks a tenant id or domain.
    ///
    /// # Errors
    /// ClassInvalid when it could not be one path segment of the token service's URL.
    pub fn parse(text: &str) -> Result<Self> {
        let charset = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
        let ok = text.len() <= MAX_TENANT
            && text.bytes().all(charset)
            && text.bytes().any(|b| b.is_ascii_alphanumeric())
            && !text.contains("..");
        if !ok {
            return Err(Error::class(format!("invalid tenantID \"{}\"", printable(text, QUOTED)))
                .fix("use the directory (tenant) id, a GUID, or a verified domain name"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl ObjectName {
    /// Checks the name of a secret, key or certificate.
    ///
    /// # Errors
    /// ClassInvalid when Key Vault could have no object of this name.
    pub fn parse(text: &str) -> Result<Self> {
        let charset = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if !(1..=127).contains(&text.len()) || !text.bytes().all(charset) {
            return Err(Error::class(format!(
                "invalid objectName: \"{}\", should be 1 to 127 letters, digits or dashes",
                printable(text, QUOTED)
            ))
            .fix("the version goes into objectVersion, a file name into objectAlias"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Version {
    /// Checks a version; blank and `latest` are the newest.
    ///
    /// # Errors
    /// ClassInvalid when it could be no version id.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() || text == "latest" {
            return Ok(Version::Latest);
        }
        if text.len() > 32 || !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Error::class(format!(
                "invalid objectVersion: \"{}\", should be at most 32 letters or digits",
                printable(text, QUOTED)
            ))
            .fix("use the 32 hexadecimal digits that end the version's identifier, or leave it blank"));
        }
        Ok(Version::Exact(text.to_owned()))
    }

    /// The text of an exact version; blank for the latest.
    pub fn as_str(&self) -> &str {
        match self {
            Version::Latest => "",
            Version::Exact(version) => version,
        }
    }
}

/// The newtypes share their reading side.
macro_rules! reading_side {
    ($($name:ident),*) => {$(
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
reading_side!(VaultName, Tenant, ObjectName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u24_vault_names() {
        for (name, text) in [
            ("longkeyvaultnamewhichisnotvalid", "must be between 3 and 24 chars"),
            ("kv", "must be between 3 and 24 chars"),
            ("kv_test", "must match [-a-zA-Z0-9]{3,24}"),
            ("kv.evil.test", "must match"),
            ("kv/x", "must match"),
            ("k\u{e9}v", "must match"),
        ] {
            let error = VaultName::parse(name).unwrap_err();
            assert!(error.message().starts_with("Invalid vault name: \""), "{error}");
            assert!(error.message().contains(text), "{error}");
        }
        for name in ["testkv", "0kv", "-kv-", "abcdefghijklmnopqrstuvwx"] {
            assert_eq!(VaultName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn tenants_are_one_path_segment() {
        for good in ["11111111-2222-3333-4444-555555555555", "contoso.onmicrosoft.com", "adfs"] {
            assert_eq!(Tenant::parse(good).unwrap().as_str(), good);
        }
        let long = "a".repeat(254);
        for bad in ["", ".", "-", "..", "a..b", "a/b", "a b", "a%2f", "a\\b", "t\u{e9}", &long] {
            let error = Tenant::parse(bad).unwrap_err();
            assert!(error.message().starts_with("invalid tenantID \""), "{error}");
            assert!(error.message().len() < 100, "{error}");
        }
    }

    #[test]
    fn object_names_cannot_change_the_path() {
        for bad in [
            "",
            "..",
            "plain/v1",
            "a b",
            "a_b",
            "a.b",
            "a?b",
            "a%2fb",
            "\u{200b}",
            &"n".repeat(128),
        ] {
            assert!(ObjectName::parse(bad).is_err(), "{bad}");
        }
        assert!(ObjectName::parse(&"n".repeat(127)).is_ok());
    }

    #[test]
    fn latest_and_blank_are_the_newest() {
        assert_eq!(Version::parse("").unwrap(), Version::Latest);
        assert_eq!(Version::parse("latest").unwrap(), Version::Latest);
        assert_eq!(Version::parse("0123").unwrap().as_str(), "0123");
        for bad in ["..", "a/b", "v 1", "a-b", &"0".repeat(33)] {
            assert!(Version::parse(bad).is_err(), "{bad}");
        }
    }
}
