//! The order backend: four services as pure decisions, and the HTTP gateway in front of them.
//!
//! A choreographed saga (DESIGN section 5): an order is placed on the log, payments and inventory act on it
//! independently, orders confirms it when both did and cancels it otherwise, and what was done for a cancelled order
//! is undone by whoever did it. Every order ends confirmed or cancelled, paid or refunded, sold or released.
//!
//! Left out on purpose: any I/O. Kafka, PostgreSQL, the payment provider and the notifier are ports.

pub mod events;
pub mod gateway;
pub mod inventory;
pub mod notifications;
pub mod orders;
pub mod payments;
pub mod ports;
pub mod rows;
pub mod types;

pub use events::{Event, Kind, Subject, TOPIC};
pub use inventory::{Inventory, Stock};
pub use notifications::Notifications;
pub use orders::Orders;
pub use payments::Payments;
pub use rows::{Row, RowKey};
