//! How fast, at what price: first mounts, republish, storms, warm mounts.

use std::time::{Duration, Instant};

use super::super::Outcome;
use super::super::azure::{Azure, Identity, Pod};
use super::super::contest::{Binary, Lab, Sample, Unit};
use super::super::driver::Driver;
use super::super::process;
use super::super::raw::Raw;
use super::{LATENCY, OBJECTS, PODS};

/// Connections of the driver where its own work could be the limit.
const CONNECTIONS: usize = 4;
/// GETs on the way at once for one mount, without a provider; in a storm one for each pod.
const RAW_AT_ONCE: usize = 32;

pub async fn first(
    lab: &Lab,
    binary: &Binary,
    objects: usize,
    latency: Duration,
) -> Outcome<Sample> {
    let azure = lab.azure()?;
    azure.calm(latency);
    let provider = lab.start(binary, false).await?;
    let driver = Driver::connect(provider.socket(), 1).await?;
    let pod = azure.pod(0, Identity::Workload, 0, objects)?;
    azure.calm(latency);
    let begin = Instant::now();
    driver.mount(&pod).await?;
    Ok(asked(Sample::default().with("time", Unit::Ms, millis(begin)), azure))
}

pub async fn raw_first(azure: &Azure, objects: usize, latency: Duration) -> Outcome<Sample> {
    azure.calm(latency);
    let seconds = Raw::new(azure)?.get(azure, objects, RAW_AT_ONCE, |n| n).await?;
    Ok(Sample::default().with("time", Unit::Ms, seconds * 1e3))
}

pub async fn republish(lab: &Lab, binary: &Binary) -> Outcome<Sample> {
    let azure = lab.azure()?;
    azure.calm(LATENCY);
    let provider = lab.start(binary, false).await?;
    let driver = Driver::connect(provider.socket(), 1).await?;
    let pod = azure.pod(0, Identity::Workload, 0, 100)?;
    driver.mount(&pod).await?;
    azure.calm(LATENCY);
    let begin = Instant::now();
    driver.mount(&pod).await?;
    Ok(asked(Sample::default().with("time", Unit::Ms, millis(begin)), azure))
}

pub async fn storm(
    lab: &Lab,
    binary: &Binary,
    identity: Identity,
    limited: bool,
) -> Outcome<Sample> {
    let azure = lab.azure()?;
    let pods = pods(lab, azure, identity)?;
    let provider = lab.start(binary, limited).await?;
    // One connection, as the CSI driver has it.
    let driver = Driver::connect(provider.socket(), 1).await?;
    azure.calm(LATENCY);
    let before = provider.cpu()?;
    let begin = Instant::now();
    driver.mount_all(&pods).await?;
    let time = millis(begin);
    let cpu = (provider.cpu()? - before).as_secs_f64() * 1e3;
    let sample = asked(Sample::default().with("time", Unit::Ms, time), azure);
    Ok(sample.with("CPU", Unit::Ms, cpu).with("peak memory", Unit::MiB, provider.memory()?.most))
}

pub async fn raw_storm(lab: &Lab, azure: &Azure) -> Outcome<Sample> {
    azure.calm(LATENCY);
    let gets = lab.scale(PODS, PODS / 5) * OBJECTS;
    let seconds = Raw::new(azure)?.get(azure, gets, gets / OBJECTS, |n| n % OBJECTS).await?;
    Ok(Sample::default().with("time", Unit::Ms, seconds * 1e3))
}

/// Mounts of pods that were mounted before, for a while, without latency.
pub async fn warm(lab: &Lab, binary: &Binary, at_once: usize) -> Outcome<Sample> {
    let azure = lab.azure()?;
    azure.calm(Duration::ZERO);
    let pods = pods(lab, azure, Identity::Workload)?;
    let provider = lab.start(binary, false).await?;
    let driver = Driver::connect(provider.socket(), at_once.min(CONNECTIONS)).await?;
    driver.mount_all(&pods).await?;
    azure.calm(Duration::ZERO);
    let (before, own) = (provider.cpu()?, process::cpu("self")?);
    let begin = Instant::now();
    let end = begin + Duration::from_secs(lab.scale(3, 1));
    // Each has pods of its own: equal Mounts of one pod may share an answer.
    let worker = async |worker: usize| -> Outcome<usize> {
        let mut mounts = 0;
        for pod in pods.iter().skip(worker).step_by(at_once).cycle() {
            if Instant::now() >= end {
                break;
            }
            driver.mount_over(worker, pod).await?;
            mounts += 1;
        }
        Ok(mounts)
    };
    let counts = futures_util::future::join_all((0..at_once).map(worker)).await;
    let mounts = counts.into_iter().sum::<Outcome<usize>>()? as f64;
    let wall = begin.elapsed().as_secs_f64();
    let cpu = (provider.cpu()? - before).as_secs_f64();
    let own = (process::cpu("self")? - own).as_secs_f64();
    let (vault, _) = azure.requests();
    let mut sample = Sample::default()
        .with("mounts", Unit::PerSecond, mounts / wall)
        .with("CPU per mount", Unit::Ms, cpu * 1e3 / mounts)
        .with("vault requests per mount", Unit::Count, vault / mounts)
        .with("provider's CPU", Unit::Cores, cpu / wall)
        .with("this bench's CPU", Unit::Cores, own / wall);
    if at_once > 1 && own > cpu {
        sample.notes.push("driver and emulator took more CPU than the provider".to_owned());
    }
    Ok(sample)
}

/// Ten GETs for a mount.
pub async fn raw_warm(lab: &Lab, azure: &Azure, at_once: usize) -> Outcome<Sample> {
    azure.calm(Duration::ZERO);
    let duration = Duration::from_secs(lab.scale(3, 1));
    let (begin, raw) = (Instant::now(), Raw::new(azure)?);
    let name = "mounts";
    if at_once == 1 {
        let (rounds, cpu) = raw.alone(azure, OBJECTS, duration).await?;
        let wall = begin.elapsed().as_secs_f64();
        let sample = Sample::default().with(name, Unit::PerSecond, rounds / wall);
        return Ok(sample.with("CPU per mount", Unit::Ms, cpu * 1e3 / rounds));
    }
    let worker = async |_: usize| -> Outcome<usize> {
        let mut rounds = 0;
        while begin.elapsed() < duration {
            raw.get(azure, OBJECTS, OBJECTS, |n| n).await?;
            rounds += 1;
        }
        Ok(rounds)
    };
    let counts = futures_util::future::join_all((0..at_once).map(worker)).await;
    let rounds = counts.into_iter().sum::<Outcome<usize>>()? as f64;
    Ok(Sample::default().with(name, Unit::PerSecond, rounds / begin.elapsed().as_secs_f64()))
}

/// The pods of a storm: all ask for the same objects.
pub fn pods(lab: &Lab, azure: &Azure, identity: Identity) -> Outcome<Vec<Pod>> {
    (0..lab.scale(PODS, PODS / 5)).map(|id| azure.pod(id, identity, 0, OBJECTS)).collect()
}

fn asked(sample: Sample, azure: &Azure) -> Sample {
    let (vault, token) = azure.requests();
    sample.with("vault requests", Unit::Count, vault).with("token requests", Unit::Count, token)
}

fn millis(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}
