//! Keys from passwords: PKCS#12's own derivation (RFC 7292, appendix B) and the budget for all.

use ring::digest;
use zeroize::Zeroizing;

use super::error;
use crate::error::Result;

/// Most rounds of hashing that one file may ask for, all its derivations together: 0.3 to 0.8 s of
/// one core, by the hash. OpenSSL and Windows write files that need about 20,000; a key and a chain
/// behind 600,000 iterations of PBKDF2 each need three million.
const ROUNDS: u64 = 4_000_000;

/// What is left of a file's rounds.
pub(super) struct Budget(u64);

impl Default for Budget {
    fn default() -> Self {
        Self(ROUNDS)
    }
}

impl Budget {
    /// Takes `iterations` for each of `blocks` blocks of output, before any of them is run.
    pub(super) fn take(&mut self, iterations: u32, blocks: usize) -> Result<()> {
        if iterations == 0 {
            return Err(error("an iteration count of zero"));
        }
        let rounds = u64::from(iterations).saturating_mul(blocks as u64);
        self.0 = self.0.checked_sub(rounds).ok_or_else(|| {
            error(format!("more than {ROUNDS} rounds of key derivation"))
                .fix("export the PFX with a usual iteration count, such as 2048")
        })?;
        Ok(())
    }
}

/// What a derived key is for; the number keeps the keys apart.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Key = 1,
    Iv = 2,
    Mac = 3,
}

/// The stored half of a derivation's input.
pub(super) struct Salt<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) iterations: u32,
}

/// Derives `length` bytes. Step numbers in comments are those of the RFC's B.2.
pub(super) fn derive(
    hash: &'static digest::Algorithm,
    purpose: Purpose,
    password: &[u8],
    salt: &Salt<'_>,
    length: usize,
    budget: &mut Budget,
) -> Result<Zeroizing<Vec<u8>>> {
    budget.take(salt.iterations, length.div_ceil(hash.output_len()))?;
    let block = hash.block_len();
    // 2, 3, 4: the salt and the password, each repeated to whole blocks.
    let mut input = Zeroizing::new(Vec::new());
    for part in [salt.bytes, password] {
        let filled = part.len().div_ceil(block) * block;
        input.extend(part.iter().copied().cycle().take(filled));
    }
    let mut out = Zeroizing::new(vec![0; length]);
    for chunk in out.chunks_mut(hash.output_len()) {
        // 1, 6A: hash the purpose and the input, then the hash again and again.
        let mut context = digest::Context::new(hash);
        context.update(&vec![purpose as u8; block]);
        context.update(&input);
        let mut digest = context.finish();
        for _ in 1..salt.iterations {
            digest = digest::digest(hash, digest.as_ref());
        }
        for (out, byte) in chunk.iter_mut().zip(digest.as_ref()) {
            *out = *byte;
        }
        // 6B, 6C: add the hash, repeated to a block, and one to each block of the input.
        let addend: Vec<u8> = digest.as_ref().iter().copied().cycle().take(block).collect();
        for number in input.chunks_mut(block) {
            let mut carry = 1;
            for (byte, add) in number.iter_mut().zip(&addend).rev() {
                let sum = u16::from(*byte) + u16::from(*add) + carry;
                *byte = sum as u8;
                carry = sum >> 8;
            }
        }
    }
    Ok(out)
}
