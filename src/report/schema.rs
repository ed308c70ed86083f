//! The published JSON Schemas are those of the types. `UPDATE_SCHEMAS=1 cargo test --lib schema` writes them.

use crate::analysis::model::Analysis;
use crate::gate::policy_schema;
use crate::recover::{Conversion, Manifest};
use crate::report::{ClipReport, PostMortem, Report, ResumeReport};
use schemars::schema_for;

#[test]
fn the_published_schemas_are_those_of_the_types() {
    let schemas = [
        ("docs/schema/analysis.schema.json", schema_for!(Analysis)),
        ("docs/schema/report.schema.json", schema_for!(Report)),
        ("docs/schema/postmortem.schema.json", schema_for!(PostMortem)),
        ("docs/schema/clip.schema.json", schema_for!(ClipReport)),
        ("docs/schema/policy.schema.json", policy_schema()),
        ("docs/schema/repair.schema.json", schema_for!(Manifest)),
        ("docs/schema/resume.schema.json", schema_for!(ResumeReport)),
        ("docs/schema/convert.schema.json", schema_for!(Conversion)),
    ];
    for (path, schema) in schemas {
        let text = serde_json::to_string_pretty(&schema).expect("a schema is JSON") + "\n";
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::write(path, &text).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        let published = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(published, text, "{path} is stale: run UPDATE_SCHEMAS=1 cargo test --lib schema");
    }
}
