//! The contract of the database: the D lines of SEMANTICS, one case each, over any adapter; and random schedules
//! against an oracle of their own.
//!
//! Not expressible in the store port's vocabulary, and so not here: D1, D5, D11, D12, D20, and D6, as no statement
//! inserts a key of its own choice without ON CONFLICT (the queue's and the outbox's keys come from sequences).

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod adapter;
mod cases;
mod crashes;
mod domain;
mod oracle;
mod schedules;
mod sut;

use rstest::rstest;
use sut::Adapter;

/// Runs each case on each adapter. A real PostgreSQL is one more `#[case]` line here, on unpaused time.
macro_rules! contract {
    ($($module:ident { $($case:ident),* $(,)? })*) => {
        $($(
            #[rstest]
            #[case::embedded(Adapter::Embedded)]
            #[tokio::test(start_paused = true)]
            async fn $case(#[case] adapter: Adapter) {
                cases::$module::$case(adapter).await;
            }
        )*)*
    };
}

contract! {
    locking {
        d2_a_failed_transaction_takes_no_statement_and_its_commit_is_a_rollback,
        d2_a_failed_transaction_has_let_go_of_its_locks,
        d4_a_duplicate_waits_and_is_inserted_when_the_first_rolls_back,
        d4_a_duplicate_waits_and_is_not_inserted_when_the_first_commits,
        d4_an_inserted_row_waits_for_its_duplicate_too,
        d7_an_update_rechecks_the_version_after_waiting,
        d7_decrements_under_lock_never_oversell,
        d9_a_later_number_is_seen_first_and_a_rollback_leaves_a_gap,
        d10_a_deadlock_ends_after_its_timeout_with_one_victim,
        a_statement_locks_in_order_of_keys_whatever_order_it_is_given,
        waiters_are_served_in_the_order_of_waiting,
        readers_never_wait_and_see_committed_rows_only,
        a_transaction_sees_its_own_writes,
        each_statement_sees_what_was_committed_before_it,
        a_rollback_keeps_nothing,
        rows_that_appear_while_a_statement_waits_are_not_in_its_answer,
    }
    queue {
        d8_claims_are_disjoint_and_a_rollback_requeues,
        d8_a_claim_never_takes_a_follower_of_a_locked_head,
        a_claim_takes_the_oldest_due_heads_only,
        a_leased_row_is_free_again_when_its_lease_has_run_out,
        hold_blocks_behind_a_dead_row_and_skip_passes_it_over,
        a_row_born_claimed_counts_its_attempts_itself,
        a_redriven_dead_letter_is_the_head_again_and_a_discarded_one_is_gone,
        a_claim_sees_the_rows_of_its_own_transaction,
        a_row_deleted_while_a_statement_waits_is_passed_over,
    }
    sessions {
        d13_lock_timeout_ends_the_wait,
        d13_statement_timeout_ends_the_statement,
        d13_idle_in_transaction_ends_the_session,
        d14_terminate_ends_one_session,
        d14_a_killed_backend_ends_every_session,
        d15_a_client_that_vanished_keeps_its_locks_until_the_idle_timeout,
        d18_a_standby_takes_no_writes,
        d19_a_nested_begin_on_a_pool_of_one_times_out,
        d19_the_server_refuses_one_connection_too_many,
        a_dropped_session_lets_go_at_once,
        a_dropped_statement_poisons_nobody,
        a_full_disk_refuses_new_rows_and_commits_the_old,
    }
    durability {
        d3_a_commit_that_was_not_heard_may_be_done,
        d16_an_acknowledged_commit_survives_a_crash,
        d16_without_synchronous_commit_a_crash_loses_the_last_ones,
        d17_a_failover_may_lose_what_was_acknowledged,
        d17_a_switchover_loses_nothing,
        d17_with_synchronous_replication_nothing_acknowledged_is_lost,
        a_commit_waits_for_a_synchronous_replica_that_is_down,
        d3_a_commit_that_waits_for_the_replica_survives_a_crash_unacknowledged,
        a_replica_lags_and_a_token_makes_reads_fresh,
        a_token_of_a_lost_suffix_is_answered_on_the_new_timeline,
        a_fenced_primary_rejoins_as_a_replica,
    }
    statements {
        constraints_and_values_are_checked,
        d21_a_key_that_no_index_entry_holds_is_refused,
        the_outbox_refuses_what_the_broker_would,
        positions_are_opened_once_and_move,
        an_inbox_remembers_each_id_once_per_consumer,
        the_inbox_is_pruned_below_the_log_and_behind_the_outbox,
        a_lease_has_one_holder_and_its_epoch_grows_with_each_change,
        outbox_rows_are_read_in_order_until_deleted,
        a_scan_pages_by_key_text,
    }
}
