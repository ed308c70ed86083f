//! Runs a kernel: blocks one after the other, their warps up to a barrier, lanes of a warp in step, those furthest behind first.

use std::collections::BTreeSet;

use super::parse::{Instruction, Kernel, Operand, Operation, Space, Special};

/// Global memory: what a kernel is given pointers to.
pub trait Memory {
    /// The allocation that holds all of these bytes, and a copy of them in the low bytes.
    fn load(&mut self, address: u64, bytes: usize) -> Result<(u64, u64), String>;

    /// Writes the low bytes of `value`, and says in which allocation.
    fn store(&mut self, address: u64, bytes: usize, value: u64) -> Result<u64, String>;
}

/// A launch: blocks, and threads of each.
#[derive(Clone, Copy)]
pub struct Grid {
    pub blocks: [u32; 3],
    pub threads: [u32; 3],
}

/// In which order warps of a block run, and blocks.
#[derive(Clone, Copy, PartialEq)]
pub enum Order {
    FirstToLast,
    LastToFirst,
}

/// Instructions of one warp before it is taken to be endless.
const MOST_STEPS: u64 = 1 << 32;

const WARP: usize = 32;

/// Runs `kernel` with the bytes of its parameters.
pub fn launch(
    kernel: &Kernel,
    grid: Grid,
    parameters: &[u8],
    memory: &mut dyn Memory,
    order: Order,
) -> Result<(), String> {
    let threads: u32 = grid.threads.iter().product();
    if threads == 0 || threads > kernel.most_threads || grid.blocks.contains(&0) {
        return Err(format!(
            "{}: {threads} threads in a block, at most {}; {:?} blocks",
            kernel.name, kernel.most_threads, grid.blocks
        ));
    }
    if grid.blocks[0] > 0x7fff_ffff || grid.blocks[1] > 65535 || grid.blocks[2] > 65535 {
        return Err(format!("{}: {:?} blocks are more than the hardware takes", kernel.name, grid.blocks));
    }
    let mut run =
        Run { kernel, grid, parameters, memory, read_only: BTreeSet::new(), written: BTreeSet::new() };
    let count = grid.blocks.iter().map(|size| u64::from(*size)).product::<u64>();
    for index in 0..count {
        let index = if order == Order::FirstToLast { index } else { count - 1 - index };
        let [x, y, _] = grid.blocks.map(u64::from);
        let block = [(index % x) as u32, (index / x % y) as u32, (index / x / y) as u32];
        run.block(block, threads as usize, order)?;
    }
    match run.read_only.intersection(&run.written).next() {
        Some(allocation) => {
            Err(format!("{}: writes to allocation {allocation:#x}, which it reads as read-only", kernel.name))
        }
        None => Ok(()),
    }
}

struct Run<'r> {
    kernel: &'r Kernel,
    grid: Grid,
    parameters: &'r [u8],
    memory: &'r mut dyn Memory,
    read_only: BTreeSet<u64>,
    written: BTreeSet<u64>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Running,
    Waiting,
    Done,
}

struct Warp {
    /// Registers of lane 0, then of lane 1, ….
    registers: Vec<u64>,
    counters: [usize; WARP],
    states: [State; WARP],
    first: usize,
}

impl Run<'_> {
    fn block(&mut self, block: [u32; 3], threads: usize, order: Order) -> Result<(), String> {
        let mut shared = vec![0xa5u8; self.kernel.shared];
        let mut warps: Vec<Warp> = (0..threads)
            .step_by(WARP)
            .map(|first| Warp {
                registers: vec![0xdead_beef_dead_beef; self.kernel.registers * WARP],
                counters: [0; WARP],
                states: std::array::from_fn(|lane| {
                    if first + lane < threads { State::Running } else { State::Done }
                }),
                first,
            })
            .collect();
        if order == Order::LastToFirst {
            warps.reverse();
        }
        loop {
            for warp in &mut warps {
                self.warp(warp, block, &mut shared)?;
            }
            let states = || {
                warps.iter().flat_map(|warp| {
                    warp.states.iter().enumerate().filter(|(lane, _)| warp.first + lane < threads)
                })
            };
            let waiting = states().filter(|(_, state)| **state == State::Waiting).count();
            if waiting == 0 {
                return Ok(());
            }
            if waiting < threads {
                return Err(format!(
                    "{}: {waiting} of {threads} threads wait at a barrier, the others have ended",
                    self.kernel.name
                ));
            }
            let mut places = warps.iter().flat_map(|warp| {
                warp.counters.iter().enumerate().filter(|(lane, _)| warp.first + lane < threads)
            });
            let first = *places.next().expect("a block has threads").1;
            if places.any(|(_, counter)| *counter != first) {
                return Err(format!("{}: threads of a block wait at different barriers", self.kernel.name));
            }
            for warp in &mut warps {
                for (state, counter) in warp.states.iter_mut().zip(&mut warp.counters) {
                    if *state == State::Waiting {
                        *state = State::Running;
                        *counter += 1;
                    }
                }
            }
        }
    }

    /// Runs a warp until all its lanes have ended or wait.
    fn warp(&mut self, warp: &mut Warp, block: [u32; 3], shared: &mut [u8]) -> Result<(), String> {
        let kernel = self.kernel;
        for _ in 0..MOST_STEPS {
            let running = (0..WARP).filter(|lane| warp.states[*lane] == State::Running);
            let Some(counter) = running.map(|lane| warp.counters[lane]).min() else { return Ok(()) };
            let instruction =
                kernel.code.get(counter).ok_or_else(|| format!("{}: runs off its end", kernel.name))?;
            let mut lanes = 0u32;
            for lane in 0..WARP {
                if warp.states[lane] == State::Running && warp.counters[lane] == counter {
                    let taken = instruction.guard.is_none_or(|(register, wanted)| {
                        (warp.registers[lane * kernel.registers + register] != 0) == wanted
                    });
                    if taken {
                        lanes |= 1 << lane;
                    } else {
                        warp.counters[lane] += 1;
                    }
                }
            }
            if lanes != 0 {
                self.step(warp, instruction, lanes, block, shared).map_err(|error| {
                    format!("{}, line {}, block {block:?}: {error}", kernel.name, instruction.line)
                })?;
            }
        }
        Err(format!("{}: does not end", kernel.name))
    }

    fn step(
        &mut self,
        warp: &mut Warp,
        instruction: &Instruction,
        lanes: u32,
        block: [u32; 3],
        shared: &mut [u8],
    ) -> Result<(), String> {
        let width = self.kernel.registers;
        if let Operation::Shuffle { down, to, present, value, source, clamp, mask } = &instruction.operation {
            return shuffle(warp, width, lanes, *down, (*to, *present), [*value, *source, *clamp, *mask]);
        }
        for lane in (0..WARP).filter(|lane| lanes & (1 << lane) != 0) {
            let registers = &mut warp.registers[lane * width..(lane + 1) * width];
            let read = |operand: Operand, registers: &[u64]| match operand {
                Operand::Register(register) => registers[register],
                Operand::Value(value) => value,
            };
            match &instruction.operation {
                Operation::One(function, to, a) => registers[*to] = function(read(*a, registers)),
                Operation::Two(function, to, a, b) => {
                    registers[*to] = function(read(*a, registers), read(*b, registers));
                }
                Operation::Three(function, to, a, b, c) => {
                    registers[*to] = function(read(*a, registers), read(*b, registers), read(*c, registers));
                }
                Operation::Special(to, special) => {
                    registers[*to] = u64::from(self.special(*special, block, warp.first + lane));
                }
                Operation::Parameter { to, offset, bytes } => {
                    let mut word = [0; 8];
                    word[..*bytes].copy_from_slice(&self.parameters[*offset..offset + bytes]);
                    registers[*to] = u64::from_le_bytes(word);
                }
                Operation::Load { space, to, bytes, signed, at, offset } => {
                    let address = read(*at, registers).wrapping_add_signed(*offset);
                    aligned(address, bytes * to.len())?;
                    for (index, to) in to.iter().enumerate() {
                        let address = address + (index * bytes) as u64;
                        let value = if *space == Space::Shared {
                            load_shared(shared, address, *bytes)?
                        } else {
                            let (allocation, value) = self.memory.load(address, *bytes)?;
                            if *space == Space::ReadOnly {
                                self.read_only.insert(allocation);
                            }
                            value
                        };
                        let shift = 64 - 8 * *bytes as u32;
                        registers[*to] = if *signed {
                            ((value << shift).cast_signed() >> shift).cast_unsigned()
                        } else {
                            value
                        };
                    }
                }
                Operation::Store { space, from, bytes, at, offset } => {
                    let address = read(*at, registers).wrapping_add_signed(*offset);
                    aligned(address, bytes * from.len())?;
                    for (index, from) in from.iter().enumerate() {
                        let (address, value) = (address + (index * bytes) as u64, read(*from, registers));
                        if *space == Space::Shared {
                            store_shared(shared, address, *bytes, value)?;
                        } else {
                            self.written.insert(self.memory.store(address, *bytes, value)?);
                        }
                    }
                }
                Operation::AddShared { to, at, offset, value } => {
                    let address = read(*at, registers).wrapping_add_signed(*offset);
                    aligned(address, 4)?;
                    let before = load_shared(shared, address, 4)?;
                    let after = (before as u32).wrapping_add(read(*value, registers) as u32);
                    store_shared(shared, address, 4, u64::from(after))?;
                    registers[*to] = before;
                }
                Operation::Join(to, low, high) => {
                    registers[*to] = (read(*high, registers) << 32) | (read(*low, registers) & 0xffff_ffff);
                }
                Operation::Insert { to, bits, into, start, length } => {
                    let [bits, into, start, length] =
                        [*bits, *into, *start, *length].map(|operand| read(operand, registers));
                    if start + length > 64 || length == 0 || length == 64 {
                        return Err(format!("bits {start} to {} of 64", start + length));
                    }
                    let mask = ((1u64 << length) - 1) << start;
                    registers[*to] = into & !mask | bits << start & mask;
                }
                Operation::Split(low, high, from) => {
                    let value = read(*from, registers);
                    if let Some(low) = low {
                        registers[*low] = value & 0xffff_ffff;
                    }
                    if let Some(high) = high {
                        registers[*high] = value >> 32;
                    }
                }
                Operation::Barrier => {
                    warp.states[lane] = State::Waiting;
                    continue;
                }
                Operation::Branch(target) => {
                    warp.counters[lane] = *target;
                    continue;
                }
                Operation::Return => {
                    warp.states[lane] = State::Done;
                    continue;
                }
                Operation::Shuffle { .. } => unreachable!("shuffles are of whole warps"),
            }
            warp.counters[lane] += 1;
        }
        Ok(())
    }

    fn special(&self, special: Special, block: [u32; 3], thread: usize) -> u32 {
        let [x, y, _] = self.grid.threads.map(|size| size as usize);
        match special {
            Special::Thread(axis) => [thread % x, thread / x % y, thread / x / y][axis] as u32,
            Special::Threads(axis) => self.grid.threads[axis],
            Special::Block(axis) => block[axis],
            Special::Blocks(axis) => self.grid.blocks[axis],
        }
    }
}

/// `shfl.sync.down` and `.idx`: every lane of the mask must be here, and nothing is read from a lane that is not.
fn shuffle(
    warp: &mut Warp,
    width: usize,
    lanes: u32,
    down: bool,
    to: (usize, Option<usize>),
    operands: [Operand; 4],
) -> Result<(), String> {
    let before: Vec<[u64; 4]> = (0..WARP)
        .map(|lane| {
            operands.map(|operand| match operand {
                Operand::Register(register) => warp.registers[lane * width + register],
                Operand::Value(value) => value,
            })
        })
        .collect();
    for lane in (0..WARP).filter(|lane| lanes & (1 << lane) != 0) {
        let [value, source, clamp, mask] = before[lane];
        if mask as u32 != lanes {
            return Err(format!("a shuffle of lanes {:#x} is met by {lanes:#x}", mask as u32));
        }
        if clamp != 31 {
            return Err(format!("a shuffle within segments ({clamp:#x}) is not known"));
        }
        let source = if down { lane + source as usize } else { source as usize };
        let is_present = source < WARP && lanes & (1 << source) != 0;
        warp.registers[lane * width + to.0] =
            if is_present { before[source][0] & 0xffff_ffff } else { value & 0xffff_ffff };
        if let Some(present) = to.1 {
            warp.registers[lane * width + present] = u64::from(is_present);
        }
        warp.counters[lane] += 1;
    }
    Ok(())
}

fn aligned(address: u64, bytes: usize) -> Result<(), String> {
    if address.is_multiple_of(bytes as u64) {
        Ok(())
    } else {
        Err(format!("address {address:#x} is not aligned to {bytes} bytes"))
    }
}

fn load_shared(shared: &[u8], address: u64, bytes: usize) -> Result<u64, String> {
    let start = address as usize;
    let from = shared
        .get(start..start + bytes)
        .ok_or_else(|| format!("shared memory has {} bytes, read at {start}", shared.len()))?;
    let mut word = [0; 8];
    word[..bytes].copy_from_slice(from);
    Ok(u64::from_le_bytes(word))
}

fn store_shared(shared: &mut [u8], address: u64, bytes: usize, value: u64) -> Result<(), String> {
    let (start, length) = (address as usize, shared.len());
    let to = shared
        .get_mut(start..start + bytes)
        .ok_or_else(|| format!("shared memory has {length} bytes, written at {start}"))?;
    to.copy_from_slice(&value.to_le_bytes()[..bytes]);
    Ok(())
}
