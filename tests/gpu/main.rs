//! The GPU without a GPU: the committed PTX runs in an interpreter, behind a driver that is none. Nothing here has seen a GPU;
//! `flashpoint devices --self-test` is for where there is one.

mod blocks;
mod command;
mod fake;
mod interpreter;
mod kernels;
mod mirror;
mod network;
#[expect(dead_code, unused_imports, reason = "the fake driver, which is built apart, uses all of it")]
mod ptx;
mod small;
