//! Clients of the gateways: they place, cancel, look and list over HTTP, repeat what was lost, and write down all of it.

mod observed;

pub use observed::{Answer, Asked, ClientLog, ExchangeId, Observed};
