//! Records that lie, each in one way, and the invariant that must notice: a checker that cannot fail holds nothing.
//!
//! Each lie is told in the witnesses' own words (a change of a row, a record, a line of a ledger), so that what is shown
//! to catch is the collecting code together with the invariant, not the invariant alone.

use std::collections::{BTreeMap, BTreeSet};

use stormglass_chaos::{client, notifier, provider};
use stormglass_orders::types::{OrderId, Tenant};
use stormglass_runtime::Timestamp;
use uuid::Uuid;

use crate::{
    records::Records,
    wal::{Columns, RowChange, Transaction},
};

/// A lie.
pub struct Lie {
    /// What it says.
    pub what: &'static str,
    /// Which invariant it breaks.
    pub breaks: &'static str,
    /// Tells it; `None` if these records hold nothing to lie about.
    pub tell: fn(&mut Records) -> Option<()>,
}

/// All of them: at least one for each invariant that is judged.
pub const LIES: &[Lie] = &[
    Lie { what: "an accepted order's record is gone from the log", breaks: "I1", tell: lose_order },
    Lie { what: "an order exists that its client was refused", breaks: "I2", tell: refuse_order },
    Lie { what: "an event takes effect twice", breaks: "I3", tell: effect_twice },
    Lie { what: "two events of a key take effect in the wrong order", breaks: "I4", tell: reorder_key },
    Lie { what: "a confirmed order opens again", breaks: "I5", tell: reopen_order },
    Lie { what: "a unit appears on a shelf", breaks: "I6", tell: add_unit },
    Lie { what: "an order is charged twice", breaks: "I7", tell: charge_twice },
    Lie { what: "an event is published that no outbox held", breaks: "I8", tell: lose_outbox_row },
    Lie { what: "an effect is left out, with its mark", breaks: "I9", tell: lose_effect },
    Lie { what: "an event waits for ever", breaks: "I11", tell: never_settle },
    Lie { what: "an event is attempted without end", breaks: "I12", tell: attempt_for_ever },
    Lie { what: "a confirmed order's items are never sold", breaks: "I16", tell: never_sell },
    Lie { what: "a customer is told twice", breaks: "I21", tell: tell_twice },
];

/// Tells every lie of a copy of `records` and judges it. Answers with what went unnoticed, and how many lies were told.
pub fn unnoticed(records: &Records) -> (Vec<&'static str>, usize) {
    let (mut unnoticed, mut told) = (Vec::new(), 0);
    for lie in LIES {
        let mut lying = records.clone();
        if (lie.tell)(&mut lying).is_none() {
            continue;
        }
        told += 1;
        if lying.judge(&[lie.breaks], |_| ()).is_ok() {
            unnoticed.push(lie.what);
        }
    }
    (unnoticed, told)
}

fn text<'a>(row: &'a Columns, column: &str) -> Option<&'a str> {
    row.get(column)?.as_deref()
}

/// The first change of `table` that `is` one: its transaction, and its place there.
fn find(records: &Records, table: &str, is: impl Fn(&RowChange) -> bool) -> Option<(usize, usize)> {
    records.transactions.iter().enumerate().skip(1).find_map(|(index, transaction)| {
        let place = transaction.changes.iter().position(|change| change.table == table && is(change))?;
        Some((index, place))
    })
}

fn comes_to(change: &RowChange, state: &str) -> bool {
    change.after.as_ref().and_then(|row| text(row, "state")) == Some(state)
}

fn is_inserted(change: &RowChange) -> bool {
    change.before.is_none() && change.after.is_some()
}

fn after_everything(records: &Records, changes: Vec<RowChange>) -> Option<Transaction> {
    let last = records.transactions.last()?;
    Some(Transaction { at: Timestamp(last.at.0 + 1), timeline: last.timeline, lsn: last.lsn + 1, changes })
}

fn an_accepted_order(records: &Records) -> Option<Uuid> {
    records.clients.iter().find_map(|seen| match seen {
        client::Observed::Answered { answer: client::Answer::Accepted { order }, .. } => Some(*order),
        client::Observed::Answered { .. } | client::Observed::Sent { .. } => None,
    })
}

fn lose_order(records: &mut Records) -> Option<()> {
    let order = an_accepted_order(records)?.to_string();
    let is_placing = |kind: &str| kind.starts_with("order.placed");
    records.log.retain(|logged| {
        let record = &logged.record;
        !(record.key.as_deref() == Some(order.as_bytes())
            && record.headers.text("ce_type").is_some_and(is_placing))
    });
    Some(())
}

/// Whoever asked for the order, under its key, heard that it is refused.
fn refuse_order(records: &mut Records) -> Option<()> {
    let order = an_accepted_order(records)?;
    let is_this = |asked: &client::Asked| match asked {
        client::Asked::Place { tenant, idempotency_key, .. } => {
            Tenant::new(tenant).is_ok_and(|tenant| OrderId::derive(&tenant, idempotency_key).0 == order)
        }
        client::Asked::Cancel { .. } | client::Asked::Read { .. } | client::Asked::List { .. } => false,
    };
    let exchanges: BTreeSet<client::ExchangeId> = records
        .clients
        .iter()
        .filter_map(|seen| match seen {
            client::Observed::Sent { exchange, asked, .. } => is_this(asked).then_some(*exchange),
            client::Observed::Answered { .. } => None,
        })
        .collect();
    for seen in &mut records.clients {
        if let client::Observed::Answered { exchange, answer, .. } = seen
            && exchanges.contains(exchange)
        {
            *answer = client::Answer::Refused { status: 422, problem: "invalid".to_owned() };
        }
    }
    Some(())
}

fn effect_twice(records: &mut Records) -> Option<()> {
    let (index, _) = find(records, "inbox", is_inserted)?;
    let changes = records.transactions[index].changes.clone();
    records.transactions.push(after_everything(records, changes)?);
    Some(())
}

/// Of two transactions in which a consumer took events of one key, the earlier one comes to lie behind the later one.
fn reorder_key(records: &mut Records) -> Option<()> {
    let keys: BTreeMap<String, &[u8]> = records
        .log
        .iter()
        .filter_map(|logged| Some((logged.position.to_string(), logged.record.key.as_deref()?)))
        .collect();
    // What orders takes takes effect at once; what the others take may wait in the queue.
    let taken_by_orders = |change: &RowChange| -> Option<String> {
        let row = change.after.as_ref().filter(|row| text(row, "consumer") == Some("orders"))?;
        Some(format!("{}@{}:{}", text(row, "topic")?, text(row, "partition")?, text(row, "offset")?))
    };
    let mut seen: BTreeMap<&[u8], usize> = BTreeMap::new();
    let taken = records.transactions.iter().enumerate().flat_map(|(index, transaction)| {
        let marks = transaction.changes.iter().filter(|change| change.table == "inbox");
        marks.filter_map(taken_by_orders).map(move |place| (index, place))
    });
    let mut pair = None;
    for (index, place) in taken {
        let first = *seen.entry(keys.get(&place).copied()?).or_insert(index);
        pair = pair.or((first != index).then_some((first, index)));
    }
    let (first, second) = pair?;
    let mut late = records.transactions.remove(first);
    late.at = records.transactions[second - 1].at;
    records.transactions.insert(second, late);
    Some(())
}

fn reopen_order(records: &mut Records) -> Option<()> {
    let (index, place) = find(records, "orders", |change| comes_to(change, "confirmed"))?;
    let confirmed = records.transactions[index].changes[place].clone();
    let mut open = confirmed.after.clone()?;
    open.insert("state".to_owned(), Some("open".to_owned()));
    let change = RowChange { table: confirmed.table, before: confirmed.after, after: Some(open) };
    records.transactions.push(after_everything(records, vec![change])?);
    Some(())
}

fn add_unit(records: &mut Records) -> Option<()> {
    let (index, place) = find(records, "stock", |_| true)?;
    let row = records.transactions[index].changes[place].after.as_mut()?;
    let available: i64 = text(row, "available")?.parse().ok()?;
    row.insert("available".to_owned(), Some((available + 1).to_string()));
    Some(())
}

fn charge_twice(records: &mut Records) -> Option<()> {
    let is_capture = |seen: &&provider::Observed| matches!(seen, provider::Observed::Captured { .. });
    let mut again = records.provider.iter().find(is_capture)?.clone();
    if let provider::Observed::Captured { at, key, .. } = &mut again {
        (*at, *key) = (Timestamp(at.0 + 1), Uuid::nil());
    }
    records.provider.push(again);
    Some(())
}

fn lose_outbox_row(records: &mut Records) -> Option<()> {
    let (index, place) = find(records, "outbox", is_inserted)?;
    records.transactions[index].changes.remove(place);
    Some(())
}

fn lose_effect(records: &mut Records) -> Option<()> {
    let (index, _) = find(records, "inbox", is_inserted)?;
    records.transactions.remove(index);
    Some(())
}

fn never_settle(records: &mut Records) -> Option<()> {
    let asks = |row: &Columns| text(row, "call").is_some();
    let is_deleted = |change: &RowChange| change.after.is_none() && change.before.as_ref().is_some_and(asks);
    let (index, place) = find(records, "pending", is_deleted)?;
    records.transactions[index].changes.remove(place);
    Some(())
}

fn attempt_for_ever(records: &mut Records) -> Option<()> {
    let is_update = |change: &RowChange| change.before.is_some() && change.after.is_some();
    let (index, place) = find(records, "pending", is_update)?;
    let row = records.transactions[index].changes[place].after.as_mut()?;
    row.insert("attempts".to_owned(), Some("99".to_owned()));
    Some(())
}

fn never_sell(records: &mut Records) -> Option<()> {
    let (index, place) = find(records, "reservations", |change| comes_to(change, "sold"))?;
    records.transactions[index].changes.remove(place);
    Some(())
}

fn tell_twice(records: &mut Records) -> Option<()> {
    let is_sent = |seen: &&notifier::Observed| matches!(seen, notifier::Observed::Sent { .. });
    let mut again = records.notifier.iter().find(is_sent)?.clone();
    if let notifier::Observed::Sent { at, key, .. } = &mut again {
        (*at, *key) = (Timestamp(at.0 + 1), Uuid::nil());
    }
    records.notifier.push(again);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::JUDGED;

    #[test]
    fn every_judged_invariant_has_a_lie_that_breaks_it() {
        assert!(JUDGED.iter().all(|id| LIES.iter().any(|lie| lie.breaks == *id)));
    }
}
