//! Clients of the gateways: they place, cancel, look and list over HTTP, repeat what was lost, and write down all of it.
//!
//! A client is a careful one: it repeats under the same Idempotency-Key, at another gateway, until it is answered for
//! good or its patience ends; it draws conclusions only where the answer allows them; it sends the newest freshness
//! token that it has seen.

mod http;
mod observed;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use stormglass_orders::gateway::{FRESHNESS, IDEMPOTENCY_KEY, TENANT, decode_freshness, encode_freshness};
use stormglass_runtime::{Clock, Freshness};
use stormglass_sim::Dice;
use tokio::{sync::Mutex, task::JoinSet, time::Instant};
use uuid::Uuid;

use crate::workload::{Action, Basket, Operation, OrderRef};
use http::{Connections, Lost};

pub use http::{Accept, HTTP, Network, Wire, serve};
pub use observed::{Answer, Asked, ClientLog, ExchangeId, Observed};

/// How long a client waits and how often it tries.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// How long for a connection, and then for an answer.
    pub patience: Duration,
    /// How often one operation is tried at most.
    pub tries: u32,
    /// Between two tries: at least half of this, at most all of it.
    pub pause: Duration,
}

impl Default for Habits {
    fn default() -> Self {
        // Longer than the gateway's producer delivers for, so that clients hear how a late publication ended.
        Habits { patience: Duration::from_millis(2_500), tries: 6, pause: Duration::from_millis(300) }
    }
}

/// What a client is made of.
pub struct Client<N> {
    /// Its number.
    pub number: u32,
    /// The gateways' names; there is at least one.
    pub gateways: Vec<String>,
    /// How to reach them.
    pub network: N,
    /// What it writes down.
    pub log: ClientLog,
    /// When things happen, for the log only.
    pub clock: Arc<dyn Clock>,
    /// Its draws: pauses.
    pub dice: Dice,
    /// Its habits.
    pub habits: Habits,
}

impl<N: Network> Client<N> {
    /// Does `operations`, each at its time, beside each other. Ends when all are done or given up.
    pub async fn run(self, operations: Vec<Operation>) {
        let begun = Instant::now();
        let session = Arc::new(Session::new(self));
        let mut tasks = JoinSet::new();
        for (index, operation) in (0..).zip(operations) {
            let session = Arc::clone(&session);
            tasks.spawn(async move {
                tokio::time::sleep_until(begun + Duration::from_millis(operation.at_ms)).await;
                session.perform(index, operation.action).await;
            });
        }
        while tasks.join_next().await.is_some() {}
    }
}

/// What a client knows of an accepted order.
#[derive(Clone)]
struct Accepted {
    order: Uuid,
    receipt: String,
}

#[derive(Default)]
struct Memory {
    accepted: BTreeMap<OrderRef, Accepted>,
    freshest: Option<Freshness>,
    exchanges: u32,
}

struct Session<N> {
    client: Client<()>,
    connections: Connections<N>,
    memory: Mutex<Memory>,
}

/// A request to be sent, and what it is for.
struct Ask {
    method: Method,
    path: String,
    tenant: String,
    idempotency_key: Option<String>,
    at_least: Option<Freshness>,
    body: Bytes,
    asked: Asked,
}

impl<N: Network> Session<N> {
    fn new(client: Client<N>) -> Self {
        let Client { number, gateways, network, log, clock, dice, habits } = client;
        let connections = Connections::new(network, habits.patience);
        let client = Client { number, gateways, network: (), log, clock, dice, habits };
        Session { client, connections, memory: Mutex::default() }
    }

    async fn perform(&self, index: u32, action: Action) {
        match action {
            Action::Place(basket) | Action::Repeat(basket) => self.place(index, &basket).await,
            Action::Cancel(order) => {
                if let Some(accepted) = self.accepted(&order).await {
                    self.until_answered(index, || Ask::cancel(&order, &accepted)).await;
                }
            }
            Action::Read(order) => self.read(index, &order).await,
            Action::List { tenant } => {
                let at_least = self.memory.lock().await.freshest;
                self.until_answered(index, || Ask::list(&tenant, at_least)).await;
            }
            // The operator's.
            Action::Redrive { .. } | Action::Discard { .. } => {}
        }
    }

    async fn place(&self, index: u32, basket: &Basket) {
        let answer = self.until_answered(index, || Ask::place(basket)).await;
        if !matches!(answer, Some(Answer::Accepted { .. })) {
            return;
        }
        for look in 0..basket.follow {
            // Apart from the numbers of the tries that placing it took.
            self.pause(index, look + 100).await;
            self.read(index, &basket.order()).await;
        }
    }

    async fn read(&self, index: u32, order: &OrderRef) {
        if let Some(accepted) = self.accepted(order).await {
            let at_least = self.memory.lock().await.freshest;
            self.until_answered(index, || Ask::read(order, &accepted, at_least)).await;
        }
    }

    async fn accepted(&self, order: &OrderRef) -> Option<Accepted> {
        self.memory.lock().await.accepted.get(order).cloned()
    }

    async fn pause(&self, index: u32, attempt: u32) {
        let Habits { pause, .. } = self.client.habits;
        tokio::time::sleep(self.client.dice.duration("pause", u128::from(index), attempt, pause / 2..pause))
            .await;
    }

    /// Tries an operation at one gateway after the other until the answer settles it. `None`: given up.
    async fn until_answered(&self, index: u32, ask: impl Fn() -> Ask) -> Option<Answer> {
        for attempt in 0..self.client.habits.tries {
            if attempt > 0 {
                self.pause(index, attempt).await;
            }
            let gateways = &self.client.gateways;
            let gateway = &gateways[(index as usize + attempt as usize) % gateways.len()];
            let answer = self.exchange(gateway, ask()).await;
            if settles(&answer) {
                return Some(answer);
            }
        }
        None
    }

    async fn exchange(&self, gateway: &str, ask: Ask) -> Answer {
        let exchange = {
            let mut memory = self.memory.lock().await;
            memory.exchanges += 1;
            ExchangeId { client: self.client.number, number: memory.exchanges }
        };
        let (asked, tenant) = (ask.asked.clone(), ask.tenant.clone());
        let gateway_name = gateway.to_owned();
        self.note(|at| Observed::Sent { at, exchange, gateway: gateway_name, asked: ask.asked.clone() });
        let answer = match ask.into_request() {
            Ok(request) => match self.connections.send(gateway, request).await {
                Ok(response) => self.understand(&asked, &tenant, &response).await,
                Err(Lost::NotSent) => Answer::Refused { status: 0, problem: "not-sent".to_owned() },
                Err(Lost::Unknown(why)) => Answer::Unknown { why },
            },
            Err(error) => Answer::Refused { status: 0, problem: error.to_string() },
        };
        let noted = answer.clone();
        self.note(|at| Observed::Answered { at, exchange, answer: noted });
        answer
    }

    fn note(&self, observed: impl FnOnce(stormglass_runtime::Timestamp) -> Observed) {
        self.client.log.push(observed(self.client.clock.now()));
    }

    /// What the response says, as far as this client can tell; what it needs later is remembered.
    async fn understand(&self, asked: &Asked, tenant: &str, response: &Response<Bytes>) -> Answer {
        let body: Value = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
        let token = response.headers().get(FRESHNESS).and_then(|token| token.to_str().ok());
        let fresh = token.and_then(decode_freshness);
        let mut memory = self.memory.lock().await;
        memory.freshest = memory.freshest.max(fresh);
        match (response.status(), asked) {
            (StatusCode::ACCEPTED, Asked::Place { idempotency_key, .. }) => match accepted(&body) {
                Some(accepted) => {
                    let order = OrderRef { tenant: tenant.to_owned(), key: idempotency_key.clone() };
                    let answer = Answer::Accepted { order: accepted.order };
                    memory.accepted.insert(order, accepted);
                    answer
                }
                None => Answer::Unknown { why: format!("a 202 that names no order: {body}") },
            },
            (StatusCode::ACCEPTED, _) => Answer::CancelAccepted,
            (StatusCode::OK, Asked::List { .. }) => Answer::Listed { orders: listed(&body), fresh },
            (StatusCode::OK, _) => Answer::Found {
                status: text(&body, "status"),
                total_minor: body.get("total_minor").and_then(Value::as_i64),
                fresh,
            },
            (StatusCode::NOT_FOUND, Asked::Read { .. }) => Answer::Absent,
            (status, _) => failed(status, &body),
        }
    }
}

/// Whether there is nothing to be gained by asking again.
fn settles(answer: &Answer) -> bool {
    match answer {
        Answer::Accepted { .. }
        | Answer::CancelAccepted
        | Answer::Found { .. }
        | Answer::Absent
        | Answer::Listed { .. } => true,
        Answer::Refused { status, .. } => (400..500).contains(status) && *status != 408,
        Answer::Unknown { .. } => false,
    }
}

/// A problem, by what it says of the effect (RFC 9457 `type`); one that says nothing is unknown.
fn failed(status: StatusCode, body: &Value) -> Answer {
    let kind = text(body, "type");
    let problem = kind.rsplit(':').next().unwrap_or_default().to_owned();
    let certain = status.is_client_error()
        || matches!(problem.as_str(), "not-accepted" | "reads-unavailable" | "internal" | "not-ready");
    if certain {
        Answer::Refused { status: status.as_u16(), problem }
    } else {
        Answer::Unknown { why: format!("{status} {problem}") }
    }
}

fn text(body: &Value, name: &str) -> String {
    body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn id(body: &Value) -> Option<Uuid> {
    Uuid::try_parse(body.get("id")?.as_str()?).ok()
}

fn accepted(body: &Value) -> Option<Accepted> {
    Some(Accepted { order: id(body)?, receipt: text(body, "receipt") })
}

fn listed(body: &Value) -> Vec<(Uuid, String)> {
    let orders = body.get("orders").and_then(Value::as_array);
    orders.into_iter().flatten().filter_map(|order| Some((id(order)?, text(order, "status")))).collect()
}

/// The body of `POST /v1/orders`.
pub fn body(basket: &Basket) -> Value {
    json!({ "customer": basket.customer, "currency": basket.currency, "lines": basket.lines })
}

impl Ask {
    fn new(method: Method, path: String, (tenant, asked): (&str, Asked)) -> Self {
        let (idempotency_key, at_least, body) = (None, None, Bytes::new());
        Ask { method, path, tenant: tenant.to_owned(), idempotency_key, at_least, body, asked }
    }

    fn place(basket: &Basket) -> Self {
        let asked = Asked::Place {
            tenant: basket.tenant.clone(),
            idempotency_key: basket.key.clone(),
            total_minor: basket.total_minor(),
        };
        let ask = Ask::new(Method::POST, "/v1/orders".to_owned(), (&basket.tenant, asked));
        Ask { idempotency_key: Some(basket.key.clone()), body: Bytes::from(body(basket).to_string()), ..ask }
    }

    fn cancel(order: &OrderRef, accepted: &Accepted) -> Self {
        let path = format!("/v1/orders/{}/cancel?receipt={}", accepted.order, accepted.receipt);
        Ask::new(Method::POST, path, (&order.tenant, Asked::Cancel { order: accepted.order }))
    }

    fn read(order: &OrderRef, accepted: &Accepted, at_least: Option<Freshness>) -> Self {
        let path = format!("/v1/orders/{}?receipt={}", accepted.order, accepted.receipt);
        let asked = Asked::Read { order: accepted.order, at_least };
        Ask { at_least, ..Ask::new(Method::GET, path, (&order.tenant, asked)) }
    }

    fn list(tenant: &str, at_least: Option<Freshness>) -> Self {
        let asked = Asked::List { tenant: tenant.to_owned(), at_least };
        Ask { at_least, ..Ask::new(Method::GET, "/v1/orders?limit=20".to_owned(), (tenant, asked)) }
    }

    fn into_request(self) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header("host", "orders.example")
            .header("content-type", "application/json")
            .header(TENANT, self.tenant);
        if let Some(key) = self.idempotency_key {
            request = request.header(IDEMPOTENCY_KEY, key);
        }
        if let Some(at_least) = self.at_least {
            request = request.header(FRESHNESS, encode_freshness(at_least));
        }
        request.body(Full::new(self.body))
    }
}

#[cfg(test)]
mod tests;
