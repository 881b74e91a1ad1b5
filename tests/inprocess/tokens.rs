//! Token services that misbehave: what a caller is told, and what it gets in the end.

use std::time::{Duration, Instant};

use akvfs::class::{Claim, ObjectKind, VaultName};
use akvfs::emulator::{Service, Trouble, Where};
use akvfs::fetch::Access;
use akvfs::vault::VaultRef;
use akvfs::{Code, Secret};

use crate::canary;
use crate::identities::Site;

fn answer(status: u16, content_type: &str, body: &str) -> Trouble {
    Trouble::Answer { status, content_type: content_type.to_owned(), body: body.to_owned() }
}

/// Line ends in Entra's description, pages of proxies, tokens that are none: the status and number
/// always arrive.
#[tokio::test]
async fn whatever_entra_answers_has_a_code_of_its_own() {
    const JSON: &str = "application/json";
    let site = Site::new().await;
    let lines = "{\"error\":\"invalid_client\",\"error_codes\":[7000215],\
        \"error_description\":\"AADSTS7000215: canary \\u0027x\\u0027\\r\\nTrace ID: 1\"}";
    for (trouble, code, number, text) in [
        (answer(401, JSON, lines), Code::Unauthenticated, Some("AADSTS7000215"), "RESPONSE 401"),
        (answer(400, JSON, "{}"), Code::Unauthenticated, None, "RESPONSE 400"),
        (answer(503, "text/html", "<canary>"), Code::Unavailable, None, "RESPONSE 503"),
        (answer(429, "text/html", "<canary>"), Code::Throttled, None, "RESPONSE 429"),
        (answer(404, "text/html", "<canary>"), Code::BadAnswer, None, "RESPONSE 404"),
        (Trouble::Redirect("https://x.test/".into()), Code::BadAnswer, None, "RESPONSE 302"),
        (answer(200, JSON, "{}"), Code::BadAnswer, None, "could not be used"),
        (answer(200, "text/html", "<canary>"), Code::BadAnswer, None, "could not be used"),
        (
            answer(200, JSON, r#"{"access_token":"","expires_in":3600}"#),
            Code::BadAnswer,
            None,
            "could not be used",
        ),
        (
            answer(200, JSON, r#"{"access_token":"x","expires_in":9223372036854775807}"#),
            Code::BadAnswer,
            None,
            "could not be used",
        ),
    ] {
        site.emulator.control().clear_faults();
        site.emulator.control().always(Where::service(Service::Entra), trouble.clone());
        let error = site.read(site.principal(None), site.emulator.cloud()).await.unwrap_err();
        let found = (error.code(), error.service_code());
        assert_eq!(found, (code, number), "{trouble:?}: {error:?}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(!error.to_string().contains("canary"), "{error}");
    }
    assert_eq!(site.emulator.control().counters().vault_requests, 0);
}

/// A pause that no caller could wait for is no reason to fail in another way.
#[tokio::test]
async fn imds_may_ask_for_any_pause() {
    let site = Site::new().await;
    let control = site.emulator.control();
    control.times(1, Where::service(Service::Imds), Trouble::Throttle(Some(u64::MAX)));
    let claim = Claim::Managed { client_id: None };
    let error = site.read(claim, site.emulator.cloud()).await.unwrap_err();
    assert_eq!(error.code(), Code::Throttled, "{error}");
}

/// Two callers wait for one token; the one with less time gives up alone.
#[tokio::test]
async fn a_caller_in_a_hurry_does_not_fail_the_others() {
    let site = Site::new().await;
    for (service, claim) in [
        (Service::Entra, site.principal(None)),
        (Service::Imds, Claim::Managed { client_id: None }),
    ] {
        let control = site.emulator.control();
        control.times(1, Where::service(service), Trouble::Delay(Duration::from_secs(2)));
        let name = VaultName::parse(site.emulator.vault_name()).unwrap();
        let vault = VaultRef { cloud: site.emulator.cloud(), name };
        let access = Access::new(site.fetch.clone(), claim, vault);
        let within = |millis| {
            access.prove(ObjectKind::Secret, Instant::now() + Duration::from_millis(millis))
        };
        let (hasty, patient) = tokio::join!(within(500), within(30_000));
        assert!(hasty.is_err(), "{service:?}");
        assert!(patient.is_ok(), "{service:?}: {:?}", patient.err());
        assert_eq!(control.counters().token_requests, 1, "{service:?}");
        control.clear_faults();
        control.reset_log();
    }
}

/// A vault may stop to accept a token long before its end.
#[tokio::test]
async fn a_revoked_token_is_replaced() {
    canary::capture_logs();
    let site = Site::new().await;
    let read = || site.read(site.principal(None), site.emulator.cloud());
    assert!(read().await.is_ok());
    let (id, _) = site.emulator.service_principal();
    site.emulator.control().revoke_tokens(id).unwrap();
    for _ in 0..1000 {
        match read().await {
            Ok(_) => return,
            Err(error) => assert_eq!(error.status(), Some(401), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the revoked token is still sent after ten seconds");
}

/// `--secrets-file` may hold any bytes; what cannot be sent is not sent in part.
#[tokio::test]
async fn a_client_secret_that_is_no_text_is_said_to_be_none() {
    let site = Site::new().await;
    let Claim::ServicePrincipal { tenant, client_id, .. } = site.principal(None) else { panic!() };
    let client_secret = Secret::new(b"canary\xff".to_vec());
    let claim = Claim::ServicePrincipal { tenant, client_id, client_secret };
    let error = site.read(claim, site.emulator.cloud()).await.unwrap_err();
    assert_eq!(error.code(), Code::ClassInvalid, "{error}");
    assert_eq!(error.message(), "the client secret is not text (UTF-8)");
}

/// Behind a company's proxy: the emulator is on this machine, where no proxy leads.
#[test]
fn the_embedded_vault_is_not_asked_through_a_proxy() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_akvfs"))
        .args(["check", "dev:"])
        .envs(["HTTPS_PROXY", "https_proxy", "ALL_PROXY"].map(|name| (name, "http://127.0.0.1:1")))
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .output()
        .unwrap();
    canary::record("proxied", &format!("{output:?}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
