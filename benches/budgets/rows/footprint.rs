//! What a provider costs a node that asks it for little: start, memory, size.

use std::time::{Duration, Instant};

use super::super::Outcome;
use super::super::azure::Identity;
use super::super::contest::{Binary, Lab, Sample, Unit};
use super::super::driver::Driver;
use super::super::process::Provider;
use super::OBJECTS;
use super::speed;

const MIB: f64 = 1024.0 * 1024.0;
/// Memory counts as settled when it was the same for so long.
const SETTLED: Duration = Duration::from_secs(1);
/// Longest wait for that.
const PATIENCE: Duration = Duration::from_secs(10);
/// Starts for one sample, of which the median counts: one alone says little.
const STARTS: usize = 5;
/// Refused Mounts at the same time.
const AT_ONCE: usize = 16;

pub async fn start(lab: &Lab, binary: &Binary) -> Outcome<Sample> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        times.push(lab.start(binary, false).await?.started_in.as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(Sample::default().with("time", Unit::Ms, times[STARTS / 2]))
}

pub async fn memory(lab: &Lab, binary: &Binary) -> Outcome<Sample> {
    let azure = lab.azure()?;
    azure.calm(Duration::ZERO);
    let pods = speed::pods(lab, azure, Identity::Workload)?;
    let provider = lab.start(binary, false).await?;
    let idle = settled(&provider).await?;
    let driver = Driver::connect(provider.socket(), 1).await?;
    driver.mount_all(&pods).await?;
    let most = provider.memory()?.most;
    Ok(Sample::default().with("idle", Unit::MiB, idle).with("peak", Unit::MiB, most).with(
        "after the storm",
        Unit::MiB,
        settled(&provider).await?,
    ))
}

pub async fn growth(lab: &Lab, binary: &Binary) -> Outcome<Sample> {
    let azure = lab.azure()?;
    azure.calm(Duration::ZERO);
    let provider = lab.start(binary, false).await?;
    let driver = Driver::connect(provider.socket(), 4).await?;
    let refuse = async |id: usize| -> Outcome<()> {
        let pod = azure.pod(id, Identity::Forged, 0, OBJECTS)?;
        Ok(driver.mount_over(id, &pod).await?)
    };
    let (first, count) = (lab.scale(1000, 100), lab.scale(10_000, 400));
    let mut refused = Driver::mount_many(first, AT_ONCE, refuse).await;
    let before = settled(&provider).await?;
    let (begin, cpu) = (Instant::now(), provider.cpu()?);
    refused += Driver::mount_many(count, AT_ONCE, async |id| refuse(first + id).await).await;
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = (provider.cpu()? - cpu).as_secs_f64();
    if refused < first + count {
        return Err("a forged token was accepted".into());
    }
    let after = settled(&provider).await?;
    Ok(Sample::default()
        .with("growth", Unit::MiB, after - before)
        .with("refused", Unit::Count, count as f64)
        .with("refusals", Unit::PerSecond, count as f64 / seconds)
        .with("CPU per refusal", Unit::Ms, cpu * 1e3 / count as f64))
}

pub fn binary(binary: &Binary) -> Outcome<Sample> {
    let bytes = std::fs::metadata(&binary.program)?.len();
    Ok(Sample::default().with("size", Unit::MiB, bytes as f64 / MIB))
}

/// Resident memory once it no longer changes.
async fn settled(provider: &Provider) -> Outcome<f64> {
    let begin = Instant::now();
    let (mut last, mut since) = (provider.memory()?.now, Instant::now());
    while since.elapsed() < SETTLED && begin.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = provider.memory()?.now;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(last)
}
