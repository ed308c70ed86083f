//! The interpreter itself: what it must refuse.

use std::collections::BTreeMap;

use crate::ptx::{Grid, Memory, Module, Order, launch};

/// Allocations by address.
#[derive(Default)]
struct Host(BTreeMap<u64, Vec<u8>>);

impl Host {
    fn find(&self, address: u64, bytes: usize) -> Result<(u64, usize), String> {
        let (start, memory) = self.0.range(..=address).next_back().ok_or("no allocation")?;
        let offset = (address - start) as usize;
        if offset + bytes > memory.len() {
            Err(format!("out of bounds at {offset}"))
        } else {
            Ok((*start, offset))
        }
    }
}

impl Memory for Host {
    fn load(&mut self, address: u64, bytes: usize) -> Result<(u64, u64), String> {
        let (start, offset) = self.find(address, bytes)?;
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(&self.0[&start][offset..offset + bytes]);
        Ok((start, u64::from_le_bytes(word)))
    }

    fn store(&mut self, address: u64, bytes: usize, value: u64) -> Result<u64, String> {
        let (start, offset) = self.find(address, bytes)?;
        self.0.get_mut(&start).expect("just found")[offset..offset + bytes]
            .copy_from_slice(&value.to_le_bytes()[..bytes]);
        Ok(start)
    }
}

/// Runs a body of a kernel with one pointer to 256 bytes on one block of 64 threads.
fn run(body: &str) -> Result<Vec<u8>, String> {
    let text = format!(
        ".version 6.3\n.target sm_75\n.address_size 64\n.visible .entry k(\n.param .u64 k_param_0\n)\n.maxntid 64, 1, 1\n{{\n.shared .align 4 .b8 room[16];\n{body}\nret;\n}}\n"
    );
    let module = Module::read(&text)?;
    let mut host = Host::default();
    host.0.insert(0x1000, vec![0; 256]);
    let grid = Grid { blocks: [1, 1, 1], threads: [64, 1, 1] };
    launch(&module.kernels["k"], grid, &0x1000u64.to_le_bytes(), &mut host, Order::FirstToLast)?;
    Ok(host.0[&0x1000].clone())
}

/// Where thread t has its word: %rd3; t in %r1.
const OWN: &str = "ld.param.u64 %rd1, [k_param_0];\nmov.u32 %r1, %tid.x;\nmul.wide.u32 %rd2, %r1, 4;\nadd.s64 %rd3, %rd1, %rd2;\n";

#[test]
fn threads_write_where_they_are_told_to() {
    let bytes = run(&format!("{OWN}st.global.u32 [%rd3], %r1;")).unwrap();
    let words: Vec<u32> = bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    assert_eq!(words, (0..64).collect::<Vec<_>>());
}

#[test]
fn what_a_gpu_does_not_tell_is_an_error() {
    for (body, expected) in [
        ("st.global.u32 [%rd3+4], %r1;", "out of bounds"),
        ("st.global.u32 [%rd3+2], %r1;", "not aligned"),
        ("ld.shared.u32 %r2, [%rd2];", "shared memory has 16 bytes"),
        ("ld.global.nc.u32 %r2, [%rd3];\nst.global.u32 [%rd3], %r2;", "read-only"),
        ("frobnicate.u32 %r2, %r1;", "frobnicate.u32 is not known"),
        ("ex2.approx.f32 %f1, %f2;", "ex2.approx.f32 is not known"),
        (
            "setp.lt.u32 %p1, %r1, 40;\n@%p1 bra L;\nbar.sync 0;\nL:",
            "wait at a barrier, the others have ended",
        ),
        (
            "setp.lt.u32 %p1, %r1, 40;\n@%p1 bra L;\nbar.sync 0;\nbra M;\nL:\nbar.sync 0;\nM:",
            "different barriers",
        ),
        (
            "setp.lt.u32 %p1, %r1, 8;\n@%p1 bra L;\nshfl.sync.down.b32 %r2|%p2, %r1, 1, 31, -1;\nL:",
            "a shuffle of lanes 0xffffffff is met by",
        ),
    ] {
        let error = run(&format!("{OWN}{body}")).expect_err(body);
        assert!(error.contains(expected), "{body}: {error}");
    }
}

#[test]
fn more_threads_than_the_kernel_is_compiled_for_are_refused() {
    let text = ".visible .entry k(\n.param .u64 k_param_0\n)\n.maxntid 32, 1, 1\n{\nret;\n}\n";
    let module = Module::read(text).unwrap();
    let grid = Grid { blocks: [1, 1, 1], threads: [64, 1, 1] };
    let error =
        launch(&module.kernels["k"], grid, &[0; 8], &mut Host::default(), Order::FirstToLast).unwrap_err();
    assert!(error.contains("64 threads"), "{error}");
}
