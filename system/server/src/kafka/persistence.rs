//! Whether a record that was reported as failed may be in the log all the same.
//!
//! librdkafka keeps that with each message, over all its attempts. It is the one thing that rdkafka does not hand
//! through, and without it every failed publish were in doubt; hence `unsafe`, in this file and nowhere else.
//!
//! **Where librdkafka is too sure.** It takes every answer after which it looks for another leader for a refusal
//! (`rd_kafka_err_action`: `REFRESH | MSG_NOT_PERSISTED`; of the answers that say nothing, only a lost connection is
//! excepted), and sends again without counting an attempt. But a leader that is deposed while a batch waits for its
//! followers answers `NOT_LEADER_OR_FOLLOWER` as well, after it has appended the batch (`DelayedProduce`), and a follower
//! that has it may be the next leader. As long as a later attempt succeeds, idempotence finds the copy; if the time runs
//! out first, the report says *timed out, not persisted* of a record that is in the log. librdkafka tells of such answers
//! in its log alone: a line of [`MOVED`]. So a record is only believed to be absent if there was none since it was queued,
//! of any partition.

#![expect(unsafe_code, reason = "rdkafka does not hand a message's status through")]

use rdkafka::{
    bindings::{rd_kafka_message_status, rd_kafka_msg_status_t as Status},
    message::BorrowedMessage,
};

/// The facility of the log lines that say that a partition's leader is looked for again, since an answer told so. They
/// belong to `debug=topic`.
pub(super) const MOVED: &str = "BROKERUA";

/// What is known of a record that was reported as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    /// It never left, or a broker refused it: certainly not in the log.
    Absent,
    /// It left and nothing was heard, or it is in the log although an error was reported.
    InDoubt,
}

/// What librdkafka knows of a reported message.
pub(super) fn persistence(message: &BorrowedMessage<'_>) -> Persistence {
    // SAFETY: the pointer belongs to the delivery report, which outlives the borrow; the call only reads a field.
    match unsafe { rd_kafka_message_status(message.ptr()) } {
        Status::RD_KAFKA_MSG_STATUS_NOT_PERSISTED => Persistence::Absent,
        Status::RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED | Status::RD_KAFKA_MSG_STATUS_PERSISTED => {
            Persistence::InDoubt
        }
    }
}
