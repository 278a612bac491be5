//! Requests and answers survive postcard, the wire format of the simulated network.

use std::{sync::Arc, time::Duration};

use stormglass_embedded::broker::{
    Acks, ErrorCode, Fetch, Fetched, Join, Membership, Observed, Produce, Request, Response, Stamp,
};
use stormglass_runtime::{Timestamp, Watermarks};

use super::cases::sut::{group, partition, record, topic};

#[track_caller]
fn survives<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(value: T) {
    let bytes = postcard::to_stdvec(&value).unwrap();
    assert_eq!(postcard::from_bytes::<T>(&bytes).unwrap(), value);
}

#[test]
fn requests_survive_the_wire() {
    let who = Membership { group: group(), member: "m-1".into(), generation: -1 };
    let stamp = Some(Stamp { producer: 7, epoch: 1, sequence: 2 });
    let records = vec![Arc::new(record("k", "v"))];
    let timeout = Duration::from_millis(1_500);
    survives(Request::Metadata(vec![topic()]));
    survives(Request::InitProducer);
    survives(Request::Produce(Produce { partition: partition(3), acks: Acks::All, stamp, records, timeout }));
    survives(Request::Fetch(Fetch {
        positions: vec![partition(0).at(9)],
        max_wait: timeout,
        max_bytes: 1 << 20,
    }));
    survives(Request::Join(Join {
        group: group(),
        member: String::new(),
        client_id: "c".into(),
        topics: vec![topic()],
        owned: vec![partition(1)],
        session_timeout: timeout,
        rebalance_timeout: timeout,
    }));
    survives(Request::CommitOffsets(who.clone(), vec![partition(0).at(4)]));
    survives(Request::Heartbeat(who));
    survives(Request::FetchOffsets(group(), vec![partition(0)]));
}

#[test]
fn answers_survive_the_wire() {
    let fetched = |records| Fetched {
        partition: partition(0),
        asked: 1,
        watermarks: Watermarks { start: 0, end: 2 },
        records,
    };
    survives(Response::Fetched(vec![
        fetched(Ok(vec![(1, Arc::new(record("k", "v")))])),
        fetched(Err(ErrorCode::NotLeader)),
    ]));
    survives(Response::Metadata(vec![None, Some(vec![None, Some(2)])]));
    survives(Response::Failed(ErrorCode::MessageTooLarge { limit: 10 }));
    survives(Response::Offsets(vec![None, Some(-1)]));
    survives(Observed::Appended {
        at: Timestamp(1),
        position: partition(0).at(0),
        record: Arc::new(record("k", "v")),
    });
}
