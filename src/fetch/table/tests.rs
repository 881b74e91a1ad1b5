use std::sync::mpsc;

use crate::class::{ObjectKind, ObjectName, Version};
use crate::fetch::ObjectRef;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

type Text = Table<String>;

fn table(clock: &Clock, bytes: usize) -> Arc<Text> {
    Table::new(clock.clone(), Ages::default(), Budget::new(bytes), String::len)
}

fn key(proof: &Proof, name: &str) -> ValueKey {
    let (name, version) = (ObjectName::parse(name).unwrap(), Version::Latest);
    let object = ObjectRef { kind: ObjectKind::Secret, name, version };
    ValueKey { identity: proof.identity().clone(), vault: "https://v".to_owned(), object }
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
