//! The stock on the shelves before the first order, and how it gets into the database.

use std::collections::BTreeMap;

use stormglass_embedded::{
    database::{self, Replication, Request, Response, Transaction},
    machine::{Call, Server},
};
use stormglass_orders::{
    Row, Stock,
    types::{Sku, Tenant},
};
use stormglass_runtime::{Image, RowSet, Statement, Timestamp};

use crate::{settings, shape::Shape, workload};

/// Units of each item at the start, by `tenant/sku`.
pub fn shelves(shape: &Shape) -> BTreeMap<String, i64> {
    let names = workload::TENANTS
        .iter()
        .flat_map(|tenant| (0..shape.skus).map(move |number| format!("{tenant}/{}", workload::sku(number))));
    names.map(|name| (name, shape.stock)).collect()
}

/// The row of one shelf, as the database stores it.
fn image(name: &str, units: i64) -> Option<Image> {
    let (tenant, sku) = name.split_once('/')?;
    let row = Stock::seed(&Tenant::new(tenant).ok()?, &Sku::new(sku).ok()?, units).ok()?;
    let key = row.key();
    let body = serde_json::to_string(&row).ok()?;
    Some(Image { table: Row::table(&key).to_owned(), key: Row::key_text(&key), body })
}

/// Puts the stock of every tenant on the shelves, in one transaction before the world begins.
///
/// # Panics
/// If the database does not take it: then there is no storm to raise.
pub fn fill(postgres: &Server<database::Cluster>, shape: &Shape, now: Timestamp) {
    let connection = postgres.connect(0);
    let ask =
        |number: u64, request: Request| postgres.call(now, Call { connection, number }, request).try_recv();
    // A synchronous COMMIT is answered once the replica has it, which takes time, and there is none yet.
    postgres.affect(|cluster| cluster.set_replication(Replication::Asynchronous));
    let rows: Vec<Image> =
        shelves(shape).into_iter().filter_map(|(name, units)| image(&name, units)).collect();
    let table = rows.first().map(|row| row.table.clone()).unwrap_or_default();
    let insert = Request::Execute {
        transaction: Transaction::Begin,
        statement: Statement::InsertRows { table, rows },
    };
    let done = [Request::Connect { application: "shelves".to_owned() }, insert, Request::Commit]
        .into_iter()
        .zip(0..)
        .map(|(request, number)| ask(number, request))
        .last();
    assert!(matches!(done, Some(Ok(Response::Committed))), "the stock was not taken: {done:?}");
    postgres.disconnect(now, connection);
    postgres.affect(|cluster| cluster.set_replication(settings::database(shape).replication));
}
