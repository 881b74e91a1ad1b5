//! The TLS name of a cluster's token proxy, from the API server's certificate.

use ring::digest::{SHA256, digest};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::error::{Code, Error, Result};

/// The name of the cluster's control plane: this, the cluster's id, and [`AFTER`].
const BEFORE: &str = "hcp-kubernetes.";
const AFTER: &str = ".svc.cluster.local";
/// Longest id: one label of a DNS name.
const MAX_ID: usize = 63;

/// The token proxy's name for the cluster with this API server certificate (DER).
pub(super) fn of_certificate(der: &[u8]) -> Result<String> {
    let failed = |why: &str| Error::new(Code::IdentityUnavailable, why);
    let certificate = Certificate::from_der(der)
        .map_err(|_| failed("the API server's certificate cannot be read"))?;
    let names = certificate
        .tbs_certificate()
        .get_extension::<SubjectAltName>()
        .map_err(|_| failed("the API server's certificate has names that cannot be read"))?;
    let names = names.map(|(_, names)| names.0).unwrap_or_default();
    let mut names = names.iter().filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.as_str()),
        _ => None,
    });
    names
        .find_map(cluster_id)
        .map(sni)
        .ok_or_else(|| failed("the API server's certificate does not name an AKS cluster"))
}

/// The id in `hcp-kubernetes.<ID>.svc.cluster.local`.
fn cluster_id(name: &str) -> Option<&str> {
    let id = name.strip_prefix(BEFORE)?.strip_suffix(AFTER)?;
    let fits = (1..=MAX_ID).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    fits.then_some(id)
}

/// `a`, the hash of the id in base32hex, and the zone; all in lower case.
fn sni(cluster_id: &str) -> String {
    let hash = digest(&SHA256, format!("identity-binding{cluster_id}").as_bytes());
    format!("a{}.ests.aks", base32hex(hash.as_ref()))
}

/// RFC 4648 section 7 in lower case, without padding.
fn base32hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut held, mut bits) = (0_u32, 0);
    let mut digit = |value: u32| text.extend(char::from_digit(value & 31, 32));
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            digit(held >> bits);
        }
        held &= (1 << bits) - 1;
    }
    if bits > 0 {
        digit(held << (5 - bits));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u77_known_clusters_have_their_names() {
        for (id, name) in [
            (
                "696995ccb303450001b31a18",
                "aeaf29ip1hi5q38ebc3u4daum81u0unk52t5bg50j25234fmuj78g.ests.aks",
            ),
            ("abc123def456", "avimke6u6l2eeq8qc1cneuaq4sl2e1av9t4clqgun97le32hub670.ests.aks"),
        ] {
            assert_eq!(sni(id), name);
        }
    }

    #[test]
    fn u77_every_name_is_one_label_of_53_in_the_zone() {
        let names: Vec<_> = ["a", "b", "AB", "ab", &"f".repeat(63)].map(sni).into();
        for name in &names {
            let (label, zone) = name.split_once('.').unwrap();
            assert!(label.starts_with('a') && label.len() == 53 && zone == "ests.aks", "{name}");
            assert_eq!(*name, name.to_lowercase());
        }
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }

    #[test]
    fn base32hex_is_the_rfcs() {
        for (text, encoded) in [
            ("", ""),
            ("f", "co"),
            ("fo", "cpng"),
            ("foo", "cpnmu"),
            ("foob", "cpnmuog"),
            ("fooba", "cpnmuoj1"),
            ("foobar", "cpnmuoj1e8"),
        ] {
            assert_eq!(base32hex(text.as_bytes()), encoded);
        }
    }

    #[test]
    fn only_the_control_planes_name_has_the_id() {
        assert_eq!(cluster_id("hcp-kubernetes.abc123.svc.cluster.local"), Some("abc123"));
        for other in [
            "kubernetes.default.svc.cluster.local",
            "hcp-kubernetes.svc.cluster.local",
            "hcp-kubernetes..svc.cluster.local",
            "hcp-kubernetes.a.b.svc.cluster.local",
            "x.hcp-kubernetes.abc.svc.cluster.local",
        ] {
            assert_eq!(cluster_id(other), None, "{other}");
        }
        assert!(of_certificate(b"no certificate").is_err());
    }
}
