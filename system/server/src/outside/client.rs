//! The ports `PaymentProvider` and `Notifier` over HTTP. Attempts are the runtime's to count: nothing is repeated here.

use std::time::Duration;

use async_trait::async_trait;
use axum::http::{Method, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Serialize;
use stormglass_orders::{
    ports::{Charge, Notice, Notifier, PaymentProvider, PaymentReply, Refund},
    types::Reference,
};
use stormglass_runtime::{ActError, IdempotencyKey};
use tokio::time::timeout;

use super::wire::{IDEMPOTENCY_KEY, Told, besides_the_question, failure};
use crate::{
    settings::{OutsideSettings, PartyUrl},
    stop::Stop,
};

/// Largest answer that is read.
const ANSWER_BYTES: usize = 64 * 1024;
/// What is shown of the body of an error.
const DETAIL_CHARS: usize = 200;

/// A party outside, by its address.
pub struct Outside {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: PartyUrl,
    limit: Duration,
}

impl Outside {
    /// The party that the section `name` of the settings describes. Nothing is connected to.
    ///
    /// # Errors
    /// If the machine trusts no certificate at all.
    pub fn new(name: &str, settings: &OutsideSettings) -> Result<Self, Stop> {
        let url = settings.url.clone();
        let connector = HttpsConnectorBuilder::new()
            .with_native_roots()
            .map_err(|error| {
                let line = "no certificate is trusted on this machine";
                Stop::Usage(format!("settings: {name}.url = {:?}: {line}: {error}", url.origin()))
            })?
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, url, limit: Duration::from_millis(settings.timeout_ms) })
    }

    /// Whether anybody is there: asks for nothing, and takes any answer for one.
    ///
    /// # Errors
    /// Why nobody answered.
    pub async fn knock(&self) -> Result<StatusCode, String> {
        let request =
            Request::head(self.url.base()).body(Full::default()).map_err(|error| error.to_string())?;
        match timeout(self.limit, self.client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer.status()),
            Ok(Err(error)) => Err(innermost(&error)),
            Err(_) => Err(format!("did not answer within {:?}", self.limit)),
        }
    }

    async fn post(&self, path: &str, key: IdempotencyKey, body: &impl Serialize) -> Result<Told, ActError> {
        let body = serde_json::to_vec(body).map_err(|error| ActError::Rejected(error.to_string()))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{path}", self.url.base()))
            .header(header::CONTENT_TYPE, "application/json")
            .header(IDEMPOTENCY_KEY, key.to_string())
            .body(Full::from(body))
            .map_err(|error| ActError::NotSent(error.to_string()))?;
        let Ok(answer) = timeout(self.limit, self.ask(request)).await else {
            return Err(ActError::Unknown(format!(
                "{} did not answer within {:?}",
                self.url.origin(),
                self.limit
            )));
        };
        answer
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Told, ActError> {
        let answer = self.client.request(request).await.map_err(|error| {
            let line = format!("{}: {}", self.url.origin(), innermost(&error));
            // Without a connection nothing was sent.
            if error.is_connect() { ActError::NotSent(line) } else { ActError::Unknown(line) }
        })?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| {
                ActError::Unknown(format!("{} answered what is no answer: {error}", self.url.origin()))
            });
        }
        let detail: String = String::from_utf8_lossy(&body).chars().take(DETAIL_CHARS).collect();
        Err(failure(status, &detail))
    }

    async fn ask_to_close(&self, key: IdempotencyKey) -> Result<Told, ActError> {
        self.post(&format!("/keys/{key}/close"), key, &serde_json::json!({})).await
    }
}

/// The error that the others wrap: what the system said.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[async_trait]
impl PaymentProvider for Outside {
    async fn charge(&self, charge: Charge, key: IdempotencyKey) -> Result<PaymentReply, ActError> {
        let told = self.post("/charges", key, &charge).await?;
        told.payment()?.ok_or_else(besides_the_question)
    }

    async fn refund(&self, refund: Refund, key: IdempotencyKey) -> Result<PaymentReply, ActError> {
        let told = self.post("/refunds", key, &refund).await?;
        told.payment()?.ok_or_else(besides_the_question)
    }

    async fn close(&self, key: IdempotencyKey) -> Result<Option<PaymentReply>, ActError> {
        self.ask_to_close(key).await?.payment()
    }
}

#[async_trait]
impl Notifier for Outside {
    async fn send(&self, notice: Notice, key: IdempotencyKey) -> Result<Reference, ActError> {
        let told = self.post("/messages", key, &notice).await?;
        told.message()?.ok_or_else(besides_the_question)
    }

    async fn close(&self, key: IdempotencyKey) -> Result<Option<Reference>, ActError> {
        self.ask_to_close(key).await?.message()
    }
}
