//! Service account tokens: reading one from a file, and its end.

use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};
use crate::secret::Secret;

use super::MAX_ASSERTION;

/// Reads `--token-file`, anew on each use: kubelet and others rotate it.
pub(super) async fn read(path: &Path) -> Result<Secret> {
    let failed = |reason: String| {
        Error::new(Code::IdentityUnavailable, format!("token file {}: {reason}", path.display()))
            .fix("check --token-file and that this user may read it")
    };
    let file =
        tokio::fs::File::open(path).await.map_err(|error| failed(error.kind().to_string()))?;
    // One byte more than allowed, so that a longer file is seen as such; no growth, no copies.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_ASSERTION + 1));
    file.take(MAX_ASSERTION as u64 + 1)
        .read_to_end(&mut text)
        .await
        .map_err(|error| failed(error.kind().to_string()))?;
    if text.len() > MAX_ASSERTION {
        return Err(failed("longer than 16 KiB".to_owned()));
    }
    let token = text.trim_ascii();
    if token.is_empty() {
        return Err(failed("empty".to_owned()));
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

    #[tokio::test]
    async fn a_token_file_is_trimmed_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, " abc\n").unwrap();
        assert_eq!(read(&path).await.unwrap().expose(), b"abc");
        std::fs::write(&path, vec![b'x'; MAX_ASSERTION + 1]).unwrap();
        assert!(read(&path).await.unwrap_err().to_string().contains("longer than 16 KiB"));
        std::fs::write(&path, " \n").unwrap();
        assert!(read(&path).await.unwrap_err().to_string().contains("empty"));
    }
}
