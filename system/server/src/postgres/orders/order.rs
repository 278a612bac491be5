//! Rows of `orders`.

use stormglass_orders::{
    Row,
    orders::{Achieved, Foretold, Order, OrderState, Placed, Progress},
    types::{Basket, BasketParts, Currency, Customer},
};

use super::{
    Cell, Cells, Column, ID, Kind, Misfit, TENANT, Table, column, fingerprint, json, list, maybe_text,
    parsed, subject, subject_cells, text, there, variant, word,
};

const COLUMNS: &[Column] = &[
    TENANT,
    ID,
    column("state", Kind::Text),
    column("foretold", Kind::Text),
    column("progress", Kind::Text),
    column("reason", Kind::Text),
    column("fingerprint", Kind::Uuid),
    column("customer", Kind::Text),
    column("currency", Kind::Text),
    column("lines", Kind::Json),
    column("total_minor", Kind::Bigint),
    column("placed_at_ms", Kind::Bigint),
    column("conflicts", Kind::Bigint),
    column("cancels_refused", Kind::Bigint),
];

pub(super) fn table() -> Table<Row> {
    Table { name: "orders", columns: COLUMNS, write, read }
}

fn write(row: &Row) -> Result<Vec<Cell>, Misfit> {
    let Row::Order(Order { subject, state, conflicts, cancels_refused }) = row else { return Err(Misfit) };
    let (mut foretold, mut progress, mut reason) = (None, None, None);
    let name = match state {
        OrderState::Foretold(heard) => {
            foretold = Some(achieved_name(heard.achieved));
            "foretold"
        }
        OrderState::Open { placed: _, progress: so_far } => {
            progress = Some(progress_name(*so_far));
            "open"
        }
        OrderState::Confirmed { placed: _ } => "confirmed",
        OrderState::Cancelled { placed: _, reason: why } => {
            reason = Some(word(why)?);
            "cancelled"
        }
    };
    let mut cells = subject_cells(subject).to_vec();
    cells.extend([text(name), maybe_text(foretold), maybe_text(progress), Cell::Text(reason)]);
    cells.extend(match (state, order_placed(state)) {
        (OrderState::Foretold(heard), _) => details(Some(heard.fingerprint.0), None)?,
        (_, Some(placed)) => details(Some(placed.fingerprint.0), Some(placed))?,
        (_, None) => details(None, None)?,
    });
    cells.extend([*conflicts, *cancels_refused].map(|count| Cell::Bigint(Some(i64::from(count)))));
    Ok(cells)
}

fn order_placed(state: &OrderState) -> Option<&Placed> {
    match state {
        OrderState::Foretold(_) => None,
        OrderState::Open { placed, .. } | OrderState::Confirmed { placed } => Some(placed),
        OrderState::Cancelled { placed, .. } => placed.as_ref(),
    }
}

/// What was ordered, whole or not at all.
fn details(fingerprint: Option<uuid::Uuid>, placed: Option<&Placed>) -> Result<[Cell; 6], Misfit> {
    let Some(Placed { fingerprint: _, basket, placed_at_ms }) = placed else {
        let nothing = (Cell::Text(None), Cell::Bigint(None));
        return Ok([
            Cell::Uuid(fingerprint),
            nothing.0.clone(),
            nothing.0.clone(),
            nothing.0,
            nothing.1.clone(),
            nothing.1,
        ]);
    };
    Ok([
        Cell::Uuid(fingerprint),
        text(basket.customer().as_str()),
        text(basket.total().currency.as_str()),
        json(&basket.lines())?,
        Cell::Bigint(Some(basket.total().minor)),
        Cell::Bigint(Some(*placed_at_ms)),
    ])
}

fn read(mut cells: Cells) -> Result<Row, Misfit> {
    let subject = subject(&mut cells)?;
    let state = there(cells.text()?)?;
    let (foretold, progress, reason) = (cells.text()?, cells.text()?, cells.text()?);
    let of = cells.uuid()?;
    let placed = placed(&mut cells, of)?;
    let state = match state.as_str() {
        "foretold" => {
            let achieved = parsed(foretold, achieved)?;
            OrderState::Foretold(Foretold { fingerprint: fingerprint(of)?, achieved })
        }
        "open" => OrderState::Open { placed: there(placed)?, progress: parsed(progress, self::progress)? },
        "confirmed" => OrderState::Confirmed { placed: there(placed)? },
        "cancelled" => OrderState::Cancelled { placed, reason: variant(reason)? },
        _ => return Err(Misfit),
    };
    let conflicts = count(cells.bigint()?)?;
    let cancels_refused = count(cells.bigint()?)?;
    Ok(Row::Order(Order { subject, state, conflicts, cancels_refused }))
}

/// Its total is not read: it follows from the lines.
fn placed(cells: &mut Cells, of: Option<uuid::Uuid>) -> Result<Option<Placed>, Misfit> {
    let (customer, currency, lines) = (cells.text()?, cells.text()?, cells.text()?);
    let (_total_minor, placed_at_ms) = (cells.bigint()?, cells.bigint()?);
    let Some(placed_at_ms) = placed_at_ms else { return Ok(None) };
    let parts = BasketParts {
        customer: parsed(customer, Customer::new)?,
        currency: parsed(currency, Currency::new)?,
        lines: list(lines)?,
    };
    let basket = Basket::try_from(parts).map_err(|_| Misfit)?;
    Ok(Some(Placed { fingerprint: fingerprint(of)?, basket, placed_at_ms }))
}

fn count(cell: Option<i64>) -> Result<u32, Misfit> {
    u32::try_from(there(cell)?).map_err(|_| Misfit)
}

fn achieved_name(achieved: Achieved) -> &'static str {
    match achieved {
        Achieved::Paid => "paid",
        Achieved::Reserved => "reserved",
        Achieved::Both => "both",
    }
}

fn achieved(name: &str) -> Result<Achieved, Misfit> {
    let all = [Achieved::Paid, Achieved::Reserved, Achieved::Both];
    all.into_iter().find(|achieved| achieved_name(*achieved) == name).ok_or(Misfit)
}

fn progress_name(progress: Progress) -> &'static str {
    match progress {
        Progress::Nothing => "nothing",
        Progress::Paid => "paid",
        Progress::Reserved => "reserved",
    }
}

fn progress(name: &str) -> Result<Progress, Misfit> {
    let all = [Progress::Nothing, Progress::Paid, Progress::Reserved];
    all.into_iter().find(|progress| progress_name(*progress) == name).ok_or(Misfit)
}
