//! The document as the tests read it: what it says of an operation, and whether an answer is one of those.

use std::collections::BTreeSet;

use axum::http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};
use stormglass_server::openapi::DOCUMENT;

/// Headers that tell a client something: none comes undocumented.
const TELLING: [&str; 3] = ["location", "retry-after", "stormglass-freshness"];

pub struct Document(pub Value);

/// What came back.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }
}

impl Document {
    pub fn read() -> Self {
        Self(serde_json::from_str(DOCUMENT).expect("the document is JSON"))
    }

    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => {
                self.0.pointer(&reference[1..]).unwrap_or_else(|| panic!("{reference} is nowhere"))
            }
            None => value,
        }
    }

    /// Each path with its methods.
    pub fn routes(&self) -> BTreeSet<(String, BTreeSet<String>)> {
        let paths = self.0["paths"].as_object().expect("paths");
        let methods =
            |item: &Value| item.as_object().expect("methods").keys().map(|key| key.to_uppercase()).collect();
        paths.iter().map(|(path, item)| (path.clone(), methods(item))).collect()
    }

    /// Each answer there is: method, path, status and, where it is one, problem.
    pub fn answers(&self) -> BTreeSet<String> {
        let mut answers = BTreeSet::new();
        for (path, methods) in self.routes() {
            for method in methods {
                let operation = &self.0["paths"][&path][method.to_lowercase()];
                for (status, answer) in operation["responses"].as_object().expect("answers") {
                    let slugs = slugs(self.resolved(answer));
                    answers.extend(slugs.iter().map(|slug| format!("{method} {path} {status} {slug}")));
                }
            }
        }
        answers
    }

    /// Panics unless the document describes this answer; says which one of [`Document::answers`] it is.
    #[track_caller]
    pub fn check(&self, (method, path): (&Method, &str), answer: &Answer) -> String {
        let status = answer.status.as_u16().to_string();
        let name = format!("{method} {path} {status}");
        let operation = &self.0["paths"][path][method.as_str().to_lowercase()];
        assert!(operation.is_object(), "{method} {path} is not in the document");
        let described = operation["responses"].get(&status).map(|described| self.resolved(described));
        let described = described.unwrap_or_else(|| panic!("{name} is not in the document"));
        self.check_headers(&name, described, answer);
        let kind = answer.header("content-type").and_then(|kind| kind.split(';').next()).unwrap_or_default();
        let content = described["content"].as_object().expect("every answer has a body");
        let media = content.get(kind).unwrap_or_else(|| panic!("{name} is not described as {kind:?}"));
        let body = match serde_json::from_slice(&answer.body) {
            Ok(body) if kind.ends_with("json") => body,
            _ => Value::from(String::from_utf8(answer.body.clone()).expect("text")),
        };
        let faults = self.faults(&media["schema"], &body);
        assert!(faults.is_empty(), "{name}: {faults:?} in {body:#}");
        let slug = body["type"].as_str().and_then(|kind| kind.rsplit(':').next()).unwrap_or_default();
        assert!(slugs(described).contains(slug), "{name}: the problem {slug:?} is not in its description");
        format!("{name} {slug}")
    }

    #[track_caller]
    fn check_headers(&self, name: &str, described: &Value, answer: &Answer) {
        for telling in TELLING.into_iter().filter(|telling| answer.headers.contains_key(*telling)) {
            let known = described["headers"].as_object().into_iter().flatten();
            let known = known.into_iter().any(|(header, _)| header.eq_ignore_ascii_case(telling));
            assert!(known, "{name}: the header {telling} is not in the document");
        }
        for (header, promise) in described["headers"].as_object().into_iter().flatten() {
            let value = answer.header(header).unwrap_or_else(|| panic!("{name}: no header {header}"));
            let faults = self.faults(&self.resolved(promise)["schema"], &json!(value));
            assert!(faults.is_empty(), "{name}: {header}: {faults:?}");
        }
        assert!(answer.headers.contains_key(header::CONTENT_TYPE), "{name} does not say what its body is");
    }

    /// What is wrong with `value` by `schema`, which is taken at its word: members that it does not name are faults too.
    pub fn faults(&self, schema: &Value, value: &Value) -> Vec<String> {
        let mut whole = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "allOf": [schema],
            "components": self.0["components"],
        });
        close(&mut whole);
        let validator = jsonschema::options().should_validate_formats(true).build(&whole).expect("a schema");
        validator.iter_errors(value).map(|fault| format!("{}: {fault}", fault.instance_path())).collect()
    }
}

/// Lets no object that lists its members have another one.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.get("type") == Some(&json!("object")) && members.contains_key("properties") {
                members.insert("additionalProperties".to_owned(), json!(false));
            }
            members.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The problems that a description names between backquotes; the empty one where the answer is none.
fn slugs(described: &Value) -> BTreeSet<&str> {
    if described["content"].get("application/problem+json").is_none() {
        return BTreeSet::from([""]);
    }
    described["description"].as_str().expect("a description").split('`').skip(1).step_by(2).collect()
}
