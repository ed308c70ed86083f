//! Every fixture against the numbers PyTorch and numpy compute for it in float64.

mod common;

use std::path::Path;

use flashpoint::context::Context;

#[test]
fn every_statistic_of_every_fixture_is_that_of_numpy_in_float64() {
    check(&Context::default());
}

#[test]
fn without_a_memory_map_the_numbers_are_the_same() {
    check(&Context { mmap: false, ..Context::default() });
}

fn check(context: &Context) {
    let mut lines = Vec::new();
    let mut checked = 0;
    for folder in ["fixtures/oracle/formats", "fixtures/oracle/runs"] {
        for path in common::json_files(Path::new(folder)) {
            let oracle = common::oracle(&path);
            let file = oracle["file"].as_str().expect("an oracle names its file");
            if file.ends_with("big-endian.pt") {
                // Refused by name, not read: the hostile and format tests hold it to that.
                continue;
            }
            let analysis = common::analyse(&Path::new("fixtures").join(file), context);
            lines.extend(
                common::differences(&analysis, &oracle).into_iter().map(|line| format!("{file}: {line}")),
            );
            checked += analysis.tensors.len();
        }
    }
    assert!(lines.is_empty(), "{} differences:\n{}", lines.len(), lines.join("\n"));
    assert!(checked > 200, "only {checked} tensors were compared");
}
