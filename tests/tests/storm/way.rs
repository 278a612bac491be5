//! The way from one side of the system to one server of the database: a port of this process that can be cut.
//!
//! Clients keep one address while what is behind it dies, comes back elsewhere or is cut off. A cut is silent, as one in
//! a network is: nobody is told, and what was open then is of no use afterwards.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
};

/// A way; it ends when this is dropped.
pub struct Way {
    /// The port that clients know.
    pub port: u16,
    /// Where it leads. 0: nobody is there.
    target: Arc<AtomicU16>,
    cut: watch::Sender<bool>,
    serving: AbortHandle,
}

impl Way {
    /// A way to nowhere yet.
    pub async fn open() -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let (cut, is_cut) = watch::channel(false);
        let target = Arc::new(AtomicU16::new(0));
        let serving = tokio::spawn(serve(listener, Arc::clone(&target), is_cut)).abort_handle();
        Way { port, target, cut, serving }
    }

    pub fn lead_to(&self, port: u16) {
        self.target.store(port, Ordering::SeqCst);
    }

    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub fn heal(&self) {
        self.cut.send_replace(false);
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, target: Arc<AtomicU16>, is_cut: watch::Receiver<bool>) {
    while let Ok((client, _)) = listener.accept().await {
        let port = target.load(Ordering::SeqCst);
        if port != 0 {
            tokio::spawn(carry(client, port, is_cut.clone()));
        }
    }
}

/// Returns once `is_cut` is what is waited for, or never will be anything else.
async fn until(mut is_cut: watch::Receiver<bool>, wanted: bool) {
    drop(is_cut.wait_for(|cut| *cut == wanted).await);
}

async fn carry(mut client: TcpStream, port: u16, is_cut: watch::Receiver<bool>) {
    let carrying = async {
        let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        copy_bidirectional(&mut client, &mut server).await
    };
    tokio::select! { biased;
        () = until(is_cut.clone(), true) => until(is_cut, false).await,
        // Either end may break off at any time: that is what the storm is about.
        _ = carrying => {}
    }
}
