//! What must not be printed: passwords, keys, and URLs that hold one.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, Serializer};
use sqlx::postgres::PgConnectOptions;

/// Stands for a secret wherever it would be shown.
const HIDDEN: &str = "(hidden)";

/// A text that is neither printed nor serialised.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for whoever needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { HIDDEN })
    }
}

/// Where a PostgreSQL server is: `postgres://user:password@host:port/database`. Shown without its password.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct DatabaseUrl(PgConnectOptions);

impl DatabaseUrl {
    /// How to connect; `password` takes the place of the URL's own unless it is empty.
    pub fn options(&self, password: &Secret) -> PgConnectOptions {
        let options = self.0.clone();
        if password.reveal().is_empty() { options } else { options.password(password.reveal()) }
    }

    /// Host and port, for messages.
    pub fn host(&self) -> String {
        format!("{}:{}", self.0.get_host(), self.0.get_port())
    }

    fn shown(&self) -> String {
        let database = self.0.get_database().unwrap_or_default();
        format!("postgres://{}@{}/{database}", self.0.get_username(), self.host())
    }
}

impl TryFrom<String> for DatabaseUrl {
    type Error = &'static str;

    /// The URL itself is not repeated in the error, for it may hold a password.
    fn try_from(url: String) -> Result<Self, Self::Error> {
        const FORM: &str = "is no URL of the form postgres://user:password@host:port/database";
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(FORM);
        }
        PgConnectOptions::from_str(&url).map(Self).map_err(|_| FORM)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown())
    }
}
