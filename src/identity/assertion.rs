//! Service account tokens: reading one from a file, and its end.

use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};
use crate::secret::Secret;

use super::MAX_ASSERTION;

type Read = fn(&Path, usize) -> Result<Zeroizing<Vec<u8>>>;

/// Reads a token's file, anew on each use: kubelet and others rotate it.
pub(super) async fn read(path: &Path, how: Read) -> Result<Secret> {
    let failed = |error: Error| {
        Error::new(Code::IdentityUnavailable, error.to_string()).context("token file")
    };
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || how(&path, MAX_ASSERTION));
    let text = read
        .await
        .unwrap_or_else(|_| Err(Error::new(Code::Internal, "it was not read")))
        .map_err(failed)?;
    let token = text.trim_ascii();
    if token.is_empty() {
        return Err(failed(Error::class("the file is empty")));
    }
    Ok(Secret::new(token.to_vec()))
}

/// `exp` of a JWT, read only after the token service accepted the token.
pub(super) fn expiry(assertion: &Secret) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Claims {
        exp: Option<f64>,
    }
    let payload = assertion.expose().split(|byte| *byte == b'.').nth(1)?;
    let json = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload).ok()?);
    let seconds = serde_json::from_slice::<Claims>(&json).ok()?.exp?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::{Assertion, Claim, Tenant};
    use crate::identity::usable_until;

    fn token(payload: &str) -> Secret {
        Secret::from_string(format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(payload)))
    }

    #[test]
    fn the_end_is_read_where_there_is_one_and_nothing_panics() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(expiry(&token(r#"{"exp":1700000000}"#)), Some(at(1_700_000_000)));
        for broken in [r#"{"exp":-1}"#, r#"{"exp":1e300}"#, r#"{"exp":"x"}"#, "{}", "["] {
            assert_eq!(expiry(&token(broken)), None, "{broken}");
        }
        assert_eq!(expiry(&Secret::from("no dots")), None);
        assert_eq!(expiry(&Secret::from("a.%%%.c")), None);
    }

    #[test]
    fn only_a_token_that_was_handed_over_ends() {
        let claim = |assertion| Claim::Workload {
            tenant: Tenant::parse("tenant").unwrap(),
            client_id: "client".to_owned(),
            assertion,
        };
        let token = token(r#"{"exp":1700000000}"#);
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 - 30);
        assert_eq!(usable_until(&claim(Assertion::Token(token))), Some(end));
        assert_eq!(usable_until(&claim(Assertion::Token(Secret::from("opaque")))), None);
        assert_eq!(usable_until(&claim(Assertion::File("token".into()))), None);
        assert_eq!(usable_until(&Claim::Managed { client_id: None }), None);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_token_file_is_trimmed_bounded_and_private() {
        use crate::secret::file;
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let write = |text: &[u8], mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        write(b" abc\n", 0o600);
        let read = async |path: &Path| read(path, file::read).await;
        assert_eq!(read(&path).await.unwrap().expose(), b"abc");
        for (text, mode, expected) in [
            (&[b'x'; MAX_ASSERTION + 1][..], 0o600, "larger than 16384 bytes"),
            (b" \n", 0o600, "empty"),
            (b"abc", 0o644, "chmod 600"),
            (b"abc", 0o640, "chmod 600"),
        ] {
            write(text, mode);
            let error = read(&path).await.unwrap_err();
            assert_eq!(error.code(), Code::IdentityUnavailable);
            assert!(error.to_string().contains(expected), "{error}");
        }
        // kubelet's own modes are not the reader's fault.
        write(b"abc", 0o644);
        assert_eq!(super::read(&path, file::read_shared).await.unwrap().expose(), b"abc");
        assert!(read(dir.path()).await.unwrap_err().to_string().contains("not a regular file"));
    }
}
