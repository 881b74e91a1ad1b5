//! The login of a person: tokens from the Azure CLI.
//!
//! `az` is asked as a process with a deadline and bounded output. Who it logged in is read from the
//! token it gave, and only to keep that person's values apart from others'.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::error::{Code, Error, Hop, Result};
use crate::process;
use crate::secret::Secret;

use super::Token;
use super::lifetime::Expiry;

/// One run; starting Python alone takes a second or two.
const LIMIT: Duration = Duration::from_secs(30);
const MAX_OUTPUT: usize = 64 * 1024;
/// What helps when Entra does not accept the login any more.
const LOG_IN: &str = "run az login (with --tenant, if the vault is in another one)";

/// Who is logged in.
pub(super) struct Person {
    pub(super) tenant: String,
    pub(super) object_id: String,
}

/// A token for `scope` of whoever is logged in, in this tenant if one is named.
pub(super) async fn token(
    program: &Path,
    tenant: Option<&str>,
    scope: &str,
    deadline: Instant,
) -> Result<(Token, Person)> {
    let resource = scope.strip_suffix("/.default").unwrap_or(scope);
    let mut command = Command::from(process::stranger(program));
    command.args(["account", "get-access-token", "--output", "json", "--resource", resource]);
    if let Some(tenant) = tenant {
        command.args(["--tenant", tenant]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let deadline = deadline.min(Instant::now() + LIMIT);
    let late = || {
        Error::new(Code::TimedOut, "az gave no token before the deadline")
            .at(Hop::Entra)
            .fix("run az account get-access-token yourself to see what it waits for")
    };
    let output = tokio::time::timeout_at(deadline.into(), run(command));
    let Output { ok, stdout, stderr } = output.await.unwrap_or_else(|_| Err(late()))?;
    if !ok {
        return Err(refused(&stderr));
    }
    parse(&stdout)
}

struct Output {
    ok: bool,
    stdout: Secret,
    stderr: Secret,
}

async fn run(mut command: Command) -> Result<Output> {
    let failed = |what: &str| {
        Error::new(Code::IdentityUnavailable, format!("az cannot be run: {what}"))
            .at(Hop::Entra)
            .fix("install the Azure CLI, or choose another --identity")
    };
    // A script that starts another program: both must end when nobody waits for them.
    let mut group =
        process::spawn_group(&mut command).map_err(|error| failed(&error.kind().to_string()))?;
    let (stdout, stderr) = (group.child.stdout.take(), group.child.stderr.take());
    let (stdout, stderr) = tokio::try_join!(read(stdout), read(stderr))
        .map_err(|_| failed("its output is too long or breaks off"))?;
    let status = group.child.wait().await.map_err(|error| failed(&error.kind().to_string()))?;
    Ok(Output { ok: status.success(), stdout, stderr })
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<Secret> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_OUTPUT + 1));
    if let Some(pipe) = pipe {
        pipe.take(MAX_OUTPUT as u64 + 1).read_to_end(&mut bytes).await?;
    }
    if bytes.len() > MAX_OUTPUT {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    Ok(Secret::new(std::mem::take(&mut *bytes)))
}

/// What az prints may quote anything, so only what is known is told.
fn refused(stderr: &Secret) -> Error {
    let said = |text: &str| stderr.expose().windows(text.len()).any(|part| part == text.as_bytes());
    let error = Error::new(Code::Unauthenticated, "az gave no token").at(Hop::Entra);
    if said("az login") || said("AADSTS") {
        return error.fix(LOG_IN);
    }
    error.fix("run az account get-access-token yourself to see why")
}

/// Whether the login is over, and not only az unable to say.
pub(super) fn needs_login(error: &Error) -> bool {
    error.likely_fix() == Some(LOG_IN)
}

fn parse(stdout: &Secret) -> Result<(Token, Person)> {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(rename = "accessToken")]
        access_token: Secret,
        expires_on: Option<Expiry>,
    }
    let bad = |what: &str| {
        Error::new(Code::BadAnswer, format!("az gave no usable token: {what}"))
            .at(Hop::Entra)
            .fix("update the Azure CLI")
    };
    let wire: Wire = serde_json::from_slice(stdout.expose()).map_err(|_| bad("no accessToken"))?;
    let claims =
        Claims::of(&wire.access_token).ok_or_else(|| bad("it names no tenant and object"))?;
    // Older versions say when it ends in local time only; the token itself knows better.
    let expires = match wire.expires_on {
        Some(expiry) => expiry.time(),
        None => SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp)),
    };
    let expires = expires.ok_or_else(|| bad("its end is not a time"))?;
    let person = Person { tenant: claims.tid, object_id: claims.oid };
    Ok((Token { bearer: wire.access_token, expires }, person))
}

#[derive(Deserialize)]
struct Claims {
    tid: String,
    oid: String,
    exp: u64,
}

impl Claims {
    fn of(token: &Secret) -> Option<Self> {
        let payload = token.expose().split(|byte| *byte == b'.').nth(1)?;
        let json = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload).ok()?);
        let claims: Self = serde_json::from_slice(&json).ok()?;
        let fits = |text: &str| (1..=128).contains(&text.len());
        (fits(&claims.tid) && fits(&claims.oid)).then_some(claims)
    }
}

#[cfg(all(test, unix))]
mod tests;
