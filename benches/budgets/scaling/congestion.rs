//! A vault that is too small for its clients, seen from one node: it lets through so little that one
//! Mount cannot end within its minute. Whether the next try of kubelet's begins anew, or goes on where
//! the last one ended, is a matter of `--mount-max-age`.

use std::fmt::Write;
use std::time::Duration;

use super::super::Outcome;
use super::super::azure::Identity;
use super::super::contest::{Binary, Lab};
use super::super::driver::Driver;
use super::rounds::throttle;

/// This node's part of what the vault takes.
const PER_SECOND: u32 = 1;
/// More than it takes in a Mount's minute.
const OBJECTS: usize = 100;
/// Several tries of kubelet's.
const PATIENCE: Duration = Duration::from_secs(300);

pub async fn measure(lab: &Lab, binary: &Binary) -> Outcome<String> {
    let azure = lab.azure()?;
    let mut table = String::from(
        "| --mount-max-age | Objects | Vault takes a second | Pod ready after | Vault requests |\n\
         |---:|---:|---:|---:|---:|\n",
    );
    for age in ["5s", "5m"] {
        eprintln!("congestion: --mount-max-age={age}");
        let objects = lab.scale(OBJECTS, 10);
        let pods = [azure.pod(0, Identity::Workload, 0, objects)?];
        let provider = lab.start(&binary.with(&[format!("--mount-max-age={age}")]), false).await?;
        let driver = Driver::connect(provider.socket(), 1).await?;
        throttle(azure, PER_SECOND);
        let deliveries = driver.deliver_all(&pods, PATIENCE).await;
        let requests = azure.control().counters().vault_requests;
        azure.calm(Duration::ZERO);
        let ready = deliveries.first().and_then(|pod| pod.ready);
        let ready = ready.map_or_else(
            || format!("not in {} s", PATIENCE.as_secs()),
            |ready| format!("{:.0} s", ready.as_secs_f64()),
        );
        let _ = writeln!(table, "| {age} | {objects} | {PER_SECOND} | {ready} | {requests} |");
    }
    Ok(table)
}
