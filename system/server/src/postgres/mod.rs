//! The `Database`, `Session` and `Reader` ports on PostgreSQL.
//!
//! The adapter is thin on purpose: a statement of the port is a statement of SQL, a transaction of the port is one on
//! the server, and what can be decided is decided above the port. What it adds is what only it can know: which node is
//! the primary, which replica is fresh enough, and whether a failure leaves the outcome open. It leaves out waiting and
//! repeating, which are the runtime's.

mod config;
mod failure;
pub mod orders;
mod place;
mod pool;
pub(crate) mod primary;
mod reader;
mod session;
mod sql;
mod statements;
mod tables;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use stormglass_runtime::{Database, Failure, Freshness, Reader, RowSet, Scan, Session, Versioned};

pub use self::{
    config::Config,
    primary::SilentNodes,
    tables::{Cell, Cells, Column, Kind, Misfit, Table, Tables},
};
use self::{
    pool::Pool,
    primary::Newest,
    reader::{Question, Replicas, Wanted},
    session::Transaction,
    statements::Vocabulary,
};

/// A client of one PostgreSQL cluster, for one row set.
pub struct Client<R: RowSet> {
    primary: Arc<Pool>,
    replicas: Replicas,
    vocabulary: Arc<Vocabulary<R>>,
}

impl<R: RowSet> Client<R> {
    /// A client that connects when it is first used. Its tables are as `migrations/` makes them.
    pub fn new(config: &Config, tables: Tables<R>) -> Self {
        let newest = Arc::new(Newest::default());
        Self {
            primary: Pool::of_primary(config, &newest),
            replicas: Replicas::new(config, &newest),
            vocabulary: Arc::new(Vocabulary {
                tables,
                record_bytes_max: config.record_bytes_max,
                topics: config.topics.clone(),
            }),
        }
    }

    /// The text of every statement that it executes, by name: for whoever wants to see their plans.
    pub fn statements(&self) -> BTreeMap<String, String> {
        let runtime = sql::RUNTIME.iter().map(|(name, sql)| ((*name).to_owned(), (*sql).to_owned()));
        runtime.chain(self.vocabulary.tables.statements().map(|(name, sql)| (name, sql.to_owned()))).collect()
    }
}

#[async_trait]
impl<R: RowSet> Database<R> for Client<R> {
    async fn begin(&self) -> Result<Box<dyn Session<R>>, Failure> {
        self.replicas.survey();
        let connection = self.primary.begin().await?;
        Ok(Box::new(Transaction::new(connection, Arc::clone(&self.vocabulary))))
    }
}

#[async_trait]
impl<R: RowSet> Reader<R> for Client<R> {
    async fn read(
        &self,
        keys: Vec<R::Key>,
        at_least: Option<Freshness>,
    ) -> Result<(Vec<Versioned<R>>, Freshness), Failure> {
        let mut by_table: BTreeMap<String, Vec<R::Key>> = BTreeMap::new();
        for key in keys {
            by_table.entry(R::table(&key).to_owned()).or_default().push(key);
        }
        let wanted = Wanted::Rows(by_table.into_iter().collect());
        self.replicas.read(&Question { tables: &self.vocabulary.tables, wanted, at_least }).await
    }

    async fn scan(
        &self,
        scan: Scan,
        at_least: Option<Freshness>,
    ) -> Result<(Vec<Versioned<R>>, Freshness), Failure> {
        let wanted = Wanted::Page(scan);
        self.replicas.read(&Question { tables: &self.vocabulary.tables, wanted, at_least }).await
    }
}
