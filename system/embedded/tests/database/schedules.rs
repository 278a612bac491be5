//! Random schedules of two to four sessions, step by step on the machine and on the oracle.
//!
//! After every step both must have answered the same statements in the same way, have the same statements waiting,
//! the same rows locked and the same rows committed. Beside that, and without the oracle: no update is lost, no event
//! is taken twice, no queue row is claimed twice.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use stormglass_embedded::{
    database::{Change, Cluster, Config, Observed, Request, Response, Schema, SqlError, Transaction},
    machine::{Call, Connection, Effect, Machine},
};
use stormglass_runtime::{
    AfterDeath, Answer, Claim, Image, ImageKey, InboxEntry, NewPending, Pending, RowSet, Statement,
    Timestamp, Versioned,
};
use uuid::Uuid;

use crate::{
    cases::domain::{Key, Row, account},
    cases::sut::{consumer, event, key, partition, pending},
    oracle::{Action, DEADLOCK_TIMEOUT_MS, Name, Oracle, Reply, Value},
};

const ACCOUNTS: u32 = 4;

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => prop::collection::vec(1..=ACCOUNTS, 1..3).prop_map(Action::Lock),
        4 => (1..=ACCOUNTS, 0..1_000i64).prop_map(|(id, balance)| Action::Set(id, balance)),
        2 => (1..=ACCOUNTS + 2).prop_map(Action::Create),
        3 => prop::collection::vec(0..4u8, 1..3).prop_map(Action::Take),
        2 => (0..3u8).prop_map(Action::Enqueue),
        2 => (1..4u8).prop_map(Action::Claim),
        4 => Just(Action::Commit),
        2 => Just(Action::Rollback),
        1 => Just(Action::Pause),
    ]
}

fn schedule() -> impl Strategy<Value = (usize, Vec<(usize, Action)>)> {
    (2..=4usize)
        .prop_flat_map(|sessions| (Just(sessions), prop::collection::vec((0..sessions, action()), 1..60)))
}

/// The machine, driven by hand.
struct Driven {
    cluster: Cluster,
    now: Timestamp,
    calls: u64,
    begun: BTreeMap<usize, bool>,
}

fn connection(session: usize) -> Connection {
    Connection { node: 0, number: session as u64 }
}

impl Driven {
    fn new(sessions: usize) -> Self {
        let config =
            Config { deadlock_timeout: Duration::from_millis(DEADLOCK_TIMEOUT_MS), ..Config::default() };
        let cluster = Cluster::new(Schema::of::<Row>(), config);
        let mut driven = Self { cluster, now: Timestamp(0), calls: 0, begun: BTreeMap::new() };
        for session in 0..sessions {
            driven.send(session, Request::Connect { application: "random".to_owned() });
        }
        driven
    }

    fn send(&mut self, session: usize, request: Request) -> Vec<(usize, Response)> {
        self.calls += 1;
        let call = Call { connection: connection(session), number: self.calls };
        let request = postcard::from_bytes(&postcard::to_allocvec(&request).unwrap()).unwrap();
        let effects = self.cluster.handle(self.now, call, request);
        Self::replies(effects)
    }

    fn replies(effects: Vec<Effect<Response>>) -> Vec<(usize, Response)> {
        let reply = |effect| match effect {
            Effect::Reply(call, response) => {
                let response = postcard::from_bytes(&postcard::to_allocvec(&response).unwrap()).unwrap();
                let Call { connection: Connection { number, .. }, .. } = call;
                (usize::try_from(number).unwrap(), response)
            }
            Effect::Hangup(connection) => panic!("{connection:?} was closed"),
        };
        effects.into_iter().map(reply).collect()
    }

    /// Does it, and rolls back whoever became a deadlock's victim.
    fn act(&mut self, session: usize, action: &Action, version: i64) -> Vec<(usize, Reply)> {
        let mut responses = Self::replies(self.cluster.tick(self.now));
        let fell = responses.iter().any(|(victim, response)| *victim == session && is_deadlock(response));
        if let (Some(request), false) = (self.request(session, action, version), fell) {
            responses.extend(self.send(session, request));
        }
        for (victim, response) in &responses {
            if is_deadlock(response) {
                assert_eq!(self.send(*victim, Request::Rollback), [(*victim, Response::RolledBack)]);
                self.begun.insert(*victim, false);
            }
        }
        responses.into_iter().map(|(session, response)| (session, reply(response))).collect()
    }

    fn request(&mut self, session: usize, action: &Action, version: i64) -> Option<Request> {
        let statement = match action {
            Action::Pause => return None,
            Action::Commit | Action::Rollback => {
                self.begun.insert(session, false);
                let commits = *action == Action::Commit;
                return Some(if commits { Request::Commit } else { Request::Rollback });
            }
            action => statement(action, version),
        };
        let begun = self.begun.insert(session, true).unwrap_or(false);
        let transaction = if begun { Transaction::Continue } else { Transaction::Begin };
        Some(Request::Execute { transaction, statement })
    }
}

fn is_deadlock(response: &Response) -> bool {
    *response == Response::Error(SqlError::DeadlockDetected)
}

fn image(row: &Row) -> Image {
    let table = Row::table(&row.key()).to_owned();
    Image { table, key: Row::key_text(&row.key()), body: serde_json::to_string(row).unwrap() }
}

fn statement(action: &Action, version: i64) -> Statement<Image> {
    let accounts = || "accounts".to_owned();
    match action {
        Action::Lock(ids) => {
            let key = |id: &u32| ImageKey { table: accounts(), key: Row::key_text(&Key::Account(*id)) };
            Statement::LockRows { table: accounts(), keys: ids.iter().map(key).collect() }
        }
        Action::Set(id, balance) => {
            let rows = vec![Versioned { row: image(&account(*id, *balance)), version }];
            Statement::UpdateRows { table: accounts(), rows }
        }
        Action::Create(id) => {
            Statement::InsertRows { table: accounts(), rows: vec![image(&account(*id, 0))] }
        }
        Action::Take(ids) => {
            let entry = |id: &u8| InboxEntry { event_id: event(u128::from(*id)), at: partition(0).at(0) };
            Statement::TakeInbox { consumer: consumer(), entries: ids.iter().map(entry).collect() }
        }
        Action::Enqueue(of) => {
            let row = NewPending { key: key(&of.to_string()), ..pending("", 0) };
            Statement::Enqueue { consumer: consumer(), rows: vec![row] }
        }
        Action::Claim(limit) => Statement::Claim {
            consumer: consumer(),
            claim: Claim { id: Uuid::from_u128(1), lease: Duration::from_secs(1_000_000) },
            limit: u32::from(*limit),
            after_death: AfterDeath::Hold,
        },
        Action::Commit | Action::Rollback | Action::Pause => unreachable!("no statements"),
    }
}

fn value(versioned: &Versioned<Image>) -> (u32, Value) {
    match serde_json::from_str(&versioned.row.body).unwrap() {
        Row::Account { id, balance } => (id, Value(balance, versioned.version)),
        Row::Stock { .. } => panic!("no stock here"),
    }
}

fn reply(response: Response) -> Reply {
    match response {
        Response::Committed => Reply::Committed,
        Response::RolledBack => Reply::RolledBack,
        Response::Error(SqlError::DeadlockDetected) => Reply::Deadlock,
        Response::Answer(Answer::Rows(rows)) => Reply::Rows(rows.iter().map(value).collect()),
        Response::Answer(Answer::Count(count)) => Reply::Count(count),
        Response::Answer(Answer::Fresh(ids)) => {
            Reply::Fresh(ids.iter().map(|id| u8::try_from(id.0.as_u128()).unwrap()).collect())
        }
        Response::Answer(Answer::Sequence(seqs)) => Reply::Seq(seqs[0]),
        Response::Answer(Answer::Pending(rows)) => {
            Reply::Claimed(rows.iter().map(|row| row.id.seq).collect())
        }
        other => panic!("{other:?}"),
    }
}

fn committed(cluster: &Cluster) -> BTreeMap<Name, Value> {
    let tables = cluster.tables();
    let accounts = tables.rows.get("accounts").into_iter().flatten().map(|(_, row)| {
        let (id, value) = value(row);
        (Name::Account(id), value)
    });
    let events =
        tables.inbox.keys().map(|(_, id)| (Name::Event(u8::try_from(id.0.as_u128()).unwrap()), Value(0, 1)));
    accounts.chain(events).chain(tables.pending.values().map(queued)).collect()
}

fn queued(row: &Pending) -> (Name, Value) {
    let key = std::str::from_utf8(&row.id.key.0).unwrap().parse().unwrap();
    (Name::Queued(key, row.id.seq), Value(i64::from(row.attempts), i64::from(row.claim.is_some())))
}

/// The committed rows as the evidence tells them.
fn told_by_evidence(observed: Vec<Observed>) -> BTreeMap<Name, Value> {
    let mut rows = BTreeMap::new();
    for observed in observed {
        let Observed::Committed { changes, .. } = observed else { continue };
        for change in changes {
            match change {
                Change::Row { before, after } => {
                    let (id, Value(balance, _)) = value(&Versioned { row: after, version: 0 });
                    let version: &mut Value = rows.entry(Name::Account(id)).or_insert(Value(0, 0));
                    assert_eq!(before.is_some(), version.1 > 0);
                    *version = Value(balance, version.1 + 1);
                }
                Change::Taken { entry, .. } => {
                    let id = u8::try_from(entry.event_id.0.as_u128()).unwrap();
                    assert_eq!(rows.insert(Name::Event(id), Value(0, 1)), None);
                }
                Change::Pending { before, after: Some(after), .. } => {
                    let (name, queued_value) = queued(&after);
                    assert_eq!(rows.insert(name, queued_value), before.map(|before| queued(&before).1));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    rows
}

/// What committed transactions were told, checked without the oracle.
#[derive(Default)]
struct Told {
    open: BTreeMap<usize, Vec<(Action, Reply)>>,
    committed: Vec<(Action, Reply)>,
    asked: BTreeMap<usize, Action>,
}

impl Told {
    fn hear(&mut self, session: usize, reply: &Reply) {
        match reply {
            Reply::Committed => self.committed.extend(self.open.remove(&session).unwrap_or_default()),
            Reply::RolledBack | Reply::Deadlock => {
                self.open.remove(&session);
            }
            _ => {
                let asked = self.asked.get(&session).expect("every reply was asked for").clone();
                self.open.entry(session).or_default().push((asked, reply.clone()));
            }
        }
    }

    fn check(&self, rows: &BTreeMap<Name, Value>) {
        let mut versions: BTreeMap<u32, i64> = BTreeMap::new();
        let (mut taken, mut claimed) = (Vec::new(), Vec::new());
        for (action, reply) in &self.committed {
            match (action, reply) {
                (Action::Set(id, _) | Action::Create(id), Reply::Count(1)) => {
                    *versions.entry(*id).or_default() += 1;
                }
                (_, Reply::Fresh(ids)) => taken.extend(ids.iter().copied()),
                (_, Reply::Claimed(seqs)) => claimed.extend(seqs.iter().copied()),
                _ => {}
            }
        }
        for (id, version) in versions {
            assert_eq!(rows[&Name::Account(id)].1, version, "a lost update of account {id}");
        }
        for mut once in [taken.iter().map(|id| i64::from(*id)).collect(), claimed] {
            once.sort_unstable();
            let all = once.len();
            once.dedup();
            assert_eq!(once.len(), all, "taken or claimed twice");
        }
    }
}

fn step(driven: &mut Driven, oracle: &mut Oracle, told: &mut Told, (session, action): (usize, &Action)) {
    if !oracle.can_act(session, action) {
        return;
    }
    let passed = if *action == Action::Pause { DEADLOCK_TIMEOUT_MS + 100 } else { 1 };
    driven.now = driven.now.after(Duration::from_millis(passed));
    let version = match action {
        Action::Set(id, _) => oracle.version_seen(session, *id),
        _ => 0,
    };
    if *action != Action::Pause {
        told.asked.insert(session, action.clone());
    }
    let got = driven.act(session, action, version);
    let want = oracle.act(session, action, passed);
    assert_eq!(got, want, "session {session} did {action:?}");
    for (session, reply) in &got {
        told.hear(*session, reply);
    }
    assert_eq!(driven.cluster.held_locks(), oracle.locked_rows(), "after {action:?} of session {session}");
    let waiting = (0..4).filter(|&session| oracle.is_waiting(session)).count();
    assert_eq!(driven.cluster.waiting_statements(), waiting, "after {action:?} of session {session}");
    assert_eq!(committed(&driven.cluster), oracle.committed, "after {action:?} of session {session}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_schedules_agree_with_the_oracle((sessions, actions) in schedule()) {
        let (mut driven, mut oracle, mut told) = (Driven::new(sessions), Oracle::default(), Told::default());
        for id in 1..=ACCOUNTS {
            step(&mut driven, &mut oracle, &mut told, (0, &Action::Create(id)));
        }
        step(&mut driven, &mut oracle, &mut told, (0, &Action::Commit));
        for (session, action) in &actions {
            step(&mut driven, &mut oracle, &mut told, (*session, action));
        }
        while (0..sessions).any(|session| oracle.is_open(session)) {
            step(&mut driven, &mut oracle, &mut told, (0, &Action::Pause));
            for session in 0..sessions {
                step(&mut driven, &mut oracle, &mut told, (session, &Action::Commit));
            }
        }
        told.check(&committed(&driven.cluster));
        prop_assert_eq!(told_by_evidence(driven.cluster.drain_observed()), committed(&driven.cluster));
        prop_assert_eq!((driven.cluster.open_transactions(), driven.cluster.held_locks()), (0, 0));
    }
}
