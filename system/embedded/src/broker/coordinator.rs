//! The coordinators of consumer groups: who answers for a group, its alarms, and its committed offsets.
//!
//! A group's coordinator is the leader of one partition of the offsets topic, which is elected like any other, so a
//! coordinator moves as B28 says. Simplified: groups and commits are not records of that partition but survive by
//! themselves, and a coordinator that its peers cannot hear refuses requests instead of letting them time out.

use std::time::Duration;

use stormglass_runtime::{ConsumerName, Partition, Position, Timestamp};

use super::{
    client::murmur2,
    cluster::{Alarm, Cluster, ago},
    group::{Group, Joined, Phase},
    observed::Observed,
    request::{ErrorCode, Join, Membership, Response},
};
use crate::machine::{Call, Node};

impl Cluster {
    /// The partition of the offsets topic that `group` belongs to, as an index.
    pub(super) fn slot(&self, group: &ConsumerName) -> usize {
        let hash = usize::try_from(murmur2(group.as_str().as_bytes()) & 0x7fff_ffff).unwrap_or(0);
        self.coordinators[hash % self.coordinators.len()]
    }

    /// The group, if `node` is the one to ask.
    fn coordinate(
        &mut self,
        now: Timestamp,
        node: Node,
        group: &ConsumerName,
    ) -> Result<&mut Group, ErrorCode> {
        if self.partitions[self.slot(group)].leader != Some(node) {
            Err(ErrorCode::NotCoordinator)
        } else if !self.topology.is_heard(node) {
            Err(ErrorCode::CoordinatorNotAvailable)
        } else {
            let group = self.groups.entry(group.clone()).or_default();
            if now < group.loading_until { Err(ErrorCode::CoordinatorLoading) } else { Ok(group) }
        }
    }

    /// The group, if any broker can coordinate it now: what its alarms ask before they do anything.
    fn coordinated(&mut self, now: Timestamp, group: &ConsumerName) -> Option<&mut Group> {
        let leader = self.coordinator(group)?;
        self.coordinate(now, leader, group).ok()
    }

    /// When to look again at a group that no broker can coordinate now. Never at once, or time would stand still.
    fn next_look(&self, now: Timestamp) -> Timestamp {
        now.after(self.config.coordinator_load.max(Duration::from_millis(10)))
    }

    pub(super) fn join_group(&mut self, now: Timestamp, call: Call, join: Join) {
        let (group, client) = (join.group.clone(), join.client_id.clone());
        let (name, session) = (join.member.clone(), join.session_timeout);
        let state = match self.coordinate(now, call.connection.node, &group) {
            Ok(state) => state,
            Err(code) => return self.out.fail(call, code),
        };
        let first = state.members.is_empty();
        let known = state.members.contains_key(&name);
        match state.join(now, call, join) {
            Joined::Unknown => self.out.fail(call, ErrorCode::UnknownMember),
            Joined::Stands => {
                let generation = state.generation;
                self.out.reply(call, Response::Joined(generation));
            }
            Joined::Named => {
                self.members_named += 1;
                let name = format!("{client}-{}", self.members_named);
                if let Some(state) = self.groups.get_mut(&group) {
                    state.issue(now, name.clone(), session);
                }
                self.out.reply(call, Response::MemberId(name));
            }
            Joined::Waits(superseded) => {
                if let Some(superseded) = superseded {
                    self.out.fail(superseded, ErrorCode::RebalanceInProgress);
                }
                if !known {
                    self.out.alarm(now.after(session), Alarm::Session(group.clone(), name));
                }
                let hold = if first { self.config.initial_rebalance_delay } else { Duration::ZERO };
                self.rebalance(now, &group, hold);
            }
        }
    }

    /// Begins a rebalance unless one goes on, and ends it if everyone is there.
    fn rebalance(&mut self, now: Timestamp, group: &ConsumerName, hold: Duration) {
        let Some(state) = self.groups.get_mut(group) else { return };
        let began = state.phase == Phase::Stable;
        if let Phase::Preparing { earliest, latest } = state.prepare(now, hold)
            && began
        {
            self.out.alarm(earliest, Alarm::Rebalance(group.clone()));
            self.out.alarm(latest, Alarm::Rebalance(group.clone()));
        }
        self.rebalance_timeout(now, group);
    }

    /// Ends a rebalance that has everyone, or has waited long enough.
    pub(super) fn rebalance_timeout(&mut self, now: Timestamp, group: &ConsumerName) {
        let Some(state) = self.coordinated(now, group) else {
            return self.out.alarm(self.next_look(now), Alarm::Rebalance(group.clone()));
        };
        if !state.is_ready(now) {
            return;
        }
        let offsets_topics = &self.coordinators;
        let named = self.partitions.iter().enumerate().filter(|(index, _)| !offsets_topics.contains(index));
        let partitions: Vec<Partition> = named.map(|(_, partition)| partition.name.clone()).collect();
        let Some(state) = self.groups.get_mut(group) else { return };
        let calls = state.complete(now, &partitions);
        let generation = state.generation;
        for (member, call) in calls {
            let partitions = || state.members[&member].assigned.iter().cloned().collect();
            self.out.observe(|| Observed::Assigned {
                at: now,
                group: group.clone(),
                member: member.clone(),
                generation,
                partitions: partitions(),
            });
            self.out.reply(call, Response::Joined(generation));
        }
        if state.members.is_empty() {
            self.out.alarm(now.after(self.config.offsets_retention), Alarm::Expire(group.clone()));
        }
    }

    pub(super) fn sync_group(&mut self, now: Timestamp, call: Call, who: &Membership) {
        let answer =
            self.coordinate(now, call.connection.node, &who.group).and_then(|group| group.sync(now, who));
        self.out.reply(call, answer.map_or_else(Response::Failed, Response::Synced));
    }

    pub(super) fn heartbeat(&mut self, now: Timestamp, call: Call, who: &Membership) {
        let answer = self.coordinate(now, call.connection.node, &who.group).and_then(|group| {
            group.check(now, who)?;
            if group.phase == Phase::Stable { Ok(()) } else { Err(ErrorCode::RebalanceInProgress) }
        });
        self.out.reply(call, answer.map_or_else(Response::Failed, |()| Response::Done));
    }

    pub(super) fn leave_group(&mut self, now: Timestamp, call: Call, who: &Membership) {
        let left =
            self.coordinate(now, call.connection.node, &who.group).map(|group| group.remove(&who.member));
        match left {
            Err(code) => self.out.fail(call, code),
            Ok(false) => self.out.fail(call, ErrorCode::UnknownMember),
            Ok(true) => {
                self.out.reply(call, Response::Done);
                self.rebalance(now, &who.group, Duration::ZERO);
            }
        }
    }

    /// Removes a member that was not heard for its session timeout (B19).
    pub(super) fn session_timeout(&mut self, now: Timestamp, group: &ConsumerName, member: &str) {
        let Some(state) = self.coordinated(now, group) else {
            return self.out.alarm(self.next_look(now), Alarm::Session(group.clone(), member.to_owned()));
        };
        match state.session_end(now, member) {
            None => {}
            Some(end) if end > now => self.out.alarm(end, Alarm::Session(group.clone(), member.to_owned())),
            Some(_) => {
                state.remove(member);
                self.rebalance(now, group, Duration::ZERO);
            }
        }
    }

    pub(super) fn commit_offsets(
        &mut self,
        now: Timestamp,
        call: Call,
        who: &Membership,
        positions: Vec<Position>,
    ) {
        let group = self.coordinate(now, call.connection.node, &who.group);
        if let Err(code) = group.and_then(|group| group.may_commit(now, who)) {
            return self.out.fail(call, code);
        }
        for position in positions {
            if let Some(group) = self.groups.get_mut(&who.group) {
                group.offsets.insert(position.partition.clone(), position.offset);
            }
            self.out.observe(|| Observed::Reported { at: now, group: who.group.clone(), position });
        }
        self.out.reply(call, Response::Done);
    }

    pub(super) fn fetch_offsets(
        &mut self,
        now: Timestamp,
        call: Call,
        group: &ConsumerName,
        partitions: &[Partition],
    ) {
        let group = self.coordinate(now, call.connection.node, group);
        let offsets = |group: &mut Group| partitions.iter().map(|p| group.offsets.get(p).copied()).collect();
        let answer = group.map(offsets);
        self.out.reply(call, answer.map_or_else(Response::Failed, Response::Offsets));
    }

    /// Forgets what an empty group committed (B24).
    pub(super) fn expire_offsets(&mut self, now: Timestamp, group: &ConsumerName) {
        let then = ago(now, self.config.offsets_retention);
        if let Some(state) = self.groups.get_mut(group)
            && state.members.is_empty()
            && state.empty_since <= then
        {
            state.offsets.clear();
        }
    }

    /// The groups of an offsets partition have a new coordinator, or their old one has started anew (B28).
    pub(super) fn load_groups(&mut self, now: Timestamp, slot: usize) {
        let until = now.after(self.config.coordinator_load);
        let names: Vec<ConsumerName> =
            self.groups.keys().filter(|name| self.slot(name) == slot).cloned().collect();
        for name in names {
            let Some(group) = self.groups.get_mut(&name) else { continue };
            for call in group.reload(until) {
                self.out.fail(call, ErrorCode::NotCoordinator);
            }
            if let Phase::Preparing { earliest, latest } = group.phase {
                self.out.alarm(earliest, Alarm::Rebalance(name.clone()));
                self.out.alarm(latest, Alarm::Rebalance(name));
            }
        }
    }
}
