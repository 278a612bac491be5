//! Consumer groups against an oracle: random members that join, stall, leave and crash, and a coordinator that moves.
//!
//! The members here are a second, minimal client of the group protocol, written against KIP-429's rules and not
//! against the machine. The oracle: within a generation nobody is given what another still holds; generations grow;
//! an old generation cannot commit; and when the storm is over, every partition has exactly one owner, fairly.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;
use stormglass_embedded::{
    broker::{Cluster, ClusterConfig, ErrorCode, Join, Membership, Request, Response, TopicConfig},
    machine::{Call, Connection, Effect, Machine, Node},
};
use stormglass_runtime::{Partition, Timestamp};

use super::cases::sut::{group, partition, topic};

const MEMBERS: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    /// A member does what is next: join, fetch its assignment, give up what it must, or a heartbeat.
    Act(usize),
    /// A member commits under what it believes to be its generation.
    Commit(usize),
    /// A member is gone without a word; another process takes its place here.
    Crash(usize),
    Leave(usize),
    CrashNode(Node),
    RestartNode(Node),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..MEMBERS).prop_map(Step::Act),
        3 => (0..MEMBERS).prop_map(Step::Commit),
        1 => (0..MEMBERS).prop_map(Step::Crash),
        1 => (0..MEMBERS).prop_map(Step::Leave),
        1 => (0usize..3).prop_map(Step::CrashNode),
        2 => (0usize..3).prop_map(Step::RestartNode),
        4 => (1u64..300).prop_map(Step::Wait),
        1 => (300u64..6_000).prop_map(Step::Wait),
    ]
}

#[derive(Clone, Default)]
struct Client {
    id: String,
    generation: i32,
    /// What it holds: given to it and not yet given up.
    holds: BTreeSet<Partition>,
    next: Next,
}

#[derive(Clone, Default, PartialEq)]
enum Next {
    #[default]
    Join,
    /// An answer is awaited.
    Answer(Call, Asked),
    Sync,
    /// Give up all but these, then join.
    Release(BTreeSet<Partition>),
    Heartbeat,
}

#[derive(Clone, Copy, PartialEq)]
enum Asked {
    Join,
    Sync,
    Heartbeat,
}

struct World {
    cluster: Cluster,
    now: Timestamp,
    calls: u64,
    partitions: u32,
    clients: Vec<Client>,
    /// The latest generation anyone has heard of.
    generation: i32,
}

impl World {
    fn new(partitions: u32) -> Self {
        let config = ClusterConfig::new(vec![TopicConfig::new("orders", partitions)]).scaled_down(10);
        Self {
            cluster: Cluster::new(ClusterConfig { observe: false, ..config }),
            now: Timestamp(0),
            calls: 0,
            partitions,
            clients: vec![Client::default(); MEMBERS],
            generation: 0,
        }
    }

    fn ask(&mut self, request: Request) -> (Call, Vec<Effect<Response>>) {
        self.calls += 1;
        let node = self.cluster.coordinator(&group()).unwrap_or(0);
        let call = Call { connection: Connection { node, number: self.calls }, number: 0 };
        let effects = self.cluster.handle(self.now, call, request);
        (call, effects)
    }

    fn who(&self, member: usize) -> Membership {
        let client = &self.clients[member];
        Membership { group: group(), member: client.id.clone(), generation: client.generation }
    }

    fn take(&mut self, step: Step) {
        let effects = match step {
            Step::Act(member) => return self.act(member),
            Step::Commit(member) => return self.commit(member),
            Step::Crash(member) => {
                self.clients[member] = Client::default();
                return;
            }
            Step::Leave(member) => {
                let (_, effects) = self.ask(Request::Leave(self.who(member)));
                self.clients[member] = Client::default();
                effects
            }
            Step::CrashNode(node) => self.cluster.crash(self.now, node),
            Step::RestartNode(node) => self.cluster.restart(self.now, node),
            Step::Wait(millis) => return self.wait(Duration::from_millis(millis)),
        };
        self.hear(effects);
    }

    fn act(&mut self, member: usize) {
        let client = self.clients[member].clone();
        let (request, asked) = match client.next {
            Next::Answer(..) => return,
            Next::Sync => (Request::Sync(self.who(member)), Asked::Sync),
            Next::Heartbeat => (Request::Heartbeat(self.who(member)), Asked::Heartbeat),
            Next::Release(kept) => {
                self.clients[member].holds = kept;
                self.clients[member].next = Next::Join;
                return;
            }
            Next::Join => {
                let join = Join {
                    group: group(),
                    member: client.id,
                    client_id: format!("member{member}"),
                    topics: vec![topic()],
                    owned: client.holds.into_iter().collect(),
                    session_timeout: Duration::from_millis(1_000),
                    rebalance_timeout: Duration::from_millis(2_000),
                };
                (Request::Join(join), Asked::Join)
            }
        };
        let (call, effects) = self.ask(request);
        self.clients[member].next = Next::Answer(call, asked);
        self.hear(effects);
    }

    fn commit(&mut self, member: usize) {
        let who = self.who(member);
        let outdated = who.generation < self.generation;
        let (call, effects) = self.ask(Request::CommitOffsets(who, vec![partition(0).at(1)]));
        let accepted = effects.contains(&Effect::Reply(call, Response::Done));
        assert!(!(accepted && outdated), "an old generation has committed");
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some(due) = self.cluster.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let effects = self.cluster.tick(self.now);
            self.hear(effects);
        }
        self.now = end;
    }

    fn hear(&mut self, effects: Vec<Effect<Response>>) {
        for effect in effects {
            for member in 0..MEMBERS {
                let Next::Answer(call, asked) = self.clients[member].next else { continue };
                match &effect {
                    Effect::Hangup(connection) if *connection == call.connection => {
                        self.unheard(member, asked)
                    }
                    Effect::Reply(to, response) if *to == call => {
                        self.answered(member, asked, response.clone())
                    }
                    Effect::Hangup(_) | Effect::Reply(..) => {}
                }
            }
        }
    }

    fn unheard(&mut self, member: usize, asked: Asked) {
        self.clients[member].next = match asked {
            Asked::Join => Next::Join,
            Asked::Sync => Next::Sync,
            Asked::Heartbeat => Next::Heartbeat,
        };
    }

    fn answered(&mut self, member: usize, asked: Asked, response: Response) {
        let client = &mut self.clients[member];
        match response {
            Response::MemberId(id) => {
                client.id = id;
                client.next = Next::Join;
            }
            Response::Joined(generation) => {
                assert!(generation >= client.generation, "a generation has shrunk");
                client.generation = generation;
                client.next = Next::Sync;
                self.generation = self.generation.max(generation);
            }
            Response::Synced(assignment) => self.given(member, assignment.into_iter().collect()),
            Response::Done => client.next = Next::Heartbeat,
            Response::Failed(ErrorCode::RebalanceInProgress) => client.next = Next::Join,
            Response::Failed(ErrorCode::UnknownMember) => *client = Client::default(),
            Response::Failed(ErrorCode::IllegalGeneration) => {
                client.holds.clear();
                client.next = Next::Join;
            }
            Response::Failed(_) => self.unheard(member, asked),
            other => panic!("{other:?}"),
        }
    }

    fn given(&mut self, member: usize, assignment: BTreeSet<Partition>) {
        let generation = self.clients[member].generation;
        for (other, client) in self.clients.iter().enumerate() {
            let both = other != member && client.generation == generation && !client.id.is_empty();
            assert!(!both || client.holds.is_disjoint(&assignment), "given while another holds it");
        }
        let client = &mut self.clients[member];
        let revoked = !client.holds.is_subset(&assignment);
        client.next = if revoked { Next::Release(assignment.clone()) } else { Next::Heartbeat };
        client.holds.extend(assignment);
    }

    /// Everyone who is left behaves, and nothing fails any more.
    fn settle(&mut self) {
        for node in 0..3 {
            self.take(Step::RestartNode(node));
        }
        for _ in 0..60 {
            for member in 0..MEMBERS {
                self.act(member);
                self.act(member);
            }
            self.wait(Duration::from_millis(100));
        }
        let held: Vec<&Partition> = self.clients.iter().flat_map(|client| &client.holds).collect();
        let all: BTreeSet<Partition> = (0..self.partitions).map(partition).collect();
        assert_eq!(held.len(), all.len(), "owned twice, or not at all: {held:?}");
        assert_eq!(held.into_iter().cloned().collect::<BTreeSet<_>>(), all);
        let shares = self.clients.iter().map(|client| client.holds.len());
        assert!(shares.clone().max().unwrap() - shares.min().unwrap() <= 1, "not fair");
        assert!(self.clients.iter().all(|client| client.generation == self.generation));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_is_given_what_another_holds_and_in_the_end_all_is_owned(
        partitions in 1u32..8,
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut world = World::new(partitions);
        for step in steps {
            world.take(step);
        }
        world.settle();
    }
}

#[test]
fn b17_a_commit_between_join_and_sync_is_refused() {
    let mut world = World::new(2);
    world.act(0);
    world.act(0);
    world.wait(Duration::from_secs(1));
    let position = partition(0).at(1);
    let commit = |world: &mut World| {
        let who = world.who(0);
        world.ask(Request::CommitOffsets(who, vec![position.clone()])).1.pop()
    };
    let refused = commit(&mut world);
    assert!(
        matches!(refused, Some(Effect::Reply(_, Response::Failed(ErrorCode::RebalanceInProgress)))),
        "{refused:?}"
    );
    world.act(0);
    assert!(matches!(commit(&mut world), Some(Effect::Reply(_, Response::Done))));
}
