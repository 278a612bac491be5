//! What a process on a simulated host can reach: the network, time, randomness, and who it is.

use std::{future::Future, io, marker::PhantomData, sync::Arc};

use async_trait::async_trait;
use stormglass_embedded::{
    machine::{Machine, Node},
    transport::{Link, Transport, Unreachable},
};
use stormglass_runtime::{Clock, Entropy, derive_id};
use tokio::{
    io::DuplexStream,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    ClusterHandle, Dice, History, HostClock,
    cluster::Message,
    nic::{Address, Command, Line, Outgoing},
    storm::Fate,
    wire::{decode, encode},
};

/// A stream between two hosts. The peer's death is silence, as on a real network.
pub type Stream = DuplexStream;

/// One incarnation of a host's process, from the inside. Cloning shares it.
#[derive(Clone)]
pub struct Host {
    pub(crate) fate: Fate,
    pub(crate) clock: HostClock,
    pub(crate) card: mpsc::UnboundedSender<Command>,
    pub(crate) incarnation: u32,
    pub(crate) shutdown: CancellationToken,
}

impl Host {
    /// The host's name.
    pub fn name(&self) -> &str {
        &self.fate.host
    }

    /// How often the process was started before.
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// An id of this incarnation: different after every restart, the same in every run of the seed.
    pub fn identity(&self) -> Uuid {
        let seed = self.fate.storm.dice.word("identity", 0, 0);
        let parts: [&[u8]; 3] =
            [&seed.to_be_bytes(), self.name().as_bytes(), &self.incarnation.to_be_bytes()];
        derive_id("incarnation/v1", &parts)
    }

    /// Wall time as this host believes it to be, to the tick.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    /// This host's draws.
    pub fn dice(&self) -> Dice {
        self.fate.storm.dice.for_site(self.name())
    }

    /// This host's draws, as the port wants them.
    pub fn entropy(&self) -> Arc<dyn Entropy> {
        Arc::new(self.dice())
    }

    /// The world's history.
    pub fn history(&self) -> History {
        self.fate.storm.history.clone()
    }

    /// Cancelled when the process is asked to leave politely.
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// A way from here to a cluster's nodes.
    pub fn transport<M>(&self, cluster: &ClusterHandle<M>) -> Arc<dyn Transport<M::Request, M::Response>>
    where
        M: Machine<Request: Message, Response: Message>,
    {
        Arc::new(NetTransport { cluster: cluster.clone(), card: self.card.clone() })
    }

    /// Accepts streams at `port`.
    ///
    /// # Errors
    /// If the port is taken.
    pub async fn listen(&self, port: u16) -> io::Result<Listener> {
        let streams = self.command(|reply| Command::Listen(port, reply)).await?;
        Ok(Listener { streams })
    }

    /// Opens a stream to `port` of `host`. Waits for as long as the network is silent: callers set a timeout.
    ///
    /// # Errors
    /// If the host refuses.
    pub async fn connect(&self, host: &str, port: u16) -> io::Result<Stream> {
        let address = Address { host: host.into(), port };
        self.command(|reply| Command::Connect(address, reply)).await
    }

    async fn command<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<io::Result<T>>) -> Command,
    ) -> io::Result<T> {
        ask(&self.card, command).await
    }
}

/// Asks the card something. A card that is gone is a network that is down.
fn ask<T>(
    card: &mpsc::UnboundedSender<Command>,
    command: impl FnOnce(oneshot::Sender<io::Result<T>>) -> Command,
) -> impl Future<Output = io::Result<T>> {
    let (reply, answer) = oneshot::channel();
    let sent = card.send(command(reply)).is_ok();
    async move {
        let down = || io::Error::from(io::ErrorKind::NetworkDown);
        if !sent {
            return Err(down());
        }
        answer.await.map_err(|_| down())?
    }
}

/// Accepts streams until it is dropped.
#[derive(Debug)]
pub struct Listener {
    streams: mpsc::UnboundedReceiver<Stream>,
}

impl Listener {
    /// The next stream. Cancel safe.
    ///
    /// # Errors
    /// If the network is down for good.
    pub async fn accept(&mut self) -> io::Result<Stream> {
        self.streams.recv().await.ok_or_else(|| io::ErrorKind::NetworkDown.into())
    }
}

struct NetTransport<M: Machine> {
    cluster: ClusterHandle<M>,
    card: mpsc::UnboundedSender<Command>,
}

#[async_trait]
impl<M> Transport<M::Request, M::Response> for NetTransport<M>
where
    M: Machine<Request: Message, Response: Message>,
{
    async fn connect(&self, node: Node) -> Result<Box<dyn Link<M::Request, M::Response>>, Unreachable> {
        let address = self.cluster.address(node).cloned().ok_or(Unreachable)?;
        let line = ask(&self.card, |reply| Command::Dial(address, reply)).await.map_err(|_| Unreachable)?;
        Ok(Box::new(NetLink::<M> { line, machine: PhantomData }))
    }

    fn nodes(&self) -> usize {
        self.cluster.nodes()
    }
}

struct NetLink<M> {
    line: Line,
    machine: PhantomData<fn() -> M>,
}

#[async_trait]
impl<M> Link<M::Request, M::Response> for NetLink<M>
where
    M: Machine<Request: Message, Response: Message>,
{
    async fn request(&self, request: M::Request) -> Result<M::Response, Unreachable> {
        let (reply, answer) = oneshot::channel();
        let outgoing = Outgoing { payload: encode(&request), reply };
        self.line.send(outgoing).map_err(|_| Unreachable)?;
        let payload = answer.await.map_err(|_| Unreachable)?;
        decode(&payload).ok_or(Unreachable)
    }
}
