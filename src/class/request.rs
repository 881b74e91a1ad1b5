//! A Mount request's three texts, decoded once.
//!
//! They are JSON: the attributes (the class's parameters, the pod's volume attributes and what
//! kubelet adds), the nodePublishSecretRef Secret's data, and the file mode. The attributes carry
//! the pod's service account tokens as well, which leave the map here, as [`Secret`].

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Error, Result, printable};
use crate::secret::Secret;

use super::loose::{Loose, LooseMap, json_error};
use super::{MAX_MODE, Secrets};

/// Longest of the three texts, in bytes.
const MAX_TEXT: usize = 1024 * 1024;
/// The pod's service account tokens. Newer kubelets put them among the secrets too.
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
const SERVICE_ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";
/// Most of a wrong key that an error quotes.
const QUOTED: usize = 64;

/// A decoded Mount request.
pub struct Request {
    /// The attributes, but for the tokens: keys are the class's and kubelet's, values are hostile.
    pub(super) parameters: BTreeMap<String, String>,
    /// JSON text of the pod's service account tokens.
    pub(super) tokens: Option<Secret>,
    /// The nodePublishSecretRef Secret's data; `None` when the volume names none.
    pub(super) secrets: Option<Secrets>,
    /// Mode of files whose object sets none.
    pub(super) permission: u32,
}

/// Decodes attributes, secrets and permission, in this order.
///
/// `null` counts as blank, for a value as for a whole map; of duplicate keys the last one wins.
///
/// # Errors
/// ClassInvalid, with upstream's prefix for the text that is wrong, its position or key, never its
/// content.
pub fn decode(attributes: &str, secrets: &str, permission: &str) -> Result<Request> {
    let failed =
        |what: &str, error: Error| error.context(format!("failed to unmarshal {what}, error"));
    let (parameters, tokens) =
        decode_attributes(attributes).map_err(|e| failed("attributes", e))?;
    let secrets = decode_secrets(secrets).map_err(|e| failed("secrets", e))?;
    let permission = decode_permission(permission).map_err(|e| failed("file permission", e))?;
    Ok(Request { parameters, tokens, secrets, permission })
}

impl Request {
    /// One of kubelet's own attributes, trimmed; blank when it was not sent.
    fn attribute(&self, key: &str) -> String {
        self.parameters.get(key).map_or("", |value| value.trim()).to_owned()
    }

    /// The pod as kubelet told it.
    ///
    /// # Errors
    /// ClassInvalid when the name or the namespace is blank.
    pub(super) fn pod(&self) -> Result<super::Pod> {
        let needed = |key: &str, what: &str| match self.attribute(key) {
            value if value.is_empty() => Err(Error::class(format!("{what} is not provided"))
                .fix("the CSIDriver object must have podInfoOnMount: true")),
            value => Ok(value),
        };
        Ok(super::Pod {
            name: needed(POD_NAME, "pod name")?,
            namespace: needed(POD_NAMESPACE, "pod namespace")?,
            uid: self.attribute(POD_UID),
            service_account: self.attribute(SERVICE_ACCOUNT),
        })
    }
}

impl fmt::Debug for Request {
    /// The keys only: a value may be anything that somebody pasted into the wrong place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("parameters", &self.parameters.keys())
            .finish_non_exhaustive()
    }
}

fn decode_attributes(text: &str) -> Result<(BTreeMap<String, String>, Option<Secret>)> {
    let mut parameters = BTreeMap::new();
    let mut tokens = None;
    for (key, value) in object(text)? {
        if key == TOKENS {
            tokens = Some(value);
        } else if let Some(value) = value.expose_str() {
            parameters.insert(key, value.to_owned());
        }
    }
    Ok((parameters, tokens))
}

fn decode_secrets(text: &str) -> Result<Option<Secrets>> {
    if text.trim() == "null" {
        return Ok(None);
    }
    // The tokens count only where kubelet alone writes: among the attributes.
    Ok(Some(Secrets(object(text)?.into_iter().filter(|(key, _)| key != TOKENS).collect())))
}

fn decode_permission(text: &str) -> Result<u32> {
    // `null` is no mode: upstream makes files of it that nobody can read.
    let mode: u32 = serde_json::from_str(text).map_err(|_| {
        Error::class("not a JSON integer").fix("the CSI driver sends decimal mode bits such as 420")
    })?;
    if mode > MAX_MODE {
        return Err(Error::class("the mode is above 511 (octal 0777)"));
    }
    Ok(mode)
}

/// A JSON object of strings, with its duplicates in order.
fn object(text: &str) -> Result<Vec<(String, Secret)>> {
    if text.len() > MAX_TEXT {
        return Err(Error::class("the text is larger than 1 MiB"));
    }
    let entries = match serde_json::from_str(text).map_err(|error| json_error(&error))? {
        LooseMap::Map(entries) => entries,
        LooseMap::Null => Vec::new(),
        LooseMap::Wrong(kind) => {
            return Err(Error::class(format!("{kind} where an object of strings should be")));
        }
        LooseMap::TooMany => return Err(Error::class("the object has too many keys")),
    };
    entries
        .into_iter()
        .map(|(key, value)| match value {
            Loose::Text(value) => Ok((key, value)),
            Loose::Null => Ok((key, Secret::default())),
            Loose::Wrong(kind) => Err(Error::class(format!(
                "the value of {} is {kind}, not a string",
                printable(&key, QUOTED)
            ))
            .fix("quote the value")),
        })
        .collect()
}
