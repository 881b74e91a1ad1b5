//! Pods that start together while the provider has 50 millicores, as in the chart.

use std::fmt::Write;
use std::time::Duration;

use super::super::Outcome;
use super::super::azure::Identity;
use super::super::contest::{Binary, Lab};
use super::super::driver::{ATTEMPT, Driver};

const LATENCY: Duration = Duration::from_millis(20);
const OBJECTS: usize = 10;

pub async fn measure(lab: &Lab, binary: &Binary) -> Outcome<String> {
    let azure = lab.azure()?;
    let mut table = String::from(
        "| Pods that start together | First pod s | Half of them s | Last pod s | CPU s | First try \
         |\n|---:|---:|---:|---:|---:|---:|\n",
    );
    for count in lab.scale(vec![1, 10, 30, 100, 200], vec![1, 10]) {
        eprintln!("limited: {count} pods");
        let pods = (0..count).map(|id| azure.pod(id, Identity::Workload, 0, OBJECTS));
        let pods = pods.collect::<Outcome<Vec<_>>>()?;
        let provider = lab.start(binary, true).await?;
        let driver = Driver::connect(provider.socket(), 1).await?;
        azure.calm(LATENCY);
        let before = provider.cpu()?;
        let deliveries = driver.deliver_all(&pods, ATTEMPT).await;
        let cpu = (provider.cpu()? - before).as_secs_f64();
        let mut ready: Vec<Duration> = deliveries.iter().filter_map(|pod| pod.ready).collect();
        ready.sort_unstable();
        let (Some(first), Some(half), true) =
            (ready.first(), ready.get(count / 2), ready.len() == count)
        else {
            return Err(format!("{} of {count} pods have no files", count - ready.len()).into());
        };
        let last = ready[count - 1];
        let at_once = deliveries.iter().filter(|pod| pod.first_try).count();
        let [first, half, last] = [*first, *half, last].map(|time| time.as_secs_f64());
        let _ = writeln!(
            table,
            "| {count} | {first:.2} | {half:.2} | {last:.2} | {cpu:.2} | {at_once} |"
        );
    }
    Ok(table)
}
