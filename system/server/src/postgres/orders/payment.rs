//! Rows of `payments`.

use stormglass_orders::{
    Row,
    payments::{Capture, Payment, PaymentState},
    types::{Customer, Reference},
};

use super::{
    Cell, Cells, Column, ID, Kind, Misfit, TENANT, Table, column, fingerprint, maybe_text, money, parsed,
    subject, subject_cells, text, there, variant, word,
};

const COLUMNS: &[Column] = &[
    TENANT,
    ID,
    column("state", Kind::Text),
    column("fingerprint", Kind::Uuid),
    column("reason", Kind::Text),
    column("customer", Kind::Text),
    column("currency", Kind::Text),
    column("amount_minor", Kind::Bigint),
    column("charge", Kind::Text),
    column("refund", Kind::Text),
];

pub(super) fn table() -> Table<Row> {
    Table { name: "payments", columns: COLUMNS, write, read }
}

fn write(row: &Row) -> Result<Vec<Cell>, Misfit> {
    let Row::Payment(Payment { subject, state }) = row else { return Err(Misfit) };
    let (mut asked, mut reason, mut capture, mut refund) = (None, None, None, None);
    let name = match state {
        PaymentState::Void => "void",
        PaymentState::Asked(of) => {
            asked = Some(of.0);
            "asked"
        }
        PaymentState::Declined(why) => {
            reason = Some(word(why)?);
            "declined"
        }
        PaymentState::Captured(taken) => {
            capture = Some(taken);
            "captured"
        }
        PaymentState::RefundOwed(taken) => {
            capture = Some(taken);
            "refund-owed"
        }
        PaymentState::Refunded { capture: taken, refund: given_back } => {
            (capture, refund) = (Some(taken), Some(given_back));
            "refunded"
        }
    };
    let mut cells = subject_cells(subject).to_vec();
    cells.extend([text(name), Cell::Uuid(asked), Cell::Text(reason)]);
    cells.extend([
        maybe_text(capture.map(|capture| capture.customer.as_str())),
        maybe_text(capture.map(|capture| capture.amount.currency.as_str())),
        Cell::Bigint(capture.map(|capture| capture.amount.minor)),
        maybe_text(capture.map(|capture| capture.charge.as_str())),
        maybe_text(refund.map(Reference::as_str)),
    ]);
    Ok(cells)
}

fn read(mut cells: Cells) -> Result<Row, Misfit> {
    let subject = subject(&mut cells)?;
    let state = there(cells.text()?)?;
    let (asked, reason) = (cells.uuid()?, cells.text()?);
    let capture = capture(&mut cells)?;
    let refund = cells.text()?;
    let state = match state.as_str() {
        "void" => PaymentState::Void,
        "asked" => PaymentState::Asked(fingerprint(asked)?),
        "declined" => PaymentState::Declined(variant(reason)?),
        "captured" => PaymentState::Captured(there(capture)?),
        "refund-owed" => PaymentState::RefundOwed(there(capture)?),
        "refunded" => {
            PaymentState::Refunded { capture: there(capture)?, refund: parsed(refund, Reference::new)? }
        }
        _ => return Err(Misfit),
    };
    Ok(Row::Payment(Payment { subject, state }))
}

fn capture(cells: &mut Cells) -> Result<Option<Capture>, Misfit> {
    let (customer, currency, minor, charge) = (cells.text()?, cells.text()?, cells.bigint()?, cells.text()?);
    if charge.is_none() {
        return Ok(None);
    }
    let (customer, charge) = (parsed(customer, Customer::new)?, parsed(charge, Reference::new)?);
    Ok(Some(Capture { customer, amount: money(minor, currency)?, charge }))
}
