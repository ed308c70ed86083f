//! Pages as such: what they may load, that their script is the one they allow, that nothing leaves its element.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::parts::{SCRIPT, SCRIPT_DIGEST, remarks, unjudged};
use super::tables::{TableView, row};
use crate::analysis::model::{
    Analysis, CheckpointAnalysis, DType, Difference, Layer, Measured, Remark, RemarkKind, Role, Section,
    TensorDifference,
};
use crate::report::{DifferenceReport, Report, Style, checkpoints_html, difference_html};
use crate::rules::{self, NotEvaluated, Overrides, Subject};

/// What a tensor may be called to do harm on a page.
const HOSTILE: [&str; 7] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "</table></details></main>",
    "{{ head }} {% include \"x\" %}",
    "\u{202e}txt.thgiew\u{202c}",
    "\u{1b}[2J\u{1b}]8;;http://a\u{1b}\\",
    "=cmd|' /C calc'!A0",
];

#[test]
fn the_policy_of_the_page_allows_its_own_script() {
    let digest = Sha256::digest(SCRIPT.as_bytes());
    assert_eq!(SCRIPT_DIGEST, format!("sha256-{}", base64(&digest)));
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

fn checkpoint(names: &[String]) -> CheckpointAnalysis {
    let tensor = |(index, name): (usize, &String)| {
        serde_json::json!({
            "name": name, "canonical_name": name, "file": "model.safetensors", "section": "model",
            "layer": {"path": format!("model.layers.{}", index / 200), "index": index / 200, "order": index / 20},
            "role": "mlp-out", "dtype": "BF16", "shape": [4096, 14336], "elements": 58_720_256,
            "damaged": false, "tied_to": null, "state_of": null,
            "statistics": {"value": statistics(index)},
            "median_abs": {"not_measured": "not here"}, "rows": {"not_measured": "not here"},
            "pages": {"not_measured": "not here"}, "role_spread": {"value": 1.0 + index as f64 * 1e-4},
        })
    };
    serde_json::from_value(serde_json::json!({
        "name": "run/checkpoint-4000", "layout": "hf-trainer", "step": {"value": 4000}, "files": [
            {"name": "model.safetensors", "format": "safetensors", "bytes": 1_000_000, "uncovered_bytes": 0}],
        "problems": [], "globals": [], "config": {"not_measured": "not here"},
        "tensors": names.iter().enumerate().map(tensor).collect::<Vec<_>>(),
    }))
    .expect("a checkpoint")
}

fn statistics(index: usize) -> serde_json::Value {
    let value = |value: f64| serde_json::json!({ "value": value });
    let rms = 0.012_345 + index as f64 * 1.7e-7;
    serde_json::json!({
        "count": 58_720_256, "nan": 0, "positive_infinity": 0, "negative_infinity": 0, "zero": 12_345,
        "subnormal": 0, "negative": 0, "min": value(-0.4321), "max": value(0.4321), "max_abs": value(0.43214),
        "l1": value(5e5), "l2": value(94.6), "rms": value(rms), "mean": value(1e-6), "variance": value(rms * rms),
        "skewness": value(0.0), "excess_kurtosis": value(0.1),
        "exponents": {"value": {"lowest": -20, "counts": [1, 10, 100, 1000, 10_000, 100_000, 10_000]}},
        "headroom": {"not_measured": "not here"}, "all_equal": {"value": false}, "all_one": {"value": false},
    })
}

fn report(names: &[String]) -> Report {
    let mut analysis: Analysis = serde_json::from_value(serde_json::json!({
        "schema_version": "1.0", "tool_version": "0", "measured": "stats", "checkpoints": []
    }))
    .expect("an analysis of nothing");
    analysis.checkpoints.push(checkpoint(names));
    let assessment = rules::evaluate(&analysis, &Overrides::default());
    Report::new(analysis, assessment, &Overrides::default(), Vec::new())
}

fn page(names: &[String]) -> String {
    String::from_utf8(checkpoints_html(&report(names))).expect("a page is UTF-8")
}

#[test]
fn ten_thousand_tensors_fit_into_two_megabytes_and_are_all_there() {
    let names: Vec<String> = (0..10_000)
        .map(|index| {
            format!(
                "model.layers.{}.block_sparse_moe.experts.{}.w{}.weight",
                index / 200,
                index % 64,
                index % 3
            )
        })
        .enumerate()
        .map(|(index, name)| format!("{name}.{index}"))
        .collect();
    let page = page(&names);
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
    let rows: BTreeSet<&str> =
        page.split("<td>").filter_map(|cell| cell.split('<').next()).map(str::trim).collect();
    assert!(names.iter().all(|name| rows.contains(name.as_str())), "a tensor is missing");
    assert!(page.contains("left out here"), "what is left out is said");
}

#[test]
fn a_page_loads_nothing_and_no_name_leaves_its_element() {
    let mut names: Vec<String> = HOSTILE.iter().map(|name| (*name).to_owned()).collect();
    names.push("x".repeat(1 << 20));
    let harmless = page(&["a".to_owned(), "b".to_owned()]);
    let page = page(&names);
    held_harmless(&page);
    // No tag that a page without such names lacks.
    for tag in ["<script", "<img", "</main>", "</details>", "</table>"] {
        assert_eq!(page.matches(tag).count(), harmless.matches(tag).count(), "{tag}");
    }
    assert!(page.len() < 300_000, "a name of a megabyte is cut: {} bytes", page.len());
}

#[test]
fn a_terminal_of_eighty_columns_is_enough_for_a_checkpoint() {
    let names: Vec<String> = (0..3).map(|index| format!("transformer.h.{index}.mlp.c_proj.weight")).collect();
    let report = report(&names);
    let shown = |width| crate::report::checkpoint_reports(&report, Style { color: false, all: true, width });
    let narrow = shown(Some(80));
    assert_eq!(narrow.lines().find(|line| line.chars().count() > 80), None, "{narrow}");
    assert!(narrow.contains("not shown at this width: "), "{narrow}");
    let wide = shown(None);
    assert!(wide.lines().any(|line| line.chars().count() > 80) && !wide.contains("not shown at this width"));
    let words =
        |text: &str| text.split("\n\n").last().map(|last| last.split_whitespace().collect::<String>());
    assert_eq!(words(&narrow), words(&wide), "the verdict has the same words");
}

fn held_harmless(page: &str) {
    for forbidden in ["http://a", "src=x", "url(", "@import", "<link", "\u{202e}", "\u{1b}"] {
        let shown = page.replace("http://www.w3.org/2000/svg", "");
        let inert = forbidden == "http://a" || forbidden == "src=x";
        assert!(inert || !shown.contains(forbidden), "{forbidden:?} is on the page");
    }
    assert!(page.contains("&#60;script&#62;") || page.contains("&lt;script&gt;"), "the name is shown");
    assert!(page.contains("default-src &#39;none&#39;") || page.contains("default-src 'none'"));
}

#[test]
fn a_column_in_which_no_row_says_anything_is_left_out() {
    let cells = |found: &str| ["a", found, "1"].map(str::to_owned).to_vec();
    let columns = [("tensor", ""), ("found", ""), ("L2", "")];
    let table = |rows| TableView::new("Tensors", 2, &columns, rows).unwrap();
    let clean = table(vec![row(cells("")), row(cells(""))]);
    assert_eq!(clean.columns.iter().map(|column| column.name).collect::<Vec<_>>(), ["tensor", "L2"]);
    assert_eq!((clean.words, &clean.rows[1].cells[..]), (1, &["a".to_owned(), "1".to_owned()][..]));
    let found = table(vec![row(cells("")), row(cells("FP101"))]);
    assert_eq!((found.words, found.columns.len()), (2, 3));
}

#[test]
fn reasons_that_differ_by_the_checkpoint_alone_are_one() {
    let entry = |checkpoint: u64, reason: &str| NotEvaluated {
        checkpoint: format!("ckpt_{checkpoint}.pt"),
        rule: Some("FP702".to_owned()),
        subject: Subject::Checkpoint,
        reason: reason.to_owned(),
    };
    let of_two = unjudged(&[entry(10, "ckpt_10.pt: not Adam"), entry(20, "ckpt_20.pt: not Adam")]);
    assert_eq!(of_two.len(), 1);
    assert_eq!(
        (of_two[0].reason.as_str(), of_two[0].subjects.as_str()),
        ("ckpt_10.pt: not Adam", "in 2 checkpoints")
    );
    let others = unjudged(&[entry(10, "no gemma is built here"), entry(20, "no gemma2 is built here")]);
    assert_eq!(others.len(), 2, "numbers are part of names");
}

#[test]
fn a_remark_names_its_kind_unless_the_heading_does() {
    let remark =
        |kind, steps| Remark { kind, file: Some("log.csv".to_owned()), steps, message: "read".to_owned() };
    let said = remarks(&[remark(RemarkKind::TakenFor, None), remark(RemarkKind::Gap, Some([10, 2000]))]);
    assert_eq!(said, ["log.csv: read", "gap: log.csv: read (steps 10 to 2,000)"]);
}

#[test]
fn two_checkpoints_with_hostile_names_are_a_harmless_page() {
    let tensor = |name: &str| TensorDifference {
        name: name.to_owned(),
        canonical_name: name.to_owned(),
        section: Section::Model,
        layer: Layer { path: name.to_owned(), index: None, order: 0 },
        role: Role::Linear,
        elements: 100,
        dtypes: [DType::F32; 2],
        difference: Measured::Value(1.0),
        relative_difference: Measured::Value(0.1),
        cosine: Measured::Value(1.0),
        largest_difference: Measured::Value(1.0),
        changed: 7,
        non_finite: 0,
        non_finite_each: Some([0; 2]),
        spectrum: Measured::not("not here"),
    };
    let names = || HOSTILE.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let difference = Difference {
        before: HOSTILE[0].to_owned(),
        after: HOSTILE[1].to_owned(),
        steps: [Some(1), None],
        tensors: HOSTILE.iter().map(|name| tensor(name)).collect(),
        missing: names(),
        new: names(),
        reshaped: Vec::new(),
        not_compared: HOSTILE.iter().map(|name| ((*name).to_owned(), (*name).to_owned())).collect(),
    };
    let report = DifferenceReport::new(difference, true, false);
    let page = String::from_utf8(difference_html(&report)).expect("a page is UTF-8");
    held_harmless(&page);
    assert_eq!(page.matches("<script").count(), 1);
    assert_eq!(page.matches("</main>").count(), 1);
    assert!(!page.contains("<img"));
}
