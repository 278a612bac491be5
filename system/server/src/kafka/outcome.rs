//! The one place where what librdkafka says becomes a [`Failure`]: did it happen? (SEMANTICS B9, B13, B14, B17)
//!
//! For a record that was published the answer is not in the error code but in the message's own status: "timed out" is
//! said alike of a record that waited for a connection in vain and of one whose acknowledgement was lost. So the status
//! decides between `NotDone` and `Unknown` ([`Persistence`]), and the code only names the cause; what the status leaves
//! out is told in `persistence.rs`.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use stormglass_runtime::{Cause, Failure, Reason, Record};

use super::persistence::Persistence;

/// What a delivery report's error says of `record`, for which the client's limit is `limit` bytes.
pub(super) fn of_report(
    error: &KafkaError,
    persistence: Persistence,
    record: &Record,
    limit: usize,
) -> Failure {
    let code = code_of(error);
    match persistence {
        Persistence::InDoubt => Failure::Unknown(cause_of(code)),
        Persistence::Absent => refusal(code, record, limit),
    }
}

/// What it means that librdkafka did not even queue `record`.
pub(super) fn of_enqueue(error: &KafkaError, record: &Record, limit: usize) -> Failure {
    refusal(code_of(error), record, limit)
}

/// Whether a record was refused for its size, or for that of the batch it travelled in.
pub(super) fn is_too_large(code: Code) -> bool {
    matches!(code, Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize)
}

fn refusal(code: Code, record: &Record, limit: usize) -> Failure {
    match code {
        code if is_too_large(code) => Failure::Rejected(Reason::TooLarge { bytes: record.size(), limit }),
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            Failure::Rejected(Reason::UnknownTopic(record.topic.as_str().to_owned()))
        }
        Code::InvalidTopic
        | Code::InvalidArgument
        | Code::InvalidTimestamp
        | Code::InvalidRecord
        | Code::PolicyViolation
        | Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed => Failure::Rejected(Reason::Invalid(code.to_string())),
        // The broker failed in its own code, and cannot say at which point.
        Code::Unknown => Failure::Unknown(Cause::Protocol),
        other => Failure::NotDone(cause_of(other)),
    }
}

/// What it means that a question without an effect, about `topic`, was not answered.
pub(super) fn of_read(error: &KafkaError, topic: &str) -> Failure {
    match code_of(error) {
        Code::UnknownTopic | Code::UnknownTopicOrPartition => {
            Failure::Rejected(Reason::UnknownTopic(topic.to_owned()))
        }
        code @ (Code::UnknownPartition
        | Code::InvalidTopic
        | Code::InvalidArgument
        | Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed) => Failure::Rejected(Reason::Invalid(format!("{topic}: {code}"))),
        code => Failure::NotDone(cause_of(code)),
    }
}

/// What it means that positions were not committed. A commit that was only delayed is never reported as failed.
pub(super) fn of_commit(error: &KafkaError) -> Failure {
    match code_of(error) {
        // Sent, and the answer was lost.
        code @ (Code::OperationTimedOut
        | Code::TimedOutQueue
        | Code::RequestTimedOut
        | Code::BrokerTransportFailure
        | Code::NetworkException
        | Code::BrokerDestroy) => Failure::Unknown(cause_of(code)),
        code @ (Code::GroupAuthorizationFailed
        | Code::TopicAuthorizationFailed
        | Code::InvalidGroupId
        | Code::OffsetMetadataTooLarge
        | Code::InvalidCommitOffsetSize
        | Code::UnknownTopicOrPartition) => Failure::Rejected(Reason::Invalid(code.to_string())),
        code => Failure::NotDone(cause_of(code)),
    }
}

/// What the consumer says by itself, between the records. `None`: it mends that by itself, and the log has it.
pub(super) fn of_notice(error: &KafkaError) -> Option<Failure> {
    if let KafkaError::MessageConsumptionFatal(code) = error {
        return Some(Failure::Rejected(Reason::Invalid(code.to_string())));
    }
    match code_of(error) {
        code @ Code::AllBrokersDown => Some(Failure::NotDone(cause_of(code))),
        code @ (Code::AutoOffsetReset
        | Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::InconsistentGroupProtocol
        | Code::InvalidSessionTimeout
        | Code::InvalidGroupId) => Some(Failure::Rejected(Reason::Invalid(code.to_string()))),
        _ => None,
    }
}

/// Whether an error of the client as a whole, that librdkafka mends by itself, is one to be warned of: no broker is left,
/// or the client is.
pub(super) fn is_grave(code: Code) -> bool {
    matches!(code, Code::AllBrokersDown | Code::Fatal | Code::Authentication)
}

/// The code under an error; those without one are errors of this process.
pub(super) fn code_of(error: &KafkaError) -> Code {
    error.rdkafka_error_code().unwrap_or(Code::Application)
}

fn cause_of(code: Code) -> Cause {
    match code {
        Code::MessageTimedOut | Code::OperationTimedOut | Code::TimedOutQueue | Code::RequestTimedOut => {
            Cause::TimedOut
        }
        Code::QueueFull | Code::CoordinatorLoadInProgress | Code::KafkaStorageError => Cause::Busy,
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend | Code::ISRInsufficient => {
            Cause::TooFewReplicas
        }
        Code::NotLeaderForPartition
        | Code::LeaderNotAvailable
        | Code::NotCoordinator
        | Code::CoordinatorNotAvailable
        | Code::WaitingForCoordinator
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::ReplicaNotAvailable => Cause::NotLeader,
        Code::UnknownMemberId
        | Code::IllegalGeneration
        | Code::RebalanceInProgress
        | Code::FencedInstanceId
        | Code::FencedMemberEpoch
        | Code::StaleMemberEpoch
        | Code::UnreleasedInstanceId
        | Code::AssignmentLost
        | Code::State => Cause::Fenced,
        Code::OutOfOrderSequenceNumber
        | Code::DuplicateSequenceNumber
        | Code::InvalidProducerEpoch
        | Code::InvalidProducerIdMapping
        | Code::UnknownProducerId
        | Code::Fenced
        | Code::Fatal
        | Code::Inconsistent
        | Code::GaplessGuarantee => Cause::Conflict,
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::BrokerNotAvailable
        | Code::NetworkException
        | Code::PurgeQueue
        | Code::PurgeInflight
        | Code::DestroyBroker
        | Code::BrokerDestroy => Cause::Disconnected,
        _ => Cause::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rstest::rstest;
    use stormglass_runtime::{Headers, Topic};

    use super::*;

    const LIMIT: usize = 100;

    fn record() -> Record {
        let (topic, key) = (Topic::from("orders"), Some(Bytes::from_static(b"k")));
        Record { topic, key, headers: Headers::default(), value: Bytes::from_static(b"value") }
    }

    fn too_large() -> Failure {
        Failure::Rejected(Reason::TooLarge { bytes: 6, limit: LIMIT })
    }

    #[rstest]
    #[case::never_sent(Code::MessageTimedOut, Persistence::Absent, Failure::NotDone(Cause::TimedOut))]
    #[case::never_heard(Code::MessageTimedOut, Persistence::InDoubt, Failure::Unknown(Cause::TimedOut))]
    #[case::purged_in_queue(Code::PurgeQueue, Persistence::Absent, Failure::NotDone(Cause::Disconnected))]
    #[case::purged_in_flight(
        Code::PurgeInflight,
        Persistence::InDoubt,
        Failure::Unknown(Cause::Disconnected)
    )]
    #[case::refused(Code::NotEnoughReplicas, Persistence::Absent, Failure::NotDone(Cause::TooFewReplicas))]
    #[case::failed_at_the_broker(Code::Unknown, Persistence::Absent, Failure::Unknown(Cause::Protocol))]
    #[case::too_large(Code::MessageSizeTooLarge, Persistence::Absent, too_large())]
    #[case::too_large_after_a_doubt(
        Code::MessageSizeTooLarge,
        Persistence::InDoubt,
        Failure::Unknown(Cause::Protocol)
    )]
    fn a_report_is_judged_by_what_became_of_the_record(
        #[case] code: Code,
        #[case] persistence: Persistence,
        #[case] failure: Failure,
    ) {
        assert_eq!(of_report(&KafkaError::MessageProduction(code), persistence, &record(), LIMIT), failure);
    }

    #[rstest]
    #[case::removed(Code::UnknownMemberId)]
    #[case::outdated(Code::IllegalGeneration)]
    #[case::rebalancing(Code::RebalanceInProgress)]
    #[case::of_an_old_epoch(Code::StaleMemberEpoch)]
    fn a_commit_of_who_is_out_is_fenced(#[case] code: Code) {
        assert_eq!(of_commit(&KafkaError::ConsumerCommit(code)), Failure::NotDone(Cause::Fenced));
    }
}
