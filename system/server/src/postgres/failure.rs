//! The one place where SQLSTATEs and driver errors become outcomes (SEMANTICS section 2, last paragraph).
//!
//! Before COMMIT nothing is done, whatever goes wrong. During COMMIT an error of severity ERROR was raised before the
//! commit record was written; anything that ends the connection may have come after it.

use sqlx::postgres::{PgDatabaseError, PgSeverity};
use stormglass_runtime::{Cause, Failure, Reason};

/// What became of a statement that failed: it is not done, and its transaction can only be rolled back.
pub(super) fn of_statement(error: &sqlx::Error) -> Failure {
    match server(error) {
        Some(refused) => classify(refused),
        None => Failure::NotDone(driver(error)),
    }
}

/// What became of a COMMIT that failed.
pub(super) fn of_commit(error: &sqlx::Error) -> Failure {
    let Some(refused) = server(error) else { return Failure::Unknown(driver(error)) };
    match refused.severity() {
        // 40003 statement_completion_unknown, 08007 transaction_resolution_unknown.
        PgSeverity::Error if !matches!(refused.code(), "40003" | "08007") => classify(refused),
        PgSeverity::Error
        | PgSeverity::Fatal
        | PgSeverity::Panic
        | PgSeverity::Warning
        | PgSeverity::Notice
        | PgSeverity::Debug
        | PgSeverity::Info
        | PgSeverity::Log => Failure::Unknown(Cause::Disconnected),
    }
}

/// Why a connection could not be made. Whatever it was, nothing is done, and who mends it need not be the caller.
pub(super) fn of_connect(error: &sqlx::Error) -> Failure {
    match of_statement(error) {
        Failure::Rejected(_) | Failure::Unknown(_) => Failure::NotDone(Cause::Protocol),
        not_done @ Failure::NotDone(_) => not_done,
    }
}

/// Whether the connection is of no more use: it is gone, or leads to a server that takes no writes any more.
pub(super) fn ends_connection(failure: &Failure) -> bool {
    match failure {
        Failure::NotDone(cause) | Failure::Unknown(cause) => {
            matches!(cause, Cause::Disconnected | Cause::TimedOut | Cause::Protocol | Cause::ReadOnly)
        }
        Failure::Rejected(_) => false,
    }
}

fn server(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

fn driver(error: &sqlx::Error) -> Cause {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) => Cause::Disconnected,
        // It could not be decoded, described or understood: the server is not what this program was built for.
        _ => Cause::Protocol,
    }
}

fn classify(refused: &PgDatabaseError) -> Failure {
    let code = refused.code();
    Failure::NotDone(match (code, code.get(..2).unwrap_or_default()) {
        ("40001", _) => Cause::Conflict,
        ("40P01", _) => Cause::Deadlock,
        ("55P03", _) => Cause::LockTimeout,
        ("57014", _) => Cause::StatementTimeout,
        ("25P02", _) => Cause::Aborted,
        ("25006", _) => Cause::ReadOnly,
        ("53100", _) => Cause::DiskFull,
        ("57P03", _) | (_, "53") => Cause::Busy,
        ("25P03" | "57P01" | "57P02", _) | (_, "08") => Cause::Disconnected,
        // No permission, no such table, column or function: what a deployment forgot. Every event would die of it.
        ("42501" | "42P01" | "42703" | "42883", _) => Cause::Protocol,
        // 54xxx is a value too: a key that no index entry can hold.
        (_, "22" | "23" | "42" | "54") => return Failure::Rejected(reason(refused)),
        // A server in trouble, or one that is not what this program was built for. The event is not to blame.
        _ => Cause::Protocol,
    })
}

fn reason(refused: &PgDatabaseError) -> Reason {
    let named = |name: Option<&str>| name.unwrap_or(refused.message()).to_owned();
    match refused.code() {
        "23514" => Reason::Constraint(named(refused.constraint())),
        "23505" => Reason::Duplicate(named(refused.table())),
        code if code.starts_with("22") || code.starts_with("54") => {
            Reason::InvalidValue(refused.message().to_owned())
        }
        code => Reason::Invalid(format!("{code} {}", refused.message())),
    }
}
