//! Who may not read gets nothing of what somebody else has just read: for every pair of identities,
//! in both orders, through one provider.

use akvfs::class::{Assertion, Claim, ObjectKind, Tenant};
use akvfs::cloud::Cloud;
use akvfs::emulator::{
    BINDING_CLIENT, CertificateSeed, KeySeed, POD_IDENTITY, SYSTEM_IDENTITY, Seed, USER_IDENTITY,
    Verb, WorkloadToken, client_certificate,
};
use akvfs::{Code, Secret};
use serde_json::{Value, json};

use crate::canary;
use crate::identities::Site;
use crate::modes::{binding_call, bound, pod_call};
use crate::world::{Call, World, array, secret};

const CERTIFICATE_CLIENT: &str = "ce271f1c-0000-4000-8000-00000000dead";
const OTHER_WORKLOAD: &str = "f0c10ad0-0000-4000-8000-0000000000bb";
const OTHER_POD: &str = "90d1d000-0000-4000-8000-0000000000bb";
pub const CALLERS: usize = 9;

/// Everybody that a Mount can be: the client that the vault sees, and the request.
pub fn everybody(world: &World) -> Vec<(&'static str, Call)> {
    let control = &world.control;
    let base = world.call(&[]);
    let managed = |id: &str| {
        let mut call = base.clone();
        call.secrets = Value::Null;
        call.set("useVMManagedIdentity", "true").set("userAssignedIdentityID", id);
        call
    };
    let seed = CertificateSeed { key: KeySeed::Rsa, pfx: false, chain: false };
    let (material, der) = client_certificate(seed).unwrap();
    canary::note("client certificate", material.expose());
    control.add_certificate_client(CERTIFICATE_CLIENT, &der);
    let mut certificate = base.clone();
    certificate.secrets = json!({
        "clientid": CERTIFICATE_CLIENT, "clientcertificate": material.expose_str().unwrap()
    });
    control.add_client(OTHER_WORKLOAD, None, &[("default", "other")]);
    let token = WorkloadToken { service_account: "other".to_owned(), ..WorkloadToken::default() };
    let mut other_workload = world.workload_call(&[], &token);
    other_workload.set("clientID", OTHER_WORKLOAD);
    control.assign_pod("default", "app-0", POD_IDENTITY);
    control.assign_pod("default", "app-1", OTHER_POD);
    vec![
        ("5e7c1ce0-0000-4000-8000-00000000dead", base.clone()),
        (CERTIFICATE_CLIENT, certificate),
        (
            "f0c10ad0-0000-4000-8000-00000000dead",
            world.workload_call(&[], &WorkloadToken::default()),
        ),
        (OTHER_WORKLOAD, other_workload),
        (BINDING_CLIENT, binding_call(world, &bound())),
        (SYSTEM_IDENTITY, managed("")),
        (USER_IDENTITY, managed(USER_IDENTITY)),
        (POD_IDENTITY, pod_call(world, "app-0", "u0")),
        (OTHER_POD, pod_call(world, "app-1", "u1")),
    ]
}

fn name(reader: usize, other: usize) -> String {
    format!("of-{reader}-not-{other}")
}

#[tokio::test]
async fn what_one_may_read_never_reaches_one_that_may_not() {
    let pairs = (0..CALLERS).flat_map(|a| (0..CALLERS).map(move |b| (a, b)));
    let pairs: Vec<_> = pairs.filter(|(a, b)| a != b).collect();
    let seed = pairs.iter().fold(Seed::default(), |seed, (a, b)| {
        seed.secret(&name(*a, *b), &[&canary::value(&name(*a, *b))])
    });
    let world = World::start(seed).await;
    let callers = everybody(&world);
    assert_eq!(callers.len(), CALLERS);
    let permit = |client: &str, allow: bool| {
        world.control.permit(client, ObjectKind::Secret, Verb::Get, allow).unwrap();
    };
    for (a, b) in pairs {
        // An object of its own for each pair: nothing is left of an earlier one.
        let objects = array(&[&secret(&name(a, b))]);
        let ((reader, mut may), (other, mut may_not)) = (callers[a].clone(), callers[b].clone());
        permit(other, false);
        let response = world.mount(may.set("objects", &objects)).await.unwrap();
        assert_eq!(response.files.len(), 1, "{reader}");
        let refused = world.mount(may_not.set("objects", &objects)).await;
        let status = refused.err().unwrap_or_else(|| panic!("{other} read what only {reader} may"));
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "{other}: {status}");
        permit(other, true);
    }
    // All proofs live side by side, and each caller needed exactly one token.
    let tokens: Vec<_> = world.control.counters().tokens.into_iter().collect();
    assert_eq!(
        tokens,
        [
            ("binding", 1),
            ("certificate", 1),
            ("managed", 2),
            ("pod", 2),
            ("service-principal", 1),
            ("workload", 2)
        ]
    );
}

/// Fifty Mounts of each at once, and everybody only ever seen at the vault as himself.
#[tokio::test]
async fn all_modes_work_side_by_side() {
    let seed = (0..CALLERS).fold(Seed::default(), |seed, caller| {
        seed.secret(&name(caller, caller), &[&canary::value(&name(caller, caller))])
    });
    let world = World::start(seed).await;
    let callers = everybody(&world);
    let mounts = (0..50 * CALLERS).map(|number| {
        let caller = number % CALLERS;
        let mut call = callers[caller].1.clone();
        call.set("objects", &array(&[&secret(&name(caller, caller))]));
        call.target = format!("/var/lib/kubelet/pods/{number}/volumes/kubernetes.io~csi/v/mount");
        let world = &world;
        async move { world.mount(&call).await.unwrap() }
    });
    futures_util::future::join_all(mounts).await;
    for (caller, (client, _)) in callers.iter().enumerate() {
        let path = format!("/secrets/{}", name(caller, caller));
        let seen: Vec<_> = world
            .control
            .requests()
            .into_iter()
            .filter(|record| record.path.trim_end_matches('/') == path)
            .map(|record| record.client.unwrap())
            .collect();
        assert!(!seen.is_empty() && seen.iter().all(|seen| seen == client), "{client}: {seen:?}");
    }
    let tokens: u64 = world.control.counters().tokens.into_values().sum();
    assert_eq!(tokens, CALLERS as u64);
}

/// While A's proof lives, nothing that only resembles A is one, and the vault hears of none of them.
#[tokio::test]
async fn nothing_that_resembles_a_proof_is_one() {
    let site = Site::new().await;
    let tenant = || Tenant::parse(site.emulator.tenant()).unwrap();
    let assertion = site.emulator.workload_token(&WorkloadToken::default()).unwrap();
    let workload = |client_id: &str, assertion: &Secret| Claim::Workload {
        tenant: tenant(),
        client_id: client_id.to_owned(),
        assertion: Assertion::Token(assertion.clone()),
    };
    let id = site.emulator.workload_client_id();
    let cloud = site.emulator.cloud();
    site.read(workload(id, &assertion), cloud.clone()).await.unwrap();
    site.read(site.principal(None), cloud.clone()).await.unwrap();
    site.read(Claim::Managed { client_id: None }, cloud.clone()).await.unwrap();
    site.emulator.control().reset_log();

    let token = |wanted: WorkloadToken| site.emulator.workload_token(&wanted).unwrap();
    let forged = token(WorkloadToken { forged: true, ..WorkloadToken::default() });
    let expired = token(WorkloadToken { lifetime: None, ..WorkloadToken::default() });
    let never = "00000000-0000-4000-8000-000000000000".to_owned();
    let binding = |client_id: &str, assertion: &Secret| Claim::Binding {
        tenant: tenant(),
        client_id: client_id.to_owned(),
        assertion: assertion.clone(),
    };
    let elsewhere =
        Cloud { authority: cloud.authority.replace("login.", "login2."), ..cloud.clone() };
    let (principal, _) = site.emulator.service_principal();
    for (what, claim, cloud) in [
        ("another client id", workload(BINDING_CLIENT, &assertion), &cloud),
        ("a forged subject", workload(id, &forged), &cloud),
        ("an expired assertion", workload(id, &expired), &cloud),
        ("the assertion in another mode", binding(id, &assertion), &cloud),
        ("a wrong secret", site.principal(Some("wrong")), &cloud),
        ("the client id without its secret", workload(principal, &assertion), &cloud),
        ("an identity never issued", Claim::Managed { client_id: Some(never) }, &cloud),
        ("another authority", workload(id, &assertion), &elsewhere),
        ("another authority with a secret", site.principal(None), &elsewhere),
    ] {
        let error = site.read(claim, cloud.clone()).await.err();
        let error = error.unwrap_or_else(|| panic!("{what} was taken for a proof"));
        assert_ne!(error.code(), Code::Internal, "{what}: {error}");
    }
    assert_eq!(site.emulator.control().counters().vault_requests, 0);
}
