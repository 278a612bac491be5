//! An OpenAPI document as one HTML page: operations by tag, what they take, what they answer, then the schemas.
//!
//! It knows the parts of OpenAPI that our document uses, and shows schemas as they are written, with links.

use serde_json::Value;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}\
    code,pre{font-family:ui-monospace,monospace;font-size:.9em}pre{background:#8881;padding:.7rem;overflow:auto}\
    table{border-collapse:collapse;width:100%}td{border-top:1px solid #8884;padding:.3rem .6rem .3rem 0;vertical-align:top}\
    td:first-child{white-space:nowrap}section{margin:2.5rem 0}:root{color-scheme:light dark}";

/// The page.
pub fn render(document: &Value) -> String {
    let info = &document["info"];
    let title = text(&info["title"]);
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style>\
         <h1>{title} {}</h1><p>{}</p><p><a href=\"/openapi.json\">openapi.json</a></p>",
        text(&info["version"]),
        prose(&info["description"]),
    );
    for tag in document["tags"].as_array().into_iter().flatten() {
        page += &format!("<h2>{}</h2><p>{}</p>", text(&tag["name"]), prose(&tag["description"]));
        for (path, method, operation) in operations(document) {
            if operation["tags"].as_array().is_some_and(|tags| tags.contains(&tag["name"])) {
                page += &section(document, (path, method), operation);
            }
        }
    }
    page += "<h2>schemas</h2>";
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        page += &format!("<h3 id=\"{name}\">{name}</h3>{}", source(schema));
    }
    page + "</html>\n"
}

/// Path, method and operation of each.
fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths.flat_map(|(path, item)| {
        let methods = item.as_object().into_iter().flatten();
        methods.map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
    })
}

fn section(document: &Value, (path, method): (&str, &str), operation: &Value) -> String {
    let mut out = format!(
        "<section id=\"{}\"><h3><code>{} {}</code></h3><p>{} {}</p>",
        text(&operation["operationId"]),
        method.to_uppercase(),
        escaped(path),
        prose(&operation["summary"]),
        prose(&operation["description"]),
    );
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    out += &table(parameters.map(|parameter| {
        let parameter = resolved(document, parameter);
        let needed = if parameter["required"] == true { "required" } else { "optional" };
        let about = format!("{} {needed} {}", prose(&parameter["description"]), schema(&parameter["schema"]));
        (format!("{} <code>{}</code>", text(&parameter["in"]), text(&parameter["name"])), about)
    }));
    out += &content(&operation["requestBody"]);
    let answers = operation["responses"].as_object().into_iter().flatten();
    out += &table(answers.map(|(status, answer)| {
        let answer = resolved(document, answer);
        (format!("<b>{status}</b>"), format!("{}{}", prose(&answer["description"]), content(answer)))
    }));
    out + "</section>"
}

/// The bodies of a request or an answer: type, schema, example.
fn content(holder: &Value) -> String {
    let mut out = String::new();
    for (kind, media) in holder["content"].as_object().into_iter().flatten() {
        out += &format!("<p><code>{kind}</code> {}</p>", schema(&media["schema"]));
        if let Some(example) = media.get("example") {
            out += &source(example);
        }
    }
    out
}

fn table(rows: impl Iterator<Item = (String, String)>) -> String {
    let rows: String =
        rows.map(|(first, second)| format!("<tr><td>{first}</td><td>{second}</td></tr>")).collect();
    format!("<table>{rows}</table>")
}

/// A schema in a line: a link, or itself.
fn schema(schema: &Value) -> String {
    match schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        Some(name) => format!("<a href=\"#{name}\">{name}</a>"),
        None => format!("<code>{}</code>", escaped(&schema.to_string())),
    }
}

/// JSON as it is written.
fn source(value: &Value) -> String {
    format!("<pre>{}</pre>", escaped(&format!("{value:#}")))
}

/// What a reference leads to.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let pointer = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or(value)
}

fn text(value: &Value) -> String {
    escaped(value.as_str().unwrap_or_default())
}

/// A text whose `words` are code.
fn prose(value: &Value) -> String {
    let parts = value.as_str().unwrap_or_default().split('`').enumerate();
    let marked = parts.map(|(index, part)| match index % 2 {
        0 => escaped(part),
        _ => format!("<code>{}</code>", escaped(part)),
    });
    marked.collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn document() -> Value {
        serde_json::from_str(super::super::DOCUMENT).expect("the document is JSON")
    }

    /// What stands between these two, each time.
    fn between<'a>(page: &'a str, before: &str, after: &str) -> BTreeSet<&'a str> {
        page.split(before).skip(1).filter_map(|rest| rest.split(after).next()).collect()
    }

    #[test]
    fn every_operation_is_on_the_page_and_every_link_leads_somewhere() {
        let document = document();
        let page = render(&document);
        for (path, method, operation) in operations(&document) {
            assert!(page.contains(&format!("<code>{} {path}</code>", method.to_uppercase())), "{path}");
            let answers = operation["responses"].as_object().expect("an operation answers").keys();
            let id = format!("<section id=\"{}\">", operation["operationId"].as_str().expect("an id"));
            let section = between(&page, &id, "</section>").pop_first().expect("one section");
            assert!(answers.into_iter().all(|status| section.contains(&format!("<b>{status}</b>"))));
        }
        let targets = between(&page, " id=\"", "\"");
        let links = between(&page, "href=\"#", "\"");
        assert!(!links.is_empty() && links.is_subset(&targets), "{links:?} {targets:?}");
    }

    #[test]
    fn what_the_document_says_cannot_become_markup() {
        let document = serde_json::json!({
            "info": { "title": "<b>", "version": "\"", "description": "a `<i>` & b" },
        });
        let page = render(&document);
        assert!(page.contains("<h1>&lt;b&gt; &quot;</h1><p>a <code>&lt;i&gt;</code> &amp; b</p>"), "{page}");
    }
}
