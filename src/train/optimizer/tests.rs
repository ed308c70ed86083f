//! Every optimizer against its framework: the same gradients, a hundred steps.

use serde_json::Value;

use super::{Name, Optimizer, Settings, Step};

const SHARE: f64 = 1e-6;

fn read(name: &str) -> Value {
    let path = format!("{}/fixtures/oracle/train/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

#[test]
fn a_hundred_steps_end_where_the_framework_ends() {
    let inputs = read("gradients.json");
    let steps = inputs["gradients"].as_array().unwrap();
    let mut compared = 0;
    for framework in ["torch.json", "tensorflow.json"] {
        for case in read(framework)["cases"].as_array().unwrap() {
            let name: Name = case["optimizer"].as_str().unwrap().parse().unwrap();
            let settings: Settings = serde_json::from_value(case["settings"].clone()).unwrap();
            let optimizer = Optimizer::new(name, &settings);
            let learning_rate = case["lr"].as_f64().unwrap();
            for parameter in ["matrix", "bias"] {
                let mut weights = numbers(&inputs["weights"][parameter]);
                let mut slots = optimizer.fresh(weights.len());
                for (number, gradients) in (1..).zip(steps) {
                    let gradient = numbers(&gradients[parameter]);
                    optimizer.step(Step {
                        number,
                        learning_rate,
                        weights: &mut weights,
                        gradient: &gradient,
                        slots: &mut slots,
                    });
                    let Some(expected) = case["weights"].get(number.to_string()) else { continue };
                    let expected = numbers(&expected[parameter]);
                    let square = |values: &mut dyn Iterator<Item = f64>| {
                        values.map(|value| value * value).sum::<f64>()
                    };
                    let distance = square(
                        &mut weights.iter().zip(&expected).map(|(&w, &e)| f64::from(w) - f64::from(e)),
                    );
                    let norm = square(&mut expected.iter().map(|&value| f64::from(value)));
                    let share = (distance / norm).sqrt();
                    assert!(
                        share <= SHARE,
                        "{name} {settings:?}, {parameter} after {number} steps: off by {share:e}"
                    );
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, 2 * 11 * 2 * 3);
}

#[test]
fn an_optimizer_has_the_name_that_it_is_called_by() {
    for name in Name::ALL {
        assert_eq!(name.as_str().parse(), Ok(name));
        assert_eq!(serde_json::to_value(name).unwrap(), name.as_str());
    }
    assert!("torch.adagrad".parse::<Name>().is_err());
}
