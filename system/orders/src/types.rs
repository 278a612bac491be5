//! The values of the domain, each valid by construction: parsed once at the edge, trusted from there on.
//!
//! Whatever is decoded here can be stored (no NUL, no overflow), so a decider never meets a value that the database
//! would refuse. Left out: anything with a lifecycle; those enums stand beside the decider that moves them.

use std::{cmp::Ordering, fmt, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use stormglass_runtime::derive_id;
use thiserror::Error;
use uuid::Uuid;

/// A value that does not satisfy its type.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Invalid(pub &'static str);

/// A text of one type: bounded, checked by `$valid`, described by `$pattern` in JSON Schema.
macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $pattern:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a text.
            ///
            /// # Errors
            /// If it breaks the rule of the type.
            pub fn new(text: &str) -> Result<Self, Invalid> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.into())) } else { Err(Invalid($rule)) }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;
            fn try_from(text: String) -> Result<Self, Invalid> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}

text_type! {
    /// Who owns an order. It is in every id and every query, so that no tenant sees another's (SEMANTICS I22).
    Tenant, "^[a-z0-9-]{1,64}$", "a tenant is 1 to 64 of a-z, 0-9 and -",
    |text| (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
text_type! {
    /// A stock keeping unit.
    Sku, "^[A-Za-z0-9._-]{1,64}$", "a SKU is 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'",
    |text| (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}
text_type! {
    /// Whom an order is for, as the tenant names its customers: an account number or an address.
    Customer, "^[!-~]{1,254}$", "a customer is 1 to 254 visible ASCII characters",
    |text| (1..=254).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}
text_type! {
    /// What a provider calls something of its own: a charge, a refund, a message.
    Reference, "^[!-~]{1,255}$", "a reference is 1 to 255 visible ASCII characters",
    |text| (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}
text_type! {
    /// An ISO 4217 code of a currency in use.
    Currency, "^[A-Z]{3}$", "a currency is an ISO 4217 code in use",
    |text| CURRENCIES.binary_search(&text).is_ok()
}

/// ISO 4217, list one (national currencies in use), without funds, metals and test codes. Sorted.
const CURRENCIES: &[&str] = &[
    "AED", "AFN", "ALL", "AMD", "AOA", "ARS", "AUD", "AWG", "AZN", "BAM", "BBD", "BDT", "BGN", "BHD", "BIF",
    "BMD", "BND", "BOB", "BRL", "BSD", "BTN", "BWP", "BYN", "BZD", "CAD", "CDF", "CHF", "CLP", "CNY", "COP",
    "CRC", "CUP", "CVE", "CZK", "DJF", "DKK", "DOP", "DZD", "EGP", "ERN", "ETB", "EUR", "FJD", "FKP", "GBP",
    "GEL", "GHS", "GIP", "GMD", "GNF", "GTQ", "GYD", "HKD", "HNL", "HTG", "HUF", "IDR", "ILS", "INR", "IQD",
    "IRR", "ISK", "JMD", "JOD", "JPY", "KES", "KGS", "KHR", "KMF", "KPW", "KRW", "KWD", "KYD", "KZT", "LAK",
    "LBP", "LKR", "LRD", "LSL", "LYD", "MAD", "MDL", "MGA", "MKD", "MMK", "MNT", "MOP", "MRU", "MUR", "MVR",
    "MWK", "MXN", "MYR", "MZN", "NAD", "NGN", "NIO", "NOK", "NPR", "NZD", "OMR", "PAB", "PEN", "PGK", "PHP",
    "PKR", "PLN", "PYG", "QAR", "RON", "RSD", "RUB", "RWF", "SAR", "SBD", "SCR", "SDG", "SEK", "SGD", "SHP",
    "SLE", "SOS", "SRD", "SSP", "STN", "SVC", "SYP", "SZL", "THB", "TJS", "TMT", "TND", "TOP", "TRY", "TTD",
    "TWD", "TZS", "UAH", "UGX", "USD", "UYU", "UZS", "VED", "VES", "VND", "VUV", "WST", "XAF", "XCD", "XCG",
    "XOF", "XPF", "YER", "ZAR", "ZMW", "ZWG",
];

/// Tenants are ordered as the keys that begin with them are: as if a `/` followed. By plain text `a` would come
/// before `a-b`, but `a-b/…` sorts before `a/…`, and locks must be taken in the order of the stored keys.
impl Ord for Tenant {
    fn cmp(&self, other: &Self) -> Ordering {
        let ended = |tenant: &Self| [tenant.0.as_bytes(), b"/"].concat();
        if self.0 == other.0 { Ordering::Equal } else { ended(self).cmp(&ended(other)) }
    }
}

impl PartialOrd for Tenant {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sku {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Sku {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Names an order; unique across tenants, since the tenant is hashed into it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct OrderId(pub Uuid);

impl OrderId {
    /// The order that `tenant` places under an Idempotency-Key: the same at every gateway and at every repeat.
    pub fn derive(tenant: &Tenant, idempotency_key: &str) -> Self {
        Self(derive_id("order/v1", &[tenant.as_str().as_bytes(), idempotency_key.as_bytes()]))
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// F: what the body of an order hashes to. The same order asked for twice has one F, however the JSON was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Fingerprint(pub Uuid);

/// How many of one SKU: 1 to 1,000,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Quantity(i64);

impl JsonSchema for Quantity {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": 1_000_000 })
    }
}

impl Quantity {
    /// Checks a count.
    ///
    /// # Errors
    /// If it is below 1 or above a million.
    pub fn new(count: i64) -> Result<Self, Invalid> {
        if (1..=1_000_000).contains(&count) {
            Ok(Self(count))
        } else {
            Err(Invalid("a quantity is 1 to 1000000"))
        }
    }

    /// The count.
    pub fn get(self) -> i64 {
        self.0
    }
}

impl TryFrom<i64> for Quantity {
    type Error = Invalid;
    fn try_from(count: i64) -> Result<Self, Invalid> {
        Self::new(count)
    }
}

impl From<Quantity> for i64 {
    fn from(quantity: Quantity) -> i64 {
        quantity.0
    }
}

/// An amount of money above zero, in the minor unit of its currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Money {
    /// How much, in minor units (cents); above zero.
    #[schemars(range(min = 1))]
    pub minor: i64,
    /// Of what.
    pub currency: Currency,
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (minor units)", self.minor, self.currency)
    }
}

/// So many of one SKU.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Item {
    /// Of what.
    pub sku: Sku,
    /// How many.
    pub quantity: Quantity,
}

/// A line of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    /// Of what.
    pub sku: Sku,
    /// How many.
    pub quantity: Quantity,
    /// The price of one, in minor units of the order's currency; zero for a gift.
    #[schemars(range(min = 0))]
    pub unit_price_minor: i64,
}

/// What is ordered: checked lines, each SKU once, whose sum is above zero and fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "BasketParts", into = "BasketParts")]
pub struct Basket {
    parts: BasketParts,
    total: Money,
}

/// A basket as it travels: without its sum, which follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BasketParts {
    /// Whom it is for.
    pub customer: Customer,
    /// What all prices are in.
    pub currency: Currency,
    /// What is in it.
    #[schemars(length(min = 1, max = 100))]
    pub lines: Vec<Line>,
}

/// Lines of one order at most: each is a row lock on a stock row.
pub const LINES_MAX: usize = 100;

impl TryFrom<BasketParts> for Basket {
    type Error = Invalid;

    fn try_from(parts: BasketParts) -> Result<Self, Invalid> {
        if !(1..=LINES_MAX).contains(&parts.lines.len()) {
            return Err(Invalid("an order has 1 to 100 lines"));
        }
        let mut skus: Vec<_> = parts.lines.iter().map(|line| &line.sku).collect();
        skus.sort();
        if skus.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Invalid("each SKU may be in one line only"));
        }
        if parts.lines.iter().any(|line| line.unit_price_minor < 0) {
            return Err(Invalid("a price is not negative"));
        }
        let minor = parts
            .lines
            .iter()
            .try_fold(0_i64, |sum, line| {
                line.unit_price_minor
                    .checked_mul(line.quantity.get())
                    .and_then(|price| sum.checked_add(price))
            })
            .ok_or(Invalid("the total is too large"))?;
        if minor == 0 {
            return Err(Invalid("there is nothing to pay"));
        }
        let total = Money { minor, currency: parts.currency.clone() };
        Ok(Self { parts, total })
    }
}

impl From<Basket> for BasketParts {
    fn from(basket: Basket) -> BasketParts {
        basket.parts
    }
}

impl Basket {
    /// Whom it is for.
    pub fn customer(&self) -> &Customer {
        &self.parts.customer
    }

    /// What is in it; at least one line.
    pub fn lines(&self) -> &[Line] {
        &self.parts.lines
    }

    /// What it costs.
    pub fn total(&self) -> &Money {
        &self.total
    }

    /// How many of which SKU.
    pub fn items(&self) -> Vec<Item> {
        let item = |line: &Line| Item { sku: line.sku.clone(), quantity: line.quantity };
        self.parts.lines.iter().map(item).collect()
    }

    /// F of this basket. The order of its lines counts, the layout of its JSON does not.
    pub fn fingerprint(&self) -> Fingerprint {
        let BasketParts { customer, currency, lines } = &self.parts;
        let mut parts = vec![customer.as_str().as_bytes().to_vec(), currency.as_str().as_bytes().to_vec()];
        for line in lines {
            parts.push(line.sku.as_str().as_bytes().to_vec());
            parts.push(line.quantity.get().to_be_bytes().to_vec());
            parts.push(line.unit_price_minor.to_be_bytes().to_vec());
        }
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        Fingerprint(derive_id("basket/v1", &parts))
    }
}
