//! A fast 64-bit hash of bytes, the same on every machine and in every process: for keys of draws and for the trace.
//!
//! Not for secrets and not against an adversary. A word is taken by one folded multiplication, as wyhash does: every
//! byte that crosses the network passes through here twice.

const START: u64 = 0x243f_6a88_85a3_08d3;

/// The golden ratio, as in SplitMix64.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// A streaming hash.
#[derive(Clone, Copy, Debug)]
pub struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(START)
    }
}

impl Fingerprint {
    /// Takes a word.
    pub fn word(&mut self, word: u64) {
        let wide = u128::from(self.0 ^ word) * u128::from(FACTOR);
        self.0 = (wide as u64) ^ ((wide >> 64) as u64) ^ START;
    }

    /// Takes bytes, and their number, so that no two sequences of slices run together.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
        let mut rest = [0; 8];
        rest[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        self.word(u64::from_le_bytes(rest));
        self.word(bytes.len() as u64);
    }

    /// The hash of all that was taken.
    pub fn finish(self) -> u64 {
        self.0
    }
}

/// The hash of `bytes`.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hash = Fingerprint::default();
    hash.bytes(bytes);
    hash.finish()
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014).
pub(crate) fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Serialises into a hash.
#[derive(Default)]
pub(crate) struct Digest {
    hash: Fingerprint,
    word: u64,
    filled: u32,
}

impl postcard::ser_flavors::Flavor for Digest {
    type Output = u64;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.word = (self.word << 8) | u64::from(byte);
        self.filled += 1;
        if self.filled == u64::BITS / u8::BITS {
            self.hash.word(self.word);
            (self.word, self.filled) = (0, 0);
        }
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.hash.bytes(bytes);
        Ok(())
    }

    fn finalize(mut self) -> postcard::Result<u64> {
        self.hash.word(self.word);
        self.hash.word(u64::from(self.filled));
        Ok(self.hash.finish())
    }
}
