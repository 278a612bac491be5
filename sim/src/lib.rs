//! A turmoil world: embedded state machines as hosts behind a network, faults, and a history. Knows no domain.
//!
//! [`World`] holds it all and is stepped by hand. A *cluster* is a state machine whose nodes are hosts; an
//! *application host* is a network card in turmoil and a process beside it. What goes wrong is either scheduled
//! ([`Fault`]) or drawn per port call ([`PortFaults`]); what went wrong is counted ([`Strikes`]) and listed
//! ([`Strike`]), and what happened is hashed ([`History`]).

mod app;
mod cluster;
mod dice;
mod fault;
mod faults;
mod hash;
mod history;
mod host;
mod links;
mod nic;
mod ports;
mod process;
mod storm;
mod time;
mod wire;
mod world;

pub use cluster::{ClusterHandle, Message, NodeHooks};
pub use dice::Dice;
pub use fault::{Fault, FaultClass, Rates, Strikes};
pub use faults::{Link, Operator};
pub use hash::{Fingerprint, fingerprint};
pub use history::{Event, History, Keep, Told, What};
pub use host::{Host, Listener, Stream};
pub use ports::PortCall;
pub use process::ProcessResult;
pub use storm::{Draw, PortFaults, Strike};
pub use time::{HostClock, SimTime};
pub use world::{World, WorldError, WorldOptions};
