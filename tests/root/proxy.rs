//! Proxy variables: who is reached through the proxy, who never is, and what is said of one that fails.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use akvfs::emulator::{BINDING_CLIENT, WorkloadToken};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::airgap::Killed;
use crate::azure::{Azure, secret_file};
use crate::canary;
use crate::support::eventually;

const LOGIN: &str = "CONNECT login.microsoftonline.com:443 HTTP/1.1";
const VAULT: &str = "CONNECT akvfs-dev.vault.azure.net:443 HTTP/1.1";
const URL: &str = "https://akvfs-dev.vault.azure.net";

/// A request line, and the credentials that came with it.
type Seen = (String, Option<String>);

/// A CONNECT proxy that takes every host for the emulator.
#[derive(Clone, Default)]
struct Proxy {
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Instead of a tunnel: this status.
    refuses: Arc<AtomicU16>,
}

impl Proxy {
    fn start(at: &str) -> Self {
        let proxy = Self::default();
        let listener = TcpListener::bind(at).unwrap();
        let copy = proxy.clone();
        // Ends with the process, which is the test's own.
        std::thread::spawn(move || {
            for client in listener.incoming().take(1000) {
                let (client, proxy) = (client.unwrap(), copy.clone());
                std::thread::spawn(move || proxy.serve(client));
            }
        });
        proxy
    }

    fn serve(&self, mut client: TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if client.read_exact(&mut byte).is_err() {
                return;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let line = head.lines().next().unwrap().to_owned();
        let credentials = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("proxy-authorization").then(|| value.to_owned())
        });
        self.seen.lock().unwrap().push((line.clone(), credentials));
        let status = self.refuses.load(Ordering::SeqCst);
        if status != 0 || !line.starts_with("CONNECT ") {
            let _ = write!(client, "HTTP/1.1 {status} no\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        let mut server = TcpStream::connect("127.0.0.1:443").unwrap();
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let (mut back, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut back, &mut to));
        let _ = std::io::copy(&mut client, &mut server);
        let _ = server.shutdown(std::net::Shutdown::Both);
    }

    /// The request lines since the last call.
    fn lines(&self) -> Vec<String> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        seen.into_iter().map(|(line, _)| line).collect()
    }
}

/// As a URL holds it.
fn encoded(password: &str) -> String {
    password.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// `akvfs get` as a service principal, or as the machine.
fn get(azure: &Azure, identity: &str) -> Command {
    let (id, secret) = azure.emulator.service_principal();
    if std::fs::create_dir(azure.path("secrets")).is_ok() {
        secret_file(&azure.path("secrets/clientid"), id.as_bytes());
        secret_file(&azure.path("secrets/clientsecret"), secret.expose());
    }
    let mut command = azure.akvfs(&["get", "--identity", identity]);
    if identity == "service-principal" {
        command.args(["--tenant-id", azure.emulator.tenant(), "--secrets-file"]);
        command.arg(azure.path("secrets"));
    }
    command.args([URL, "secret1"]);
    command
}

fn reads(azure: &Azure, command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    canary::record("akvfs-stderr", &said);
    assert!(output.status.success(), "{said}");
    assert_eq!(output.stdout, azure.value.as_bytes());
}

network_test! {
    fn entra_and_vaults_are_reached_through_the_proxy_and_the_machines_own_services_are_not() {
        let azure = Azure::new();
        let address = "127.0.0.1:3128";
        let proxy = Proxy::start(address);
        let url = format!("http://{address}");
        // Directly there is nobody.
        let names = "login.microsoftonline.com akvfs-dev.vault.azure.net";
        let hosts = |at: &str| {
            std::fs::write(azure.path("hosts"), format!("127.0.0.1 localhost\n{at} {names}\n")).unwrap();
        };
        hosts("127.0.0.9");
        for variable in ["HTTPS_PROXY", "https_proxy"] {
            reads(&azure, get(&azure, "service-principal").env(variable, &url));
            assert_eq!(proxy.lines(), [LOGIN, VAULT], "{variable}");
        }
        // IMDS is asked directly, whatever HTTP_PROXY says.
        let mut managed = get(&azure, "managed");
        reads(&azure, managed.env("HTTPS_PROXY", &url).env("HTTP_PROXY", &url).env("ALL_PROXY", &url));
        assert_eq!(proxy.lines(), [VAULT]);

        hosts("127.0.0.1");
        for (variable, list, lines) in [
            ("NO_PROXY", ".vault.azure.net", &[LOGIN][..]),
            ("no_proxy", ".vault.azure.net", &[LOGIN]),
            ("NO_PROXY", "akvfs-dev.vault.azure.net,login.microsoftonline.com", &[]),
        ] {
            let mut command = get(&azure, "service-principal");
            reads(&azure, command.env("HTTPS_PROXY", &url).env(variable, list));
            assert_eq!(proxy.lines(), lines, "{variable}={list}");
        }
    }
}

network_test! {
    fn a_proxy_that_fails_is_named_with_its_fix_and_without_its_password() {
        let azure = Azure::new();
        let password = canary::value("proxy-password");
        let refusing = |at: &str, status: u16| {
            let proxy = Proxy::start(at);
            proxy.refuses.store(status, Ordering::SeqCst);
            proxy
        };
        let asks = refusing("127.0.0.1:3407", 407);
        let _refuses = refusing("127.0.0.1:3403", 403);
        let fails_with = &|url: &str, parts: &[&str]| {
            let output = get(&azure, "service-principal").env("HTTPS_PROXY", url).output().unwrap();
            assert_eq!(output.status.code(), Some(1));
            let said = String::from_utf8(output.stderr).unwrap();
            canary::record("akvfs-stderr", &said);
            assert!(!said.contains("canary"), "{said}");
            for part in parts {
                assert!(said.contains(part), "{part}: {said}");
            }
        };
        let fails = |at: &str, parts: &[&str]| {
            fails_with(&format!("http://user:{}@{at}", encoded(&password)), parts);
        };
        get(&azure, "service-principal");
        // Side by side, since what may pass is tried again for some seconds.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let reached = "the proxy http://127.0.0.1:9 cannot be reached: Connection refused";
                fails("127.0.0.1:9", &["login.microsoftonline.com", reached, "set HTTPS_PROXY to"]);
            });
            scope.spawn(|| {
                let named = "the proxy http://no-such-proxy.test:3128 cannot be reached";
                fails("no-such-proxy.test:3128", &[named]);
            });
            scope.spawn(|| {
                fails("127.0.0.1:3403", &["the proxy http://127.0.0.1:3403 refuses", "NO_PROXY"]);
            });
            scope.spawn(|| {
                let wants = "the proxy http://127.0.0.1:3407 wants a user name and a password (407)";
                fails("127.0.0.1:3407", &[wants, "http://USER:PASSWORD@HOST:PORT"]);
                assert_eq!(asks.lines(), [LOGIN], "asking again is no use");
            });
            // Whatever a password may hold, none of it is shown.
            for password in [password.as_str(), "canary#1", "canary 1", "12?canary"] {
                scope.spawn(move || {
                    let url = format!("http://user:{password}@127.0.0.1:3128");
                    fails_with(&url, &["HTTPS_PROXY is not the URL of a proxy", "%-encoded"]);
                });
            }
        });
    }
}

network_test! {
    fn the_provider_sends_the_proxys_password_to_the_proxy_and_asks_node_and_cluster_directly() {
        let azure = Azure::new();
        let password = canary::value("proxy-password");
        let proxy = Proxy::start("127.0.0.1:3128");
        let cluster = azure.emulator.endpoints().token_proxy.unwrap();
        let hosts = std::fs::read_to_string(azure.path("hosts")).unwrap();
        let api_server = cluster.url.host_str().unwrap();
        std::fs::write(azure.path("hosts"), format!("{hosts}127.0.0.1 {api_server}\n")).unwrap();
        let roots = ["ca.pem".into(), cluster.ca_file.clone()]
            .map(|file: PathBuf| std::fs::read_to_string(azure.path("").join(file)).unwrap());
        std::fs::write(azure.path("roots.pem"), roots.concat()).unwrap();

        let socket = azure.path("azure.sock");
        let mut provider = azure.akvfs(&["-v=5", &format!("--endpoint=unix://{}", socket.display())]);
        provider
            .args(["--healthz-port=0", "--prometheus-port=0"])
            .arg(format!("--token-proxy-url={}", cluster.url))
            .env("KUBERNETES_SERVICE_PORT", cluster.url.port().unwrap().to_string())
            .env("SSL_CERT_FILE", azure.path("roots.pem"));
        for variable in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"] {
            provider.env(variable, format!("http://user:{}@127.0.0.1:3128", encoded(&password)));
        }
        let child = provider
            .stdout(canary::emitted("provider-stdout"))
            .stderr(canary::emitted("provider-stderr"))
            .spawn()
            .unwrap();
        let _provider = Killed(child);
        eventually("the provider's socket", || socket.exists());

        let (id, secret) = azure.emulator.service_principal();
        let principal = json!({"clientid": id, "clientsecret": secret.expose_str().unwrap()});
        let tenant = ("tenantID", azure.emulator.tenant());
        let audience = "api://AKSIdentityBinding".to_owned();
        let token = WorkloadToken { audience: audience.clone(), ..WorkloadToken::default() };
        let token = azure.emulator.workload_token(&token).unwrap();
        canary::note("service account token", token.expose());
        let tokens = json!({ audience: { "token": token.expose_str().unwrap() } });
        let binding = [tenant, ("useAzureTokenProxy", "true"), ("clientID", BINDING_CLIENT)];
        // By Entra, IMDS, NMI and the cluster's token proxy.
        for (class, secrets) in [
            (&[tenant][..], &principal),
            (&[tenant, ("useVMManagedIdentity", "true")], &Value::Null),
            (&[tenant, ("usePodIdentity", "true")], &Value::Null),
            (&binding, &Value::Null),
        ] {
            let mut attributes = azure.attributes(class);
            attributes.insert("csi.storage.k8s.io/pod.name".to_owned(), "app".to_owned());
            attributes
                .insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), tokens.to_string());
            let response = azure.mount_at(&socket, &json!(attributes), secrets);
            assert_eq!(response.files.len(), 3, "{class:?}");
        }
        let given = azure.emulator.control().counters().tokens;
        let modes: Vec<_> = given.keys().copied().collect();
        assert_eq!(modes, ["binding", "managed", "pod", "service-principal"]);

        let seen = proxy.seen.lock().unwrap().clone();
        let basic = format!("Basic {}", STANDARD.encode(format!("user:{password}")));
        for (line, credentials) in &seen {
            assert!([LOGIN, VAULT].contains(&line.as_str()), "{line}");
            assert_eq!(credentials.as_ref(), Some(&basic), "{line}");
        }
        assert!(!seen.is_empty());
    }
}
