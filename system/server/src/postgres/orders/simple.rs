//! Rows of `stock` and `messages`: a column for each field.

use stormglass_orders::{
    Row,
    inventory::Stock,
    notifications::{Message, MessageState},
    types::{Reference, Sku, Tenant},
};

use super::{
    Cell, Cells, Column, ID, Kind, Misfit, TENANT, Table, column, maybe_text, parsed, subject, subject_cells,
    text, there, variant,
};

const STOCK: &[Column] = &[
    TENANT,
    column("sku", Kind::Text),
    column("available", Kind::Bigint),
    column("reserved", Kind::Bigint),
    column("sold", Kind::Bigint),
];

pub(super) fn stock() -> Table<Row> {
    Table { name: "stock", columns: STOCK, write: write_stock, read: read_stock }
}

fn write_stock(row: &Row) -> Result<Vec<Cell>, Misfit> {
    let Row::Stock(Stock { tenant, sku, available, reserved, sold }) = row else { return Err(Misfit) };
    let mut cells = vec![text(tenant.as_str()), text(sku.as_str())];
    cells.extend([*available, *reserved, *sold].map(|count| Cell::Bigint(Some(count))));
    Ok(cells)
}

fn read_stock(mut cells: Cells) -> Result<Row, Misfit> {
    let (tenant, sku) = (parsed(cells.text()?, Tenant::new)?, parsed(cells.text()?, Sku::new)?);
    let mut count = || there(cells.bigint()?);
    let (available, reserved, sold) = (count()?, count()?, count()?);
    Ok(Row::Stock(Stock { tenant, sku, available, reserved, sold }))
}

const MESSAGES: &[Column] =
    &[TENANT, ID, column("kind", Kind::Text), column("state", Kind::Text), column("reference", Kind::Text)];

pub(super) fn messages() -> Table<Row> {
    Table { name: "messages", columns: MESSAGES, write: write_message, read: read_message }
}

fn write_message(row: &Row) -> Result<Vec<Cell>, Misfit> {
    let Row::Message(Message { subject, kind, state }) = row else { return Err(Misfit) };
    let (state, reference) = match state {
        MessageState::Sent(reference) => ("sent", Some(reference.as_str())),
        MessageState::Undelivered => ("undelivered", None),
    };
    let mut cells = subject_cells(subject).to_vec();
    cells.extend([text(kind.as_str()), text(state), maybe_text(reference)]);
    Ok(cells)
}

fn read_message(mut cells: Cells) -> Result<Row, Misfit> {
    let subject = subject(&mut cells)?;
    let kind = variant(cells.text()?)?;
    let (state, reference) = (there(cells.text()?)?, cells.text()?);
    let state = match state.as_str() {
        "sent" => MessageState::Sent(parsed(reference, Reference::new)?),
        "undelivered" => MessageState::Undelivered,
        _ => return Err(Misfit),
    };
    Ok(Row::Message(Message { subject, kind, state }))
}
