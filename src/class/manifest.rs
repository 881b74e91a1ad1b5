//! SecretProviderClass manifests: the very file that is applied to a cluster, read on a machine.
//!
//! A file may hold several documents, lists and other kinds; a class is found by its name, or by
//! being the only one. What the CSI driver and kubelet add in a cluster comes from options instead.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::cloud::CloudSource;
use crate::error::{Error, Result, printable};

use super::claim::Caller;
use super::parameters::Parameters;
use super::paths::Rules;
use super::yaml::{self, Bounds, Node};
use super::{Parsed, Secrets};

const KIND: &str = "SecretProviderClass";
const GROUP: &str = "secrets-store.csi.x-k8s.io/";
const VERSIONS: [&str; 2] = ["v1", "v1alpha1"];
/// Room for many classes of many objects.
const BOUNDS: Bounds = Bounds { openers: 16_384, indicators: 131_072 };
/// Most classes that an error names.
const NAMED: usize = 20;
const QUOTED: usize = 128;
/// On a machine there is no pod around the files, so they are their owner's unless the class says
/// otherwise; in a cluster the driver's 0644 applies.
const DEFAULT_MODE: u32 = 0o400;

/// One class of a manifest file.
pub struct Manifest {
    /// `metadata.name`.
    pub name: String,
    parameters: BTreeMap<String, String>,
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manifest").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Finds the class `name` (or the only one) in a manifest's text.
///
/// # Errors
/// ClassInvalid when the text is no YAML, has no such class, or several, or the class is not for
/// azure.
pub fn load(text: &str, name: Option<&str>) -> Result<Manifest> {
    let mut classes = Vec::new();
    let mut others = Vec::new();
    for document in yaml::documents(text, BOUNDS)? {
        collect(document, &mut classes, &mut others);
    }
    let class = choose(classes, name, &others)?;
    let named = class_name(&class).to_owned();
    let parameters = parameters(&class).map_err(|error| error.context(format!("class {named}")))?;
    Ok(Manifest { name: named, parameters })
}

impl Manifest {
    /// `spec.parameters`, as the driver would send them.
    pub fn parameters(&self) -> &BTreeMap<String, String> {
        &self.parameters
    }

    /// Resolves without a pod: the checks of the pod's name and namespace do not apply. `secrets`
    /// stand for nodePublishSecretRef, `token_file` for the pod's token of workload identity.
    ///
    /// # Errors
    /// As [`super::parameters::resolve`]; IdentityUnavailable for modes that only a pod can use.
    pub fn resolve(
        self,
        secrets: Option<Secrets>,
        token_file: Option<PathBuf>,
        clouds: &CloudSource,
    ) -> Result<Parsed> {
        Parameters {
            pod: None,
            values: &self.parameters,
            secrets: secrets.as_ref(),
            caller: Caller::Machine(token_file.as_ref()),
            mode: DEFAULT_MODE,
            rules: Rules::native(),
            parsed: None,
        }
        .resolve(clouds)
    }
}

fn class_name(class: &Node) -> &str {
    class.get("metadata").map_or("", |metadata| metadata.text("name"))
}

/// Sorts a document, or the items of a list, into classes and what else there is.
fn collect(document: Node, classes: &mut Vec<Node>, others: &mut Vec<String>) {
    let (kind, version) = (document.text("kind"), document.text("apiVersion"));
    let known = version.strip_prefix(GROUP).is_some_and(|version| VERSIONS.contains(&version));
    if kind == KIND && known {
        classes.push(document);
        return;
    }
    if !matches!(document, Node::Null) && others.len() < NAMED {
        others.push(match (kind, version) {
            ("", _) => "a document without a kind".to_owned(),
            (kind, "") => format!("{} without an apiVersion", printable(kind, QUOTED)),
            (kind, version) => {
                format!("{} of {}", printable(kind, QUOTED), printable(version, QUOTED))
            }
        });
    }
    if (kind == "List" || kind == "SecretProviderClassList")
        && let Node::Map(mut entries) = document
        && let Some(Node::List(items)) = entries.remove("items")
    {
        items.into_iter().for_each(|item| collect(item, classes, others));
    }
}

fn choose(mut classes: Vec<Node>, name: Option<&str>, others: &[String]) -> Result<Node> {
    let names = || {
        let names: Vec<_> =
            classes.iter().take(NAMED).map(|class| printable(class_name(class), QUOTED)).collect();
        names.join(", ")
    };
    if classes.is_empty() {
        let found = if others.is_empty() {
            "it is empty".to_owned()
        } else {
            format!("it has {}", others.join(", "))
        };
        return Err(Error::class(format!("no SecretProviderClass in it: {found}"))
            .fix(format!("the class's apiVersion is {GROUP}v1")));
    }
    let Some(name) = name else {
        if classes.len() > 1 {
            return Err(Error::class(format!("it has several classes: {}", names()))
                .fix("choose one: FILE#NAME"));
        }
        return Ok(classes.remove(0));
    };
    let mut found = classes.iter().enumerate().filter(|(_, class)| class_name(class) == name);
    match (found.next(), found.next()) {
        (Some((position, _)), None) => Ok(classes.swap_remove(position)),
        (None, _) => Err(Error::class(format!(
            "it has no class named {}; it has {}",
            printable(name, QUOTED),
            names()
        ))),
        (Some(_), Some(_)) => {
            Err(Error::class(format!("it has several classes named {}", printable(name, QUOTED))))
        }
    }
}

/// `spec.parameters` of a class for azure.
fn parameters(class: &Node) -> Result<BTreeMap<String, String>> {
    let provider = class.get("spec").map_or("", |spec| spec.text("provider"));
    if provider != "azure" {
        return Err(Error::class(format!(
            "spec.provider is \"{}\", not azure",
            printable(provider, QUOTED)
        )));
    }
    let entries = match class.get("spec").and_then(|spec| spec.get("parameters")) {
        None | Some(Node::Null) => return Ok(BTreeMap::new()),
        Some(Node::Map(entries)) => entries,
        Some(other) => {
            return Err(Error::class(format!(
                "spec.parameters is {}, not a mapping",
                other.kind()
            )));
        }
    };
    let mut parameters = BTreeMap::new();
    for (key, value) in entries {
        match value {
            Node::Text(value) => {
                parameters.insert(key.clone(), value.clone());
            }
            Node::Null => {}
            other => return Err(not_a_string(&printable(key, QUOTED), other)),
        }
    }
    Ok(parameters)
}

/// Kubernetes would refuse the manifest, so we do not guess either.
fn not_a_string(key: &str, value: &Node) -> Error {
    let error = Error::class(format!("spec.parameters.{key} is {}, not a string", value.kind()));
    match value {
        Node::Scalar(_) => error.fix(format!("quote it, as Kubernetes demands: {key}: \"...\"")),
        _ => error.fix(format!("make it a text: `{key}: |` and the lines below it")),
    }
}

#[cfg(test)]
mod tests;
