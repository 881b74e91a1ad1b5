//! Which identity a class claims: rows U21 to U23 and U64 to U68.

use super::*;

const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
const EXCHANGE: &str = "api://AzureADTokenExchange";
const BINDING: &str = "api://AKSIdentityBinding";

fn workload(tokens: Option<&str>) -> Result<Claim> {
    let changes = [("useVMManagedIdentity", None), ("clientID", Some("app")), (TOKENS, tokens)];
    match mount(&attributes(&changes), "null")? {
        Parsed::Mount(spec) => Ok(spec.identity),
        Parsed::Nothing { .. } => panic!("no objects"),
    }
}

fn assertion(tokens: &str) -> String {
    match workload(Some(tokens)) {
        Ok(Claim::Workload { assertion: Assertion::Token(token), .. }) => {
            token.expose_str().unwrap().to_owned()
        }
        other => panic!("{tokens} gave {other:?}"),
    }
}

#[test]
fn u64_tokens_that_do_not_serve_are_refused() {
    const AUTH: &str = "failed to build auth config for mode None: \
                        failed to parse workload identity tokens, error: ";
    for (tokens, text) in [
        (None, "service account tokens not found"),
        (Some(""), "service account tokens not found"),
        (Some(" \n"), "service account tokens not found"),
        (Some("invalid"), "failed to unmarshal service account tokens"),
        (Some("[]"), "failed to unmarshal service account tokens"),
        (Some("{\"api://AzureADTokenExchange\":{\"token\":\"canary\"}} x"), "failed to unmarshal"),
        (Some("null"), "token for audience api://AzureADTokenExchange not found"),
        (Some("{}"), "token for audience api://AzureADTokenExchange not found"),
        (
            Some("{\"other\":{\"token\":\"canary\"}}"),
            "token for audience api://AzureADTokenExchange not found",
        ),
        (
            Some("{\"api://azureadtokenexchange\":{\"token\":\"canary\"}}"),
            "token for audience api://AzureADTokenExchange not found",
        ),
        (Some("{\"api://AzureADTokenExchange\":{\"token\":7}}"), "the token is a number"),
        (Some("{\"api://AzureADTokenExchange\":\"canary\"}"), "not an object with a token"),
        (Some("{\"api://AzureADTokenExchange\":null}"), "not found"),
        (Some("{\"api://AzureADTokenExchange\":{\"token\":\"\"}}"), "not found"),
        (Some("{\"api://AzureADTokenExchange\":{}}"), "not found"),
        (
            Some(
                "{\"api://AzureADTokenExchange\":{\"token\":\"t\",\"expirationTimestamp\":\"canary\"}}",
            ),
            "expirationTimestamp",
        ),
        (
            Some("{\"api://AzureADTokenExchange\":{\"token\":\"t\",\"expirationTimestamp\":12}}"),
            "expirationTimestamp",
        ),
    ] {
        let error = workload(tokens).unwrap_err();
        assert!(error.message().starts_with(AUTH), "{error}");
        assert!(error.message().contains(text), "{tokens:?}: {error}");
        assert!(!error.to_string().contains("canary"), "{error}");
    }
}

#[test]
fn u65_the_right_audience_is_taken() {
    let entry = |token: &str| {
        format!("{{\"token\":\"{token}\",\"expirationTimestamp\":\"2021-06-29T09:53:21Z\"}}")
    };
    let both = format!("{{\"aud2\":{},\"{EXCHANGE}\":{}}}", entry("no"), entry("yes"));
    assert_eq!(assertion(&both), "yes");
    // A past, absent or null expiry does not count, nor does the case of the inner keys.
    assert_eq!(assertion(&format!("{{\"{EXCHANGE}\":{{\"TOKEN\":\"t\"}}}}")), "t");
    let null = format!("{{\"{EXCHANGE}\":{{\"token\":\"t\",\"expirationTimestamp\":null}}}}");
    assert_eq!(assertion(&null), "t");
    // Another audience's broken entry is not our business.
    let broken = format!(
        "{{\"aud2\":{{\"token\":7,\"expirationTimestamp\":\"x\"}},\"{EXCHANGE}\":{}}}",
        entry("yes")
    );
    assert_eq!(assertion(&broken), "yes");
}

#[test]
fn u21_u22_u66_u68_identity_binding_needs_its_inputs() {
    let tokens = |audience: &str| format!("{{\"{audience}\":{{\"token\":\"canary\"}}}}");
    let both = tokens(BINDING);
    let exchange = tokens(EXCHANGE);
    let case = |client: Option<&str>, tokens: Option<&str>| {
        let changes = [
            ("useVMManagedIdentity", None),
            ("useAzureTokenProxy", Some("true")),
            ("clientID", client),
            (TOKENS, tokens),
        ];
        mount(&attributes(&changes), "null").map(|_| ())
    };
    for (client, tokens, text) in [
        (None, Some(both.as_str()), "clientID is required for identity binding"),
        (Some("app"), None, "service account tokens are required for identity binding"),
        (Some("app"), Some(""), "service account tokens are required for identity binding"),
        (
            Some("app"),
            Some(exchange.as_str()),
            "failed to parse service account token for identity binding",
        ),
        (Some("app"), Some("{"), "failed to parse service account token for identity binding"),
    ] {
        let error = case(client, tokens).unwrap_err();
        let prefix = "failed to build auth config for mode AzureTokenProxy: ";
        assert!(error.message().starts_with(prefix), "{error}");
        assert!(error.message().contains(text), "{error}");
        assert!(!error.to_string().contains("canary"), "{error}");
    }
    assert!(case(Some("app"), Some(&both)).is_ok());
}

#[test]
fn u23_one_mode_at_a_time() {
    for changes in [
        [("usePodIdentity", Some("true")), ("useAzureTokenProxy", Some("true"))],
        [("usePodIdentity", Some("1")), ("useVMManagedIdentity", Some("t"))],
    ] {
        let error = refused(&changes, "null");
        assert!(error.message().starts_with("only one identity mode can be enabled"), "{error}");
    }
}

#[test]
fn u67_a_service_principal_needs_both_values() {
    let claim = |secrets: &str| {
        mount(&attributes(&[("useVMManagedIdentity", None)]), secrets).map(|parsed| match parsed {
            Parsed::Mount(spec) => spec.identity,
            Parsed::Nothing { .. } => panic!("no objects"),
        })
    };
    for (secrets, text) in [
        ("null", "failed to get credentials, nodePublishSecretRef secret is not set"),
        (" null\n", "failed to get credentials, nodePublishSecretRef secret is not set"),
        ("{}", "could not find clientid in secrets"),
        ("{\"clientsecret\":\"canary\"}", "could not find clientid in secrets"),
        ("{\"clientid\":\"canary\"}", "could not find clientsecret in secrets"),
        (
            "{\"clientid\":\"canary\",\"clientsecret\":\"\"}",
            "could not find clientsecret in secrets",
        ),
        ("{\"clientid\":null,\"clientsecret\":\"canary\"}", "could not find clientid in secrets"),
        (
            "{\"csi.storage.k8s.io/serviceAccount.tokens\":\"canary\"}",
            "could not find clientid in secrets",
        ),
    ] {
        let error = claim(secrets).unwrap_err();
        let prefix = "failed to build auth config for mode None: ";
        assert_eq!(error.message(), format!("{prefix}{text}"), "{secrets}");
        assert!(!error.to_string().contains("canary"), "{error}");
        assert!(error.likely_fix().is_some());
    }
    assert!(
        claim("null").unwrap_err().to_string().contains("secrets-store.csi.k8s.io/used=true"),
        "the label that the driver's filtered watch needs is named"
    );
    // P18, and nothing is trimmed.
    let Ok(Claim::ServicePrincipal { client_id, client_secret, .. }) =
        claim("{\"ClientID\":\" id\",\"CLIENTSECRET\":\"s\\n\"}")
    else {
        panic!();
    };
    assert_eq!((client_id.as_str(), client_secret.expose()), (" id", b"s\n".as_slice()));
}

/// Upstream parses the workload token whenever clientID is set; we ask for it only where it is used.
#[test]
fn client_id_means_nothing_to_pod_and_managed_identities() {
    let managed = accepted(&[("clientID", Some("app"))], "null");
    assert!(matches!(managed.identity, Claim::Managed { client_id: None }));
    let changes = [
        ("useVMManagedIdentity", None),
        ("usePodIdentity", Some("true")),
        ("clientID", Some("app")),
    ];
    assert!(matches!(accepted(&changes, "null").identity, Claim::Pod(_)));
}

#[test]
fn user_assigned_identities_are_guids() {
    for wrong in [
        "my-identity",
        "/subscriptions/x/resourceGroups/y",
        "11111111-2222-3333-4444-55555555555",
        "11111111-2222-3333-4444-555555555555-",
        "g1111111-2222-3333-4444-555555555555",
        "11111111222233334444555555555555",
    ] {
        let error = refused(&[("userAssignedIdentityID", Some(wrong))], "null");
        assert!(error.message().contains("not a client id"), "{error}");
    }
    let id = "AAAAAAAA-bbbb-cccc-dddd-eeeeeeeeeeee";
    let spec = accepted(&[("userAssignedIdentityID", Some(id))], "null");
    assert!(matches!(spec.identity, Claim::Managed { client_id: Some(found) } if found == id));
    // Only the managed mode reads it.
    let changes = [
        ("useVMManagedIdentity", None),
        ("usePodIdentity", Some("true")),
        ("userAssignedIdentityID", Some("nonsense")),
    ];
    assert!(matches!(accepted(&changes, "null").identity, Claim::Pod(_)));
}

#[test]
fn a_certificate_counts_where_there_is_no_secret_and_is_noticed_where_there_is() {
    let changes = [("useVMManagedIdentity", None)];
    let spec = accepted(&changes, r#"{"clientid":"i","CLIENTCERTIFICATE":"c","clientsecret":""}"#);
    let Claim::Certificate { client_id, certificate, .. } = spec.identity else { panic!() };
    assert_eq!((client_id.as_str(), certificate.expose()), ("i", b"c".as_slice()));
    assert!(spec.notices.is_empty());
    let spec = accepted(&changes, r#"{"clientid":"i","clientcertificate":"c","clientsecret":"s"}"#);
    assert!(matches!(spec.identity, Claim::ServicePrincipal { .. }));
    assert!(spec.notices.iter().any(|notice| notice.contains("no effect beside clientsecret")));
}

/// The commonest cause of a missing Secret under rotation: the driver does not watch it.
#[test]
fn a_missing_secret_names_the_label_that_the_driver_watches() {
    let error = refused(&[("useVMManagedIdentity", None)], "null");
    assert!(error.message().ends_with("nodePublishSecretRef secret is not set"), "{error}");
    let label = "secrets-store.csi.k8s.io/used=true";
    assert!(error.likely_fix().unwrap().contains(label), "{error}");
}
