//! A consumer group's own state: members, generations, and cooperative rebalancing (KIP-429).
//!
//! A rebalance collects a join from every member, each with what it still owns, and hands out a new generation in
//! which a partition that moves is withheld until its owner has rejoined without it; that rejoin starts the second
//! rebalance. Time and messages are `coordinator.rs`'s business. Left out: static membership (`group.instance.id`) and
//! the eager protocol.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use stormglass_runtime::{Offset, Partition, Timestamp};

use super::{
    assignor::{Claim, assign},
    request::{ErrorCode, Join, Membership},
};
use crate::machine::Call;

/// A consumer group.
#[derive(Default)]
pub(super) struct Group {
    pub(super) generation: i32,
    pub(super) phase: Phase,
    pub(super) members: BTreeMap<String, Member>,
    /// Member ids that were given out and not used yet (KIP-394), and since when.
    issued: BTreeMap<String, Timestamp>,
    /// Partitions that wait for their owner to give them up.
    withheld: BTreeMap<Partition, String>,
    pub(super) offsets: BTreeMap<Partition, Offset>,
    /// Until when the coordinator loads it.
    pub(super) loading_until: Timestamp,
    /// Since when it has no members.
    pub(super) empty_since: Timestamp,
}

/// Where a group is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has members (or none) and no rebalance goes on.
    #[default]
    Stable,
    /// A rebalance collects members.
    Preparing {
        /// Not complete before.
        earliest: Timestamp,
        /// Complete then without those who did not come.
        latest: Timestamp,
    },
}

/// A member.
pub(super) struct Member {
    join: Join,
    owned: BTreeSet<Partition>,
    pub(super) assigned: BTreeSet<Partition>,
    deadline: Timestamp,
    joining: Option<Call>,
    /// Whether it has fetched its assignment of this generation.
    synced: bool,
}

/// What a join leads to.
pub(super) enum Joined {
    /// Join again under this name.
    Named,
    /// It waits for a rebalance, which must be prepared if none goes on. A request of its own that waited before is
    /// superseded.
    Waits(Option<Call>),
    /// Nothing changed: the generation stands.
    Stands,
    /// No such member.
    Unknown,
}

impl Group {
    /// Remembers a member id given to a client that has none.
    pub(super) fn issue(&mut self, now: Timestamp, member: String, expiry: Duration) {
        self.issued.retain(|_, since| now.since(*since) < expiry);
        self.issued.insert(member, now);
    }

    /// Takes a join.
    pub(super) fn join(&mut self, now: Timestamp, call: Call, join: Join) -> Joined {
        if join.member.is_empty() {
            return Joined::Named;
        }
        let name = join.member.clone();
        let known = self.members.contains_key(&name);
        if !known && self.issued.remove(&name).is_none() {
            return Joined::Unknown;
        }
        let owned: BTreeSet<Partition> = join.owned.iter().cloned().collect();
        let released = self.release(&name, &owned);
        let fresh = Member {
            owned: BTreeSet::new(),
            assigned: BTreeSet::new(),
            deadline: now,
            joining: None,
            synced: false,
            join: join.clone(),
        };
        let member = self.members.entry(name).or_insert(fresh);
        let resubscribed = member.join.topics != join.topics;
        member.deadline = now.after(join.session_timeout);
        member.owned = owned;
        member.join = join;
        if self.phase == Phase::Stable && known && !resubscribed && !released {
            return Joined::Stands;
        }
        Joined::Waits(member.joining.replace(call))
    }

    /// Notes what a member has given up; whether there was anything others wait for.
    fn release(&mut self, name: &str, owned: &BTreeSet<Partition>) -> bool {
        let before = self.withheld.len();
        self.withheld.retain(|partition, owner| owner != name || owned.contains(partition));
        self.withheld.len() < before
    }

    /// Removes a member; whether it was one.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.members.remove(name).is_some()
    }

    /// Begins a rebalance if none goes on; until when it may take.
    pub(super) fn prepare(&mut self, now: Timestamp, hold: Duration) -> Phase {
        if self.phase == Phase::Stable {
            let patience = self.members.values().map(|member| member.join.rebalance_timeout).max();
            let earliest = now.after(hold);
            self.phase = Phase::Preparing { earliest, latest: earliest.after(patience.unwrap_or_default()) };
        }
        self.phase
    }

    /// Whether the rebalance can end now.
    pub(super) fn is_ready(&self, now: Timestamp) -> bool {
        match self.phase {
            Phase::Stable => false,
            Phase::Preparing { earliest, latest } => {
                let all = self.members.values().all(|member| member.joining.is_some());
                now >= latest || (now >= earliest && all)
            }
        }
    }

    /// Ends the rebalance: a new generation of those who came. Returns their calls.
    pub(super) fn complete(&mut self, now: Timestamp, partitions: &[Partition]) -> Vec<(String, Call)> {
        self.members.retain(|_, member| member.joining.is_some());
        self.generation += 1;
        self.phase = Phase::Stable;
        self.withheld.clear();
        if self.members.is_empty() {
            self.empty_since = now;
        }
        let claim = |member: &'_ Member| (member.owned.clone(), member.join.topics.clone());
        let wishes: BTreeMap<String, _> =
            self.members.iter().map(|(name, member)| (name.clone(), claim(member))).collect();
        let claims =
            wishes.iter().map(|(name, (owned, topics))| (name.clone(), Claim { topics, owned })).collect();
        let owners = assign(partitions, &claims);
        for member in self.members.values_mut() {
            member.assigned.clear();
        }
        for (partition, target) in owners {
            let holder =
                wishes.iter().find(|(name, (owned, _))| **name != target && owned.contains(&partition));
            if let Some((holder, _)) = holder {
                self.withheld.insert(partition, holder.clone());
            } else if let Some(member) = self.members.get_mut(&target) {
                member.assigned.insert(partition);
            }
        }
        let mut calls = Vec::new();
        for (name, member) in &mut self.members {
            member.deadline = now.after(member.join.session_timeout);
            member.synced = false;
            calls.extend(member.joining.take().map(|call| (name.clone(), call)));
        }
        calls
    }

    /// The new coordinator knows the members but none of the requests that waited; their sessions begin anew.
    pub(super) fn reload(&mut self, until: Timestamp) -> Vec<Call> {
        self.loading_until = until;
        if let Phase::Preparing { earliest, latest } = self.phase {
            let patience = latest.since(earliest);
            self.phase = Phase::Preparing { earliest: until, latest: until.after(patience) };
        }
        for member in self.members.values_mut() {
            member.deadline = until.after(member.join.session_timeout);
        }
        self.members.values_mut().filter_map(|member| member.joining.take()).collect()
    }

    /// The member behind `who`, alive from now on, or how it is fenced (B17).
    pub(super) fn check(&mut self, now: Timestamp, who: &Membership) -> Result<&mut Member, ErrorCode> {
        let member = self.members.get_mut(&who.member).ok_or(ErrorCode::UnknownMember)?;
        if who.generation != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        member.deadline = now.after(member.join.session_timeout);
        Ok(member)
    }

    /// Whether `who` may commit. It need not own what it commits, nor move forward (B16).
    pub(super) fn may_commit(&mut self, now: Timestamp, who: &Membership) -> Result<(), ErrorCode> {
        if who.generation < 0 && self.members.is_empty() {
            return Ok(());
        }
        let member = self.check(now, who)?;
        // Between JoinGroup and SyncGroup; while members are still collected the old generation may commit.
        if member.synced { Ok(()) } else { Err(ErrorCode::RebalanceInProgress) }
    }

    /// The assignment of `who`.
    pub(super) fn sync(&mut self, now: Timestamp, who: &Membership) -> Result<Vec<Partition>, ErrorCode> {
        let preparing = self.phase != Phase::Stable;
        let member = self.check(now, who)?;
        if preparing {
            return Err(ErrorCode::RebalanceInProgress);
        }
        member.synced = true;
        Ok(member.assigned.iter().cloned().collect())
    }

    /// When a member's session ends, if nothing is heard from it. One whose join waits does not expire.
    pub(super) fn session_end(&self, now: Timestamp, name: &str) -> Option<Timestamp> {
        let member = self.members.get(name)?;
        let waits = member.joining.is_some();
        Some(if waits { now.after(member.join.session_timeout) } else { member.deadline })
    }
}
