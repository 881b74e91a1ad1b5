//! Pods that start together while the provider has 50 millicores, as in the chart.

use std::fmt::Write;
use std::time::Duration;

use super::super::Outcome;
use super::super::contest::{Binary, Lab};
use super::super::driver::{ATTEMPT, Driver};
use super::model::{Evidence, Node};
use super::rounds::{LATENCY, OBJECTS, clients, pods};

/// Pods, and their identities.
const NODES: [(u64, u64); 8] =
    [(1, 1), (10, 1), (10, 10), (30, 1), (30, 30), (100, 1), (100, 100), (200, 1)];

pub async fn measure(lab: &Lab, binary: &Binary) -> Outcome<String> {
    let azure = lab.azure()?;
    let mut table = String::from(
        "| Pods that start together | Identities | First pod s | Half of them s | Last pod s | CPU s \
         | First try |\n|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for (count, identities) in NODES.into_iter().take(lab.scale(NODES.len(), 3)) {
        eprintln!("limited: {count} pods, {identities} identities");
        let evidence = Evidence::Assertion;
        let node = Node { pods: count, identities, objects: OBJECTS, evidence };
        let pods = pods(azure, node, &clients(azure, node), 0)?;
        let provider = lab.start(binary, true).await?;
        let driver = Driver::connect(provider.socket(), 1).await?;
        azure.calm(LATENCY);
        let before = provider.cpu()?;
        let deliveries = driver.deliver_all(&pods, ATTEMPT).await;
        let cpu = (provider.cpu()? - before).as_secs_f64();
        let mut ready: Vec<Duration> = deliveries.iter().filter_map(|pod| pod.ready).collect();
        ready.sort_unstable();
        let (Some(first), Some(half), true) =
            (ready.first(), ready.get(pods.len() / 2), ready.len() == pods.len())
        else {
            return Err(format!("{} of {count} pods have files", ready.len()).into());
        };
        let last = ready[pods.len() - 1];
        let at_once = deliveries.iter().filter(|pod| pod.first_try).count();
        let [first, half, last] = [*first, *half, last].map(|time| time.as_secs_f64());
        let _ = writeln!(
            table,
            "| {count} | {identities} | {first:.2} | {half:.2} | {last:.2} | {cpu:.2} | {at_once} |"
        );
    }
    Ok(table)
}
