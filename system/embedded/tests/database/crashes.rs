//! Random commits, crashes and failovers: what is lost is what may be lost, and the evidence tells exactly that.
//!
//! Each transaction inserts one account and emits one record, so that half a transaction shows. The oracle is a list
//! of commits, cut where the evidence says so, and the settings' promise of how much a cut may take.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use stormglass_embedded::{
    database::{
        Cluster, Config, NODES, Observed, Promotion, Replication, Request, Response, Schema,
        SynchronousCommit, Transaction,
    },
    machine::{Call, Connection, Effect, Machine},
};
use stormglass_runtime::{Freshness, Image, RowSet, Scan, Statement, Timestamp};

use crate::{
    cases::domain::{Row, account},
    cases::sut::record,
};

const LAG: Duration = Duration::from_millis(50);
const WAL_WRITER_DELAY: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Commit,
    /// A transaction that is never committed.
    Abandon,
    Pause(u64),
    Crash,
    KillBackend,
    SwitchOver,
    Failover,
    ReplicaDown,
    ReplicaUp,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => Just(Event::Commit),
        1 => Just(Event::Abandon),
        4 => (1..120u64).prop_map(Event::Pause),
        1 => Just(Event::Crash),
        1 => Just(Event::KillBackend),
        1 => Just(Event::SwitchOver),
        1 => Just(Event::Failover),
        1 => Just(Event::ReplicaDown),
        2 => Just(Event::ReplicaUp),
    ]
}

struct World {
    cluster: Cluster,
    config: Config,
    now: Timestamp,
    next: u32,
    committing: BTreeMap<Call, u32>,
    acknowledged: BTreeMap<u32, Timestamp>,
    /// What the evidence says is committed.
    history: Vec<(Freshness, u32)>,
}

impl World {
    fn new(config: Config) -> Self {
        let cluster = Cluster::new(Schema::of::<Row>(), config.clone());
        Self {
            cluster,
            config,
            now: Timestamp(0),
            next: 0,
            committing: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            history: Vec::new(),
        }
    }

    fn hear(&mut self, effects: Vec<Effect<Response>>) -> Option<Response> {
        let mut last = None;
        for effect in effects {
            if let Effect::Reply(call, response) = effect {
                if let (Response::Committed, Some(id)) = (&response, self.committing.remove(&call)) {
                    self.acknowledged.insert(id, self.now);
                }
                last = Some(response);
            }
        }
        last
    }

    fn send(&mut self, connection: Connection, number: u64, request: Request) -> Option<Response> {
        let effects = self.cluster.handle(self.now, Call { connection, number }, request);
        self.hear(effects)
    }

    fn connect(&mut self, node: usize) -> Connection {
        self.next += 1;
        let connection = Connection { node, number: u64::from(self.next) };
        self.send(connection, 0, Request::Connect { application: self.next.to_string() });
        connection
    }

    fn transaction(&mut self, commits: bool) {
        let connection = self.connect(self.cluster.primary());
        let row = account(self.next, 0);
        let table = "accounts".to_owned();
        let body = serde_json::to_string(&row).unwrap();
        let image = Image { table: table.clone(), key: Row::key_text(&row.key()), body };
        let insert = Statement::InsertRows { table, rows: vec![image] };
        let emit = Statement::Emit { records: vec![record(&self.next.to_string())] };
        self.send(connection, 1, Request::Execute { transaction: Transaction::Begin, statement: insert });
        self.send(connection, 2, Request::Execute { transaction: Transaction::Continue, statement: emit });
        if commits {
            self.committing.insert(Call { connection, number: 3 }, self.next);
            self.send(connection, 3, Request::Commit);
        }
    }

    fn strike(&mut self, event: Event) {
        let primary = self.cluster.primary();
        let standby = NODES - 1 - primary;
        let mut effects = Vec::new();
        match event {
            Event::Commit => self.transaction(true),
            Event::Abandon => self.transaction(false),
            Event::Pause(millis) => self.now = self.now.after(Duration::from_millis(millis)),
            Event::Crash => {
                effects = self.cluster.crash(primary);
                effects.extend(self.cluster.restart(primary));
            }
            Event::KillBackend => effects = self.cluster.kill_backend(),
            Event::SwitchOver => effects = self.cluster.promote(Promotion::Everything),
            Event::Failover => effects = self.cluster.promote(Promotion::LosingSuffix),
            Event::ReplicaDown => effects = self.cluster.crash(standby),
            Event::ReplicaUp => effects = self.cluster.restart(standby),
        }
        if self.cluster.primary() != primary {
            effects.extend(self.cluster.rejoin(primary));
        }
        self.hear(effects);
        let effects = self.cluster.tick(self.now);
        self.hear(effects);
    }

    /// Reads the evidence. Returns what it says is lost.
    fn read_evidence(&mut self) -> Vec<u32> {
        let mut lost = Vec::new();
        for observed in self.cluster.drain_observed() {
            match observed {
                Observed::Committed { lsn, session, .. } => {
                    self.history.push((lsn, session.parse().unwrap()))
                }
                Observed::LostSuffix { lsn: fork, .. } => {
                    lost.extend(self.history.extract_if(.., |(lsn, _)| lsn.lsn > fork.lsn).map(|(_, id)| id));
                }
                Observed::Read { .. } => {}
            }
        }
        lost
    }

    /// Since when acknowledged commits may be lost by this event; `None`: none may.
    fn may_lose_since(&self, event: Event) -> Option<Duration> {
        let unflushed = match (self.config.synchronous_commit, self.config.replication) {
            (SynchronousCommit::Off, Replication::Asynchronous) => Some(WAL_WRITER_DELAY),
            (SynchronousCommit::On, _) | (_, Replication::Synchronous) => None,
        };
        match (event, self.config.replication) {
            (Event::Crash | Event::KillBackend, _) => unflushed,
            (Event::Failover, Replication::Asynchronous) => Some(unflushed.unwrap_or_default().max(LAG)),
            _ => None,
        }
    }

    fn check(&mut self, event: Event) {
        for id in self.read_evidence() {
            if let Some(at) = self.acknowledged.remove(&id) {
                let window = self.may_lose_since(event).expect("nothing acknowledged may be lost");
                assert!(self.now.since(at) <= window, "{id} was acknowledged {:?} ago", self.now.since(at));
            }
        }
        let tables = self.cluster.tables();
        let stored: Vec<_> =
            tables.rows.get("accounts").into_iter().flat_map(BTreeMap::keys).cloned().collect();
        let said: Vec<_> = self.ids_until(u64::MAX);
        assert_eq!(stored, said, "the tables are what the evidence says");
        let mut emitted: Vec<_> = tables
            .outbox
            .iter()
            .map(|row| format!("{:0>10}", row.record.value.escape_ascii().to_string()))
            .collect();
        emitted.sort_unstable();
        assert_eq!(emitted, said, "no transaction is half there");
        for id in self.acknowledged.keys() {
            assert!(stored.contains(&format!("{id:010}")), "{id} was acknowledged");
        }
        let token = self.read(self.cluster.primary(), None);
        let last = self.history.last().map_or(0, |(lsn, _)| lsn.lsn);
        assert_eq!(token.map(|token| token.lsn), Some(last), "a token promises nothing that is lost");
        self.read(NODES - 1 - self.cluster.primary(), None);
        self.read(NODES - 1 - self.cluster.primary(), token);
    }

    fn ids_until(&self, lsn: u64) -> Vec<String> {
        let shown = self.history.iter().filter(|(at, _)| at.lsn <= lsn);
        let mut ids: Vec<_> = shown.map(|(_, id)| format!("{id:010}")).collect();
        ids.sort_unstable();
        ids
    }

    /// A node shows exactly what was committed up to its token, and no less than it was asked for.
    fn read(&mut self, node: usize, at_least: Option<Freshness>) -> Option<Freshness> {
        let connection = self.connect(node);
        let scan = Scan { table: "accounts".to_owned(), prefix: String::new(), after: None, limit: u32::MAX };
        match self.send(connection, 1, Request::Scan { scan, at_least })? {
            Response::Rows(rows, lsn) => {
                let shown: Vec<_> = rows.into_iter().map(|row| row.row.key).collect();
                assert_eq!(shown, self.ids_until(lsn.lsn), "node {node} at {lsn:?}");
                assert!(at_least.is_none_or(|at_least| at_least <= lsn));
                Some(lsn)
            }
            Response::NotFresh(lsn) => {
                assert!(at_least.is_some_and(|at_least| at_least > lsn));
                None
            }
            other => panic!("{other:?}"),
        }
    }
}

fn config() -> impl Strategy<Value = Config> {
    let synchronous_commit = prop_oneof![Just(SynchronousCommit::On), Just(SynchronousCommit::Off)];
    let replication = prop_oneof![Just(Replication::Asynchronous), Just(Replication::Synchronous)];
    (synchronous_commit, replication).prop_map(|(synchronous_commit, replication)| Config {
        synchronous_commit,
        replication,
        replication_lag: LAG,
        wal_writer_delay: WAL_WRITER_DELAY,
        max_connections: usize::MAX,
        ..Config::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn crashes_and_failovers_lose_only_what_they_may(
        config in config(),
        events in prop::collection::vec(event(), 1..80),
    ) {
        let mut world = World::new(config);
        for event in events {
            world.strike(event);
            world.check(event);
        }
    }
}
