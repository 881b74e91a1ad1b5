//! Random parts of pauses and ages: what began together must not go on together.

use ring::rand::{SecureRandom, SystemRandom};

/// A random factor from `least` to `most`.
pub(crate) fn between(least: f64, most: f64) -> f64 {
    let mut bytes = [0; 4];
    let random = match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX),
        // Without random numbers there are no TLS connections either, so the middle is good enough.
        Err(_) => 0.5,
    };
    least + (most - least) * random
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_differ_and_stay_in_their_bounds() {
        let factors: Vec<f64> = (0..100).map(|_| between(0.75, 1.0)).collect();
        assert!(factors.iter().all(|factor| (0.75..=1.0).contains(factor)), "{factors:?}");
        // Of a hundred, none in the lower or none in the upper half: once in 2^99.
        assert!(factors.iter().any(|factor| *factor < 0.875), "{factors:?}");
        assert!(factors.iter().any(|factor| *factor > 0.875), "{factors:?}");
    }
}
