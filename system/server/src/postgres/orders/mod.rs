//! The order services' rows in the typed tables of `migrations/0002_orders.sql`.
//!
//! A lifecycle is an enum there and columns here; what a state does not have is NULL. The schema's constraints say which
//! combinations exist, and reading refuses any other.

mod order;
mod payment;
mod reservation;
mod simple;

use serde::{Serialize, de::DeserializeOwned};
use stormglass_orders::{
    Row, Subject,
    types::{Currency, Fingerprint, Money, OrderId, Tenant},
};
use uuid::Uuid;

use super::tables::{Cell, Cells, Column, Kind, Misfit, Table, Tables};

/// All five tables.
pub fn tables() -> Tables<Row> {
    Tables::new(vec![
        order::table(),
        payment::table(),
        reservation::table(),
        simple::stock(),
        simple::messages(),
    ])
}

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind }
}

/// The columns that every row of an order begins with.
const TENANT: Column = column("tenant", Kind::Text);
const ID: Column = column("id", Kind::Uuid);

fn text(text: &str) -> Cell {
    Cell::Text(Some(text.to_owned()))
}

fn maybe_text(text: Option<&str>) -> Cell {
    Cell::Text(text.map(str::to_owned))
}

fn subject_cells(subject: &Subject) -> [Cell; 2] {
    [text(subject.tenant.as_str()), Cell::Uuid(Some(subject.order.0))]
}

fn subject(cells: &mut Cells) -> Result<Subject, Misfit> {
    let tenant = Tenant::new(&there(cells.text()?)?).map_err(|_| Misfit)?;
    Ok(Subject { tenant, order: OrderId(there(cells.uuid()?)?) })
}

fn fingerprint(id: Option<Uuid>) -> Result<Fingerprint, Misfit> {
    there(id).map(Fingerprint)
}

fn money(minor: Option<i64>, currency: Option<String>) -> Result<Money, Misfit> {
    Ok(Money { minor: there(minor)?, currency: Currency::new(&there(currency)?).map_err(|_| Misfit)? })
}

/// What a state must have.
fn there<T>(cell: Option<T>) -> Result<T, Misfit> {
    cell.ok_or(Misfit)
}

/// A text of the domain, by its own rules.
fn parsed<T, E>(cell: Option<String>, parse: impl FnOnce(&str) -> Result<T, E>) -> Result<T, Misfit> {
    parse(&there(cell)?).map_err(|_| Misfit)
}

/// A variant without data, by the name that serde gives it.
fn word<T: Serialize>(variant: T) -> Result<String, Misfit> {
    match serde_json::to_value(variant) {
        Ok(serde_json::Value::String(name)) => Ok(name),
        _ => Err(Misfit),
    }
}

/// The variant of that name.
fn variant<T: DeserializeOwned>(name: Option<String>) -> Result<T, Misfit> {
    serde_json::from_value(there(name)?.into()).map_err(|_| Misfit)
}

/// A list, read and written whole.
fn json<T: Serialize>(list: &T) -> Result<Cell, Misfit> {
    serde_json::to_string(list).map(|json| Cell::Text(Some(json))).map_err(|_| Misfit)
}

/// That list.
fn list<T: DeserializeOwned>(json: Option<String>) -> Result<T, Misfit> {
    serde_json::from_str(&there(json)?).map_err(|_| Misfit)
}
