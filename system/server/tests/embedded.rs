//! The binary as a newcomer meets it: `serve --embedded`, one order by HTTP, followed to its end, and SIGTERM.

#![expect(clippy::expect_used, reason = "a helper that cannot do its part fails the test")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

/// How often the order is looked at, and how many times: a minute in all.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS: usize = 600;

/// A running process, killed when a test fails.
struct Server {
    process: Child,
    address: String,
    /// Kept open: it greets in several writes, and one that nobody can read would end it.
    _greeting: BufReader<ChildStdout>,
}

impl Server {
    fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_stormglass"))
            .args(["serve", "--embedded", "--listen", "127.0.0.1:0", "--set", "log.filter=warn"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut greeting = String::new();
        let mut stdout = BufReader::new(process.stdout.take().expect("piped"));
        stdout.read_line(&mut greeting).expect("it greets");
        let address = greeting.split("http://").nth(1).and_then(|rest| rest.split(';').next());
        let address = address.expect("the greeting names the address").to_owned();
        Self { address, process, _greeting: stdout }
    }

    fn terminate(&self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
    }

    /// Sends a request; answers with head and body.
    fn ask(&self, request: &str, body: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        let length = body.len();
        write!(
            stream,
            "{request} HTTP/1.1\r\nHost: stormglass\r\nConnection: close\r\nStormglass-Tenant: demo\r\n\
             Idempotency-Key: first\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        (head.to_owned(), body.to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            self.process.kill().expect("it can be killed");
        }
    }
}

#[test]
fn an_order_is_confirmed_and_sigterm_drains() {
    let mut server = Server::start();
    let line = r#"{"sku":"umbrella","quantity":1,"unit_price_minor":1999}"#;
    let order = format!(r#"{{"customer":"ada","currency":"EUR","lines":[{line}]}}"#);
    let (head, body) = server.ask("POST /v1/orders", &order);
    assert!(head.starts_with("HTTP/1.1 202"), "{head}\n{body}");
    let accepted: Value = serde_json::from_str(&body).expect("JSON");
    let link = accepted["links"]["self"].as_str().expect("the answer links to the order").to_owned();
    let status = |_| {
        std::thread::park_timeout(LOOK);
        let (head, body) = server.ask(&format!("GET {link}"), "");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}\n{body}");
        serde_json::from_str::<Value>(&body).expect("JSON")["status"].as_str().map(str::to_owned)
    };
    let end = (0..LOOKS).filter_map(status).find(|status| status != "pending");
    assert_eq!(end.as_deref(), Some("confirmed"));

    let (head, metrics) = server.ask("GET /metrics", "");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    for metric in ["stormglass_events_taken_total{consumer=\"orders\"}", "stormglass_http_requests_total"] {
        assert!(metrics.contains(metric), "{metric} is missing in\n{metrics}");
    }
    assert!(server.ask("GET /livez", "").0.starts_with("HTTP/1.1 200"));

    server.terminate();
    let status = server.process.wait().expect("it ends");
    assert_eq!(status.code(), Some(0), "{status}");
}

#[test]
fn who_is_told_twice_does_not_wait_for_what_is_on_its_way() {
    let mut server = Server::start();
    // An order whose body does not come: draining waits for it.
    let mut slow = TcpStream::connect(&server.address).expect("it listens");
    let head = "POST /v1/orders HTTP/1.1\r\nHost: stormglass\r\nStormglass-Tenant: demo\r\nIdempotency-Key: slow\r\n\
                Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    slow.write_all(head.as_bytes()).expect("it reads");
    // Whoever is answered has been connected after it.
    assert!(server.ask("GET /livez", "").0.starts_with("HTTP/1.1 200"));
    server.terminate();
    std::thread::park_timeout(5 * LOOK);
    assert!(
        server.process.try_wait().expect("it is ours").is_none(),
        "it did not wait: the test shows nothing"
    );
    server.terminate();
    let status = server.process.wait().expect("it ends");
    assert_eq!(status.code(), Some(130), "{status}");
}
