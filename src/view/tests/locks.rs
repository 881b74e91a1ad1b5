//! Who waits for whom inside a view: nobody for ever.

use std::sync::mpsc;
use std::thread;

use super::super::ledger::Moment;
use super::*;

const OBJECTS: usize = 2_000;
const ROUNDS: usize = 200;

#[tokio::test]
async fn status_a_schedule_and_a_refresh_never_wait_for_each_other_in_a_circle() {
    let objects = (0..OBJECTS).map(|n| object(&format!("n{n}"))).collect();
    let (fake, view) = view_of(Layout::Flat, objects, Limits::default());
    let now = Moment::now(&fake.clock);
    for unit in 0..OBJECTS {
        view.ledger.answered(unit, now);
        view.ledger.unanswered(unit, now, Limits::default().max_stale);
    }
    let (ended, end) = mpsc::channel();
    let mut threads = Vec::new();
    let works: [fn(&View); 3] = [
        |view| drop(view.status()),
        |view| assert!(!view.pause(Duration::from_secs(60)).is_zero()),
        // Enough of them to be there whenever the others meet.
        |view| {
            (0..100).for_each(|_| {
                view.generations_mut(|generations| generations.forget_old(view.clock.now()));
                thread::yield_now();
            });
        },
    ];
    for work in works {
        let (view, ended) = (view.clone(), ended.clone());
        threads.push(thread::spawn(move || {
            (0..ROUNDS).for_each(|_| work(&view));
            ended.send(()).unwrap();
        }));
    }
    for _ in works {
        end.recv_timeout(Duration::from_secs(120)).expect("somebody waits for ever");
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
