//! The way of one client to one broker, with faults on it.
//!
//! It speaks no more of Kafka's protocol than its frames: a length, then the API's number, a correlation id that the
//! answer repeats, and the `client.id`. That suffices to lose exactly the answers to produce requests, or to hold exactly
//! those back, and to tell clients apart that come the same way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
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
    /// What goes wrong for whoever uses this way now.
    pub faults: Mutex<Arc<Faults>>,
    /// What goes wrong for these instead, by their `client.id`.
    pub named: Mutex<BTreeMap<String, Arc<Faults>>>,
}

impl Way {
    fn faults_of(&self, client_id: &str) -> Arc<Faults> {
        let named = self.named.lock().unwrap().get(client_id).cloned();
        named.unwrap_or_else(|| Arc::clone(&self.faults.lock().unwrap()))
    }
}

/// A request that was held back, and the port of the broker that it was for.
pub struct HeldBack {
    pub port: u16,
    pub frame: Vec<u8>,
}

/// Serves clients that connect to `listener` until it is dropped with its task.
pub async fn serve(listener: TcpListener, way: Arc<Way>) {
    while let Ok((client, _)) = listener.accept().await {
        let port = way.port.load(Ordering::SeqCst);
        if port != 0 {
            tokio::spawn(connect(client, port, Arc::clone(&way)));
        }
    }
}

struct Connection {
    port: u16,
    faults: Arc<Faults>,
    /// Produce requests without an answer yet.
    awaited: Mutex<BTreeSet<i32>>,
}

/// Carries frames both ways until one side closes, or an answer is to be lost.
async fn connect(client: TcpStream, port: u16, way: Arc<Way>) {
    client.set_nodelay(true).expect("a connection takes its options");
    let (mut requests, to_client) = client.into_split();
    let Some(first) = read(&mut requests).await else { return };
    let faults = way.faults_of(client_id(&first));
    if faults.mute.load(Ordering::SeqCst) {
        return;
    }
    let Ok(broker) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    broker.set_nodelay(true).expect("a connection takes its options");
    let (answers, to_broker) = broker.into_split();
    let connection = Connection { port, faults, awaited: Mutex::default() };
    tokio::select! { biased;
        () = connection.requests(first, requests, to_broker) => {}
        () = connection.answers(answers, to_client) => {}
    }
}

impl Connection {
    async fn requests(&self, first: Vec<u8>, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut next = Some(first);
        while let Some(frame) = next {
            if self.arrives(&frame) && to.write_all(&frame).await.is_err() {
                return;
            }
            next = read(&mut from).await;
        }
    }

    /// Whether a request arrives now. One that is held back may do so later.
    fn arrives(&self, frame: &[u8]) -> bool {
        let is_produce = i16::from_be_bytes([frame[4], frame[5]]) == PRODUCE;
        if is_produce && self.faults.hold.load(Ordering::SeqCst) {
            let held = HeldBack { port: self.port, frame: frame.to_vec() };
            self.faults.held.lock().unwrap().push(Box::new(held));
            return false;
        }
        if self.faults.mute.load(Ordering::SeqCst) {
            return false;
        }
        if is_produce {
            self.awaited.lock().unwrap().insert(integer(&frame[8..12]));
        }
        true
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

/// The `client.id` of a request: it follows the correlation id, after its own length.
fn client_id(frame: &[u8]) -> &str {
    let id = frame.get(12..14).and_then(|length| {
        let length = usize::try_from(i16::from_be_bytes([length[0], length[1]])).ok()?;
        frame.get(14..14 + length)
    });
    id.and_then(|id| std::str::from_utf8(id).ok()).unwrap_or_default()
}

fn integer(bytes: &[u8]) -> i32 {
    i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
