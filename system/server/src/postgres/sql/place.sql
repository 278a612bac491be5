-- Where this server's log stands, and whether it replays another's. A standby does not tell on which timeline it replays:
-- `timeline` is what it has certainly reached, `timeline_received` what it may have. A snapshot is older than the place
-- that its own statement reads, so the place is never too low for what was read with it.
SELECT
    pg_is_in_recovery() AS "standby!",
    CASE
        WHEN pg_is_in_recovery() THEN greatest(
            (SELECT timeline_id FROM pg_control_checkpoint()),
            (SELECT min_recovery_end_timeline FROM pg_control_recovery())
        )
        ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int
    END AS "timeline!",
    CASE WHEN pg_is_in_recovery() THEN (SELECT received_tli FROM pg_stat_wal_receiver) END AS "timeline_received?",
    (
        CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END
        - '0/0'::pg_lsn
    )::bigint AS "lsn!"
