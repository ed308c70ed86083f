//! The text of a module to kernels: instructions with their registers and targets looked up.

use std::collections::HashMap;

use super::operations::{self, Function};

/// A module.
pub struct Module {
    /// Its kernels by name.
    pub kernels: HashMap<String, Kernel>,
}

/// A kernel, ready to run.
pub struct Kernel {
    pub name: String,
    /// Bytes of each parameter, in order.
    pub parameters: Vec<usize>,
    /// Where each parameter lies among the bytes of all.
    pub offsets: Vec<usize>,
    /// Most threads in a block.
    pub most_threads: u32,
    /// Bytes of shared memory.
    pub shared: usize,
    pub(super) registers: usize,
    pub(super) code: Vec<Instruction>,
}

pub(super) struct Instruction {
    /// The predicate register, and the value it must have.
    pub guard: Option<(usize, bool)>,
    pub operation: Operation,
    /// The line of the text, for messages.
    pub line: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Operand {
    Register(usize),
    Value(u64),
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Space {
    Global,
    ReadOnly,
    Shared,
}

pub(super) enum Operation {
    One(fn(u64) -> u64, usize, Operand),
    Two(fn(u64, u64) -> u64, usize, Operand, Operand),
    Three(fn(u64, u64, u64) -> u64, usize, Operand, Operand, Operand),
    Special(usize, Special),
    Parameter {
        to: usize,
        offset: usize,
        bytes: usize,
    },
    Load {
        space: Space,
        to: Vec<usize>,
        bytes: usize,
        signed: bool,
        at: Operand,
        offset: i64,
    },
    Store {
        space: Space,
        from: Vec<Operand>,
        bytes: usize,
        at: Operand,
        offset: i64,
    },
    AddShared {
        to: usize,
        at: Operand,
        offset: i64,
        value: Operand,
    },
    /// The wide register from its halves.
    Join(usize, Operand, Operand),
    /// Bits of the first put into the second, from this place on, so many.
    Insert {
        to: usize,
        bits: Operand,
        into: Operand,
        start: Operand,
        length: Operand,
    },
    /// The halves of a wide register; none where it is not wanted.
    Split(Option<usize>, Option<usize>, Operand),
    Shuffle {
        down: bool,
        to: usize,
        present: Option<usize>,
        value: Operand,
        source: Operand,
        clamp: Operand,
        mask: Operand,
    },
    Barrier,
    Branch(usize),
    Return,
}

#[derive(Clone, Copy)]
pub(super) enum Special {
    Thread(usize),
    Threads(usize),
    Block(usize),
    Blocks(usize),
}

/// Constant tables and shared variables live at these addresses of their own spaces.
struct Symbols {
    shared: HashMap<String, u64>,
    shared_bytes: u64,
}

impl Module {
    /// Reads a module.
    pub fn read(text: &str) -> Result<Self, String> {
        let clean: String =
            text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n");
        let mut kernels = HashMap::new();
        let mut module_shared = Symbols { shared: HashMap::new(), shared_bytes: 0 };
        let mut lines = clean.lines().enumerate().map(|(number, line)| (number + 1, line.trim())).peekable();
        while let Some((number, line)) = lines.next() {
            if line.is_empty()
                || [".version", ".target", ".address_size"].iter().any(|known| line.starts_with(known))
            {
                continue;
            }
            if line.starts_with(".shared") {
                module_shared.declare(line, number)?;
            } else if let Some(rest) = line.strip_prefix(".visible .entry ") {
                let name = rest.trim_end_matches('(').to_owned();
                let mut header = String::new();
                for (_, line) in lines.by_ref() {
                    if line == "{" {
                        break;
                    }
                    header.push_str(line);
                    header.push('\n');
                }
                let mut body = Vec::new();
                let mut depth = 1usize;
                for (number, line) in lines.by_ref() {
                    depth = depth + line.matches('{').count() - line.matches('}').count();
                    if depth == 0 {
                        break;
                    }
                    body.push((number, line));
                }
                let shared = Symbols {
                    shared: module_shared.shared.clone(),
                    shared_bytes: module_shared.shared_bytes,
                };
                let kernel = kernel(&name, &header, &body, shared)?;
                kernels.insert(name, kernel);
            } else {
                return Err(format!("line {number}: {line}"));
            }
        }
        Ok(Self { kernels })
    }
}

impl Symbols {
    /// `.shared .align 8 .b8 name[64];`
    fn declare(&mut self, line: &str, number: usize) -> Result<(), String> {
        let wrong = || format!("line {number}: {line}");
        let words: Vec<&str> = line.trim_end_matches(';').split_whitespace().collect();
        let [".shared", ".align", align, ".b8", name] = words[..] else { return Err(wrong()) };
        let (name, length) = name.trim_end_matches(']').split_once('[').ok_or_else(wrong)?;
        let align: u64 = align.parse().map_err(|_| wrong())?;
        let start = self.shared_bytes.next_multiple_of(align);
        self.shared.insert(name.to_owned(), start);
        self.shared_bytes = start + length.parse::<u64>().map_err(|_| wrong())?;
        Ok(())
    }
}

fn kernel(name: &str, header: &str, body: &[(usize, &str)], mut symbols: Symbols) -> Result<Kernel, String> {
    let (mut parameters, mut offsets, mut by_name) = (Vec::new(), Vec::new(), HashMap::new());
    let mut most_threads = 1024;
    let mut offset = 0usize;
    for line in header.lines() {
        let line = line.trim_end_matches([',', ')']);
        if let Some(rest) = line.strip_prefix(".param ") {
            let (kind, name) = rest.split_once(' ').ok_or("a parameter without a name")?;
            let bytes = operations::bytes_of(kind.trim_start_matches('.'))?;
            offset = offset.next_multiple_of(bytes);
            by_name.insert(name.trim().to_owned(), offset);
            parameters.push(bytes);
            offsets.push(offset);
            offset += bytes;
        } else if let Some(rest) = line.strip_prefix(".maxntid ") {
            let sizes =
                rest.split(',').map(|size| size.trim().parse::<u32>().map_err(|error| error.to_string()));
            most_threads = sizes.collect::<Result<Vec<_>, _>>()?.iter().product();
        } else if !line.is_empty() && !line.starts_with(".minnctapersm ") {
            return Err(format!("{name}: {line}"));
        }
    }
    // Labels first, so that branches forward are known.
    let (mut labels, mut count) = (HashMap::new(), 0);
    let mut statements = Vec::new();
    for (number, line) in body {
        let line = line.trim_matches(|c: char| c.is_whitespace());
        // Braces only bound the names of registers, which are written before they are read; a hint to the compiler changes nothing.
        if line.starts_with(".reg") || ["", "{", "}"].contains(&line) || line == ".pragma \"nounroll\";" {
            continue;
        }
        if line.starts_with(".shared") {
            symbols.declare(line, *number)?;
        } else if let Some(label) = line.strip_suffix(':') {
            labels.insert(label.to_owned(), count);
        } else {
            // Inline assembly is one instruction in braces.
            let is_block = line.starts_with('{') && line.ends_with('}');
            let line = if is_block { line.trim_matches(['{', '}']).trim() } else { line };
            for statement in
                line.split_terminator(';').map(str::trim).filter(|statement| !statement.is_empty())
            {
                statements.push((*number, statement.to_owned()));
                count += 1;
            }
        }
    }
    let mut reader =
        Reader { registers: HashMap::new(), parameters: &by_name, labels: &labels, shared: &symbols.shared };
    let mut code = Vec::with_capacity(statements.len());
    for (line, statement) in statements {
        let (guard, operation) = reader
            .instruction(&statement)
            .map_err(|error| format!("{name}, line {line}: {statement}: {error}"))?;
        code.push(Instruction { guard, operation, line });
    }
    let shared = symbols.shared_bytes as usize;
    Ok(Kernel {
        name: name.to_owned(),
        parameters,
        offsets,
        most_threads,
        shared,
        registers: reader.registers.len(),
        code,
    })
}

struct Reader<'r> {
    registers: HashMap<String, usize>,
    parameters: &'r HashMap<String, usize>,
    labels: &'r HashMap<String, usize>,
    shared: &'r HashMap<String, u64>,
}

type Read<T> = Result<T, String>;

impl Reader<'_> {
    fn instruction(&mut self, statement: &str) -> Read<(Option<(usize, bool)>, Operation)> {
        let (guard, statement) = match statement.strip_prefix('@') {
            Some(rest) => {
                let (predicate, rest) = rest.split_once(char::is_whitespace).ok_or("a guard alone")?;
                let wanted = !predicate.starts_with('!');
                (Some((self.register(predicate.trim_start_matches('!'))?, wanted)), rest.trim())
            }
            None => (None, statement),
        };
        let (opcode, rest) = statement.split_once(char::is_whitespace).unwrap_or((statement, ""));
        let operands = operands(rest);
        let parts: Vec<&str> = opcode.split('.').collect();
        Ok((guard, self.operation(opcode, &parts, &operands)?))
    }

    fn operation(&mut self, opcode: &str, parts: &[&str], operands: &[String]) -> Read<Operation> {
        match parts {
            ["ret"] => return Ok(Operation::Return),
            ["bar", "sync"] if operands == ["0"] => return Ok(Operation::Barrier),
            ["bra"] | ["bra", "uni"] => {
                return self
                    .labels
                    .get(&operands[0])
                    .map(|at| Operation::Branch(*at))
                    .ok_or_else(|| "no such label".to_owned());
            }
            ["ld", "param", kind] => {
                let name = operands[1].trim_matches(['[', ']']);
                let offset = *self.parameters.get(name).ok_or("no such parameter")?;
                return Ok(Operation::Parameter {
                    to: self.register(&operands[0])?,
                    offset,
                    bytes: operations::bytes_of(kind)?,
                });
            }
            ["ld", space, rest @ ..] => {
                let (space, rest) = match (*space, rest) {
                    ("global", ["nc", rest @ ..]) => (Space::ReadOnly, rest),
                    ("global", rest) => (Space::Global, rest),
                    ("shared", rest) => (Space::Shared, rest),
                    _ => return Err(format!("{opcode} is not known")),
                };
                let kind = Self::width(rest, operands[0].as_str())?;
                let (at, offset) = self.address(&operands[1])?;
                let to = list(&operands[0]).iter().map(|name| self.register(name)).collect::<Read<_>>()?;
                return Ok(Operation::Load {
                    space,
                    to,
                    bytes: operations::bytes_of(kind)?,
                    signed: kind.starts_with('s'),
                    at,
                    offset,
                });
            }
            ["st", space, rest @ ..] => {
                let space = match *space {
                    "global" => Space::Global,
                    "shared" => Space::Shared,
                    _ => return Err(format!("{opcode} is not known")),
                };
                let kind = Self::width(rest, operands[1].as_str())?;
                let (at, offset) = self.address(&operands[0])?;
                let from = list(&operands[1]).iter().map(|name| self.operand(name)).collect::<Read<_>>()?;
                return Ok(Operation::Store { space, from, bytes: operations::bytes_of(kind)?, at, offset });
            }
            ["atom", "shared", "add", "u32"] => {
                let (at, offset) = self.address(&operands[1])?;
                return Ok(Operation::AddShared {
                    to: self.register(&operands[0])?,
                    at,
                    offset,
                    value: self.operand(&operands[2])?,
                });
            }
            ["shfl", "sync", mode @ ("down" | "idx"), "b32"] => {
                let (to, present) = match operands[0].split_once('|') {
                    Some((to, present)) => (self.register(to)?, Some(self.register(present)?)),
                    None => (self.register(&operands[0])?, None),
                };
                let [value, source, clamp, mask] =
                    [1, 2, 3, 4].map(|index: usize| self.operand(&operands[index]));
                let down = *mode == "down";
                return Ok(Operation::Shuffle {
                    down,
                    to,
                    present,
                    value: value?,
                    source: source?,
                    clamp: clamp?,
                    mask: mask?,
                });
            }
            ["mov", "b64"] if operands[0].starts_with('{') => {
                let halves = list(&operands[0]);
                let mut half =
                    |name: &str| if name == "_" { Ok(None) } else { self.register(name).map(Some) };
                let (low, high) = (half(&halves[0])?, half(&halves[1])?);
                return Ok(Operation::Split(low, high, self.operand(&operands[1])?));
            }
            ["mov", "b64"] if operands[1].starts_with('{') => {
                let halves = list(&operands[1]);
                let to = self.register(&operands[0])?;
                return Ok(Operation::Join(to, self.operand(&halves[0])?, self.operand(&halves[1])?));
            }
            ["bfi", "b64"] => {
                let to = self.register(&operands[0])?;
                let [bits, into, start, length] =
                    [1, 2, 3, 4].map(|index: usize| self.operand(&operands[index]));
                return Ok(Operation::Insert {
                    to,
                    bits: bits?,
                    into: into?,
                    start: start?,
                    length: length?,
                });
            }
            ["mov", ..] if operands[1].starts_with('%') && special(&operands[1]).is_some() => {
                let special = special(&operands[1]).expect("just asked");
                return Ok(Operation::Special(self.register(&operands[0])?, special));
            }
            _ => {}
        }
        let Some((to, inputs)) = operands.split_first() else { return Err(format!("{opcode} is not known")) };
        let to = self.register(to)?;
        let inputs = inputs.iter().map(|name| self.operand(name)).collect::<Read<Vec<_>>>()?;
        let function = operations::function(parts).ok_or_else(|| format!("{opcode} is not known"))?;
        match (function, &inputs[..]) {
            (Function::One(function), [a]) => Ok(Operation::One(function, to, *a)),
            (Function::Two(function), [a, b]) => Ok(Operation::Two(function, to, *a, *b)),
            (Function::Three(function), [a, b, c]) => Ok(Operation::Three(function, to, *a, *b, *c)),
            _ => Err(format!("{} operands", inputs.len())),
        }
    }

    /// The type at the end of `ld` and `st`, whose vector width must be that of the operand.
    fn width<'k>(rest: &[&'k str], operand: &str) -> Read<&'k str> {
        let count = list(operand).len();
        match rest {
            [kind] if count == 1 => Ok(kind),
            ["v2", kind] if count == 2 => Ok(kind),
            ["v4", kind] if count == 4 => Ok(kind),
            _ => Err("a width that is not known".to_owned()),
        }
    }

    fn register(&mut self, name: &str) -> Read<usize> {
        if !name.starts_with('%') || special(name).is_some() {
            return Err(format!("{name} is no register"));
        }
        let next = self.registers.len();
        Ok(*self.registers.entry(name.to_owned()).or_insert(next))
    }

    fn operand(&mut self, name: &str) -> Read<Operand> {
        if name.starts_with('%') {
            return self.register(name).map(Operand::Register);
        }
        if let Some(bits) = name.strip_prefix("0f") {
            return u64::from_str_radix(bits, 16).map(Operand::Value).map_err(|error| error.to_string());
        }
        if let Some(bits) = name.strip_prefix("0d") {
            return u64::from_str_radix(bits, 16).map(Operand::Value).map_err(|error| error.to_string());
        }
        if let Some(address) = self.shared.get(name) {
            return Ok(Operand::Value(*address));
        }
        let number = name.parse::<i64>().map(i64::cast_unsigned).or_else(|_| name.parse::<u64>());
        number.map(Operand::Value).map_err(|_| format!("{name} is no number"))
    }

    /// `[%rd1+8]`, `[name+8]`.
    fn address(&mut self, text: &str) -> Read<(Operand, i64)> {
        let inside = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .ok_or("an address without brackets")?;
        let (base, offset) = inside.split_once('+').unwrap_or((inside, "0"));
        Ok((self.operand(base.trim())?, offset.trim().parse().map_err(|_| format!("{offset} is no offset"))?))
    }
}

/// Operands, with those in braces as one.
fn operands(text: &str) -> Vec<String> {
    let (mut found, mut depth, mut own) = (Vec::new(), 0, String::new());
    for character in text.chars() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if character == ',' && depth == 0 {
            found.push(own.trim().to_owned());
            own.clear();
        } else {
            own.push(character);
        }
    }
    if !own.trim().is_empty() {
        found.push(own.trim().to_owned());
    }
    found
}

/// `{a, b}` or `a`.
fn list(text: &str) -> Vec<String> {
    text.trim_matches(['{', '}']).split(',').map(|name| name.trim().to_owned()).collect()
}

fn special(name: &str) -> Option<Special> {
    let (base, axis) = name.rsplit_once('.')?;
    let axis = ["x", "y", "z"].iter().position(|known| *known == axis)?;
    match base {
        "%tid" => Some(Special::Thread(axis)),
        "%ntid" => Some(Special::Threads(axis)),
        "%ctaid" => Some(Special::Block(axis)),
        "%nctaid" => Some(Special::Blocks(axis)),
        _ => None,
    }
}
