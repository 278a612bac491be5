//! What a lane holds of its partitions: records that wait, and how far each partition is accounted for. No I/O.
//!
//! Two offsets matter per partition. `stored` is what the database has: every span begins there, and a database that
//! disagrees has moved on without us. `tail` is behind the last record that arrived: records in between without an
//! event of interest are dropped on arrival, so the position may move over them whenever it moves at all.

use std::{
    collections::{BTreeMap, VecDeque},
    iter::Sum,
};

use tokio::time::Instant;

use crate::{Delivered, EventId, Offset, OrderingKey, Partition, Position, Record, logic::Decoded};

/// A record with an event that the service takes (or that it cannot read), waiting to be applied.
#[derive(Debug)]
pub(crate) struct Taken<E> {
    pub at: Position,
    pub event_id: EventId,
    pub key: OrderingKey,
    pub record: Record,
    pub event: Decoded<E>,
}

/// One partition of a lane.
#[derive(Debug)]
struct Track<E> {
    stored: Offset,
    tail: Offset,
    waiting: VecDeque<Taken<E>>,
    /// Since when `tail` is ahead of `stored` with nothing waiting in between.
    idle_since: Option<Instant>,
    /// Records that arrive are meant for another position: it was asked to seek.
    seeking: bool,
}

/// All partitions of a lane.
#[derive(Debug)]
pub(crate) struct Tracks<E> {
    tracks: BTreeMap<Partition, Track<E>>,
    /// Which partition the next span begins with, so that a full one does not starve the others.
    turn: usize,
}

/// How a span moves one position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub partition: Partition,
    pub from: Offset,
    pub to: Offset,
}

/// What one transaction takes: positions to move and, in log order per partition, the events on the way.
#[derive(Debug)]
pub(crate) struct Span<'a, E> {
    pub moves: Vec<Move>,
    pub taken: Vec<&'a Taken<E>>,
}

/// How much a span may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub records: usize,
    pub bytes: usize,
}

/// Records and bytes in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub records: usize,
    pub bytes: usize,
}

/// Amounts by partition: what is held, or what was let go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amounts(BTreeMap<Partition, Amount>);

impl Amount {
    /// Whether it is as much as `limit`, in either.
    pub fn reaches(self, limit: Amount) -> bool {
        self.records >= limit.records || self.bytes >= limit.bytes
    }

    /// Whether it is no more than `limit`, in both.
    pub fn fits(self, limit: Amount) -> bool {
        self.records <= limit.records && self.bytes <= limit.bytes
    }

    /// The `count`th part.
    pub fn part(self, count: usize) -> Amount {
        Amount { records: self.records / count.max(1), bytes: self.bytes / count.max(1) }
    }

    fn add(&mut self, record: &Record) {
        self.records += 1;
        self.bytes += record.size();
    }
}

impl Sum for Amount {
    fn sum<I: Iterator<Item = Amount>>(amounts: I) -> Amount {
        amounts.fold(Amount::default(), |sum, amount| Amount {
            records: sum.records + amount.records,
            bytes: sum.bytes + amount.bytes,
        })
    }
}

impl Amounts {
    /// One more record of `partition`.
    pub fn add(&mut self, partition: &Partition, record: &Record) {
        match self.0.get_mut(partition) {
            Some(amount) => amount.add(record),
            None => self.0.entry(partition.clone()).or_default().add(record),
        }
    }

    /// As much more as `more` says.
    pub fn extend(&mut self, more: Amounts) {
        for (partition, more) in more.0 {
            let amount = self.0.entry(partition).or_default();
            *amount = [*amount, more].into_iter().sum();
        }
    }

    /// As much less as `freed` says.
    pub fn release(&mut self, freed: &Amounts) {
        for (partition, Amount { records, bytes }) in &freed.0 {
            let Some(amount) = self.0.get_mut(partition) else { continue };
            amount.records = amount.records.saturating_sub(*records);
            amount.bytes = amount.bytes.saturating_sub(*bytes);
            if amount.records == 0 {
                self.0.remove(partition);
            }
        }
    }

    /// That of one partition.
    pub fn of(&self, partition: &Partition) -> Amount {
        self.0.get(partition).copied().unwrap_or_default()
    }

    /// That of all.
    pub fn total(&self) -> Amount {
        self.0.values().copied().sum()
    }

    /// Whether it is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<E> Default for Tracks<E> {
    fn default() -> Self {
        Self { tracks: BTreeMap::new(), turn: 0 }
    }
}

impl<E> Tracks<E> {
    /// Begins `position.partition` at its stored position; whatever was held of it is dropped.
    pub fn start(&mut self, position: Position) -> Amounts {
        let freed = self.drop_waiting(&position.partition);
        let track = Track {
            stored: position.offset,
            tail: position.offset,
            waiting: VecDeque::new(),
            idle_since: None,
            seeking: false,
        };
        self.tracks.insert(position.partition, track);
        freed
    }

    /// Takes in what was delivered. Records of partitions that are not (or no longer) ours, and those that were seen
    /// already, are dropped.
    pub fn arrive(
        &mut self,
        delivered: Vec<Delivered>,
        now: Instant,
        decode: impl Fn(&Record) -> Decoded<E>,
    ) -> (Amounts, u64) {
        let (mut freed, mut ignored) = (Amounts::default(), 0);
        for delivered in delivered {
            let track = self.tracks.get_mut(&delivered.at.partition);
            let Some(track) = track.filter(|track| !track.seeking && track.tail <= delivered.at.offset)
            else {
                freed.add(&delivered.at.partition, &delivered.record);
                continue;
            };
            track.tail = delivered.at.offset + 1;
            match decode(&delivered.record) {
                Decoded::Ignored => {
                    freed.add(&delivered.at.partition, &delivered.record);
                    ignored += 1;
                    track.idle_since.get_or_insert(now);
                }
                event @ (Decoded::Event(_) | Decoded::Unreadable(_)) => {
                    let event_id = EventId::of(&delivered);
                    let Delivered { at, record } = delivered;
                    let key = event_id.ordering_key(&record);
                    track.waiting.push_back(Taken { at, event_id, key, record, event });
                }
            }
        }
        (freed, ignored)
    }

    /// The next span within `limit`; at least one event, if there is any. Partitions take turns.
    pub fn span(&self, limit: Limit) -> Span<'_, E> {
        let active = self.tracks.values().filter(|track| !track.waiting.is_empty()).count();
        let share = limit.records.div_ceil(active.max(1)).max(1);
        let mut span = Span { moves: Vec::new(), taken: Vec::new() };
        let mut bytes = 0;
        let turn = self.turn % self.tracks.len().max(1);
        for (partition, track) in self.tracks.iter().skip(turn).chain(self.tracks.iter().take(turn)) {
            if track.seeking {
                continue;
            }
            let before = span.taken.len();
            for taken in track.waiting.iter().take(share.min(limit.records.saturating_sub(before))) {
                bytes += taken.record.size();
                if bytes > limit.bytes && !span.taken.is_empty() {
                    break;
                }
                span.taken.push(taken);
            }
            let next = track.waiting.get(span.taken.len() - before);
            let to = next.map_or(track.tail, |next| next.at.offset);
            if to > track.stored {
                span.moves.push(Move { partition: partition.clone(), from: track.stored, to });
            }
        }
        span.moves.sort_by(|a, b| a.partition.cmp(&b.partition));
        span
    }

    /// Positions that could move over records without an event of interest, nothing else.
    pub fn idle_moves(&self) -> Vec<Move> {
        self.span(Limit { records: 0, bytes: 0 }).moves
    }

    /// A position is now stored at `to`, by us or by somebody else: what lies before it is accounted for.
    pub fn advance(&mut self, partition: &Partition, to: Offset, now: Instant) -> Amounts {
        let mut freed = Amounts::default();
        let Some(track) = self.tracks.get_mut(partition) else { return freed };
        while let Some(taken) = track.waiting.pop_front_if(|taken| taken.at.offset < to) {
            freed.add(partition, &taken.record);
        }
        track.stored = to;
        track.tail = track.tail.max(to);
        track.idle_since = (track.tail > track.stored).then_some(now);
        freed
    }

    /// The position is behind or gone: what is held does not continue it. Nothing is taken until
    /// [`Tracks::start`].
    pub fn seek(&mut self, partition: &Partition) -> Amounts {
        let freed = self.drop_waiting(partition);
        if let Some(track) = self.tracks.get_mut(partition) {
            track.seeking = true;
            track.idle_since = None;
        }
        freed
    }

    /// Gives up partitions with what is held of them. Returns where their positions could still move.
    pub fn leave(&mut self, partitions: &[Partition]) -> (Amounts, Vec<Move>) {
        let moves = self.idle_moves().into_iter().filter(|m| partitions.contains(&m.partition)).collect();
        let mut freed = Amounts::default();
        for partition in partitions {
            freed.extend(self.drop_waiting(partition));
            self.tracks.remove(partition);
        }
        (freed, moves)
    }

    /// The next span begins with another partition.
    pub fn next_turn(&mut self) {
        self.turn = (self.turn + 1) % self.tracks.len().max(1);
    }

    /// Whether any event waits.
    pub fn has_events(&self) -> bool {
        self.tracks.values().any(|track| !track.waiting.is_empty())
    }

    /// Since when a position could have moved over uninteresting records.
    pub fn idle_since(&self) -> Option<Instant> {
        self.tracks.values().filter_map(|track| track.idle_since).min()
    }

    /// What the database is believed to have.
    pub fn stored(&self, partition: &Partition) -> Option<Offset> {
        self.tracks.get(partition).map(|track| track.stored)
    }

    /// All partitions.
    pub fn partitions(&self) -> Vec<Partition> {
        self.tracks.keys().cloned().collect()
    }

    fn drop_waiting(&mut self, partition: &Partition) -> Amounts {
        let mut freed = Amounts::default();
        if let Some(track) = self.tracks.get_mut(partition) {
            track.waiting.drain(..).for_each(|taken| freed.add(partition, &taken.record));
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::{Headers, Topic};

    fn partition(index: u32) -> Partition {
        Partition::new(&Topic::from("t"), index)
    }

    /// A record that is of interest if its value says so.
    fn record(at: Position, interesting: bool) -> Delivered {
        let value = Bytes::from_static(if interesting { b"yes" } else { b"no" });
        let record = Record { topic: Topic::from("t"), key: None, headers: Headers::default(), value };
        Delivered { at, record }
    }

    fn decode(record: &Record) -> Decoded<()> {
        if record.value.as_ref() == b"yes" { Decoded::Event(()) } else { Decoded::Ignored }
    }

    fn tracks(records: &[(u32, Offset, bool)]) -> Tracks<()> {
        let mut tracks = Tracks::default();
        for index in records.iter().map(|(index, ..)| *index).collect::<BTreeSet<_>>() {
            tracks.start(partition(index).at(0));
        }
        let delivered = records.iter().map(|&(index, offset, yes)| record(partition(index).at(offset), yes));
        tracks.arrive(delivered.collect(), Instant::now(), decode);
        tracks
    }

    fn limit(records: usize) -> Limit {
        Limit { records, bytes: usize::MAX }
    }

    #[tokio::test(start_paused = true)]
    async fn a_span_moves_over_what_is_of_no_interest_up_to_the_next_event() {
        let tracks = tracks(&[(0, 3, false), (0, 5, true), (0, 6, false), (0, 9, true), (0, 10, false)]);
        let moves = |records| tracks.span(limit(records)).moves[0].to;
        assert_eq!((moves(0), moves(1), moves(2)), (5, 9, 11));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_is_not_taken_again_and_what_another_has_moved_over_is_dropped() {
        let mut tracks = tracks(&[(0, 1, true), (0, 2, true), (0, 3, true)]);
        let again = vec![record(partition(0).at(2), true), record(partition(1).at(0), true)];
        assert_eq!(tracks.arrive(again, Instant::now(), decode).0.total().records, 2);
        assert_eq!(tracks.advance(&partition(0), 3, Instant::now()).total().records, 2);
        let span = tracks.span(limit(10));
        assert_eq!(span.taken.iter().map(|taken| taken.at.offset).collect::<Vec<_>>(), [3]);
        assert_eq!(span.moves, [Move { partition: partition(0), from: 3, to: 4 }]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_that_seeks_takes_nothing_until_it_starts_again() {
        let mut tracks = tracks(&[(0, 1, true)]);
        assert_eq!(tracks.seek(&partition(0)).total().records, 1);
        tracks.arrive(vec![record(partition(0).at(2), true)], Instant::now(), decode);
        assert!(tracks.span(limit(10)).moves.is_empty() && !tracks.has_events());
        tracks.start(partition(0).at(1));
        tracks.arrive(vec![record(partition(0).at(1), true)], Instant::now(), decode);
        assert_eq!(tracks.span(limit(10)).moves[0], Move { partition: partition(0), from: 1, to: 2 });
    }

    proptest! {
        #[test]
        fn spans_take_every_event_once_in_order_whatever_their_limit(
            kinds in proptest::collection::vec((0u32..4, any::<bool>()), 0..60), size in 1usize..9,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
            runtime.block_on(async {
                let records: Vec<_> = (0i64..).zip(&kinds).map(|(offset, &(index, yes))| (index, offset, yes)).collect();
                let mut tracks = tracks(&records);
                let mut taken = BTreeMap::<u32, Vec<Offset>>::new();
                while tracks.has_events() {
                    let span = tracks.span(limit(size));
                    prop_assert!((1..=size).contains(&span.taken.len()));
                    for one in &span.taken {
                        taken.entry(one.at.partition.index).or_default().push(one.at.offset);
                    }
                    for step in span.moves.clone() {
                        prop_assert_eq!(tracks.stored(&step.partition), Some(step.from));
                        tracks.advance(&step.partition, step.to, Instant::now());
                    }
                    tracks.next_turn();
                }
                let mut expected = BTreeMap::<u32, Vec<Offset>>::new();
                for (index, offset, _) in records.into_iter().filter(|(.., yes)| *yes) {
                    expected.entry(index).or_default().push(offset);
                }
                prop_assert_eq!(taken, expected);
                Ok(())
            })?;
        }
    }
}
