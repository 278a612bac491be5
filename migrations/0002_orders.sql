-- The tables of the order services. Each has one writing service; none has a unique index beside its primary key, so
-- two writers never meet in one.
--
-- `key` is the key as text, `tenant/…`: rows are locked and listed in its order, which is also the order of the
-- programs. `version` starts at 1 and grows by 1 with each update (see 0001, rows). The constraints repeat what the
-- programs hold already; they are for whoever writes SQL by hand, and for the mistake that a test did not see.

-- Who owns a row. No `/`, which ends the tenant in a key: or one tenant's prefix could reach into another's rows.
CREATE DOMAIN tenant AS text COLLATE "C" CONSTRAINT tenant_valid CHECK (VALUE ~ '^[a-z0-9-]{1,64}$');

CREATE TABLE orders (
    key             text   COLLATE "C" PRIMARY KEY,
    version         bigint NOT NULL,
    tenant          tenant NOT NULL,
    id              uuid   NOT NULL,
    state           text   NOT NULL,
    -- What others did for an order whose order.placed has not been read yet.
    foretold        text,
    -- What an open order has achieved.
    progress        text,
    -- Why it was cancelled.
    reason          text,
    -- Of the body that it is about: while it is foretold, of the one that the others acted on.
    fingerprint     uuid,
    customer        text,
    currency        char(3),
    -- [{"sku": …, "quantity": …, "unit_price_minor": …}]: read and written whole, never searched.
    lines           jsonb,
    total_minor     bigint,
    placed_at_ms    bigint,
    conflicts       bigint NOT NULL,
    cancels_refused bigint NOT NULL,
    CONSTRAINT orders_version_positive CHECK (version >= 1),
    -- A key that names another row than its columns would be locked as one order and read as another.
    CONSTRAINT orders_key_composed CHECK (key = tenant || '/' || id),
    -- A state that no program knows would stay for ever.
    CONSTRAINT orders_state_known CHECK (state IN ('foretold', 'open', 'confirmed', 'cancelled')),
    -- Each of these belongs to one state; left over from another it would be believed.
    CONSTRAINT orders_foretold_known
        CHECK (CASE WHEN state = 'foretold' THEN coalesce(foretold IN ('paid', 'reserved', 'both'), false)
                    ELSE foretold IS NULL END),
    CONSTRAINT orders_progress_iff_open
        CHECK (CASE WHEN state = 'open' THEN coalesce(progress IN ('nothing', 'paid', 'reserved'), false)
                    ELSE progress IS NULL END),
    CONSTRAINT orders_reason_iff_cancelled
        CHECK (CASE WHEN state = 'cancelled'
                    THEN coalesce(reason IN ('requested', 'not-paid', 'out-of-stock', 'deadline', 'conflict', 'failed'), false)
                    ELSE reason IS NULL END),
    -- What was ordered is known whole or not at all: not while foretold, always once open or confirmed, and perhaps
    -- never of an order that was cancelled first. A foretold order knows its fingerprint alone: without it, what was
    -- done for another body would count as done for this one.
    CONSTRAINT orders_details_whole
        CHECK (CASE num_nulls(customer, currency, lines, total_minor, placed_at_ms)
                    WHEN 0 THEN state IN ('open', 'confirmed', 'cancelled') AND fingerprint IS NOT NULL
                    WHEN 5 THEN CASE state WHEN 'foretold' THEN fingerprint IS NOT NULL
                                           WHEN 'cancelled' THEN fingerprint IS NULL
                                           ELSE false END
                    ELSE false END),
    -- An order that costs nothing cannot be charged, so it would never be paid.
    CONSTRAINT orders_total_positive CHECK (total_minor > 0),
    -- They count; a negative one was set, not counted.
    CONSTRAINT orders_counts_not_negative CHECK (conflicts >= 0 AND cancels_refused >= 0)
)
-- Updated two or three times in the seconds after the insert, then never: room for those on the same page.
WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02);

CREATE TABLE payments (
    key          text   COLLATE "C" PRIMARY KEY,
    version      bigint NOT NULL,
    tenant       tenant NOT NULL,
    id           uuid   NOT NULL,
    state        text   NOT NULL,
    -- Of the body that a charge was asked for, while nothing more is known of it.
    fingerprint  uuid,
    -- Why it was declined.
    reason       text,
    customer     text,
    currency     char(3),
    amount_minor bigint,
    -- What the provider calls the charge, and the refund.
    charge       text,
    refund       text,
    CONSTRAINT payments_version_positive CHECK (version >= 1),
    CONSTRAINT payments_key_composed CHECK (key = tenant || '/' || id),
    CONSTRAINT payments_state_known
        CHECK (state IN ('void', 'asked', 'declined', 'captured', 'refund-owed', 'refunded')),
    -- Without it, the charge of another body would count as this one's, or be made beside it.
    CONSTRAINT payments_fingerprint_iff_asked CHECK ((fingerprint IS NOT NULL) = (state = 'asked')),
    CONSTRAINT payments_reason_iff_declined
        CHECK (CASE WHEN state = 'declined' THEN coalesce(reason IN ('refused', 'gave-up'), false)
                    ELSE reason IS NULL END),
    -- Money that was taken is known by whom, how much and which charge, or it could not be given back; and a payment
    -- that took none must not look as if it had.
    CONSTRAINT payments_charge_iff_captured
        CHECK (num_nulls(customer, currency, amount_minor, charge)
               = CASE WHEN state IN ('captured', 'refund-owed', 'refunded') THEN 0 ELSE 4 END),
    -- "Refunded" without the provider's word for it is a claim, not a refund.
    CONSTRAINT payments_refund_iff_refunded CHECK ((refund IS NOT NULL) = (state = 'refunded')),
    CONSTRAINT payments_amount_positive CHECK (amount_minor > 0)
)
WITH (fillfactor = 80);

-- Money that is owed: what an operator asks for first. Small, since the state is short-lived.
CREATE INDEX payments_owed ON payments (key) WHERE state = 'refund-owed';

CREATE TABLE reservations (
    key        text   COLLATE "C" PRIMARY KEY,
    version    bigint NOT NULL,
    tenant     tenant NOT NULL,
    id         uuid   NOT NULL,
    state      text   NOT NULL,
    -- Why nothing could be held, and of which SKU there was too little.
    reason     text,
    reason_sku text,
    -- [{"sku": …, "quantity": …}]: what is sold or released is what was held, whatever a later event says.
    items      jsonb,
    CONSTRAINT reservations_version_positive CHECK (version >= 1),
    CONSTRAINT reservations_key_composed CHECK (key = tenant || '/' || id),
    CONSTRAINT reservations_state_known
        CHECK (state IN ('barred', 'rejected', 'reserved', 'sold', 'released')),
    -- The SKU is named exactly where one is to blame.
    CONSTRAINT reservations_reason_iff_rejected
        CHECK (CASE WHEN state <> 'rejected' THEN reason IS NULL AND reason_sku IS NULL
                    WHEN reason_sku IS NULL THEN coalesce(reason = 'gave-up', false)
                    ELSE coalesce(reason IN ('unknown-sku', 'sold-out'), false) END),
    -- Items that are held, sold or released are known, or they could not be given back; no other state has any.
    CONSTRAINT reservations_items_iff_reserved
        CHECK ((items IS NOT NULL) = (state IN ('reserved', 'sold', 'released'))),
    -- A reservation of nothing would be confirmed and sell nothing.
    CONSTRAINT reservations_items_present
        CHECK (items IS NULL OR (jsonb_typeof(items) = 'array' AND items <> '[]'::jsonb))
)
WITH (fillfactor = 80);

CREATE TABLE stock (
    key       text   COLLATE "C" PRIMARY KEY,
    version   bigint NOT NULL,
    tenant    tenant NOT NULL,
    sku       text   COLLATE "C" NOT NULL,
    available bigint NOT NULL,
    reserved  bigint NOT NULL,
    sold      bigint NOT NULL,
    CONSTRAINT stock_version_positive CHECK (version >= 1),
    CONSTRAINT stock_key_composed CHECK (key = tenant || '/' || sku),
    -- The last item is sold once: whoever would oversell it breaks this instead.
    CONSTRAINT stock_available_not_negative CHECK (available >= 0),
    -- Below zero, something was sold or released that nobody held.
    CONSTRAINT stock_reserved_not_negative CHECK (reserved >= 0),
    CONSTRAINT stock_sold_not_negative CHECK (sold >= 0),
    -- Items move between the three and their sum is constant; while it fits, no move can overflow.
    CONSTRAINT stock_supply_fits
        CHECK (available::numeric + reserved + sold <= 9223372036854775807)
)
-- A hot SKU is updated by every batch: room for HOT updates, and a vacuum before its row versions fill pages.
WITH (
    fillfactor = 30,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

CREATE TABLE messages (
    key       text   COLLATE "C" PRIMARY KEY,
    version   bigint NOT NULL,
    tenant    tenant NOT NULL,
    id        uuid   NOT NULL,
    kind      text   NOT NULL,
    state     text   NOT NULL,
    -- What the notifier calls the message.
    reference text,
    CONSTRAINT messages_version_positive CHECK (version >= 1),
    CONSTRAINT messages_key_composed CHECK (key = tenant || '/' || id || '/' || kind),
    CONSTRAINT messages_kind_known CHECK (kind IN ('cancelled', 'confirmed', 'refunded')),
    CONSTRAINT messages_state_known CHECK (state IN ('sent', 'undelivered')),
    -- "Sent" without the notifier's word for it is a claim, not a message.
    CONSTRAINT messages_reference_iff_sent CHECK ((reference IS NOT NULL) = (state = 'sent'))
);
