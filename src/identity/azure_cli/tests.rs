use super::*;

use std::os::unix::fs::PermissionsExt;

const SCOPE: &str = "https://vault.azure.net/.default";

/// A program that stands for az.
struct Az(tempfile::TempDir);

impl Az {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("az");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        Self(dir)
    }

    async fn token(&self, tenant: Option<&str>, limit: Duration) -> Result<(Token, Person)> {
        token(&self.0.path().join("az"), tenant, SCOPE, Instant::now() + limit).await
    }
}

const PATIENCE: Duration = Duration::from_secs(30);

fn jwt(claims: &str) -> String {
    format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims))
}

#[tokio::test]
async fn the_token_says_who_is_logged_in() {
    let token = jwt(r#"{"tid":"T","oid":"O","exp":1700000000}"#);
    // It answers with its own arguments in the place of the tenant that az prints.
    let script = format!(
        "test -z \"$AZURE_CLIENT_SECRET\" || exit 9\n\
         printf '{{\"accessToken\":\"{token}\",\"tenant\":\"%s\"}}' \"$*\" | tee \"$0.said\""
    );
    let az = Az::new(&script);
    let (token, person) = az.token(Some("contoso"), PATIENCE).await.unwrap();
    assert_eq!((person.tenant.as_str(), person.object_id.as_str()), ("T", "O"));
    assert_eq!(token.expires, SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    let said = std::fs::read_to_string(az.0.path().join("az.said")).unwrap();
    let expected = "account get-access-token --output json --resource https://vault.azure.net \
                    --tenant contoso";
    assert!(said.contains(expected), "{said}");
}

#[tokio::test]
async fn what_az_says_wrongly_is_an_error_without_its_text() {
    let no_oid = jwt(r#"{"tid":"T","exp":1}"#);
    let good = jwt(r#"{"tid":"T","oid":"O","exp":1}"#);
    for (script, code, text) in [
        (
            "echo canary >&2; echo run az login >&2; exit 1".to_owned(),
            Code::Unauthenticated,
            "run az login",
        ),
        ("echo canary >&2; exit 1".to_owned(), Code::Unauthenticated, "no token"),
        ("echo canary".to_owned(), Code::BadAnswer, "no accessToken"),
        (format!("echo '{{\"accessToken\":\"{no_oid}\"}}'"), Code::BadAnswer, "names no tenant"),
        ("echo '{\"accessToken\":\"canary\"}'".to_owned(), Code::BadAnswer, "names no tenant"),
        (
            format!("echo '{{\"accessToken\":\"{good}\",\"expires_on\":\"canary\"}}'"),
            Code::BadAnswer,
            "not a time",
        ),
        ("yes canary | head -c 100000".to_owned(), Code::IdentityUnavailable, "too long"),
    ] {
        let error = Az::new(&script).token(None, PATIENCE).await.err().unwrap();
        assert_eq!(error.code(), code, "{script}: {error}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(!format!("{error:?}").contains("canary"), "{error}");
    }
    let nothing = token(Path::new("/nonexistent/az"), None, SCOPE, Instant::now() + PATIENCE).await;
    assert_eq!(nothing.err().unwrap().code(), Code::IdentityUnavailable);
}

/// A login that waits for somebody is ended, with what it started.
#[tokio::test]
async fn an_az_that_waits_is_ended_with_its_children() {
    let az = Az::new("sleep 1000 & echo $! > \"$0.child\"; wait");
    let error = az.token(None, Duration::from_secs(2)).await.err().unwrap();
    assert_eq!(error.code(), Code::TimedOut, "{error}");
    let child = std::fs::read_to_string(az.0.path().join("az.child")).unwrap();
    let state = format!("/proc/{}/stat", child.trim());
    let gone = || std::fs::read_to_string(&state).map_or(true, |stat| stat.contains(") Z "));
    for _ in 0..1000 {
        if gone() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the child of az still runs");
}
