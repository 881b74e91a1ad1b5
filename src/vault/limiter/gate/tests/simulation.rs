//! A crowd before a vault that admits so many requests a second, in simulated time.

use std::collections::BTreeMap;

use super::*;

/// A bucket of `size` that fills at `rate` per second.
struct Bucket {
    rate: f64,
    size: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn admits(&mut self, now: Instant) -> bool {
        let filled = (now - self.at).as_secs_f64() * self.rate;
        self.level = (self.level + filled).min(self.size);
        self.at = now;
        let admits = self.level >= 1.0;
        if admits {
            self.level -= 1.0;
        }
        admits
    }
}

struct Outcomes {
    took: Duration,
    throttled: usize,
    /// Most tries that one request needed.
    tries: u32,
}

/// `count` requests at once; each 429 is paused for as the retry policy says.
fn crowd(count: usize, rate: f64, size: f64, latency: Duration) -> Outcomes {
    enum Event {
        Arrives(Wish),
        Answer(Wish, Pass, bool),
    }
    let mut world = World::new();
    let begun = world.now.real;
    let mut bucket = Bucket { rate, size, level: size, at: begun };
    let mut events: BTreeMap<(Instant, usize), Event> = BTreeMap::new();
    for n in 0..count {
        let wish = world.wish(Urgency::First, ["a", "b", "c"][n % 3], 0);
        events.insert((begun, n), Event::Arrives(wish));
    }
    let (mut serial, mut waiting, mut done) = (count, Vec::new(), 0);
    let mut outcomes = Outcomes { took: Duration::ZERO, throttled: 0, tries: 0 };
    for _ in 0..1_000_000 {
        if done == count {
            outcomes.took = world.now.real - begun;
            return outcomes;
        }
        let event = events.first_key_value().map(|((at, _), _)| *at);
        let tick = world.gate.next(world.now).map(|left| world.now.real + left);
        let next = event.into_iter().chain(tick).min().expect("nothing left to happen");
        world.now = Moment::at(next);
        match events.first_entry().filter(|entry| entry.key().0 <= next) {
            None => world.gate.tick(world.now),
            Some(entry) => match entry.remove() {
                Event::Arrives(wish) => waiting.push((wish.clone(), world.ask(wish))),
                Event::Answer(mut wish, pass, admitted) => {
                    wish.story.tries += 1;
                    outcomes.tries = outcomes.tries.max(wish.story.tries);
                    if admitted {
                        done += 1;
                        world.report(pass, Outcome::Answered);
                    } else {
                        outcomes.throttled += 1;
                        world.report(pass, Outcome::Throttled(None));
                        let pause = Retry::default().pause_after(wish.story.tries);
                        events.insert((next + pause, serial), Event::Arrives(wish));
                        serial += 1;
                    }
                }
            },
        }
        waiting.retain_mut(|(wish, ticket): &mut (Wish, Ticket)| match ticket.try_recv() {
            Ok(Verdict::Go(pass)) => {
                let event = Event::Answer(wish.clone(), pass, bucket.admits(next));
                events.insert((next + latency, serial), event);
                serial += 1;
                false
            }
            Ok(Verdict::Refused(error)) => panic!("{error}"),
            Err(_) => true,
        });
    }
    panic!("no end");
}

#[test]
fn a_thousand_requests_at_fifty_a_second_all_succeed_in_little_more_than_their_time() {
    for (size, latency) in [(50.0, 20), (50.0, 2), (50.0, 200), (5.0, 20), (200.0, 20)] {
        let outcomes = crowd(1000, 50.0, size, latency * MILLI);
        let Outcomes { took, throttled, tries } = outcomes;
        println!("bucket {size} latency {latency} ms: {took:?}, {throttled} 429s, {tries} tries");
        assert!(tries <= 4, "{tries} tries");
        assert!(throttled <= 200, "{throttled} answers 429");
        assert!(took < 27 * SECOND, "{took:?}");
    }
}

#[test]
fn a_slower_and_a_faster_vault_are_kept_busy_too() {
    for (count, rate, size) in [(100, 5.0, 5.0), (2000, 400.0, 400.0)] {
        let Outcomes { took, throttled, tries } = crowd(count, rate, size, 20 * MILLI);
        println!("{count} at {rate}: {took:?}, {throttled} 429s, {tries} tries");
        assert!(tries <= 4, "{tries} tries");
        // The first crowd finds out.
        assert!(throttled <= MOST as usize + count / 5, "{throttled} answers 429");
        let ideal = Duration::from_secs_f64(count as f64 / rate);
        assert!(took < ideal * 2, "{took:?}, ideal {ideal:?}");
    }
}
