//! Whether a record that was reported as failed may be in the log all the same.
//!
//! librdkafka keeps that with each message, over all its attempts. It is the one thing that rdkafka does not hand
//! through, and without it every failed publish were in doubt; hence `unsafe`, in this file and nowhere else.

#![expect(unsafe_code, reason = "rdkafka does not hand a message's status through")]

use rdkafka::{
    bindings::{rd_kafka_message_status, rd_kafka_msg_status_t as Status},
    message::BorrowedMessage,
};

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
