//! `doctor`: asks everything that the services would meet, and says one line about each: what, where, what to do.
//!
//! It changes nothing, and does not stop at what it finds: with nothing reachable it still says so of every server, in
//! bounded time. Left out: the brokers' clocks, which no request tells; and load, which is the metrics' to show.

mod kafka;
mod postgres;
mod wire;

use std::{fmt, future::Future, time::Duration};

use tokio::time::timeout;

use crate::{
    outside::Outside,
    settings::{OutsideSettings, Settings},
    stop::Stop,
};

/// No server takes longer over all that it is asked, or what it did not say is an error.
const PATIENCE: Duration = Duration::from_secs(20);

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    /// As it must be.
    Fine,
    /// It works, and could be better.
    Warning,
    /// A service would not start, would not work, or could lose something.
    Error,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Grade::Fine => "ok",
            Grade::Warning => "warning",
            Grade::Error => "error",
        })
    }
}

/// What was found, in the order in which it is printed.
#[derive(Debug, Default)]
pub struct Report(Vec<(Grade, String)>);

impl Report {
    /// One line for each check: `ok`, `warning` or `error`, then where, what, and what to do.
    pub fn lines(&self) -> Vec<String> {
        self.0.iter().map(|(grade, line)| format!("{grade:8} {line}")).collect()
    }

    fn fine(&mut self, line: impl Into<String>) {
        self.0.push((Grade::Fine, line.into()));
    }

    fn warning(&mut self, line: impl Into<String>) {
        self.0.push((Grade::Warning, line.into()));
    }

    fn error(&mut self, line: impl Into<String>) {
        self.0.push((Grade::Error, line.into()));
    }

    /// What a check that the services make as well has said; `fine` is for when it has nothing against it.
    fn judge(&mut self, checked: Result<(), impl fmt::Display>, fine: impl Into<String>) {
        match checked {
            Ok(()) => self.fine(fine),
            Err(refusal) => self.error(refusal.to_string()),
        }
    }

    fn count(&self, grade: Grade) -> usize {
        self.0.iter().filter(|(found, _)| *found == grade).count()
    }
}

/// Checks everything, and prints a line for each check.
///
/// # Errors
/// How many errors there are, if any.
pub async fn run(settings: &Settings) -> Result<(), Stop> {
    let report = examine(settings).await;
    for line in report.lines() {
        println!("{line}");
    }
    match (report.count(Grade::Error), report.count(Grade::Warning)) {
        (0, _) => Ok(()),
        (errors, warnings) => {
            Err(Stop::Unfit(format!("{errors} errors, {warnings} warnings among {} checks", report.0.len())))
        }
    }
}

/// Checks everything that the settings name. It takes no longer than its slowest server may.
pub async fn examine(settings: &Settings) -> Report {
    let parts = tokio::join!(
        async { of_settings(settings) },
        bounded("PostgreSQL", postgres::check(settings)),
        bounded("Kafka", kafka::check(settings)),
        bounded("payments.url", party("payments", &settings.payments)),
        bounded("notifications.url", party("notifications", &settings.notifications)),
    );
    let (settings, postgres, kafka, payments, notifications) = parts;
    let mut whole = Report::default();
    for part in [settings, postgres, kafka, payments, notifications] {
        whole.0.extend(part.0);
    }
    whole
}

async fn bounded(what: &str, check: impl Future<Output = Report>) -> Report {
    timeout(PATIENCE, check).await.unwrap_or_else(|_| {
        let mut report = Report::default();
        report.error(format!(
            "{what}: not everything was answered within {PATIENCE:?}; see if it is overloaded"
        ));
        report
    })
}

/// What the roles would refuse to start with.
fn of_settings(settings: &Settings) -> Report {
    let mut report = Report::default();
    report.judge(settings.check_work(), "settings of workers and relay: within their bounds");
    report.judge(settings.check_gateway(), "settings of the gateway: within their bounds");
    match settings.keyring() {
        Ok(_) => report.fine("gateway.receipt_keys: usable"),
        Err(refusal) => report.warning(format!("{refusal} (only a gateway needs it)")),
    }
    if settings.worker.accepted_orders_may_be_lost {
        report.warning("worker.accepted_orders_may_be_lost is set: for development only (G11)");
    }
    report
}

/// A party outside. Any answer shows that it is there: it is asked for nothing that has an effect.
async fn party(name: &str, settings_of_party: &OutsideSettings) -> Report {
    let mut report = Report::default();
    let at = format!("{name}.url = {}", settings_of_party.url.origin());
    match Outside::new(name, settings_of_party) {
        Err(stop) => report.error(stop.to_string()),
        Ok(outside) => match outside.knock().await {
            Ok(status) => report.fine(format!("{at}: answers ({status})")),
            Err(why) => report.error(format!("{at}: {why}; is it up, and is that its address?")),
        },
    }
    report
}
