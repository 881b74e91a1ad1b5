//! docs/SCALING.md against the model that its bench holds against the real provider: the computed tables
//! are those that the model prints, and the model is the arithmetic that it says it is.

#[path = "../../benches/budgets/scaling/cluster.rs"]
mod cluster;
#[path = "../../benches/budgets/scaling/model.rs"]
mod model;
#[path = "../../benches/budgets/scaling/tables.rs"]
mod tables;

use akvfs::config::ProviderArgs;
use akvfs::fetch;
use clap::{Args, FromArgMatches};
use cluster::{Setting, simulate};
use model::{Cluster, Evidence, Node, Requests, Round};

const PAGE: &str = include_str!("../../docs/SCALING.md");

#[test]
fn the_page_has_the_tables_of_the_model() {
    for (title, table) in tables::all() {
        let what = "differs; `cargo bench --bench budgets -- --model` prints it";
        assert!(PAGE.contains(&format!("### {title}\n\n{table}")), "{title} {what}:\n{table}");
    }
    assert!(tables::print().contains("every 75 s"));
}

/// Rows begin with pods, identities and evidence; then come the rounds, each `VAULT + TOKENS`.
#[test]
fn the_page_has_no_measured_count_that_the_model_does_not_have() {
    let titles = Round::ALL.map(Round::title).join(" | ");
    let head = format!("| Pods | Identities | Evidence | {titles} |");
    let (_, table) = PAGE.split_once(&head).unwrap();
    let rows: Vec<_> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() >= 10, "{rows:?}");
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let evidence = match cells[2] {
            "token" => Evidence::Assertion,
            "secret" => Evidence::Secret,
            other => panic!("{other}"),
        };
        let [pods, identities] = [0, 1].map(|cell| cells[cell].parse().unwrap());
        let node = Node { pods, identities, objects: 10, evidence };
        let shown = |Requests { vault, tokens }| format!("{vault} + {tokens}");
        let expected = Round::ALL.map(|round| shown(node.requests(round)));
        assert_eq!(cells[3..8], expected, "{row}");
        assert_eq!(cells[cells.len() - 1], shown(node.requests_of_go()), "{row}");
    }
}

#[test]
fn a_node_asks_once_for_each_key_and_each_new_token() {
    let evidence = Evidence::Assertion;
    let node = Node { pods: 100, identities: 5, objects: 10, evidence };
    let counts =
        |node: Node| Round::ALL.map(|round| node.requests(round)).map(|r| (r.vault, r.tokens));
    assert_eq!(counts(node), [(50, 100), (0, 0), (50, 100), (0, 100), (50, 0)]);
    let node = Node { evidence: Evidence::Secret, ..node };
    assert_eq!(counts(node), [(50, 5), (0, 0), (50, 0), (0, 0), (50, 0)]);
    let Requests { vault, tokens } = node.requests_of_go();
    assert_eq!((vault, tokens), (1100, 100));
}

/// The simulation plays each publication; the arithmetic must never be exceeded by its averages, and
/// not be far above them where many pods share.
#[test]
fn what_the_arithmetic_says_is_never_exceeded_on_average() {
    for (pods, refresh_max_age, close) in
        [(1, 60.0, 0.75), (3, 60.0, 0.65), (10, 60.0, 0.85), (30, 60.0, 0.9), (10, 600.0, 0.9)]
    {
        let cluster = Cluster { nodes: 1, apps: 1, pods, objects: 1, refresh_max_age };
        let setting = Setting { pods: pods as usize, refresh_max_age, spread: 600.0 };
        let (mean, most) = (simulate(setting).mean, cluster.most_in_ten_seconds());
        assert!(
            mean <= most + 1e-9 && mean >= close * most,
            "{pods} {refresh_max_age}: {mean} {most}"
        );
    }
}

#[test]
fn the_page_is_about_the_default_ages() {
    let command = ProviderArgs::augment_args(clap::Command::new("akvfs").no_binary_name(true));
    let none: [&str; 0] = [];
    let args =
        ProviderArgs::from_arg_matches(&command.try_get_matches_from(none).unwrap()).unwrap();
    assert!((model::LEAST_REFRESH - fetch::LEAST_REFRESH).abs() < f64::EPSILON);
    let (first, refresh) = (args.mount_max_age.as_secs(), args.refresh_max_age.as_secs());
    assert_eq!((first, refresh, args.max_stale.as_secs() / 3600), (5, 60, 24));
    for row in [
        format!("| `--mount-max-age` | {first} s |"),
        format!("| `--refresh-max-age` | {refresh} s |"),
        format!("| `--max-stale` | {} h |", args.max_stale.as_secs() / 3600),
        format!("| `--max-held-bytes` | {} MiB |", args.max_held_bytes / (1024 * 1024)),
    ] {
        assert!(PAGE.contains(&row), "{row}");
    }
}
