//! What a Kafka client promises, as cases over any adapter: one list, whichever system it is run on.
//!
//! A case is named after the line of SEMANTICS that it shows, and knows only a [`sut::Sut`]. Not expressed: B10
//! (idempotence is always on), B15 and B29 (nothing is stored or committed by itself), B18's static members, B25's
//! compaction, B26–B27 (no transactions), B30 (a matter of the worker).

pub mod consume;
pub mod group;
pub mod log;
pub mod produce;
pub mod sut;

/// Hands every case, by module and name, to the macro that is named.
macro_rules! every_case {
    ($with:ident) => {
        $with! {
            log::b1_all_readers_see_one_order_per_partition,
            log::b2_offsets_are_sparse_and_caught_up_is_not_the_last_record,
            log::b5_only_what_is_below_the_high_watermark_is_visible,
            log::b6_min_insync_replicas_binds_acks_all_only,
            log::b7_acks_leader_is_lost_with_the_leader_and_its_offset_reused,
            log::b8_without_an_in_sync_replica_a_partition_is_unavailable,
            log::b8_unclean_election_loses_the_suffix,
            log::an_acknowledged_record_survives_any_one_broker,
            log::a_leader_cut_from_its_peers_cannot_commit_and_is_deposed,
            log::b23_an_offset_out_of_range_is_reset_to_the_oldest,
            log::b23_an_offset_out_of_range_can_skip_everything,
            log::b23_an_offset_out_of_range_can_be_an_error,
            log::f20_old_records_are_delivered_once_more,
            log::an_unknown_topic_is_refused,
            produce::b9_what_never_left_is_not_done,
            produce::b9_without_an_answer_the_outcome_is_unknown,
            produce::b9_a_doubt_is_not_forgotten_over_a_later_refusal,
            produce::b11_a_retry_after_a_lost_ack_leaves_one_copy,
            produce::b11_a_restarted_producer_is_a_new_one_and_leaves_two,
            produce::b11_a_retry_at_the_next_leader_leaves_one_copy,
            produce::a_batch_given_up_may_land_before_what_is_published_after_it,
            produce::a_batch_given_up_never_lands_behind_what_is_published_after_it,
            produce::the_report_comes_by_the_delivery_timeout,
            produce::b12_a_record_that_expires_leaves_a_gap,
            produce::b13_a_full_queue_refuses_or_waits,
            produce::b14_a_record_too_large_is_rejected_by_client_and_broker,
            produce::records_behind_a_failed_one_of_their_key_are_not_sent,
            produce::a_dropped_publish_does_not_disturb_the_next,
            consume::an_assigned_partition_is_silent_until_it_is_sought,
            consume::a_paused_partition_is_silent_until_resumed_or_sought,
            consume::a_dropped_next_loses_nothing,
            consume::reading_goes_on_while_leaders_change,
            consume::an_idle_consumer_is_quiet,
            group::b16_commits_are_neither_monotonic_nor_checked_for_ownership,
            group::b17_commits_of_strangers_and_old_generations_are_fenced,
            group::b18_cooperative_rebalancing_revokes_only_what_moves,
            group::b18_a_rebalance_waits_for_the_revocation_but_not_beyond_its_grace,
            group::b19_a_killed_members_partitions_wait_for_its_session_a_closed_ones_do_not,
            group::b20_a_consumer_that_does_not_poll_loses_its_partitions,
            group::b21_a_zombies_commit_fails,
            group::b22_what_was_not_committed_is_delivered_to_the_next_owner,
            group::b24_an_empty_groups_offsets_expire,
            group::b28_a_group_survives_its_coordinator,
            group::b28_a_new_coordinator_loads_before_it_answers,
            group::a_rebalance_storm_ends_with_every_partition_owned_once,
        }
    };
}
pub(crate) use every_case;

/// Cases that cannot be put to a real cluster, or not to this client, and why.
#[allow(dead_code, reason = "where there is no real cluster nobody asks")]
pub const NOT_ON_A_REAL_CLUSTER: &[(&str, &str)] = &[
    (
        "b2_offsets_are_sparse_and_caught_up_is_not_the_last_record",
        "gaps at will; real ones are those of transactions: kafka, own",
    ),
    ("b5_only_what_is_below_the_high_watermark_is_visible", "a broker cut from its peers alone"),
    ("b7_acks_leader_is_lost_with_the_leader_and_its_offset_reused", "a broker cut from its peers alone"),
    ("a_leader_cut_from_its_peers_cannot_commit_and_is_deposed", "a broker cut from its peers alone"),
    ("b17_commits_of_strangers_and_old_generations_are_fenced", "commits under another's name: kafka, own"),
    ("b23_an_offset_out_of_range_can_skip_everything", "the adapter does not offer `latest`"),
    ("b24_an_empty_groups_offsets_expire", "Kafka counts this in minutes"),
    ("b28_a_new_coordinator_loads_before_it_answers", "commits under another's name"),
    ("f20_old_records_are_delivered_once_more", "a real broker does not go back by itself"),
    ("an_idle_consumer_is_quiet", "counts the requests of another client"),
];
