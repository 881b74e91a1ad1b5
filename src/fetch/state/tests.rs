use futures_util::FutureExt;

use crate::budget::Budget;
use crate::clock::Clock;
use crate::error::Hop;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// What values are held for here, less than `Ages::refresh`.
const REFRESH: Duration = Duration::from_secs(47);

struct Known {
    state: State<u32>,
    begun: Instant,
}

impl Known {
    fn new() -> Self {
        let begun = Instant::now();
        Self { state: State::new(begun), begun }
    }

    /// An answer to what was asked in one second arrives in another.
    fn land(&mut self, asked: u32, arrives: u32, outcome: Result<u32>, second: bool) -> Landed {
        let room = Budget::new(1).reserve(1).ok();
        let held = room.map(|room| Hold { room, refresh: REFRESH });
        let (asked, now) = (self.begun + asked * SECOND, self.begun + arrives * SECOND);
        self.state.land(now, asked, &outcome.map(Arc::new), held, second)
    }

    /// What somebody who starts is given without a request.
    fn first(&mut self, at: u32) -> Option<Result<u32>> {
        self.given(at, Demand::FIRST)
    }

    /// The same of anybody.
    fn given(&mut self, at: u32, demand: Demand) -> Option<Result<u32>> {
        let now = self.begun + at * SECOND;
        let start = || {
            let outcome = std::future::pending().boxed().shared();
            let proof = Proof::unasked("c", &Clock::system());
            Arc::new(Flight { proof, patience: Arc::new(Patience::new(now)), outcome })
        };
        match self.state.step(now, demand, Ages::default(), start) {
            Step::Known(value) | Step::Stale(value) => Some(Ok(*value)),
            Step::Refused(error) => Some(Err(error)),
            Step::Wait(..) => None,
        }
    }
}

fn gone() -> Result<u32> {
    Err(Error::new(Code::NotFound, "x").at(Hop::Vault))
}

#[test]
fn a_slow_answer_from_before_a_refusal_does_not_bring_the_value_back() {
    let mut known = Known::new();
    assert_eq!(known.land(0, 0, Ok(1), false), Landed::Done);
    assert_eq!(known.land(1, 1, gone(), false), Landed::Confirm);
    // Somebody who starts asks a moment before the second look, and is answered after it.
    assert_eq!(known.land(7, 7, gone(), true), Landed::Wiped);
    known.land(6, 8, Ok(1), false);
    assert_eq!(known.first(9).unwrap().unwrap_err().code(), Code::NotFound);
    // What is asked later counts.
    known.land(10, 10, Ok(2), false);
    assert_eq!(known.first(11).unwrap().unwrap(), 2);
}

#[test]
fn a_slow_refusal_from_before_a_good_answer_refuses_nobody() {
    let mut known = Known::new();
    known.land(0, 0, Ok(1), false);
    assert_eq!(known.land(1, 1, gone(), false), Landed::Confirm);
    known.land(7, 7, Ok(2), false);
    assert_eq!(known.land(6, 8, gone(), true), Landed::Done);
    assert_eq!(known.first(9).unwrap().unwrap(), 2);
}

#[test]
fn a_value_is_held_for_its_own_part_of_the_age_and_for_starts_exactly_as_long_as_they_allow() {
    let given = |at, demand| {
        let mut known = Known::new();
        known.land(0, 0, Ok(1), false);
        known.given(at, demand).is_some()
    };
    assert_eq!([5, 6].map(|at| given(at, Demand::FIRST)), [true, false]);
    assert_eq!([47, 48].map(|at| given(at, Demand::REFRESH)), [true, false]);
}
