//! Clients of the gateway: keep-alive connections that place orders, as fast as they are answered or by the clock.
//!
//! They live on a thread of their own, so that a busy service delays no time stamp but by what the machine itself does.
//! Requests are written and answers read by hand: a client library would take more of the shared processors than the
//! gateway does.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use stormglass_benches::{TENANT, tenant};
use stormglass_orders::types::OrderId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::LocalSet,
    time::{Instant, sleep_until},
};

use crate::Fallible;

/// What is asked for, and how.
#[derive(Clone)]
pub struct Load {
    pub gateway: SocketAddr,
    pub connections: usize,
    pub pace: Pace,
    /// Keeps the keys of this load apart from all others'.
    pub name: String,
    /// SKUs that orders take turns with.
    pub skus: u32,
    /// Ends it.
    pub stop: Arc<AtomicBool>,
}

/// When the next order is placed.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// As soon as the one before it on the connection was answered (closed loop).
    Answered,
    /// So many a second, whatever is answered (open loop): one that has to wait for a connection counts from when it
    /// was due.
    PerSecond(u32),
}

/// An order that was placed, or not.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    pub order: OrderId,
    /// When it was due.
    pub due: Instant,
    pub answered: Instant,
    pub status: u16,
}

impl Placed {
    /// From due to answered, in milliseconds.
    pub fn answer_ms(&self) -> f64 {
        self.answered.saturating_duration_since(self.due).as_secs_f64() * 1e3
    }
}

impl Load {
    /// Starts it. It runs until it is stopped; joining it answers with every request.
    pub fn start(self) -> Fallible<JoinHandle<Result<Vec<Placed>, String>>> {
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            LocalSet::new().block_on(&runtime, self.run()).map_err(|error| error.to_string())
        };
        Ok(Builder::new().name("load".to_owned()).spawn(run)?)
    }

    async fn run(self) -> Fallible<Vec<Placed>> {
        let (load, next, begun) = (Rc::new(self), Rc::new(AtomicU32::new(0)), Instant::now());
        let connections: Vec<_> = (0..load.connections)
            .map(|_| tokio::task::spawn_local(connection(Rc::clone(&load), Rc::clone(&next), begun)))
            .collect();
        let mut placed = Vec::new();
        for connection in connections {
            placed.extend(connection.await??);
        }
        Ok(placed)
    }

    fn due(&self, number: u32, begun: Instant) -> Instant {
        match self.pace {
            Pace::Answered => Instant::now(),
            Pace::PerSecond(rate) => begun + Duration::from_secs_f64(f64::from(number) / f64::from(rate)),
        }
    }
}

async fn connection(load: Rc<Load>, next: Rc<AtomicU32>, begun: Instant) -> Fallible<Vec<Placed>> {
    let mut stream = TcpStream::connect(load.gateway).await?;
    stream.set_nodelay(true)?;
    let (mut placed, mut buffer) = (Vec::new(), Vec::with_capacity(4_096));
    while !load.stop.load(Ordering::Relaxed) {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let due = load.due(number, begun);
        sleep_until(due).await;
        let key = format!("{}-{number}", load.name);
        stream.write_all(request(&key, number % load.skus).as_bytes()).await?;
        let status = answer(&mut stream, &mut buffer).await?;
        let order = OrderId::derive(&tenant(), &key);
        placed.push(Placed { order, due, answered: Instant::now(), status });
    }
    Ok(placed)
}

fn request(key: &str, sku: u32) -> String {
    let body = format!(
        "{{\"customer\":\"ada@example.org\",\"currency\":\"EUR\",\"lines\":[{{\"sku\":\"sku-{sku}\",\"quantity\":1,\
         \"unit_price_minor\":4999}}]}}"
    );
    format!(
        "POST /v1/orders HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\nstormglass-tenant: {TENANT}\r\n\
         idempotency-key: {key}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads one answer whole; its status.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Fallible<u16> {
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err("the gateway hung up".into());
        }
        let Some(head) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&buffer[..head])?;
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .ok_or("an answer without a length")?
            .parse::<usize>()?;
        let status = text.get(9..12).ok_or("no answer of HTTP")?.parse()?;
        let missing = (head + 4 + length).saturating_sub(buffer.len());
        let from = buffer.len();
        buffer.resize(from + missing, 0);
        stream.read_exact(&mut buffer[from..]).await?;
        return Ok(status);
    }
}
