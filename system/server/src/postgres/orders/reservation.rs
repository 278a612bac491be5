//! Rows of `reservations`.

use stormglass_orders::{
    Row,
    events::ShortageReason,
    inventory::{Reservation, ReservationState},
    types::{Item, Sku},
};

use super::{
    Cell, Cells, Column, ID, Kind, Misfit, TENANT, Table, column, json, list, maybe_text, parsed, subject,
    subject_cells, text, there,
};

const COLUMNS: &[Column] = &[
    TENANT,
    ID,
    column("state", Kind::Text),
    column("reason", Kind::Text),
    column("reason_sku", Kind::Text),
    column("items", Kind::Json),
];

pub(super) fn table() -> Table<Row> {
    Table { name: "reservations", columns: COLUMNS, write, read }
}

fn write(row: &Row) -> Result<Vec<Cell>, Misfit> {
    let Row::Reservation(Reservation { subject, state }) = row else { return Err(Misfit) };
    let (name, reason, items): (_, _, Option<&Vec<Item>>) = match state {
        ReservationState::Barred => ("barred", None, None),
        ReservationState::Rejected(reason) => ("rejected", Some(reason), None),
        ReservationState::Reserved(items) => ("reserved", None, Some(items)),
        ReservationState::Sold(items) => ("sold", None, Some(items)),
        ReservationState::Released(items) => ("released", None, Some(items)),
    };
    let (reason, sku) = match reason {
        None => (None, None),
        Some(ShortageReason::UnknownSku(sku)) => (Some("unknown-sku"), Some(sku.as_str())),
        Some(ShortageReason::SoldOut(sku)) => (Some("sold-out"), Some(sku.as_str())),
        Some(ShortageReason::GaveUp) => (Some("gave-up"), None),
    };
    let mut cells = subject_cells(subject).to_vec();
    cells.extend([text(name), maybe_text(reason), maybe_text(sku)]);
    cells.push(items.map_or(Ok(Cell::Text(None)), json)?);
    Ok(cells)
}

fn read(mut cells: Cells) -> Result<Row, Misfit> {
    let subject = subject(&mut cells)?;
    let state = there(cells.text()?)?;
    let (reason, sku, items) = (cells.text()?, cells.text()?, cells.text()?);
    let state = match state.as_str() {
        "barred" => ReservationState::Barred,
        "rejected" => ReservationState::Rejected(match reason.as_deref() {
            Some("unknown-sku") => ShortageReason::UnknownSku(parsed(sku, Sku::new)?),
            Some("sold-out") => ShortageReason::SoldOut(parsed(sku, Sku::new)?),
            Some("gave-up") => ShortageReason::GaveUp,
            _ => return Err(Misfit),
        }),
        "reserved" => ReservationState::Reserved(list(items)?),
        "sold" => ReservationState::Sold(list(items)?),
        "released" => ReservationState::Released(list(items)?),
        _ => return Err(Misfit),
    };
    Ok(Row::Reservation(Reservation { subject, state }))
}
