//! Seeds: how they are written, read and drawn.
//!
//! A run has one *base* seed. The first case of every scenario takes the base itself, so `--seed 0x8f3a` runs exactly
//! that seed; the others are hashes of (base, scenario, index). No seed depends on thread count, order or time.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

/// The base of a run that was given none: a constant, so that a bare command is the same storm everywhere.
pub const BASE: Seed = Seed(0x570a);

/// What a whole case is drawn from. Written as `0x8f3a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed(pub u64);

impl Seed {
    /// The seed of the `index`-th case of `scenario` in a run with this base.
    pub fn draw(self, scenario: &str, index: u64) -> Seed {
        if index == 0 {
            return self;
        }
        let mut hash = Sha256::new();
        hash.update(self.0.to_be_bytes());
        hash.update(index.to_be_bytes());
        hash.update(scenario.as_bytes());
        Self::from_digest(hash)
    }

    /// The base seed of a commit, so that each commit meets other storms and a rerun of it the same ones.
    fn of_commit(commit: &str) -> Seed {
        Self::from_digest(Sha256::new().chain_update(commit.to_ascii_lowercase()))
    }

    fn from_digest(hash: Sha256) -> Seed {
        let digest = hash.finalize();
        Seed(digest.iter().take(8).fold(0, |word, byte| (word << 8) | u64::from(*byte)))
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Not a seed in any of its three spellings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither a number below 2^64 (42, 0x8f3a) nor a commit hash (7 to 40 hex digits)")]
pub struct NotASeed;

impl FromStr for Seed {
    type Err = NotASeed;

    /// A number, hexadecimal or decimal, or a commit hash. A hash of digits only is taken for a number.
    fn from_str(text: &str) -> Result<Self, NotASeed> {
        if let Some(digits) = text.strip_prefix("0x") {
            let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            return u64::from_str_radix(digits, 16).ok().filter(|_| plain).map(Seed).ok_or(NotASeed);
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Seed).map_err(|_| NotASeed);
        }
        let hash = (7..=40).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if hash { Ok(Self::of_commit(text)) } else { Err(NotASeed) }
    }
}

impl Serialize for Seed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
