//! A host's network card: the part of an application host that lives in turmoil.
//!
//! The host's *process* runs on a runtime of its own ([`process`](crate::process)) and reaches the network only by
//! commands to this card, as a process reaches it by system calls to its kernel. That is what makes a pause faithful:
//! a stopped process hears nothing while its kernel goes on receiving. The card knows no protocol but the frames.

use std::{collections::BTreeMap, io, sync::Arc};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::{mpsc, oneshot},
    task::spawn_local,
    time::sleep_until,
};
use turmoil::net::{
    TcpListener, TcpStream,
    tcp::{OwnedReadHalf, OwnedWriteHalf},
};

use crate::{
    What,
    hash::fingerprint,
    storm::Fate,
    wire::{DelayLine, Frames, until, with_room},
};

/// Bytes that a stream holds between process and card.
const STREAM_BUFFER: usize = 64 * 1024;

/// What a process asks of its card.
pub(crate) enum Command {
    /// Open a framed connection.
    Dial(Address, oneshot::Sender<io::Result<Line>>),
    /// Open a stream.
    Connect(Address, oneshot::Sender<io::Result<DuplexStream>>),
    /// Accept streams at a port.
    Listen(u16, oneshot::Sender<io::Result<mpsc::UnboundedReceiver<DuplexStream>>>),
}

/// A host and a port.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
}

/// The process's end of a framed connection. It is closed when this is dropped, and fails when the peer closes it.
pub(crate) type Line = mpsc::UnboundedSender<Outgoing>;

/// A request on its way out.
pub(crate) struct Outgoing {
    pub(crate) payload: Vec<u8>,
    pub(crate) reply: oneshot::Sender<Bytes>,
}

/// Runs the card until its process is gone and all commands are done.
pub(crate) async fn run(mut commands: mpsc::UnboundedReceiver<Command>, fate: Fate) -> turmoil::Result {
    while let Some(command) = commands.recv().await {
        match command {
            Command::Dial(address, reply) => drop(spawn_local(dial(address, reply, fate.clone()))),
            Command::Connect(address, reply) => drop(spawn_local(connect(address, reply, fate.clone()))),
            Command::Listen(port, reply) => drop(spawn_local(listen(port, reply, fate.clone()))),
        }
    }
    // The card outlives its process: turmoil would take a finished host for a stopped one.
    std::future::pending().await
}

async fn open(address: &Address) -> io::Result<TcpStream> {
    TcpStream::connect((&*address.host, address.port)).await
}

async fn dial(address: Address, reply: oneshot::Sender<io::Result<Line>>, fate: Fate) {
    match open(&address).await {
        Ok(stream) => {
            let (line, outgoing) = mpsc::unbounded_channel();
            // If the process has given up meanwhile, the line is dropped with the reply and the stream closed below.
            if reply.send(Ok(line)).is_ok() {
                Framed::new(stream, outgoing, fate).run().await;
            }
        }
        // Nobody to tell if the process has given up.
        Err(error) => drop(reply.send(Err(error))),
    }
}

/// One framed connection: requests out, replies in, in any order.
struct Framed {
    reading: OwnedReadHalf,
    writing: OwnedWriteHalf,
    outgoing: mpsc::UnboundedReceiver<Outgoing>,
    waiting: BTreeMap<u64, oneshot::Sender<Bytes>>,
    line: DelayLine,
    frames: Frames,
    fate: Fate,
    number: u64,
}

impl Framed {
    fn new(stream: TcpStream, outgoing: mpsc::UnboundedReceiver<Outgoing>, fate: Fate) -> Self {
        let (reading, writing) = stream.into_split();
        let line = DelayLine::new(&fate, "request");
        let (waiting, frames) = (BTreeMap::new(), Frames::default());
        Self { reading, writing, outgoing, waiting, line, frames, fate, number: 0 }
    }

    /// Ends when either side closes. What the process sent before it closed still leaves.
    async fn run(mut self) {
        let mut closing = false;
        loop {
            if let Some(segment) = self.line.ready()
                && self.writing.write_all(&segment).await.is_err()
            {
                return;
            }
            let due = self.line.due();
            if closing && due.is_none() {
                return;
            }
            tokio::select! {
                biased;
                read = self.reading.read_buf(with_room(&mut self.frames.buffer)) => match read {
                    Ok(1..) => self.hand_out_replies(),
                    Ok(0) | Err(_) => return,
                },
                outgoing = self.outgoing.recv(), if !closing => match outgoing {
                    Some(outgoing) => self.take(outgoing),
                    None => closing = true,
                },
                () = until(due) => {}
            }
        }
    }

    fn take(&mut self, outgoing: Outgoing) {
        self.number += 1;
        self.waiting.insert(self.number, outgoing.reply);
        self.line.push(self.number, &outgoing.payload);
        while let Ok(outgoing) = self.outgoing.try_recv() {
            self.number += 1;
            self.waiting.insert(self.number, outgoing.reply);
            self.line.push(self.number, &outgoing.payload);
        }
    }

    fn hand_out_replies(&mut self) {
        while let Some((number, payload)) = self.frames.next() {
            let digest = fingerprint(&payload);
            let what = What { host: &self.fate.host, kind: "reply", digest };
            self.fate.storm.history.record(what, || format!("{} bytes", payload.len()));
            if let Some(reply) = self.waiting.remove(&number) {
                // The caller may have stopped waiting.
                drop(reply.send(payload));
            }
        }
    }
}

async fn connect(address: Address, reply: oneshot::Sender<io::Result<DuplexStream>>, fate: Fate) {
    match open(&address).await {
        Ok(stream) => {
            let (near, far) = tokio::io::duplex(STREAM_BUFFER);
            if reply.send(Ok(near)).is_ok() {
                splice(far, stream, fate).await;
            }
        }
        // Nobody to tell if the process has given up.
        Err(error) => drop(reply.send(Err(error))),
    }
}

type Streams = mpsc::UnboundedReceiver<DuplexStream>;

async fn listen(port: u16, reply: oneshot::Sender<io::Result<Streams>>, fate: Fate) {
    let listener = match TcpListener::bind(("0.0.0.0", port)).await {
        Ok(listener) => listener,
        // Nobody to tell if the process has given up.
        Err(error) => return drop(reply.send(Err(error))),
    };
    let (accepted, streams) = mpsc::unbounded_channel();
    if reply.send(Ok(streams)).is_err() {
        return;
    }
    loop {
        let stream = tokio::select! {
            biased;
            () = accepted.closed() => return,
            stream = listener.accept() => stream,
        };
        if let Ok((stream, _)) = stream {
            let (near, far) = tokio::io::duplex(STREAM_BUFFER);
            if accepted.send(near).is_err() {
                return;
            }
            spawn_local(splice(far, stream, fate.clone()));
        }
    }
}

/// Joins a process's stream to the network until both directions have ended or one has failed.
async fn splice(process: DuplexStream, stream: TcpStream, fate: Fate) {
    let (from_net, to_net) = stream.into_split();
    let (from_process, to_process) = tokio::io::split(process);
    let line = DelayLine::new(&fate, "stream");
    let outbound = pump_out(from_process, to_net, line);
    let inbound = pump_in(from_net, to_process, fate);
    // An error is a closed connection, which both ends notice by themselves.
    drop(futures::future::try_join(outbound, inbound).await);
}

async fn pump_out(
    mut from: tokio::io::ReadHalf<DuplexStream>,
    mut to: OwnedWriteHalf,
    mut line: DelayLine,
) -> io::Result<()> {
    let mut buffer = bytes::BytesMut::new();
    loop {
        if let Some(segment) = line.ready() {
            to.write_all(&segment).await?;
        }
        let due = line.due();
        tokio::select! {
            biased;
            read = from.read_buf(with_room(&mut buffer)) => {
                if read? == 0 {
                    break;
                }
                let bytes = buffer.split().to_vec();
                line.push_raw(&bytes.clone(), bytes);
            }
            () = until(due) => {}
        }
    }
    while let Some(due) = line.due() {
        sleep_until(due).await;
        if let Some(segment) = line.ready() {
            to.write_all(&segment).await?;
        }
    }
    to.shutdown().await
}

async fn pump_in(
    mut from: OwnedReadHalf,
    mut to: tokio::io::WriteHalf<DuplexStream>,
    fate: Fate,
) -> io::Result<()> {
    let mut buffer = bytes::BytesMut::new();
    while from.read_buf(with_room(&mut buffer)).await? > 0 {
        let bytes = buffer.split();
        let digest = fingerprint(&bytes);
        let what = What { host: &fate.host, kind: "stream", digest };
        fate.storm.history.record(what, || format!("{} bytes", bytes.len()));
        to.write_all(&bytes).await?;
    }
    to.shutdown().await
}
