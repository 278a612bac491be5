//! The committed JSON Schemas are those of the code: what other teams read is what is checked here.

use stormglass_orders::Kind;

fn committed(kind: Kind) -> &'static str {
    match kind {
        Kind::OrderPlaced => include_str!("../../schemas/order.placed.v1.json"),
        Kind::OrderCancelRequested => include_str!("../../schemas/order.cancel-requested.v1.json"),
        Kind::OrderConfirmed => include_str!("../../schemas/order.confirmed.v1.json"),
        Kind::OrderCancelled => include_str!("../../schemas/order.cancelled.v1.json"),
        Kind::OrderDeadline => include_str!("../../schemas/order.deadline.v1.json"),
        Kind::PaymentCaptured => include_str!("../../schemas/payment.captured.v1.json"),
        Kind::PaymentDeclined => include_str!("../../schemas/payment.declined.v1.json"),
        Kind::PaymentRefundDue => include_str!("../../schemas/payment.refund-due.v1.json"),
        Kind::PaymentRefunded => include_str!("../../schemas/payment.refunded.v1.json"),
        Kind::StockReserved => include_str!("../../schemas/stock.reserved.v1.json"),
        Kind::StockRejected => include_str!("../../schemas/stock.rejected.v1.json"),
        Kind::StockReleased => include_str!("../../schemas/stock.released.v1.json"),
    }
}

#[test]
fn each_event_type_has_its_current_schema() {
    for kind in Kind::ALL {
        let current = serde_json::to_string_pretty(&kind.schema()).expect("JSON") + "\n";
        let file = format!("schemas/{}.json", kind.ce_type());
        assert_eq!(committed(*kind), current, "{file} is not current; its text should be:\n{current}");
    }
}
