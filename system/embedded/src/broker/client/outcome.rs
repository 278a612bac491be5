//! The one place where error codes and broken connections become a [`Failure`]: did it happen? (B9)

use stormglass_runtime::{Cause, Failure, Reason};

use super::super::request::ErrorCode;

/// A request that got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// It never left.
    NotSent(Cause),
    /// It left, and may have done anything.
    Lost(Cause),
}

impl NoAnswer {
    /// What is known of the request's effect.
    pub(super) fn into_failure(self) -> Failure {
        match self {
            NoAnswer::NotSent(cause) => Failure::NotDone(cause),
            NoAnswer::Lost(cause) => Failure::Unknown(cause),
        }
    }

    /// The same for a request without an effect.
    pub(super) fn of_read(self) -> Failure {
        match self {
            NoAnswer::NotSent(cause) | NoAnswer::Lost(cause) => Failure::NotDone(cause),
        }
    }
}

/// What a broker's error says about the request that it answers.
pub(super) fn failure_of(code: ErrorCode) -> Failure {
    match code {
        // The batch may have been appended before the leader changed, or before its replicas were waited for.
        ErrorCode::NotLeader => Failure::Unknown(Cause::NotLeader),
        ErrorCode::RequestTimedOut => Failure::Unknown(Cause::TimedOut),
        ErrorCode::NotEnoughReplicas => Failure::NotDone(Cause::TooFewReplicas),
        ErrorCode::OutOfOrderSequence | ErrorCode::InvalidProducerEpoch => Failure::NotDone(Cause::Conflict),
        ErrorCode::NotCoordinator | ErrorCode::CoordinatorLoading | ErrorCode::CoordinatorNotAvailable => {
            Failure::NotDone(Cause::NotLeader)
        }
        ErrorCode::UnknownMember | ErrorCode::IllegalGeneration | ErrorCode::RebalanceInProgress => {
            Failure::NotDone(Cause::Fenced)
        }
        ErrorCode::MessageTooLarge { limit } => Failure::Rejected(Reason::TooLarge { bytes: 0, limit }),
        ErrorCode::UnknownTopicOrPartition | ErrorCode::OffsetOutOfRange | ErrorCode::InvalidRequest => {
            Failure::Rejected(Reason::Invalid(code.to_string()))
        }
    }
}
