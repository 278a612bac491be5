//! What the benches share: events of the order backend, the state machines called directly, and a bed of both
//! machines with their clients in one process.
//!
//! Time is simulated throughout (tokio's paused clock), so a bench measures what work costs and never what waiting
//! lasts. That also means: no disk, no network. What production would reach on real servers is another question.

mod bed;
mod events;
mod machines;

pub use bed::Bed;
pub use events::{image, orders_placed, stock};
pub use machines::{Kafka, Postgres};
