//! Clients against scripted gateways, over streams inside the process.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use axum::{
    Json, Router,
    extract::State,
    http::HeaderMap,
    response::IntoResponse,
    routing::{get, post},
};
use stormglass_embedded::transport::TokioClock;
use stormglass_runtime::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::workload::Line;

struct Incoming(mpsc::UnboundedReceiver<DuplexStream>);

#[async_trait]
impl Accept for Incoming {
    async fn accept(&mut self) -> io::Result<Box<dyn Wire>> {
        let stream = self.0.recv().await.ok_or(io::ErrorKind::NetworkDown)?;
        Ok(Box::new(stream))
    }
}

#[derive(Clone, Default)]
struct Wires {
    listeners: BTreeMap<String, mpsc::UnboundedSender<DuplexStream>>,
    dialled: Arc<AtomicUsize>,
}

#[async_trait]
impl Network for Wires {
    async fn dial(&self, gateway: &str) -> io::Result<Box<dyn Wire>> {
        let listener = self.listeners.get(gateway).ok_or(io::ErrorKind::ConnectionRefused)?;
        self.dialled.fetch_add(1, Ordering::Relaxed);
        let (here, there) = duplex(4096);
        listener.send(there).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Box::new(here))
    }
}

impl Wires {
    fn serving(mut self, gateway: &str, router: Router) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.listeners.insert(gateway.to_owned(), sender);
        drop(tokio::spawn(serve(Incoming(receiver), router, CancellationToken::new())));
        self
    }
}

const ORDER: Uuid = Uuid::from_u128(1);

/// Accepts every order, and shows it at lsn 1, 2, …; a read whose token is not the newest is a 500.
fn gateway() -> Router {
    async fn place() -> impl IntoResponse {
        (StatusCode::ACCEPTED, Json(json!({ "id": ORDER, "status": "pending", "receipt": "k.f.t" })))
    }
    async fn read(State(reads): State<Arc<AtomicUsize>>, headers: HeaderMap) -> Response<axum::body::Body> {
        let seen = reads.fetch_add(1, Ordering::Relaxed) as u64;
        let token = headers.get(FRESHNESS).and_then(|token| decode_freshness(token.to_str().ok()?));
        if token.map_or(0, |token| token.lsn) != seen {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        let fresh = encode_freshness(Freshness { timeline: 1, lsn: seen + 1 });
        ([(FRESHNESS, fresh)], Json(json!({ "id": ORDER, "status": "confirmed", "total_minor": 300 })))
            .into_response()
    }
    Router::new()
        .route("/v1/orders", post(place))
        .route("/v1/orders/{id}", get(read))
        .with_state(Arc::<AtomicUsize>::default())
}

/// Takes every request and answers none.
fn silent() -> Router {
    Router::new().fallback(async || std::future::pending::<()>().await)
}

fn place(follow: u32) -> Operation {
    let lines = vec![Line { sku: "mug".to_owned(), quantity: 2, unit_price_minor: 150 }];
    let basket = Basket {
        tenant: "acme".to_owned(),
        key: "k1".to_owned(),
        customer: "ann".to_owned(),
        currency: "EUR".to_owned(),
        follow,
        lines,
    };
    Operation { at_ms: 10, client: 0, action: Action::Place(basket) }
}

async fn run(network: Wires, gateways: &[&str], operation: Operation) -> Vec<Observed> {
    let log = ClientLog::default();
    let client = Client {
        number: 0,
        gateways: gateways.iter().map(|name| (*name).to_owned()).collect(),
        network,
        log: log.clone(),
        clock: Arc::new(TokioClock::starting_at(Timestamp(0))),
        dice: Dice::new(1),
        habits: Habits::default(),
    };
    client.run(vec![operation]).await;
    log.drain_observed()
}

fn answers(seen: &[Observed]) -> Vec<&Answer> {
    let answers = seen.iter().filter_map(|seen| match seen {
        Observed::Answered { answer, .. } => Some(answer),
        Observed::Sent { .. } => None,
    });
    answers.collect()
}

#[tokio::test(start_paused = true)]
async fn order_is_placed_and_followed_with_the_newest_token_on_one_connection() {
    let network = Wires::default().serving("gateway-1", gateway());
    let seen = run(network.clone(), &["gateway-1"], place(2)).await;
    let [Answer::Accepted { order }, Answer::Found { fresh: first, .. }, Answer::Found { fresh: second, .. }] =
        answers(&seen)[..]
    else {
        panic!("{seen:?}");
    };
    assert_eq!((*order, first.unwrap().lsn, second.unwrap().lsn), (ORDER, 1, 2));
    assert_eq!(network.dialled.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn order_without_an_answer_is_repeated_at_another_gateway_under_its_key() {
    let network = Wires::default().serving("gateway-1", silent()).serving("gateway-2", gateway());
    let seen = run(network, &["gateway-1", "gateway-2"], place(0)).await;
    assert!(matches!(answers(&seen)[..], [Answer::Unknown { .. }, Answer::Accepted { .. }]), "{seen:?}");
    let keys: Vec<&str> = seen
        .iter()
        .filter_map(|seen| match seen {
            Observed::Sent { asked: Asked::Place { idempotency_key, .. }, .. } => {
                Some(idempotency_key.as_str())
            }
            Observed::Sent { .. } | Observed::Answered { .. } => None,
        })
        .collect();
    assert_eq!(keys, ["k1", "k1"]);
}

#[tokio::test(start_paused = true)]
async fn request_that_never_left_is_certainly_without_effect() {
    let network = Wires::default().serving("gateway-2", gateway());
    let seen = run(network, &["gateway-1", "gateway-2"], place(0)).await;
    assert!(
        matches!(answers(&seen)[..], [Answer::Refused { status: 0, .. }, Answer::Accepted { .. }]),
        "{seen:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn client_gives_up_after_its_tries() {
    let network = Wires::default().serving("gateway-1", silent());
    let seen = run(network, &["gateway-1"], place(1)).await;
    assert_eq!(answers(&seen).len() as u32, Habits::default().tries);
}

#[rstest::rstest]
#[case::not_accepted(503, "not-accepted", true)]
#[case::outcome_unknown(503, "outcome-unknown", false)]
#[case::key_reused(422, "idempotency-key-reused", true)]
#[case::misconfigured(500, "internal", true)]
#[case::no_problem_at_all(502, "", false)]
fn problem_is_certain_only_where_it_says_so(
    #[case] status: u16,
    #[case] problem: &str,
    #[case] certain: bool,
) {
    let body = json!({ "type": format!("urn:stormglass:problem:{problem}") });
    let answer = failed(StatusCode::from_u16(status).unwrap(), &body);
    assert_eq!(matches!(answer, Answer::Refused { .. }), certain, "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn response_has_no_date_and_a_shutdown_finishes_what_is_in_work() {
    let (sender, receiver) = mpsc::unbounded_channel();
    let shutdown = CancellationToken::new();
    let slow = Router::new().fallback(async || tokio::time::sleep(Duration::from_secs(1)).await);
    let serving = tokio::spawn(serve(Incoming(receiver), slow, shutdown.clone()));
    let (mut here, there) = duplex(4096);
    sender.send(there).unwrap();
    here.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    shutdown.cancel();
    let mut response = String::new();
    here.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
    assert!(!response.to_lowercase().contains("date:"), "{response}");
    serving.await.unwrap();
}
