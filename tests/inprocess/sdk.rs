//! The Azure SDK's own clients judge the emulator: whatever they can do with the service for reading,
//! they can do here, with their challenge check switched on.

use std::sync::Arc;

use akvfs::class::ObjectKind;
use akvfs::emulator::{Config, Emulator, Names, Seed, Trouble, Verb, Where};
use azure_core::Error;
use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::{Secret, TokenCredential};
use azure_core::error::ErrorKind;
use azure_core::http::{ClientOptions, RetryOptions, StatusCode, Transport};
use azure_identity::{ClientSecretCredential, ClientSecretCredentialOptions};
use azure_security_keyvault_certificates::{
    CertificateClient, CertificateClientOptions, ResourceExt as _,
    models::CertificateClientGetCertificateOptions,
};
use azure_security_keyvault_keys::{
    KeyClient, KeyClientOptions, ResourceExt as _,
    models::{CurveName, KeyClientGetKeyOptions, KeyType},
};
use azure_security_keyvault_secrets::{
    ResourceExt as _, SecretClient, SecretClientOptions,
    models::{SecretClientGetSecretOptions, SecretClientListSecretPropertiesOptions},
};
use futures_util::TryStreamExt;
use x509_cert::der::Decode;

struct Site {
    emulator: Emulator,
    credential: Arc<dyn TokenCredential>,
    options: ClientOptions,
}

impl Site {
    async fn new(names: Names) -> Self {
        let seed = Seed::default_seed().unwrap();
        let emulator = Emulator::start(Config { seed, names, ..Config::default() }).await.unwrap();
        // Installs the TLS provider.
        drop(akvfs::http::Http::new(emulator.endpoints()));
        let endpoints = emulator.endpoints();
        let mut client = reqwest::Client::builder().add_root_certificate(
            reqwest::Certificate::from_pem(emulator.ca_pem().as_bytes()).unwrap(),
        );
        let cloud = emulator.cloud();
        for url in [cloud.authority.clone(), emulator.vault_url()] {
            let host = reqwest::Url::parse(&url).unwrap().host_str().unwrap().to_owned();
            client = client.resolve(&host, endpoints.resolve[0].1);
        }
        let mut custom = CustomConfiguration::default();
        custom.authority_host = cloud.authority;
        let options = ClientOptions {
            cloud: Some(Arc::new(CloudConfiguration::from(custom))),
            retry: RetryOptions::none(),
            transport: Some(Transport::new(Arc::new(client.build().unwrap()))),
            ..ClientOptions::default()
        };
        let (id, secret) = emulator.service_principal();
        let credential = ClientSecretCredential::new(
            emulator.tenant(),
            id.to_owned(),
            Secret::new(secret.expose_str().unwrap().to_owned()),
            Some(ClientSecretCredentialOptions { client_options: options.clone() }),
        )
        .unwrap();
        Self { emulator, credential, options }
    }

    fn secrets(&self) -> SecretClient {
        let options =
            SecretClientOptions { client_options: self.options.clone(), ..Default::default() };
        SecretClient::new(&self.emulator.vault_url(), self.credential.clone(), Some(options))
            .unwrap()
    }

    fn keys(&self) -> KeyClient {
        let options =
            KeyClientOptions { client_options: self.options.clone(), ..Default::default() };
        KeyClient::new(&self.emulator.vault_url(), self.credential.clone(), Some(options)).unwrap()
    }

    fn certificates(&self) -> CertificateClient {
        let options =
            CertificateClientOptions { client_options: self.options.clone(), ..Default::default() };
        CertificateClient::new(&self.emulator.vault_url(), self.credential.clone(), Some(options))
            .unwrap()
    }
}

/// Status and code of a refusal.
fn refusal(error: &Error) -> (u16, String) {
    match error.kind() {
        ErrorKind::HttpResponse { status, error_code, .. } => {
            ((*status).into(), error_code.clone().unwrap_or_default())
        }
        other => panic!("{other:?}: {error}"),
    }
}

#[tokio::test]
async fn the_sdk_reads_every_secret_by_name_and_version() {
    let site = Site::new(Names::Akvfs).await;
    let client = site.secrets();
    let listed: Vec<_> = client.list_secret_properties(None).unwrap().try_collect().await.unwrap();
    assert!(listed.len() > 25, "more than one page: {}", listed.len());
    let mut read = 0;
    for properties in &listed {
        let id = properties.resource_id().unwrap();
        let attributes = properties.attributes.as_ref().unwrap();
        if attributes.enabled == Some(false) {
            let error = client.get_secret(&id.name, None).await.unwrap_err();
            assert_eq!(refusal(&error), (403, "Forbidden".to_owned()), "{}", id.name);
            continue;
        }
        let latest = client.get_secret(&id.name, None).await.unwrap().into_model().unwrap();
        let version = latest.resource_id().unwrap().version.unwrap();
        assert!(version.len() == 32 && version.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let options =
            SecretClientGetSecretOptions { secret_version: Some(version), ..Default::default() };
        let exact = client.get_secret(&id.name, Some(options)).await.unwrap();
        let exact = exact.into_model().unwrap();
        assert_eq!((latest.value.as_ref(), &latest.id), (exact.value.as_ref(), &exact.id));
        assert!(latest.value.is_some_and(|value| !value.is_empty()));
        assert_eq!(latest.content_type, properties.content_type, "{}", id.name);
        assert_eq!(latest.kid.is_some(), properties.managed == Some(true), "{}", id.name);
        read += 1;
    }
    assert!(read > 25);
    let large = client.get_secret("large", None).await.unwrap().into_model().unwrap();
    assert_eq!(large.value.unwrap().len(), 25 * 1024);
    let expired = client.get_secret("expired", None).await.unwrap().into_model().unwrap();
    assert!(expired.attributes.unwrap().expires.is_some(), "an expired secret can be read");
}

#[tokio::test]
async fn the_sdk_pages_through_lists_and_versions() {
    let site = Site::new(Names::Akvfs).await;
    let client = site.secrets();
    let control = site.emulator.control();
    let options =
        SecretClientListSecretPropertiesOptions { maxresults: Some(10), ..Default::default() };
    let in_tens: Vec<_> =
        client.list_secret_properties(Some(options)).unwrap().try_collect().await.unwrap();
    let small_pages = control.counters().lists;
    control.reset_log();
    let whole: Vec<_> = client.list_secret_properties(None).unwrap().try_collect().await.unwrap();
    let names = |list: &[azure_security_keyvault_secrets::models::SecretProperties]| {
        list.iter().map(|item| item.resource_id().unwrap().name).collect::<Vec<_>>()
    };
    assert_eq!(names(&in_tens), names(&whole));
    let pages = |size: usize| whole.len().div_ceil(size) as u64;
    assert_eq!((small_pages, control.counters().lists), (pages(10), pages(25)));

    control.reset_log();
    let versions: Vec<_> = client
        .list_secret_properties_versions("many-versions", None)
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!((versions.len(), control.counters().lists), (60, 3));
    let disabled = versions
        .iter()
        .filter(|version| version.attributes.as_ref().unwrap().enabled == Some(false));
    assert_eq!(disabled.count(), 8);
    let newest = client.get_secret("many-versions", None).await.unwrap().into_model().unwrap();
    let newest_listed =
        versions.iter().max_by_key(|version| version.attributes.as_ref().unwrap().created).unwrap();
    assert_eq!(newest.id, newest_listed.id);
}

#[tokio::test]
async fn the_sdk_reads_keys_and_certificates_that_belong_together() {
    let site = Site::new(Names::Akvfs).await;
    let (secrets, keys, certificates) = (site.secrets(), site.keys(), site.certificates());
    for (name, curve, length) in [
        ("ec-p256", CurveName::P256, 32),
        ("ec-p384", CurveName::P384, 48),
        ("ec-p521", CurveName::P521, 66),
    ] {
        let key = keys.get_key(name, None).await.unwrap().into_model().unwrap();
        let version = key.resource_id().unwrap().version;
        let jwk = key.key.unwrap();
        assert_eq!((jwk.kty, jwk.crv), (Some(KeyType::Ec), Some(curve)), "{name}");
        assert_eq!((jwk.x.unwrap().len(), jwk.y.unwrap().len()), (length, length), "{name}");
        let options = KeyClientGetKeyOptions { key_version: version, ..Default::default() };
        assert!(keys.get_key(name, Some(options)).await.is_ok(), "{name}");
    }
    let rsa = keys.get_key("key1", None).await.unwrap().into_model().unwrap().key.unwrap();
    assert_eq!((rsa.n.unwrap().len(), rsa.e.unwrap()), (256, vec![1, 0, 1]));
    let listed: Vec<_> = keys.list_key_properties(None).unwrap().try_collect().await.unwrap();
    let managed = listed.iter().filter(|key| key.managed == Some(true)).count();
    let versions = keys.list_key_properties_versions("key1", None).unwrap();
    assert_eq!(versions.try_collect::<Vec<_>>().await.unwrap().len(), 1);

    let listed: Vec<_> =
        certificates.list_certificate_properties(None).unwrap().try_collect().await.unwrap();
    assert!(listed.len() >= 5 && listed.len() == managed);
    for properties in listed {
        let name = properties.resource_id().unwrap().name;
        let latest = certificates.get_certificate(&name, None).await.unwrap();
        let latest = latest.into_model().unwrap();
        let options = CertificateClientGetCertificateOptions {
            certificate_version: latest.resource_id().unwrap().version,
            ..Default::default()
        };
        assert!(certificates.get_certificate(&name, Some(options)).await.is_ok(), "{name}");
        let versions = certificates.list_certificate_properties_versions(&name, None).unwrap();
        assert_eq!(versions.try_collect::<Vec<_>>().await.unwrap().len(), 1, "{name}");

        let parsed = x509_cert::Certificate::from_der(latest.cer.as_ref().unwrap()).unwrap();
        let ends = parsed.tbs_certificate().validity().not_after.to_unix_duration().as_secs();
        let attributes = latest.attributes.as_ref().unwrap();
        assert_eq!(attributes.expires.unwrap().unix_timestamp(), i64::try_from(ends).unwrap());
        let subject = parsed.tbs_certificate().subject().to_string();
        assert!(subject.contains("CN=test.domain.com"), "{subject}");
        assert_eq!(latest.x509_thumbprint, properties.x509_thumbprint, "{name}");
        let secret = secrets.get_secret(&name, None).await.unwrap().into_model().unwrap();
        assert_eq!((secret.id, secret.kid), (latest.sid, latest.kid.clone()), "{name}");
        let key = keys.get_key(&name, None).await.unwrap().into_model().unwrap().key.unwrap();
        assert_eq!(key.kid, latest.kid, "{name}");
        let info = parsed.tbs_certificate().subject_public_key_info();
        let raw = info.subject_public_key.raw_bytes();
        let part = key.n.or(key.x).unwrap();
        assert!(raw.windows(part.len()).any(|window| window == part), "{name}");
    }
}

#[tokio::test]
async fn the_sdk_understands_every_refusal() {
    let site = Site::new(Names::AzurePublic).await;
    let client = site.secrets();
    let control = site.emulator.control();
    let (vault, id) = (site.emulator.vault_name(), site.emulator.service_principal().0);
    let missing = client.get_secret("no-such-secret", None).await.unwrap_err();
    assert_eq!(refusal(&missing), (404, "SecretNotFound".to_owned()));
    let missing = site.keys().get_key("no-such-key", None).await.unwrap_err();
    assert_eq!(refusal(&missing), (404, "KeyNotFound".to_owned()));
    let missing = site.certificates().get_certificate("no-such-cert", None).await.unwrap_err();
    assert_eq!(refusal(&missing), (404, "CertificateNotFound".to_owned()));
    let disabled = client.get_secret("disabled", None).await.unwrap_err();
    assert_eq!(refusal(&disabled), (403, "Forbidden".to_owned()));

    control.permit(id, ObjectKind::Secret, Verb::List, false).unwrap();
    let list = client.list_secret_properties(None).unwrap().try_collect::<Vec<_>>().await;
    assert_eq!(refusal(&list.unwrap_err()), (403, "Forbidden".to_owned()));
    assert!(client.get_secret("secret1", None).await.is_ok(), "get is another permission");

    control.times(1, Where::vault(vault), Trouble::Throttle(Some(11)));
    let throttled = client.get_secret("secret1", None).await.unwrap_err();
    assert_eq!(refusal(&throttled), (429, "Throttled".to_owned()));
    let ErrorKind::HttpResponse { raw_response: Some(raw), status, .. } = throttled.kind() else {
        panic!("no response in {throttled}")
    };
    assert_eq!(*status, StatusCode::TooManyRequests);
    let retry_after = raw.headers().get_optional_string(&"retry-after".into());
    assert_eq!(retry_after.as_deref(), Some("11"));

    let elsewhere = Trouble::Challenge("https://evil.test".to_owned());
    control.times(1, Where::vault(vault), elsewhere);
    let tokens = control.counters().token_requests;
    assert!(site.secrets().get_secret("secret1", None).await.is_err());
    assert_eq!(control.counters().token_requests, tokens, "no token for another domain");
}
