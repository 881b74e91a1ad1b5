//! What the tests' vaults hold. Every value is a canary.

use akvfs::emulator::Seed;

use crate::canary;

pub const ONE: &str = "one";
/// Of the default seed.
pub const PLAIN: &str = "secret1";
pub const DISABLED: &str = "disabled";

/// A single secret, [`ONE`].
pub fn one() -> Seed {
    Seed::default().secret(ONE, &[&canary::value(ONE)])
}

/// Name of the nth secret of [`many`].
pub fn nth(number: usize) -> String {
    format!("s-{number:04}")
}

/// So many secrets.
pub fn many(count: usize) -> Seed {
    (0..count).fold(Seed::default(), |seed, number| {
        let name = nth(number);
        seed.secret(&name, &[&canary::value(&name)])
    })
}
