//! Whole logs, format by format, as trainers write them and as they end up on disk.

use std::path::Path;

use super::super::{History, Options, RemarkKind};
use super::{Column, Log, Record};
use crate::context::Context;

fn history(files: &[(&str, &str)]) -> History {
    with_columns(files, &[])
}

fn with_columns(files: &[(&str, &str)], columns: &[&str]) -> History {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let columns: Vec<Column> = columns.iter().map(|column| column.parse().unwrap()).collect();
    let options = Options { columns, ..Options::default() };
    let read =
        |mmap| History::read(folder.path(), &options, &Context { mmap, ..Context::default() }).unwrap();
    let (mapped, unmapped) = (read(true), read(false));
    assert_eq!(format!("{:?}", mapped.log), format!("{:?}", unmapped.log));
    mapped
}

fn log(files: &[(&str, &str)]) -> Log {
    let history = history(files);
    assert!(history.errors.is_empty(), "{:?}", history.errors);
    history.log.unwrap()
}

fn losses(records: &[Record]) -> Vec<(u64, Option<f64>)> {
    records.iter().map(|record| (record.step, record.loss)).collect()
}

fn has(history: &History, kind: RemarkKind, part: &str) -> bool {
    history.remarks.iter().any(|remark| remark.kind == kind && remark.message.contains(part))
}

const TRAINER: &str = r#"{"global_step": 30, "log_history": [
  {"epoch": 0.1, "grad_norm": 1.5, "learning_rate": 1e-05, "loss": 2.5, "step": 10},
  {"epoch": 0.2, "grad_norm": NaN, "learning_rate": 2e-05, "loss": 1.25, "step": 20},
  {"epoch": 0.2, "eval_loss": 9.0, "eval_runtime": 3.2, "step": 20},
  {"epoch": 0.3, "grad_norm": NaN, "learning_rate": 2e-05, "loss": 0.0, "step": 30},
  {"epoch": 0.3, "step": 30, "total_flos": 1.0, "train_loss": 1.25, "train_runtime": 100.0}
], "max_steps": 100}"#;

#[test]
fn the_trainers_state_is_read_with_its_nan() {
    let log = log(&[("checkpoint-30/trainer_state.json", TRAINER), ("checkpoint-30/model.safetensors", "")]);
    assert_eq!(losses(&log.records)[..2], [(10, Some(2.5)), (20, Some(1.25))]);
    assert!(log.records[2].loss.unwrap().is_nan() && log.records[1].grad_norm.unwrap().is_nan());
    assert_eq!(log.semantics.hidden_nan, [[30, 30]]);
    assert_eq!(log.semantics.loss_is_window_mean, Some(true));
    assert_eq!(log.sources[0].columns["loss"], "loss");
}

#[test]
fn a_state_that_breaks_off_keeps_what_came_before() {
    let cut = &TRAINER[..TRAINER.find("\"loss\": 0.0").unwrap()];
    let history = history(&[("trainer_state.json", cut)]);
    assert_eq!(history.errors.len(), 1);
    assert!(history.errors[0].to_string().contains("line 5"), "{}", history.errors[0]);
    assert_eq!(history.log.unwrap().records.len(), 2);
}

#[test]
fn a_log_history_that_is_no_list_is_an_error() {
    let history = history(&[("trainer_state.json", r#"{"log_history": {"loss": 1}}"#)]);
    assert!(history.errors[0].to_string().contains("log_history is not a list"));
    assert!(history.log.is_none());
}

#[test]
fn our_own_lines_are_read_with_lists_layers_and_bare_words() {
    let lines = concat!(
        "{\"step\": 1, \"loss\": 2.5, \"grad_norm\": 1.0, \"lr\": [0.1, 0.2], \"nonfinite\": 0, \"grad_norm_by_layer\": {\"a\": 0.6, \"b.c\": 0.8}}\n",
        "{\"step\": 2, \"loss\": NaN, \"grad_norm\": Infinity, \"lr\": 0.1, \"nonfinite\": 7}\n",
        "{\"step\": 3, \"loss\": 1e999}\n",
        "{\"step\": 4, \"loss\": \"2.25\", \"grad_norm\": [1, 2]}\n",
    );
    let history = history(&[("metrics.jsonl", lines)]);
    let log = history.log.as_ref().unwrap();
    let first = &log.records[0];
    assert_eq!((first.learning_rate, first.non_finite), (Some(0.1), Some(0)));
    assert_eq!(first.grad_norm_by_layer["b.c"], 0.8);
    assert!(log.records[1].loss.unwrap().is_nan());
    assert_eq!((log.records[1].grad_norm, log.records[1].non_finite), (Some(f64::INFINITY), Some(7)));
    assert_eq!(log.records[2].loss, Some(f64::INFINITY));
    assert_eq!((log.records[3].loss, log.records[3].grad_norm), (Some(2.25), None));
    assert!(has(
        &history,
        RemarkKind::LeftOut,
        "1 values are not numbers, the first is a list in column grad_norm"
    ));
}

#[test]
fn a_line_that_its_writer_did_not_finish_is_no_damage_and_others_are() {
    let cut = history(&[("metrics.jsonl", "{\"step\": 1, \"loss\": 2.5}\n{\"step\": 2, \"lo")]);
    assert!(cut.errors.is_empty(), "{:?}", cut.errors);
    assert!(has(&cut, RemarkKind::LeftOut, "line 2 is not complete"));
    let broken =
        history(&[("metrics.jsonl", "{\"step\": 1, \"loss\": 2.5}\noops\n{\"step\": 3, \"loss\": 2.0}\n")]);
    assert!(broken.errors[0].to_string().contains("line 2, column 1"), "{}", broken.errors[0]);
    assert_eq!(broken.log.unwrap().records.len(), 2);
}

#[test]
fn lightnings_columns_are_joined_and_counted_from_one() {
    let csv = "epoch,grad_norm,lr-AdamW,step,train_loss_epoch,train_loss_step\n,,0.001,9,,\n0,0.5,,9,,2.5\n,,0.001,19,,\n0,0.6,,19,2.4,2.25\n";
    let history = history(&[("lightning_logs/version_0/metrics.csv", csv)]);
    let log = history.log.as_ref().unwrap();
    assert_eq!(losses(&log.records), [(10, Some(2.5)), (20, Some(2.25))]);
    assert_eq!((log.records[0].learning_rate, log.records[1].grad_norm), (Some(0.001), Some(0.6)));
    assert!(has(&history, RemarkKind::Semantics, "numbers steps from 0"));
}

#[test]
fn columns_come_quoted_in_other_separators_and_under_names_of_ones_own() {
    let log = log(&[(
        "wandb_export.csv",
        "\"Step\",\"run - train/loss\",\"run - train/loss__MIN\"\n\"1\",\"2.5\",\"2.5\"\n\"2\",\"NaN\",\"2\"\n",
    )]);
    assert_eq!(log.records[0].loss, Some(2.5));
    assert!(log.records[1].loss.unwrap().is_nan());
    let own = with_columns(&[("a.tsv", "n\tcost\tloss\n1\t2.5\t7\n")], &["step=n", "loss=cost"]);
    assert_eq!(losses(&own.log.unwrap().records), [(1, Some(2.5))]);
    let timm = history(&[("summary.csv", "epoch,train_loss,eval_loss,lr\n0,2.5,3,0.1\n1,2.0,3,0.1\n")]);
    assert!(has(&timm, RemarkKind::Semantics, "its rows are epochs"));
}

#[test]
fn the_only_loss_of_a_log_is_its_loss_whatever_it_is_called() {
    for name in ["policy_loss", "train/total_loss", "actor_loss", "loss/train", "train/nll_loss_step"] {
        let csv = format!("step,val_loss,{name},grad_norm\n1,9,2.5,1\n2,9,2.25,1\n");
        assert_eq!(losses(&log(&[("a.csv", &csv)]).records), [(1, Some(2.5)), (2, Some(2.25))], "{name}");
    }
    // A sum goes before its terms, a trainer's own name before both, in whichever log it stands.
    let sum = log(&[("a.csv", "step,loss_cls,total_loss,loss_box\n1,1,3,2\n")]);
    assert_eq!(losses(&sum.records), [(1, Some(3.0))]);
    let named = log(&[("a.csv", "step,nll_loss\n1,7\n2,7\n"), ("b.csv", "step,train/loss\n1,3\n")]);
    assert_eq!(losses(&named.records), [(1, Some(3.0))]);
}

#[test]
fn of_several_losses_and_of_one_that_goes_below_zero_none_is_taken_and_it_is_said() {
    let several = history(&[("a.csv", "step,actor_loss,critic_loss,grad_norm\n1,2,3,1\n2,2,3,1\n")]);
    assert!(several.log.as_ref().unwrap().records.iter().all(|record| record.loss.is_none()));
    assert!(has(
        &several,
        RemarkKind::LeftOut,
        "is not known (actor_loss, critic_loss): name it with --columns"
    ));
    let signed = history(&[("a.csv", "step,policy_loss,grad_norm\n1,0.5,1\n2,-0.25,1\n")]);
    assert!(signed.log.as_ref().unwrap().records.iter().all(|record| record.loss.is_none()));
    assert!(has(&signed, RemarkKind::LeftOut, "column policy_loss goes below zero"));
    let said = with_columns(&[("a.csv", "step,policy_loss\n1,0.5\n2,-0.25\n")], &["loss=policy_loss"]);
    assert_eq!(losses(&said.log.unwrap().records), [(1, Some(0.5)), (2, Some(-0.25))]);
    let only_evaluated = history(&[("a.csv", "step,val_loss,eval/nll_loss,grad_norm\n1,0.5,2,1\n")]);
    assert!(only_evaluated.log.unwrap().records.iter().all(|record| record.loss.is_none()));
}

#[test]
fn rows_of_megatron_are_read_from_what_it_prints() {
    let text = "  clip_grad ....................................... 1.0\nusing torch.float16\n iteration     7000/  159576 | consumed samples:       260912 | elapsed time per iteration (ms): 18706.1 | learning rate: 6.000E-05 | global batch size:    96 | lm loss: 6.444662E+00 | loss scale: 2048.0 | grad norm: 98258.265 | num zeros: 0.0 | number of skipped iterations:   0 | number of nan iterations:   0 |\n validation loss at iteration 7000 | lm loss value: 7.174200E+00 | lm loss PPL: 1.305315E+03 |\n";
    let log = log(&[("main_log.txt", text)]);
    let record = &log.records[0];
    assert_eq!((record.step, record.loss, record.batch_size), (7000, Some(6.444_662), Some(96)));
    assert_eq!((record.learning_rate, record.loss_scale), (Some(6e-5), Some(2048.0)));
    assert_eq!(log.semantics.clip_threshold, Some(1.0));
}

#[test]
fn rows_of_torchtitan_are_read_through_their_colours() {
    let text = "[titan] 2025 - root - INFO - \u{1b}[31mstep:  1  \u{1b}[32mloss: 12.2504  \u{1b}[38;2;180;60;0mgrad_norm:  1.7421  \u{1b}[33mmemory: 28.3GiB(29.8%)  \u{1b}[34mtps: 1,234\u{1b}[39m\n";
    let log = log(&[("run.log", text)]);
    assert_eq!(losses(&log.records), [(1, Some(12.2504))]);
    assert_eq!(log.records[0].grad_norm, Some(1.7421));
}

#[test]
fn an_attempt_that_was_abandoned_is_left_out_and_told() {
    let line = |step: u64, loss: f64| format!("{{\"step\": {step}, \"loss\": {loss}}}\n");
    let lines: Vec<String> = [(1, 5.0), (2, 4.0), (3, 90.0), (4, 99.0), (3, 3.5), (4, 3.0)]
        .map(|(step, loss)| line(step, loss))
        .to_vec();
    let history = history(&[("metrics.jsonl", &lines.concat())]);
    let log = history.log.as_ref().unwrap();
    assert_eq!(losses(&log.records), [(1, Some(5.0)), (2, Some(4.0)), (3, Some(3.5)), (4, Some(3.0))]);
    assert_eq!(log.semantics.seams, [3]);
    let rewind = history.remarks.iter().find(|remark| remark.kind == RemarkKind::Rewind).unwrap();
    assert_eq!(rewind.steps, Some([3, 4]));
    // Cut off before the second attempt, the log is that of the first.
    assert!(rewind.message.contains("goes back from step 4 to 3"), "{}", rewind.message);
}

#[test]
fn logs_of_one_format_go_on_and_those_of_others_are_not_mixed_in() {
    let first = "step,loss\n1,5\n2,4\n";
    let second = "step,loss\n2,4.5\n3,3\n";
    let rows = "{\"step\": 1, \"loss\": 5.5, \"grad_norm\": 0.5}\n{\"step\": 2, \"loss\": 5.6, \"grad_norm\": 0.6}\n";
    let history = history(&[("log_9.csv", first), ("log_10.csv", second), ("rows.jsonl", rows)]);
    let log = history.log.as_ref().unwrap();
    assert_eq!(losses(&log.records), [(1, Some(5.0)), (2, Some(4.5)), (3, Some(3.0))]);
    assert_eq!(log.records[0].grad_norm, Some(0.5));
    assert!(has(&history, RemarkKind::LeftOut, "loss is taken from the csv log"));
    assert!(
        has(&history, RemarkKind::Duplicate, "loss is recorded 1 times more")
            || has(&history, RemarkKind::Seam, "")
    );
}

#[test]
fn text_that_is_utf_16_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = "\u{feff}step,loss\n1,2\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for name in ["metrics.csv", "metrics.jsonl", "trainer_state.json", "train.log"] {
        let path = folder.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        let history = History::read(&path, &Options::default(), &Context::default()).unwrap();
        assert!(history.errors[0].to_string().contains("UTF-16"), "{name}: {:?}", history.errors);
    }
}

#[test]
fn what_is_no_log_is_none() {
    for (name, text) in [
        ("notes.txt", "step by step\n"),
        ("names.csv", "name,age\na,1\n"),
        ("empty.jsonl", ""),
        ("list.jsonl", "[1, 2]\n"),
        ("trainer_state.json", "{}"),
        ("binary.log", "\0\0\0"),
        ("events.out.tfevents.1", "garbage that is no record"),
        ("one.csv", "\"never ends, 1\n2\n"),
        ("deep.jsonl", &"{\"a\":".repeat(10_000)),
    ] {
        let history = history(&[(name, text)]);
        assert!(history.log.is_none(), "{name}");
    }
}

#[test]
fn norms_after_clipping_and_a_threshold_beside_the_log_are_recognised() {
    let mut rows = String::new();
    for step in 1..40 {
        let norm = if step % 2 == 0 { 1.0 } else { 0.5 };
        let row = format!("{{\"step\": {step}, \"loss\": 2.0, \"grad_norm\": {norm}}}\n");
        rows.push_str(&row);
    }
    let history = history(&[
        ("metrics.jsonl", &rows),
        ("run.json", "{\"config\": {\"clip\": 1.0, \"optimizer\": \"Adam\"}}"),
    ]);
    let semantics = history.log.unwrap().semantics;
    assert_eq!((semantics.clip_threshold, semantics.before_clipping), (Some(1.0), Some(false)));
}

/// No other checkpoint mends a log in which nothing stands yet.
#[test]
fn an_empty_log_is_told_as_one() {
    let history = history(&[("metrics.jsonl", "")]);
    let told = history.errors[0].to_string();
    assert!(told.contains("it is empty") && !told.contains("checkpoint"), "{told}");
}

#[test]
fn the_run_may_be_the_log_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    std::fs::write(&path, "{\"step\": 1, \"loss\": 2.5}\n").unwrap();
    let history = History::read(&path, &Options::default(), &Context::default()).unwrap();
    assert_eq!(history.log.unwrap().records.len(), 1);
    let options = Options { logs: vec![path], ..Options::default() };
    let history = History::read(Path::new(folder.path()), &options, &Context::default()).unwrap();
    assert_eq!(history.log.unwrap().records.len(), 1);
}

/// Columns that no trainer writes.
const OWN: &str = "iter,train_nll,gnorm_,rate\n10,2.5,1.0,0.1\n20,2.25,2.0,0.1\n";

#[test]
fn a_column_that_no_log_has_is_an_error_that_lists_those_there_are() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("table.csv"), OWN).unwrap();
    let read = |columns: &str| {
        let columns = columns.parse::<super::Columns>().unwrap().0;
        History::read(folder.path(), &Options { columns, ..Options::default() }, &Context::default())
    };
    let log = read("step=iter,loss=train_nll,grad_norm=gnorm_,lr=rate").unwrap().log.unwrap();
    assert_eq!(losses(&log.records), [(10, Some(2.5)), (20, Some(2.25))]);
    assert_eq!((log.records[1].grad_norm, log.records[1].learning_rate), (Some(2.0), Some(0.1)));
    let error = read("loss=train_nll,grad_norm=gnorm").unwrap_err().to_string();
    assert!(
        error.contains("no log has a column gnorm; the columns there are: gnorm_, iter, rate, train_nll"),
        "{error}"
    );
    let empty = tempfile::tempdir().unwrap();
    let options = Options { columns: vec!["loss=x".parse().unwrap()], ..Options::default() };
    let error = History::read(empty.path(), &options, &Context::default()).unwrap_err().to_string();
    assert!(error.contains("the columns there are: none"), "{error}");
}

#[test]
fn a_log_that_is_named_is_read_in_place_of_those_that_are_found_and_one_of_no_use_says_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("metrics.jsonl"), "{\"step\": 1, \"loss\": 9.0}\n").unwrap();
    let parts = ["first.jsonl", "second.jsonl"].map(|name| elsewhere.path().join(name));
    std::fs::write(&parts[0], "{\"step\": 1, \"loss\": 2.5}\n{\"step\": 2, \"loss\": 2.0}\n").unwrap();
    std::fs::write(&parts[1], "{\"step\": 3, \"loss\": 1.5}\n").unwrap();
    let read = |logs: &[&Path]| {
        let logs = logs.iter().map(|path| path.to_path_buf()).collect();
        History::read(folder.path(), &Options { logs, ..Options::default() }, &Context::default()).unwrap()
    };
    let joined = read(&[&parts[0], &parts[1]]).log.unwrap();
    assert_eq!(losses(&joined.records), [(1, Some(2.5)), (2, Some(2.0)), (3, Some(1.5))]);
    let missing = read(&[&elsewhere.path().join("third.jsonl")]);
    assert!(missing.errors[0].to_string().contains("no such file"), "{:?}", missing.errors);
    std::fs::write(&parts[1], "{\"n\": 3, \"cost\": 1.5}\n").unwrap();
    let useless = read(&[&parts[1]]);
    assert!(useless.log.is_none());
    assert!(has(&useless, RemarkKind::LeftOut, "none of its columns is recognised"));
    assert!(has(&useless, RemarkKind::LeftOut, "it has cost, n"));
}

#[test]
fn losses_of_an_evaluation_are_not_taken_for_those_of_the_training() {
    let training =
        "{\"step\": 1, \"loss\": 4.0}\n{\"step\": 2, \"loss\": 3.0}\n{\"step\": 3, \"loss\": 2.0}\n";
    let wanted = [(1, Some(4.0)), (2, Some(3.0)), (3, Some(2.0))];
    // A file of its own, by its name; rows of another part among those of the training, as mmengine writes them; the same
    // in a table.
    let beside = log(&[("metrics.jsonl", training), ("validation.jsonl", "{\"step\": 2, \"loss\": 9.0}\n")]);
    assert_eq!(losses(&beside.records), wanted);
    let among =
        training.replace("}\n", ", \"mode\": \"train\"}\n{\"step\": 1, \"mode\": \"val\", \"loss\": 9.0}\n");
    let among = history(&[("metrics.jsonl", &among)]);
    assert_eq!(losses(&among.log.as_ref().unwrap().records), wanted);
    assert!(
        has(&among, RemarkKind::LeftOut, "3 rows say that they are of an evaluation"),
        "{:?}",
        among.remarks
    );
    let table =
        history(&[("log.csv", "step,phase,loss\n1,train,4\n1,eval,9\n2,train,3\n3,train,2\n3,test,9\n")]);
    assert_eq!(losses(&table.log.as_ref().unwrap().records), wanted);
}
