//! One transaction of a client.

use async_trait::async_trait;
use stormglass_runtime::{Answer, Cause, Failure, Image, RowSet, Session, Statement};

use super::{images, pool::Pooled};
use crate::database::request::{Request, Response, Transaction};

/// A transaction on a connection of its own. Dropping it closes the connection.
pub(super) struct ClientSession {
    /// `None` once the connection cannot be used any more.
    connection: Option<Pooled>,
    progress: Progress,
}

enum Progress {
    /// BEGIN goes with the first statement.
    NotBegun,
    Open,
    /// The server has answered an error: whatever becomes of a COMMIT, nothing is committed (D2).
    Failed,
}

impl ClientSession {
    pub(super) fn new(connection: Pooled) -> Self {
        Self { connection: Some(connection), progress: Progress::NotBegun }
    }

    /// Sends a request. Until its answer has arrived the connection belongs to this call alone, so that dropping the
    /// future closes it: nobody may use a session whose last statement is in the unknown.
    async fn request(&mut self, request: Request) -> Result<Response, Cause> {
        let connection = self.connection.take().ok_or(Cause::Disconnected)?;
        let response = connection.request(request).await?;
        self.connection = Some(connection);
        Ok(response)
    }

    async fn statement(&mut self, statement: Statement<Image>) -> Result<Response, Failure> {
        let transaction = match self.progress {
            Progress::NotBegun => Transaction::Begin,
            Progress::Open | Progress::Failed => Transaction::Continue,
        };
        let response = self.request(Request::Execute { transaction, statement }).await;
        if let Progress::NotBegun = self.progress {
            self.progress = Progress::Open;
        }
        response.map_err(Failure::NotDone)
    }

    fn give_back(self) {
        if let Some(connection) = self.connection {
            connection.give_back();
        }
    }
}

#[async_trait]
impl<R: RowSet> Session<R> for ClientSession {
    async fn execute(&mut self, statement: Statement<R>) -> Result<Answer<R>, Failure> {
        let executed = match images::erased(statement) {
            Ok(statement) => self.statement(statement).await,
            Err(failure) => Err(failure),
        };
        match executed {
            Ok(Response::Error(error)) => {
                self.progress = Progress::Failed;
                Err(error.failure())
            }
            Ok(Response::Answer(answer)) => images::answer(answer).inspect_err(|_| self.connection = None),
            Ok(_) => {
                self.connection = None;
                Err(Failure::NotDone(Cause::Protocol))
            }
            // The server does not know that this transaction has failed: closing the connection tells it.
            Err(failure) => {
                self.connection = None;
                Err(failure)
            }
        }
    }

    async fn commit(mut self: Box<Self>) -> Result<(), Failure> {
        let lost: fn(Cause) -> Failure = match self.progress {
            // COMMIT was never sent, or there is nothing to commit.
            _ if self.connection.is_none() => return Err(Failure::NotDone(Cause::Disconnected)),
            Progress::NotBegun => {
                self.give_back();
                return Ok(());
            }
            Progress::Open => Failure::Unknown,
            Progress::Failed => Failure::NotDone,
        };
        match self.request(Request::Commit).await.map_err(lost)? {
            Response::Committed => {
                self.give_back();
                Ok(())
            }
            Response::RolledBack => {
                self.give_back();
                Err(Failure::NotDone(Cause::Aborted))
            }
            Response::Error(error) => Err(error.failure()),
            _ => Err(lost(Cause::Protocol)),
        }
    }

    async fn rollback(mut self: Box<Self>) {
        match self.progress {
            Progress::NotBegun => self.give_back(),
            Progress::Open | Progress::Failed => {
                if let Ok(Response::RolledBack) = self.request(Request::Rollback).await {
                    self.give_back();
                }
            }
        }
    }
}
