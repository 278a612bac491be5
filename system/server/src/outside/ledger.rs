//! A stand-in's ledger: what it was asked and what it did, as lines of JSON in a file.
//!
//! A line is written before the answer leaves, so the file tells all that anybody can have heard. A stand-in that is
//! started again reads it first, and so keeps its half of the ports' contract across a kill. Whoever judges a storm on
//! containers reads it too. Nothing is flushed to the disk: it outlives the process, not the machine.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    path::Path,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use stormglass_orders::types::{Money, OrderId, Reference};
use stormglass_runtime::Timestamp;
use uuid::Uuid;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Line {
    /// A request was accepted; it will be worked on.
    Requested {
        /// When.
        at: Timestamp,
        /// Under which idempotency key.
        key: Uuid,
        /// About which order.
        order: OrderId,
        /// What.
        kind: String,
    },
    /// Money was taken.
    Captured {
        /// When.
        at: Timestamp,
        /// Under which idempotency key.
        key: Uuid,
        /// About which order.
        order: OrderId,
        /// How much.
        amount: Money,
        /// Which charge.
        charge: Reference,
    },
    /// A charge was refused.
    Declined {
        /// When.
        at: Timestamp,
        /// Under which idempotency key.
        key: Uuid,
        /// About which order.
        order: OrderId,
    },
    /// Money was given back.
    Refunded {
        /// When.
        at: Timestamp,
        /// Under which idempotency key.
        key: Uuid,
        /// About which order.
        order: OrderId,
        /// How much.
        amount: Money,
        /// Which charge.
        charge: Reference,
    },
    /// A message went out.
    Sent {
        /// When.
        at: Timestamp,
        /// Under which idempotency key.
        key: Uuid,
        /// About which order.
        order: OrderId,
        /// What.
        kind: String,
    },
    /// A key was closed before anything was done under it.
    Closed {
        /// When.
        at: Timestamp,
        /// Under which idempotency key.
        key: Uuid,
    },
}

/// The file.
pub struct Ledger(Mutex<File>);

impl Ledger {
    /// The ledger at `path`, made if it is missing, and what it says already.
    ///
    /// # Errors
    /// If it cannot be read or written, or holds something else.
    pub fn open(path: &Path) -> io::Result<(Self, Vec<Line>)> {
        let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let lines = BufReader::new(&file).lines().map(|line| Ok(serde_json::from_str(&line?)?));
        let lines = lines.collect::<io::Result<_>>()?;
        Ok((Self(Mutex::new(file)), lines))
    }

    /// Writes a line down, in one piece.
    pub(super) fn write(&self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&text)
    }
}
