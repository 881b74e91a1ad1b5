//! What pods notice when the vault throttles, hangs or fails. Those that fail try again as kubelet does.

use std::time::Duration;

use akvfs::emulator::{Service, Trouble, Where};

use super::super::Outcome;
use super::super::azure::{Identity, Pod};
use super::super::contest::{Binary, Lab, Sample, Unit};
use super::super::driver::{ATTEMPT, Delivery, Driver};
use super::{LATENCY, OBJECTS, PODS};

/// What the vault allows.
const PER_SECOND: u32 = 50;
/// Pods that meet an outage.
const HIT: usize = 50;

pub fn outage(quick: bool) -> Duration {
    Duration::from_secs(if quick { 2 } else { 5 })
}

pub async fn throttled(
    lab: &Lab,
    binary: &Binary,
    distinct: bool,
    retry_after: Option<u64>,
) -> Outcome<Sample> {
    let azure = lab.azure()?;
    let pods = (0..lab.scale(PODS, PODS / 5)).map(|id| {
        let first = if distinct { id * OBJECTS } else { 0 };
        azure.pod(id, Identity::Workload, first, OBJECTS)
    });
    let pods: Vec<Pod> = pods.collect::<Outcome<_>>()?;
    let provider = lab.start(binary, false).await?;
    let driver = Driver::connect(provider.socket(), 1).await?;
    azure.calm(LATENCY);
    let limit = Trouble::Limit { per_second: PER_SECOND, retry_after };
    azure.control().always(Where::service(Service::Vault), limit);
    let patience = lab.scale(ATTEMPT, Duration::from_secs(15));
    let deliveries = driver.deliver_all(&pods, patience).await;
    let (vault, _) = azure.requests();
    azure.calm(Duration::ZERO);
    let sample = told(&deliveries)
        .with("last pod", Unit::Seconds, last(&deliveries, patience).as_secs_f64())
        .with("vault requests", Unit::Count, vault);
    Ok(sample)
}

/// The vault does not answer what comes in this time, or answers 503.
pub async fn outage_of(lab: &Lab, binary: &Binary, hang: bool) -> Outcome<Sample> {
    let azure = lab.azure()?;
    let pods = (0..HIT).map(|id| azure.pod(id, Identity::Workload, 0, OBJECTS));
    let pods: Vec<Pod> = pods.collect::<Outcome<_>>()?;
    let provider = lab.start(binary, false).await?;
    let driver = Driver::connect(provider.socket(), 1).await?;
    azure.calm(Duration::ZERO);
    let trouble = if hang { Trouble::Hang } else { Trouble::Status(503) };
    azure.control().always(Where::service(Service::Vault), trouble);
    let outage = outage(lab.quick);
    let patience = lab.scale(ATTEMPT + Duration::from_secs(30), Duration::from_secs(15));
    let over = async {
        tokio::time::sleep(outage).await;
        azure.control().clear_faults();
    };
    let (deliveries, ()) = tokio::join!(driver.deliver_all(&pods, patience), over);
    let (vault, _) = azure.requests();
    let slowest = deliveries.iter().map(|delivery| delivery.first_answer).max().unwrap_or_default();
    let back = last(&deliveries, patience).saturating_sub(outage);
    Ok(told(&deliveries)
        .with("slowest first answer", Unit::Seconds, slowest.as_secs_f64())
        .with("last pod, after the end", Unit::Seconds, back.as_secs_f64())
        .with("vault requests", Unit::Count, vault))
}

/// When the last pod had its files; those that have none count as the row's whole time.
fn last(deliveries: &[Delivery], patience: Duration) -> Duration {
    deliveries.iter().map(|delivery| delivery.ready.unwrap_or(patience)).max().unwrap_or_default()
}

fn told(deliveries: &[Delivery]) -> Sample {
    let first = deliveries.iter().filter(|delivery| delivery.first_try).count();
    let without = deliveries.iter().filter(|delivery| delivery.ready.is_none()).count();
    let share = 100.0 * first as f64 / deliveries.len() as f64;
    let mut sample = Sample::default().with("first try", Unit::Percent, share).with(
        "pods without files",
        Unit::Count,
        without as f64,
    );
    let failure = deliveries.iter().find_map(|delivery| delivery.failure.as_ref());
    sample.notes.extend(failure.map(|failure| format!("a first attempt: {failure}")));
    sample
}
