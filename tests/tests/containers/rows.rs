//! The order services' rows in their typed tables: each state goes in and comes out as it was, through every statement.

use std::sync::Arc;

use stormglass_orders::{
    Row, RowKey, Subject,
    events::{CancelReason, DeclineReason, ShortageReason},
    inventory::{Reservation, ReservationState, Stock},
    notifications::{Message, MessageState, NoticeKind},
    orders::{Achieved, Foretold, Order, OrderState, Placed, Progress},
    payments::{Capture, Payment, PaymentState},
    types::{
        Basket, BasketParts, Currency, Customer, Fingerprint, Item, Line, Money, OrderId, Quantity,
        Reference, Sku, Tenant,
    },
};
use stormglass_runtime::{Database, Reader, RowSet, Scan, Session, Statement, Versioned};
use stormglass_server::postgres::{Client, Config, orders};
use uuid::Uuid;

use crate::{engine, migrations::migrate};

#[tokio::test]
async fn every_state_of_every_row_is_read_as_it_was_written() {
    let Some(postgres) = engine::postgres("typed rows").await else { return };
    migrate(&mut postgres.connect().await).await;
    let config = Config::new(vec![postgres.options().await]);
    let client = Arc::new(Client::<Row>::new(&config, orders::tables()));
    for rows in [orders_rows(), payments(), reservations(), stock(), messages()] {
        inserted_and_updated(&client, rows).await;
    }
}

/// Each row under a key of its own, then each in the place of the one before it.
async fn inserted_and_updated(client: &Client<Row>, rows: Vec<Row>) {
    let table = Row::table(&rows[0].key()).to_owned();
    let first = rows[0].clone();
    let keys: Vec<RowKey> = rows.iter().map(Row::key).collect();
    let mut session = client.begin().await.expect("a connection is free");
    let insert = Statement::InsertRows { table: table.clone(), rows: rows.clone() };
    assert_eq!(session.count(insert).await, Ok(rows.len() as u64), "{table}");
    assert_eq!(sorted(locked(&mut session, &table, keys.clone()).await), at(1, rows.clone()), "{table}");
    for (version, next) in (1..).zip(&rows[1..]) {
        let row = Versioned { row: moved(next, &first), version };
        let update = Statement::UpdateRows { table: table.clone(), rows: vec![row.clone()] };
        assert_eq!(session.count(update).await, Ok(1), "{table}");
        let updated = locked(&mut session, &table, vec![first.key()]).await;
        assert_eq!(updated, [Versioned { version: row.version + 1, ..row }], "{table}");
    }
    session.commit().await.expect("nothing stands in the way");

    let (read, token) = client.read(keys, None).await.expect("the server answers");
    assert_eq!(read.len(), rows.len(), "{table}");
    let scan = Scan { table: table.clone(), prefix: "acme/".to_owned(), after: None, limit: 100 };
    let (page, _) = client.scan(scan, Some(token)).await.expect("the server answers");
    assert_eq!(page, read, "{table}");
}

async fn locked(session: &mut Box<dyn Session<Row>>, table: &str, keys: Vec<RowKey>) -> Vec<Versioned<Row>> {
    session.rows(Statement::LockRows { table: table.to_owned(), keys }).await.expect("nobody holds them")
}

fn at(version: i64, rows: Vec<Row>) -> Vec<Versioned<Row>> {
    sorted(rows.into_iter().map(|row| Versioned { row, version }).collect())
}

fn sorted(mut rows: Vec<Versioned<Row>>) -> Vec<Versioned<Row>> {
    rows.sort_by_key(|row| row.row.key());
    rows
}

/// `row` under the key of `of`.
fn moved(row: &Row, of: &Row) -> Row {
    match (row.clone(), of) {
        (Row::Order(row), Row::Order(of)) => Row::Order(Order { subject: of.subject.clone(), ..row }),
        (Row::Payment(row), Row::Payment(of)) => Row::Payment(Payment { subject: of.subject.clone(), ..row }),
        (Row::Reservation(row), Row::Reservation(of)) => {
            Row::Reservation(Reservation { subject: of.subject.clone(), ..row })
        }
        (Row::Stock(row), Row::Stock(of)) => Row::Stock(Stock { sku: of.sku.clone(), ..row }),
        (Row::Message(row), Row::Message(of)) => {
            Row::Message(Message { subject: of.subject.clone(), kind: of.kind, ..row })
        }
        (row, _) => row,
    }
}

fn tenant() -> Tenant {
    Tenant::new("acme").expect("valid")
}

fn subject(number: usize) -> Subject {
    Subject { tenant: tenant(), order: OrderId::derive(&tenant(), &number.to_string()) }
}

fn sku(name: &str) -> Sku {
    Sku::new(name).expect("valid")
}

fn reference(name: &str) -> Reference {
    Reference::new(name).expect("valid")
}

fn items() -> Vec<Item> {
    ["a", "b"].map(|name| Item { sku: sku(name), quantity: Quantity::new(3).expect("valid") }).to_vec()
}

fn orders_rows() -> Vec<Row> {
    let fingerprint = Fingerprint(Uuid::from_u128(7));
    let line = |item: Item| Line { sku: item.sku, quantity: item.quantity, unit_price_minor: 1_250 };
    let parts = BasketParts {
        customer: Customer::new("ada").expect("valid"),
        currency: Currency::new("EUR").expect("valid"),
        lines: items().into_iter().map(line).collect(),
    };
    let basket = Basket::try_from(parts).expect("valid");
    let placed = Placed { fingerprint, basket, placed_at_ms: 1_700_000_000_123 };
    let foretold = |achieved| OrderState::Foretold(Foretold { fingerprint, achieved });
    let open = |progress| OrderState::Open { placed: placed.clone(), progress };
    let mut states = vec![foretold(Achieved::Paid), foretold(Achieved::Reserved), foretold(Achieved::Both)];
    states.extend([open(Progress::Nothing), open(Progress::Paid), open(Progress::Reserved)]);
    states.push(OrderState::Confirmed { placed: placed.clone() });
    for reason in [
        CancelReason::Requested,
        CancelReason::NotPaid,
        CancelReason::OutOfStock,
        CancelReason::Deadline,
        CancelReason::Conflict,
        CancelReason::Failed,
    ] {
        states.push(OrderState::Cancelled { placed: Some(placed.clone()), reason });
        states.push(OrderState::Cancelled { placed: None, reason });
    }
    let order = |(number, state)| {
        let subject = subject(number);
        Row::Order(Order { subject, state, conflicts: u32::MAX, cancels_refused: 3 })
    };
    states.into_iter().enumerate().map(order).collect()
}

fn payments() -> Vec<Row> {
    let capture = Capture {
        customer: Customer::new("ada").expect("valid"),
        amount: Money { minor: i64::MAX, currency: Currency::new("JPY").expect("valid") },
        charge: reference("ch-1"),
    };
    let states = [
        PaymentState::Void,
        PaymentState::Asked(Fingerprint(Uuid::from_u128(9))),
        PaymentState::Declined(DeclineReason::Refused),
        PaymentState::Declined(DeclineReason::GaveUp),
        PaymentState::Captured(capture.clone()),
        PaymentState::RefundOwed(capture.clone()),
        PaymentState::Refunded { capture, refund: reference("re-1") },
    ];
    let payment = |(number, state)| Row::Payment(Payment { subject: subject(number), state });
    states.into_iter().enumerate().map(payment).collect()
}

fn reservations() -> Vec<Row> {
    let states = [
        ReservationState::Barred,
        ReservationState::Rejected(ShortageReason::UnknownSku(sku("x"))),
        ReservationState::Rejected(ShortageReason::SoldOut(sku("y"))),
        ReservationState::Rejected(ShortageReason::GaveUp),
        ReservationState::Reserved(items()),
        ReservationState::Sold(items()),
        ReservationState::Released(items()),
    ];
    let reservation = |(number, state)| Row::Reservation(Reservation { subject: subject(number), state });
    states.into_iter().enumerate().map(reservation).collect()
}

fn stock() -> Vec<Row> {
    let stock = |(name, available)| {
        Row::Stock(Stock { tenant: tenant(), sku: sku(name), available, reserved: 2, sold: 3 })
    };
    [("a", 0), ("B", i64::MAX - 5), ("c-9", 17)].map(stock).to_vec()
}

fn messages() -> Vec<Row> {
    let kinds = [NoticeKind::Cancelled, NoticeKind::Confirmed, NoticeKind::Refunded];
    let states = [MessageState::Sent(reference("m-1")), MessageState::Undelivered];
    let message = |number: usize| {
        let (kind, state) = (kinds[number % 3], states[number % 2].clone());
        Row::Message(Message { subject: subject(number), kind, state })
    };
    (0..6).map(message).collect()
}
