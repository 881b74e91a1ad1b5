//! SecretProviderClass parameters in, [`MountSpec`] out, checked in upstream's order.
//!
//! The order is part of the interface: whoever migrates has alerts and runbooks for the first error
//! that upstream reports. Values are trimmed as Go trims (Unicode white space), keys are
//! case-sensitive, and unknown keys (the legacy `resourceGroup` and `subscriptionId` among them) are
//! ignored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::cloud::CloudSource;
use crate::error::{Error, Result, printable};

use super::claim::{self, Caller, Inputs};
use super::duration;
use super::objects;
use super::paths::Rules;
use super::{
    Claim, FetchMode, FuseCache, MountMode, MountSpec, ObjectsMemo, Parsed, Pod, Request, Secrets,
    VaultName, Wanted,
};

pub use super::claim::{managed_identity, service_principal};

/// Most of a wrong value that an error quotes.
const QUOTED: usize = 64;

/// Checks and resolves a request of the CSI driver.
///
/// # Errors
/// The first check of upstream's order that fails, under upstream's text.
pub fn resolve(request: Request, clouds: &CloudSource) -> Result<Parsed> {
    resolve_with(request, clouds, None)
}

/// The same, with the lists of objects that were parsed before.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_with(
    request: Request,
    clouds: &CloudSource,
    parsed: Option<&ObjectsMemo>,
) -> Result<Parsed> {
    let pod = request.pod()?;
    Parameters {
        pod: Some(pod),
        values: &request.parameters,
        secrets: request.secrets.as_ref(),
        caller: Caller::Pod(request.tokens.as_ref()),
        mode: request.permission,
        rules: Rules::native(),
        parsed,
    }
    .resolve(clouds)
}

/// A class's parameters, wherever they come from.
pub(super) struct Parameters<'a> {
    pub(super) pod: Option<Pod>,
    pub(super) values: &'a BTreeMap<String, String>,
    pub(super) secrets: Option<&'a Secrets>,
    pub(super) caller: Caller<'a>,
    /// Mode of files whose object sets none.
    pub(super) mode: u32,
    pub(super) rules: Rules,
    /// Lists of objects that need not be parsed again.
    pub(super) parsed: Option<&'a ObjectsMemo>,
}

impl Parameters<'_> {
    /// Everything from the third check on.
    pub(super) fn resolve(self, clouds: &CloudSource) -> Result<Parsed> {
        let mut notices = Vec::new();
        let pod_identity = self.pod_identity_flag(&mut notices)?;
        let managed_identity = self.flag("useVMManagedIdentity")?;
        let token_proxy = self.flag("useAzureTokenProxy")?;
        if [pod_identity, managed_identity, token_proxy].iter().filter(|flag| **flag).count() > 1 {
            return Err(Error::class(format!(
                "only one identity mode can be enabled at a time: usePodIdentity: {pod_identity}, \
                 useVMManagedIdentity: {managed_identity}, useAzureTokenProxy: {token_proxy}"
            )));
        }
        let vault = self.value("keyvaultName");
        if vault.is_empty() {
            return Err(self.missing("keyvaultName"));
        }
        let tenant = self.tenant(&mut notices)?;
        let cloud = clouds.resolve(self.value("cloudName"), self.value("cloudEnvFileName"))?;
        if cloud.named && !self.value("cloudEnvFileName").is_empty() {
            notices.push(format!(
                "cloudEnvFileName has no effect: the cloud is {}, not AzureStackCloud",
                cloud.name
            ));
        }
        let identity = claim::select(&Inputs {
            pod_identity,
            managed_identity,
            token_proxy,
            client_id: self.value("clientID"),
            user_assigned: self.value("userAssignedIdentityID"),
            secrets: self.secrets,
            caller: self.caller,
            pod: self.pod.as_ref(),
        })?;
        let objects = self.value("objects");
        if objects.is_empty() {
            return Err(Error::class("objects is not set")
                .fix("add objects to the class's parameters: YAML text with the key array"));
        }
        let list = match self.parsed {
            Some(memo) => memo.parse(objects, self.mode, self.rules)?,
            None => Arc::new(objects::parse(objects, self.mode, self.rules)?),
        };
        notices.extend_from_slice(&list.notices);
        if list.objects.is_empty() {
            return Ok(Parsed::Nothing { notices });
        }
        let vault =
            VaultName::parse(vault).map_err(|error| error.context("failed to get vault"))?;
        let identity = identity.complete(tenant, &cloud)?;
        if matches!(identity, Claim::ServicePrincipal { .. })
            && claim::certificate_unused(self.secrets)
        {
            notices.push("clientcertificate has no effect beside clientsecret".to_owned());
        }
        let max_stale = self.max_stale()?;
        let mount_mode = self.choice("mountMode", MountMode::parse, "use files, write or fuse")?;
        let fetch = self.choice("fetch", FetchMode::parse, "use lazy or eager")?;
        let fuse_cache = self.choice("fuseCache", FuseCache::parse, "use keep or none")?;
        Ok(Parsed::Mount(Box::new(MountSpec {
            pod: self.pod,
            cloud,
            vault,
            identity,
            wanted: Wanted::Objects(list.objects.clone()),
            max_stale,
            mount_mode,
            fetch,
            fuse_cache,
            notices,
        })))
    }

    /// A parameter, trimmed; blank when it is not there.
    fn value(&self, key: &str) -> &str {
        self.values.get(key).map_or("", |value| value.trim())
    }

    /// A Go boolean; blank is false.
    fn flag(&self, key: &str) -> Result<bool> {
        parse_bool(key, self.value(key))
    }

    /// Not upstream's: how stale a value may be while its vault cannot be asked.
    fn max_stale(&self) -> Result<Option<Duration>> {
        match self.value("maxStale") {
            "" => Ok(None),
            text => duration::parse(text).map(Some).map_err(|expected| {
                Error::class(format!("maxStale is \"{}\"", printable(text, QUOTED))).fix(expected)
            }),
        }
    }

    /// Not upstream's: one of a few words.
    fn choice<T>(&self, key: &str, parse: fn(&str) -> Option<T>, fix: &str) -> Result<Option<T>> {
        match self.value(key) {
            "" => Ok(None),
            text => parse(text).map(Some).ok_or_else(|| {
                Error::class(format!("{key} is \"{}\"", printable(text, QUOTED))).fix(fix)
            }),
        }
    }

    /// The classic documentation spells this flag in lower case, where the exact key alone counts.
    fn pod_identity_flag(&self, notices: &mut Vec<String>) -> Result<bool> {
        const EXACT: &str = "usePodIdentity";
        const DOCUMENTED: &str = "usepodidentity";
        if self.values.contains_key(EXACT) || !self.values.contains_key(DOCUMENTED) {
            return self.flag(EXACT);
        }
        notices.push(format!("{DOCUMENTED} is read as {EXACT}, which is its exact spelling"));
        parse_bool(EXACT, self.value(DOCUMENTED))
    }

    fn tenant(&self, notices: &mut Vec<String>) -> Result<&str> {
        match (self.value("tenantID"), self.value("tenantId")) {
            ("", "") => Err(Error::class("tenantId is not provided")
                .fix("set tenantID in the class's parameters")),
            ("", deprecated) => {
                notices.push("tenantId is deprecated: spell it tenantID".to_owned());
                Ok(deprecated)
            }
            (tenant, _) => Ok(tenant),
        }
    }

    /// A missing parameter, with the misspelling that may be why.
    fn missing(&self, key: &str) -> Error {
        let error = Error::class(format!("{key} is not provided"));
        match self.values.keys().find(|found| found.eq_ignore_ascii_case(key) && *found != key) {
            Some(found) => error.fix(format!(
                "keys are case-sensitive: spell it {key}, not {}",
                printable(found, QUOTED)
            )),
            None => error.fix(format!("set {key} in the class's parameters")),
        }
    }
}

/// As Go spells booleans.
fn parse_bool(key: &str, text: &str) -> Result<bool> {
    match text {
        "" | "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        _ => Err(Error::class(format!(
            "failed to parse {key} flag, error: strconv.ParseBool: parsing \"{}\": invalid syntax",
            printable(text, QUOTED)
        ))
        .fix("use \"true\" or \"false\"")),
    }
}
