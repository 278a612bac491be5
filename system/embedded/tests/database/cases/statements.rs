//! What each statement promises beyond locking.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use stormglass_embedded::database::Config;
use stormglass_runtime::{
    Answer, Failure, InboxEntry, Lease, NewPending, ORDERING_KEY_BYTES_MAX, OrderingKey, Reason, Record,
    Scan, Statement, derive_id,
};
use uuid::Uuid;

use super::{
    domain::{Key, Row, account, at},
    sut::{
        Kind, Sut, consumer, emit, enqueue, event, insert, partition, pause, pending, record, take, update,
    },
};

async fn refused(sut: &Sut, statement: Statement<Row>) -> Reason {
    let mut session = sut.begin().await;
    let failure = session.execute(statement).await.expect_err("it is to be refused");
    session.rollback().await;
    match failure {
        Failure::Rejected(reason) => reason,
        other => panic!("{other}"),
    }
}

pub async fn constraints_and_values_are_checked(kind: &dyn Kind) {
    let sut = kind.start(Config::default()).await;
    sut.run(insert([account(1, 1)])).await;
    let negative = Reason::Constraint("balance_not_negative".to_owned());
    assert_eq!(refused(&sut, insert([account(2, 1), account(3, -1)])).await, negative);
    assert_eq!(refused(&sut, update(1, account(1, -1))).await, negative);
    let stock = |note: &str| Statement::InsertRows {
        table: "stock".to_owned(),
        rows: vec![Row::Stock { sku: 1, left: 1, note: note.to_owned() }],
    };
    assert!(matches!(refused(&sut, stock("a\0b")).await, Reason::InvalidValue(_)));
    sut.run(stock("a\\u0000b")).await;
    let unknown = Statement::LockRows { table: "orders".to_owned(), keys: vec![] };
    assert!(matches!(refused(&sut, unknown).await, Reason::Invalid(_)));
    let mixed = Statement::LockRows { table: "stock".to_owned(), keys: vec![Key::Account(1)] };
    assert!(matches!(refused(&sut, mixed).await, Reason::Invalid(_)));
    let mut failed = pending("a", 1);
    failed.error = Some("\0".to_owned());
    assert!(matches!(refused(&sut, super::sut::enqueue(vec![failed])).await, Reason::InvalidValue(_)));
    assert_eq!(sut.operator.tables().await.rows["accounts"].len(), 1);
}

pub async fn d21_a_key_that_no_index_entry_holds_is_refused(kind: &dyn Kind) {
    let sut = kind.start(Config::default()).await;
    // Noise, because a real server compresses a key before it measures it.
    let noise = |bytes: usize| {
        let blocks =
            (0..bytes / 16).flat_map(|block| derive_id("noise", &[&block.to_be_bytes()]).into_bytes());
        let key = OrderingKey(blocks.collect());
        enqueue(vec![NewPending { key, ..pending("", 1) }])
    };
    sut.run(noise(ORDERING_KEY_BYTES_MAX)).await;
    assert!(matches!(refused(&sut, noise(4 << 10)).await, Reason::InvalidValue(_)));
    assert_eq!(sut.operator.tables().await.pending.len(), 1);
}

pub async fn the_outbox_refuses_what_the_broker_would(kind: &dyn Kind) {
    let topics = Some(BTreeSet::from(["orders".into()]));
    let sut = kind.start(Config { max_record_bytes: 100, topics, ..Config::default() }).await;
    let large = Record { value: Bytes::from(vec![0; 100]), ..record("") };
    let emit_one = |record: &Record| Statement::Emit { records: vec![record.clone()] };
    assert_eq!(refused(&sut, emit_one(&large)).await, Reason::TooLarge { bytes: 101, limit: 100 });
    let fits = Record { value: Bytes::from(vec![0; 99]), ..record("") };
    assert_eq!(sut.run(emit_one(&fits)).await, Answer::Done);
    let elsewhere = Record { topic: "nowhere".into(), ..record("") };
    assert_eq!(refused(&sut, emit_one(&elsewhere)).await, Reason::UnknownTopic("nowhere".to_owned()));
}

pub async fn positions_are_opened_once_and_move(kind: &dyn Kind) {
    let sut = kind.start(Config::default()).await;
    let open = |offset| Statement::OpenPositions {
        consumer: consumer(),
        positions: vec![partition(1).at(offset), partition(0).at(offset)],
    };
    assert_eq!(sut.run(open(5)).await, Answer::Positions(vec![partition(0).at(5), partition(1).at(5)]));
    let moved = Statement::MovePositions {
        consumer: consumer(),
        positions: vec![partition(1).at(9), partition(7).at(1)],
    };
    assert_eq!(sut.run(moved).await, Answer::Count(1));
    assert_eq!(sut.run(open(0)).await, Answer::Positions(vec![partition(0).at(5), partition(1).at(9)]));
    let partitions = vec![partition(7), partition(1), partition(0)];
    let lock = Statement::LockPositions { consumer: consumer(), partitions };
    assert_eq!(sut.run(lock).await, Answer::Positions(vec![partition(0).at(5), partition(1).at(9)]));
}

pub async fn an_inbox_remembers_each_id_once_per_consumer(kind: &dyn Kind) {
    let sut = kind.start(Config::default()).await;
    assert_eq!(sut.run(take([2, 1, 2])).await, Answer::Fresh(vec![event(1), event(2)]));
    assert_eq!(sut.run(take([1, 2, 3])).await, Answer::Fresh(vec![event(3)]));
    let other = Statement::TakeInbox {
        consumer: "inventory".into(),
        entries: vec![InboxEntry { event_id: event(1), at: partition(0).at(1) }],
    };
    assert_eq!(sut.run(other).await, Answer::Fresh(vec![event(1)]));
}

pub async fn the_inbox_is_pruned_below_the_log_and_behind_the_outbox(kind: &dyn Kind) {
    let sut = kind.start(Config::default()).await;
    let prune = |offset, limit| Statement::PruneInbox {
        consumer: consumer(),
        below: vec![partition(0).at(offset)],
        limit,
    };
    sut.run(take([1, 2, 3])).await;
    pause(10).await;
    sut.run(emit(&["as old as the rows after it"])).await;
    pause(10).await;
    sut.run(take([4, 5])).await;
    assert_eq!(sut.run(prune(2, 10)).await, Answer::Count(1), "1 lies below the log");
    assert_eq!(sut.run(prune(5, 1)).await, Answer::Count(1), "the limit holds");
    assert_eq!(sut.run(prune(5, 10)).await, Answer::Count(1), "4 is younger than the outbox row");
    let Answer::Outbox(rows) = sut.run(Statement::ReadOutbox { limit: 1 }).await else { panic!("Outbox") };
    sut.run(Statement::DeleteOutbox { seqs: vec![rows[0].seq] }).await;
    assert_eq!(sut.run(prune(5, 10)).await, Answer::Count(1));
    assert_eq!(sut.run(take([4, 5])).await, Answer::Fresh(vec![event(4)]));
}

pub async fn a_prune_does_not_see_outbox_rows_that_its_transaction_deleted(kind: &dyn Kind) {
    let sut = kind.start(Config::default()).await;
    sut.run(emit(&["older than the inbox"])).await;
    pause(10).await;
    sut.run(take([1])).await;
    let prune = || Statement::PruneInbox { consumer: consumer(), below: vec![partition(0).at(5)], limit: 10 };
    assert_eq!(sut.run(prune()).await, Answer::Count(0));
    let mut session = sut.begin().await;
    let rows = session.outbox(Statement::ReadOutbox { limit: 1 }).await.unwrap();
    assert_eq!(session.count(Statement::DeleteOutbox { seqs: vec![rows[0].seq] }).await, Ok(1));
    assert_eq!(session.count(prune()).await, Ok(1));
    session.commit().await.unwrap();
}

pub async fn a_lease_has_one_holder_and_its_epoch_grows_with_each_change(kind: &dyn Kind) {
    let sut = kind.start(Config::default()).await;
    let acquire = async |holder: u128| {
        let statement = Statement::AcquireLease {
            name: "relay".to_owned(),
            holder: Uuid::from_u128(holder),
            ttl: Duration::from_secs(1),
        };
        match sut.run(statement).await {
            Answer::Lease(Lease { holder, epoch, expires_at }) => (holder.as_u128(), epoch, expires_at),
            other => panic!("{other:?}"),
        }
    };
    let (_, _, first) = acquire(1).await;
    assert_eq!(acquire(2).await, (1, 1, first), "it is held");
    pause(500).await;
    let (holder, epoch, extended) = acquire(1).await;
    assert_eq!((holder, epoch), (1, 1));
    assert!(extended > first);
    pause(1_001).await;
    assert_eq!((acquire(2).await.0, acquire(2).await.1), (2, 2));
    assert_eq!(acquire(1).await.0, 2);
}

pub async fn outbox_rows_are_read_in_order_until_deleted(kind: &dyn Kind) {
    let sut = kind.start(Config::default()).await;
    sut.run(emit(&["a", "b", "c"])).await;
    let read = async |limit| match sut.run(Statement::ReadOutbox { limit }).await {
        Answer::Outbox(rows) => rows,
        other => panic!("{other:?}"),
    };
    let rows = read(2).await;
    assert_eq!(rows.iter().map(|row| &row.record.value[..]).collect::<Vec<_>>(), [b"a", b"b"]);
    let delete = Statement::DeleteOutbox { seqs: vec![rows[1].seq, rows[1].seq, 999] };
    assert_eq!(sut.run(delete).await, Answer::Count(1));
    let left: Vec<_> = read(10).await.into_iter().map(|row| row.record.value).collect();
    assert_eq!(left, ["a", "c"]);
}

pub async fn a_scan_pages_by_key_text(kind: &dyn Kind) {
    let sut = kind.start(Config::default()).await;
    sut.run(insert((1..=25).map(|id| account(id, 0)))).await;
    let stock = Row::Stock { sku: 3, left: 0, note: String::new() };
    sut.run(Statement::InsertRows { table: "stock".to_owned(), rows: vec![stock] }).await;
    pause(50).await;
    let page = async |after: Option<&str>, prefix: &str, limit| {
        let after = after.map(str::to_owned);
        let scan = Scan { table: "accounts".to_owned(), prefix: prefix.to_owned(), after, limit };
        sut.client.scan(scan, None).await.unwrap().0
    };
    assert_eq!(page(None, "", 2).await, [at(1, account(1, 0)), at(1, account(2, 0))]);
    assert_eq!(page(Some("0000000002"), "", 1).await, [at(1, account(3, 0))]);
    assert_eq!(page(None, "000000002", 100).await.len(), 6);
    assert_eq!(page(Some("0000000024"), "000000002", 100).await, [at(1, account(25, 0))]);
    assert_eq!(page(Some("0000000025"), "", 100).await, []);
}
