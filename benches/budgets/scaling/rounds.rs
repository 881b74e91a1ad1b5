//! Rounds of Mounts of all pods of a node, with the interval between them simulated by short ages.

use std::fmt::Write;
use std::time::{Duration, Instant};

use akvfs::emulator::{Service, Trouble, Where};
use serde_json::{Value, json};

use super::super::Outcome;
use super::super::azure::{Azure, Identity, Pod};
use super::super::contest::{Binary, Lab};
use super::super::driver::Driver;
use super::super::process::Provider;
use super::model::{Evidence, LEAST_REFRESH, Node, Requests, Round};

/// `--mount-max-age` and `--refresh-max-age` of the provider that is measured.
const MOUNT_AGE: Duration = Duration::from_secs(4);
const REFRESH_AGE: Duration = Duration::from_secs(10);
/// Of every service.
pub const LATENCY: Duration = Duration::from_millis(20);
pub const OBJECTS: u64 = 10;
/// Rounds whose times are shown.
const TIMED: [Round; 4] = [Round::Start, Round::Held, Round::NewTokens, Round::Due];
/// A round in which nothing is asked is too short for the kernel's CPU clock, which counts 10 ms: so
/// many Mounts are averaged.
const HELD_MOUNTS: usize = 2000;

struct Measured {
    requests: Requests,
    /// Seconds, until the last pod had its files.
    wall: f64,
    /// Seconds of the provider.
    cpu: f64,
    /// MiB, afterwards.
    memory: f64,
    /// Whether it was over before anything that it found had grown too old.
    in_time: bool,
}

/// What the counts of all rounds say of the model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Judgement {
    pub differs: bool,
    /// Not as modelled, but the round outlasted the ages, so the model does not hold for it.
    pub too_slow: bool,
}

/// The table, and what it says.
pub async fn measure(lab: &Lab, binary: &Binary) -> Outcome<(String, Judgement)> {
    let binary = binary.with(&[
        format!("--mount-max-age={}s", MOUNT_AGE.as_secs()),
        format!("--refresh-max-age={}s", REFRESH_AGE.as_secs()),
    ]);
    let mut judgement = Judgement::default();
    let mut table = head();
    for node in nodes(lab.quick) {
        eprintln!("rounds: {node:?}");
        let rounds = rounds(lab, &binary, node).await?;
        let verdict = judge(node, &rounds, &mut judgement);
        let evidence = match node.evidence {
            Evidence::Assertion => "token",
            Evidence::Secret => "secret",
        };
        let _ = write!(table, "| {} | {} | {evidence} |", node.pods, node.identities);
        for (_, Measured { requests: Requests { vault, tokens }, .. }) in &rounds {
            let _ = write!(table, " {vault} + {tokens} |");
        }
        for figure in [|round: &Measured| round.wall, |round: &Measured| round.cpu] {
            for (_, measured) in rounds.iter().filter(|(round, _)| TIMED.contains(round)) {
                let _ = write!(table, " {:.1} |", 1e3 * figure(measured));
            }
        }
        let memory = rounds.last().map_or(0.0, |(_, measured)| measured.memory);
        let Requests { vault, tokens } = node.requests_of_go();
        let _ = writeln!(table, " {memory:.1} | {verdict} | {vault} + {tokens} |");
    }
    Ok((table, judgement))
}

/// Requests of every round, times of some.
fn head() -> String {
    let mut cells: Vec<String> = ["Pods", "Identities", "Evidence"].map(str::to_owned).to_vec();
    cells.extend(Round::ALL.map(|round| round.title().to_owned()));
    for what in ["wall ms", "CPU ms"] {
        cells.extend(TIMED.map(|round| format!("{what}: {}", round.title())));
    }
    cells.extend(["RSS MiB", "Model", "Go, each round"].map(str::to_owned));
    format!("| {} |\n|{}\n", cells.join(" | "), "---:|".repeat(cells.len()))
}

/// `agrees`, or what else the model says.
fn judge(node: Node, rounds: &[(Round, Measured)], judgement: &mut Judgement) -> String {
    let mut verdict = Vec::new();
    for (round, measured) in rounds {
        let (model, title) = (node.requests(*round), round.title());
        if measured.requests == model {
            continue;
        }
        if measured.in_time {
            judgement.differs = true;
            verdict.push(format!("{title} DIFFERS: {} + {}", model.vault, model.tokens));
        } else {
            judgement.too_slow = true;
            verdict.push(format!("{title}: this machine was too slow to judge"));
        }
    }
    if verdict.is_empty() { "agrees".to_owned() } else { verdict.join("; ") }
}

fn nodes(quick: bool) -> Vec<Node> {
    let counts: &[u64] = if quick { &[1, 10] } else { &[1, 10, 100, 200] };
    let mut nodes = Vec::new();
    for &pods in counts {
        let mut identities = vec![1, 5.min(pods), pods];
        identities.dedup();
        for identities in identities {
            nodes.push(Node { pods, identities, objects: OBJECTS, evidence: Evidence::Assertion });
        }
    }
    if let Some(&pods) = counts.last() {
        nodes.push(Node { pods, identities: 1, objects: OBJECTS, evidence: Evidence::Secret });
    }
    nodes
}

async fn rounds(lab: &Lab, binary: &Binary, node: Node) -> Outcome<Vec<(Round, Measured)>> {
    let azure = lab.azure()?;
    let provider = lab.start(binary, false).await?;
    let driver = Driver::connect(provider.socket(), 1).await?;
    let clients = clients(azure, node);
    azure.calm(LATENCY);
    let mut pods = pods(azure, node, &clients, 0)?;
    // When the values were asked for: not before, and not after.
    let (mut asked, mut answered) = (Instant::now(), Instant::now());
    let mut out = Vec::new();
    for round in Round::ALL {
        // So long no value is too old.
        let (mut age, mut times) = (REFRESH_AGE.mul_f64(LEAST_REFRESH), 1);
        match round {
            Round::Start => age = MOUNT_AGE,
            Round::Held => times = (HELD_MOUNTS / pods.len()).max(1),
            Round::Replaced => {
                age = MOUNT_AGE;
                tokio::time::sleep_until((answered + MOUNT_AGE).into()).await;
                pods = self::pods(azure, node, &clients, node.pods)?;
            }
            // The pods stay who they are.
            Round::NewTokens => pods = self::pods(azure, node, &clients, node.pods)?,
            Round::Due => tokio::time::sleep_until((answered + REFRESH_AGE).into()).await,
        }
        let asks = matches!(round, Round::Start | Round::Replaced | Round::Due);
        if asks {
            asked = Instant::now();
        }
        let mut measured = one(azure, &provider, &driver, &pods, times).await?;
        measured.in_time = asked.elapsed() < age;
        if asks {
            answered = Instant::now();
        }
        out.push((round, measured));
    }
    Ok(out)
}

/// Every pod at once, so many times over.
async fn one(
    azure: &Azure,
    provider: &Provider,
    driver: &Driver,
    pods: &[Pod],
    times: usize,
) -> Outcome<Measured> {
    azure.control().reset_log();
    let (begin, before) = (Instant::now(), provider.cpu()?);
    for _ in 0..times {
        driver.mount_all(pods).await?;
    }
    let (wall, cpu) = (begin.elapsed(), provider.cpu()? - before);
    let counters = azure.control().counters();
    let times = times as f64;
    Ok(Measured {
        requests: Requests { vault: counters.vault_requests, tokens: counters.token_requests },
        wall: wall.as_secs_f64() / times,
        cpu: cpu.as_secs_f64() / times,
        memory: provider.memory()?.now,
        in_time: false,
    })
}

/// Each with a service account token that was never seen.
pub fn pods(azure: &Azure, node: Node, clients: &[String], first: u64) -> Outcome<Vec<Pod>> {
    let identity = match node.evidence {
        Evidence::Assertion => Identity::Workload,
        Evidence::Secret => Identity::Principal,
    };
    let pod = |number: u64| -> Outcome<Pod> {
        let (id, objects) = ((first + number) as usize, node.objects as usize);
        let mut pod = azure.pod(id, identity, 0, objects)?;
        if node.evidence == Evidence::Assertion {
            let mut attributes: Value = serde_json::from_str(&pod.request.attributes)?;
            attributes["clientID"] = json!(clients[(number % node.identities) as usize]);
            pod.request.attributes = attributes.to_string();
        }
        Ok(pod)
    };
    (0..node.pods).map(pod).collect()
}

/// Entra knows these clients from now on.
pub fn clients(azure: &Azure, node: Node) -> Vec<String> {
    let id = |number| format!("5ca1ab1e-0000-4000-8000-{number:012x}");
    let clients: Vec<String> = (0..node.identities).map(id).collect();
    for client in &clients {
        azure.control().add_client(client, None, &[("default", "app")]);
    }
    clients
}

/// Nothing but a vault that takes so many requests a second, and says 429 to the rest.
pub fn throttle(azure: &Azure, per_second: u32) {
    azure.calm(LATENCY);
    let limit = Trouble::Limit { per_second, retry_after: None };
    azure.control().always(Where::service(Service::Vault), limit);
}
