//! A cluster of machine nodes as turmoil hosts: one host a node, one [`Server`] behind them all.
//!
//! The machine outlives a node's crash, as a disk does; that its node went down and came back is told to it by
//! [`NodeHooks`]. A node that dies says nothing to anyone: connections are ended in the machine only by a FIN or a
//! reset that arrived, never by a destructor (SEMANTICS D15).

use std::{fmt, marker::PhantomData, sync::Arc};

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use serde::{Serialize, de::DeserializeOwned};
use stormglass_embedded::machine::{Call, Connection, Machine, Node, Server};
use stormglass_runtime::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
    task::spawn_local,
};
use turmoil::net::{
    TcpListener, TcpStream,
    tcp::{OwnedReadHalf, OwnedWriteHalf},
};

use crate::{
    What,
    hash::fingerprint,
    nic::Address,
    storm::Fate,
    wire::{DelayLine, Frames, decode, encode, until, with_room},
};

/// The port that every node listens on.
const PORT: u16 = 7_000;

/// What can be sent between hosts.
pub trait Message: Serialize + DeserializeOwned + fmt::Debug + Send + 'static {}

impl<T: Serialize + DeserializeOwned + fmt::Debug + Send + 'static> Message for T {}

/// What else happens when a node dies or comes back: usually a call of [`Server::affect`].
pub struct NodeHooks {
    /// The node's process is gone, without a goodbye.
    pub crashed: Box<dyn FnMut(Timestamp, Node)>,
    /// The node's process has started again.
    pub restarted: Box<dyn FnMut(Timestamp, Node)>,
}

impl Default for NodeHooks {
    /// Nothing happens.
    fn default() -> Self {
        Self { crashed: Box::new(|_, _| {}), restarted: Box::new(|_, _| {}) }
    }
}

/// A cluster as its clients know it. Cloning shares it.
pub struct ClusterHandle<M: Machine> {
    addresses: Arc<[Address]>,
    machine: PhantomData<fn() -> M>,
}

impl<M: Machine> Clone for ClusterHandle<M> {
    fn clone(&self) -> Self {
        Self { addresses: Arc::clone(&self.addresses), machine: PhantomData }
    }
}

impl<M: Machine> ClusterHandle<M> {
    pub(crate) fn new(names: &[Arc<str>]) -> Self {
        let addresses = names.iter().map(|name| Address { host: Arc::clone(name), port: PORT }).collect();
        Self { addresses, machine: PhantomData }
    }

    /// How many nodes it has.
    pub fn nodes(&self) -> usize {
        self.addresses.len()
    }

    pub(crate) fn address(&self, node: Node) -> Option<&Address> {
        self.addresses.get(node)
    }
}

/// Serves one node until its host crashes.
pub(crate) async fn serve_node<M>(server: Server<M>, node: Node, fate: Fate) -> turmoil::Result
where
    M: Machine<Request: Message, Response: Message>,
{
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        spawn_local(Served::new(server.clone(), node, stream, fate.clone()).run());
    }
}

/// One connection as the node sees it.
struct Served<M: Machine> {
    server: Server<M>,
    connection: Connection,
    reading: OwnedReadHalf,
    writing: OwnedWriteHalf,
    frames: Frames,
    line: DelayLine,
    fate: Fate,
}

/// Why a connection ended.
enum End {
    /// The client closed it, or its host answered with a reset.
    Peer,
    /// The machine hung up, or the client broke the protocol.
    Ours,
}

impl<M: Machine<Request: Message, Response: Message>> Served<M> {
    fn new(server: Server<M>, node: Node, stream: TcpStream, fate: Fate) -> Self {
        let (reading, writing) = stream.into_split();
        let (connection, line) = (server.connect(node), DelayLine::new(&fate, "reply"));
        Self { server, connection, reading, writing, frames: Frames::default(), line, fate }
    }

    async fn run(mut self) {
        match self.converse().await {
            End::Peer => self.server.disconnect(self.fate.storm.time.tick_end(), self.connection),
            // The machine knows already; what was answered before it hung up still leaves.
            End::Ours => {
                if let Some(segment) = self.line.ready() {
                    drop(self.writing.write_all(&segment).await);
                }
                self.server.disconnect(self.fate.storm.time.tick_end(), self.connection);
            }
        }
    }

    async fn converse(&mut self) -> End {
        let mut later = FuturesUnordered::new();
        loop {
            if let Some(segment) = self.line.ready()
                && self.writing.write_all(&segment).await.is_err()
            {
                return End::Peer;
            }
            let due = self.line.due();
            tokio::select! {
                biased;
                read = self.reading.read_buf(with_room(&mut self.frames.buffer)) => match read {
                    Ok(1..) => {
                        while let Some((number, payload)) = self.frames.next() {
                            let Some(reply) = self.handle(number, &payload) else { return End::Ours };
                            match self.answer_now(number, reply) {
                                Ok(None) => {}
                                Ok(Some(reply)) => later.push(async move { (number, reply.await) }),
                                Err(end) => return end,
                            }
                        }
                    }
                    Ok(0) | Err(_) => return End::Peer,
                },
                Some((number, reply)) = later.next() => match reply {
                    Ok(response) => self.line.push(number, &encode(&response)),
                    Err(_hung_up) => return End::Ours,
                },
                () = until(due) => {}
            }
        }
    }

    /// Hands a request to the machine; `None` if it is none.
    fn handle(&self, number: u64, payload: &Bytes) -> Option<oneshot::Receiver<M::Response>> {
        let what = What { host: &self.fate.host, kind: "request", digest: fingerprint(payload) };
        let request: Option<M::Request> = decode(payload);
        let Connection { node, number: line } = self.connection;
        self.fate.storm.history.record(what, || match &request {
            Some(request) => format!("on connection {node}/{line}: {request:?}"),
            None => format!("on connection {node}/{line}: {} bytes that are no request", payload.len()),
        });
        let request = request?;
        let call = Call { connection: self.connection, number };
        Some(self.server.call(self.fate.storm.time.tick_end(), call, request))
    }

    /// Most requests are answered at once; the others are given back.
    fn answer_now(
        &mut self,
        number: u64,
        mut reply: oneshot::Receiver<M::Response>,
    ) -> Result<Option<oneshot::Receiver<M::Response>>, End> {
        match reply.try_recv() {
            Ok(response) => {
                self.line.push(number, &encode(&response));
                Ok(None)
            }
            Err(oneshot::error::TryRecvError::Empty) => Ok(Some(reply)),
            Err(oneshot::error::TryRecvError::Closed) => Err(End::Ours),
        }
    }
}
