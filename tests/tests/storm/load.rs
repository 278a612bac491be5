//! The clients: the simulator's own, over real sockets. They place orders whether or not answers come (open loop), and
//! repeat under the same Idempotency-Key until they are answered.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use stormglass_chaos::{
    client::{Client, ClientLog, Habits, Network, Wire},
    workload::Operation,
};
use stormglass_server::host::SystemClock;
use stormglass_sim::Dice;
use tokio::{net::TcpStream, task::JoinSet};

/// Sockets of this machine.
struct Sockets;

#[async_trait]
impl Network for Sockets {
    async fn dial(&self, gateway: &str) -> io::Result<Box<dyn Wire>> {
        let stream = TcpStream::connect(gateway).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

/// Longer than a gateway takes to learn what became of an order, and long enough for every fault to pass.
const HABITS: Habits =
    Habits { patience: Duration::from_secs(6), tries: 60, pause: Duration::from_millis(800) };

/// Sends all clients off; they end when everything is answered or given up.
pub fn send_off(clients: Vec<Vec<Operation>>, gateways: &[String], seed: u64) -> (JoinSet<()>, ClientLog) {
    let log = ClientLog::default();
    let mut running = JoinSet::new();
    for (number, operations) in (0..).zip(clients) {
        let client = Client {
            number,
            gateways: gateways.to_vec(),
            network: Sockets,
            log: log.clone(),
            clock: Arc::new(SystemClock),
            dice: Dice::new(seed).for_site("client"),
            habits: HABITS,
        };
        running.spawn(client.run(operations));
    }
    (running, log)
}
