//! The HTTP side of every role: `/metrics`, `/livez`, and the gateway with its description where it is part of it.

use std::{future::Future, net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{MatchedPath, Request},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use serde_json::json;
use stormglass_orders::gateway::{Gateway, Health};
use tokio::{
    net::TcpListener,
    time::{Duration, Instant, sleep},
};

use crate::{openapi, stop::Stop};

/// Upper bounds of the histograms, in seconds: from a statement to a provider that times out.
const BUCKETS: [f64; 14] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// How often histograms are worked into their buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// Collects what the process measures from now on. Once per process.
///
/// # Errors
/// If something collects already.
pub fn collect_metrics() -> Result<PrometheusHandle, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)?
        .install_recorder()
}

/// Keeps the collection small. Runs until dropped.
pub async fn upkeep(metrics: PrometheusHandle) {
    loop {
        sleep(UPKEEP).await;
        metrics.run_upkeep();
    }
}

/// Listens at an address.
///
/// # Errors
/// If it is taken, or not this machine's.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Stop> {
    TcpListener::bind(address).await.map_err(|error| {
        Stop::Usage(format!("http.listen = {address}: {error}; choose another with --listen"))
    })
}

/// What every role answers. `metrics` renders what was collected.
pub fn common(metrics: Option<PrometheusHandle>) -> Router {
    let Some(metrics) = metrics else { return Router::new() };
    let render = move || {
        let text = metrics.render();
        async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text) }
    };
    Router::new().route("/metrics", get(render))
}

/// `/livez` of roles without a gateway, which has its own.
pub fn livez(health: Arc<dyn Health>) -> Router {
    let answer = move || {
        let answer = match health.stuck() {
            None => Json(json!({ "live": true })).into_response(),
            Some(what) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "live": false, "stuck": what })))
                .into_response(),
        };
        async move { answer }
    };
    Router::new().route("/livez", get(answer))
}

/// What a gateway answers: its own routes, their description, and what every role answers.
pub fn gateway(gateway: Gateway, metrics: Option<PrometheusHandle>) -> Router {
    common(metrics).merge(openapi::routes()).merge(gateway.router())
}

/// Serves until `shutdown` resolves, then finishes what was begun.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let router = router.layer(middleware::from_fn(measure));
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(shutdown).await {
        tracing::error!(%error, "the listener failed");
    }
}

async fn measure(request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let labels =
        [("method", request.method().to_string()), ("path", path.unwrap_or_else(|| "other".to_owned()))];
    let begun = Instant::now();
    let response = next.run(request).await;
    metrics::histogram!("stormglass_http_request_seconds", &labels).record(begun.elapsed().as_secs_f64());
    let [method, path] = labels;
    let labels = [method, path, ("status", response.status().as_u16().to_string())];
    metrics::counter!("stormglass_http_requests_total", &labels).increment(1);
    response
}
