//! The gateway's HTTP API in OpenAPI 3.1, at `/openapi.json`, and as a page at `/docs`.
//!
//! The document beside this file is written by hand, for people who read it before they write a client. It cannot drift:
//! `tests/openapi.rs` fails when a route is not in it, when the router gives an answer that it does not describe, and
//! when it describes an answer that is never given. Left out: scripts, and anything that is loaded from elsewhere.

mod page;

use axum::{
    Router,
    http::header,
    response::{Html, IntoResponse},
    routing::get,
};
use serde_json::Value;

/// The document.
pub const DOCUMENT: &str = include_str!("openapi.json");

/// `/openapi.json` and `/docs`.
pub fn routes() -> Router {
    #[expect(clippy::expect_used, reason = "it is a constant, and every test of this module parses it")]
    let document: Value = serde_json::from_str(DOCUMENT).expect("the document is JSON");
    let page = Html(page::render(&document));
    let page = async move || page.clone();
    let document = async || ([(header::CONTENT_TYPE, "application/json")], DOCUMENT).into_response();
    Router::new().route("/openapi.json", get(document)).route("/docs", get(page))
}
