//! Managed identity of this machine, from whichever service the machine has.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use zeroize::Zeroizing;

use crate::cloud::Machine;
use crate::error::{Code, Error, Hop, Result};
use crate::http::{Answer, Exchange, Http, exchange, retry_after};
use crate::secret::Secret;

use super::{Token, imds};

const MAX_BODY: usize = 64 * 1024;
/// One request; these services are on this machine.
const TRY: Duration = Duration::from_secs(5);
/// Largest key file of the Azure Arc agent.
const MAX_KEY: u64 = 4096;

/// Asks once for a token for `scope` of the identity with this client id, or of the system-assigned one.
pub(super) async fn token(
    http: &Http,
    client_id: Option<&str>,
    scope: &str,
    deadline: Instant,
) -> Result<Token> {
    let resource = scope.strip_suffix("/.default").unwrap_or(scope);
    match &http.endpoints().machine {
        Machine::Imds => imds::token(http, client_id, scope, deadline).await,
        Machine::AppService { endpoint, header } => {
            let service = Service { http, endpoint, what: "the App Service identity endpoint" };
            let mut query = vec![("api-version", "2019-08-01"), ("resource", resource)];
            query.extend(client_id.map(|id| ("client_id", id)));
            let header = ("x-identity-header", secret_value("", header)?);
            let answer = service.get(&query, &[header], deadline).await?;
            service.token(&answer)
        }
        Machine::Arc { endpoint, keys } => {
            if client_id.is_some() {
                return Err(unavailable("Azure Arc servers have no user-assigned identities")
                    .fix("leave userAssignedIdentityID (or --client-id) blank"));
            }
            let service = Service { http, endpoint, what: "the Azure Arc agent" };
            service.challenged(resource, keys, deadline).await
        }
        Machine::Unsupported(name) => {
            Err(unavailable(format!("managed identity in {name} is not supported"))
                .fix("use a service principal or workload identity"))
        }
    }
}

/// Whether a managed identity is likely to work here, found out within a second.
pub(super) async fn answers(http: &Http) -> bool {
    match http.endpoints().machine {
        Machine::Imds => imds::answers(http).await,
        Machine::AppService { .. } | Machine::Arc { .. } => true,
        Machine::Unsupported(_) => false,
    }
}

/// What a service that could not be reached means here.
pub(super) fn explain(http: &Http, error: Error) -> Error {
    let reached = !matches!(error.code(), Code::Unavailable | Code::TimedOut);
    match &http.endpoints().machine {
        _ if reached || error.status().is_some() => error,
        Machine::Imds => imds::unreachable(&error),
        _ => unavailable(error.message().to_owned())
            .fix("check IDENTITY_ENDPOINT and that the service runs; it is set by the platform"),
    }
}

/// A token service on this machine.
struct Service<'a> {
    http: &'a Http,
    endpoint: &'a str,
    what: &'static str,
}

impl Service<'_> {
    async fn get(
        &self,
        query: &[(&str, &str)],
        headers: &[(&'static str, HeaderValue)],
        deadline: Instant,
    ) -> Result<Answer> {
        if !self.endpoint.starts_with("http://") {
            return Err(unavailable("IDENTITY_ENDPOINT does not begin with http://"));
        }
        let mut request = self.http.link_local()?.get(self.endpoint).query(query);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let limits = Exchange {
            hop: Hop::Imds,
            what: self.what,
            max_body: MAX_BODY,
            deadline: deadline.min(Instant::now() + TRY),
        };
        exchange(request, limits).await
    }

    fn token(&self, answer: &Answer) -> Result<Token> {
        if answer.status == 200 {
            return imds::parse(&answer.body, self.what);
        }
        let code = match answer.status {
            429 => Code::Throttled,
            500.. => Code::Unavailable,
            _ => Code::IdentityUnavailable,
        };
        Err(Error::new(code, format!("{}: RESPONSE {}", self.what, answer.status))
            .at(Hop::Imds)
            .answered(answer.status, None)
            .retry_after(retry_after(&answer.headers))
            .fix("assign the identity to this app or server, and check its client id"))
    }

    /// Azure Arc: the agent answers 401 and names a file that only its group may read. Whoever can
    /// send its content may have the token.
    async fn challenged(&self, resource: &str, keys: &Path, deadline: Instant) -> Result<Token> {
        let query = [("api-version", "2020-06-01"), ("resource", resource)];
        let metadata = ("metadata", HeaderValue::from_static("true"));
        let answer = self.get(&query, std::slice::from_ref(&metadata), deadline).await?;
        if answer.status != 401 {
            return self.token(&answer);
        }
        let challenge = answer.headers.get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        let path = key_file(challenge.unwrap_or_default(), keys).ok_or_else(|| {
            Error::new(
                Code::BadAnswer,
                format!("the Azure Arc agent does not name a .key file in {}", keys.display()),
            )
            .at(Hop::Imds)
        })?;
        let read = tokio::task::spawn_blocking(move || read_key(&path)).await;
        let key = read.unwrap_or_else(|_| Err(unavailable("the agent's key was not read")))?;
        let basic = (AUTHORIZATION.as_str(), secret_value("Basic ", &key)?);
        let answer = self.get(&query, &[metadata, ("authorization", basic.1)], deadline).await?;
        self.token(&answer)
    }
}

/// The file of `Basic realm=PATH`: directly in the agent's directory and nowhere else, since its
/// content is sent to whoever answers at the endpoint.
fn key_file(challenge: &str, keys: &Path) -> Option<PathBuf> {
    let realm = challenge.strip_prefix("Basic realm=")?.trim_matches('"');
    let path = Path::new(realm);
    let name = path.file_name()?.to_str()?;
    // Compared as text: `..` and links have no say in it.
    let direct = keys.join(name).as_os_str() == path.as_os_str();
    (direct && name.len() > 4 && name.ends_with(".key")).then(|| path.to_owned())
}

fn read_key(path: &Path) -> Result<Secret> {
    use std::io::Read;
    let failed = |what: &str| {
        unavailable(format!("the Azure Arc agent's key file {}: {what}", path.display()))
            .fix("run as root or as a member of the group himds")
    };
    let metadata =
        std::fs::symlink_metadata(path).map_err(|error| failed(&error.kind().to_string()))?;
    if !metadata.is_file() || metadata.len() > MAX_KEY {
        return Err(failed("not a regular file of at most 4096 bytes"));
    }
    let file = std::fs::File::open(path).map_err(|error| failed(&error.kind().to_string()))?;
    let mut key = Zeroizing::new(Vec::with_capacity(4096));
    file.take(MAX_KEY).read_to_end(&mut key).map_err(|error| failed(&error.kind().to_string()))?;
    Ok(Secret::new(std::mem::take(&mut *key)))
}

/// A header that is not shown in anybody's debug text.
fn secret_value(prefix: &str, secret: &Secret) -> Result<HeaderValue> {
    let text = Zeroizing::new([prefix.as_bytes(), secret.expose()].concat());
    let mut value = HeaderValue::from_bytes(&text)
        .map_err(|_| unavailable("the credential of the token service cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn unavailable(message: impl Into<String>) -> Error {
    Error::new(Code::IdentityUnavailable, message).at(Hop::Imds)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_named_in_one_directory_only() {
        let keys = Path::new("/var/opt/azcmagent/tokens");
        let named = |path: &str| key_file(&format!("Basic realm={path}"), keys);
        let good = "/var/opt/azcmagent/tokens/a-1.key";
        assert_eq!(named(good), Some(good.into()));
        assert_eq!(named(&format!("\"{good}\"")), Some(good.into()));
        for bad in [
            "/etc/shadow",
            "/var/opt/azcmagent/tokens/../secret.key",
            "/var/opt/azcmagent/tokens/x/a.key",
            "/var/opt/azcmagent/tokens//a.key",
            "/var/opt/azcmagent/tokens/./a.key",
            "/var/opt/azcmagent/tokens/a.txt",
            "/var/opt/azcmagent/tokens/.key",
            "a.key",
            "",
        ] {
            assert_eq!(named(bad), None, "{bad}");
        }
        assert_eq!(key_file(&format!("Bearer realm={good}"), keys), None);
    }

    #[test]
    fn a_key_file_is_small_regular_and_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        std::fs::write(&path, [b'x'; 4096]).unwrap();
        assert_eq!(read_key(&path).unwrap().len(), 4096);
        let link = dir.path().join("b.key");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        std::fs::write(&path, [b'x'; 4097]).unwrap();
        for bad in [path.as_path(), &link, dir.path(), Path::new("/nonexistent/a.key")] {
            assert_eq!(read_key(bad).unwrap_err().code(), Code::IdentityUnavailable);
        }
    }
}
