//! The cases, by what they are about.

pub mod durability;
pub mod locking;
pub mod queue;
pub mod sessions;
pub mod statements;
