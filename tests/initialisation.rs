//! T28: the standard deviations of torch's initialisations, through our statistics, are those of their formulas.

mod common;

use std::path::Path;

use flashpoint::context::Context;

#[test]
fn initial_weights_have_the_deviation_of_their_formula() {
    let oracle = common::oracle(Path::new("fixtures/oracle/optimizer/moments.json"));
    let expected = oracle["initialised"].as_object().expect("a table");
    let analysis =
        common::analyse(Path::new("fixtures/optimizer/initialised.safetensors"), &Context::default());
    assert_eq!(analysis.tensors.len(), expected.len());
    for tensor in &analysis.tensors {
        assert!(tensor.elements >= 10_000, "{}: {} elements", tensor.name, tensor.elements);
        let statistics = tensor.statistics.value().expect("measured");
        let deviation = statistics.variance.value().expect("measured").sqrt();
        let number = |key: &str| expected[&tensor.name][key].as_f64().expect("a number");
        assert!((deviation / number("formula") - 1.0).abs() < 0.02, "{}: {deviation}", tensor.name);
        assert!((deviation / number("std") - 1.0).abs() < 1e-9, "{}: {deviation}", tensor.name);
    }
}

#[test]
fn the_formulas_are_those_of_the_fans() {
    let oracle = common::oracle(Path::new("fixtures/oracle/optimizer/moments.json"));
    let (fan_in, fan_out) = (125.0f64, 80.0);
    for (name, formula) in [
        ("linear_default", 1.0 / (3.0 * fan_in).sqrt()),
        ("xavier_normal", (2.0 / (fan_in + fan_out)).sqrt()),
        ("xavier_uniform", (2.0 / (fan_in + fan_out)).sqrt()),
        ("he_normal", (2.0 / fan_in).sqrt()),
        ("he_conv", (2.0 / 250.0f64).sqrt()),
    ] {
        let told = oracle["initialised"][name]["formula"].as_f64().expect("a number");
        assert!((told / formula - 1.0).abs() < 1e-12, "{name}: {told}");
    }
}
