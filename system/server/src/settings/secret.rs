//! What must not be printed: passwords, keys, URLs that hold one; and URLs that are printed, so that they hold none.

use std::{fmt, str::FromStr};

use axum::http::Uri;
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

/// Where a party outside is: `https://host:port/path`. It holds no secret, so it may be shown.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct PartyUrl {
    base: String,
    origin: String,
}

impl PartyUrl {
    /// On this machine.
    pub(super) fn local(port: u16) -> Self {
        let base = format!("http://127.0.0.1:{port}");
        Self { origin: base.clone(), base }
    }

    /// What paths are appended to: without a `/` at its end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Scheme, host and port, for messages.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

impl TryFrom<String> for PartyUrl {
    type Error = &'static str;

    /// The URL itself is not repeated in the error, for it may hold a password.
    fn try_from(url: String) -> Result<Self, Self::Error> {
        const FORM: &str = "is no URL of the form http://host:port or https://host";
        let uri: Uri = url.parse().map_err(|_| FORM)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(FORM) };
        if !matches!(scheme, "http" | "https") || authority.host().is_empty() {
            return Err(FORM);
        }
        if authority.as_str().contains('@') || uri.query().is_some() || url.contains('#') {
            return Err("must hold no user, password, query or fragment: URLs are shown in logs and errors");
        }
        Ok(Self { base: url.trim_end_matches('/').to_owned(), origin: format!("{scheme}://{authority}") })
    }
}

impl From<PartyUrl> for String {
    fn from(url: PartyUrl) -> Self {
        url.base
    }
}
