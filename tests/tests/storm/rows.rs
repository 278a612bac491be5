//! Rows of the real tables as the invariants read them.
//!
//! The columns are written down here a second time, and so are the shapes that the checkers know: an adapter that mangles
//! a row must not be able to take its checker along. A row that cannot be read is an error, never passed over.

use serde_json::{Value, json};
use stormglass_embedded::database::{Change, Observed};
use stormglass_runtime::{
    ConsumerName, EventId, Freshness, Headers, Image, InboxEntry, OrderingKey, OutboxRow, Partition, Pending,
    PendingId, Position, Record, Timestamp, Topic,
};
use uuid::Uuid;

use crate::wal::{Columns, RowChange, Transaction};

/// Why a row is not what its table promises.
pub type Unreadable = String;

type Read<T> = Result<T, Unreadable>;

/// A transaction as the database's own word. Its session is not in the log: its place stands for it.
pub fn committed(transaction: &Transaction) -> Read<Observed> {
    let Transaction { at, timeline, lsn, changes } = transaction;
    let changes = changes.iter().filter_map(|change| read(change).transpose()).collect::<Read<_>>()?;
    let session = format!("transaction {timeline}/{lsn:X}");
    Ok(Observed::Committed { at: *at, lsn: Freshness { timeline: *timeline, lsn: *lsn }, session, changes })
}

/// What a change of a row means; `None` for tables that no invariant knows.
fn read(change: &RowChange) -> Read<Option<Change>> {
    let RowChange { table, before, after } = change;
    let either = after.as_ref().or(before.as_ref()).ok_or_else(|| format!("{table}: no row"))?;
    let row = Row { table, columns: either };
    Ok(Some(match (table.as_str(), before, after) {
        ("inbox", None, Some(_)) => Change::Taken { consumer: row.consumer()?, entry: row.entry()? },
        ("inbox", Some(_), None) => Change::Pruned { consumer: row.consumer()?, entry: row.entry()? },
        ("positions", _, Some(_)) => {
            Change::Moved { consumer: row.consumer()?, position: row.position("next")? }
        }
        ("pending", before, after) => {
            let pending = |columns: &Option<Columns>| {
                let row = columns.as_ref().map(|columns| Row { table, columns });
                row.map(|row| row.pending().map(Box::new)).transpose()
            };
            Change::Pending { consumer: row.consumer()?, before: pending(before)?, after: pending(after)? }
        }
        ("outbox", None, Some(_)) => Change::Emitted { row: row.outbox()? },
        ("outbox", Some(_), None) => Change::Published { seq: row.number("seq")? },
        ("orders" | "payments" | "reservations" | "stock" | "messages", before, Some(after)) => {
            let image = |columns| Row { table, columns }.image();
            Change::Row { before: before.as_ref().map(image).transpose()?, after: image(after)? }
        }
        ("leases" | "rows" | "_sqlx_migrations", _, _) => return Ok(None),
        _ => return Err(format!("{table}: no service changes it so: {change:?}")),
    }))
}

struct Row<'a> {
    table: &'a str,
    columns: &'a Columns,
}

impl Row<'_> {
    fn wrong(&self, column: &str) -> Unreadable {
        format!("{}.{column}: {:?}", self.table, self.columns.get(column))
    }

    fn maybe(&self, column: &str) -> Read<Option<&str>> {
        let value = self.columns.get(column).ok_or_else(|| self.wrong(column))?;
        Ok(value.as_deref())
    }

    fn text(&self, column: &str) -> Read<&str> {
        self.maybe(column)?.ok_or_else(|| self.wrong(column))
    }

    fn parse<T: std::str::FromStr>(&self, column: &str) -> Read<T> {
        self.text(column)?.parse().map_err(|_| self.wrong(column))
    }

    fn number(&self, column: &str) -> Read<i64> {
        self.parse(column)
    }

    fn uuid(&self, column: &str) -> Read<Uuid> {
        self.parse(column)
    }

    fn consumer(&self) -> Read<ConsumerName> {
        Ok(ConsumerName::from(self.text("consumer")?))
    }

    fn position(&self, offset: &str) -> Read<Position> {
        let topic = Topic::from(self.text("topic")?);
        Ok(Partition::new(&topic, self.parse("partition")?).at(self.parse(offset)?))
    }

    fn entry(&self) -> Read<InboxEntry> {
        Ok(InboxEntry { event_id: EventId(self.uuid("event_id")?), at: self.position("offset")? })
    }

    /// `bytea` as text: `\x` and digits.
    fn maybe_bytes(&self, column: &str) -> Read<Option<Vec<u8>>> {
        let Some(text) = self.maybe(column)? else { return Ok(None) };
        let digits = text.strip_prefix("\\x").ok_or_else(|| self.wrong(column))?.as_bytes();
        let nibble = |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let byte = |pair: &[u8]| Some(nibble(pair.first()?)? << 4 | nibble(pair.get(1)?)?);
        let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
        bytes.map(Some).ok_or_else(|| self.wrong(column))
    }

    fn bytes(&self, column: &str) -> Read<Vec<u8>> {
        self.maybe_bytes(column)?.ok_or_else(|| self.wrong(column))
    }

    /// `timestamptz` as text, in UTC and ISO style.
    fn maybe_moment(&self, column: &str) -> Read<Option<Timestamp>> {
        let Some(text) = self.maybe(column)? else { return Ok(None) };
        let utc = text.strip_suffix("+00").ok_or_else(|| self.wrong(column))?;
        let moment: jiff::Timestamp =
            format!("{}Z", utc.replace(' ', "T")).parse().map_err(|_| self.wrong(column))?;
        Ok(Some(Timestamp(moment.as_microsecond())))
    }

    fn record(&self, topic: &str, key: &str) -> Read<Record> {
        let headers: Headers =
            postcard::from_bytes(&self.bytes("headers")?).map_err(|_| self.wrong("headers"))?;
        Ok(Record {
            topic: Topic::from(self.text(topic)?),
            key: self.maybe_bytes(key)?.map(Into::into),
            headers,
            value: self.bytes("value")?.into(),
        })
    }

    fn pending(&self) -> Read<Pending> {
        Ok(Pending {
            id: PendingId { key: OrderingKey(self.bytes("key")?.into()), seq: self.number("seq")? },
            event_id: EventId(self.uuid("event_id")?),
            origin: self.position("offset")?,
            record: self.record("record_topic", "record_key")?,
            call: self.maybe_bytes("call")?.map(Into::into),
            epoch: self.parse("epoch")?,
            attempts: self.parse("attempts")?,
            due: self.maybe_moment("due")?.ok_or_else(|| self.wrong("due"))?,
            claim: self.maybe("claim")?.map(|_| self.uuid("claim")).transpose()?,
            error: self.maybe("error")?.map(str::to_owned),
            dead_at: self.maybe_moment("dead_at")?,
        })
    }

    fn outbox(&self) -> Read<OutboxRow> {
        Ok(OutboxRow { seq: self.number("seq")?, record: self.record("topic", "key")? })
    }

    fn image(&self) -> Read<Image> {
        let body = match self.table {
            "orders" => json!({ "Order": { "subject": self.subject()?, "state": self.order()? } }),
            "payments" => json!({ "Payment": { "subject": self.subject()?, "state": self.payment()? } }),
            "reservations" => {
                json!({ "Reservation": { "subject": self.subject()?, "state": self.reservation()? } })
            }
            "stock" => json!({ "Stock": {
                "tenant": self.text("tenant")?,
                "sku": self.text("sku")?,
                "available": self.number("available")?,
                "reserved": self.number("reserved")?,
                "sold": self.number("sold")?,
            } }),
            _ => {
                let state = match self.text("state")? {
                    "sent" => json!({ "Sent": self.text("reference")? }),
                    _ => json!("Undelivered"),
                };
                let kind = self.text("kind")?;
                json!({ "Message": { "subject": self.subject()?, "kind": kind, "state": state } })
            }
        };
        let (table, key) = (self.table.to_owned(), self.text("key")?.to_owned());
        Ok(Image { table, key, body: body.to_string() })
    }

    fn subject(&self) -> Read<Value> {
        Ok(json!({ "tenant": self.text("tenant")?, "order": self.uuid("id")? }))
    }

    fn json(&self, column: &str) -> Read<Value> {
        serde_json::from_str(self.text(column)?).map_err(|_| self.wrong(column))
    }

    fn order(&self) -> Read<Value> {
        let placed = match self.maybe("lines")? {
            None => Value::Null,
            Some(_) => {
                json!({ "basket": { "currency": self.text("currency")?, "lines": self.json("lines")? } })
            }
        };
        Ok(match self.text("state")? {
            "foretold" => json!({ "Foretold": { "achieved": self.text("foretold")? } }),
            "open" => json!({ "Open": { "placed": placed } }),
            "confirmed" => json!({ "Confirmed": { "placed": placed } }),
            "cancelled" => json!({ "Cancelled": { "placed": placed } }),
            _ => return Err(self.wrong("state")),
        })
    }

    fn payment(&self) -> Read<Value> {
        let capture = || -> Read<Value> {
            let amount = json!({ "minor": self.number("amount_minor")?, "currency": self.text("currency")? });
            Ok(json!({ "amount": amount, "charge": self.text("charge")? }))
        };
        Ok(match self.text("state")? {
            "void" => json!("Void"),
            "asked" => json!({ "Asked": self.uuid("fingerprint")? }),
            "declined" => json!({ "Declined": self.text("reason")? }),
            "captured" => json!({ "Captured": capture()? }),
            "refund-owed" => json!({ "RefundOwed": capture()? }),
            "refunded" => json!({ "Refunded": { "capture": capture()? } }),
            _ => return Err(self.wrong("state")),
        })
    }

    fn reservation(&self) -> Read<Value> {
        Ok(match self.text("state")? {
            "barred" => json!("Barred"),
            "rejected" => json!({ "Rejected": self.text("reason")? }),
            "reserved" => json!({ "Reserved": self.json("items")? }),
            "sold" => json!({ "Sold": self.json("items")? }),
            "released" => json!({ "Released": self.json("items")? }),
            _ => return Err(self.wrong("state")),
        })
    }
}
