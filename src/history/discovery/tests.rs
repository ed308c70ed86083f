//! Runs laid out as trainers leave them; the files are empty but for what discovery has to read.

use std::path::Path;

use super::super::{FoundKind, History, Options, RemarkKind};
use crate::context::Context;

fn touch(root: &Path, names: &[&str]) {
    for name in names {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }
}

fn read(root: &Path) -> History {
    History::read(root, &Options::default(), &Context::default()).unwrap()
}

fn found(names: &[&str]) -> (Vec<u64>, Vec<u64>) {
    let folder = tempfile::tempdir().unwrap();
    touch(folder.path(), names);
    let history = read(folder.path());
    let steps = |found: &[super::super::Found]| found.iter().map(|found| found.step).collect();
    (steps(&history.checkpoints), steps(&history.dumps))
}

#[test]
fn layouts_of_trainers_are_found_in_the_order_of_their_steps() {
    let trainer = [
        "checkpoint-1000/model.safetensors",
        "checkpoint-500/model.safetensors",
        "checkpoint-500/optimizer.pt",
    ];
    assert_eq!(found(&trainer), (vec![500, 1000], vec![]));
    assert_eq!(
        found(&["step-10/model.pt", "step20/model.pt", "global_step30/pytorch_model.bin"]).0,
        [10, 20, 30]
    );
    let lightning = "lightning_logs/version_0/checkpoints/epoch=1-step=400.ckpt";
    assert_eq!(
        found(&[lightning, "lightning_logs/version_0/checkpoints/epoch=0-step=200.ckpt"]).0,
        [200, 400]
    );
    assert_eq!(found(&["ckpt_3.pt", "ckpt_20.pt"]).0, [3, 20]);
    assert_eq!(found(&["net_000100.pth", "net_000200.pth"]).0, [100, 200]);
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    assert!(found(&shards).0.is_empty());
    assert_eq!(found(&["a-100.measured.json", "a-200.measured.json"]).0, [100, 200]);
}

#[test]
fn gradients_are_no_checkpoints() {
    let names = [
        "gradients/step-1.safetensors",
        "gradients/step-2.safetensors",
        "grads_3.pt",
        "step-4.grad.safetensors",
        "step-5/grads.safetensors",
        "checkpoint-6/model.safetensors",
    ];
    assert_eq!(found(&names), (vec![6], vec![1, 2, 3, 4]));
}

#[test]
fn measured_checkpoints_give_way_to_stored_ones() {
    let folder = tempfile::tempdir().unwrap();
    touch(
        folder.path(),
        &["checkpoint-4/model.safetensors", "checkpoint-4.measured.json", "checkpoint-8.measured.json"],
    );
    let history = read(folder.path());
    let kinds: Vec<_> = history.checkpoints.iter().map(|found| (found.step, found.kind)).collect();
    assert_eq!(kinds, [(4, FoundKind::Stored), (8, FoundKind::Measured)]);
    assert!(history.remarks.iter().any(|remark| remark.kind == RemarkKind::Duplicate));
}

#[test]
fn what_cannot_be_read_is_left_out_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    touch(
        folder.path(),
        &[
            "global_step10/mp_rank_00_model_states.pt",
            "global_step10/zero_pp_rank_0_mp_rank_00_optim_states.pt",
            "iter_0000020/mp_rank_00/model_optim_rng.pt",
            "iter_0000020/mp_rank_01/model_optim_rng.pt",
            "step-30/.metadata",
            "step-30/__0_0.distcp",
            "iter_0000040/mp_rank_00/model_optim_rng.pt",
            "last.ckpt",
        ],
    );
    let history = read(folder.path());
    assert_eq!(history.checkpoints.iter().map(|found| found.step).collect::<Vec<_>>(), [40]);
    assert!(history.checkpoints[0].path.ends_with("iter_0000040/mp_rank_00/model_optim_rng.pt"));
    let left_out = history.remarks.iter().filter(|remark| remark.kind == RemarkKind::LeftOut);
    let files: Vec<&str> = left_out.filter_map(|remark| remark.file.as_deref()).collect();
    assert_eq!(files, ["last.ckpt", "global_step10", "iter_0000020", "step-30"]);
}

#[test]
fn ranks_are_set_apart_and_the_lowest_is_the_run() {
    let folder = tempfile::tempdir().unwrap();
    touch(
        folder.path(),
        &[
            "rank0/checkpoint-4/model.safetensors",
            "rank1/checkpoint-4/model.safetensors",
            "ckpt_8_rank0.pt",
            "ckpt_8_rank1.pt",
        ],
    );
    std::fs::write(folder.path().join("log_rank0.jsonl"), "{\"step\": 1, \"loss\": 2.0}\n").unwrap();
    std::fs::write(folder.path().join("log_rank1.jsonl"), "{\"step\": 1, \"loss\": 9.0}\n").unwrap();
    let history = read(folder.path());
    let steps = |found: &[super::super::Found]| found.iter().map(|found| found.step).collect::<Vec<_>>();
    assert_eq!((steps(&history.checkpoints), steps(&history.replicas)), (vec![4, 8], vec![4, 8]));
    assert!(history.checkpoints[0].path.ends_with("rank0/checkpoint-4"));
    assert_eq!(history.log.unwrap().records[0].loss, Some(2.0));
}

#[test]
fn two_versions_of_one_step_are_told_and_the_later_one_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    touch(folder.path(), &["version_2/epoch=0-step=9.ckpt", "version_10/epoch=0-step=9.ckpt"]);
    let history = read(folder.path());
    assert_eq!(history.checkpoints.len(), 1);
    assert!(history.checkpoints[0].path.ends_with("version_10/epoch=0-step=9.ckpt"));
    assert_eq!(history.remarks[0].kind, RemarkKind::Duplicate);
}

#[test]
fn looking_back_to_a_step_hides_what_came_later() {
    let folder = tempfile::tempdir().unwrap();
    touch(
        folder.path(),
        &["checkpoint-4/model.safetensors", "checkpoint-8/model.safetensors", "gradients/step-5.pt"],
    );
    std::fs::write(
        folder.path().join("metrics.jsonl"),
        "{\"step\": 4, \"loss\": 2.0}\n{\"step\": 5, \"loss\": 3.0}\n",
    )
    .unwrap();
    let options = Options { until: Some(4), ..Options::default() };
    let history = History::read(folder.path(), &options, &Context::default()).unwrap();
    assert_eq!((history.checkpoints.len(), history.dumps.len()), (1, 0));
    assert_eq!(history.log.unwrap().records.len(), 1);
}

#[cfg(unix)]
#[test]
fn links_to_directories_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    touch(folder.path(), &["checkpoint-4/model.safetensors"]);
    std::os::unix::fs::symlink(folder.path(), folder.path().join("checkpoint-9")).unwrap();
    std::os::unix::fs::symlink("checkpoint-4", folder.path().join("latest")).unwrap();
    let history = read(folder.path());
    assert_eq!(history.checkpoints.len(), 1);
    assert_eq!(history.remarks.iter().filter(|remark| remark.kind == RemarkKind::LeftOut).count(), 2);
}

#[cfg(unix)]
#[test]
fn a_link_to_a_file_is_followed_inside_the_run_only() {
    let folder = tempfile::tempdir().unwrap();
    let (run, outside) = (folder.path().join("run"), folder.path().join("outside.safetensors"));
    touch(
        folder.path(),
        &["outside.safetensors", "run/kept/base.safetensors", "run/step-1/model.safetensors"],
    );
    for step in ["step-2", "step-3", "step-4/mp_rank_00"] {
        std::fs::create_dir_all(run.join(step)).unwrap();
    }
    std::os::unix::fs::symlink("../kept/base.safetensors", run.join("step-2/model.safetensors")).unwrap();
    std::os::unix::fs::symlink(&outside, run.join("step-3/model.safetensors")).unwrap();
    std::os::unix::fs::symlink(&outside, run.join("step-4/mp_rank_00/model_optim_rng.pt")).unwrap();
    std::os::unix::fs::symlink("../outside.safetensors", run.join("step-5.safetensors")).unwrap();
    std::fs::hard_link(&outside, run.join("step-6.safetensors")).unwrap();
    let history = read(&run);
    let steps: Vec<u64> = history.checkpoints.iter().map(|found| found.step).collect();
    assert_eq!(steps, [1, 2, 6]);
    let mut left_out: Vec<&str> = history
        .remarks
        .iter()
        .filter(|remark| remark.message.contains("outside of the run"))
        .filter_map(|remark| remark.file.as_deref())
        .collect();
    left_out.sort_unstable();
    assert_eq!(left_out, ["step-3/model.safetensors", "step-4", "step-5.safetensors"]);
}

#[test]
fn what_is_not_there_is_an_error() {
    assert!(History::read(Path::new("no/such/run"), &Options::default(), &Context::default()).is_err());
}

#[test]
fn checkpoints_named_by_epoch_stand_where_the_log_says_that_their_epochs_ended() {
    let folder = tempfile::tempdir().unwrap();
    touch(
        folder.path(),
        &["model_epoch_1.pth", "model_epoch_2.pth", "epoch_3/model.safetensors", "model_epoch_4.pth"],
    );
    let steps = |history: &History| history.checkpoints.iter().map(|one| one.step).collect::<Vec<_>>();
    let says =
        |history: &History, text: &str| history.remarks.iter().any(|remark| remark.message.contains(text));

    let alone = read(folder.path());
    assert_eq!(steps(&alone), [1, 2, 3, 4]);
    assert!(says(&alone, "no log says at which step an epoch ended"));

    let rows: Vec<String> = (1..=30).map(|step| format!("{step},{},2.5", 1 + (step - 1) / 10)).collect();
    std::fs::write(folder.path().join("log.csv"), format!("step,epoch,loss\n{}\n", rows.join("\n"))).unwrap();
    let logged = read(folder.path());
    assert_eq!(steps(&logged), [10, 20, 30]);
    assert!(says(&logged, "the log ends before the epoch in its name"));
    let until = Options { until: Some(20), ..Options::default() };
    assert_eq!(steps(&History::read(folder.path(), &until, &Context::default()).unwrap()), [10, 20]);

    std::fs::write(folder.path().join("log.csv"), "step,loss\n1,2.5\n20,2.4\n40,2.3\n").unwrap();
    let even = read(folder.path());
    assert_eq!(steps(&even), [10, 20, 30, 40]);
    assert_eq!(steps(&History::read(folder.path(), &until, &Context::default()).unwrap()), [10, 20]);
    assert!(says(&even, "taken to be 10 steps, which divide those of the log evenly"));

    std::fs::write(folder.path().join("log.csv"), "step,loss\n1,2.5\n20,2.4\n41,2.3\n").unwrap();
    assert_eq!(steps(&read(folder.path())), [1, 2, 3, 4]);

    std::fs::write(folder.path().join("log.csv"), "epoch,loss\n1,2.5\n2,2.4\n3,2.3\n4,2.2\n").unwrap();
    let by_epoch = read(folder.path());
    assert_eq!(steps(&by_epoch), [1, 2, 3, 4]);
    assert!(!says(&by_epoch, "count epochs"));
}
