//! Between a domain's rows and the images that travel: JSON bodies under key text.

use stormglass_runtime::{
    Answer, Cause, Failure, Freshness, Image, ImageKey, Reason, RowSet, Statement, Versioned,
};

/// A key as an image key.
pub(super) fn key<R: RowSet>(key: &R::Key) -> ImageKey {
    ImageKey { table: R::table(key).to_owned(), key: R::key_text(key) }
}

fn image<R: RowSet>(row: &R) -> Result<Image, Failure> {
    let ImageKey { table, key } = key::<R>(&row.key());
    let body = serde_json::to_string(row)
        .map_err(|error| Failure::Rejected(Reason::InvalidValue(error.to_string())))?;
    Ok(Image { table, key, body })
}

fn row<R: RowSet>(image: &Image) -> Result<R, Failure> {
    serde_json::from_str(&image.body).map_err(|_| Failure::NotDone(Cause::Protocol))
}

/// Rows as they were read.
pub(super) fn typed<R: RowSet>(
    (images, lsn): (Vec<Versioned<Image>>, Freshness),
) -> Result<(Vec<Versioned<R>>, Freshness), Failure> {
    Ok((versioned(&images)?, lsn))
}

fn versioned<R: RowSet>(images: &[Versioned<Image>]) -> Result<Vec<Versioned<R>>, Failure> {
    let typed = |image: &Versioned<Image>| Ok(Versioned { row: row(&image.row)?, version: image.version });
    images.iter().map(typed).collect()
}

/// A statement as it travels.
pub(super) fn erased<R: RowSet>(statement: Statement<R>) -> Result<Statement<Image>, Failure> {
    Ok(match statement {
        Statement::LockRows { table, keys } => {
            Statement::LockRows { table, keys: keys.iter().map(key::<R>).collect() }
        }
        Statement::InsertRows { table, rows } => {
            Statement::InsertRows { table, rows: rows.iter().map(image).collect::<Result<_, _>>()? }
        }
        Statement::UpdateRows { table, rows } => {
            let erased = |row: &Versioned<R>| Ok(Versioned { row: image(&row.row)?, version: row.version });
            Statement::UpdateRows { table, rows: rows.iter().map(erased).collect::<Result<_, Failure>>()? }
        }
        Statement::OpenPositions { consumer, positions } => Statement::OpenPositions { consumer, positions },
        Statement::LockPositions { consumer, partitions } => {
            Statement::LockPositions { consumer, partitions }
        }
        Statement::MovePositions { consumer, positions } => Statement::MovePositions { consumer, positions },
        Statement::TakeInbox { consumer, entries } => Statement::TakeInbox { consumer, entries },
        Statement::BlockedKeys { consumer, keys, after_death } => {
            Statement::BlockedKeys { consumer, keys, after_death }
        }
        Statement::Enqueue { consumer, rows } => Statement::Enqueue { consumer, rows },
        Statement::Emit { records } => Statement::Emit { records },
        Statement::Claim { consumer, claim, limit, after_death } => {
            Statement::Claim { consumer, claim, limit, after_death }
        }
        Statement::LockPending { consumer, keys, limit, after_death } => {
            Statement::LockPending { consumer, keys, limit, after_death }
        }
        Statement::LockDead { consumer, ids } => Statement::LockDead { consumer, ids },
        Statement::ChangePending { consumer, changes } => Statement::ChangePending { consumer, changes },
        Statement::ReadDead { consumer, limit } => Statement::ReadDead { consumer, limit },
        Statement::AcquireLease { name, holder, ttl } => Statement::AcquireLease { name, holder, ttl },
        Statement::ReadOutbox { limit } => Statement::ReadOutbox { limit },
        Statement::DeleteOutbox { seqs } => Statement::DeleteOutbox { seqs },
        Statement::PruneInbox { consumer, below, limit } => Statement::PruneInbox { consumer, below, limit },
    })
}

/// An answer as it arrived.
pub(super) fn answer<R: RowSet>(answer: Answer<Image>) -> Result<Answer<R>, Failure> {
    Ok(match answer {
        Answer::Rows(images) => Answer::Rows(versioned(&images)?),
        Answer::Done => Answer::Done,
        Answer::Count(count) => Answer::Count(count),
        Answer::Positions(positions) => Answer::Positions(positions),
        Answer::Fresh(ids) => Answer::Fresh(ids),
        Answer::Keys(keys) => Answer::Keys(keys),
        Answer::Sequence(seqs) => Answer::Sequence(seqs),
        Answer::Pending(rows) => Answer::Pending(rows),
        Answer::Lease(lease) => Answer::Lease(lease),
        Answer::Outbox(rows) => Answer::Outbox(rows),
    })
}
