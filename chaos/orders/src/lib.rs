//! The order suite: who asks, who is asked, what goes wrong, and what must hold all the same.
//!
//! [`OrderSuite`] is what the harness runs. A seed becomes a [`plan`], a plan a case, a case a [`storm`] over the
//! production services of `stormglass-orders`, and the [`invariants`] judge it by what its hosts have logged.

mod certainty;
mod check;
pub mod client;
mod duty;
pub mod hosts;
pub mod invariants;
pub mod notifier;
mod operator;
mod outside;
pub mod plan;
pub mod provider;
mod rollout;
pub mod scenarios;
pub mod settings;
pub mod shape;
mod stock;
pub mod storm;
mod suite;
pub mod workload;

pub use suite::OrderSuite;
