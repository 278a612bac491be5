//! The only production I/O: the ports of the runtime on real Kafka and PostgreSQL.
//!
//! Everything above the ports is the code that the storm torments; what is here is as thin as it can be, and is held
//! to the same contract suite as the simulation. It leaves out any rule of the domain and any guarantee: those live
//! in `stormglass-runtime` and `stormglass-orders`.

pub mod cli;
pub mod commands;
pub mod embedded;
pub mod health;
pub mod host;
pub mod http;
pub mod kafka;
pub mod migrations;
pub mod openapi;
pub mod outside;
pub mod postgres;
pub mod real;
pub mod serve;
pub mod settings;
pub mod stack;
pub mod stop;
