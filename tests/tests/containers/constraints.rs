//! One row of each table that the schema accepts, and for each constraint a change to it that breaks it.

use serde_json::{Value, json};

/// A change that the schema must refuse, by the constraint that it breaks.
pub struct Break {
    pub constraint: &'static str,
    pub table: &'static str,
    /// Columns to set otherwise than [`valid`] does.
    pub columns: Value,
}

/// A row that every constraint of the table accepts.
pub fn valid(table: &str) -> Value {
    match table {
        "positions" => json!({ "consumer": "payments", "topic": "orders", "partition": 0, "next": 0 }),
        "pending" => pending(),
        "leases" => {
            json!({ "name": "relay", "holder": ID, "epoch": 1, "expires_at": "2026-01-01T00:00:00Z" })
        }
        "rows" => json!({ "kind": "account", "key": "a", "version": 1, "body": {} }),
        "orders" => order(),
        "payments" => domain(json!({
            "state": "captured", "customer": "ada", "currency": "EUR", "amount_minor": 4_999, "charge": "ch-1",
        })),
        "reservations" => domain(json!({ "state": "reserved", "items": [{ "sku": "s", "quantity": 1 }] })),
        "stock" => json!({
            "key": "acme/s", "version": 1, "tenant": "acme", "sku": "s", "available": 1, "reserved": 0, "sold": 0,
        }),
        "messages" => {
            let message = json!({ "kind": "confirmed", "state": "sent", "reference": "m-1" });
            with(domain(message), &json!({ "key": format!("acme/{ID}/confirmed") }))
        }
        other => panic!("no valid row of {other} is known"),
    }
}

const ID: &str = "0190a6b0-0000-8000-8000-000000000000";

fn pending() -> Value {
    json!({
        "consumer": "payments", "key": "\\x6b", "seq": 1, "event_id": ID, "topic": "orders", "partition": 0,
        "offset": 0, "record_topic": "orders", "headers": "\\x", "value": "\\x", "epoch": 0, "attempts": 0,
        "due": "2026-01-01T00:00:00Z",
    })
}

fn order() -> Value {
    domain(json!({
        "state": "open", "progress": "nothing", "fingerprint": ID, "customer": "ada", "currency": "EUR",
        "lines": [{ "sku": "s", "quantity": 1, "unit_price_minor": 4_999 }], "total_minor": 4_999,
        "placed_at_ms": 0, "conflicts": 0, "cancels_refused": 0,
    }))
}

fn domain(columns: Value) -> Value {
    with(json!({ "key": format!("acme/{ID}"), "version": 1, "tenant": "acme", "id": ID }), &columns)
}

/// `row` with `columns` set.
pub fn with(mut row: Value, columns: &Value) -> Value {
    for (column, value) in columns.as_object().into_iter().flatten() {
        row[column] = value.clone();
    }
    row
}

/// A break of every constraint there is.
pub fn breaks() -> Vec<Break> {
    let mut breaks = runtime();
    for (table, own) in [
        ("orders", orders()),
        ("payments", payments()),
        ("reservations", reservations()),
        ("stock", stock()),
        ("messages", messages()),
    ] {
        breaks.extend(own.into_iter().map(|(constraint, columns)| Break { constraint, table, columns }));
    }
    breaks
}

fn runtime() -> Vec<Break> {
    let claimed =
        json!({ "claim": ID, "leased_until": "2026-01-01T00:00:00Z", "dead_at": "2026-01-01T00:00:00Z" });
    [
        ("positions", "positions_partition_not_negative", json!({ "partition": -1 })),
        ("positions", "positions_next_not_negative", json!({ "next": -1 })),
        ("pending", "pending_attempts_not_negative", json!({ "attempts": -1 })),
        ("pending", "pending_epoch_not_negative", json!({ "epoch": -1 })),
        ("pending", "pending_claim_iff_leased", json!({ "claim": ID })),
        ("pending", "pending_claim_iff_leased", json!({ "leased_until": "2026-01-01T00:00:00Z" })),
        ("pending", "pending_dead_not_claimed", claimed),
        ("leases", "leases_epoch_positive", json!({ "epoch": 0 })),
        ("rows", "rows_version_positive", json!({ "version": 0 })),
    ]
    .into_iter()
    .map(|(table, constraint, columns)| Break { constraint, table, columns })
    .collect()
}

type Breaks = Vec<(&'static str, Value)>;

fn orders() -> Breaks {
    vec![
        ("tenant_valid", json!({ "tenant": "a/b", "key": format!("a/b/{ID}") })),
        ("orders_version_positive", json!({ "version": 0 })),
        ("orders_key_composed", json!({ "key": format!("other/{ID}") })),
        ("orders_state_known", json!({ "state": "lost", "progress": null })),
        ("orders_foretold_known", json!({ "foretold": "paid" })),
        ("orders_progress_iff_open", json!({ "progress": null })),
        ("orders_progress_iff_open", json!({ "state": "confirmed" })),
        ("orders_reason_iff_cancelled", json!({ "reason": "deadline" })),
        ("orders_reason_iff_cancelled", json!({ "state": "cancelled", "progress": null })),
        ("orders_details_whole", json!({ "customer": null })),
        ("orders_total_positive", json!({ "total_minor": 0 })),
        ("orders_counts_not_negative", json!({ "conflicts": -1 })),
        ("orders_counts_not_negative", json!({ "cancels_refused": -1 })),
    ]
}

fn payments() -> Breaks {
    vec![
        ("payments_version_positive", json!({ "version": 0 })),
        ("payments_key_composed", json!({ "key": "acme" })),
        (
            "payments_state_known",
            json!({ "state": "lost", "customer": null, "currency": null, "amount_minor": null, "charge": null }),
        ),
        ("payments_fingerprint_iff_asked", json!({ "fingerprint": ID })),
        ("payments_reason_iff_declined", json!({ "reason": "refused" })),
        ("payments_charge_iff_captured", json!({ "charge": null })),
        ("payments_charge_iff_captured", json!({ "state": "void" })),
        ("payments_refund_iff_refunded", json!({ "refund": "re-1" })),
        ("payments_refund_iff_refunded", json!({ "state": "refunded" })),
        ("payments_amount_positive", json!({ "amount_minor": 0 })),
    ]
}

fn reservations() -> Breaks {
    vec![
        ("reservations_version_positive", json!({ "version": 0 })),
        ("reservations_key_composed", json!({ "key": "acme" })),
        ("reservations_state_known", json!({ "state": "lost", "items": null })),
        ("reservations_reason_iff_rejected", json!({ "reason": "gave-up" })),
        ("reservations_reason_iff_rejected", json!({ "state": "rejected", "items": null })),
        ("reservations_items_iff_reserved", json!({ "items": null })),
        ("reservations_items_iff_reserved", json!({ "state": "barred" })),
        ("reservations_items_present", json!({ "items": [] })),
    ]
}

fn stock() -> Breaks {
    vec![
        ("stock_version_positive", json!({ "version": 0 })),
        ("stock_key_composed", json!({ "key": "acme" })),
        ("stock_available_not_negative", json!({ "available": -1 })),
        ("stock_reserved_not_negative", json!({ "reserved": -1 })),
        ("stock_sold_not_negative", json!({ "sold": -1 })),
        ("stock_supply_fits", json!({ "available": i64::MAX, "sold": 1 })),
    ]
}

fn messages() -> Breaks {
    vec![
        ("messages_version_positive", json!({ "version": 0 })),
        ("messages_key_composed", json!({ "key": "acme" })),
        ("messages_kind_known", json!({ "kind": "greeting", "key": format!("acme/{ID}/greeting") })),
        ("messages_state_known", json!({ "state": "lost", "reference": null })),
        ("messages_reference_iff_sent", json!({ "reference": null })),
        ("messages_reference_iff_sent", json!({ "state": "undelivered" })),
    ]
}
