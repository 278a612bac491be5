//! The two requests of Kafka's protocol that librdkafka makes and does not hand through: what a broker speaks, and who
//! holds, leads and may use a topic. Plaintext, one connection for each question.
//!
//! Sources: the protocol guide (kafka.apache.org/protocol); versions that Kafka 2.3 to 4.x answer: ApiVersions 0,
//! Metadata 8 (KIP-430 for the permissions).

use std::{collections::BTreeMap, io};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Duration, timeout},
};

const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;
/// Larger answers are no Kafka's: five topics are asked about.
const ANSWER_BYTES: usize = 16 << 20;

/// A cluster as one broker sees it.
pub(super) struct Metadata {
    /// `host:port` by which clients reach each broker.
    pub(super) brokers: BTreeMap<i32, String>,
    pub(super) topics: Vec<TopicMetadata>,
}

/// One topic.
pub(super) struct TopicMetadata {
    pub(super) name: String,
    /// Kafka's error code; 0 is none.
    pub(super) error: i16,
    pub(super) partitions: Vec<PartitionMetadata>,
    /// One bit for each ACL operation that whoever asked may do.
    pub(super) operations: i32,
}

/// One partition.
pub(super) struct PartitionMetadata {
    pub(super) has_leader: bool,
    pub(super) replicas: usize,
    pub(super) in_sync: usize,
}

/// The requests that a broker knows.
pub(super) async fn api_versions(broker: &str, limit: Duration) -> io::Result<Vec<i16>> {
    let mut answer = ask(broker, (API_VERSIONS, 0), &[], limit).await?;
    let error = answer.try_get_i16().map_err(short)?;
    if error != 0 {
        return Err(io::Error::other(format!("Kafka's error code {error}")));
    }
    list(&mut answer, |answer| {
        let api = answer.try_get_i16().map_err(short)?;
        // The oldest and the newest version of it.
        skip(answer, 4)?;
        Ok(api)
    })
}

/// What a broker knows of these topics.
pub(super) async fn metadata(broker: &str, topics: &[&str], limit: Duration) -> io::Result<Metadata> {
    let mut body = BytesMut::new();
    body.put_i32(i32::try_from(topics.len()).unwrap_or(i32::MAX));
    for topic in topics {
        body.put_i16(i16::try_from(topic.len()).unwrap_or(i16::MAX));
        body.put_slice(topic.as_bytes());
    }
    // Create no topic; leave out what the principal may do to the cluster, tell what it may do to topics.
    body.put_slice(&[0, 0, 1]);
    read(ask(broker, (METADATA, 8), &body, limit).await?)
}

fn read(mut answer: Bytes) -> io::Result<Metadata> {
    skip(&mut answer, 4)?;
    let brokers = list(&mut answer, |answer| {
        let id = answer.try_get_i32().map_err(short)?;
        let host = text(answer)?;
        let port = answer.try_get_i32().map_err(short)?;
        text(answer)?;
        Ok((id, format!("{host}:{port}")))
    })?;
    text(&mut answer)?;
    skip(&mut answer, 4)?;
    let topics = list(&mut answer, topic)?;
    Ok(Metadata { brokers: brokers.into_iter().collect(), topics })
}

fn topic(answer: &mut Bytes) -> io::Result<TopicMetadata> {
    let error = answer.try_get_i16().map_err(short)?;
    let name = text(answer)?;
    skip(answer, 1)?;
    let partitions = list(answer, |answer| {
        skip(answer, 6)?;
        let leader = answer.try_get_i32().map_err(short)?;
        skip(answer, 4)?;
        let [replicas, in_sync, _offline] = [nodes(answer)?, nodes(answer)?, nodes(answer)?];
        Ok(PartitionMetadata { has_leader: leader >= 0, replicas, in_sync })
    })?;
    let operations = answer.try_get_i32().map_err(short)?;
    Ok(TopicMetadata { name, error, partitions, operations })
}

fn nodes(answer: &mut Bytes) -> io::Result<usize> {
    Ok(list(answer, |answer| answer.try_get_i32().map_err(short))?.len())
}

/// Sends one request, of an API and a version of it; answers with the body of the response.
async fn ask(broker: &str, (api, version): (i16, i16), body: &[u8], limit: Duration) -> io::Result<Bytes> {
    let asked = async {
        let mut stream = TcpStream::connect(broker).await?;
        let mut request = BytesMut::new();
        // Header 1: API, version, a number that the response repeats, no client id.
        let length = 10 + body.len();
        request.put_i32(i32::try_from(length).unwrap_or(i32::MAX));
        request.put_i16(api);
        request.put_i16(version);
        request.put_i32(0);
        request.put_i16(-1);
        request.put_slice(body);
        stream.write_all(&request).await?;
        let length = usize::try_from(stream.read_i32().await?).unwrap_or(usize::MAX);
        if !(4..=ANSWER_BYTES).contains(&length) {
            return Err(io::Error::other("this is no Kafka broker's plaintext listener"));
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).await?;
        Ok(Bytes::from(answer).slice(4..))
    };
    timeout(limit, asked).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("does not answer within {limit:?}")))
    })
}

fn list<T>(answer: &mut Bytes, mut item: impl FnMut(&mut Bytes) -> io::Result<T>) -> io::Result<Vec<T>> {
    // -1 is Kafka's list that is not there.
    let length = answer.try_get_i32().map_err(short)?.max(0);
    (0..length).map(|_| item(answer)).collect()
}

/// A text; one that is not there is empty.
fn text(answer: &mut Bytes) -> io::Result<String> {
    let length = usize::try_from(answer.try_get_i16().map_err(short)?).unwrap_or(0);
    if answer.len() < length {
        return Err(short(()));
    }
    Ok(String::from_utf8_lossy(&answer.split_to(length)).into_owned())
}

fn skip(answer: &mut Bytes, count: usize) -> io::Result<()> {
    if answer.len() < count {
        return Err(short(()));
    }
    answer.advance(count);
    Ok(())
}

fn short<E>(_: E) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the answer is too short")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One broker, and the topic `t` with one partition that has two replicas, one of them in sync, and no leader.
    fn answer() -> Bytes {
        let mut bytes = BytesMut::new();
        // Throttled for 0 ms; broker 7 at kafka:9092, in no rack; no cluster id; controller 7.
        bytes.put_slice(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 7, 0, 5]);
        bytes.put_slice(b"kafka");
        bytes.put_slice(&[0, 0, 0x23, 0x84, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 7]);
        // One topic without an error, not internal; one partition: error 0, index 0, leader -1, epoch 0.
        bytes.put_slice(&[0, 0, 0, 1, 0, 0, 0, 1, b't', 0, 0, 0, 0, 1]);
        bytes.put_slice(&[0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        // Replicas 7 and 8, in sync 7, none offline; it may be read and written, and nothing is told of the cluster.
        bytes.put_slice(&[0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 0]);
        bytes.put_slice(&[0, 0, 0, 0b11000, 0x80, 0, 0, 0]);
        bytes.freeze()
    }

    #[test]
    fn metadata_is_read_as_it_lies_on_the_wire() {
        let Metadata { brokers, topics } = read(answer()).unwrap();
        assert_eq!(brokers, BTreeMap::from([(7, "kafka:9092".to_owned())]));
        let [topic] = &topics[..] else { panic!("{} topics", topics.len()) };
        assert_eq!((topic.name.as_str(), topic.error, topic.operations), ("t", 0, 0b11000));
        let [PartitionMetadata { has_leader: false, replicas: 2, in_sync: 1 }] = topic.partitions[..] else {
            panic!("{} partitions", topic.partitions.len())
        };
    }

    #[test]
    fn an_answer_that_breaks_off_is_an_error() {
        let whole = answer();
        for end in 0..whole.len() - 4 {
            assert!(read(whole.slice(..end)).is_err(), "cut at {end}");
        }
    }
}
