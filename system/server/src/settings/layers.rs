//! Where settings come from: built-in defaults, a TOML file, the environment, flags; each layer over the one before.
//!
//! The defaults say which keys there are and of which type they are, so a misspelt key is refused wherever it stands,
//! and nothing is connected to before all of it was read.

use std::path::Path;

use thiserror::Error;
use toml::{Table, Value};

/// What environment variables begin with; `STORMGLASS_KAFKA_BROKERS` sets `kafka.brokers`.
pub const PREFIX: &str = "STORMGLASS_";

/// Variables that begin like settings and are flags of the command.
const NOT_SETTINGS: [&str; 1] = ["STORMGLASS_CONFIG"];

/// Why the settings cannot be used. `origin` says where the setting stands.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SettingsError {
    /// There is no such file, or it may not be read.
    #[error("{path}: {why}")]
    Unreadable {
        /// Of the file.
        path: String,
        /// What the system says.
        why: String,
    },
    /// The file is not TOML.
    #[error("{path}, line {line}: {why}")]
    Syntax {
        /// Of the file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// What the parser says.
        why: String,
    },
    /// There is no setting of that name.
    #[error("{origin}: unknown key {key}; the nearest one is {nearest}")]
    UnknownKey {
        /// Where it stands.
        origin: String,
        /// As it was written.
        key: String,
        /// What may have been meant.
        nearest: String,
    },
    /// A setting has a value that it cannot have.
    #[error("{origin}: {key} {why}")]
    Value {
        /// Where it stands.
        origin: String,
        /// Which setting.
        key: String,
        /// What it must be.
        why: String,
    },
}

/// What is set besides the defaults.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    /// A TOML file.
    pub file: Option<&'a Path>,
    /// Variables of the environment; those that do not begin with [`PREFIX`] are passed over.
    pub environment: Vec<(String, String)>,
    /// Flags, as (key, value).
    pub flags: Vec<(String, String)>,
}

/// Lays the sources over `defaults`.
///
/// # Errors
/// The first setting that does not exist or has another type.
pub fn merge(defaults: &Table, sources: &Sources<'_>) -> Result<Table, SettingsError> {
    let mut merged = defaults.clone();
    if let Some(path) = sources.file {
        let layer = Layer { defaults, origin: path.display().to_string() };
        for (key, value) in leaves(&read(path)?) {
            layer.set(&mut merged, &key, value)?;
        }
    }
    for (variable, text) in &sources.environment {
        let Some(name) = variable.strip_prefix(PREFIX) else { continue };
        if NOT_SETTINGS.contains(&variable.as_str()) {
            continue;
        }
        let layer = Layer { defaults, origin: format!("environment variable {variable}") };
        let key = name.to_lowercase().replacen('_', ".", 1);
        layer.set_text(&mut merged, &key, text)?;
    }
    let layer = Layer { defaults, origin: "flag".to_owned() };
    for (key, text) in &sources.flags {
        layer.set_text(&mut merged, key, text)?;
    }
    Ok(merged)
}

fn read(path: &Path) -> Result<Table, SettingsError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| SettingsError::Unreadable { path: shown.clone(), why: error.to_string() })?;
    text.parse::<Table>().map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let why = error.message().replace('\n', " ");
        SettingsError::Syntax { path: shown, line: before.matches('\n').count() + 1, why }
    })
}

/// `section.key` and value of everything in a table. There are no deeper ones.
fn leaves(table: &Table) -> Vec<(String, Value)> {
    let mut leaves = Vec::new();
    for (name, value) in table {
        match value {
            Value::Table(section) => {
                leaves.extend(section.iter().map(|(key, value)| (format!("{name}.{key}"), value.clone())));
            }
            other => leaves.push((name.clone(), other.clone())),
        }
    }
    leaves
}

/// One place that settings come from.
struct Layer<'a> {
    defaults: &'a Table,
    origin: String,
}

impl Layer<'_> {
    fn set(&self, into: &mut Table, key: &str, value: Value) -> Result<(), SettingsError> {
        let default = self.default_of(key)?;
        if !value.same_type(default) {
            return Err(self.refuse(key, format!("must be {}, not {}", name_of(default), name_of(&value))));
        }
        let section = key.split_once('.').and_then(|(section, key)| {
            into.get_mut(section).and_then(Value::as_table_mut).map(|table| (table, key))
        });
        if let Some((table, key)) = section {
            table.insert(key.to_owned(), value);
        }
        Ok(())
    }

    /// Sets what is written as text only: its type is the default's, and a list is separated by commas.
    fn set_text(&self, into: &mut Table, key: &str, text: &str) -> Result<(), SettingsError> {
        let default = self.default_of(key)?;
        let wrong = || self.refuse(key, format!("must be {}, not {text:?}", name_of(default)));
        let value = match default {
            Value::String(_) => Value::String(text.to_owned()),
            Value::Integer(_) => Value::Integer(text.parse().map_err(|_| wrong())?),
            Value::Float(_) => Value::Float(text.parse().map_err(|_| wrong())?),
            Value::Boolean(_) => Value::Boolean(text.parse().map_err(|_| wrong())?),
            Value::Array(_) => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                Value::Array(parts.map(|part| Value::String(part.to_owned())).collect())
            }
            Value::Datetime(_) | Value::Table(_) => return Err(wrong()),
        };
        self.set(into, key, value)
    }

    fn default_of(&self, key: &str) -> Result<&Value, SettingsError> {
        let found = key.split_once('.').and_then(|(section, key)| self.defaults.get(section)?.get(key));
        found.ok_or_else(|| SettingsError::UnknownKey {
            origin: self.origin.clone(),
            key: key.to_owned(),
            nearest: self.nearest(key),
        })
    }

    fn nearest(&self, key: &str) -> String {
        let known = leaves(self.defaults).into_iter().map(|(known, _)| known);
        known.min_by_key(|known| strsim::damerau_levenshtein(known, key)).unwrap_or_default()
    }

    fn refuse(&self, key: &str, why: String) -> SettingsError {
        SettingsError::Value { origin: self.origin.clone(), key: key.to_owned(), why }
    }
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a time",
        Value::Array(_) => "a list",
        Value::Table(_) => "a section",
    }
}
