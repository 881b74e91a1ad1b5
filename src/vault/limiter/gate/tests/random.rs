//! Any order of events: permits are bounded, nobody is lost, nothing is left behind.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Event {
    Ask {
        refresh: bool,
        group: u8,
        asker: u8,
    },
    /// The waiter, or the holder of a permit, goes away.
    Leave(usize),
    End(usize, u8),
    Pass(u16),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (any::<bool>(), 0..3_u8, 0..2_u8)
            .prop_map(|(refresh, group, asker)| Event::Ask { refresh, group, asker }),
        1 => any::<usize>().prop_map(Event::Leave),
        4 => (any::<usize>(), 0..12_u8).prop_map(|(which, how)| Event::End(which, how)),
        2 => (1..4000_u16).prop_map(Event::Pass),
    ]
}

/// A request that waits, or that has one or more tries under way (the newest last).
struct Holder {
    wish: Wish,
    ticket: Option<Ticket>,
    passes: Vec<Pass>,
}

#[derive(Default)]
struct Crowd(Vec<Holder>);

impl Crowd {
    fn ask(&mut self, world: &mut World, wish: Wish) {
        let ticket = Some(world.ask(wish.clone()));
        self.0.push(Holder { wish, ticket, passes: Vec::new() });
    }

    /// Everybody reads what he was told. Who is told to ask anew does so.
    fn read(&mut self, world: &mut World) {
        let mut again = Vec::new();
        self.0.retain_mut(|holder| {
            match holder.ticket.as_mut().map(Ticket::try_recv) {
                Some(Ok(Verdict::Go(pass))) => {
                    holder.ticket = None;
                    holder.passes.push(pass);
                }
                Some(Ok(Verdict::Refused(_))) => return false,
                _ => {}
            }
            match holder.passes.last_mut().map(|pass| pass.signal.try_recv()) {
                Some(Ok(Signal::Again(pass))) => holder.passes.push(pass),
                Some(Ok(Signal::GiveUp)) => {
                    again.push(holder.wish.clone());
                    for pass in holder.passes.drain(..) {
                        world.gate.report(world.now, pass.id, Outcome::Dropped);
                    }
                    return false;
                }
                _ => {}
            }
            true
        });
        if !again.is_empty() {
            for wish in again {
                self.ask(world, wish);
            }
            // Permits that were given back have gone to others.
            self.read(world);
        }
    }

    /// As the guards of the shell do it.
    fn leave(&mut self, world: &mut World, which: usize) {
        if self.0.is_empty() {
            return;
        }
        let mut holder = self.0.swap_remove(which % self.0.len());
        if let Some(mut ticket) = holder.ticket {
            ticket.close();
            match ticket.try_recv() {
                Ok(Verdict::Go(pass)) => holder.passes.push(pass),
                Ok(Verdict::Refused(_)) => {}
                Err(_) => world.gate.left(),
            }
        }
        for mut pass in holder.passes {
            pass.signal.close();
            if let Ok(Signal::Again(unused)) = pass.signal.try_recv() {
                world.gate.report(world.now, unused.id, Outcome::Dropped);
            }
            world.gate.report(world.now, pass.id, Outcome::Dropped);
        }
    }

    /// The newest try of somebody ends, and with it his request.
    fn end(&mut self, world: &mut World, which: usize, outcome: Outcome) {
        let flying: Vec<_> = (0..self.0.len()).filter(|n| !self.0[*n].passes.is_empty()).collect();
        if flying.is_empty() {
            return;
        }
        let mut holder = self.0.swap_remove(flying[which % flying.len()]);
        if let Some(newest) = holder.passes.pop() {
            for older in holder.passes {
                world.gate.report(world.now, older.id, Outcome::Dropped);
            }
            world.report(newest, outcome);
        }
    }

    fn waiting(&self) -> usize {
        self.0.iter().filter(|holder| holder.ticket.is_some()).count()
    }
}

fn outcome(how: u8) -> Outcome {
    match how {
        0..6 => Outcome::Answered,
        6 => Outcome::Throttled(None),
        7 => Outcome::Throttled(Some(SECOND)),
        8 => busy(),
        9 => broken(),
        10 => Outcome::Silent,
        _ => Outcome::Other(Error::new(Code::Local, "x")),
    }
}

/// What must be true whatever has happened. `before` is the last permit of before.
fn check(world: &World, crowd: &Crowd, before: u64) {
    let gate = &world.gate;
    let held: std::collections::BTreeSet<u64> =
        crowd.0.iter().flat_map(|holder| &holder.passes).map(|pass| pass.id).collect();
    for id in gate.flights.keys() {
        assert!(held.contains(id), "permit {id} is left behind");
    }
    assert_eq!(gate.waiting(), crowd.waiting(), "a waiter is lost, or counted for ever");
    let new = gate.flights.range(before + 1..).count();
    match &gate.outage {
        Some(_) => {}
        None if new == 0 => {}
        None => {
            assert!(gate.flights.len() <= gate.allowed(), "{} in flight", gate.flights.len());
            let refresh = |flight: &&Flight| flight.urgency == Urgency::Refresh;
            let fresh = gate.flights.range(before + 1..).map(|(_, flight)| flight);
            if fresh.filter(refresh).count() > 0 {
                let refreshes = gate.flights.values().filter(refresh).count();
                assert!(refreshes <= (gate.allowed() / 2).max(1), "{refreshes} refreshes");
            }
        }
    }
    assert!((1..=MOST as usize).contains(&gate.allowed()));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn permits_are_bounded_and_nobody_is_lost(
        limit in 1..64_u8,
        events in prop::collection::vec(event(), 1..200),
    ) {
        let (mut world, mut crowd) = (World::warm(), Crowd::default());
        world.gate.limit = f64::from(limit);
        for event in events {
            let before = world.gate.last_id;
            let outage = world.gate.in_outage();
            match event {
                Event::Ask { refresh, group, asker } => {
                    let urgency = if refresh { Urgency::Refresh } else { Urgency::First };
                    let wish = world.wish(urgency, ["a", "b", "c"][usize::from(group)], asker);
                    crowd.ask(&mut world, wish);
                }
                Event::Leave(which) => crowd.leave(&mut world, which),
                Event::End(which, how) => crowd.end(&mut world, which, outcome(how)),
                Event::Pass(millis) => {
                    // One step of time at most to each look, as in the field.
                    let by = MILLI * u32::from(millis);
                    let step = world.gate.next(world.now).map_or(by, |next| next.min(by));
                    world.now.real += step;
                    world.now.clock += step;
                    world.gate.tick(world.now);
                }
            }
            if outage && world.gate.in_outage() {
                let sent = world.gate.last_id - before;
                prop_assert!(sent <= 1, "{sent} probes at once");
            }
            crowd.read(&mut world);
            check(&world, &crowd, before);
        }
        // The vault answers everybody from now on: so all must get through.
        for _ in 0..100_000 {
            if crowd.0.is_empty() {
                break;
            }
            if crowd.0.iter().all(|holder| holder.passes.is_empty()) {
                let step = world.gate.next(world.now);
                prop_assert!(step.is_some(), "{} wait for nothing", crowd.0.len());
                world.pass_time(step.unwrap_or_default());
                crowd.read(&mut world);
                continue;
            }
            crowd.end(&mut world, 0, Outcome::Answered);
            crowd.read(&mut world);
        }
        prop_assert!(crowd.0.is_empty(), "{} are never served", crowd.0.len());
        prop_assert!(world.gate.flights.is_empty());
        prop_assert_eq!(world.gate.waiting(), 0);
    }
}
