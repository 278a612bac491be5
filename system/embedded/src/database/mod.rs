//! PostgreSQL as a state machine: sessions, row locks, row versions, a write-ahead log and a streaming replica.

mod observed;

pub use observed::{Change, Observed};
