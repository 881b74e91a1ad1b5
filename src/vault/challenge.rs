//! The vault's 401 challenge: which resource it wants a token for, and whether to believe it.
//!
//! Protocol: "Authentication, requests and responses" of Key Vault:
//! `WWW-Authenticate: Bearer authorization="https://login.../TENANT", resource="https://vault..."`,
//! or `scope="https://vault.../.default"`. The tenant in it is ignored: the class names one.

use reqwest::Url;

use crate::error::{Code, Error, Hop, Result};
use crate::http::Answer;

use super::answer::traced;

/// Longest header that is looked at.
const MAX_HEADER: usize = 4096;
/// Longest resource; errors quote it.
const MAX_RESOURCE: usize = 512;

/// The scope a 401 asks for, after the domain check.
pub(crate) fn scope(answer: &Answer, url: &str) -> Result<String> {
    let what = format!("GET {}", super::without_query(url));
    let bad = |why: &str| {
        Error::new(Code::BadAnswer, format!("{what}: RESPONSE 401 {why}"))
            .at(Hop::Vault)
            .answered(401, None)
    };
    let header = answer
        .headers
        .get(reqwest::header::WWW_AUTHENTICATE)
        .and_then(|value| value.to_str().ok())
        .filter(|text| text.len() <= MAX_HEADER)
        .ok_or_else(|| bad("without a challenge"))?;
    let resource = parameter(header, "resource")
        .or_else(|| parameter(header, "scope").map(|scope| scope.trim_end_matches("/.default")))
        .map(|resource| resource.trim_end_matches('/'))
        .ok_or_else(|| bad("with a challenge that names no resource"))?;
    check_domain(resource, url).map_err(|why| {
        bad(why).fix(
            "no token was sent; check keyvaultName, cloudName and whatever answers at this name",
        )
    })?;
    Ok(format!("{resource}/.default"))
}

/// A 401 although a token was sent.
pub(super) fn unauthorized(answer: &Answer, url: &str, used_scope: &str) -> Error {
    let what = format!("GET {}", super::without_query(url));
    match scope(answer, url) {
        Ok(wanted) if wanted != used_scope => Error::new(
            Code::Unauthenticated,
            format!("{what}: RESPONSE 401: the vault wants a token for {wanted}{}", traced(answer)),
        )
        .at(Hop::Vault)
        .answered(401, None)
        .wants_scope(wanted)
        .fix("check cloudName"),
        Ok(_) => {
            Error::new(Code::Unauthenticated, format!("{what}: RESPONSE 401{}", traced(answer)))
                .at(Hop::Vault)
                .answered(401, None)
                .fix("the tenant of the vault must be the one that gave the token: check tenantID")
        }
        Err(error) => error,
    }
}

/// The vault's host must lie below the resource's host; otherwise anyone who answers at a vault's name
/// could collect tokens for a resource of their choice.
fn check_domain(resource: &str, url: &str) -> std::result::Result<(), &'static str> {
    let wanted = Url::parse(resource).map_err(|_| "whose resource is not a URL")?;
    let vault = Url::parse(url).map_err(|_| "from an unusable URL")?;
    let plain = wanted.scheme() == "https"
        && wanted.username().is_empty()
        && wanted.password().is_none()
        && wanted.query().is_none()
        && wanted.fragment().is_none();
    if !plain || resource.len() > MAX_RESOURCE {
        return Err("whose resource is not a plain https URL");
    }
    match (wanted.host_str(), vault.host_str()) {
        (Some(wanted), Some(vault))
            if vault.strip_suffix(wanted).is_some_and(|rest| rest.ends_with('.')) =>
        {
            Ok(())
        }
        _ => Err("whose resource is not a parent domain of the vault"),
    }
}

/// A quoted or bare parameter of a Bearer challenge.
fn parameter<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let (scheme, rest) = header.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    rest.split([',', ' ']).find_map(|part| {
        let (key, value) = part.trim().split_once('=')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim_matches('"')).filter(|v| !v.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    const URL: &str = "https://kv.vault.azure.net/secrets/x/";

    fn ask(header: &str) -> Result<String> {
        let mut headers = reqwest::header::HeaderMap::new();
        headers.insert("www-authenticate", header.parse().unwrap());
        scope(&Answer { status: 401, headers, body: Secret::default() }, URL)
    }

    #[test]
    fn resource_and_scope_are_understood() {
        for header in [
            r#"Bearer authorization="https://login.microsoftonline.com/t", resource="https://vault.azure.net""#,
            r#"bearer authorization="https://login/t" resource="https://vault.azure.net/""#,
            r#"Bearer scope="https://vault.azure.net/.default",authorization="https://login/t""#,
        ] {
            assert_eq!(ask(header).unwrap(), "https://vault.azure.net/.default", "{header}");
        }
    }

    #[test]
    fn a_resource_elsewhere_gets_no_token() {
        for header in [
            r#"Bearer resource="https://evil.test""#,
            r#"Bearer resource="https://ault.azure.net""#,
            r#"Bearer resource="https://kv.vault.azure.net""#,
            r#"Bearer resource="http://vault.azure.net""#,
            r#"Bearer resource="https://vault.azure.net@evil.test""#,
            r#"Bearer resource="https://a:b@vault.azure.net""#,
            r#"Bearer resource="https://:b@vault.azure.net""#,
            r#"Bearer resource="https://vault.azure.net#x""#,
            r#"Bearer resource="https://management.azure.com""#,
            &format!(r#"Bearer resource="https://vault.azure.net/{}""#, "a".repeat(512)),
            r#"Bearer resource="""#,
            r#"Bearer authorization="x""#,
            r#"Basic realm="x""#,
            "Bearer",
            "",
        ] {
            assert!(ask(header).is_err(), "{header}");
        }
    }
}
