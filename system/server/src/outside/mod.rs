//! The parties outside: a payment provider and a notifier.

mod stand_in;

pub use stand_in::{Manners, StandIn};
