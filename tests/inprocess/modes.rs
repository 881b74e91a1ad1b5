//! Identity modes of pods, through the real server.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use akvfs::emulator::{
    BINDING_CLIENT, CertificateSeed, KeySeed, POD_IDENTITY, Seed, Service, Trouble, USER_IDENTITY,
    Where, WorkloadToken, client_certificate,
};
use akvfs::fetch::Fetch;
use serde_json::{Value, json};
use tonic::Code;

use crate::canary;
use crate::seeds::{ONE, one};
use crate::world::{Call, World, secret};

/// A pod-identity call of this pod; `clientID` has no meaning in this mode.
pub fn pod_call(world: &World, name: &str, uid: &str) -> Call {
    let mut call = world.call(&[&secret(ONE)]);
    call.secrets = Value::Null;
    call.set("usePodIdentity", "true").set("clientID", "ignored");
    call.set("csi.storage.k8s.io/pod.name", name).set("csi.storage.k8s.io/pod.uid", uid);
    call
}

/// As kubelet does it: the Mount is repeated until the identity is assigned.
#[tokio::test]
async fn pod_identity_mounts_once_nmi_knows_the_pod() {
    let value = canary::value(ONE);
    let world = World::start(Seed::default().secret(ONE, &[&value])).await;
    world.control.assign_pod("default", "app-0", POD_IDENTITY);
    world.control.refuse_pods(2);
    let call = pod_call(&world, "app-0", "u1");
    for _ in 0..2 {
        let status = world.mount(&call).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        let text = "nmi response failed with status code: 404";
        assert!(status.message().contains(text), "{status}");
        assert!(!status.message().contains("no azure identity"), "the body: {status}");
    }
    // Refused means asked once: whoever repeats is kubelet.
    assert_eq!(world.control.counters().token_requests, 2);
    let response = world.mount(&call).await.unwrap();
    assert_eq!(response.files[0].contents, value.as_bytes());
    // Again, and by now without NMI.
    world.mount(&call).await.unwrap();
    let counters = world.control.counters();
    assert_eq!(counters.token_requests, 3);
    assert_eq!(counters.tokens.into_iter().collect::<Vec<_>>(), [("pod", 1)]);
}

/// Neither another pod nor a later one of the same name gets anything of the first.
#[tokio::test]
async fn two_pods_never_share() {
    let world = World::start(one()).await;
    world.control.assign_pod("default", "app-0", "00000000-0000-4000-8000-0000000000a0");
    world.mount(&pod_call(&world, "app-0", "u1")).await.unwrap();
    let status = world.mount(&pod_call(&world, "app-1", "u2")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    world.control.refuse_pods(1);
    let status = world.mount(&pod_call(&world, "app-0", "u3")).await.unwrap_err();
    assert!(status.message().contains("status code: 404"), "{status}");
    let mut elsewhere = pod_call(&world, "app-0", "u1");
    elsewhere.set("csi.storage.k8s.io/pod.namespace", "other");
    assert!(world.mount(&elsewhere).await.is_err());
    assert_eq!(world.control.counters().all_reads(), 1);
}

#[tokio::test]
async fn a_pod_that_kubelet_does_not_vouch_for_is_not_asked_about() {
    let world = World::start(one()).await;
    for (name, uid) in [("app-0", ""), ("app-0\r\npodns: other", "u"), ("a b", "u")] {
        let status = world.mount(&pod_call(&world, name, uid)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let text = "failed to build auth config for mode PodIdentity: ";
        assert!(status.message().contains(text), "{status}");
    }
    assert_eq!(world.control.counters().token_requests, 0);
}

const BINDING: &str = "api://AKSIdentityBinding";

/// A call by identity binding, with a token of the emulated cluster.
pub fn binding_call(world: &World, token: &WorkloadToken) -> Call {
    let mut call = world.call(&[&secret(ONE)]);
    call.secrets = Value::Null;
    call.set("useAzureTokenProxy", "true").set("clientID", BINDING_CLIENT);
    let audience = token.audience.clone();
    let token = world.emulator.workload_token(token).unwrap();
    canary::note("service account token", token.expose());
    let tokens = json!({ audience: { "token": token.expose_str().unwrap() } });
    call.set("csi.storage.k8s.io/serviceAccount.tokens", &tokens.to_string());
    call
}

pub fn bound() -> WorkloadToken {
    WorkloadToken { audience: BINDING.to_owned(), ..WorkloadToken::default() }
}

/// The TLS name comes from the API server's certificate; Entra itself is never asked.
#[tokio::test]
async fn identity_binding_gets_its_token_from_the_clusters_proxy() {
    let world = World::start(one()).await;
    let call = binding_call(&world, &bound());
    world.mount(&call).await.unwrap();
    world.mount(&call).await.unwrap();
    let counters = world.control.counters();
    assert_eq!(counters.tokens.into_iter().collect::<Vec<_>>(), [("binding", 1)]);
    let requests = world.control.requests();
    let token = requests.iter().find(|request| request.method == "POST").unwrap();
    assert_eq!(token.host, "kubernetes.default.svc.cluster.local");
    assert!(token.path.ends_with("/oauth2/v2.0/token"), "{}", token.path);
    // Another service account may not use the identity, nor may a token for Entra.
    let other = WorkloadToken { service_account: "other".to_owned(), ..bound() };
    let status = world.mount(&binding_call(&world, &other)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    let status = world.mount(&binding_call(&world, &WorkloadToken::default())).await.unwrap_err();
    let text = "failed to parse service account token for identity binding";
    assert!(status.message().contains(text), "{status}");
}

/// What is wrong with the proxy concerns the Mounts that need it, and the cluster's CA is read anew.
#[tokio::test]
async fn a_proxy_that_is_not_trusted_is_told_to_its_own_mounts_until_the_ca_file_changes() {
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.crt");
    let mut good = PathBuf::new();
    let world = World::with_endpoints(
        one(),
        |_, endpoints| {
            let proxy = endpoints.token_proxy.as_mut().unwrap();
            good = std::mem::replace(&mut proxy.ca_file, ca_file.clone());
            proxy.sni = TOKEN_PROXY.to_owned();
        },
        |http| Fetch::new(http).unwrap(),
    )
    .await;
    let call = binding_call(&world, &bound());
    let refused = async |text: &str| {
        let status = world.mount(&call).await.unwrap_err();
        assert!(status.message().contains(text), "{status}");
        assert_eq!(world.control.counters().token_requests, 0);
    };
    std::fs::write(&ca_file, "no certificate").unwrap();
    refused("proxy transport not available: ").await;
    std::fs::write(&ca_file, world.emulator.ca_pem()).unwrap();
    refused("TLS failed").await;
    world.mount(&world.call(&[&secret(ONE)])).await.unwrap();
    world.control.reset_log();
    std::fs::copy(&good, &ca_file).unwrap();
    world.mount(&call).await.unwrap();
}

const TOKEN_PROXY: &str = "aeaf29ip1hi5q38ebc3u4daum81u0unk52t5bg50j25234fmuj78g.ests.aks";

/// Outside AKS there is no such certificate: said once, and not looked up for every Mount.
#[tokio::test]
async fn a_cluster_without_a_token_proxy_is_not_asked_again_and_again() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let world = World::with_endpoints(
        one(),
        |_, endpoints| {
            let proxy = endpoints.token_proxy.as_mut().unwrap();
            proxy.api_server = format!("https://127.0.0.1:{port}").parse().unwrap();
        },
        |http| Fetch::new(http).unwrap(),
    )
    .await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let closer = tokio::spawn(async move {
        // Counted before it is closed, and closing it is what the look-up waits for.
        while let Ok((connection, _)) = silent.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            drop(connection);
        }
    });
    let call = binding_call(&world, &bound());
    for _ in 0..3 {
        let status = world.mount(&call).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("proxy transport not available: "), "{status}");
    }
    closer.abort();
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(world.control.counters().token_requests, 0);
}

const CERTIFICATE_CLIENT: &str = "ce271f1c-0000-4000-8000-00000000dead";

/// The assertion's signature, audience and thumbprint are what the emulated Entra checks.
#[tokio::test]
async fn a_service_principal_may_have_a_certificate_instead_of_a_secret() {
    let world = World::start(one()).await;
    let mut call = world.call(&[&secret(ONE)]);
    let seed = |pfx, chain| CertificateSeed { key: KeySeed::Rsa, pfx, chain };
    for seed in [seed(false, false), seed(false, true), seed(true, true)] {
        let (material, der) = client_certificate(seed).unwrap();
        canary::note("client certificate", material.expose());
        world.control.add_certificate_client(CERTIFICATE_CLIENT, &der);
        let text = material.expose_str().unwrap();
        call.secrets = json!({ "clientid": CERTIFICATE_CLIENT, "ClientCertificate": text });
        world.control.reset_log();
        world.mount(&call).await.unwrap();
        let counters = world.control.counters();
        assert_eq!(counters.tokens.into_iter().collect::<Vec<_>>(), [("certificate", 1)]);
    }
    // The same key in a certificate that the application does not know.
    let (material, _) = client_certificate(seed(true, false)).unwrap();
    call.secrets = json!({
        "clientid": CERTIFICATE_CLIENT, "clientcertificate": material.expose_str().unwrap()
    });
    let status = world.mount(&call).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().contains("AADSTS700027"), "{status}");
    // Whoever has both, as upstream understands it.
    let (client_id, client_secret) = world.emulator.service_principal();
    let client_secret = client_secret.expose_str().unwrap().to_owned();
    call.secrets = json!({
        "clientid": client_id, "clientsecret": client_secret, "clientcertificate": "unused"
    });
    world.mount(&call).await.unwrap();
}

/// `tenantID: adfs`, in any case, means another token endpoint and another kind of assertion.
#[tokio::test]
async fn the_tenant_adfs_is_asked_at_its_own_endpoint() {
    let world = World::start(one()).await;
    let (material, der) =
        client_certificate(CertificateSeed { key: KeySeed::Rsa, pfx: false, chain: false })
            .unwrap();
    world.control.add_certificate_client(CERTIFICATE_CLIENT, &der);
    let text = material.expose_str().unwrap();
    let mut call = world.call(&[&secret(ONE)]);
    for secrets in
        [call.secrets.clone(), json!({ "clientid": CERTIFICATE_CLIENT, "clientcertificate": text })]
    {
        for tenant in ["adfs", "ADFS"] {
            call.secrets = secrets.clone();
            world.control.reset_log();
            world.mount(call.set("tenantID", tenant)).await.unwrap();
            let requests = world.control.requests();
            let token = requests.iter().find(|request| request.method == "POST").unwrap();
            assert_eq!(token.path, "/adfs/oauth2/token");
        }
    }
}

/// What stands for IMDS on other machines, and what each of them insists on.
#[tokio::test]
async fn managed_identity_works_on_app_service_and_azure_arc() {
    let keys = tempfile::tempdir().unwrap();
    for arc in [false, true] {
        let world = World::with_machine(one(), |emulator| match arc {
            true => emulator.arc(keys.path()),
            false => emulator.app_service(),
        })
        .await;
        let mut call = world.call(&[&secret(ONE)]);
        call.secrets = Value::Null;
        world.mount(call.set("useVMManagedIdentity", "true")).await.unwrap();
        let counters = world.control.counters();
        assert_eq!(counters.tokens.into_iter().collect::<Vec<_>>(), [("managed", 1)]);
        assert_eq!(counters.token_requests, if arc { 2 } else { 1 });
        let user = world.mount(call.set("userAssignedIdentityID", USER_IDENTITY)).await;
        match arc {
            true => {
                let status = user.unwrap_err();
                assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
                assert!(status.message().contains("no user-assigned identities"), "{status}");
            }
            false => assert!(user.is_ok()),
        }
    }
    // Somebody else at the agent's address learns nothing.
    let world = World::with_machine(one(), |emulator| emulator.arc(keys.path())).await;
    let page = Trouble::Answer {
        status: 401,
        content_type: "text/html".to_owned(),
        body: "<canary>".to_owned(),
    };
    world.control.always(Where::service(Service::Imds), page);
    let mut call = world.call(&[&secret(ONE)]);
    call.secrets = Value::Null;
    let status = world.mount(call.set("useVMManagedIdentity", "true")).await.unwrap_err();
    assert!(status.message().contains("does not name a .key file in"), "{status}");
    assert!(!status.message().contains("canary"), "{status}");
}
