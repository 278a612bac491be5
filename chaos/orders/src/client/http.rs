//! HTTP/1.1 over whatever stream the world offers: keep-alive connections on the client's side, a router on the other.
//!
//! No clock is read here: hyper's `Date` header and its header timeout are both off.

use std::{collections::BTreeMap, io, pin::pin, time::Duration};

use async_trait::async_trait;
use axum::Router;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    client::conn::http1::{SendRequest, handshake},
    server::conn::http1,
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use stormglass_sim::{Host, Listener};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Mutex,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// The port that gateways listen on.
pub const HTTP: u16 = 80;

/// A byte stream.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Ways to reach the gateways.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Opens a stream to a gateway. May wait for ever: callers set a timeout.
    ///
    /// # Errors
    /// If the gateway refuses.
    async fn dial(&self, gateway: &str) -> io::Result<Box<dyn Wire>>;
}

#[async_trait]
impl Network for Host {
    async fn dial(&self, gateway: &str) -> io::Result<Box<dyn Wire>> {
        Ok(Box::new(self.connect(gateway, HTTP).await?))
    }
}

/// Where connections come in.
#[async_trait]
pub trait Accept: Send {
    /// The next stream. Cancel safe.
    ///
    /// # Errors
    /// If there will be no more.
    async fn accept(&mut self) -> io::Result<Box<dyn Wire>>;
}

#[async_trait]
impl Accept for Listener {
    async fn accept(&mut self) -> io::Result<Box<dyn Wire>> {
        Ok(Box::new(Listener::accept(self).await?))
    }
}

/// Serves `router` until `shutdown` or until no connection can come in any more; requests in work are finished.
/// Dropping the future drops every connection.
pub async fn serve(mut listener: impl Accept, router: Router, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok(wire) => drop(connections.spawn(connection(wire, router.clone(), shutdown.clone()))),
                Err(_) => break,
            },
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn connection(wire: Box<dyn Wire>, router: Router, shutdown: CancellationToken) {
    let serving = http1::Builder::new()
        .auto_date_header(false)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(wire), TowerToHyperService::new(router));
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// Why there is no response.
#[derive(Debug)]
pub(super) enum Lost {
    /// The request certainly did not leave.
    NotSent,
    /// It may have arrived.
    Unknown(String),
}

/// Keep-alive connections to the gateways, idle ones by gateway.
pub(super) struct Connections<N> {
    network: N,
    patience: Duration,
    idle: Mutex<BTreeMap<String, Vec<SendRequest<Full<Bytes>>>>>,
}

impl<N: Network> Connections<N> {
    pub(super) fn new(network: N, patience: Duration) -> Self {
        Connections { network, patience, idle: Mutex::new(BTreeMap::new()) }
    }

    /// Sends a request and reads the whole response; both together have `patience`, and so does connecting.
    pub(super) async fn send(
        &self,
        gateway: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, Lost> {
        let mut sender = self.sender(gateway).await?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let (parts, body) = response.into_parts();
            Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
        };
        match timeout(self.patience, exchange).await {
            Ok(Ok(response)) => {
                self.idle.lock().await.entry(gateway.to_owned()).or_default().push(sender);
                Ok(response)
            }
            Ok(Err(error)) => Err(lost(&error)),
            Err(_) => Err(Lost::Unknown("no answer in time".to_owned())),
        }
    }

    async fn sender(&self, gateway: &str) -> Result<SendRequest<Full<Bytes>>, Lost> {
        while let Some(sender) = self.idle.lock().await.get_mut(gateway).and_then(Vec::pop) {
            if sender.is_ready() {
                return Ok(sender);
            }
        }
        let connecting = async {
            let wire = self.network.dial(gateway).await.ok()?;
            handshake(TokioIo::new(wire)).await.ok()
        };
        let connected = timeout(self.patience, connecting).await;
        let (sender, connection) = connected.ok().flatten().ok_or(Lost::NotSent)?;
        drop(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke off");
            }
        }));
        Ok(sender)
    }
}

/// hyper calls a request canceled that was never written: its connection had closed before.
fn lost(error: &hyper::Error) -> Lost {
    if error.is_canceled() { Lost::NotSent } else { Lost::Unknown(error.to_string()) }
}
