//! Key Vault over REST: three object types, by name and version, and their lists.
//!
//! This module knows URLs, the challenge, JSON models and errors of the data plane. It knows nothing
//! of files, aliases or rendering. A request carries the proof's token from the start; a 401 with a
//! challenge for another resource is honoured once, and only when the vault's host lies below the
//! challenge's host, so that no token is ever sent to a place that merely asked for one. The first
//! request to a custom cloud carries none: its challenge tells the scope ([`Vault::scope`]).

mod answer;
mod ask;
pub(crate) mod challenge;
mod limiter;
pub mod model;

use std::time::Instant;

use crate::class::{ObjectKind, ObjectName, VaultName};
use crate::cloud::Cloud;
use crate::error::{Code, Error, Hop, Result};
use crate::fetch::ObjectRef;
use crate::http::{Answer, Exchange, Http};
use crate::identity::Proof;
use crate::telemetry::metrics;

use answer::{Asked, Page};
pub use ask::{Ask, Urgency};
use limiter::{Limiter, Request};
pub use model::{Body, Jwk, ListedVersion, Names, ObjectVersion};

/// The data plane version we speak; upstream's too.
const API_VERSION: &str = "7.4";
/// Largest accepted object: a secret's value is at most 25 KiB, a certificate's chain a bit more.
const MAX_OBJECT: usize = 256 * 1024;
/// Largest accepted page of a list.
const MAX_PAGE: usize = 1024 * 1024;
/// Longest link from page to page; errors quote a part of it.
const MAX_LINK: usize = 4096;
/// Most pages followed: 10,000 entries at 25 a page.
const MAX_PAGES: usize = 400;

/// One vault of one cloud.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VaultRef {
    /// The cloud it lies in.
    pub cloud: Cloud,
    /// Its name.
    pub name: VaultName,
}

impl VaultRef {
    /// `https://NAME.SUFFIX`, without a trailing slash.
    pub fn url(&self) -> String {
        self.cloud.vault_url(&self.name)
    }
}

/// The data plane client. Clones share what they know of the vaults' limits.
#[derive(Clone, Debug)]
pub struct Vault {
    http: Http,
    limiter: Limiter,
}

impl Vault {
    /// A client over these connections.
    pub fn new(http: Http) -> Self {
        let limiter = Limiter::new(http.clock().clone(), http.retry());
        Self { http, limiter }
    }

    /// What keeps the vault at this URL from answering, if it is in an outage, for a caller who stops
    /// waiting for `what`.
    pub(crate) fn trouble(&self, vault: &str, what: &str) -> Option<Error> {
        self.limiter.trouble(vault, what)
    }

    /// The scope to prove an identity for: the table's for a named cloud, the vault's own challenge
    /// for a custom one.
    pub async fn scope(
        &self,
        vault: &VaultRef,
        kind: ObjectKind,
        deadline: Instant,
    ) -> Result<String> {
        if vault.cloud.named {
            return Ok(format!("{}/.default", vault.cloud.resource));
        }
        let (vault, ask) = (vault.url(), Ask::first(deadline));
        let url = format!("{vault}/{}", kind.collection());
        let what = format!("GET {url}");
        let attempt = |limit| {
            let url = &url;
            async move {
                let answer = self.request(url, None, MAX_PAGE, limit).await?;
                if answer.status != 401 {
                    return Err(answer::refused(Asked::List, url, &answer));
                }
                challenge::scope(&answer, url)
            }
        };
        let request = Request { vault: &vault, identity: None, what: &what, ask: &ask };
        self.limiter.run(request, attempt).await
    }

    /// One object version.
    pub async fn get(
        &self,
        proof: &Proof,
        vault: &VaultRef,
        object: &ObjectRef,
        ask: &Ask,
    ) -> Result<ObjectVersion> {
        let vault = vault.url();
        let url = format!(
            "{vault}/{}/{}/{}",
            object.kind.collection(),
            object.name,
            object.version.as_str()
        );
        let begun = Instant::now();
        let answer = self.authorized(proof, &vault, Asked::Object, &url, ask).await;
        let outcome = answer.and_then(|answer| answer::object(object, &url, &answer));
        if let Ok(found) = &outcome {
            let (object_type, version) = (object.kind.as_str(), &found.version);
            tracing::trace!(object_type, object_name = %object.name, version, "object fetched");
        }
        metrics::keyvault_request(object.kind, object.name.as_str(), begun.elapsed(), &outcome);
        outcome
    }

    /// Names of the enabled objects of a kind, all pages up to `max_names`.
    pub async fn list(
        &self,
        proof: &Proof,
        vault: &VaultRef,
        kind: ObjectKind,
        max_names: usize,
        ask: &Ask,
    ) -> Result<Names> {
        let vault = vault.url();
        let first = format!("{vault}/{}", kind.collection());
        let read = |answer: &Answer| answer::names(kind, &first, answer);
        let begun = Instant::now();
        let outcome = self.pages(proof, &vault, &first, max_names, read, ask).await;
        metrics::keyvault_request(kind, "", begun.elapsed(), &outcome);
        let Items { items: names, more } = outcome?;
        Ok(Names { names, more })
    }

    /// Every version of an object, the disabled ones too, all pages, in the vault's order.
    pub async fn versions(
        &self,
        proof: &Proof,
        vault: &VaultRef,
        kind: ObjectKind,
        name: &ObjectName,
        max_versions: usize,
        ask: &Ask,
    ) -> Result<Vec<ListedVersion>> {
        let vault = vault.url();
        let first = format!("{vault}/{}/{name}/versions", kind.collection());
        let read = |answer: &Answer| answer::versions(kind, &first, answer);
        let begun = Instant::now();
        let outcome = self.pages(proof, &vault, &first, max_versions, read, ask).await;
        metrics::keyvault_request(kind, name.as_str(), begun.elapsed(), &outcome);
        match outcome? {
            Items { items, more: false } => Ok(items),
            _ => {
                let what = format!("GET {first}: the list has more than {max_versions} entries");
                Err(Error::new(Code::TooLarge, what).at(Hop::Vault))
            }
        }
    }

    /// The pages of a list, bounded: at most so many items, of at most [`MAX_PAGES`].
    async fn pages<T>(
        &self,
        proof: &Proof,
        vault: &str,
        first: &str,
        max_items: usize,
        read: impl Fn(&Answer) -> Result<Page<T>>,
        ask: &Ask,
    ) -> Result<Items<T>> {
        let mut items = Vec::new();
        let mut next = Some(first.to_owned());
        let mut asked = None;
        let mut more = true;
        for _ in 0..MAX_PAGES {
            let Some(url) = next.take() else { break };
            let answer = self.authorized(proof, vault, Asked::List, &url, ask).await?;
            asked = asked.or(ask.patience.asked());
            let page = read(&answer)?;
            items.extend(page.items);
            more = page.next.is_some() || items.len() > max_items;
            if items.len() > max_items {
                items.truncate(max_items);
                break;
            }
            next = page.next.map(|link| same_origin(&link, first)).transpose()?;
        }
        // The whole is as old as its first page.
        asked.inspect(|asked| ask.patience.answered(*asked));
        Ok(Items { items, more })
    }

    /// GET with the proof's token; tried again while the vault is only busy.
    async fn authorized(
        &self,
        proof: &Proof,
        vault: &str,
        asked: Asked,
        url: &str,
        ask: &Ask,
    ) -> Result<Answer> {
        let max_body = match asked {
            Asked::Object => MAX_OBJECT,
            Asked::List => MAX_PAGE,
        };
        let clock = self.http.clock();
        let attempt = |limit| async move {
            let sent = clock.now();
            let answer = self.request(url, Some(proof), max_body, limit).await?;
            ask.patience.answered(sent);
            match answer.status {
                200 => Ok(answer),
                401 => Err(challenge::unauthorized(&answer, url, proof.scope())),
                _ => {
                    let error = answer::refused(asked, url, &answer);
                    if error.is_firewall() {
                        // Perhaps only at the old address of a vault that has moved.
                        self.http.renew();
                    }
                    Err(error)
                }
            }
        };
        let what = format!("GET {}", without_query(url));
        let request = Request { vault, identity: Some(proof.identity()), what: &what, ask };
        self.limiter.run(request, attempt).await
    }

    async fn request(
        &self,
        url: &str,
        proof: Option<&Proof>,
        max_body: usize,
        deadline: Instant,
    ) -> Result<Answer> {
        let mut request = self.http.secure()?.get(url);
        if !url.contains("api-version=") {
            request = request.query(&[("api-version", API_VERSION)]);
        }
        if let Some(proof) = proof {
            request = request.header(reqwest::header::AUTHORIZATION, bearer(proof)?);
        }
        let what = format!("GET {}", without_query(url));
        self.http
            .exchange(request, Exchange { hop: Hop::Vault, what: &what, max_body, deadline })
            .await
    }
}

/// What a list has, and whether it goes on.
struct Items<T> {
    items: Vec<T>,
    more: bool,
}

/// `Bearer TOKEN`, marked sensitive so that no layer below shows it.
fn bearer(proof: &Proof) -> Result<reqwest::header::HeaderValue> {
    let mut text = zeroize::Zeroizing::new(Vec::with_capacity(7 + proof.bearer().len()));
    text.extend_from_slice(b"Bearer ");
    text.extend_from_slice(proof.bearer().expose());
    let mut value = reqwest::header::HeaderValue::from_bytes(&text)
        .map_err(|_| Error::new(Code::BadAnswer, "the token is not a header value"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

/// A list's `nextLink` must stay at the vault: same scheme, host and port.
fn same_origin(link: &str, first: &str) -> Result<String> {
    let refused = || {
        Error::new(
            Code::BadAnswer,
            format!("GET {first}: the list continues at another host, which is not followed"),
        )
        .at(Hop::Vault)
    };
    let (next, origin) = (
        reqwest::Url::parse(link).map_err(|_| refused())?,
        reqwest::Url::parse(first).map_err(|_| refused())?,
    );
    let here =
        next.origin() == origin.origin() && next.username().is_empty() && next.password().is_none();
    if !here || link.len() > MAX_LINK {
        return Err(refused());
    }
    Ok(next.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_continue_at_the_same_origin_only() {
        let first = "https://kv.vault.azure.net/secrets";
        assert!(same_origin("https://kv.vault.azure.net:443/secrets?$skiptoken=x", first).is_ok());
        for link in [
            "http://kv.vault.azure.net/secrets",
            "https://kv.vault.azure.net:8443/secrets",
            "https://other.vault.azure.net/secrets",
            "https://kv.vault.azure.net.evil.test/secrets",
            "https://user@kv.vault.azure.net/secrets",
            "/secrets?x",
            &format!("https://kv.vault.azure.net/{}", "a".repeat(MAX_LINK)),
            "",
        ] {
            assert!(same_origin(link, first).is_err(), "{link}");
        }
    }
}
