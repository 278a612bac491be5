//! The parties outside: a payment provider and a notifier, over HTTP or as stand-ins.

mod client;
mod server;
mod stand_in;
mod wire;

pub use client::Outside;
pub use server::{notifications, payments};
pub use stand_in::{Manners, StandIn};
