//! The tables of docs/SCALING.md that are computed, each with its title.

use std::fmt::Write;

use super::cluster::{Setting, Waves, simulate};
use super::model::{Cluster, LIMIT, mean_resync, most_nodes, seconds_at_limit};

const NODES: [u64; 5] = [100, 500, 1000, 2000, 5000];
/// `--refresh-max-age`: the default, and a long one.
const AGES: [f64; 2] = [60.0, 600.0];

/// What the page's tables are about: 30 pods a node, of three apps with ten objects each.
const fn cluster(nodes: u64, refresh_max_age: f64) -> Cluster {
    Cluster { nodes, apps: 3, pods: 10, objects: 10, refresh_max_age }
}

/// All of them, in the page's order.
pub fn all() -> Vec<(&'static str, String)> {
    vec![
        ("Pods that run: requests to the vault in 10 s", steady()),
        ("All nodes start at once: requests to the vault", start()),
        ("One app is rolled out on every node: requests to the vault", rollout()),
        ("Waves after a common start: part of all keys in the fullest 10 s", waves()),
        ("The first 10 s after an outage: requests to the vault", outage()),
        ("Most nodes for one vault, pods that run", nodes()),
        ("Token requests", tokens()),
    ]
}

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut out = format!("| {} |\n|{}\n", head.join(" | "), "---:|".repeat(head.len()));
    for row in rows {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    out
}

fn steady() -> String {
    let head = [
        "Nodes",
        "Pods",
        "akvfs",
        "akvfs, --refresh-max-age=10m",
        "Go",
        "vaults: akvfs",
        "10m",
        "Go",
    ];
    let rows = NODES.map(|count| {
        let [short, long] = AGES.map(|age| cluster(count, age).most_in_ten_seconds());
        let (pods, go) =
            (cluster(count, AGES[0]).all_pods(), cluster(count, AGES[0]).go_in_ten_seconds());
        let counts = [count as f64, pods as f64, short, long, go].map(number);
        counts.into_iter().chain([short, long, go].map(vaults)).collect()
    });
    table(&head, rows)
}

fn start() -> String {
    let head = ["Nodes", "akvfs", "takes at least", "Go", "takes at least"];
    let rows = NODES.map(|count| {
        let cluster = cluster(count, AGES[0]);
        once(count, cluster.at_start(), cluster.go_at_start())
    });
    table(&head, rows)
}

fn rollout() -> String {
    let head = ["Nodes", "akvfs", "takes at least", "Go", "takes at least"];
    let rows = NODES.map(|count| {
        let cluster = cluster(count, AGES[0]);
        once(count, cluster.of_rollout(), cluster.go_of_rollout())
    });
    table(&head, rows)
}

fn once(nodes: u64, ours: u64, go: u64) -> Vec<String> {
    let time = |requests| format!("{} s", number(seconds_at_limit(requests)));
    vec![number(nodes as f64), number(ours as f64), time(ours), number(go as f64), time(go)]
}

fn waves() -> String {
    let head = [
        "Pods of the app a node",
        "--refresh-max-age",
        "nodes start within",
        "start",
        "first echo",
        "after 30 min",
        "average",
    ];
    let mut rows = Vec::new();
    for (pods, age, spread) in [
        (1, AGES[0], 0.0),
        (10, AGES[0], 0.0),
        (10, AGES[0], 600.0),
        (10, AGES[1], 0.0),
        (10, AGES[1], 600.0),
    ] {
        let Waves { start, echo, mean, late } =
            simulate(Setting { pods, refresh_max_age: age, spread });
        let mut row = vec![pods.to_string(), format!("{age} s"), format!("{} s", spread.max(10.0))];
        row.extend([start, echo, late, mean].map(|part| format!("{:.1} %", 100.0 * part)));
        rows.push(row);
    }
    table(&head, rows)
}

fn outage() -> String {
    let head = ["Nodes", "akvfs", "Go"];
    let rows = NODES.map(|count| {
        let cluster = cluster(count, AGES[0]);
        [count as f64, cluster.after_outage(), cluster.go_in_ten_seconds()].map(number).to_vec()
    });
    table(&head, rows)
}

/// By keys of a node: with one pod for each app, so that the Go provider has as few as it can.
fn nodes() -> String {
    let head = [
        "Keys a node",
        "akvfs",
        "akvfs, --refresh-max-age=10m",
        "Go, 1 pod an app",
        "Go, 10 pods an app",
    ];
    let rows = [1, 3, 10, 30].map(|apps| {
        let node = |pods, refresh_max_age| Cluster { apps, pods, ..cluster(1, refresh_max_age) };
        let [short, long] = AGES.map(|age| most_nodes(node(10, age).most_in_ten_seconds()));
        let go = [1, 10].map(|pods| most_nodes(node(pods, AGES[0]).go_in_ten_seconds()));
        [node(1, AGES[0]).keys(), short, long, go[0], go[1]].map(|n| number(n as f64)).to_vec()
    });
    table(&head, rows)
}

fn tokens() -> String {
    let head = ["Nodes", "Pods", "all start: akvfs", "Go", "in 10 s, pods that run: akvfs", "Go"];
    let rows = NODES.map(|count| {
        let cluster = cluster(count, AGES[0]);
        let pods = cluster.all_pods() as f64;
        let (ours, go) = (cluster.tokens_in_ten_seconds(), cluster.go_tokens_in_ten_seconds());
        [count as f64, pods, pods, pods, ours, go].map(number).to_vec()
    });
    table(&head, rows)
}

fn vaults(requests: f64) -> String {
    number((requests / LIMIT as f64).ceil())
}

/// In whole numbers, with commas.
fn number(value: f64) -> String {
    let digits = format!("{:.0}", value.ceil());
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// As `--model` prints them.
pub fn print() -> String {
    let mut out = format!("Publications of a pod: every {} s on average.\n", mean_resync());
    for (title, table) in all() {
        let _ = write!(out, "\n### {title}\n\n{table}");
    }
    out
}
