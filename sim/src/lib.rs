//! A turmoil world: embedded state machines as hosts behind a network, faults, and a history. Knows no domain.

mod dice;
mod fault;

pub use dice::Dice;
pub use fault::{Fault, FaultClass, Rates, Strikes};
