//! JSON and other files beside a model: what Python writes, and what nobody should.

use super::craft::*;
use super::expectation::*;
use super::safetensors::honest;

const A: (&str, f64) = ("a", 1.0);

fn beside(name: &'static str, bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    vec![("model.safetensors", honest("a", &[1.0])), (name, bytes.to_vec())]
}

fn state(name: &'static str, text: &str, expected: Expected) -> Case {
    directory(name, beside("trainer_state.json", text.as_bytes()), expected)
}

fn run(name: &'static str, text: &str, expected: Expected) -> Case {
    directory(name, beside("state.json", text.as_bytes()), expected)
}

pub fn cases() -> Vec<Case> {
    let read = || reads(&[A]);
    let unusable = || damaged(&["side-file"], &[A]);
    vec![
        state("side-files/honest", r#"{"global_step": 4}"#, read()),
        state(
            "side-files/numbers-that-are-not-finite",
            r#"{"global_step": 4, "log_history": [{"loss": NaN, "grad_norm": Infinity}, {"loss": -Infinity}]}"#,
            read(),
        ),
        state("side-files/byte-order-mark", "\u{feff}{\"global_step\": 4}", read()),
        directory("side-files/utf-16", beside("trainer_state.json", b"\xff\xfe{\0}\0"), unusable()),
        state("side-files/trailing-comma", r#"{"global_step": 4,}"#, unusable()),
        state("side-files/breaks-off", r#"{"global_step": 4, "log_history": [{"lo"#, unusable()),
        state("side-files/key-twice", r#"{"global_step": 4, "global_step": 5}"#, unusable()),
        state("side-files/number-of-1e999", r#"{"global_step": 4, "best_metric": 1e999}"#, read()),
        state("side-files/step-of-1e999", r#"{"global_step": 1e999}"#, unusable()),
        state(
            "side-files/step-of-300-digits",
            &format!("{{\"global_step\": {}}}", "9".repeat(300)),
            unusable(),
        ),
        state("side-files/step-negative", r#"{"global_step": -4}"#, unusable()),
        state("side-files/step-as-text", r#"{"global_step": "4"}"#, unusable()),
        state("side-files/log-that-is-no-list", r#"{"global_step": 4, "log_history": 7}"#, read()),
        state(
            "side-files/norms-that-are-lists-and-text",
            r#"{"global_step": 4, "log_history": [{"grad_norm": [1]}, {"grad_norm": "tensor(1.)"}]}"#,
            read(),
        ),
        state(
            "side-files/ten-thousand-brackets",
            &format!("{{\"global_step\": 4, \"x\": {}", "[".repeat(10_000)),
            unusable(),
        ),
        directory("side-files/empty", beside("trainer_state.json", b""), damaged(&["empty-file"], &[A])),
        directory("side-files/config-that-is-a-list", beside("config.json", b"[]"), unusable()),
        directory(
            "side-files/config-of-numbers-that-are-not-finite",
            beside("config.json", br#"{"eps": NaN}"#),
            read(),
        ),
        run("side-files/run-without-a-step", "{}", unusable()),
        run("side-files/run-of-a-step-in-half", r#"{"step": 1.5}"#, unusable()),
        run("side-files/run-that-is-text", "step 4", unusable()),
        directory(
            "side-files/steps-that-disagree",
            {
                let mut files = beside("trainer_state.json", br#"{"global_step": 4}"#);
                let step = zip(&[
                    stored(
                        "archive/data.pkl",
                        &pickled(&dict(&[("a", floats("0", 1, 0, &[1], &[1])), ("global_step", int(9))])),
                    ),
                    stored("archive/data/0", &super::safetensors::numbers(&[1.0])),
                ]);
                files[0] = ("pytorch_model.bin", step);
                files
            },
            noted(&["steps-disagree"], &[A]),
        ),
        directory(
            "side-files/optimizer-that-is-empty",
            beside("optimizer.pt", b""),
            damaged(&["empty-file"], &[A]),
        ),
        directory(
            "side-files/optimizer-that-calls-the-shell",
            beside("optimizer.pt", &super::pickle::archived(&super::pickle::evil())),
            damaged(&["uncovered-bytes"], &[A]).finding("FP901").finding("FP904"),
        ),
        directory(
            "side-files/random-states-that-call-the-shell",
            beside("rng_state.pth", &super::pickle::evil()),
            read().finding("FP901"),
        ),
        made(
            "side-files/config-of-many-wide-heads",
            |folder| {
                write(folder, "model.safetensors", &honest("a", &[1.0]));
                let config = r#"{"model_type":"llama","architectures":["LlamaForCausalLM"],"num_hidden_layers":4096,
                    "hidden_size":32,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":65536,
                    "intermediate_size":64,"vocab_size":100}"#;
                write(folder, "config.json", config.as_bytes());
                folder.to_owned()
            },
            read(),
        ),
        made(
            "side-files/forty-megabytes-of-numbers-that-are-not-finite",
            |folder| {
                write(folder, "model.safetensors", &honest("a", &[1.0]));
                let entries = vec![r#"{"loss":NaN,"step":1}"#; 1_900_000].join(",");
                let text = format!(r#"{{"global_step":4,"log_history":[{entries}]}}"#);
                write(folder, "trainer_state.json", text.as_bytes());
                folder.to_owned()
            },
            read(),
        ),
        made(
            "side-files/a-gigabyte-of-log",
            |folder| {
                write(folder, "model.safetensors", &honest("a", &[1.0]));
                let log = write(folder, "trainer_state.json", b"{\"global_step\": 4");
                let sparse = std::fs::OpenOptions::new().write(true).open(log).expect("it was just written");
                sparse.set_len(1 << 30).expect("a sparse file costs nothing");
                folder.to_owned()
            },
            damaged(&["too-large"], &[A]),
        ),
    ]
}
