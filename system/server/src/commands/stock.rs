//! `stock`: puts units on a shelf. Inventory itself only reserves, sells and releases them.

use clap::{Args, Subcommand};
use stormglass_orders::{
    Row, RowKey, Stock,
    types::{Invalid, Sku, Tenant},
};
use stormglass_runtime::{Cause, Database, Failure, Reason, RowSet, Session, Statement, Versioned};

use crate::{real, settings::Settings, stop::Stop};

/// What to do.
#[derive(Debug, Subcommand)]
pub enum StockCommand {
    /// Adds units to what is available of one SKU.
    Add(Delivery),
}

/// Units that have arrived.
#[derive(Clone, Debug, Args)]
pub struct Delivery {
    /// Whose.
    #[arg(long, value_parser = tenant)]
    tenant: Tenant,
    /// Of what.
    #[arg(long, value_parser = sku)]
    sku: Sku,
    /// How many; at least 1.
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    units: i64,
    /// Only if there is no such shelf yet: a repeat then changes nothing.
    #[arg(long)]
    if_new: bool,
}

fn tenant(text: &str) -> Result<Tenant, Invalid> {
    Tenant::new(text)
}

fn sku(text: &str) -> Result<Sku, Invalid> {
    Sku::new(text)
}

/// Does it.
///
/// # Errors
/// If the database cannot be reached, or the shelf cannot hold so many.
pub async fn run(command: &StockCommand, settings: &Settings) -> Result<(), Stop> {
    let StockCommand::Add(delivery) = command;
    let database = real::database(settings).await?;
    let shelf = add(&*database, delivery).await.map_err(|failure| Stop::of("adding stock", &failure))?;
    println!("{}/{}: {} available", delivery.tenant.as_str(), delivery.sku.as_str(), shelf.available);
    Ok(())
}

/// Adds the units in one transaction; answers with what is on the shelf then. After `Unknown` look before repeating it,
/// unless it is only for a new shelf.
async fn add(database: &dyn Database<Row>, delivery: &Delivery) -> Result<Stock, Failure> {
    let mut session = database.begin().await?;
    let shelf = put(&mut session, delivery).await;
    match shelf {
        Ok(shelf) => session.commit().await.map(|()| shelf),
        Err(failure) => {
            session.rollback().await;
            Err(failure)
        }
    }
}

async fn put(session: &mut Box<dyn Session<Row>>, delivery: &Delivery) -> Result<Stock, Failure> {
    let Delivery { tenant, sku, units, if_new } = delivery.clone();
    let key = RowKey::Stock(tenant.clone(), sku.clone());
    let table = Row::table(&key).to_owned();
    let empty = Stock { tenant, sku, available: 0, reserved: 0, sold: 0 };
    let rows = vec![Row::Stock(empty)];
    let made = session.count(Statement::InsertRows { table: table.clone(), rows }).await?;
    let locked = session.rows(Statement::LockRows { table: table.clone(), keys: vec![key] }).await?;
    let Some(Versioned { row: Row::Stock(mut shelf), version }) = locked.into_iter().next() else {
        return Err(Failure::NotDone(Cause::Protocol));
    };
    if if_new && made == 0 {
        return Ok(shelf);
    }
    let sum = shelf.available.checked_add(units).ok_or_else(|| {
        Failure::Rejected(Reason::InvalidValue("more units than a shelf can count".to_owned()))
    })?;
    shelf.available = sum;
    let row = Versioned { row: Row::Stock(shelf.clone()), version };
    match session.count(Statement::UpdateRows { table, rows: vec![row] }).await? {
        1 => Ok(shelf),
        _ => Err(Failure::NotDone(Cause::Conflict)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use stormglass_embedded::database::{self, Config, Schema};

    use super::*;
    use crate::host::SystemClock;

    fn delivery(units: i64) -> Delivery {
        let (tenant, sku) = (Tenant::new("acme").unwrap(), Sku::new("umbrella").unwrap());
        Delivery { tenant, sku, units, if_new: false }
    }

    #[tokio::test]
    async fn units_add_up_and_too_many_are_refused_whole() {
        let (_server, database) =
            database::embedded(Schema::of::<Row>(), Config::default(), Arc::new(SystemClock));
        for expected in [5, 10] {
            assert_eq!(add(&*database, &delivery(5)).await.unwrap().available, expected);
        }
        assert!(matches!(add(&*database, &delivery(i64::MAX)).await, Err(Failure::Rejected(_))));
        assert_eq!(add(&*database, &delivery(1)).await.unwrap().available, 11);
    }

    #[tokio::test]
    async fn units_for_a_new_shelf_are_added_once() {
        let (_server, database) =
            database::embedded(Schema::of::<Row>(), Config::default(), Arc::new(SystemClock));
        let first = Delivery { if_new: true, ..delivery(5) };
        for _ in 0..2 {
            assert_eq!(add(&*database, &first).await.unwrap().available, 5);
        }
        assert_eq!(add(&*database, &delivery(5)).await.unwrap().available, 10);
        assert_eq!(add(&*database, &first).await.unwrap().available, 10);
    }
}
