//! What a PostgreSQL promises at READ COMMITTED, as cases over any system: one list, whichever it is run on.
//!
//! A case is named after the line of SEMANTICS that it shows, and knows only a [`sut::Kind`]. Not expressible in the
//! store port's vocabulary, and so not here: D1, D5, D11, D12, D20, and D6, as no statement inserts a key of its own
//! choice without ON CONFLICT (the queue's and the outbox's keys come from sequences).

pub mod domain;
pub mod durability;
pub mod locking;
pub mod queue;
pub mod sessions;
pub mod statements;
pub mod sut;

/// Hands every case, by module and name, to the macro that is named.
macro_rules! every_case {
    ($with:ident) => {
        $with! {
            locking::d2_a_failed_transaction_takes_no_statement_and_its_commit_is_a_rollback,
            locking::d2_a_failed_transaction_has_let_go_of_its_locks,
            locking::d4_a_duplicate_waits_and_is_inserted_when_the_first_rolls_back,
            locking::d4_a_duplicate_waits_and_is_not_inserted_when_the_first_commits,
            locking::d4_an_inserted_row_waits_for_its_duplicate_too,
            locking::d7_an_update_rechecks_the_version_after_waiting,
            locking::d7_decrements_under_lock_never_oversell,
            locking::d9_a_later_number_is_seen_first_and_a_rollback_leaves_a_gap,
            locking::d10_a_deadlock_ends_after_its_timeout_with_one_victim,
            locking::d10_who_waits_in_line_waits_for_the_first_in_line,
            locking::a_statement_locks_in_order_of_keys_whatever_order_it_is_given,
            locking::waiters_are_served_in_the_order_of_waiting,
            locking::readers_never_wait_and_see_committed_rows_only,
            locking::a_transaction_sees_its_own_writes,
            locking::each_statement_sees_what_was_committed_before_it,
            locking::a_rollback_keeps_nothing,
            locking::rows_that_appear_while_a_statement_waits_are_not_in_its_answer,
            queue::d8_claims_are_disjoint_and_a_rollback_requeues,
            queue::d8_a_claim_never_takes_a_follower_of_a_locked_head,
            queue::a_claim_takes_the_oldest_due_heads_only,
            queue::a_leased_row_is_free_again_when_its_lease_has_run_out,
            queue::hold_blocks_behind_a_dead_row_and_skip_passes_it_over,
            queue::a_row_born_claimed_counts_its_attempts_itself,
            queue::a_redriven_dead_letter_is_the_head_again_and_a_discarded_one_is_gone,
            queue::what_became_due_after_a_transaction_began_is_claimed_in_it,
            queue::a_change_of_a_row_that_was_changed_meanwhile_is_passed_over,
            queue::a_claim_sees_the_rows_of_its_own_transaction,
            queue::a_row_deleted_while_a_statement_waits_is_passed_over,
            queue::a_lock_takes_the_first_rows_of_each_key_and_leaves_the_rest_free,
            queue::only_dead_letters_are_locked_as_dead_letters,
            sessions::d13_lock_timeout_ends_the_wait,
            sessions::d13_statement_timeout_ends_the_statement,
            sessions::d13_idle_in_transaction_ends_the_session,
            sessions::d14_terminate_ends_one_session,
            sessions::d14_a_killed_backend_ends_every_session,
            sessions::d15_a_client_that_vanished_keeps_its_locks_until_the_idle_timeout,
            sessions::d18_a_standby_takes_no_writes,
            sessions::d19_a_nested_begin_on_a_pool_of_one_times_out,
            sessions::d19_the_server_refuses_one_connection_too_many,
            sessions::a_dropped_session_lets_go_at_once,
            sessions::a_dropped_statement_poisons_nobody,
            sessions::a_full_disk_refuses_new_rows_and_commits_the_old,
            durability::d3_a_commit_that_was_not_heard_may_be_done,
            durability::d16_an_acknowledged_commit_survives_a_crash,
            durability::d16_without_synchronous_commit_a_crash_loses_the_last_ones,
            durability::d17_a_failover_may_lose_what_was_acknowledged,
            durability::d17_a_switchover_loses_nothing,
            durability::d17_with_synchronous_replication_nothing_acknowledged_is_lost,
            durability::a_commit_waits_for_a_synchronous_replica_that_is_down,
            durability::d3_a_commit_that_waits_for_the_replica_survives_a_crash_unacknowledged,
            durability::a_replica_lags_and_a_token_makes_reads_fresh,
            durability::a_token_of_a_lost_suffix_is_answered_on_the_new_timeline,
            durability::a_fenced_primary_rejoins_as_a_replica,
            statements::constraints_and_values_are_checked,
            statements::d21_a_key_that_no_index_entry_holds_is_refused,
            statements::the_outbox_refuses_what_the_broker_would,
            statements::positions_are_opened_once_and_move,
            statements::an_inbox_remembers_each_id_once_per_consumer,
            statements::the_inbox_is_pruned_below_the_log_and_behind_the_outbox,
            statements::a_prune_does_not_see_outbox_rows_that_its_transaction_deleted,
            statements::a_lease_has_one_holder_and_its_epoch_grows_with_each_change,
            statements::outbox_rows_are_read_in_order_until_deleted,
            statements::a_scan_pages_by_key_text,
        }
    };
}
pub(crate) use every_case;
