//! Which node is the primary: of those that take writes, the one on the highest timeline.
//!
//! A promotion begins a new timeline, and nobody tells the old primary. One that was not fenced goes on taking writes,
//! which are lost as soon as it is made a replica of the new one. So nothing is written on a lower timeline than one
//! that any node has shown. Of a process that has just started none has shown any, and one that does not answer then may
//! be on a higher one than those that do: it is waited for, unless the settings say that it is no primary.
//!
//! Left out: fencing. Between a promotion and the next look at the nodes, and while the new primary cannot be reached by
//! this process alone, an old one is written to. Only who promotes can prevent that, by stopping the old one or by
//! synchronous replication, under which it can commit nothing.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;

pub(crate) use super::place::Place;

/// What it means that a configured node does not answer when a process looks for the primary for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SilentNodes {
    /// It may be the primary by now: nothing is written until it answers.
    Refuse,
    /// It is none, says who set this: whoever answers is believed.
    Ignore,
}

/// The highest timeline that any node has shown to this process. It only grows.
#[derive(Debug, Default)]
pub(crate) struct Newest(AtomicU32);

impl Newest {
    /// 0 before any was seen.
    pub(crate) fn get(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn see(&self, timeline: u32) {
        self.0.fetch_max(timeline, Ordering::AcqRel);
    }
}

/// Why a node did not say where it stands.
pub(crate) enum NoAnswer {
    /// It, or the way to it, said so.
    Refused(sqlx::Error),
    /// It said nothing in time.
    Silent,
}

/// What one node says of itself, and the connection that it said it on.
pub(crate) type Told = Result<(PgConnection, Place), NoAnswer>;

/// Asks one node where it stands.
pub(crate) async fn ask(node: &PgConnectOptions, limit: Duration) -> Told {
    let asked = async {
        let mut connection = node.connect().await?;
        let place = Place::ask(&mut connection).await?;
        Ok((connection, place))
    };
    match timeout(limit, asked).await {
        Ok(told) => told.map_err(NoAnswer::Refused),
        Err(_) => Err(NoAnswer::Silent),
    }
}

/// Asks all nodes at once; the answers are in their order.
pub(crate) async fn ask_all(nodes: &[PgConnectOptions], limit: Duration) -> Vec<Told> {
    join_all(nodes.iter().map(|node| ask(node, limit))).await
}

/// Why none of the nodes may be written to. Nodes are told by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPrimary {
    /// None of those that answered takes writes.
    Absent,
    /// This one does, on a timeline that has been left.
    Outdated(usize),
    /// This one did not answer, and may be on a higher timeline than those that did.
    Silent(usize),
    /// Two take writes on the same timeline: their histories differ, and nothing says which is to go on.
    Two(usize, usize),
}

/// The node that a process begins to write to, by what those that answered said.
pub(crate) fn choose(
    answers: &[Option<Place>],
    newest: &Newest,
    silent: SilentNodes,
) -> Result<usize, NoPrimary> {
    for place in answers.iter().flatten() {
        newest.see(place.timeline());
    }
    let takes_writes = |(node, place): (usize, &Option<Place>)| {
        place.filter(|place| !place.is_standby).map(|place| (node, place.timeline()))
    };
    let primaries: Vec<_> = answers.iter().enumerate().filter_map(takes_writes).collect();
    let current: Vec<_> = primaries.iter().filter(|(_, timeline)| *timeline >= newest.get()).collect();
    match (&current[..], &primaries[..]) {
        ([], []) => Err(NoPrimary::Absent),
        ([], [(old, _), ..]) => Err(NoPrimary::Outdated(*old)),
        ([(first, _), (second, _), ..], _) => Err(NoPrimary::Two(*first, *second)),
        ([(primary, _)], _) => match answers.iter().position(Option::is_none) {
            Some(unheard) if silent == SilentNodes::Refuse => Err(NoPrimary::Silent(unheard)),
            Some(_) | None => Ok(*primary),
        },
    }
}

/// Host and port of a node, for messages.
pub(crate) fn name(node: &PgConnectOptions) -> String {
    format!("{}:{}", node.get_host(), node.get_port())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn primary(timeline: i32) -> Option<Place> {
        Some(Place::example(timeline))
    }

    fn standby(timeline: i32) -> Option<Place> {
        let mut place = Place::example(timeline);
        place.is_standby = true;
        Some(place)
    }

    #[rstest]
    #[case::beside_its_standby([standby(1), primary(1)], 0, Ok(1))]
    #[case::on_the_higher_timeline([primary(1), primary(2)], 0, Ok(1))]
    #[case::on_a_timeline_that_was_left([primary(1), standby(1)], 2, Err(NoPrimary::Outdated(0)))]
    #[case::that_a_standby_has_left([primary(1), standby(2)], 0, Err(NoPrimary::Outdated(0)))]
    #[case::beside_a_node_that_may_be_newer([primary(1), None], 0, Err(NoPrimary::Silent(1)))]
    #[case::twice([primary(2), primary(2)], 0, Err(NoPrimary::Two(0, 1)))]
    #[case::nowhere([standby(1), None], 0, Err(NoPrimary::Absent))]
    fn a_primary(
        #[case] answers: [Option<Place>; 2],
        #[case] seen: u32,
        #[case] expected: Result<usize, NoPrimary>,
    ) {
        let newest = Newest::default();
        newest.see(seen);
        assert_eq!(choose(&answers, &newest, SilentNodes::Refuse), expected);
    }

    #[test]
    fn whoever_says_that_silent_nodes_are_no_primary_is_believed() {
        let newest = Newest::default();
        assert_eq!(choose(&[primary(1), None], &newest, SilentNodes::Ignore), Ok(0));
        assert_eq!(newest.get(), 1, "what was seen is remembered");
    }
}
