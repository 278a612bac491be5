//! Receipts: proof that this tenant's order was accepted, without a database.
//!
//! `kid.F.T`, where F is the fingerprint of the order's body and T = HMAC-SHA256(key, tenant, order id, F). A receipt
//! is revealed only in a 202, so whoever holds one placed that very order: it answers for an order that has not
//! reached the database yet. Ids need no secret and never change; only T depends on the ring.

use std::{collections::BTreeMap, fmt};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use thiserror::Error;
use uuid::Uuid;

use crate::{events::Subject, types::Fingerprint};

/// A secret key. It is never printed.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// A key of these bytes; at least 32, as long as the hash.
    ///
    /// # Errors
    /// If they are fewer.
    pub fn new(bytes: &[u8]) -> Result<Self, KeyringError> {
        if bytes.len() < 32 { Err(KeyringError::ShortKey) } else { Ok(Self(bytes.to_vec())) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The keys that verify receipts, and the one of them that signs new ones.
///
/// To rotate: give the new key to every gateway for verification, then let them sign with it, then, when the receipts
/// of the old one are of no more use, take the old one away. In the other order a gateway would meet receipts that it
/// cannot verify.
#[derive(Clone, Debug)]
pub struct Keyring {
    keys: BTreeMap<String, Secret>,
    signer: String,
}

/// Why a key ring cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum KeyringError {
    /// A key is shorter than the hash.
    #[error("a key has at least 32 bytes")]
    ShortKey,
    /// A key's id would not fit into a receipt.
    #[error("a key id is 1 to 32 of A-Z, a-z, 0-9, '_' and '-', not {0:?}")]
    KeyId(String),
    /// The key that should sign is not there.
    #[error("no key {0:?} to sign with")]
    NoSigner(String),
}

impl Keyring {
    /// A ring of `keys` by id, of which `signer` signs.
    ///
    /// # Errors
    /// If `signer` is not among them, or an id has other characters than a receipt allows.
    pub fn new(keys: BTreeMap<String, Secret>, signer: &str) -> Result<Self, KeyringError> {
        let fits = |id: &str| {
            (1..=32).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        };
        match keys.keys().find(|id| !fits(id)) {
            Some(id) => Err(KeyringError::KeyId(id.clone())),
            None if !keys.contains_key(signer) => Err(KeyringError::NoSigner(signer.to_owned())),
            None => Ok(Self { keys, signer: signer.to_owned() }),
        }
    }

    /// The receipt of an accepted order.
    pub fn sign(&self, subject: &Subject, fingerprint: Fingerprint) -> Receipt {
        let tag = self
            .keys
            .get(&self.signer)
            .map(|key| tag(key, subject, fingerprint).finalize().into_bytes().to_vec())
            .unwrap_or_default();
        Receipt { key_id: self.signer.clone(), fingerprint, tag }
    }

    /// Whether any key of the ring made this receipt for this order. Compares in constant time.
    pub fn verify(&self, subject: &Subject, receipt: &Receipt) -> bool {
        let made_by =
            |key: &Secret| tag(key, subject, receipt.fingerprint).verify_slice(&receipt.tag).is_ok();
        self.keys.values().any(made_by)
    }
}

fn tag(key: &Secret, subject: &Subject, fingerprint: Fingerprint) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104)")]
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).expect("HMAC takes keys of any length");
    let parts = [subject.tenant.as_str().as_bytes(), subject.order.0.as_bytes(), fingerprint.0.as_bytes()];
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac
}

/// A receipt as it was given out or handed in.
#[derive(Clone, PartialEq, Eq)]
pub struct Receipt {
    key_id: String,
    /// F of the body that it is for.
    pub fingerprint: Fingerprint,
    tag: Vec<u8>,
}

impl Receipt {
    /// Reads `kid.F.T`. `None` if it does not have that shape; nothing is verified.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let (key_id, fingerprint, tag) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let fingerprint = Fingerprint(Uuid::try_parse(fingerprint).ok()?);
        Some(Self { key_id: key_id.to_owned(), fingerprint, tag: URL_SAFE_NO_PAD.decode(tag).ok()? })
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.key_id, self.fingerprint.0.simple(), URL_SAFE_NO_PAD.encode(&self.tag))
    }
}

/// Without T, which is worth as much as the answer that it came with.
impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receipt({}.{}.…)", self.key_id, self.fingerprint.0.simple())
    }
}
