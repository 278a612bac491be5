//! The way of one client to one broker, with faults on it.
//!
//! It speaks no more of Kafka's protocol than its frames: a length, then the API's number and a correlation id that the
//! answer repeats. That suffices to lose exactly the answers to produce requests, or to hold exactly those back.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::cases::sut::Faults;

/// The API number of produce requests.
const PRODUCE: i16 = 0;

/// What stands between a client and one broker.
#[derive(Default)]
pub struct Way {
    /// The broker's port at this machine. 0: it is down.
    pub port: AtomicU16,
    /// What goes wrong for the client that uses this way now.
    pub faults: Mutex<Arc<Faults>>,
    /// Requests that came this way.
    pub requests: AtomicU64,
}

/// A request that was held back, and the port of the broker that it was for.
pub struct HeldBack {
    pub port: u16,
    pub frame: Vec<u8>,
}

/// Serves clients that connect to `listener` until it is dropped with its task.
pub async fn serve(listener: TcpListener, way: Arc<Way>) {
    while let Ok((client, _)) = listener.accept().await {
        let faults = Arc::clone(&way.faults.lock().unwrap());
        let port = way.port.load(Ordering::SeqCst);
        if port == 0 || faults.mute.load(Ordering::SeqCst) {
            continue;
        }
        let way = Arc::clone(&way);
        tokio::spawn(async move {
            if let Ok(broker) = TcpStream::connect(("127.0.0.1", port)).await {
                let nodelay = client.set_nodelay(true).and(broker.set_nodelay(true));
                nodelay.expect("a connection takes its options");
                connect(client, broker, Connection { port, way, faults, awaited: Mutex::default() }).await;
            }
        });
    }
}

struct Connection {
    port: u16,
    way: Arc<Way>,
    faults: Arc<Faults>,
    /// Produce requests without an answer yet.
    awaited: Mutex<BTreeSet<i32>>,
}

/// Carries frames both ways until one side closes, or an answer is to be lost.
async fn connect(client: TcpStream, broker: TcpStream, connection: Connection) {
    let (requests, to_client) = client.into_split();
    let (answers, to_broker) = broker.into_split();
    tokio::select! { biased;
        () = connection.requests(requests, to_broker) => {}
        () = connection.answers(answers, to_client) => {}
    }
}

impl Connection {
    async fn requests(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        while let Some(frame) = read(&mut from).await {
            self.way.requests.fetch_add(1, Ordering::SeqCst);
            let is_produce = i16::from_be_bytes([frame[4], frame[5]]) == PRODUCE;
            if is_produce && self.faults.hold.load(Ordering::SeqCst) {
                let held = HeldBack { port: self.port, frame };
                self.faults.held.lock().unwrap().push(Box::new(held));
                continue;
            }
            if self.faults.mute.load(Ordering::SeqCst) {
                continue;
            }
            if is_produce {
                self.awaited.lock().unwrap().insert(integer(&frame[8..12]));
            }
            if to.write_all(&frame).await.is_err() {
                return;
            }
        }
    }

    async fn answers(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        while let Some(frame) = read(&mut from).await {
            let is_produce = self.awaited.lock().unwrap().remove(&integer(&frame[4..8]));
            if self.faults.deaf.load(Ordering::SeqCst) {
                continue;
            }
            let lose = |left: u64| left.checked_sub(1);
            let lost =
                || self.faults.lose_acks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lose).is_ok();
            if is_produce && lost() || to.write_all(&frame).await.is_err() {
                return;
            }
        }
    }
}

/// Sends a request that was held back, and waits for its answer, which is for nobody.
pub async fn deliver(held: HeldBack) {
    let mut broker = TcpStream::connect(("127.0.0.1", held.port)).await.expect("the broker is up");
    broker.write_all(&held.frame).await.expect("the broker reads");
    let (mut answers, _requests) = broker.into_split();
    read(&mut answers).await;
}

/// One frame with its length.
async fn read(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut frame = vec![0; 4];
    from.read_exact(&mut frame).await.ok()?;
    let length = usize::try_from(integer(&frame)).ok()?;
    frame.resize(4 + length, 0);
    from.read_exact(&mut frame[4..]).await.ok()?;
    Some(frame)
}

fn integer(bytes: &[u8]) -> i32 {
    i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
