//! A gateway on ports of paper: a producer that keeps what it is given, a reader over a map, a clock that stands.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use http_body_util::BodyExt;
use serde_json::Value;
use stormglass_orders::{
    Row, RowKey,
    gateway::{Gateway, Health, Keyring, Limits, Reach, Secret},
};
use stormglass_runtime::{
    Clock, Failure, Freshness, Partition, Position, Producer, Reader, Record, RowSet, Scan, Timestamp, Topic,
    Versioned,
};
use tower::ServiceExt;

/// What the fakes do next, and what they saw.
#[derive(Default)]
pub struct Paper {
    pub published: Vec<Record>,
    /// What publishing comes to, if not success.
    pub publishing: Option<Failure>,
    /// Whether publishing never answers.
    pub producer_hangs: bool,
    pub rows: BTreeMap<RowKey, Row>,
    /// What reading comes to, if not success.
    pub reading: Option<Failure>,
    /// How long a read takes.
    pub read_delay: Duration,
    /// The freshness of answers, and what was asked for.
    pub lsn: u64,
    pub asked: Vec<Option<Freshness>>,
    pub stuck: Option<String>,
    pub broker_down: bool,
}

#[derive(Clone, Default)]
pub struct Desk(Arc<Mutex<Paper>>);

impl Desk {
    pub fn paper(&self) -> MutexGuard<'_, Paper> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, row: Row) {
        self.paper().rows.insert(row.key(), row);
    }

    pub fn gateway(&self) -> Gateway {
        Gateway {
            producer: Arc::new(self.clone()),
            reader: Arc::new(self.clone()),
            clock: Arc::new(self.clone()),
            keyring: Arc::new(ring(&["one"], "one")),
            health: Arc::new(self.clone()),
            limits: Limits { body_bytes: 4096, page_max: 3, ..Limits::default() },
        }
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        send(self.gateway().router(), request).await
    }
}

/// A key ring whose keys are their own names, repeated.
pub fn ring(ids: &[&str], signer: &str) -> Keyring {
    let key = |id: &&str| ((*id).to_owned(), Secret::new(id.repeat(32).as_bytes()).expect("long enough"));
    Keyring::new(ids.iter().map(key).collect(), signer).expect("a ring")
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().expect("text")).unwrap_or_default()
    }
}

pub async fn send(router: Router, request: Request<Body>) -> Answer {
    let response = router.oneshot(request).await.expect("a router answers");
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("a body").to_bytes();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Answer { status: parts.status, headers: parts.headers, body }
}

#[async_trait]
impl Producer for Desk {
    async fn publish(&self, records: Vec<Record>) -> Vec<Result<Position, Failure>> {
        if self.paper().producer_hangs {
            std::future::pending::<()>().await;
        }
        let mut paper = self.paper();
        if let Some(failure) = paper.publishing.clone() {
            return records.iter().map(|_| Err(failure.clone())).collect();
        }
        let answers = records.iter().map(|_| Ok(Partition::new(&Topic::from("orders"), 0).at(0))).collect();
        paper.published.extend(records);
        answers
    }
}

impl Desk {
    async fn answer(
        &self,
        at_least: Option<Freshness>,
        pick: impl Fn(&BTreeMap<RowKey, Row>) -> Vec<Row>,
    ) -> Result<(Vec<Versioned<Row>>, Freshness), Failure> {
        let delay = self.paper().read_delay;
        tokio::time::sleep(delay).await;
        let mut paper = self.paper();
        paper.asked.push(at_least);
        if let Some(failure) = paper.reading.clone() {
            return Err(failure);
        }
        let rows = pick(&paper.rows).into_iter().map(|row| Versioned { row, version: 1 }).collect();
        Ok((rows, Freshness { timeline: 1, lsn: paper.lsn }))
    }
}

#[async_trait]
impl Reader<Row> for Desk {
    async fn read(
        &self,
        keys: Vec<RowKey>,
        at_least: Option<Freshness>,
    ) -> Result<(Vec<Versioned<Row>>, Freshness), Failure> {
        self.answer(at_least, |rows| keys.iter().filter_map(|key| rows.get(key)).cloned().collect()).await
    }

    async fn scan(
        &self,
        scan: Scan,
        at_least: Option<Freshness>,
    ) -> Result<(Vec<Versioned<Row>>, Freshness), Failure> {
        self.answer(at_least, |rows| {
            let listed = |key: &RowKey| {
                let text = Row::key_text(key);
                Row::table(key) == scan.table
                    && text.starts_with(&scan.prefix)
                    && scan.after.as_ref().is_none_or(|after| text > *after)
            };
            let found = rows.iter().filter(|(key, _)| listed(key)).map(|(_, row)| row.clone());
            found.take(scan.limit as usize).collect()
        })
        .await
    }
}

impl Clock for Desk {
    fn now(&self) -> Timestamp {
        Timestamp(1_700_000_000_000_000)
    }
}

impl Health for Desk {
    fn stuck(&self) -> Option<String> {
        self.paper().stuck.clone()
    }

    fn broker(&self) -> Reach {
        if self.paper().broker_down { Reach::Down } else { Reach::Up }
    }

    fn database(&self) -> Reach {
        Reach::Down
    }
}
