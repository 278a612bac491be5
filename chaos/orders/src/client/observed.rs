//! What clients themselves know: what they sent, and what they were answered.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use stormglass_runtime::{Freshness, Timestamp};
use uuid::Uuid;

/// One HTTP request and its answer: which client's, and its number there. Repeats are exchanges of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExchangeId {
    /// The client's number.
    pub client: u32,
    /// Counted per client.
    pub number: u32,
}

/// One line of the clients' log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Observed {
    /// A request is about to leave.
    Sent {
        /// When.
        at: Timestamp,
        /// Which exchange.
        exchange: ExchangeId,
        /// To which gateway.
        gateway: String,
        /// What for.
        asked: Asked,
    },
    /// The exchange is over.
    Answered {
        /// When.
        at: Timestamp,
        /// Which exchange.
        exchange: ExchangeId,
        /// How.
        answer: Answer,
    },
}

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Asked {
    /// Place an order.
    Place {
        /// For whom.
        tenant: String,
        /// The Idempotency-Key.
        idempotency_key: String,
        /// What the body adds up to, in minor units.
        total_minor: i64,
    },
    /// Cancel an order.
    Cancel {
        /// Which.
        order: Uuid,
    },
    /// Look at an order.
    Read {
        /// Which.
        order: Uuid,
        /// The token sent along.
        at_least: Option<Freshness>,
    },
    /// List a tenant's orders.
    List {
        /// Whose.
        tenant: String,
        /// The token sent along.
        at_least: Option<Freshness>,
    },
}

/// How an exchange ended, by what the client may conclude from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// 202 to placing: it is kept.
    Accepted {
        /// The order, as `Location` names it.
        order: Uuid,
    },
    /// 202 to cancelling: it was asked for.
    CancelAccepted,
    /// 200 with an order.
    Found {
        /// Its status, as shown.
        status: String,
        /// Its total, if it is shown.
        total_minor: Option<i64>,
        /// How fresh the answer is.
        fresh: Option<Freshness>,
    },
    /// 404.
    Absent,
    /// 200 with a list.
    Listed {
        /// The orders and their status.
        orders: Vec<(Uuid, String)>,
        /// How fresh the answer is.
        fresh: Option<Freshness>,
    },
    /// Certainly without effect.
    Refused {
        /// The HTTP status; 0 if the request never left.
        status: u16,
        /// The last part of the problem's `type`.
        problem: String,
    },
    /// It may have had its effect.
    Unknown {
        /// What happened instead of an answer.
        why: String,
    },
}

/// The log that all clients of a storm write, in the order in which things happened. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct ClientLog(Arc<Mutex<Vec<Observed>>>);

impl ClientLog {
    /// Writes a line.
    pub fn push(&self, observed: Observed) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(observed);
    }

    /// What was written since the last call.
    pub fn drain_observed(&self) -> Vec<Observed> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
