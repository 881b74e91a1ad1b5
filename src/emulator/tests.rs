//! Every refusal of the real services is one here too, judged by a plain HTTP client.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::*;
use crate::class::ObjectKind;
use crate::http::Http;

struct Site {
    emulator: Emulator,
    http: reqwest::Client,
}

impl Site {
    async fn new(config: Config) -> Self {
        let emulator = Emulator::start(config).await.unwrap();
        let http = Http::new(emulator.endpoints()).secure().unwrap();
        Self { emulator, http }
    }

    async fn seeded() -> Self {
        let seed = Seed::default().secret("a", &["old", "new"]).key("k", KeySeed::P384);
        Self::new(Config { seed, ..Config::default() }).await
    }

    async fn entra(&self, form: &[(&str, &str)]) -> (u16, Value) {
        let authority = self.emulator.state.authorization();
        let url = format!("{authority}/oauth2/v2.0/token");
        let response = self.http.post(url).form(form).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn token(&self) -> String {
        let (id, secret) = self.emulator.service_principal();
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", id),
            ("client_secret", secret.expose_str().unwrap()),
            ("scope", "https://vault.akvfs.test/.default"),
        ];
        let (status, body) = self.entra(&form).await;
        assert_eq!(status, 200, "{body}");
        body["access_token"].as_str().unwrap().to_owned()
    }

    async fn vault(&self, token: &str, path: &str) -> (u16, Value) {
        let url = format!("{}{path}", self.emulator.vault_url());
        let response = self.http.get(url).bearer_auth(token).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap_or_default())
    }
}

const V: &str = "?api-version=7.4";
const PATIENCE: Duration = Duration::from_secs(30);

async fn until(mut condition: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < end, "the condition never came true");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_vault_answers_401_with_a_challenge_until_a_good_token_comes() {
    let site = Site::seeded().await;
    let good = site.token().await;
    let url = format!("{}/secrets/a/{V}", site.emulator.vault_url());
    let bare = site.http.get(&url).send().await.unwrap();
    assert_eq!(bare.status(), StatusCode::UNAUTHORIZED);
    let challenge = bare.headers()["www-authenticate"].to_str().unwrap();
    assert_eq!(
        challenge,
        format!(
            "Bearer authorization=\"{}\", resource=\"https://vault.akvfs.test\"",
            site.emulator.state.authorization()
        )
    );

    let state = &site.emulator.state;
    let id = state::SERVICE_PRINCIPAL;
    let resource = state.addresses.resource();
    let minute = Duration::from_secs(60);
    let (audience, _) = state.signer.mint(id, 0, "https://other.test", minute).unwrap();
    let (expired, _) = state.signer.mint(id, 0, &resource, Duration::ZERO).unwrap();
    let (revoked, _) = state.signer.mint(id, 7, &resource, minute).unwrap();
    let (unknown, _) = state.signer.mint("nobody", 0, &resource, minute).unwrap();
    let (foreign, _) =
        tokens::Signer::new(Default::default()).unwrap().mint(id, 0, &resource, minute).unwrap();
    let cut = &good[..good.len() - 4];
    for bad in [&audience, &expired, &revoked, &unknown, &foreign, cut, "x", "a.b.c"] {
        let (status, body) = site.vault(bad, &format!("/secrets/a/{V}")).await;
        assert_eq!((status, &body["error"]["code"]), (401, &json!("Unauthorized")), "{body}");
    }
    let (status, body) = site.vault(&good, &format!("/secrets/A/{V}")).await;
    assert_eq!(status, 200);
    assert!(body["id"].as_str().unwrap().contains("/secrets/a/"), "names have one spelling");
    let counters = site.emulator.control().counters();
    assert_eq!((counters.challenges, counters.all_reads()), (9, 1));

    site.emulator.control().revoke_tokens(id).unwrap();
    assert_eq!(site.vault(&good, &format!("/secrets/a/{V}")).await.0, 401);
    let new = site.token().await;
    assert_eq!(site.vault(&new, &format!("/secrets/a/{V}")).await.0, 200);
}

#[tokio::test]
async fn requests_are_refused_in_the_services_words() {
    let site = Site::seeded().await;
    let token = site.token().await;
    let control = site.emulator.control();
    let vault = site.emulator.vault_name();
    let old = &control.versions(vault, ObjectKind::Secret, "a")[0];
    control.enable(vault, ObjectKind::Secret, "a", old, false).unwrap();
    for (path, status, code, inner) in [
        ("/secrets/a/".to_owned(), 400, "BadParameter", None),
        ("/secrets/a/?api-version=1.0".to_owned(), 400, "BadParameter", None),
        (format!("/secrets/a_b/{V}"), 400, "BadParameter", None),
        (format!("/secrets/a%2Fb/{V}"), 400, "BadParameter", None),
        (format!("/secrets/{}/{V}", "a".repeat(128)), 400, "BadParameter", None),
        (format!("/secrets{V}&maxresults=26"), 400, "BadParameter", None),
        (format!("/secrets{V}&$skiptoken=*"), 400, "BadParameter", None),
        (format!("/secrets/none/{V}"), 404, "SecretNotFound", None),
        (format!("/secrets/a/latest{V}"), 404, "SecretNotFound", None),
        (format!("/secrets/none/versions{V}"), 404, "SecretNotFound", None),
        (format!("/keys/none/{V}"), 404, "KeyNotFound", None),
        (format!("/certificates/none/{V}"), 404, "CertificateNotFound", None),
        (format!("/storage{V}"), 404, "NotFound", None),
        (format!("/secrets/a/{old}{V}"), 403, "Forbidden", Some("SecretDisabled")),
    ] {
        let (got, body) = site.vault(&token, &path).await;
        let error = &body["error"];
        assert_eq!((got, error["code"].as_str()), (status, Some(code)), "{path}");
        assert_eq!(error["innererror"]["code"].as_str(), inner, "{path}");
        assert!(error["message"].is_string(), "{path}");
    }
    let other = site.emulator.vault_url().replace(vault, "no-such-vault");
    let other = site.http.get(format!("{other}/secrets{V}")).bearer_auth(&token).send().await;
    assert_eq!(other.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn permissions_are_per_client_type_and_verb() {
    let site = Site::seeded().await;
    let token = site.token().await;
    let control = site.emulator.control();
    let id = site.emulator.service_principal().0;
    for (kind, verb, shut, open) in [
        (ObjectKind::Secret, Verb::Get, "/secrets/a/", "/keys/k/"),
        (ObjectKind::Secret, Verb::List, "/secrets/a/versions", "/keys"),
        (ObjectKind::Key, Verb::List, "/keys", "/certificates"),
    ] {
        control.permit(id, kind, verb, false).unwrap();
        let (status, body) = site.vault(&token, &format!("{shut}{V}")).await;
        assert_eq!(status, 403, "{shut}");
        assert_eq!(body["error"]["innererror"]["code"], "ForbiddenByRbac");
        assert_eq!(site.vault(&token, &format!("{open}{V}")).await.0, 200, "{open}");
        control.permit(id, kind, verb, true).unwrap();
        assert_eq!(site.vault(&token, &format!("{shut}{V}")).await.0, 200, "{shut}");
    }
}

#[tokio::test]
async fn entra_refuses_with_its_numbers() {
    let site = Site::seeded().await;
    let (id, secret) = site.emulator.service_principal();
    let secret = secret.expose_str().unwrap();
    let workload = |change: fn(&mut WorkloadToken)| {
        let mut token = WorkloadToken::default();
        change(&mut token);
        site.emulator.workload_token(&token).unwrap().expose_str().unwrap().to_owned()
    };
    let good = workload(|_| {});
    let scope = "https://vault.akvfs.test/.default";
    let by_secret = |id: &str, secret: &str, scope: &str| {
        [("client_id", id), ("client_secret", secret), ("scope", scope)]
            .map(|(key, value)| (key, value.to_owned()))
            .to_vec()
    };
    let by_assertion = |id: &str, assertion: &str| {
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        [
            ("client_id", id),
            ("client_assertion", assertion),
            ("client_assertion_type", kind),
            ("scope", scope),
        ]
        .map(|(key, value)| (key, value.to_owned()))
        .to_vec()
    };
    let with_openid = format!("{scope} openid offline_access profile");
    for (what, fields, number) in [
        ("secret", by_secret(id, secret, scope), 0),
        ("as MSAL asks", by_secret(id, secret, &with_openid), 0),
        ("assertion", by_assertion(WORKLOAD_CLIENT, &good), 0),
        ("wrong secret", by_secret(id, "wrong", scope), 7_000_215),
        ("no secret", by_secret(id, "", scope), 7_000_218),
        ("another's secret", by_secret(WORKLOAD_CLIENT, secret, scope), 7_000_215),
        ("unknown client", by_secret("nobody", secret, scope), 700_016),
        ("managed identity", by_secret(USER_IDENTITY, secret, scope), 700_016),
        ("other resource", by_secret(id, secret, "https://graph.test/.default"), 500_011),
        ("no /.default", by_secret(id, secret, "https://vault.akvfs.test"), 1_002_012),
        ("no scope", by_secret(id, secret, ""), 900_144),
        ("no federation", by_assertion(id, &good), 70025),
        ("forged", by_assertion(WORKLOAD_CLIENT, &workload(|t| t.forged = true)), 50013),
        ("expired", by_assertion(WORKLOAD_CLIENT, &workload(|t| t.lifetime = None)), 700_024),
        ("issuer", by_assertion(WORKLOAD_CLIENT, &workload(|t| t.issuer.push('x'))), 700_211),
        ("audience", by_assertion(WORKLOAD_CLIENT, &workload(|t| t.audience.push('x'))), 700_212),
        ("subject", by_assertion(WORKLOAD_CLIENT, &workload(|t| t.namespace.push('x'))), 700_213),
        ("no JWT", by_assertion(WORKLOAD_CLIENT, "canary"), 50027),
    ] {
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(fields.iter().map(|(key, value)| (*key, value.as_str())));
        let (status, body) = site.entra(&form).await;
        match number {
            0 => assert_eq!(status, 200, "{what}: {body}"),
            number => {
                assert!((400..402).contains(&status), "{what}: {status}");
                assert_eq!(body["error_codes"], json!([number]), "{what}: {body}");
                assert!(body["error"].is_string() && body["error_description"].is_string());
            }
        }
    }
    let other = site.emulator.state.addresses.authority() + "/other/oauth2/v2.0/token";
    let response = site.http.post(other).form(&[("grant_type", "x")]).send().await.unwrap();
    assert_eq!(response.json::<Value>().await.unwrap()["error_codes"], json!([90002]));
}

#[tokio::test]
async fn imds_and_nmi_want_their_headers() {
    let site = Site::new(Config { nmi_refusals: 1, ..Config::default() }).await;
    let endpoints = site.emulator.endpoints();
    let plain = Http::new(endpoints.clone()).link_local().unwrap();
    let get = async |url: String, headers: &[(&str, &str)]| {
        let mut request = plain.get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_str::<Value>(&response.text().await.unwrap()).unwrap_or_default())
    };
    let base = format!("{}/metadata/identity/oauth2/token", endpoints.imds);
    let asks = "api-version=2018-02-01&resource=https%3A%2F%2Fvault.akvfs.test";
    let metadata = ("Metadata", "true");
    for (query, headers, status) in [
        (asks.to_owned(), vec![metadata], 200),
        (format!("{asks}&client_id={USER_IDENTITY}"), vec![metadata], 200),
        (format!("{asks}&client_id={WORKLOAD_CLIENT}"), vec![metadata], 400),
        (asks.to_owned(), vec![], 400),
        (asks.to_owned(), vec![metadata, ("X-Forwarded-For", "10.0.0.1")], 400),
        ("resource=https://vault.akvfs.test".to_owned(), vec![metadata], 400),
        ("api-version=2018-02-01".to_owned(), vec![metadata], 400),
        ("api-version=2018-02-01&resource=https://x.test".to_owned(), vec![metadata], 400),
    ] {
        let (got, body) = get(format!("{base}?{query}"), &headers).await;
        assert_eq!(got, status, "{query} {headers:?} {body}");
        let shape = if status == 200 { &body["expires_on"] } else { &body["error"] };
        assert!(shape.is_string(), "{body}");
    }
    site.emulator.control().remove_client(SYSTEM_IDENTITY);
    let (_, body) = get(format!("{base}?{asks}"), &[metadata]).await;
    assert_eq!(body["error_description"], "Identity not found");

    let nmi = format!("{}/host/token/?resource=https://vault.akvfs.test", endpoints.nmi);
    let (pod, space) = (("podname", "app"), ("podns", "default"));
    for (headers, status) in [
        (vec![pod, space], 404),
        (vec![pod, space], 200),
        (vec![pod], 400),
        (vec![("podname", "other"), space], 404),
    ] {
        let (got, body) = get(nmi.clone(), &headers).await;
        assert_eq!(got, status, "{headers:?}");
        assert_eq!(status == 200, body["token"]["access_token"].is_string());
    }
}

#[tokio::test]
async fn faults_meet_what_they_name_and_no_more() {
    let site = Site::seeded().await;
    let token = site.token().await;
    let control = site.emulator.control();
    let at = || Where::vault(site.emulator.vault_name()).path("/secrets/a");
    let path = format!("/secrets/a/{V}");
    control.times(1, at(), Trouble::Throttle(Some(7)));
    let url = format!("{}{path}", site.emulator.vault_url());
    let throttled = site.http.get(&url).bearer_auth(&token).send().await.unwrap();
    assert_eq!(throttled.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(throttled.headers()["retry-after"], "7");
    assert_eq!(site.vault(&token, &path).await.0, 200, "once only");

    control.always(at(), Trouble::Firewall);
    let (status, body) = site.vault(&token, &path).await;
    assert_eq!(
        (status, &body["error"]["innererror"]["code"]),
        (403, &json!("ForbiddenByFirewall"))
    );
    assert_eq!(site.vault(&token, &format!("/keys/k/{V}")).await.0, 200, "another path");
    control.clear_faults();

    // At no rate at all, so that nothing depends on how fast this machine is.
    control.times(2, at(), Trouble::Limit { per_second: 0, retry_after: None });
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(site.vault(&token, &path).await.0);
    }
    assert_eq!(statuses, [200, 429, 429, 200], "one at once, then two refusals");

    control.times(1, at(), Trouble::CutBody);
    let cut = site.http.get(&url).bearer_auth(&token).send().await.unwrap();
    assert!(cut.bytes().await.is_err());
    control.times(1, at(), Trouble::SlowBody(Duration::from_millis(1)));
    assert_eq!(site.vault(&token, &path).await.1["value"], "new");
    control.times(1, at(), Trouble::Redirect("https://evil.test/".to_owned()));
    let redirect = site.http.get(&url).bearer_auth(&token).send().await.unwrap();
    assert_eq!(redirect.status(), StatusCode::FOUND);

    control.reset_log();
    control.times(1, at(), Trouble::Hang);
    let hung = tokio::spawn(site.http.get(&url).bearer_auth(&token).send());
    until(|| control.counters().in_flight == 1).await;
    let record = control.requests().pop().unwrap();
    assert_eq!((record.status, record.path.as_str()), (0, "/secrets/a/"));
    hung.abort();
    assert!(hung.await.unwrap_err().is_cancelled());
    until(|| control.counters().in_flight == 0).await;
}

#[tokio::test]
async fn admin_rotates_and_shows_names_but_no_value() {
    let site = Site::seeded().await;
    let token = site.token().await;
    let admin = site.emulator.admin_url();
    let plain = Http::new(site.emulator.endpoints()).link_local().unwrap();
    let post = async |path: &str, body: Value| {
        let response = plain.post(format!("{admin}{path}")).body(body.to_string()).send();
        response.await.unwrap().status().as_u16()
    };
    assert_eq!(post("/rotate", json!({ "name": "a", "value": "canary-rotated" })).await, 200);
    assert_eq!(site.vault(&token, &format!("/secrets/a/{V}")).await.1["value"], "canary-rotated");
    assert_eq!(post("/disable", json!({ "name": "a" })).await, 200);
    assert_eq!(site.vault(&token, &format!("/secrets/a/{V}")).await.0, 403);
    assert_eq!(post("/fail", json!({ "status": 503, "service": "entra", "times": 1 })).await, 200);
    assert_eq!(site.entra(&[]).await.0, 503);
    for (path, body) in [
        ("/rotate", json!({})),
        ("/rotate", json!([])),
        ("/fail", json!({ "status": 200 })),
        ("/delay", json!({ "ms": "1" })),
        ("/delay", json!({ "ms": 1, "service": "dns" })),
        ("/disable", json!({ "name": "none" })),
        ("/nonsense", json!({})),
    ] {
        assert!(post(path, body.clone()).await >= 400, "{path} {body}");
    }
    let browser = plain.get(format!("{admin}/state")).header("origin", "https://x.test");
    assert_eq!(browser.send().await.unwrap().status(), StatusCode::FORBIDDEN);
    for path in ["/state", "/requests"] {
        let text = plain.get(format!("{admin}{path}")).send().await.unwrap().text().await.unwrap();
        assert!(text.contains("\"a\"") || text.contains("/secrets/a"), "{text}");
        assert!(!text.contains("canary") && !text.contains(&token), "{path}");
    }
}

#[tokio::test]
async fn only_loopback_is_bound_and_stopping_closes_everything() {
    let any: SocketAddr = "0.0.0.0:0".parse().unwrap();
    for config in [
        Config { https: any, ..Config::default() },
        Config { imds: any, ..Config::default() },
        Config { nmi: any, ..Config::default() },
        Config { admin: any, ..Config::default() },
    ] {
        assert!(Emulator::start(config).await.is_err());
    }
    let site = Site::seeded().await;
    let token = site.token().await;
    let url = site.emulator.vault_url();
    site.emulator.control().always(Where::service(Service::Vault), Trouble::Hang);
    let hung = site.http.get(format!("{url}/secrets/a/{V}")).bearer_auth(&token).send();
    let (hung, ()) = tokio::join!(hung, async {
        until(|| site.emulator.control().counters().vault_requests > 0).await;
        site.emulator.stop.cancel();
    });
    assert!(hung.is_err(), "the connection is closed under a hanging request");
    tokio::time::timeout(PATIENCE, site.emulator.shutdown()).await.unwrap();
}
