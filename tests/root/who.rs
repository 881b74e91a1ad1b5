//! `--identity` of the real binary: who asks, where no class says so.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use akvfs::cloud::Machine;
use akvfs::emulator::{CertificateSeed, KeySeed, WorkloadToken, client_certificate};
use serde_json::json;

use crate::azure::{Azure, secret_file};
use crate::canary;
use crate::support::run;

const URL: &str = "https://akvfs-dev.vault.azure.net";
const PERSON: &str = "9e750000-0000-4000-8000-00000000dead";
const CLIENT: &str = "ce271f1c-0000-4000-8000-00000000dead";

/// `akvfs get` of the one secret with these variables and no others of Azure's.
fn get(azure: &Azure, identity: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = azure.akvfs(&["get"]);
    command.args(identity).args([URL, "secret1"]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AZURE_")) {
        command.env_remove(name);
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    canary::record("akvfs-stderr", &String::from_utf8_lossy(&output.stderr));
    output
}

fn good(azure: &Azure, output: &Output, mode: &str) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(output.stdout, azure.value.as_bytes());
    let control = azure.emulator.control();
    let modes: Vec<_> = control.counters().tokens.into_keys().collect();
    assert_eq!(modes, if mode.is_empty() { vec![] } else { vec![mode] });
    control.reset_log();
    said
}

/// A program that stands for az, whose login is [`PERSON`].
fn install_az(azure: &Azure) -> String {
    azure.emulator.control().add_client(PERSON, None, &[]);
    let token = azure.emulator.access_token(PERSON).unwrap();
    canary::note("access token", token.expose());
    let said = json!({ "accessToken": token.expose_str().unwrap(), "tokenType": "Bearer" });
    let (dir, answer) = (azure.path("bin"), azure.path("az.json"));
    std::fs::create_dir(&dir).unwrap();
    secret_file(&answer, said.to_string().as_bytes());
    let az = dir.join("az");
    let script = format!(
        "#!/bin/sh\n\
         env | grep -q AZURE_CLIENT_SECRET && exit 1\n\
         test \"$*\" = \"account get-access-token --output json --resource https://vault.azure.net\" \
         || exit 1\n\
         exec /bin/cat {}\n",
        answer.display()
    );
    std::fs::write(&az, script).unwrap();
    std::fs::set_permissions(&az, std::fs::Permissions::from_mode(0o755)).unwrap();
    dir.to_str().unwrap().to_owned()
}

network_test! {
    fn the_environment_names_a_service_principal_a_certificate_or_a_token_file() {
        let azure = Azure::new();
        let (client_id, secret) = azure.emulator.service_principal();
        let secret = secret.expose_str().unwrap();
        let tenant = ("AZURE_TENANT_ID", azure.emulator.tenant());
        let environment = ["--identity", "environment"];
        let client = ("AZURE_CLIENT_ID", client_id);
        let principal = [tenant, client, ("AZURE_CLIENT_SECRET", secret)];
        good(&azure, &get(&azure, &environment, &principal), "service-principal");

        let seed = CertificateSeed { key: KeySeed::Rsa, pfx: true, chain: true };
        let (material, der) = client_certificate(seed).unwrap();
        canary::note("client certificate", material.expose());
        azure.emulator.control().add_certificate_client(CLIENT, &der);
        let path = azure.path("client.pfx");
        secret_file(&path, material.expose());
        let certificate = ("AZURE_CLIENT_CERTIFICATE_PATH", path.to_str().unwrap());
        let client = ("AZURE_CLIENT_ID", CLIENT);
        good(&azure, &get(&azure, &environment, &[tenant, client, certificate]), "certificate");

        let token = azure.emulator.workload_token(&WorkloadToken::default()).unwrap();
        canary::note("service account token", token.expose());
        let path = azure.path("token");
        secret_file(&path, token.expose());
        // As kubelet leaves it in a pod.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let file = ("AZURE_FEDERATED_TOKEN_FILE", path.to_str().unwrap());
        let client = ("AZURE_CLIENT_ID", azure.emulator.workload_client_id());
        good(&azure, &get(&azure, &environment, &[tenant, client, file]), "workload");

        let output = get(&azure, &environment, &[tenant, client]);
        assert_eq!(output.status.code(), Some(64));
        assert!(String::from_utf8(output.stderr).unwrap().contains("needs a credential"));
    }
}

network_test! {
    fn auto_says_which_identity_it_took_and_asks_no_other() {
        let azure = Azure::new();
        let (client_id, secret) = azure.emulator.service_principal();
        let principal = [
            ("AZURE_TENANT_ID", azure.emulator.tenant()),
            ("AZURE_CLIENT_ID", client_id),
            ("AZURE_CLIENT_SECRET", secret.expose_str().unwrap()),
        ];
        let path = install_az(&azure);
        let with_az = [("PATH", path.as_str())];
        let said = good(&azure, &get(&azure, &[], &principal), "service-principal");
        assert!(said.contains("--identity auto is environment"), "{said}");
        let said = good(&azure, &get(&azure, &["--identity", "auto"], &with_az), "managed");
        assert!(said.contains("--identity auto is managed"), "{said}");
        run("ip", &["address", "del", "169.254.169.254/32", "dev", "lo"]);
        let said = good(&azure, &get(&azure, &[], &with_az), "");
        assert!(said.contains("--identity auto is azure-cli"), "{said}");
        let output = get(&azure, &[], &[("PATH", "bin:.")]);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("no az in PATH") && said.contains("run az login"), "{said}");
    }
}

network_test! {
    fn the_azure_cli_gets_nothing_of_the_environments_credentials() {
        let azure = Azure::new();
        let path = install_az(&azure);
        let unused = canary::value("client secret");
        let variables = [("PATH", path.as_str()), ("AZURE_CLIENT_SECRET", unused.as_str())];
        good(&azure, &get(&azure, &["--identity", "azure-cli"], &variables), "");
    }
}

network_test! {
    fn app_service_and_azure_arc_give_tokens_where_they_are_the_machine() {
        let azure = Azure::new();
        let managed = ["--identity", "managed"];
        let Machine::AppService { endpoint, header } = azure.emulator.app_service() else { panic!() };
        canary::note("app service header", header.expose());
        let variables = [
            ("IDENTITY_ENDPOINT", endpoint.as_str()),
            ("IDENTITY_HEADER", header.expose_str().unwrap()),
        ];
        good(&azure, &get(&azure, &managed, &variables), "managed");

        // The agent's directory, in this namespace only.
        run("mount", &["-t", "tmpfs", "none", "/var/opt"]);
        let keys = std::path::Path::new("/var/opt/azcmagent/tokens");
        std::fs::create_dir_all(keys).unwrap();
        let Machine::Arc { endpoint, .. } = azure.emulator.arc(keys) else { panic!() };
        let variables =
            [("IDENTITY_ENDPOINT", endpoint.as_str()), ("IMDS_ENDPOINT", "http://127.0.0.1:40342")];
        good(&azure, &get(&azure, &managed, &variables), "managed");
        assert_eq!(std::fs::read_dir(keys).unwrap().count(), 0, "a key is good for one request");
    }
}
