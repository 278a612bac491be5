//! The parties outside: a payment provider and a notifier, over HTTP or as stand-ins.

mod client;
mod ledger;
mod server;
mod stand_in;
mod wire;

pub use client::Outside;
pub use ledger::{Ledger, Line};
pub use server::{notifications, payments};
pub use stand_in::{Manners, StandIn};
