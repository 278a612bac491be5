//! The order suite: who asks, who is asked, and what must hold.

pub mod client;
pub mod invariants;
pub mod notifier;
pub mod provider;
pub mod plan;
pub mod scenarios;
pub mod shape;
pub mod workload;
