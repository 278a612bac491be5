//! One transaction, on a connection of its own.

use std::sync::Arc;

use async_trait::async_trait;
use stormglass_runtime::{Answer, Cause, Failure, RowSet, Session, Statement};
use tokio::time::timeout;

use super::{pool::Pooled, statements::Vocabulary};

/// An open transaction. Dropping it closes its connection.
pub(super) struct Transaction<R: RowSet> {
    /// `None` once the connection cannot be used any more.
    connection: Option<Pooled>,
    state: State,
    vocabulary: Arc<Vocabulary<R>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// A statement failed. The driver does not tell a COMMIT that was answered with ROLLBACK (D2), so none is sent: the
    /// transaction is rolled back at once, and its locks are free.
    RolledBack,
}

impl<R: RowSet> Transaction<R> {
    pub(super) fn new(connection: Pooled, vocabulary: Arc<Vocabulary<R>>) -> Self {
        Self { connection: Some(connection), state: State::Open, vocabulary }
    }

    /// Executes a statement. Until its answer has arrived the connection belongs to this call alone, so that dropping
    /// the future closes it: nobody may use a session whose last statement is in the unknown.
    async fn statement(&mut self, statement: Statement<R>) -> Result<Answer<R>, Failure> {
        let mut pooled = self.connection.take().ok_or(Failure::NotDone(Cause::Disconnected))?;
        let executed =
            timeout(pooled.answer_timeout(), self.vocabulary.execute(&mut pooled.connection, statement));
        let failure = match executed.await {
            Ok(Ok(answer)) => {
                self.connection = Some(pooled);
                return Ok(answer);
            }
            Ok(Err(failure)) => failure,
            Err(_) => Failure::NotDone(Cause::TimedOut),
        };
        self.state = State::RolledBack;
        if pooled.leads_nowhere_after(&failure) {
            pooled.close(&failure);
        } else {
            self.connection = rolled_back(pooled).await;
        }
        Err(failure)
    }
}

#[async_trait]
impl<R: RowSet> Session<R> for Transaction<R> {
    async fn execute(&mut self, statement: Statement<R>) -> Result<Answer<R>, Failure> {
        match (self.state, &self.connection) {
            (State::RolledBack, Some(_)) => Err(Failure::NotDone(Cause::Aborted)),
            (State::RolledBack, None) => Err(Failure::NotDone(Cause::Disconnected)),
            (State::Open, _) => self.statement(statement).await,
        }
    }

    async fn commit(mut self: Box<Self>) -> Result<(), Failure> {
        // Without a connection COMMIT was never sent.
        let mut pooled = self.connection.take().ok_or(Failure::NotDone(Cause::Disconnected))?;
        let limit = pooled.answer_timeout();
        match self.state {
            State::RolledBack => {
                pooled.give_back();
                Err(Failure::NotDone(Cause::Aborted))
            }
            State::Open if !pooled.is_current() => {
                // Another node was promoted meanwhile: what would be committed here is lost sooner or later.
                let failure = Failure::NotDone(Cause::ReadOnly);
                pooled.close(&failure);
                Err(failure)
            }
            State::Open => match pooled.run("COMMIT", limit).await {
                Ok(()) => {
                    pooled.give_back();
                    Ok(())
                }
                Err(stopped) => {
                    let failure = stopped.of_commit();
                    pooled.close(&failure);
                    Err(failure)
                }
            },
        }
    }

    async fn rollback(mut self: Box<Self>) {
        let Some(pooled) = self.connection.take() else { return };
        let clean = match self.state {
            State::RolledBack => Some(pooled),
            State::Open => rolled_back(pooled).await,
        };
        if let Some(clean) = clean {
            clean.give_back();
        }
    }
}

/// The connection after a rollback, unless that failed: then it is closed.
async fn rolled_back(mut pooled: Pooled) -> Option<Pooled> {
    let limit = pooled.answer_timeout();
    match pooled.run("ROLLBACK", limit).await {
        Ok(()) => Some(pooled),
        Err(stopped) => {
            pooled.close(&stopped.before_commit());
            None
        }
    }
}
