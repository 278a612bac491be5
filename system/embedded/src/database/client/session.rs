//! One transaction of a client.

use async_trait::async_trait;
use stormglass_runtime::{Answer, Cause, Failure, RowSet, Session, Statement};

use super::{images, pool::Pooled};
use crate::database::request::{Request, Response, Transaction};

/// A transaction on a connection of its own. Dropping it closes the connection.
pub(super) struct ClientSession {
    /// `None` once the connection cannot be used any more.
    connection: Option<Pooled>,
    begun: Begun,
}

enum Begun {
    /// BEGIN goes with the first statement.
    NotYet,
    Yes,
}

impl ClientSession {
    pub(super) fn new(connection: Pooled) -> Self {
        Self { connection: Some(connection), begun: Begun::NotYet }
    }

    /// Sends a request. Until its answer has arrived the connection belongs to this call alone, so that dropping the
    /// future closes it: nobody may use a session whose last statement is in the unknown.
    async fn request(&mut self, request: Request) -> Result<Response, Cause> {
        let connection = self.connection.take().ok_or(Cause::Disconnected)?;
        let response = connection.request(request).await?;
        self.connection = Some(connection);
        Ok(response)
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
        let statement = images::erased(statement)?;
        let transaction = match std::mem::replace(&mut self.begun, Begun::Yes) {
            Begun::NotYet => Transaction::Begin,
            Begun::Yes => Transaction::Continue,
        };
        let request = Request::Execute { transaction, statement };
        match self.request(request).await.map_err(Failure::NotDone)? {
            Response::Answer(answer) => images::answer(answer),
            Response::Error(error) => Err(error.failure()),
            _ => Err(Failure::NotDone(Cause::Protocol)),
        }
    }

    async fn commit(mut self: Box<Self>) -> Result<(), Failure> {
        if self.connection.is_none() {
            // COMMIT was never sent, and the server rolls back what it has.
            return Err(Failure::NotDone(Cause::Disconnected));
        }
        if let Begun::NotYet = self.begun {
            self.give_back();
            return Ok(());
        }
        match self.request(Request::Commit).await.map_err(Failure::Unknown)? {
            Response::Committed => {
                self.give_back();
                Ok(())
            }
            Response::RolledBack => {
                self.give_back();
                Err(Failure::NotDone(Cause::Aborted))
            }
            Response::Error(error) => Err(error.failure()),
            _ => Err(Failure::Unknown(Cause::Protocol)),
        }
    }

    async fn rollback(mut self: Box<Self>) {
        match self.begun {
            Begun::NotYet => self.give_back(),
            Begun::Yes => {
                if let Ok(Response::RolledBack) = self.request(Request::Rollback).await {
                    self.give_back();
                }
            }
        }
    }
}
