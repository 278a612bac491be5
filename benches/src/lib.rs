//! What the benches share: events of the order backend, the state machines called directly, and a bed of both
//! machines with their clients in one process.
//!
//! Time is simulated throughout (tokio's paused clock), so a bench measures what work costs and never what waiting
//! lasts. That also means: no disk, no network. What production reaches on real servers `bench-real` measures.

mod bed;
mod events;
mod machines;

pub use bed::{Agreeable, Bed};
pub use events::{PAID_AFTER, TENANT, image, order_placed, orders_placed, stock, stories, tenant};
pub use machines::{Kafka, Postgres};
