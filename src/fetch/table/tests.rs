use std::sync::mpsc;

use crate::class::{ObjectKind, ObjectName, Version};
use crate::cloud::Endpoints;
use crate::fetch::ObjectRef;
use crate::http::Http;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

type Text = Table<String>;

fn table(clock: &Clock, bytes: usize) -> Arc<Text> {
    let vault = Vault::new(Http::new(Endpoints::azure()));
    Table::new(vault, clock.clone(), Ages::default(), Budget::new(bytes), String::len)
}

fn key(proof: &Proof, name: &str) -> Arc<ValueKey> {
    let (name, version) = (ObjectName::parse(name).unwrap(), Version::Latest);
    let object = ObjectRef { kind: ObjectKind::Secret, name, version };
    let (identity, vault) = (proof.identity().clone(), "https://v".to_owned());
    Arc::new(ValueKey { identity, vault, object })
}

/// Somebody who has a minute asks; each request is `work`.
async fn ask<F>(
    table: &Arc<Text>,
    demand: Demand,
    proof: &Proof,
    work: impl Fn(Ask) -> F + Clone + Send + Sync + 'static,
) -> Result<Arc<String>>
where
    F: Future<Output = Result<String>> + Send + 'static,
{
    let (key, group, deadline) = (key(proof, "s"), &Arc::from(""), Instant::now() + MINUTE);
    let wish = Wish { key, proof, demand, group, deadline };
    let request = || -> Request<String> {
        let work = work.clone();
        Arc::new(move |_, ask| work(ask).boxed())
    };
    table.get(wish, request).await
}

#[tokio::test]
async fn a_value_is_fetched_although_no_room_is_left() {
    let clock = Clock::system();
    let (table, proof) = (table(&clock, 10), Proof::unasked("c", &clock));
    let value = ask(&table, Demand::FIRST, &proof, |_| async { Ok("v".to_owned()) }).await;
    assert_eq!(*value.unwrap(), "v");
    assert!(table.entries.is_empty(), "not even its key is kept");
}

#[tokio::test]
async fn refusals_hold_no_more_than_there_is_room_for() {
    const BYTES: usize = 64 * 1024;
    let clock = Clock::system();
    let (table, proof) = (table(&clock, BYTES), Proof::unasked("c", &clock));
    let text = "x".repeat(500);
    for number in 0..1_000 {
        let (key, group, deadline) =
            (key(&proof, &format!("s{number}")), &Arc::from(""), Instant::now() + MINUTE);
        let wish = Wish { key, proof: &proof, demand: Demand::FIRST, group, deadline };
        let text = text.clone();
        let request = || -> Request<String> {
            let text = text.clone();
            Arc::new(move |_, _| {
                let error = Error::new(Code::NotFound, text.clone());
                async { Err(error) }.boxed()
            })
        };
        assert_eq!(table.get(wish, request).await.unwrap_err().code(), Code::NotFound);
        assert!(table.entries.len() * (OVERHEAD + text.len()) <= BYTES);
    }
    assert!(table.entries.len() > 20, "as many as there is room for are remembered");
    assert!(table.budget.used() > table.entries.len() * (OVERHEAD + text.len()));
}

#[tokio::test]
async fn whoever_starts_is_not_given_the_answer_to_a_question_that_was_old_already() {
    let clock = Clock::adjustable();
    let (table, proof) = (table(&clock, 1 << 20), Proof::unasked("c", &clock));
    let (sent, answers) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
    let work = {
        let (clock, sent, answers) = (clock.clone(), sent.clone(), answers.clone());
        move |ask: Ask| {
            let number = sent.fetch_add(1, Ordering::SeqCst) + 1;
            let (asked, answers) = (clock.now(), answers.clone());
            async move {
                answers.acquire().await.unwrap().forget();
                ask.patience.answered(asked);
                Ok(number.to_string())
            }
        }
    };
    let rotated_later = async {
        while sent.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        clock.advance(Duration::from_secs(10));
        let joins = ask(&table, Demand::FIRST, &proof, work.clone());
        let answer = async {
            tokio::task::yield_now().await;
            answers.add_permits(2);
        };
        tokio::join!(joins, answer).0
    };
    let (first, later) =
        tokio::join!(ask(&table, Demand::FIRST, &proof, work.clone()), rotated_later);
    assert_eq!((first.unwrap().as_str(), later.unwrap().as_str()), ("1", "2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_and_go_at_the_same_time() {
    const ROUNDS: usize = 100_000;
    let clock = Clock::system();
    let (table, key) = (table(&clock, 1 << 20), key(&Proof::unasked("c", &clock), "s"));
    let (done, ended) = mpsc::channel();
    let runtime = tokio::runtime::Handle::current();
    let (sweeping, told) = (table.clone(), done.clone());
    std::thread::spawn(move || {
        for _ in 0..ROUNDS {
            sweeping.sweep();
        }
        let _ = told.send(());
    });
    std::thread::spawn(move || {
        let _runtime = runtime.enter();
        for _ in 0..ROUNDS {
            drop(table.entry(&key));
        }
        let _ = done.send(());
    });
    for _ in 0..2 {
        ended.recv_timeout(MINUTE).expect("each waits for the other");
    }
}
