//! One remote call that says whether it happened, over any transport. Shared by the clients of both third parties.

use std::{sync::Arc, time::Duration};

use stormglass_embedded::transport::{Link, Transport};
use stormglass_runtime::ActError;
use tokio::{sync::Mutex, time::timeout};

/// Calls one third party on one connection, which is made anew after whatever went wrong with it.
pub(crate) struct Caller<Q, A> {
    transport: Arc<dyn Transport<Q, A>>,
    link: Mutex<Option<Arc<dyn Link<Q, A>>>>,
    timeout: Duration,
}

impl<Q: Send + 'static, A: Send + 'static> Caller<Q, A> {
    pub(crate) fn new(transport: Arc<dyn Transport<Q, A>>, timeout: Duration) -> Self {
        Caller { transport, link: Mutex::new(None), timeout }
    }

    /// Sends `request` and waits for the answer. Connecting and answering each have the whole timeout.
    ///
    /// A dropped future leaves the outcome unknown, and the connection usable.
    pub(crate) async fn call(&self, request: Q) -> Result<A, ActError> {
        let link = self.connect().await?;
        let failed = match timeout(self.timeout, link.request(request)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(unreachable)) => unreachable.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        self.forget(&link).await;
        Err(ActError::Unknown(failed))
    }

    async fn connect(&self) -> Result<Arc<dyn Link<Q, A>>, ActError> {
        let mut cached = self.link.lock().await;
        if let Some(link) = cached.as_ref() {
            return Ok(Arc::clone(link));
        }
        let link = match timeout(self.timeout, self.transport.connect(0)).await {
            Ok(Ok(link)) => Arc::from(link),
            Ok(Err(unreachable)) => return Err(ActError::NotSent(unreachable.to_string())),
            Err(_) => return Err(ActError::NotSent("no connection in time".to_owned())),
        };
        *cached = Some(Arc::clone(&link));
        Ok(link)
    }

    async fn forget(&self, broken: &Arc<dyn Link<Q, A>>) {
        let mut cached = self.link.lock().await;
        if cached.as_ref().is_some_and(|link| Arc::ptr_eq(link, broken)) {
            *cached = None;
        }
    }
}
