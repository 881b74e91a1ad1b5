//! The same objects without any provider: GETs with a token at hand, over one client.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};

use super::Outcome;
use super::azure::Azure;

#[derive(Clone)]
pub struct Raw {
    http: reqwest::Client,
    token: String,
}

impl Raw {
    /// A client that has no connection yet.
    pub fn new(azure: &Azure) -> Outcome<Self> {
        let root = reqwest::Certificate::from_pem(azure.ca_pem().as_bytes())?;
        let http = reqwest::Client::builder().add_root_certificate(root).no_proxy().build()?;
        Ok(Self { http, token: azure.token()? })
    }

    /// Gets so many objects, `at_once` at the same time: those of the numbers that `number` makes of
    /// 0, 1, 2, ...
    pub async fn get(
        &self,
        azure: &Azure,
        count: usize,
        at_once: usize,
        number: impl Fn(usize) -> usize,
    ) -> Outcome<f64> {
        let begin = Instant::now();
        let urls: Vec<String> = (0..count).map(|n| azure.secret_url(number(n))).collect();
        self.get_all(&urls, at_once).await?;
        Ok(begin.elapsed().as_secs_f64())
    }

    async fn get_all(&self, urls: &[String], at_once: usize) -> Outcome<()> {
        let answers = stream::iter(urls).map(|url| self.get_one(url)).buffer_unordered(at_once);
        let answers: Vec<Outcome<()>> = answers.collect().await;
        answers.into_iter().collect()
    }

    /// The same again and again on a thread of its own: how often, and the thread's CPU seconds.
    pub async fn alone(
        &self,
        azure: &Azure,
        count: usize,
        duration: Duration,
    ) -> Outcome<(f64, f64)> {
        let urls: Vec<String> = (0..count).map(|n| azure.secret_url(n)).collect();
        let raw = self.clone();
        let work = move || -> Outcome<(f64, f64)> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let mut rounds = 0.0;
            let (begin, before) = (Instant::now(), thread_cpu()?);
            while begin.elapsed() < duration {
                runtime.block_on(raw.get_all(&urls, count))?;
                rounds += 1.0;
            }
            Ok((rounds, thread_cpu()? - before))
        };
        tokio::task::spawn_blocking(work).await?
    }

    async fn get_one(&self, url: &str) -> Outcome<()> {
        let answer = self.http.get(url).bearer_auth(&self.token).send().await?;
        answer.error_for_status()?.bytes().await?;
        Ok(())
    }
}

/// CPU seconds of the calling thread.
fn thread_cpu() -> Outcome<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds: f64 = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(nanoseconds / 1e9)
}
