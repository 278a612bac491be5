//! The database's own log as evidence: every committed transaction with its changes, in the order of their commits.
//!
//! PostgreSQL decodes its write-ahead log through `pgoutput`, and with `REPLICA IDENTITY FULL` it names old rows whole.
//! Nothing is added to the schema and no trigger runs: the system under test is the one of production. A slot keeps the
//! log until it is read, and survives a crash; it does not survive a promotion, which `postgres.rs` sees to.
//!
//! Left out: what the log does not hold: sessions' names, reads, and transactions that rolled back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stormglass_runtime::Timestamp;

/// A row as text, by column; `None` is NULL.
pub type Columns = BTreeMap<String, Option<String>>;

/// A transaction that committed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transaction {
    /// When, by the server's clock.
    pub at: Timestamp,
    /// Grows with each promotion.
    pub timeline: u32,
    /// Where its commit ends in the log.
    pub lsn: u64,
    /// What it did, in order.
    pub changes: Vec<RowChange>,
}

/// What became of one row. Inserted: `before` is missing; deleted: `after` is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowChange {
    pub table: String,
    pub before: Option<Columns>,
    pub after: Option<Columns>,
}

/// From the Unix epoch to PostgreSQL's, 2000-01-01 00:00:00 UTC.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// Why a message is none of `pgoutput`'s, protocol version 1.
pub type Garbled = String;

#[derive(Clone)]
struct Relation {
    name: String,
    columns: Vec<String>,
}

/// Puts messages together to transactions. The messages of one reading of the slot belong to one decoder.
#[derive(Default)]
pub struct Decoder {
    timeline: u32,
    relations: BTreeMap<u32, Relation>,
    changes: Vec<RowChange>,
    done: Vec<Transaction>,
}

impl Decoder {
    pub fn new(timeline: u32) -> Self {
        Decoder { timeline, ..Decoder::default() }
    }

    /// What is complete.
    pub fn finish(self) -> Vec<Transaction> {
        self.done
    }

    /// Takes in one message.
    pub fn message(&mut self, bytes: &[u8]) -> Result<(), Garbled> {
        let mut rest = Bytes(bytes);
        match rest.byte()? {
            b'B' => self.changes.clear(),
            b'C' => {
                let (_flags, _commit, end) = (rest.byte()?, rest.u64()?, rest.u64()?);
                let at = Timestamp(rest.i64()?.saturating_add(POSTGRES_EPOCH_US));
                let changes = std::mem::take(&mut self.changes);
                if !changes.is_empty() {
                    self.done.push(Transaction { at, timeline: self.timeline, lsn: end, changes });
                }
            }
            b'R' => self.relation(&mut rest)?,
            b'I' => {
                let relation = self.relation_of(&mut rest)?;
                let _new = rest.byte()?;
                let after = Some(rest.tuple(&relation, None)?);
                self.changes.push(RowChange { table: relation.name, before: None, after });
            }
            b'U' => {
                let relation = self.relation_of(&mut rest)?;
                let mut kind = rest.byte()?;
                let mut before = None;
                if kind == b'O' || kind == b'K' {
                    before = Some(rest.tuple(&relation, None)?);
                    kind = rest.byte()?;
                }
                if kind != b'N' {
                    return Err(format!("an update without a new row: {kind}"));
                }
                let after = Some(rest.tuple(&relation, before.as_ref())?);
                self.changes.push(RowChange { table: relation.name, before, after });
            }
            b'D' => {
                let relation = self.relation_of(&mut rest)?;
                let _old = rest.byte()?;
                let before = Some(rest.tuple(&relation, None)?);
                self.changes.push(RowChange { table: relation.name, before, after: None });
            }
            // Types of columns, and where a change came from: nothing that is needed.
            b'Y' | b'O' => {}
            other => return Err(format!("message {:?}", char::from(other))),
        }
        Ok(())
    }

    fn relation(&mut self, rest: &mut Bytes<'_>) -> Result<(), Garbled> {
        let oid = rest.u32()?;
        let _schema = rest.text()?;
        let name = rest.text()?;
        let _identity = rest.byte()?;
        let mut columns = Vec::new();
        for _ in 0..rest.u16()? {
            let _flags = rest.byte()?;
            columns.push(rest.text()?);
            let (_type, _modifier) = (rest.u32()?, rest.u32()?);
        }
        self.relations.insert(oid, Relation { name, columns });
        Ok(())
    }

    fn relation_of(&self, rest: &mut Bytes<'_>) -> Result<Relation, Garbled> {
        let oid = rest.u32()?;
        self.relations.get(&oid).cloned().ok_or_else(|| format!("a row of the unknown table {oid}"))
    }
}

/// What is left of a message.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take(&mut self, count: usize) -> Result<&[u8], Garbled> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(|| "it ends too early".to_owned())?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Garbled> {
        self.take(N)?.try_into().map_err(|_| "it ends too early".to_owned())
    }

    fn byte(&mut self) -> Result<u8, Garbled> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Garbled> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Garbled> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Garbled> {
        self.array().map(u64::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, Garbled> {
        self.array().map(i64::from_be_bytes)
    }

    /// A text that ends with a zero byte.
    fn text(&mut self) -> Result<String, Garbled> {
        let length = self.0.iter().position(|byte| *byte == 0);
        let length = length.ok_or_else(|| "a name without an end".to_owned())?;
        let text = utf8(self.take(length)?)?;
        self.byte()?;
        Ok(text)
    }

    /// A row. What is stored out of line and did not change is not repeated: it is as it was `before`.
    fn tuple(&mut self, relation: &Relation, before: Option<&Columns>) -> Result<Columns, Garbled> {
        let mut row = Columns::new();
        let count = usize::from(self.u16()?);
        for name in relation.columns.iter().take(count) {
            let value = match self.byte()? {
                b'n' => None,
                b't' => {
                    let length = self.u32()? as usize;
                    Some(utf8(self.take(length)?)?)
                }
                b'u' => before
                    .and_then(|before| before.get(name))
                    .cloned()
                    .ok_or_else(|| format!("{}.{name} is not known", relation.name))?,
                other => return Err(format!("a column of kind {other}")),
            };
            row.insert(name.clone(), value);
        }
        Ok(row)
    }
}

fn utf8(bytes: &[u8]) -> Result<String, Garbled> {
    String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation() -> Vec<u8> {
        let mut message = vec![b'R', 0, 0, 0, 7];
        message.extend(b"public\0shelf\0f\0\x02");
        for name in ["sku", "note"] {
            message.push(1);
            message.extend(name.as_bytes());
            message.extend([0, 0, 0, 0, 25, 0, 0, 0, 0]);
        }
        message
    }

    fn column(text: &str) -> Vec<u8> {
        let mut column = vec![b't', 0, 0, 0, u8::try_from(text.len()).unwrap()];
        column.extend(text.as_bytes());
        column
    }

    fn commit(end: u8) -> Vec<u8> {
        let mut message = vec![b'C', 0];
        message.extend([0; 8]);
        message.extend([0, 0, 0, 0, 0, 0, 0, end]);
        message.extend(5_i64.to_be_bytes());
        message
    }

    #[test]
    fn update_keeps_what_is_not_repeated_and_names_the_row_before() {
        let mut decoder = Decoder::new(1);
        let update = [
            &[b'U', 0, 0, 0, 7, b'O', 0, 2],
            &column("mug")[..],
            &column("long"),
            &[b'N', 0, 2],
            &column("cup"),
            b"u",
        ]
        .concat();
        for message in [vec![b'B'], relation(), update, commit(9)] {
            decoder.message(&message).unwrap();
        }
        let done = decoder.finish();
        let row = |sku: &str| {
            let columns = [("sku", sku), ("note", "long")];
            columns.map(|(name, value)| (name.to_owned(), Some(value.to_owned()))).into_iter().collect()
        };
        let changes =
            vec![RowChange { table: "shelf".to_owned(), before: Some(row("mug")), after: Some(row("cup")) }];
        let at = Timestamp(POSTGRES_EPOCH_US + 5);
        assert_eq!(done, [Transaction { at, timeline: 1, lsn: 9, changes }]);
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        let mut decoder = Decoder::new(1);
        assert!(decoder.message(&relation()[..9]).is_err());
        assert!(decoder.message(&[b'I', 0, 0, 0, 1, b'N', 0, 0]).is_err(), "a table nobody named");
    }
}
