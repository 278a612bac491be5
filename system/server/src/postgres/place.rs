//! A server's place in the write-ahead log, and what reads may conclude from it.

use sqlx::{PgConnection, Row as _, postgres::PgRow, query_file};
use stormglass_runtime::Freshness;

/// Where a server stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) is_standby: bool,
    /// Certainly reached.
    timeline: i32,
    /// Perhaps reached.
    timeline_received: Option<i32>,
    lsn: i64,
}

impl Place {
    pub(crate) async fn ask(on: &mut PgConnection) -> Result<Place, sqlx::Error> {
        let place = query_file!("src/postgres/sql/place.sql").fetch_one(on).await?;
        Ok(Place {
            is_standby: place.standby,
            timeline: place.timeline,
            timeline_received: place.timeline_received,
            lsn: place.lsn,
        })
    }

    pub(super) fn of(row: &PgRow) -> Result<Place, sqlx::Error> {
        Ok(Place {
            is_standby: row.try_get("standby!")?,
            timeline: row.try_get("timeline!")?,
            timeline_received: row.try_get("timeline_received?")?,
            lsn: row.try_get("lsn!")?,
        })
    }

    /// Whether everything that an answer with this token showed is here.
    ///
    /// A primary has all of its timeline: a token that is ahead of it there saw what a crash has lost, which nobody will
    /// ever have. A server on an older timeline than the token's is a primary of the past, or a replica of one.
    pub(super) fn has(&self, at_least: Freshness) -> bool {
        let here = Freshness { timeline: unsigned(self.timeline), lsn: self.lsn.cast_unsigned() };
        if self.is_standby { here >= at_least } else { here.timeline >= at_least.timeline }
    }

    /// A token for what was read before the server was here.
    pub(crate) fn token(&self) -> Freshness {
        Freshness { timeline: self.timeline(), lsn: self.lsn.cast_unsigned() }
    }

    /// The highest timeline that the server shows: its own, or that of whom it follows.
    pub(crate) fn timeline(&self) -> u32 {
        let timeline = self.timeline_received.map_or(self.timeline, |received| received.max(self.timeline));
        unsigned(timeline)
    }

    /// Of a primary.
    #[cfg(test)]
    pub(super) fn example(timeline: i32) -> Self {
        Self { is_standby: false, timeline, timeline_received: None, lsn: 0 }
    }
}

/// Timelines and log positions are unsigned; PostgreSQL's types for them are not.
fn unsigned(timeline: i32) -> u32 {
    timeline.cast_unsigned()
}
